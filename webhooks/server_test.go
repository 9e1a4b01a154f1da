package webhooks_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/webhooks"
)

// pipes is a listener whose connections are pipes, so that time in a test is the bubble's.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.closed) }); return nil }

func (*pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

// bubble runs f against a hub whose clock is the bubble's.
func bubble(t *testing.T, f func(t *testing.T, p *pipes, m *memory)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		logger := slog.New(slog.DiscardHandler)
		ear, err := webhooks.New(webhooks.Config{
			Receivers: map[string]connectors.Receiver{"shop": sealed{}}, Intake: m, Logger: logger,
		})
		if err != nil {
			t.Fatal(err)
		}
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		l, err := webhooks.NewListener(p, webhooks.ListenerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		server := webhooks.NewServer(ear.Handler(), logger, nil)
		done := make(chan error, 1)
		go func() { done <- server.Serve(l) }()
		f(t, p, m)
		_ = server.Close()
		<-done
	})
}

// drip writes s one byte each interval until it is all written or the other side is gone.
func drip(c net.Conn, s string, interval time.Duration) {
	for i := range len(s) {
		if _, err := c.Write([]byte{s[i]}); err != nil {
			return
		}
		time.Sleep(interval) // the bubble's time: nobody waits
	}
}

func TestSlowCallersAreLetGo(t *testing.T) {
	t.Parallel()
	const head = "POST /in/shop HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000\r\n"
	for name, tc := range map[string]struct {
		sent     string
		interval time.Duration
		status   int // 0: closed without a word
		within   time.Duration
	}{
		"says nothing":                    {"", 0, 0, 5 * time.Second},
		"half a header":                   {head[:30], 0, 0, 5 * time.Second},
		"a header byte a second":          {head, time.Second, 0, 5 * time.Second},
		"no body":                         {head + "\r\n", 0, 408, 15 * time.Second},
		"half a body":                     {head + "\r\n" + strings.Repeat("x", 500), 0, 408, 15 * time.Second},
		"a body byte each tenth":          {head + "\r\n" + strings.Repeat("x", 999), 10 * time.Millisecond, 408, 16 * time.Second},
		"chunked, a byte each half":       {strings.Replace(head, "Content-Length: 1000", "Transfer-Encoding: chunked", 1) + "\r\n" + strings.Repeat("1\r\nx\r\n", 999), 20 * time.Millisecond, 408, 16 * time.Second},
		"answered, then says nothing":     {"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n", 0, 200, 61 * time.Second},
		"answered, then half of the next": {"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\nPOST", 0, 200, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *pipes, m *memory) {
				start := time.Now()
				c := p.dial()
				var group sync.WaitGroup
				group.Go(func() { drip(c, tc.sent, tc.interval) })
				said, _ := io.ReadAll(c)
				took := time.Since(start)
				_ = c.Close()
				group.Wait()
				if took > tc.within || took < tc.within-7*time.Second {
					t.Errorf("let go after %v, want about %v", took, tc.within)
				}
				want := ""
				if tc.status != 0 {
					want = fmt.Sprintf("HTTP/1.1 %d ", tc.status)
				}
				if !strings.HasPrefix(string(said), want) || want == "" && len(said) > 0 && !strings.HasPrefix(string(said), "HTTP/1.1 4") {
					t.Errorf("said %q, want %q", said, want)
				}
				if n := len(m.kept()); n != 0 {
					t.Errorf("%d events kept", n)
				}
			})
		})
	}
}

func TestABodyThatKeepsComingHasTheTimeItNeeds(t *testing.T) {
	bubble(t, func(t *testing.T, p *pipes, m *memory) {
		body := strings.Repeat("x", 1<<20)
		c := p.dial()
		defer c.Close()
		var group sync.WaitGroup
		group.Go(func() {
			fmt.Fprintf(c, "POST /in/shop HTTP/1.1\r\nHost: hub\r\nConnection: close\r\nX-Seal: %s\r\nContent-Length: %d\r\n\r\n", seal([]byte(body)), len(body))
			for len(body) > 0 { // 19 s in all, longer than any call may take without bringing anything
				n := min(len(body), 55<<10)
				if _, err := io.WriteString(c, body[:n]); err != nil {
					return
				}
				body = body[n:]
				time.Sleep(time.Second)
			}
		})
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		group.Wait()
		if resp.StatusCode != 200 || len(m.kept()) != 1 {
			t.Errorf("status %d, %d kept", resp.StatusCode, len(m.kept()))
		}
	})
}

