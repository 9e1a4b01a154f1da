package signature_test

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// Each of the mistakes that people and proxies make is named.
func TestExplainNamesTheMistake(t *testing.T) {
	t.Parallel()
	body := `{"id":"ev_1","list":[1,2,{"s":"a, b: c/d"}],"n":1}` + "\n"
	signBy := func(scheme, secret, body string) http.Header {
		h, err := signature.Sign(signature.Signing{Scheme: scheme, Secret: config.NewSecret(secret)}, signature.SignRequest{
			ID: "msg_1", At: now, Method: "POST", URL: "https://hooks.example.com/in/shop", Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	plain := "0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		name, scheme, secret string
		header               http.Header
		body                 string
		change               func(*signature.Settings, *signature.Request)
		want                 string
	}{
		{"line end after the body lost", "github", plain, signBy("github", plain, body), strings.TrimSpace(body), nil, "line end after the body"},
		{"line end after the body gained", "github", plain, signBy("github", plain, strings.TrimSpace(body)), body, nil, "without the line end"},
		{"LF made CRLF", "stripe", plain, signBy("stripe", plain, "{\n}\n"), "{\r\n}\r\n", nil, "line ends are LF"},
		{"CRLF made LF", "stripe", plain, signBy("stripe", plain, "{\r\n}\r\n"), "{\n}\n", nil, "line ends are CRLF"},
		{"JSON written again", "shopify", plain, signBy("shopify", plain, `{"a":1,"b":[1,2]}`), "{\n  \"a\": 1,\n  \"b\": [1, 2]\n}", nil, "without spaces"},
		{"JSON written by Python", "shopify", plain, signBy("shopify", plain, `{"a": 1, "b": "x:y,z"}`), `{"a":1,"b":"x:y,z"}`, nil, "a space after colons"},
		{"JSON indented", "shopify", plain, signBy("shopify", plain, "{\n  \"a\": 1\n}"), `{"a":1}`, nil, "indented by two spaces"},
		{"byte order mark", "github", plain, signBy("github", plain, "{}"), "\ufeff{}", nil, "without the byte order mark"},
		{"sender's secret in capitals", "github", strings.ToUpper(plain), signBy("github", plain, body), body, nil, "lower case"},
		{"quotes around the secret", "github", `"` + plain + `"`, signBy("github", plain, body), body, nil, "quotes"},
		{"whsec_ forgotten", "stripe", plain, signBy("stripe", "whsec_"+plain, body), body, nil, "whsec_ before the secret"},
		{"text key read as base64", "standard-webhooks", whsec, func() http.Header {
			h, err := signature.Sign(signature.Signing{Scheme: "hmac", Secret: config.NewSecret(whsec), Header: "webhook-signature", Signed: "{h:webhook-id}.{ts}.{body}",
				Encoding: "base64", Format: &signature.Format{Kind: "list", Version: "v1"}, TS: &signature.TS{Header: "webhook-timestamp"}},
				signature.SignRequest{ID: "msg_1", At: now, Body: []byte(body)})
			if err != nil {
				t.Fatal(err)
			}
			return h
		}(), body, nil, "read from the secret as utf8"},
		{"hex for base64", "shopify", plain, func() http.Header {
			h := signBy("shopify", plain, body)
			raw, _ := base64.StdEncoding.DecodeString(h.Get("X-Shopify-Hmac-Sha256"))
			h.Set("X-Shopify-Hmac-Sha256", hex.EncodeToString(raw))
			return h
		}(), body, nil, "the signature is read as hex"},
		{"clock", "stripe", plain, signBy("stripe", plain, body), body, func(_ *signature.Settings, c *signature.Request) { c.At = now.Add(17 * time.Minute) }, "only the clock is off"},
		{"registered with a slash", "square", plain, signBy("square", plain, body), body, func(s *signature.Settings, _ *signature.Request) { s.PublicURL += "/" }, "without the slash"},
		{"registered with http", "square", plain, signBy("square", plain, body), body, func(s *signature.Settings, _ *signature.Request) {
			s.PublicURL = strings.Replace(s.PublicURL, "https", "http", 1)
		}, "with https"},
		{"registered with a port", "square", plain, signBy("square", plain, body), body, func(s *signature.Settings, _ *signature.Request) {
			s.PublicURL = "https://hooks.example.com:8443/in/shop"
		}, "without its port"},
		{"another path", "square", plain, signBy("square", plain, body), body, func(s *signature.Settings, _ *signature.Request) { s.PublicURL = "https://hooks.example.com/" }, "with the call's path"},
		{"another scheme", "github", plain, signBy("shopify", plain, body), body, nil, "which scheme shopify reads"},
		{"another header", "github", plain, http.Header{"X-Acme-Signature": {"x"}}, body, nil, "but has X-Acme-Signature"},
		{"no header", "github", plain, http.Header{}, body, nil, "is signing switched on"},
		{"another secret", "github", "another-secret-altogether", signBy("github", plain, body), body, nil, "most probably the secret is another one"},
		{"milliseconds", "hmac", plain, func() http.Header {
			h, err := signature.Sign(signature.Signing{Scheme: "hmac", Secret: config.NewSecret(plain), Header: "X-Sig", Signed: "{ts}.{body}", TS: &signature.TS{Header: "X-Ts", Unit: "ms"}},
				signature.SignRequest{At: now, Body: []byte(body)})
			if err != nil {
				t.Fatal(err)
			}
			return h
		}(), body, func(s *signature.Settings, _ *signature.Request) {
			s.Header, s.Signed, s.TS = "X-Sig", "{ts}.{body}", &signature.TS{Header: "X-Ts"}
		}, "read as milliseconds"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := signature.Settings{Scheme: c.scheme, Secret: config.NewSecret(c.secret)}
			if c.scheme == "square" {
				s.PublicURL = "https://hooks.example.com/in/shop"
			}
			call := post(c.body)
			call.URL = "/in/shop"
			call.Header = c.header
			if c.change != nil {
				c.change(&s, &call)
			}
			v, err := signature.New(s)
			if err != nil {
				t.Fatal(err)
			}
			x := v.Explain(call)
			text := x.String()
			if x.Accepted || v.Verify(call) == nil {
				t.Fatalf("accepted: %s", text)
			}
			if !strings.Contains(strings.Join(x.Hints, "\n"), c.want) {
				t.Errorf("no hint has %q:\n%s", c.want, text)
			}
			if strings.Contains(text, c.secret) || strings.Contains(text, plain) {
				t.Errorf("the secret is in:\n%s", text)
			}
		})
	}
}

// What an accepted call's explanation says: each step, and which of the secrets fitted.
func TestExplainAccepted(t *testing.T) {
	t.Parallel()
	const older = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQ="
	v := verifier(t, signature.Settings{Scheme: "standard-webhooks", Secrets: []config.Secret{config.NewSecret(whsec), config.NewSecret(older)}})
	x := v.Explain(signedCall(t, "standard-webhooks", now, "{}", older))
	want := `ok   signature: found in header Webhook-Signature: 1 to compare, 44 characters long
ok   timestamp: within 5m0s of 2026-01-01T00:00:00Z
ok   signed text: {h:webhook-id}.{ts}.{body}: 19 bytes with SHA-256 d0df6b4d0ff08fca0be97ccde9a3b4e4ae0b3fa1ad1d7f0ca3db1ab92ef4d5b9; the body is 2 bytes with SHA-256 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
ok   comparison: key 2 of 2 fits
accepted by scheme standard-webhooks
`
	got := x.String()
	cut := func(s string) string { // the text's own hash is computed, not copied
		before, after, _ := strings.Cut(s, "19 bytes with SHA-256 ")
		if len(after) > 64 {
			after = after[64:]
		}
		return before + after
	}
	if cut(got) != cut(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
