package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/config"
)

const flawed = `
connections:
  shop:
    connector: http
    webhook: {verify: {scheme: shopifi, secret: not_to_be_seen}}
  archive: {connector: file, path: events.jsonl, rotat_size: 1MiB}
routes:
  one: {from: shop, when: type ==, to: archive}
  two: {from: nowhere, to: archive}
`

func TestValidate(t *testing.T) {
	t.Parallel()
	good := file(t, "good.yaml", archive(t.TempDir(), "127.0.0.1:0"))
	bad := file(t, "bad.yaml", flawed)

	got := call(t, "", "validate", "-c", good)
	if got.code != exitOK || got.err != "" || !strings.HasSuffix(got.out, good+" is valid: 3 connections, 1 route\n") ||
		!strings.HasPrefix(got.out, "warning: "+good+":") || !strings.Contains(got.out, "anybody who knows the address") {
		t.Errorf("good: exit %d\n%s%s", got.code, got.out, got.err)
	}
	got = call(t, "", "validate", "-c", good, "--quiet")
	if (got != said{code: exitOK}) {
		t.Errorf("good, quietly: %+v", got)
	}
	got = call(t, "", "validate", "-c", bad)
	if got.code != exitUsage || got.out != "" {
		t.Errorf("bad: exit %d\n%s", got.code, got.out)
	}
	for _, want := range []string{`did you mean "shopify"?`, "rotat_size", "rotate_size", "routes.one.when", "nowhere", bad + ":5:", "4 problems"} {
		if !strings.Contains(got.err, want) {
			t.Errorf("bad: no %s in\n%s", want, got.err)
		}
	}
	if strings.Contains(got.err, "not_to_be_seen") {
		t.Errorf("bad: the secret is shown:\n%s", got.err)
	}
	if quiet := call(t, "", "validate", "-q", "-c", bad); quiet != got {
		t.Errorf("bad, quietly:\n%+v", quiet)
	}
}

func TestValidateAsJSON(t *testing.T) {
	t.Parallel()
	read := func(text string) (v validation) {
		t.Helper()
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil || d.More() {
			t.Errorf("%v in %s", err, text)
		}
		for _, list := range []string{`"problems": null`, `"warnings": null`} {
			if strings.Contains(text, list) {
				t.Errorf("%s in %s", list, text)
			}
		}
		return v
	}
	good, bad := file(t, "good.yaml", archive(t.TempDir(), "127.0.0.1:0")), file(t, "bad.yaml", flawed)
	got := call(t, "", "validate", "--json", "-c", good)
	v := read(got.out)
	if got.code != exitOK || got.err != "" || !v.Valid || len(v.Problems) > 0 || len(v.Warnings) != 2 || v.Connections != 3 || v.Routes != 1 {
		t.Errorf("good: %+v\n%s", v, got.err)
	}
	got = call(t, "", "validate", "--json", "-c", bad)
	v = read(got.out)
	if got.code != exitUsage || got.err != "" || v.Valid || len(v.Problems) != 4 {
		t.Errorf("bad: exit %d %+v\n%s", got.code, v, got.err)
	}
	for _, p := range v.Problems {
		if p.File != bad || p.Line == 0 || p.Path == "" || p.Message == "" || strings.Contains(p.Source, "not_to_be_seen") {
			t.Errorf("bad: %+v", p)
		}
	}
	got = call(t, "", "validate", "--json", "-c", "/nowhere.yaml")
	if v := read(got.out); got.code != exitUsage || v.Valid || len(v.Problems) != 1 {
		t.Errorf("no file: exit %d %+v", got.code, v)
	}
}

// TestValidateReadsStandardInput needs a process: the config's reader has the process's own standard input.
func TestValidateReadsStandardInput(t *testing.T) {
	t.Parallel()
	tidewire := program(t, t.TempDir())
	for text, want := range map[string]struct {
		code int
		text string
	}{
		archive(t.TempDir(), "127.0.0.1:0"): {exitOK, "standard input is valid: 3 connections, 1 route\n"},
		flawed:                              {exitUsage, "standard input:5:"},
		"":                                  {exitUsage, "standard input: the file is empty"},
	} {
		cmd := exec.CommandContext(t.Context(), tidewire, "validate", "-c", "-")
		cmd.Stdin = strings.NewReader(text)
		out, _ := cmd.CombinedOutput() // its exit code says it
		if code := cmd.ProcessState.ExitCode(); code != want.code || !strings.Contains(string(out), want.text) {
			t.Errorf("exit %d\n%s", code, out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	if code := exitCode(config.Problems{{Message: "wrong"}}); code != exitUsage {
		t.Errorf("problems: %d", code)
	}
	if code := exitCode(errSaid); code != exitFailed {
		t.Errorf("any other: %d", code)
	}
}
