package webhooks_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/all"
	"github.com/tidewire/tidewire/connectors/signature"
	"github.com/tidewire/tidewire/webhooks"
)

// connect opens a connection as the config file would.
func connect(t testing.TB, connector string, settings any) (connectors.Receiver, error) {
	t.Helper()
	text, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	n, err := config.ParseNode("tidewire.yaml", text, config.Options{})
	if err != nil {
		return nil, err
	}
	for _, c := range all.Connectors() {
		if c.Name != connector {
			continue
		}
		opened, err := c.Open(n, connectors.Env{Name: connector, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = opened.Close() })
		return opened.(connectors.Receiver), nil
	}
	t.Fatalf("no connector %s", connector)
	return nil, nil
}

// vector is one signed call of connectors/signature's corpus.
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
}

// verify is the vector's verify block.
func (x vector) verify(t *testing.T) map[string]any {
	t.Helper()
	v := map[string]any{"scheme": x.Verifier}
	set := func(key, value string) {
		if value != "" {
			v[key] = value
		}
	}
	set("public_key", x.PublicKey)
	set("certificate", x.Cert)
	set("chain", x.Chain)
	set("webhook_id", x.Config["webhook_id"])
	set("ca_pem", x.Config["ca_pem"])
	set("apiv3_key", x.Config["apiv3_key"])
	if san := x.Config["allowed_san"]; san != "" {
		v["allowed_san"] = []string{san}
	}
	var text string
	pair := map[string]string{}
	if json.Unmarshal(x.Secret, &text) == nil {
		set("secret", text)
	} else if err := json.Unmarshal(x.Secret, &pair); err == nil {
		set("username", pair["username"])
		set("password", pair["password"])
		set("secret", pair["private_key"])
		set("public_key", pair["public_key"])
	}
	if scheme, ok := signature.Lookup(x.Verifier); ok {
		for _, need := range scheme.Needs {
			if need == "public_url" {
				set("public_url", x.URL)
			}
		}
	}
	if x.Tolerance != nil && *x.Tolerance > 0 {
		v["tolerance"] = fmt.Sprintf("%gs", *x.Tolerance)
	}
	return v
}