func TestACallerThatNeverReadsIsLetGo(t *testing.T) {
	bubble(t, func(t *testing.T, p *pipes, _ *memory) {
		c := p.dial()
		start := time.Now()
		// A pipe holds nothing: the first answer is already stuck.
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		for { // writing fails once the other side is gone
			if _, err := c.Write([]byte("x")); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > 40*time.Second {
			t.Errorf("held for %v", took)
		}
		_ = c.Close()
	})
}

func TestSlowCallersDoNotHurtOthers(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
	slow := make([]net.Conn, 200)
	for i := range slow {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		slow[i] = c
		said := []string{
			"POST /in/shop HTTP/1.1\r\nHost:",
			"POST /in/shop HTTP/1.1\r\nHost: hub\r\nContent-Length: 1048576\r\n\r\nxxx",
			"POST /in/shop HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
			strings.Repeat("GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n", 100), // and never reads
		}[i%4]
		if _, err := io.WriteString(c, said); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if a := h.post("/in/shop", []byte("x"), "X-Id", fmt.Sprint(i)); a.status != 200 {
			t.Fatalf("%+v", a)
		}
	}
	if n := len(h.intake.kept()); n != 100 {
		t.Errorf("%d kept", n)
	}
}

// dialFrom connects from another of this machine's own addresses.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// alive reports whether the hub answers on a connection.
func alive(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n"); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode == 200
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	h := open(t, nil, func(_ *webhooks.Config, l *webhooks.ListenerConfig) {
		l.MaxConnections, l.MaxConnectionsPerIP = 5, 2
		l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
	})
	first, second := dialFrom(t, "127.0.0.2", h.addr), dialFrom(t, "127.0.0.2", h.addr)
	if !alive(first) || !alive(second) {
		t.Fatal("within the bounds, and not served")
	}
	if alive(dialFrom(t, "127.0.0.2", h.addr)) {
		t.Error("a third connection from one address")
	}
	for range 3 {
		if !alive(dialFrom(t, "127.0.0.9", h.addr)) {
			t.Error("a trusted proxy was held to one address's bound")
		}
	}
	if alive(dialFrom(t, "127.0.0.3", h.addr)) {
		t.Error("a sixth connection")
	}
	if total, ip := h.counted("tidewire_connections_refused_total", "bound", "total"), h.counted("tidewire_connections_refused_total", "bound", "address"); total != 1 || ip != 1 {
		t.Errorf("counted %v over the total and %v over an address's bound", total, ip)
	}
	// A place that is given back can be taken again.
	_ = first.Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if alive(dialFrom(t, "127.0.0.3", h.addr)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a closed connection's place was not given back")
		}
	}
}

func TestOneAddressCannotFillTheHub(t *testing.T) {
	t.Parallel()
	h := open(t, nil, func(_ *webhooks.Config, l *webhooks.ListenerConfig) { l.MaxConnections, l.MaxConnectionsPerIP = 4, 0 })
	for i, want := range []bool{true, true, false} {
		if got := alive(dialFrom(t, "127.0.0.2", h.addr)); got != want {
			t.Errorf("connection %d from one address is served: %t", i+1, got)
		}
	}
	if !alive(dialFrom(t, "127.0.0.3", h.addr)) {
		t.Error("another address is not served")
	}
}

// witness is a receiver that remembers who called.
type witness struct {
	sealed
	mu   sync.Mutex
	seen []netip.Addr
}

func (w *witness) Verify(_ context.Context, c *connectors.Call) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, c.Remote)
	return nil
}

func TestWhoCalled(t *testing.T) {
	t.Parallel()
	proxies := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, tc := range map[string]struct {
		trusted   []netip.Prefix
		forwarded []string
		want      string
	}{
		"no proxy trusted":           {nil, []string{"203.0.113.7"}, "127.0.0.1"},
		"one hop":                    {proxies, []string{"203.0.113.7"}, "203.0.113.7"},
		"what the caller put before": {proxies, []string{"1.1.1.1, 203.0.113.7"}, "203.0.113.7"},
		"trusted hops are skipped":   {proxies, []string{"1.1.1.1, 203.0.113.7, 10.1.2.3, fd00::1"}, "203.0.113.7"},
		"in several lines":           {proxies, []string{"1.1.1.1", "203.0.113.7", "10.1.2.3"}, "203.0.113.7"},
		"with ports":                 {proxies, []string{"203.0.113.7:5678, [fd00::1]:99"}, "203.0.113.7"},
		"mapped":                     {proxies, []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		"IPv6":                       {proxies, []string{"2001:db8::7"}, "2001:db8::7"},
		"nonsense":                   {proxies, []string{"203.0.113.7, unknown"}, "127.0.0.1"},
		"nothing":                    {proxies, nil, "127.0.0.1"},
		"all trusted":                {proxies, []string{"10.9.9.9, 10.1.2.3"}, "10.9.9.9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &witness{}
			h := open(t, map[string]connectors.Receiver{"shop": w}, func(c *webhooks.Config, _ *webhooks.ListenerConfig) { c.TrustedProxies = tc.trusted })
			req := h.request(http.MethodPost, "/in/shop", strings.NewReader("x"))
			req.Header["X-Forwarded-For"] = tc.forwarded
			h.do(req)
			if len(w.seen) != 1 || w.seen[0].String() != tc.want {
				t.Errorf("seen %v, want %s", w.seen, tc.want)
			}
		})
	}
}

func TestStoppingWaitsForCallsInHand(t *testing.T) {
	t.Parallel()
	g := gate{entered: make(chan struct{}, 1), open: make(chan struct{})}
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}}, func(c *webhooks.Config, _ *webhooks.ListenerConfig) { c.Intake = g })
	var group sync.WaitGroup
	var got answer
	group.Go(func() { got = h.post("/in/shop", []byte("x")) })
	<-g.entered
	stopped := make(chan error, 1)
	group.Go(func() { stopped <- h.server.Shutdown(t.Context()) })
	for { // the stop has begun once nobody is let in any more
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	select {
	case err := <-stopped:
		t.Errorf("it stopped with a call in hand: %v", err)
	default:
	}
	close(g.open)
	group.Wait()
	if err := <-stopped; err != nil || got.status != 200 {
		t.Errorf("stop: %v; the call in hand: %+v", err, got)
	}
}

func TestAnIntakeThatHangsIsNotWaitedForByACallerThatIsGone(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}}, func(c *webhooks.Config, _ *webhooks.ListenerConfig) {
		c.Intake = hanging{ended}
	})
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST /in/shop HTTP/1.1\r\nHost: hub\r\nX-Seal: %s\r\nContent-Length: 1\r\n\r\nx", seal([]byte("x")))
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// hanging says when it is entered and, once its call is given up, with what.
type hanging struct{ said chan error }

func (g hanging) Accept(ctx context.Context, _ ...event.Event) error {
	g.said <- nil
	<-ctx.Done()
	g.said <- ctx.Err()
	return ctx.Err()
}
