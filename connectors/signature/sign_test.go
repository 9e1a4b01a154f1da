package signature_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// The example of the Standard Webhooks libraries, signed with both of their versions.
func TestSignStandardWebhooks(t *testing.T) {
	t.Parallel()
	at := time.Unix(1614265330, 0)
	r := signature.SignRequest{ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", At: at, Body: []byte(`{"test": 2432232314}`)}
	h, err := signature.Sign(signature.Signing{Secret: config.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}, r)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Get("webhook-signature"); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" || h.Get("webhook-id") != r.ID || h.Get("webhook-timestamp") != "1614265330" {
		t.Errorf("got %v", h)
	}
	k := keys().ed25519
	for _, private := range [][]byte{k, k.Seed()} {
		h, err = signature.Sign(signature.Signing{Scheme: "standard-webhooks-v1a", Secret: config.NewSecret("whsk_" + base64.StdEncoding.EncodeToString(private))}, r)
		if err != nil {
			t.Fatal(err)
		}
		v, err := signature.New(signature.Settings{Scheme: "standard-webhooks-v1a", PublicKey: "whpk_" + base64.StdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))})
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, v.Verify(signature.Request{Header: h, Body: r.Body, At: at}), "")
	}
}

// Stripe's own library takes what we sign.
func TestSignStripe(t *testing.T) {
	t.Parallel()
	h := signedCall(t, "stripe", time.Now(), jsonBody, "whsec_one", "whsec_two").Header.Get("Stripe-Signature")
	for _, secret := range []string{"whsec_one", "whsec_two"} {
		if err := webhook.ValidatePayload([]byte(jsonBody), h, secret); err != nil {
			t.Errorf("%s: %v", secret, err)
		}
	}
	if strings.Count(h, "v1=") != 2 {
		t.Errorf("got %s", h)
	}
}

// What every signer makes, its verifier takes; the schemes that cannot be signed by say so.
func TestSignEveryScheme(t *testing.T) {
	t.Parallel()
	can := 0
	for _, scheme := range signature.Schemes() {
		secret := config.NewSecret(map[string]string{"base64": whsec, "hex": strings.Repeat("ab", 32)}[scheme.Rules.Key])
		if secret.IsZero() {
			secret = config.NewSecret("0123456789abcdef")
		}
		set := signature.Settings{Scheme: scheme.Name, Secret: secret}
		sign := signature.Signing{Scheme: scheme.Name, Secret: secret}
		if scheme.Name == "hmac" {
			set.Header, sign.Header = "X-Sig", "X-Sig"
		}
		for _, need := range scheme.Needs {
			if need == "public_url" {
				set.PublicURL = "https://hooks.example.com/in/test"
			}
		}
		h, err := signature.Sign(sign, signature.SignRequest{ID: "msg_1", At: now, Method: "POST", URL: "https://hooks.example.com/in/test", Body: []byte(jsonBody)})
		if err != nil {
			if scheme.Rules.Scheme == "hmac" && !strings.Contains(scheme.Rules.Signed, "form") && scheme.Rules.BodyHashQuery == "" {
				t.Errorf("%s: %v", scheme.Name, err)
			}
			continue
		}
		if scheme.Rules.BodyHashQuery != "" {
			continue
		}
		can++
		v, err := signature.New(set)
		if err != nil {
			t.Errorf("%s: %v", scheme.Name, err)
			continue
		}
		call := post(jsonBody)
		call.Header = h
		if err := v.Verify(call); err != nil {
			t.Errorf("%s: %v", scheme.Name, err)
		}
	}
	if can < 20 {
		t.Errorf("only %d schemes can be signed by", can)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	if _, err := signature.Sign(signature.Signing{Secret: config.NewSecret(whsec)}, signature.SignRequest{At: now}); err == nil {
		t.Error("signed without an id")
	}
	if _, err := signature.Sign(signature.Signing{Secret: config.NewSecret(whsec)}, signature.SignRequest{ID: "msg.1", At: now}); err == nil {
		t.Error("signed an id with the separator in it")
	}
	for _, scheme := range []string{"paypal", "mandrill", "basic", "none", "nonsense", "jwt-evolution", "standard-webhooks-v1a"} {
		if _, err := signature.NewSigner(signature.Signing{Scheme: scheme, Secret: config.NewSecret("x")}); err == nil {
			t.Errorf("made a signer of scheme %s", scheme)
		}
	}
}

// One verifier and one signer serve many calls at a time.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	signer, err := signature.NewSigner(signature.Signing{Secret: config.NewSecret(whsec)})
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, signature.Settings{Scheme: "standard-webhooks"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				body := strings.Repeat("x", i*100+n)
				h, err := signer.Sign(signature.SignRequest{ID: "msg_1", At: now, Body: []byte(body)})
				if err != nil {
					t.Error(err)
					return
				}
				call := signature.Request{Header: h, Body: []byte(body), At: now}
				if err := v.Verify(call); err != nil {
					t.Error(err)
				}
				call.Body = append(call.Body, '!')
				if v.Verify(call) == nil {
					t.Error("another body passed")
				}
			}
		})
	}
	wg.Wait()
}

