package main

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// asTidewire makes the test binary the program itself, for what only a process can show: signals, standard input, a shell.
const asTidewire = "TIDEWIRE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asTidewire) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// said is what a call of the program came to.
type said struct {
	code     int
	out, err string
}

func call(t *testing.T, stdin string, args ...string) said {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(stdin), &stdout, &stderr)
	return said{code, stdout.String(), stderr.String()}
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMistakesInTheCallAreSentences(t *testing.T) {
	t.Parallel()
	secret, spaced := file(t, "secret.txt", "whsec_not_to_be_seen\n"), file(t, "spaced.txt", "whsec_not_to_be_seen \n")
	other := file(t, "other.yaml", archive(t.TempDir(), "127.0.0.1:0"))
	for _, c := range []struct {
		args string
		want string
	}{
		{"sreve", `'tidewire' has no command "sreve"; did you mean serve? (see 'tidewire --help')`},
		{"wibble", `'tidewire' has no command "wibble" (see 'tidewire --help')`},
		{"config schem", `'tidewire config' has no command "schem"; did you mean schema? (see 'tidewire config --help')`},
		{"completion pash", `'tidewire completion' has no command "pash"; did you mean bash or fish or zsh?`},
		{"completion bash x", `'tidewire completion bash' takes no arguments, and got "x"`},
		{"help srve", `'tidewire' has no command "srve"; did you mean serve?`},
		{"serve tidewire.yaml", `'tidewire serve' takes no arguments, and got "tidewire.yaml"; a config is named with --config tidewire.yaml (see 'tidewire serve --help')`},
		{"verify request.http", `the request is read from standard input: < request.http`},
		{"version now", `'tidewire version' takes no arguments, and got "now"`},
		{"serve --confg x", `unknown flag: --confg; did you mean --config? (see 'tidewire serve --help')`},
		{"serve --wibble", `unknown flag: --wibble (see 'tidewire serve --help')`},
		{"serve -x", `unknown shorthand flag: 'x' in -x (see 'tidewire serve --help')`},
		{"serve --config", `flag needs an argument: --config (see 'tidewire serve --help')`},
		{"serve", `there is no tidewire.yaml here; name a config with --config, or see one work with 'tidewire quickstart'`},
		{"validate", `there is no tidewire.yaml here`},
		{"validate -c /nowhere.yaml", `/nowhere.yaml: the file cannot be read: no such file or directory`},
		{"serve -c /nowhere.yaml", `/nowhere.yaml: the file cannot be read: no such file or directory`},
		{"quickstart -c /nowhere.yaml", `/nowhere.yaml: the file cannot be read: no such file or directory`},
		{"quickstart -c " + other, `is not a quickstart config: it has no connections stripe and backoffice`},
		{"verify", `--scheme is missing; 'tidewire verify --help' lists the schemes and shows an example`},
		{"verify --scheme stripe", `scheme stripe needs a secret`},
		{"verify --scheme stripe", `(here: --secret-file, --public-key-file or --certificate-file)`},
		{"verify --scheme strip --secret-file " + secret, `there is no scheme "strip"; did you mean "stripe"?`},
		{"verify --scheme stripe --secret-file /nowhere", `--secret-file: open /nowhere: no such file or directory`},
		{"verify --scheme stripe --secret-file " + secret, `standard input holds no HTTP request: a request line, headers, an empty line and the body are expected`},
		{"verify --scheme stripe --secret-file " + spaced, `the secret begins or ends with white space; remove the spaces or line ends around it`},
		{"verify --scheme stripe --at yesterday --secret-file " + secret, `standard input holds no HTTP request`},
		{"verify --scheme stripe --tolerance 5 --secret-file " + secret, `invalid argument "5" for "--tolerance" flag`},
	} {
		got := call(t, "", strings.Fields(c.args)...)
		if got.code != exitUsage || got.out != "" || !strings.Contains(got.err, c.want) {
			t.Errorf("tidewire %s: exit %d, output %q, error\n%s\nwant %s", c.args, got.code, got.out, got.err, c.want)
		}
		if !strings.HasPrefix(got.err, "tidewire: ") || !strings.HasSuffix(got.err, "\n") || strings.HasSuffix(got.err, "\n\n") {
			t.Errorf("tidewire %s: not a line of its own: %q", c.args, got.err)
		}
		if strings.Contains(got.err, "whsec_not_to_be_seen") {
			t.Errorf("tidewire %s: shows the secret", c.args)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	root := call(t, "")
	if root.code != exitOK || root.err != "" || !strings.Contains(root.out, "tidewire quickstart") || !strings.Contains(root.out, "Exit codes:") {
		t.Errorf("without arguments: exit %d\n%s%s", root.code, root.out, root.err)
	}
	for _, args := range []string{"serve", "validate", "verify", "config", "config schema", "quickstart", "migrate", "migrate to-cluster", "bench", "version", "completion", "completion bash"} {
		got := call(t, "", append(strings.Fields(args), "--help")...)
		if got.code != exitOK || got.err != "" || !strings.Contains(got.out, "Usage:\n  tidewire "+strings.Fields(args)[0]) {
			t.Errorf("%s --help: exit %d\n%s%s", args, got.code, got.out, got.err)
		}
		if again := call(t, "", append([]string{"help"}, strings.Fields(args)...)...); again != got {
			t.Errorf("help %s is another text than %s --help:\n%s%s", args, args, again.out, again.err)
		}
		if strings.HasPrefix(args, "completion ") {
			continue // cobra's own words
		}
		for line := range strings.Lines(got.out) {
			if len(line) > 122 && !strings.Contains(line, "printf") {
				t.Errorf("%s --help has a line of %d characters: %s", args, len(line), line)
			}
		}
	}
	for _, name := range []string{"serve", "validate", "verify", "config", "quickstart", "migrate", "bench", "version", "completion"} {
		if !strings.Contains(root.out, "\n  "+name+" ") {
			t.Errorf("the help does not list %s", name)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	want := call(t, "", "version")
	if want.code != exitOK || !strings.HasPrefix(want.out, "tidewire "+version+" go1.") || strings.Count(want.out, "\n") != 1 {
		t.Errorf("exit %d: %q", want.code, want.out)
	}
	if got := call(t, "", "--version"); got != want {
		t.Errorf("--version says %q, version says %q", got.out, want.out)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := call(t, "", "completion", shell); got.code != exitOK || !strings.Contains(got.out, "tidewire") || got.err != "" {
			t.Errorf("%s: exit %d, %d bytes, %q", shell, got.code, len(got.out), got.err)
		}
	}
	if got := call(t, "", "__complete", "va"); got.code != exitOK || !strings.HasPrefix(got.out, "validate\t") {
		t.Errorf("va is completed to %q", got.out)
	}
}