// vectors are the project's own, and the vendors' published ones where they lie beside the module.
func vectors(t *testing.T) []vector {
	t.Helper()
	var all []vector
	for _, path := range []string{"../connectors/signature/testdata/signed.json", "../../shared/vectors/published.json"} {
		raw, err := os.ReadFile(path)
		if len(all) > 0 && errors.Is(err, fs.ErrNotExist) {
			t.Logf("no published vectors beside the module (%v)", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var some []vector
		if err := json.Unmarshal(raw, &some); err != nil || len(some) < 50 {
			t.Fatalf("%s: %d vectors, %v", path, len(some), err)
		}
		all = append(all, some...)
	}
	return all
}

// TestSignedCallsOfEveryProvider posts each vector at a hub that is configured for it.
func TestSignedCallsOfEveryProvider(t *testing.T) {
	t.Parallel()
	for _, x := range vectors(t) {
		t.Run(x.ID, func(t *testing.T) {
			t.Parallel()
			receiver, err := connect(t, "http", map[string]any{"webhook": map[string]any{"verify": x.verify(t)}})
			if err != nil {
				if x.Expect == "valid" {
					t.Fatal(err)
				}
				return // what can never be right is refused before a call comes
			}
			h := open(t, map[string]connectors.Receiver{"vec": receiver}, func(c *webhooks.Config, _ *webhooks.ListenerConfig) {
				c.Now = func() time.Time { return time.Unix(0, int64(x.Now*1e9)) }
			})
			a := h.send(x)
			for _, e := range h.intake.kept() {
				if err := e.Validate(); err != nil {
					t.Error(err)
				}
			}
			if x.Expect != "valid" {
				// An address test that needs no signature is answered, and leaves nothing behind.
				greeted := h.received("vec", "handshake") == 1
				if a.status < 400 && !greeted || len(h.intake.kept()) != 0 {
					t.Errorf("a call that is not good: %d %s, %d kept", a.status, a.body, len(h.intake.kept()))
				}
				return
			}
			if a.status < 200 || a.status > 299 {
				t.Fatalf("a good call: %d %s\n%s", a.status, a.body, h.log.String())
			}
			scheme, _ := signature.Lookup(x.Verifier)
			if want := scheme.Answers.Accepted; x.Response == "" && !want.IsZero() && (a.status != want.Status || a.body != want.Body) {
				t.Errorf("answered %d %q, want %d %q", a.status, a.body, want.Status, want.Body)
			}
			if want := strings.Replace(x.Response, "200 empty", "", 1); x.Response != "" && a.body != want {
				t.Errorf("answered %q, want %q", a.body, want)
			}
			kept := h.intake.kept()
			if again := h.send(x); again.status != a.status || len(h.intake.kept()) != len(kept) {
				t.Errorf("the same call again: %d, %d kept", again.status, len(h.intake.kept())-len(kept))
			}
			for _, e := range kept {
				came := bytes.Contains([]byte(x.Body), e.Body)
				if u, err := url.Parse(x.URL); err == nil && x.Method == http.MethodGet && x.Body == "" && u.RawQuery != "" {
					came = string(e.Body) == object(t, u.RawQuery)
				}
				if !came && scheme.Body != signature.FormJSON {
					t.Errorf("these bytes did not come: %q", e.Body)
				}
				if method := e.Extensions["method"]; method != strings.TrimPrefix(x.Method, http.MethodPost) {
					t.Errorf("the event's method is %q", method)
				}
				t.Logf("%s %s key=%s subject=%s at %s", e.ID, e.Type, e.Key, e.Subject, e.Time.Format(time.RFC3339))
			}
			if len(kept) == 0 {
				t.Logf("nothing to keep: %s", x.Body)
				if x.Method != http.MethodPost && h.received("vec", "handshake") != 2 {
					t.Errorf("%s is neither an event nor a handshake", x.Method)
				}
			}
		})
	}
}

// object is a query in which no name comes twice as JSON, in its order.
func object(t *testing.T, query string) string {
	t.Helper()
	var out []string
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		for _, text := range []*string{&name, &value} {
			plain, err := url.QueryUnescape(*text)
			if err != nil {
				t.Fatal(err)
			}
			*text = plain
		}
		out = append(out, fmt.Sprintf("%q:%q", name, value))
	}
	return "{" + strings.Join(out, ",") + "}"
}

// send sends a vector over the network; one with a client's certificate goes to the handler with the certificate in place.
func (h *house) send(x vector) answer {
	h.t.Helper()
	target := "/in/vec"
	if u, err := url.Parse(x.URL); err == nil && u.RawQuery != "" {
		target += "?" + u.RawQuery
	}
	req := h.request(x.Method, target, strings.NewReader(x.Body))
	for name, value := range x.Headers {
		req.Header.Add(name, value)
	}
	if x.ClientCert == "" {
		return h.do(req)
	}
	block, _ := pem.Decode([]byte(x.ClientCert))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	w := httptest.NewRecorder()
	h.server.Handler.ServeHTTP(w, req)
	return answer{w.Code, w.Header(), w.Body.String()}
}

const stripeSecret = "whsec_5ZDnDN5sAYmPJzaDZ3BHHyGnsSfKvY4R"

func stripeHub(t *testing.T, settings map[string]any) *house {
	t.Helper()
	if settings == nil {
		settings = map[string]any{}
	}
	settings["secret"] = stripeSecret
	r, err := connect(t, "stripe", map[string]any{"webhook": settings})
	if err != nil {
		t.Fatal(err)
	}
	return open(t, map[string]connectors.Receiver{"stripe": r})
}

// stripeCall signs a body as Stripe's library does.
func (h *house) stripeCall(body []byte, at time.Time) *http.Request {
	s := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: body, Secret: stripeSecret, Timestamp: at})
	return h.request(http.MethodPost, "/in/stripe", bytes.NewReader(body), "Stripe-Signature", s.Header, "Content-Type", "application/json; charset=utf-8")
}

func stripeEvent(id string, amount int) []byte {
	return fmt.Appendf(nil, `{"id":%q,"object":"event","type":"invoice.paid","created":1686089970,"api_version":"2099-01-01.next","data":{"object":{"id":"in_1","customer":"cus_1","amount_paid":%d}}}`, id, amount)
}

