package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/connectors/signature"
)

var update = flag.Bool("update", false, "write testdata/verify anew")

const (
	newSecret = "a-new-secret-of-the-warehouse"
	oldSecret = "an-old-secret-of-the-warehouse"
	password  = "the-password-of-the-shop"
)

// verifyConfig has a connection of every generic kind. Of other connections nothing need be right.
const verifyConfig = `
connections:
  hmac: {connector: http, webhook: {verify: {scheme: hmac, secrets: ["${file:DIR/new}", "${file:DIR/old}"], secrets_until: "2026-01-02T00:00:00Z", header: X-Sig, signed: "{ts}.{body}", ts: {header: X-Time}}}}
  hash: {connector: http, webhook: {verify: {scheme: hash, secret: "${file:DIR/new}", header: X-Sig, signed: "{secret}{method}{url}{body}", public_url: "https://hooks.example.com/in/hash"}, methods: [GET, POST]}}
  ed25519: {connector: http, webhook: {verify: {scheme: ed25519, public_key: "${file:DIR/ed25519}", header: X-Sig}}}
  rsa: {connector: http, webhook: {verify: {scheme: rsa, public_key: "${file:DIR/rsa}", header: X-Sig, encoding: base64}}}
  ecdsa: {connector: http, webhook: {verify: {scheme: ecdsa, public_key: "${file:DIR/ecdsa}", header: X-Twilio-Email-Event-Webhook-Signature, encoding: base64, signed: "{h:X-Twilio-Email-Event-Webhook-Timestamp}{body}"}}}
  jwt: {connector: http, webhook: {verify: {scheme: jwt, secret: "${file:DIR/new}", algorithms: HS256, header: Authorization, format: {kind: prefix, prefix: "Bearer "}, body_hash_claim: sum}}}
  basic: {connector: http, webhook: {verify: {scheme: basic, username: shop, password: "${file:DIR/password}"}}}
  token: {connector: http, webhook: {verify: {scheme: token, secret: "${file:DIR/new}", query: code}}}
  ip-allow: {connector: http, webhook: {verify: {scheme: ip-allow, allow: [192.0.2.0/24]}}}
  none: {connector: http, webhook: {verify: {scheme: none, challenge: hub.challenge}}}
  mtls: {connector: http, webhook: {verify: {scheme: mtls, ca_pem: "${file:DIR/ca}", allowed_san: shop.example.com}}}
  stripe: {connector: stripe, webhook: {secret: "${file:DIR/new}"}}
  target: {connector: http, url: "https://target.example.com"}
  unready: {connector: http, webhook: {verify: {scheme: github, secret: "${env:TIDEWIRE_TEST_NOT_SET}"}}}
routes: {}
`

// signers hold the private keys.
type signers struct {
	ed25519 ed25519.PrivateKey
	rsa     *rsa.PrivateKey
	sendgrid
}

// sendgrid is a call that somebody else's ECDSA key signed; its signature's length is not ours to choose.
type sendgrid struct {
	Headers          map[string]string `json:"headers"`
	PublicKey        string            `json:"public_key"`
	Verifier, Expect string
	Body             string
}

