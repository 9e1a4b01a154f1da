package signature_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vector is one signed call with the verdict it has to get.
type vector struct {
	ID         string            `json:"id"`
	Verifier   string            `json:"verifier"`
	Method     string            `json:"method"`
	URL        string            `json:"url"`
	Secret     json.RawMessage   `json:"secret"`
	PublicKey  string            `json:"public_key"`
	Cert       string            `json:"certificate_pem"`
	Chain      string            `json:"chain_pem"`
	ClientCert string            `json:"client_certificate_pem"`
	Config     map[string]string `json:"config"`
	Headers    map[string]string `json:"headers"`
	Body       string            `json:"body"`
	Now        float64           `json:"now"`
	Tolerance  *float64          `json:"tolerance"`
	Expect     string            `json:"expect"`
	Response   string            `json:"expected_response"`
	Decrypted  string            `json:"decrypted_resource"`
}

// settings are the vector's, as a user would write them.
func (x vector) settings(t testing.TB) signature.Settings {
	t.Helper()
	s := signature.Settings{
		Scheme: x.Verifier, PublicKey: x.PublicKey, Certificate: x.Cert, Chain: x.Chain,
		WebhookID: x.Config["webhook_id"], CAPEM: x.Config["ca_pem"], APIv3Key: config.NewSecret(x.Config["apiv3_key"]),
	}
	if san := x.Config["allowed_san"]; san != "" {
		s.AllowedSAN = []string{san}
	}
	var text string
	var pair struct {
		Username   string `json:"username"`
		Password   string `json:"password"`
		PublicKey  string `json:"public_key"`
		PrivateKey string `json:"private_key"`
	}
	if json.Unmarshal(x.Secret, &text) == nil {
		s.Secret = config.NewSecret(text)
	} else if err := json.Unmarshal(x.Secret, &pair); err == nil {
		s.Username, s.Password = pair.Username, config.NewSecret(pair.Password)
		s.Secret = config.NewSecret(pair.PrivateKey)
		s.PublicKey = pair.PublicKey
	} else {
		t.Fatalf("%s: secret: %v", x.ID, err)
	}
	scheme, ok := signature.Lookup(x.Verifier)
	if !ok {
		t.Fatalf("%s: there is no scheme %s", x.ID, x.Verifier)
	}
	for _, need := range scheme.Needs {
		if need == "public_url" {
			s.PublicURL = x.URL
		}
	}
	if x.Tolerance != nil && *x.Tolerance > 0 {
		s.Tolerance = config.Duration(time.Duration(*x.Tolerance * float64(time.Second)))
	}
	return s
}

// request is the vector's call, as the ear would hand it on.
func (x vector) request(t testing.TB) signature.Request {
	t.Helper()
	c := signature.Request{Method: x.Method, URL: "/in/test", Header: http.Header{}, Body: []byte(x.Body), At: time.Unix(0, int64(x.Now*1e9))}
	if x.URL != "" {
		u, err := url.Parse(x.URL)
		if err != nil {
			t.Fatalf("%s: %v", x.ID, err)
		}
		c.URL = u.RequestURI()
	}
	for name, value := range x.Headers {
		c.Header.Add(name, value)
	}
	if x.ClientCert != "" {
		block, _ := pem.Decode([]byte(x.ClientCert))
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatalf("%s: %v", x.ID, err)
		}
		c.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	}
	return c
}

func vectors(t testing.TB, path string) []vector {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func check(t *testing.T, x vector) {
	t.Helper()
	v, err := signature.New(x.settings(t))
	if err == nil {
		err = v.Verify(x.request(t))
	}
	if got := map[bool]string{true: "valid", false: "invalid"}[err == nil]; got != x.Expect {
		t.Errorf("got %s (%v), want %s", got, err, x.Expect)
	}
	if x.Response != "" && v != nil && x.Verifier == "braintree-challenge" {
		a, ok := v.Greet(x.request(t), false)
		if !ok || a.Body != x.Response {
			t.Errorf("greeting is %q, want %q", a.Body, x.Response)
		}
	}
	if x.Decrypted != "" && err == nil {
		if plain, err := v.OpenResource([]byte(x.Body)); err != nil || string(plain) != x.Decrypted {
			t.Errorf("resource is %q (%v), want %q", plain, err, x.Decrypted)
		}
	}
	if x.Response == "success" && v.Scheme().Answers.Accepted.Body != x.Response {
		t.Errorf("answer is %q, want %q", v.Scheme().Answers.Accepted.Body, x.Response)
	}
	if v != nil {
		if x := v.Explain(x.request(t)); x.Accepted != (err == nil) {
			t.Errorf("explanation says accepted %t, verdict is %v", x.Accepted, err)
		}
	}
}

func TestSignedVectors(t *testing.T) {
	t.Parallel()
	all := vectors(t, "testdata/signed.json")
	if len(all) != 88 {
		t.Fatalf("%d vectors, want 88", len(all))
	}
	for _, x := range all {
		t.Run(x.ID, func(t *testing.T) {
			t.Parallel()
			check(t, x)
		})
	}
}

// The vendors' own published examples are not part of this repository; they are run where they lie beside it.
func TestPublishedVectors(t *testing.T) {
	t.Parallel()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	path := filepath.Join(dir, "..", "shared", "vectors", "published.json")
	if _, err := os.Stat(path); err != nil {
		t.Logf("no published vectors beside the module (%v)", err)
		return
	}
	for _, x := range vectors(t, path) {
		t.Run(x.ID, func(t *testing.T) {
			t.Parallel()
			check(t, x)
		})
	}
}

// All schemes of the vectors, and the short names, can be looked up; the tables are sorted by name.
func TestSchemeNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"stripe", "standard-webhooks", "svix", "standard-webhooks-v1a", "github", "gitlab-token", "gitlab-signing", "shopify", "woocommerce",
		"hubspot-v1", "hubspot-v2", "hubspot-v3", "paypal", "adyen-standard", "adyen-platform", "alipay-rsa2", "wechatpay", "wechatpay-v3", "square",
		"braintree", "braintree-challenge", "razorpay", "gocardless", "checkout", "mollie-nextgen", "paddle", "slack", "zendesk", "intercom",
		"twilio-form", "twilio-json", "mandrill", "sendgrid", "xero", "quickbooks", "frappe", "messagebird", "jwt-messagebird", "evolution",
		"jwt-evolution", "dynamics", "dynamics-webhookkey", "pipedrive", "espocrm", "api-key", "mtls",
		"hmac", "hash", "ed25519", "ecdsa", "rsa", "jwt", "basic", "token", "ip-allow", "none",
	} {
		if _, ok := signature.Lookup(name); !ok {
			t.Errorf("there is no scheme %s", name)
		}
	}
	last, seen := "", map[string]bool{}
	for _, s := range signature.Schemes() {
		if s.Name <= last {
			t.Errorf("%s stands after %s", s.Name, last)
		}
		last = s.Name
		for _, name := range append(s.Aliases, s.Name) {
			if seen[name] {
				t.Errorf("%s means two schemes", name)
			}
			seen[name] = true
		}
		if s.Title == "" || s.Body == "" {
			t.Errorf("%s lacks a title or the way its body is read", s.Name)
		}
	}
}
