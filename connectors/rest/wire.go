package rest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Bounds of the wire. None is a setting: nobody has a good reason to change one.
const (
	dialTimeout = 10 * time.Second // connect and TLS handshake together
	keepAlive   = 30 * time.Second
	idleFor     = 60 * time.Second // an unused connection is closed after this, before most servers do
	idleMax     = 128              // unused connections kept per client
	maxHeader   = 64 << 10         // bytes of answer headers, trailers included
	oneWrite    = 32 << 10         // a body up to this goes out in one write with its header
)

// wire speaks HTTP/1.1 over guarded connections that it keeps. It exists beside net/http's Transport because it needs no goroutines
// of its own: one exchange is one write and one read by the caller, which costs 40 % less CPU per small POST (measured on loopback)
// on the path that every delivery takes. Answers are read by net/http's own parser. It does not follow redirects, ask for compression
// or switch protocols; there is no HTTP/2, which costs more CPU still for small requests.
type wire struct {
	dialer *dialer
	tls    *tls.Config

	mu     sync.Mutex
	idle   []*conn // oldest first
	timer  *time.Timer
	closed bool
}

// hostport is what connections are shared by.
type hostport struct {
	secure bool
	addr   string // host:port, the port always there
}

func endpoint(u *url.URL) (hostport, error) {
	h := hostport{addr: u.Host}
	port := u.Port()
	switch u.Scheme {
	case "http":
		if port == "" {
			port = "80"
		}
	case "https":
		h.secure = true
		if port == "" {
			port = "443"
		}
	default:
		return h, errors.New("the address begins with neither http:// nor https://")
	}
	if u.Hostname() == "" {
		return h, errors.New("the address has no host")
	}
	h.addr = net.JoinHostPort(u.Hostname(), port)
	return h, nil
}

// conn is one kept connection. It is used by one exchange at a time.
type conn struct {
	net.Conn
	to    hostport
	raw   syscall.RawConn // nil when the connection cannot be looked into
	read  *bufio.Reader
	buf   []byte
	left  int64 // bytes that may still be read
	since time.Time
	used  bool
	abort func()                // ends reads and writes at once
	peek  func(fd uintptr) bool // looks into the socket; made once because it is asked for before every reuse
	quiet bool                  // what peek saw
}

var errTooMuch = errors.New("the answer's header is larger than 64 KiB, or its body's framing is wasteful")

// Read bounds what an answer may cost before and around its body.
func (c *conn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooMuch
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.Conn.Read(p)
	c.left -= int64(n)
	return n, err
}

// get returns a connection: a kept one that is still quiet, or a fresh one.
func (w *wire) get(ctx context.Context, to hostport, fresh bool) (*conn, error) {
	for !fresh {
		c := w.take(to)
		if c == nil {
			break
		}
		if c.alive() {
			return c, nil
		}
		c.Close()
	}
	return w.open(ctx, to)
}

func (w *wire) take(to hostport) *conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.idle) - 1; i >= 0; i-- { // the youngest first, so that spare ones grow old and go
		if c := w.idle[i]; c.to == to {
			w.idle = append(w.idle[:i], w.idle[i+1:]...)
			return c
		}
	}
	return nil
}

// alive reports whether a kept connection can carry another request: the peer has neither closed it nor said
// something unasked. The latter would be read as the answer to the next request.
func (c *conn) alive() bool {
	if c.read.Buffered() > 0 || time.Since(c.since) > idleFor {
		return false
	}
	if c.raw == nil {
		return true
	}
	c.quiet = false
	return c.raw.Read(c.peek) == nil && c.quiet
}

func (w *wire) open(ctx context.Context, to hostport) (*conn, error) {
	w.mu.Lock()
	closed := w.closed
	w.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := w.dialer.dial(ctx, "tcp", to.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, to: to, left: maxHeader}
	if s, ok := nc.(syscall.Conn); ok {
		if c.raw, err = s.SyscallConn(); err != nil {
			nc.Close()
			return nil, err
		}
	}
	if to.secure {
		host, _, _ := net.SplitHostPort(to.addr)
		cfg := w.tls.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName = host
		}
		t := tls.Client(nc, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		c.Conn = t
	}
	c.read = bufio.NewReaderSize(c, 4<<10)
	c.abort = func() { _ = c.SetDeadline(time.Unix(1, 0)) }
	c.peek = func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		c.quiet = n <= 0 && (err == syscall.EAGAIN || err == syscall.EWOULDBLOCK)
		return true
	}
	return c, nil
}

// put keeps c for the next request.
func (w *wire) put(c *conn) {
	c.used, c.since = true, time.Now()
	if cap(c.buf) > 2*oneWrite {
		c.buf = nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		c.Close()
		return
	}
	if len(w.idle) >= idleMax {
		w.idle[0].Close()
		w.idle = append(w.idle[:0], w.idle[1:]...)
	}
	w.idle = append(w.idle, c)
	if w.timer == nil {
		w.timer = time.AfterFunc(idleFor, w.prune)
	}
}

// prune closes what was unused for too long. It runs off a timer that is set only while connections are kept.
func (w *wire) prune() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.idle) && time.Since(w.idle[n].since) >= idleFor {
		w.idle[n].Close()
		n++
	}
	w.idle = append(w.idle[:0], w.idle[n:]...)
	w.timer = nil
	if len(w.idle) > 0 {
		w.timer = time.AfterFunc(idleFor-time.Since(w.idle[0].since)+time.Millisecond, w.prune)
	}
}