// verifyHub writes the config with its secrets and returns its path.
func verifyHub(t *testing.T) (string, signers) {
	t.Helper()
	var s signers
	s.ed25519 = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	key, err := rsa.GenerateKey(rand.Reader, 2048) // no text depends on which key it is
	if err != nil {
		t.Fatal(err)
	}
	s.rsa = key
	var vectors []sendgrid
	if err := json.Unmarshal([]byte(readFile(t, "../../connectors/signature/testdata/signed.json")), &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		if v.Verifier == "sendgrid" && v.Expect == "valid" {
			s.sendgrid = v
		}
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	authority, _ := chain(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"new": newSecret, "old": oldSecret, "password": password, "ca": authority, "ecdsa": s.PublicKey, "rsa": base64.StdEncoding.EncodeToString(public),
		"ed25519": base64.StdEncoding.EncodeToString(s.ed25519.Public().(ed25519.PublicKey)), "tidewire.yaml": strings.ReplaceAll(verifyConfig, "DIR", dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "tidewire.yaml"), s
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func mac(secret, text string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(text))
	return hex.EncodeToString(h.Sum(nil))
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// token is a JSON Web Token over the sum of a body.
func token(secret, body string, expires int64) string {
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + b64(fmt.Appendf(nil, `{"exp":%d,"sum":%q}`, expires, sum(body)))
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(text))
	return "Bearer " + text + "." + b64(h.Sum(nil))
}

// raw is a captured request; headers are name, value pairs.
func raw(method, target, body string, headers ...string) string {
	text := method + " " + target + " HTTP/1.1\r\nHost: hooks.example.com\r\n"
	for i := 0; i+1 < len(headers); i += 2 {
		text += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	return text + "\r\n" + body
}

// TestVerifyByAConnection explains requests to connections of every kind, good and bad, and holds the texts to testdata/verify: -update writes them.
func TestVerifyByAConnection(t *testing.T) {
	t.Parallel()
	config, s := verifyHub(t)
	const body, at = `{"id":1}`, "2026-01-01T00:00:00Z"
	const seconds = 1767225600
	rsaSum := sha256.Sum256([]byte(body))
	rsaSig, err := rsa.SignPKCS1v15(nil, s.rsa, crypto.SHA256, rsaSum[:])
	if err != nil {
		t.Fatal(err)
	}
	ed := hex.EncodeToString(ed25519.Sign(s.ed25519, []byte(body)))
	const hashURL = "https://hooks.example.com/in/hash"
	basic := func(user, word string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+word))
	}
	signed := func(secret string) []string {
		return []string{"X-Time", fmt.Sprint(seconds), "X-Sig", mac(secret, fmt.Sprint(seconds)+"."+body)}
	}
	mail := []string{"X-Twilio-Email-Event-Webhook-Signature", s.Headers["X-Twilio-Email-Event-Webhook-Signature"],
		"X-Twilio-Email-Event-Webhook-Timestamp", s.Headers["X-Twilio-Email-Event-Webhook-Timestamp"]}
	for _, c := range []struct {
		name, connection, request string
		args                      []string
		code                      int
	}{
		{"hmac-good", "hmac", raw("POST", "/in/hmac", body, signed(newSecret)...), nil, exitOK},
		{"hmac-old-secret", "hmac", raw("POST", "/in/hmac", body, signed(oldSecret)...), nil, exitOK},
		{"hmac-rotation-over", "hmac", raw("POST", "/in/hmac", body, "X-Time", "1767398400", "X-Sig", mac(oldSecret, "1767398400."+body)), []string{"--at", "2026-01-03T00:00:00Z"}, exitFailed},
		{"hmac-wrong-secret", "hmac", raw("POST", "/in/hmac", body, signed("somebody-elses-secret")...), nil, exitFailed},
		{"hmac-altered-body", "hmac", raw("POST", "/in/hmac", `{"id": 1}`, signed(newSecret)...), nil, exitFailed},
		{"hmac-missing-header", "hmac", raw("POST", "/in/hmac", body, "X-Signature", mac(newSecret, body)), nil, exitFailed},
		{"hmac-stale", "hmac", raw("POST", "/in/hmac", body, signed(newSecret)...), []string{"--at", "2026-01-01T01:00:00Z"}, exitFailed},
		{"hmac-other-address", "hmac", raw("POST", "/in/other", body), nil, exitFailed},
		{"hmac-get", "hmac", raw("GET", "/in/hmac", "", signed(newSecret)...), nil, exitFailed},
		{"hash-get", "hash", raw("GET", "/in/hash?id=7", "", "X-Sig", sum(newSecret+"GET"+hashURL+"?id=7")), nil, exitOK},
		{"hash-other-method", "hash", raw("POST", "/in/hash", body, "X-Sig", sum(newSecret+"PUT"+hashURL+body)), nil, exitFailed},
		{"hash-method-not-taken", "hash", raw("PUT", "/in/hash", body, "X-Sig", sum(newSecret+"PUT"+hashURL+body)), nil, exitFailed},
		{"hash-other-url", "hash", raw("POST", "/in/hash", body, "X-Sig", sum(newSecret+"POST"+hashURL+"/"+body)), nil, exitFailed},
		{"ed25519-good", "ed25519", raw("POST", "/in/ed25519", body, "X-Sig", ed), nil, exitOK},
		{"ed25519-altered", "ed25519", raw("POST", "/in/ed25519", body+"x", "X-Sig", ed), nil, exitFailed},
		{"rsa-good", "rsa", raw("POST", "/in/rsa", body, "X-Sig", base64.StdEncoding.EncodeToString(rsaSig)), nil, exitOK},
		{"rsa-hex", "rsa", raw("POST", "/in/rsa", body, "X-Sig", hex.EncodeToString(rsaSig)), nil, exitFailed},
		{"ecdsa-good", "ecdsa", raw("POST", "/in/ecdsa", s.Body, mail...), nil, exitOK},
		{"ecdsa-line-end", "ecdsa", raw("POST", "/in/ecdsa", s.Body+"\n", mail...), nil, exitFailed},
		{"jwt-good", "jwt", raw("POST", "/in/jwt", body, "Authorization", token(newSecret, body, seconds+60)), nil, exitOK},
		{"jwt-expired", "jwt", raw("POST", "/in/jwt", body, "Authorization", token(newSecret, body, seconds-60)), nil, exitFailed},
		{"jwt-wrong-secret", "jwt", raw("POST", "/in/jwt", body, "Authorization", token(oldSecret, body, seconds+60)), nil, exitFailed},
		{"jwt-altered-body", "jwt", raw("POST", "/in/jwt", body+" ", "Authorization", token(newSecret, body, seconds+60)), nil, exitFailed},
		{"basic-good", "basic", raw("POST", "/in/basic", body, "Authorization", basic("shop", password)), nil, exitOK},
		{"basic-wrong-password", "basic", raw("POST", "/in/basic", body, "Authorization", basic("shop", password+"!")), nil, exitFailed},
		{"basic-line-end", "basic", raw("POST", "/in/basic", body, "Authorization", basic("shop", password+"\n")), nil, exitFailed},
		{"basic-other-user", "basic", raw("POST", "/in/basic", body, "Authorization", basic("shops", password)), nil, exitFailed},
		{"basic-missing", "basic", raw("POST", "/in/basic", body), nil, exitFailed},
		{"token-good", "token", raw("POST", "/in/token?code="+newSecret, body), nil, exitOK},
		{"token-wrong", "token", raw("POST", "/in/token?code="+oldSecret, body), nil, exitFailed},
		{"token-missing", "token", raw("POST", "/in/token", body), nil, exitFailed},
		{"ip-allow-good", "ip-allow", raw("POST", "/in/ip-allow", body), []string{"--remote", "192.0.2.7"}, exitOK},
		{"ip-allow-elsewhere", "ip-allow", raw("POST", "/in/ip-allow", body), []string{"--remote", "198.51.100.7"}, exitFailed},
		{"ip-allow-unknown", "ip-allow", raw("POST", "/in/ip-allow", body), nil, exitFailed},
		{"none", "none", raw("POST", "/in/none", body), nil, exitOK},
		{"none-handshake", "none", raw("GET", "/in/none?hub.challenge=abc", ""), nil, exitOK},
		{"mtls", "mtls", raw("POST", "/in/mtls", body), nil, exitFailed},
		{"stripe-good", "stripe", raw("POST", "/in/stripe", body, "Stripe-Signature", fmt.Sprintf("t=%d,v1=%s", seconds, mac(newSecret, fmt.Sprint(seconds)+"."+body))), nil, exitOK},
		{"stripe-wrong-secret", "stripe", raw("POST", "/in/stripe", body, "Stripe-Signature", fmt.Sprintf("t=%d,v1=%s", seconds, mac(oldSecret, fmt.Sprint(seconds)+"."+body))), nil, exitFailed},
	} {
		args := []string{"verify", "--config", config, "--connection", c.connection, "--at", at}
		got := call(t, c.request, append(args, c.args...)...)
		if got.code != c.code || got.err != "" {
			t.Errorf("%s: exit %d, want %d, error %q", c.name, got.code, c.code, got.err)
		}
		for _, secret := range []string{newSecret, oldSecret, password, "somebody-elses-secret", mac(newSecret, fmt.Sprint(seconds)+"."+body)} {
			if strings.Contains(got.out, secret) {
				t.Errorf("%s shows %q:\n%s", c.name, secret, got.out)
			}
		}
		golden := filepath.Join("testdata", "verify", c.name+".txt")
		if *update {
			if err := os.WriteFile(golden, []byte(got.out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := readFile(t, golden); got.out != want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got.out, want)
		}
	}
}

func TestVerifyByAConnectionThatCannot(t *testing.T) {
	t.Parallel()
	config, _ := verifyHub(t)
	request := raw("POST", "/in/hmac", "{}")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--config", config}, "--connection is missing"},
		{[]string{"--config", config, "--connection", "hmca"}, `has no connection "hmca"; did you mean "hmac"?`},
		{[]string{"--config", config, "--connection", "target"}, "target receives no webhooks"},
		{[]string{"--config", config, "--connection", "unready"}, "TIDEWIRE_TEST_NOT_SET"},
		{[]string{"--config", config, "--connection", "hmac", "--scheme", "stripe"}, "--scheme and --connection exclude one another"},
		{[]string{"--config", config, "--connection", "hmac", "--tolerance", "1h"}, "--tolerance and --connection exclude one another"},
		{[]string{"--config", "-", "--connection", "hmac"}, "cannot both be standard input"},
		{[]string{"--config", config + ".none", "--connection", "hmac"}, "the file cannot be read"},
		{[]string{"--connection", "hmac", "request.http"}, "the request is read from standard input: < request.http"},
	} {
		got := call(t, request, append([]string{"verify"}, c.args...)...)
		if got.code != exitUsage || !strings.Contains(got.err, c.want) || strings.Contains(got.err, newSecret) || got.out != "" {
			t.Errorf("%q: exit %d, %q, want %s", c.args, got.code, got.err, c.want)
		}
	}
}

func TestVerifyByAConnectionAsJSON(t *testing.T) {
	t.Parallel()
	config, _ := verifyHub(t)
	got := call(t, raw("PUT", "/in/none", "{}"), "verify", "--json", "-c", config, "--connection", "none")
	var x signature.Explanation
	if err := json.Unmarshal([]byte(got.out), &x); err != nil || x.Accepted || x.Code != signature.Method || got.code != exitFailed || len(x.Hints) != 1 {
		t.Errorf("exit %d, %v, %s", got.code, err, got.out)
	}
}
