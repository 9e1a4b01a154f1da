package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

const (
	captured       = `{"id": "evt_1", "note": "20 € for tea/coffee"}`
	stripeSecret   = "whsec_of_the_stripe_account"
	standardSecret = "whsec_b25seSBmb3IgdGhlIHRlc3RzIG9mIHZlcmlmeQ=="
)

var capturedAt = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// request is a captured request, signed by a scheme, with one kind of line end in its head.
func request(t *testing.T, scheme, secret, lineEnd string) string {
	t.Helper()
	signer, err := signature.NewSigner(signature.Signing{Scheme: scheme, Secret: config.NewSecret(secret)})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(signature.SignRequest{ID: "msg_1", At: capturedAt, Method: "POST", URL: "/in/shop", Body: []byte(captured)})
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"POST /in/shop HTTP/1.1", "Host: hub.example", "Content-Type: application/json"}
	for name := range signed {
		lines = append(lines, name+": "+signed.Get(name))
	}
	return strings.Join(lines, lineEnd) + lineEnd + lineEnd + captured
}

func TestVerify(t *testing.T) {
	t.Parallel()
	for scheme, c := range map[string]struct{ secret, header string }{
		"stripe":            {stripeSecret, "Stripe-Signature"},
		"standard-webhooks": {standardSecret, "Webhook-Signature"},
	} {
		for ends, lineEnd := range map[string]string{"LF": "\n", "CRLF": "\r\n"} {
			good := request(t, scheme, c.secret, lineEnd)
			for name, try := range map[string]struct {
				request, secret, at string
				code                int
				want                []string
			}{
				"as it came":       {good, c.secret, "2026-01-01T00:00:00Z", exitOK, []string{"accepted by scheme " + scheme, "ok   comparison"}},
				"secret with line": {good, c.secret + "\n", "1767225600", exitOK, []string{"accepted"}},
				"wrong secret":     {good, wrong(c.secret), "1767225600", exitFailed, []string{"FAIL comparison", "(mismatch)", "hint: nothing that usually goes wrong explains it"}},
				"altered body":     {strings.Replace(good, "evt_1", "evt_2", 1), c.secret, "1767225600", exitFailed, []string{"(mismatch)"}},
				"line end after the body": {good + "\n", c.secret, "1767225600", exitFailed,
					[]string{"(mismatch)", "hint: it fits", "line end"}},
				"body written again": {strings.Replace(good, `": "`, `":"`, 1), c.secret, "1767225600", exitFailed, []string{"(mismatch)", "hint:"}},
				"no signature":       {without(good, c.header), c.secret, "1767225600", exitFailed, []string{"FAIL signature: no header", "(missing)", "hint: the call has no header"}},
				"an hour late":       {good, c.secret, "2026-01-01T01:00:00Z", exitFailed, []string{"1h0m0s old", "(expired)", "hint: the signature itself is right, only the clock is off"}},
				"an hour early":      {good, c.secret, "2025-12-31T23:00:00Z", exitFailed, []string{"FAIL timestamp", "hint: the signature itself is right, only the clock is off"}},
				"now":                {good, c.secret, "", exitFailed, []string{"(expired)", "hint: --at says when a captured request came"}},
			} {
				args := []string{"verify", "--scheme", scheme, "--secret-file", file(t, "secret", try.secret)}
				if try.at != "" {
					args = append(args, "--at", try.at)
				}
				got := call(t, try.request, args...)
				if got.code != try.code || got.err != "" {
					t.Errorf("%s, %s, %s: exit %d, error %q\n%s", scheme, ends, name, got.code, got.err, got.out)
				}
				for _, want := range try.want {
					if !strings.Contains(got.out, want) {
						t.Errorf("%s, %s, %s: no %q in\n%s", scheme, ends, name, want, got.out)
					}
				}
				if secret := strings.TrimSpace(try.secret); strings.Contains(got.out, secret) || strings.Contains(got.out, strings.TrimPrefix(secret, "whsec_")) {
					t.Errorf("%s, %s, %s: the secret is shown in\n%s", scheme, ends, name, got.out)
				}
			}
		}
	}
}

// wrong is another secret of the same form.
func wrong(secret string) string { return secret[:8] + "A" + secret[9:] }

// without is a request without one of its headers.
func without(request, header string) string {
	var out strings.Builder
	for line := range strings.Lines(request) {
		if !strings.HasPrefix(line, header+":") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func TestVerifyAsJSON(t *testing.T) {
	t.Parallel()
	args := []string{"verify", "--json", "--scheme", "stripe", "--secret-file", file(t, "secret", stripeSecret), "--at"}
	for at, accepted := range map[string]bool{"1767225600": true, "1767225000": false} {
		got := call(t, request(t, "stripe", stripeSecret, "\n"), append(args, at)...)
		var x signature.Explanation
		if err := json.Unmarshal([]byte(got.out), &x); err != nil || x.Accepted != accepted || (got.code == exitOK) != accepted || len(x.Steps) == 0 {
			t.Errorf("%s: exit %d, %v, %s", at, got.code, err, got.out)
		}
	}
}

func TestVerifyWithAPublicKey(t *testing.T) {
	t.Parallel()
	key := file(t, "key", "not a key")
	got := call(t, "", "verify", "--scheme", "standard-webhooks-v1a", "--public-key-file", key)
	if got.code != exitUsage || !strings.Contains(got.err, "public_key") {
		t.Errorf("exit %d: %s", got.code, got.err)
	}
	got = call(t, "GET / HTTP/1.1\r\n\r\n", "verify", "--scheme", "none", "--remote", "somewhere")
	if got.code != exitUsage || !strings.Contains(got.err, `--remote "somewhere" is not an IP address`) {
		t.Errorf("exit %d: %s", got.code, got.err)
	}
	got = call(t, "GET / HTTP/1.1\r\n\r\n", "verify", "--scheme", "none", "--at", "soon")
	if got.code != exitUsage || !strings.Contains(got.err, `--at "soon" is neither RFC 3339`) {
		t.Errorf("exit %d: %s", got.code, got.err)
	}
}

// TestTheExampleCanBePasted runs what the help shows, in a shell, as somebody would who pastes it.
func TestTheExampleCanBePasted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program(t, dir)
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", verifyExample)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "accepted by scheme stripe") {
		t.Errorf("%v\n%s", err, out)
	}
}

// program puts the program into a folder, under its name, and returns its path.
func program(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tidewire")
	if err := os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", asTidewire, self), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}
