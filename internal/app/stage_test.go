package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(withServers{m}) }

// withServers are all tests, and the real servers that they share.
type withServers struct{ *testing.M }

// Run runs the tests and ends the servers.
func (m withServers) Run() int {
	defer shared.Close()
	return m.M.Run()
}

const stripeSecret = "whsec_of_the_test"

// client is every test's own, so that no idle connection outlives it.
func client(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// lines is a log that tests read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) logger(config.Log) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// written is a file with a config in it.
func written(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tidewire.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func planOf(t *testing.T, text string, log *lines) *app.Plan {
	t.Helper()
	plan, err := app.Load(written(t, text), log.logger)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// running is a hub under test.
type running struct {
	listen, admin string
	log           *lines
	client        *http.Client
	cancel        context.CancelFunc
	ready         chan struct{} // closed when the hub is
	ended         chan error
}

// serve runs a hub on a config and waits until it is ready. The test's end stops it.
func serve(t *testing.T, text string) *running {
	t.Helper()
	log := new(lines)
	return run(t, planOf(t, text, log), log)
}

func run(t *testing.T, plan *app.Plan, log *lines) *running {
	t.Helper()
	h := begin(t, plan, log)
	select {
	case <-h.ready:
	case err := <-h.ended:
		h.cancel()
		t.Fatalf("the hub did not become ready: %v", err)
	}
	return h
}

// begin runs a hub and waits until its doors answer, which may be long before it is ready.
func begin(t *testing.T, plan *app.Plan, log *lines) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	h := &running{log: log, client: client(t), cancel: cancel, ended: make(chan error, 1), ready: make(chan struct{})}
	listening := make(chan [2]net.Addr, 1)
	go func() {
		h.ended <- app.Serve(ctx, plan, app.Options{
			Version: "v0.0.0-test", Logger: log.logger(plan.Config.Log),
			Listening: func(listen, admin net.Addr) { listening <- [2]net.Addr{listen, admin} },
			Ready:     func(net.Addr, net.Addr) { close(h.ready) },
		})
	}()
	select {
	case at := <-listening:
		h.listen, h.admin = at[0].String(), at[1].String()
	case err := <-h.ended:
		cancel()
		t.Fatalf("the hub did not start: %v", err)
	}
	t.Cleanup(func() { _ = h.stop() })
	return h
}

// stop asks the hub to end and returns what it says; a second time nil.
func (h *running) stop() error {
	h.cancel()
	err := <-h.ended
	h.ended = make(chan error)
	close(h.ended)
	return err
}

// ask gets a page of the admin side.
func (h *running) ask(t *testing.T, path string) (int, string) {
	t.Helper()
	return get(t, h.client, "http://"+h.admin+path)
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, c, req)
}

func do(t *testing.T, c *http.Client, req *http.Request) (int, string) {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// post sends an event as Stripe does, signed with a secret, and returns the answer's status.
func (h *running) post(t *testing.T, body, secret string) int {
	t.Helper()
	return postTo(t, h.client, "http://"+h.listen+"/in/stripe", body, secret)
}

func postTo(t *testing.T, c *http.Client, url, body, secret string) int {
	t.Helper()
	signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(body), Secret: secret})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Stripe-Signature", signed.Header)
	code, _ := do(t, c, req)
	return code
}

// stripeEvent is a paid invoice as Stripe words it.
func stripeEvent(id, customer string) string {
	return fmt.Sprintf(`{"id": %q, "object": "event", "api_version": "2024-06-20", "created": 1767225600, "type": "invoice.paid", "livemode": false,
  "data": {"object": {"id": "in_%s", "object": "invoice", "customer": %q, "customer_name": "Ada", "customer_email": "ada@shop.example",
    "amount_paid": 1999, "currency": "eur", "lines": {"data": [{"description": "Tea", "quantity": 2}]}}}}`, id, id, customer)
}

// call is a request that a target got.
type call struct {
	header http.Header
	body   string
}

// target is a system that is sent to.
type target struct {
	*httptest.Server
	calls chan call
}

// receiving is a target that keeps what it gets and answers with a status; answer may be nil for 200.
func receiving(t *testing.T, answer func(call) int) *target {
	t.Helper()
	x := &target{calls: make(chan call, 1000)}
	x.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller has gone
		}
		c := call{r.Header.Clone(), string(body)}
		code := http.StatusOK
		if answer != nil {
			code = answer(c)
		}
		w.WriteHeader(code)
		x.calls <- c
	}))
	t.Cleanup(x.Close)
	return x
}

// next waits for a call.
func (x *target) next(t *testing.T) call {
	t.Helper()
	select {
	case c := <-x.calls:
		return c
	case <-time.After(patience):
		t.Fatal("the target was not called")
		return call{}
	}
}

// patience is how long a test waits for what has to come. It is no measurement: the machine may be busy.
const patience = time.Minute

// until waits for a condition that something else brings about.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-limit.C:
			t.Fatalf("%s: not so after %s", what, patience)
		}
	}
}

// metric is a metric's value by its name and labels as /metrics writes them; "" when it is not there.
func (h *running) metric(t *testing.T, name string) string {
	t.Helper()
	_, text := h.ask(t, "/metrics")
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// simple is a config with Stripe, one target and one route between them.
func simple(dir, url, more string) string {
	return fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", shutdown_timeout: 5s}
data_dir: %q
connections:
  stripe: {connector: stripe, webhook: {secret: %s}}
  office: {connector: http, url: %q, allow_private: true}
routes:
  all: {from: stripe, to: office%s}
`, dir, stripeSecret, url, more)
}