func (w *wire) reach(ctx context.Context, to hostport) error {
	c, err := w.open(ctx, to)
	if err != nil {
		return err
	}
	return c.Close()
}

func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, c := range w.idle {
		c.Close()
	}
	w.idle = nil
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// exchange makes one request. A kept connection that turns out to have been closed by the peer before it said a word is no answer, so the
// request is made once more on a fresh one; whether the peer has acted on the first is then unknown, as with any lost answer.
func (w *wire) exchange(ctx context.Context, p *prepared) (*Response, error) {
	c, err := w.get(ctx, p.to, false)
	if err != nil {
		return nil, err
	}
	again := c.used && p.repeatable
	res, err := w.talk(ctx, c, p)
	if _, stale := errors.AsType[staleError](err); stale && again && ctx.Err() == nil {
		if c, err = w.get(ctx, p.to, true); err != nil {
			return nil, err
		}
		res, err = w.talk(ctx, c, p)
	}
	return res, err
}

// staleError says that the peer ended the connection before the first byte of an answer.
type staleError struct{ error }

func (e staleError) Unwrap() error { return e.error }

// talk makes one request on c, and keeps or closes it.
func (w *wire) talk(ctx context.Context, c *conn, p *prepared) (*Response, error) {
	stop := context.AfterFunc(ctx, c.abort)
	res, keep, err := c.talk(p)
	if !stop() {
		keep = false // abort has run or is running: the deadline it sets would meet the next exchange
	}
	if err != nil || !keep {
		c.Close()
	} else {
		w.put(c)
	}
	return res, err
}

func (c *conn) talk(p *prepared) (_ *Response, keep bool, _ error) {
	c.left = maxHeader
	werr := c.send(p)
	// A peer that refuses a large body answers and closes while it is still being written, so its answer counts even then.
	head, err := c.head(p.method) //nolint:bodyclose // its body is this connection, and keep says what becomes of that
	if err != nil {
		if werr != nil {
			err = werr
		}
		return nil, false, err
	}
	c.left = 2*p.max + maxHeader // chunks of one byte would cost six: wasteful, refused
	res := &Response{Code: head.StatusCode, Header: head.Header}
	if res.Body, res.Truncated, err = readBody(head, p.max); err != nil {
		return nil, false, fmt.Errorf("answer %d ended early: %w", res.Code, err)
	}
	return res, werr == nil && !res.Truncated && !head.Close, nil
}

// send writes the request: in one system call when it is small, because each costs as much as everything else here together.
func (c *conn) send(p *prepared) error {
	b := c.buf[:0]
	b = append(b, p.method...)
	b = append(b, ' ')
	b = append(b, p.target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, p.host...)
	b = append(b, '\r', '\n')
	b = append(b, p.static...)
	for _, f := range p.fields {
		b = append(b, f.Name...)
		b = append(b, ':', ' ')
		b = append(b, f.Value...)
		b = append(b, '\r', '\n')
	}
	if p.method != http.MethodGet && p.method != http.MethodHead || len(p.body) > 0 {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(p.body)), 10)
		b = append(b, '\r', '\n')
	}
	b = append(b, '\r', '\n')
	large := len(p.body) > oneWrite
	if !large {
		b = append(b, p.body...)
	}
	c.buf = b
	if _, err := c.Write(b); err != nil {
		return err
	}
	if large {
		if _, err := c.Write(p.body); err != nil {
			return err
		}
	}
	return nil
}

// head reads the answer's status and headers, past at most five informational ones.
func (c *conn) head(method string) (*http.Response, error) {
	if _, err := c.read.Peek(1); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			return nil, staleError{fmt.Errorf("the connection was closed without an answer: %w", err)}
		}
		return nil, err
	}
	asked := &ordinary
	if method == http.MethodHead {
		asked = &headOnly
	}
	for range 6 {
		res, err := http.ReadResponse(c.read, asked)
		if err != nil {
			return nil, unquoted(err)
		}
		if res.StatusCode >= 200 {
			return res, nil
		}
		if res.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	return nil, errors.New("the answer is not a final one (1xx)")
}

// ReadResponse asks a request for nothing but its method.
var (
	ordinary = http.Request{Method: http.MethodPost}
	headOnly = http.Request{Method: http.MethodHead}
)

// unquoted drops the peer's bytes that net/http's parser quotes in its errors: they can be anything, and long.
func unquoted(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the answer ended early: %w", io.ErrUnexpectedEOF)
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, errTooMuch) {
		return err
	}
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok {
		return errors.New("the answer's header is malformed")
	}
	return errors.New("the answer is not HTTP/1.1")
}

// readBody reads at most limit bytes; more says so, and the rest is never read. The body is not closed: that would read it to its end.
func readBody(res *http.Response, limit int64) (body []byte, more bool, err error) {
	if res.ContentLength == 0 || res.Body == http.NoBody {
		return nil, false, nil
	}
	if res.ContentLength > limit {
		body = make([]byte, limit)
		n, err := io.ReadFull(res.Body, body)
		return body[:n], true, err
	}
	if res.ContentLength > 0 {
		body = make([]byte, res.ContentLength)
		n, err := io.ReadFull(res.Body, body)
		return body[:n], false, err
	}
	body, err = io.ReadAll(io.LimitReader(res.Body, min(limit, math.MaxInt64-1)+1))
	if int64(len(body)) > limit {
		return body[:limit], true, nil
	}
	return body, false, err
}