func TestGreet(t *testing.T) {
	t.Parallel()
	secret := config.NewSecret("0123456789abcdef")
	get := func(method, url string) signature.Request {
		return signature.Request{Method: method, URL: url, Header: http.Header{}, At: now}
	}
	options := get("OPTIONS", "/in/sap")
	options.Header.Set("WebHook-Request-Origin", "eventmesh.example")
	options.Header.Set("WebHook-Request-Rate", "120")
	sap := signature.Settings{Scheme: "sap-event-mesh", Username: "u", Password: secret}
	echo := signature.Settings{Scheme: "hmac", Header: "X-Sig", Secret: secret, Challenge: "hub.challenge"}
	for _, c := range []struct {
		name     string
		s        signature.Settings
		call     signature.Request
		verified bool
		want     string
		ok       bool
	}{
		{"slack", signature.Settings{Scheme: "slack", Secret: secret}, post(`{"type":"url_verification","challenge":"abc123"}`), true, "abc123", true},
		{"slack before verification", signature.Settings{Scheme: "slack", Secret: secret}, post(`{"type":"url_verification","challenge":"abc123"}`), false, "", false},
		{"slack event", signature.Settings{Scheme: "slack", Secret: secret}, post(`{"type":"event_callback","text":"url_verification"}`), true, "", false},
		{"echo", echo, get("GET", "/in/x?hub.mode=subscribe&hub.challenge=1158201444"), false, "1158201444", true},
		{"echo of a page", echo, get("GET", "/in/x?hub.challenge=%3Cscript%3Ealert%3C/script%3E%20x"), false, "", false},
		{"echo of much", echo, get("GET", "/in/x?hub.challenge="+strings.Repeat("a", 600)), false, "", false},
		{"echo on POST", echo, get("POST", "/in/x?hub.challenge=1"), false, "", false},
		{"options", sap, options, false, "", true},
		{"options without origin", sap, get("OPTIONS", "/in/sap"), false, "", false},
		{"probe", signature.Settings{Scheme: "mandrill", Secret: secret, PublicURL: "https://x.example/"}, get("HEAD", "/in/x"), false, "", true},
		{"ping", signature.Settings{Scheme: "woocommerce", Secret: secret}, post("webhook_id=5"), false, "", true},
		{"no ping", signature.Settings{Scheme: "woocommerce", Secret: secret}, post("webhook_id=5&x=1"), false, "", false},
		{"none", signature.Settings{Scheme: "github", Secret: secret}, get("GET", "/in/x"), false, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, ok := verifier(t, c.s).Greet(c.call, c.verified)
			if ok != c.ok || ok && (a.Status != 200 || a.Body != c.want) {
				t.Errorf("got %+v, %t", a, ok)
			}
			if c.name == "options" && (a.Header["WebHook-Allowed-Origin"] != "eventmesh.example" || a.Header["WebHook-Allowed-Rate"] != "120") {
				t.Errorf("got %v", a.Header)
			}
			if c.want != "" && a.Header["X-Content-Type-Options"] != "nosniff" {
				t.Errorf("an echo without nosniff: %v", a.Header)
			}
		})
	}
}
