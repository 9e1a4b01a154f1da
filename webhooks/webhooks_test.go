package webhooks_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/webhooks"
)

func TestMain(m *testing.M) {
	// net/http lingers for half a second on a connection whose caller may still be sending.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// memory is an intake that keeps everything, and tells an ID it knows with another body from a repeat.
type memory struct {
	mu     sync.Mutex
	events []event.Event
	bodies map[string][32]byte
	fail   error
	// calls counts Accept, repeats included.
	calls int
}

type clash struct{ error }

func (clash) Conflict() bool { return true }

type oversize struct{ error }

func (oversize) Refused() bool { return true }

func (m *memory) Accept(_ context.Context, events ...event.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.fail != nil {
		return m.fail
	}
	if m.bodies == nil {
		m.bodies = map[string][32]byte{}
	}
	for _, e := range events {
		if sum, known := m.bodies[e.Source+" "+e.ID]; known && sum != sha256.Sum256(e.Body) {
			return clash{errors.New("same id, other body")}
		}
	}
	for _, e := range events {
		if _, known := m.bodies[e.Source+" "+e.ID]; !known {
			m.bodies[e.Source+" "+e.ID] = sha256.Sum256(e.Body)
			m.events = append(m.events, e)
		}
	}
	return nil
}

func (m *memory) kept() []event.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]event.Event(nil), m.events...)
}

func (m *memory) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// sealed is a receiver of calls whose X-Seal is the hex HMAC of the body, and whose X-Id names the one event in it.
type sealed struct{ limits connectors.Limits }

const sealKey = "a key nobody else has"

func seal(body []byte) string {
	mac := hmac.New(sha256.New, []byte(sealKey))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func (s sealed) Limits() connectors.Limits { return s.limits }

func (sealed) Verify(_ context.Context, c *connectors.Call) error {
	if !hmac.Equal([]byte(c.Header.Get("X-Seal")), []byte(seal(c.Body))) {
		return errors.New("the seal is broken: expected another")
	}
	return nil
}

func (sealed) Events(c *connectors.Call) ([]event.Event, error) {
	switch c.Header.Get("X-Mood") {
	case "ping":
		return nil, nil
	case "panic":
		panic("the connector has a bug and names " + sealKey)
	case "gibberish":
		return nil, errors.New("there is no id in it")
	case "unnamed":
		return []event.Event{{ID: "has spaces in it", Type: "t", Body: c.Body}}, nil
	}
	id := c.Header.Get("X-Id")
	if id == "" {
		id = event.Fingerprint(c.Body)
	}
	return []event.Event{{ID: id, Type: "thing.happened", ContentType: c.Header.Get("Content-Type"), Body: c.Body}}, nil
}

// house is a running ear.
type house struct {
	t        *testing.T
	addr     string
	url      string
	intake   *memory
	registry *prometheus.Registry
	log      *lockedBuffer
	server   *http.Server
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func open(t *testing.T, receivers map[string]connectors.Receiver, change ...func(*webhooks.Config, *webhooks.ListenerConfig)) *house {
	t.Helper()
	h := &house{t: t, intake: &memory{}, registry: prometheus.NewRegistry(), log: &lockedBuffer{}}
	c := webhooks.Config{
		Receivers: receivers, Intake: h.intake, Registerer: h.registry,
		Logger: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	lc := webhooks.ListenerConfig{MaxConnections: 2000, MaxConnectionsPerIP: 2000, Registerer: h.registry}
	for _, f := range change {
		f(&c, &lc)
	}
	ear, err := webhooks.New(c)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := webhooks.NewListener(tcp, lc)
	if err != nil {
		t.Fatal(err)
	}
	h.addr = tcp.Addr().String()
	h.url = "http://" + h.addr
	h.server = webhooks.NewServer(ear.Handler(), c.Logger, nil)
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(l) }()
	t.Cleanup(func() {
		_ = h.server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("server ended with %v", err)
		}
	})
	return h
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (h *house) do(req *http.Request) answer {
	h.t.Helper()
	// A connection of its own for each call, so that none is left open behind the test.
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
	resp, err := client.Do(req)
	if err != nil {
		h.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func (h *house) request(method, path string, body io.Reader, headers ...string) *http.Request {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, body)
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

// post sends a sealed body.
func (h *house) post(path string, body []byte, headers ...string) answer {
	h.t.Helper()
	return h.do(h.request(http.MethodPost, path, bytes.NewReader(body), append([]string{"X-Seal", seal(body)}, headers...)...))
}

// raw sends bytes as they are and returns all the answers that come until the hub closes the connection.
func (h *house) raw(request string) []answer {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		h.t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var out []answer
	for r := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return out
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		out = append(out, answer{resp.StatusCode, resp.Header, string(body)})
	}
}

// counted returns a counter's value for a connection and result.
func (h *house) counted(name string, labels ...string) float64 {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if matches(m, labels) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func matches(m *dto.Metric, labels []string) bool {
	for i := 0; i+1 < len(labels); i += 2 {
		found := false
		for _, l := range m.GetLabel() {
			found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
		}
		if !found {
			return false
		}
	}
	return true
}

func (h *house) received(connection, result string) float64 {
	h.t.Helper()
	return h.counted("tidewire_events_received_total", "connection", connection, "result", result)
}

// isProblem checks that an answer is problem+json that says its own status.
func isProblem(t *testing.T, a answer) {
	t.Helper()
	var p struct {
		Type, Title string
		Status      int
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Status != a.status || p.Title == "" || p.Type != "about:blank" {
		t.Errorf("not a problem of status %d: %s (%v)", a.status, a.body, err)
	}
}
