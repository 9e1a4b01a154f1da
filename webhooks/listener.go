package webhooks

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// DefaultMaxConnections is the default of ListenerConfig.MaxConnections.
const DefaultMaxConnections = 4096

// ListenerConfig bounds the connections that are open at one time.
type ListenerConfig struct {
	// MaxConnections in all; default 4096. Keep it well below the process's limit of open files.
	MaxConnections int
	// MaxConnectionsPerIP from one IPv4 address or one IPv6 /64; default half of MaxConnections, so that nobody alone can fill the hub. Trusted proxies are exempt.
	MaxConnectionsPerIP int
	// TrustedProxies as in Config.
	TrustedProxies []netip.Prefix
	// Registerer takes the metrics; nil registers them nowhere.
	Registerer prometheus.Registerer
}

// NewListener bounds l. A connection over a bound is closed at once: a queue of strangers would make everybody behind it wait.
func NewListener(l net.Listener, c ListenerConfig) (net.Listener, error) {
	if c.MaxConnections <= 0 {
		c.MaxConnections = DefaultMaxConnections
	}
	if c.MaxConnectionsPerIP <= 0 {
		c.MaxConnectionsPerIP = max(1, c.MaxConnections/2)
	}
	refusals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tidewire_connections_refused_total",
		Help: "Connections of providers closed at once, by the bound they were over: total or address.",
	}, []string{"bound"})
	if c.Registerer != nil {
		var err error
		if refusals, err = register(c.Registerer, refusals); err != nil {
			return nil, err
		}
	}
	return &listener{
		Listener: l, config: c, byIP: make(map[netip.Addr]int),
		overTotal: refusals.WithLabelValues("total"), overIP: refusals.WithLabelValues("address"),
	}, nil
}

type listener struct {
	net.Listener
	config            ListenerConfig
	overTotal, overIP prometheus.Counter

	mu   sync.Mutex
	open int
	byIP map[netip.Addr]int
}

// Accept returns the next connection within the bounds.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer := peerOf(c.RemoteAddr().String())
		ip := group(peer)
		if bound := l.admit(ip, within(l.config.TrustedProxies, peer)); bound != nil {
			bound.Inc()
			_ = c.Close()
			continue
		}
		return &conn{Conn: c, listener: l, ip: ip}, nil
	}
}

// admit counts a connection in, or returns the counter of the bound it is over.
func (l *listener) admit(ip netip.Addr, trusted bool) prometheus.Counter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.config.MaxConnections {
		return l.overTotal
	}
	if l.byIP[ip] >= l.config.MaxConnectionsPerIP && !trusted {
		return l.overIP
	}
	l.open++
	l.byIP[ip]++
	return nil
}

func (l *listener) leave(ip netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.byIP[ip]--; l.byIP[ip] == 0 {
		delete(l.byIP, ip)
	}
}

// group is what counts as one address: whoever has one IPv6 address has all of its /64.
func group(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// conn counts itself out when it is closed, and remembers the last stretch of bytes it was read into.
type conn struct {
	net.Conn
	listener *listener
	ip       netip.Addr
	closed   atomic.Bool
	// last is where the server put what it read last. It is looked at only by a handler that has not read its body yet, on the
	// goroutine that did the reading.
	last []byte
}

// Read remembers p. The server's one-byte reads, which it does beside a handler to see a caller go, are left alone.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if len(p) > 1 {
		c.last = p[:n]
	}
	return n, err
}

// Close closes the connection and gives its place back, once.
func (c *conn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.listener.leave(c.ip)
	}
	return c.Conn.Close()
}

// CloseWrite lets the server say that an answer is over before it lets go of a caller that is still sending.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// ambiguous reports whether the headers of the call that is being handled have both a Transfer-Encoding and a
// Content-Length. net/http takes the second away before a handler sees it, so the bytes have to be asked. They can be when the headers came in one
// piece, as they do; over TLS, and when they were sent in pieces, the answer is no, and all that protects is that the connection is closed.
func ambiguous(ctx context.Context) bool {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return false
	}
	length, transfer := false, false
	for rest := c.last; len(rest) > 0; {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		if !found {
			break
		}
		rest = after
		line = bytes.TrimSuffix(line, []byte("\r"))
		name, _, _ := bytes.Cut(line, []byte(":"))
		switch {
		case len(line) == 0 && transfer:
			return length
		case len(line) == 0:
			length = false
		case strings.EqualFold(string(name), "Content-Length"):
			length = true
		case strings.EqualFold(string(name), "Transfer-Encoding"):
			transfer = true
		}
	}
	return false
}

// isFolded reports whether a header of the call that is being handled goes on in the next line. Readers differ in whether they
// take that for one header, two or none, and no provider writes so. Seen, like ambiguous, where the headers came in one piece.
func isFolded(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return false
	}
	// Only what begins as this call does is its head; what came before it may have been the rest of another's body.
	rest, found := bytes.CutPrefix(c.last, []byte(r.Method))
	if !found || !bytes.HasPrefix(rest, []byte(" "+r.RequestURI+" ")) {
		return false
	}
	for {
		_, after, more := bytes.Cut(rest, []byte("\n"))
		switch {
		case !more || len(after) == 0 || after[0] == '\n' || after[0] == '\r':
			return false
		case after[0] == ' ' || after[0] == '\t':
			return true
		}
		rest = after
	}
}