func TestStripesJourney(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body   []byte
		late   time.Duration
		change func(*http.Request)
		status int
		result string
	}{
		"genuine, of an API version nobody knows": {body: stripeEvent("evt_1", 1999), status: 200, result: "accepted"},
		"odd spacing":         {body: bytes.ReplaceAll(stripeEvent("evt_1", 1), []byte(","), []byte("\r\n ,\t")), status: 200, result: "accepted"},
		"unicode escapes":     {body: bytes.ReplaceAll(stripeEvent("evt_1", 1), []byte("cus_1"), []byte(`cus_\u0031\ud83d\ude00`)), status: 200, result: "accepted"},
		"1 MiB":               {body: append(stripeEvent("evt_1", 1), bytes.Repeat([]byte(" "), 1<<20-len(stripeEvent("evt_1", 1)))...), status: 200, result: "accepted"},
		"1 MiB and a byte":    {body: append(stripeEvent("evt_1", 1), bytes.Repeat([]byte(" "), 1<<20-len(stripeEvent("evt_1", 1))+1)...), status: 413, result: "too_large"},
		"stale":               {body: stripeEvent("evt_1", 1), late: -302 * time.Second, status: 401, result: "refused"},
		"from the future":     {body: stripeEvent("evt_1", 1), late: 302 * time.Second, status: 401, result: "refused"},
		"no signature":        {body: stripeEvent("evt_1", 1), change: func(r *http.Request) { r.Header.Del("Stripe-Signature") }, status: 401, result: "refused"},
		"not JSON":            {body: []byte("type=invoice.paid"), status: 422, result: "invalid"},
		"a byte order mark":   {body: append([]byte("\xef\xbb\xbf"), stripeEvent("evt_1", 1)...), status: 422, result: "invalid"},
		"an amount twice":     {body: bytes.Replace(stripeEvent("evt_1", 1), []byte(`"amount_paid":1`), []byte(`"amount_paid":1,"amount_paid":2`), 1), status: 422, result: "invalid"},
		"compressed, unasked": {body: stripeEvent("evt_1", 1), change: func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, status: 415, result: "unsupported"},
		"a GET":               {body: nil, change: func(r *http.Request) { r.Method = http.MethodGet }, status: 405, result: "unsupported"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := stripeHub(t, nil)
			req := h.stripeCall(tc.body, time.Now().Add(tc.late))
			if tc.change != nil {
				tc.change(req)
			}
			a := h.do(req)
			if a.status != tc.status || h.received("stripe", tc.result) != 1 {
				t.Fatalf("%d %s, counted as %s %v times", a.status, a.body, tc.result, h.received("stripe", tc.result))
			}
			kept := h.intake.kept()
			if tc.status != 200 {
				isProblem(t, a)
				if len(kept) != 0 {
					t.Error("it was kept")
				}
				return
			}
			if len(kept) != 1 || !bytes.Equal(kept[0].Body, tc.body) || kept[0].ID != "evt_1" || kept[0].Source != "stripe" || kept[0].Extensions["apiversion"] != "2099-01-01.next" {
				t.Errorf("%d kept: %+v", len(kept), kept)
			}
		})
	}
}

func TestOneStripeEventHoweverOftenItComes(t *testing.T) {
	t.Parallel()
	h := stripeHub(t, nil)
	statuses := make([]int, 50)
	var group sync.WaitGroup
	for i := range statuses {
		// Stripe signs each try anew.
		group.Go(func() {
			statuses[i] = h.do(h.stripeCall(stripeEvent("evt_1", 1999), time.Now().Add(time.Duration(-i)*time.Second))).status
		})
	}
	group.Wait()
	for _, s := range statuses {
		if s != 200 {
			t.Fatalf("%v", statuses)
		}
	}
	if a := h.do(h.stripeCall(stripeEvent("evt_1", 1), time.Now())); a.status != 409 {
		t.Errorf("another body: %d", a.status)
	}
	if kept := h.intake.kept(); len(kept) != 1 || kept[0].Key != "cus_1" {
		t.Errorf("%d kept", len(kept))
	}
}

// BenchmarkStripe is the whole way of one call but the network and the intake.
func BenchmarkStripe(b *testing.B) {
	r, err := connect(b, "stripe", map[string]any{"webhook": map[string]any{"secret": stripeSecret}})
	if err != nil {
		b.Fatal(err)
	}
	ear, err := webhooks.New(webhooks.Config{
		Receivers: map[string]connectors.Receiver{"stripe": r}, Intake: open24{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	handler := ear.Handler()
	body, err := os.ReadFile("../connectors/stripe/testdata/invoice.paid.json")
	if err != nil {
		b.Fatal(err)
	}
	s := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: body, Secret: stripeSecret})
	w := &sink{header: http.Header{}}
	req := httptest.NewRequest(http.MethodPost, "/in/stripe", nil)
	req.Header.Set("Stripe-Signature", s.Header)
	req.ContentLength = int64(len(body))
	b.ReportAllocs()
	for b.Loop() {
		req.Body = io.NopCloser(bytes.NewReader(body))
		clear(w.header)
		handler.ServeHTTP(w, req)
	}
}
