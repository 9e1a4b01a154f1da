package stripe_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/connectortest"
	"github.com/tidewire/tidewire/connectors/stripe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret = "whsec_5ZDnDN5sAYmPJzaDZ3BHHyGnsSfKvY4R"
	other  = "whsec_Zk0NDyaLB9WZIY4vqEqaClL6sBhKVzyO"
)

// openYAML opens a connection of the name "pay" from its settings.
func openYAML(text string) (connectors.Connection, error) {
	n, err := config.ParseNode("tidewire.yaml", []byte(text), config.Options{})
	if err != nil {
		return nil, err
	}
	return stripe.Connector.Open(n, connectors.Env{Name: "pay", Logger: slog.New(slog.DiscardHandler)})
}

func mustOpen(t testing.TB, text string) connectors.Connection {
	t.Helper()
	c, err := openYAML(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

// signed is a call as Stripe's own library signs it.
func signed(body, key string, at time.Time) *connectors.Call {
	s := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(body), Secret: key, Timestamp: at})
	return &connectors.Call{
		Method: http.MethodPost, Body: []byte(body), Received: at.UTC(),
		Header: http.Header{"Stripe-Signature": {s.Header}, "Content-Type": {"application/json; charset=utf-8"}},
	}
}

func fixture(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConformance(t *testing.T) {
	connectortest.Run(t, connectortest.Suite{
		Connector: stripe.Connector,
		Secrets:   []string{secret, other, "sk_test_planted_key_1234567890", "planted-proxy-password"},
		Receive: []connectortest.Signed{{
			Name:     "snapshot event",
			Settings: "api_key: sk_test_planted_key_1234567890\nwebhook: {secret: " + secret + "}",
			Secret:   secret, Other: other,
			Make:      func(key string, body []byte, at time.Time) *connectors.Call { return signed(string(body), key, at) },
			Body:      []byte(fixture(t, "invoice.paid.json")),
			Protected: []string{"Stripe-Signature"},
			Tolerance: 5 * time.Minute,
			IDs:       []string{"evt_1NG8Du2eZvKYlo2CUI79vXWy"},
		}},
		Bad: []connectortest.Bad{
			{Name: "no webhook", Settings: "api_key: sk_test_planted_key_1234567890", Key: "webhook"},
			{Name: "no secret", Settings: "webhook: {max_body: 2MiB}", Key: "webhook.secret"},
			{Name: "an unknown key", Settings: "webhook: {secret: " + secret + ", sekret: x}", Key: "webhook.sekret"},
			{Name: "a tolerance of two days", Settings: "webhook: {secret: " + secret + ", tolerance: 2d}", Key: "webhook.tolerance"},
			{Name: "no network", Settings: "webhook: {secret: " + secret + ", allow: [stripe.com]}", Key: "webhook.allow"},
			{Name: "a pull", Settings: "{webhook: {secret: " + secret + "}, pull: {events: {every: 15m}}}", Key: "pull"},
			{Name: "no address", Settings: "{webhook: {secret: " + secret + "}, api_url: stripe}", Key: "api_url"},
			{Name: "no proxy", Settings: "{webhook: {secret: " + secret + "}, proxy: 'ftp://u:planted-proxy-password@p'}", Key: "proxy"},
		},
	})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		yaml string
		want []string // parts of the problems, in any order; none: it opens
	}{
		"least":        {"webhook: {secret: whsec_abc}", nil},
		"all":          {"api_key: sk_test_abc\nwebhook: {secrets: [whsec_a, whsec_b], tolerance: 2m, max_body: 2MiB, rate_limit: 100/s, allow: [3.18.12.63, 10.0.0.0/8]}", nil},
		"no webhook":   {"api_key: sk_test_abc", []string{"webhook"}},
		"no secret":    {"webhook: {tolerance: 2m}", []string{"webhook", "secret"}},
		"both secrets": {"webhook: {secret: whsec_a, secrets: [whsec_b]}", []string{"secret"}},
		"pull":         {"webhook: {secret: whsec_a}\npull: {events: {every: 15m}}", []string{"pull is not available in this version", "tidewire.yaml:2"}},
		"unknown key":  {"webhook: {secret: whsec_a, sekrets: [x]}", []string{"sekrets", "secrets"}},
		"tolerance":    {"webhook: {secret: whsec_a, tolerance: 48h}", []string{"webhook.tolerance"}},
		"allow":        {"webhook: {secret: whsec_a, allow: [nowhere]}", []string{"webhook.allow"}},
		"api_url":      {"webhook: {secret: whsec_a}\napi_url: ftp://x", []string{"api_url"}},
		"http":         {"webhook: {secret: whsec_a}\napi_url: http://api.stripe.com", []string{"api_url", "https"}},
		"two mistakes": {"webhook: {secret: whsec_a, allow: [nowhere]}\napi_url: ftp://x\nfoo: 1", []string{"webhook.allow", "api_url", "foo"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := openYAML(tc.yaml)
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
				return
			}
			var problems config.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("%v is not problems", err)
			}
			for _, part := range tc.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in\n%v", part, err)
				}
			}
			if strings.Contains(err.Error(), "whsec_a") || strings.Contains(err.Error(), "sk_test_abc") {
				t.Errorf("a secret is in\n%v", err)
			}
			for _, p := range problems {
				if p.File != "tidewire.yaml" {
					t.Errorf("no place: %+v", p)
				}
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const key = "rk_test_51Hx9a8bVZq0T7u"
	for status, ok := range map[int]bool{200: true, 401: false, 403: true, 429: false, 500: false, 302: false} {
		var asked *http.Request
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = r.Clone(context.Background())
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"error": {"message": "Invalid API Key provided: ` + key + `"}}`))
		}))
		c := mustOpen(t, "api_key: "+key+"\nallow_private: true\napi_url: "+server.URL+"\nwebhook: {secret: "+secret+"}")
		err := c.Check(t.Context())
		_ = c.Close()
		server.Close()
		if (err == nil) != ok {
			t.Errorf("%d: %v", status, err)
		}
		if err != nil && strings.Contains(err.Error(), key) {
			t.Errorf("%d: the key is in %v", status, err)
		}
		if asked == nil || asked.URL.Path != "/v1/balance" || asked.Method != http.MethodGet || asked.Header.Get("Authorization") != "Bearer "+key {
			t.Errorf("%d: asked %+v", status, asked)
		}
	}
	if err := mustOpen(t, "webhook: {secret: "+secret+"}").Check(t.Context()); err != nil {
		t.Errorf("without a key there is nothing to ask: %v", err)
	}
}
