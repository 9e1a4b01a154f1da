package webhooks_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/webhooks"
)

func TestEveryEndOfACall(t *testing.T) {
	t.Parallel()
	body := []byte(`{"id":"evt_1"}`)
	for name, tc := range map[string]struct {
		method, path string
		body         []byte
		headers      []string
		fail         error
		status       int
		connection   string
		result       string
		kept         int
	}{
		"accepted":              {body: body, status: 200, result: "accepted", kept: 1},
		"with a query":          {path: "/in/shop?code=1", body: body, status: 200, result: "accepted", kept: 1},
		"empty":                 {body: nil, status: 200, result: "accepted", kept: 1},
		"nothing in it":         {body: body, headers: []string{"X-Mood", "ping"}, status: 200, result: "nothing"},
		"forged":                {body: body, headers: []string{"X-Seal", strings.Repeat("0", 64)}, status: 401, result: "refused"},
		"seal missing":          {body: body, headers: []string{"X-Seal", ""}, status: 401, result: "refused"},
		"not readable":          {body: body, headers: []string{"X-Mood", "gibberish"}, status: 422, result: "invalid"},
		"an id with spaces":     {body: body, headers: []string{"X-Mood", "unnamed"}, status: 422, result: "invalid"},
		"a bug":                 {body: body, headers: []string{"X-Mood", "panic"}, status: 500, result: "failed"},
		"known otherwise":       {body: body, fail: clash{errors.New("x")}, status: 409, result: "conflict"},
		"conflict, wrapped":     {body: body, fail: fmt.Errorf("publish: %w", clash{errors.New("x")}), status: 409, result: "conflict"},
		"too large for the log": {body: body, fail: oversize{errors.New("x")}, status: 413, result: "too_large"},
		"not durable":           {body: body, fail: errors.New("disk full"), status: 503, result: "unavailable"},
		"get":                   {method: http.MethodGet, status: 405, result: "unsupported"},
		"put":                   {method: http.MethodPut, body: body, status: 405, result: "unsupported"},
		"unheard-of method":     {method: "BREW", status: 405, result: "unsupported"},
		"unknown connection":    {path: "/in/nobody", body: body, status: 404, connection: "-", result: "unsupported"},
		"unknown path":          {path: "/out/shop", body: body, status: 404, connection: "-", result: "unsupported"},
		"deeper path":           {path: "/in/shop/more", body: body, status: 404, connection: "-", result: "unsupported"},
		"doubled slash":         {path: "//in/shop", body: body, status: 404, connection: "-", result: "unsupported"},
		"dots":                  {path: "/in/../in/shop", body: body, status: 404, connection: "-", result: "unsupported"},
		"encoded slash":         {path: "/in%2Fshop", body: body, status: 200, result: "accepted", kept: 1},
		"gzip unasked":          {body: body, headers: []string{"Content-Encoding", "gzip"}, status: 415, result: "unsupported"},
		"brotli":                {body: body, headers: []string{"Content-Encoding", "br"}, status: 415, result: "unsupported"},
		"identity":              {body: body, headers: []string{"Content-Encoding", "identity"}, status: 200, result: "accepted", kept: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
			h.intake.setFail(tc.fail)
			method, path, connection := tc.method, tc.path, tc.connection
			if method == "" {
				method = http.MethodPost
			}
			if path == "" {
				path = "/in/shop"
			}
			switch connection {
			case "":
				connection = "shop"
			case "-":
				connection = ""
			}
			a := h.do(h.request(method, path, bytes.NewReader(tc.body), append([]string{"X-Seal", seal(tc.body)}, tc.headers...)...))
			if a.status != tc.status {
				t.Fatalf("status %d, want %d: %s", a.status, tc.status, a.body)
			}
			if a.status >= 300 {
				isProblem(t, a)
			} else if a.body != "" {
				t.Errorf("body %q", a.body)
			}
			if (a.status == 429 || a.status == 503) != (a.header.Get("Retry-After") != "") {
				t.Errorf("%d with Retry-After %q", a.status, a.header.Get("Retry-After"))
			}
			if (a.status == 405) != (a.header.Get("Allow") != "") {
				t.Errorf("%d with Allow %q", a.status, a.header.Get("Allow"))
			}
			for _, word := range []string{"seal", "expected", "panic", "disk", sealKey} {
				if a.status != 422 && strings.Contains(a.body, word) {
					t.Errorf("the caller was told %q: %s", word, a.body)
				}
			}
			if strings.Contains(h.log.String(), sealKey) {
				t.Error("a panic's words reached the log: they may hold anything")
			}
			if got := len(h.intake.kept()); got != tc.kept {
				t.Errorf("%d events kept, want %d", got, tc.kept)
			}
			if got := h.received(connection, tc.result); got != 1 {
				t.Errorf("%s counted %v times for %q, want 1", tc.result, got, connection)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	if a := h.do(h.request(http.MethodGet, "/healthz", nil)); a.status != 200 || a.body != "ok\n" {
		t.Errorf("%+v", a)
	}
	if a := h.do(h.request(http.MethodPost, "/healthz", nil)); a.status != 405 {
		t.Errorf("%+v", a)
	}
}

func TestAnEventIsCompletedByTheEar(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for i, given := range []string{trace, "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "ff" + trace[2:], strings.ToUpper(trace), trace + "0", ""} {
		if a := h.post("/in/shop", []byte("x"), "X-Id", fmt.Sprint("e", i), "Traceparent", given, "Content-Type", "text/odd"); a.status != 200 {
			t.Fatalf("%+v", a)
		}
	}
	for i, e := range h.intake.kept() {
		if e.Source != "shop" || e.Recorded.IsZero() || e.Time != e.Recorded || e.Recorded.Location().String() != "UTC" || e.ContentType != "text/odd" {
			t.Errorf("%+v", e)
		}
		want := ""
		if i == 0 {
			want = trace
		}
		if got := e.Extensions["traceparent"]; got != want {
			t.Errorf("event %d: traceparent %q, want %q", i, got, want)
		}
	}
}

func TestBytesInAreBytesKept(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{limits: connectors.Limits{Compressed: true}}})
	for name, body := range map[string][]byte{
		"odd spacing":     []byte("{ \"a\" :\t1 ,\r\n\"b\":[ ]}  \n"),
		"unicode escapes": []byte(`{"a":"\u00e9\ud83d\ude00é😀\/"}`),
		"CRLF":            []byte("{\"a\":1}\r\n\r\n"),
		"BOM":             []byte("\xef\xbb\xbf{\"a\":1}"),
		"not UTF-8":       {0, 0xff, 0xfe, 0x80, '\n', 0},
		"1 MiB":           bytes.Repeat([]byte("0123456789abcdef"), 1<<16),
		"big numbers":     []byte(`{"n":9007199254740993,"f":1.10}`),
	} {
		for how, send := range map[string]func() answer{
			"with its length": func() answer { return h.post("/in/shop", body) },
			"chunked": func() answer {
				return h.do(h.request(http.MethodPost, "/in/shop", chunks{bytes.NewReader(body)}, "X-Seal", seal(body)))
			},
			"gzip": func() answer {
				return h.do(h.request(http.MethodPost, "/in/shop", bytes.NewReader(gzipped(body)), "X-Seal", seal(body), "Content-Encoding", "gzip"))
			},
			"deflate": func() answer {
				return h.do(h.request(http.MethodPost, "/in/shop", bytes.NewReader(deflated(body)), "X-Seal", seal(body), "Content-Encoding", "deflate"))
			},
			"bare deflate": func() answer {
				return h.do(h.request(http.MethodPost, "/in/shop", bytes.NewReader(bareDeflated(body)), "X-Seal", seal(body), "Content-Encoding", "deflate"))
			},
		} {
			if how != "with its length" && how != "chunked" && name == "1 MiB" {
				continue // it is made of repeats: rightly over the ratio
			}
			if a := send(); a.status != 200 {
				t.Errorf("%s %s: %d %s", name, how, a.status, a.body)
			}
		}
		want := sha256.Sum256(body)
		found := 0
		for _, e := range h.intake.kept() {
			if sha256.Sum256(e.Body) == want {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%s: %d events have exactly these bytes, want 1 (the same fact each time)", name, found)
		}
	}
}

func TestFiftyAtOnceAreOneEvent(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
	answers := make([]answer, 50)
	var group sync.WaitGroup
	for i := range answers {
		group.Go(func() { answers[i] = h.post("/in/shop", []byte("the same"), "X-Id", "one") })
	}
	group.Wait()
	for _, a := range answers {
		if a.status != 200 || a.body != "" {
			t.Errorf("%+v", a)
		}
	}
	if a := h.post("/in/shop", []byte("another"), "X-Id", "one"); a.status != 409 {
		t.Errorf("other body: %+v", a)
	}
	if got := h.intake.kept(); len(got) != 1 || string(got[0].Body) != "the same" {
		t.Errorf("%d events kept", len(got))
	}
}

func TestAForgedCallBurnsNoID(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
	if a := h.post("/in/shop", []byte("forged"), "X-Id", "one", "X-Seal", "no"); a.status != 401 {
		t.Fatalf("%+v", a)
	}
	if a := h.post("/in/shop", []byte("genuine"), "X-Id", "one"); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	if h.intake.calls != 1 {
		t.Errorf("the intake saw %d calls", h.intake.calls)
	}
}

func TestRefusalsAreCountedAndTheLogIsNotFlooded(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
	for range 50 {
		h.post("/in/shop", []byte("x"), "X-Seal", "no")
	}
	if got := h.counted("tidewire_signatures_refused_total", "connection", "shop", "reason", "refused"); got != 50 {
		t.Errorf("%v refusals counted", got)
	}
	if got := strings.Count(h.log.String(), "level=WARN"); got != 1 {
		t.Errorf("%d warnings", got)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{
		"slow": sealed{limits: connectors.Limits{Rate: 0.001}}, "free": sealed{},
	})
	if a := h.post("/in/slow", []byte("x")); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	a := h.post("/in/slow", []byte("y"))
	if a.status != 429 || a.header.Get("Retry-After") != "1000" {
		t.Errorf("%+v", a)
	}
	isProblem(t, a)
	if a := h.post("/in/free", []byte("y")); a.status != 200 {
		t.Errorf("a neighbour's limit: %+v", a)
	}
	if got := h.received("slow", "rate_limited"); got != 1 {
		t.Errorf("counted %v", got)
	}
}

// polite answers every verdict in its own words and greets whoever asks nicely.
type polite struct{ sealed }

func (polite) Reply(_ *connectors.Call, v connectors.Verdict) (connectors.Reply, bool) {
	switch v {
	case connectors.Accepted:
		return connectors.Reply{Status: 202, ContentType: "text/plain", Body: []byte("[accepted]")}, true
	case connectors.Refused:
		return connectors.Reply{Status: 498}, true
	case connectors.Unavailable:
		return connectors.Reply{Status: 200, Body: []byte("thanks all the same")}, true
	}
	return connectors.Reply{}, false
}

func (polite) Greetings() []string { return []string{"GET", "HEAD", "OPTIONS"} }

func (polite) Greet(c *connectors.Call) (connectors.Reply, bool) {
	word := c.URL.Query().Get("challenge")
	if c.Method == http.MethodPost {
		word = c.Header.Get("X-Challenge")
	}
	return connectors.Reply{Status: 200, ContentType: "text/plain", Body: []byte(word), Header: http.Header{"X-Greeting": {"yes"}}}, word != ""
}

func TestProvidersHaveTheirOwnWords(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": polite{}})
	if a := h.post("/in/shop", []byte("x")); a.status != 202 || a.body != "[accepted]" {
		t.Errorf("accepted: %+v", a)
	}
	if a := h.post("/in/shop", []byte("x"), "X-Mood", "ping"); a.status != 202 {
		t.Errorf("ping: %+v", a)
	}
	if a := h.post("/in/shop", []byte("x"), "X-Seal", "no"); a.status != 498 || a.body != "" {
		t.Errorf("refused: %+v", a)
	}
	if a := h.post("/in/shop", []byte("x"), "X-Mood", "gibberish"); a.status != 422 {
		t.Errorf("invalid: %+v", a)
	}
	h.intake.setFail(errors.New("no disk"))
	if a := h.post("/in/shop", []byte("z")); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("what is not durable was thanked for: %+v", a)
	}
}

func TestHandshakes(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": polite{}})
	for _, method := range []string{http.MethodGet, http.MethodOptions} {
		if a := h.do(h.request(method, "/in/shop?challenge=abc", nil)); a.status != 200 || a.body != "abc" || a.header.Get("X-Greeting") != "yes" {
			t.Errorf("%s: %+v", method, a)
		}
		if a := h.do(h.request(method, "/in/shop", nil)); a.status != 405 {
			t.Errorf("%s without a challenge: %+v", method, a)
		}
	}
	if a := h.do(h.request(http.MethodHead, "/in/shop?challenge=abc", nil)); a.status != 200 {
		t.Errorf("HEAD: %+v", a)
	}
	if a := h.do(h.request(http.MethodDelete, "/in/shop?challenge=abc", nil)); a.status != 405 || !strings.Contains(a.header.Get("Allow"), "OPTIONS") {
		t.Errorf("DELETE: %+v", a)
	}
	if a := h.post("/in/shop", []byte("x"), "X-Challenge", "def"); a.status != 200 || a.body != "def" {
		t.Errorf("POST: %+v", a)
	}
	if a := h.post("/in/shop", []byte("x"), "X-Challenge", "def", "X-Seal", "no"); a.status != 498 {
		t.Errorf("POST that is not verified: %+v", a)
	}
	if len(h.intake.kept()) != 0 {
		t.Error("a handshake was kept")
	}
	if got := h.received("shop", "handshake"); got != 4 {
		t.Errorf("counted %v", got)
	}
}

func TestAnEarThatFollowsAnotherGoesOnCounting(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
	h.post("/in/shop", []byte("x"))
	again := open(t, map[string]connectors.Receiver{"shop": sealed{}}, func(c *webhooks.Config, l *webhooks.ListenerConfig) {
		c.Registerer, l.Registerer = h.registry, h.registry
	})
	again.post("/in/shop", []byte("y"))
	if got := h.received("shop", "accepted"); got != 2 {
		t.Errorf("counted %v", got)
	}
}

func TestWhatAnEarNeeds(t *testing.T) {
	t.Parallel()
	if _, err := webhooks.New(webhooks.Config{}); err == nil {
		t.Error("an ear without an intake")
	}
	if _, err := webhooks.New(webhooks.Config{Intake: &memory{}}); err == nil {
		t.Error("an ear without a logger")
	}
}
