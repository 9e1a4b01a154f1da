// Package rest is the HTTP client that connectors share: it connects only where its guard allows, follows no redirect, reads no more of an answer
// than its bound, ends with its context, authenticates, and turns answers into errors that say whether to try again and hold no secrets.
package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
)

const (
	defaultMaxResponse = 64 << 10
	defaultTimeout     = 30 * time.Second
)

// Field is one header line.
type Field struct{ Name, Value string }

// Options are what a connector decides about its client, beside the Settings that its user writes.
type Options struct {
	// Fields are sent with every request. Check them with CheckField when they come from settings.
	Fields []Field
	// UserAgent is "tidewire/<version>" when empty.
	UserAgent string
	// Own are the hub's own listeners, which are never connected to.
	Own []netip.AddrPort
	// Secrets are further texts that answers may echo and errors must not show; those in Settings are known already.
	Secrets []config.Secret

	resolver *net.Resolver // tests bring their own name server
}

// Client makes requests. Safe for concurrent use. It starts no goroutines; Close it to let go of its kept connections.
type Client struct {
	via    exchanger
	judge  func(*Endpoint) error // refuses endpoints that the dialer does not get to see; nil when it sees all
	static []byte
	query  string // of an API key that goes into the address
	auth   *tokens
	max    int64
	secret scrubber
}

// exchanger carries one request to its peer and brings the answer.
type exchanger interface {
	exchange(ctx context.Context, p *prepared) (*Response, error)
	// reach connects, and sends nothing.
	reach(ctx context.Context, to hostport) error
	close()
}

// prepared is a request as it goes onto the wire.
type prepared struct {
	method, target, host string
	to                   hostport
	static               []byte // header lines, ready
	fields               []Field
	body                 []byte
	max                  int64
	repeatable           bool // making it twice is no worse than making it once
}

// New makes a client from what the user has set. Every mistake is reported with the setting's key below the connection, what is wrong with it and
// what to do; when there was one the client must not be used.
func New(s Settings, o Options, report Report) *Client {
	c := &Client{max: int64(s.MaxResponse)}
	switch {
	case c.max == 0:
		c.max = defaultMaxResponse
	case c.max < 0 || c.max > 64<<20:
		report("max_response", "is out of range", "write a size up to 64MiB; the default is 64KiB")
	}
	guard := Guard{AllowPrivate: s.AllowPrivate, Allow: s.prefixes(report), Own: o.Own}
	tlsConfig := s.TLS.config(report)
	if s.Proxy.IsZero() {
		c.via = &wire{dialer: newDialer(guard, o.resolver), tls: tlsConfig}
	} else if p := newProxied(s.Proxy, guard, tlsConfig, o.resolver, report); p != nil {
		c.via, c.judge = p, p.judge
	}
	ua := o.UserAgent
	if ua == "" {
		ua = userAgent()
	}
	c.static = appendField(c.static, Field{"User-Agent", ua})
	for _, f := range o.Fields {
		c.static = appendField(c.static, f)
	}
	secrets := append(s.secrets(), o.Secrets...)
	if s.Auth != nil {
		field, query := s.Auth.fixed(report)
		if field.Name != "" {
			c.static = appendField(c.static, field)
			secrets = append(secrets, config.NewSecret(strings.TrimPrefix(field.Value, "Basic ")))
		}
		c.query = query
		c.auth = s.Auth.tokens(c, report)
	}
	c.secret = newScrubber(secrets)
	return c
}

// userAgent is "tidewire/" and the version this binary was built as.
func userAgent() string {
	version := "dev"
	if b, ok := debug.ReadBuildInfo(); ok && strings.HasPrefix(b.Main.Version, "v") {
		version = b.Main.Version[1:]
	}
	return "tidewire/" + version
}

func appendField(b []byte, f Field) []byte {
	b = append(b, f.Name...)
	b = append(b, ": "...)
	b = append(b, f.Value...)
	return append(b, "\r\n"...)
}

// Endpoint is a method and an address, taken apart once so that requests need not.
type Endpoint struct {
	// Label is what errors call a request; "POST https://host/path" unless changed. It must hold no secrets.
	Label  string
	method string
	target string
	host   string
	to     hostport
}

// NewEndpoint checks that requests can be made to u: http or https, a host, and no userinfo, which belongs under auth. Its errors do not show u.
func NewEndpoint(method string, u *url.URL) (*Endpoint, error) {
	to, err := endpoint(u)
	if err != nil {
		return nil, err
	}
	if u.User != nil {
		return nil, errors.New("the address holds a user name or password; write them under auth")
	}
	if err := checkHost(u.Hostname()); err != nil {
		return nil, err
	}
	e := &Endpoint{method: method, target: u.RequestURI(), host: u.Host, to: to}
	if !token(method) || !visible(e.target) {
		return nil, errors.New("the method or address holds spaces or control characters")
	}
	e.Label = method + " " + Redact(u)
	return e, nil
}

// Redact returns the scheme, host and path of u: no user name, password, query or fragment.
func Redact(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// checkHost refuses what is spelled so that this program and another one (a proxy, a C library) might read different addresses.
func checkHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return errors.New("the address names a network interface (%)")
		}
		return nil
	}
	for i := range len(host) {
		if c := host[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"%/:<>?@[\]^|`, c) >= 0 {
			return errors.New("the host is not an ASCII name or an IP address; write international names in their xn-- form")
		}
	}
	last := strings.TrimSuffix(host, ".")
	last = last[strings.LastIndexByte(last, '.')+1:]
	if last == "" || strings.Trim(last, "0123456789") == "" || strings.HasPrefix(strings.ToLower(last), "0x") {
		return errors.New("the host ends in a number but is not an IP address in its usual form")
	}
	return nil
}

// Request is one request to make.
type Request struct {
	Endpoint *Endpoint
	// Fields are header lines beside the client's own. Content-Length is added.
	Fields []Field
	Body   []byte
}

// Response is an answer, read whole or up to the client's bound.
type Response struct {
	Code   int
	Header http.Header
	Body   []byte
	// Truncated says that there was more; it was not read.
	Truncated bool

	label  string
	secret *scrubber
	token  string // that was sent with the request, when there was one
}

// Do makes one request and reads its answer, under ctx or 30 s when ctx has no deadline. An answer of any status is a Response: ask its Err.
// A request is repeated by itself in two cases: once with a fresh token after a 401, and once when a kept connection was closed before a
// single byte of the answer and the request bears an Idempotency-Key or its method is idempotent.
//
// Its errors say what was asked without query or secrets. They are plain (try again), whatever their cause: they speak of the address and the way there,
// forbidden addresses included, not of what was to be sent. Only a field that no request can carry is Permanent.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	p := prepared{
		method: r.Endpoint.method, target: r.Endpoint.target, host: r.Endpoint.host, to: r.Endpoint.to,
		static: c.static, fields: r.Fields, body: r.Body, max: c.max,
		repeatable: r.Endpoint.method != http.MethodPost && r.Endpoint.method != http.MethodPatch,
	}
	for _, f := range r.Fields {
		if err := CheckField(f); err != nil {
			return nil, connectors.Permanent(fmt.Errorf("%s: %w", r.Endpoint.Label, err))
		}
		if f.Name == "Idempotency-Key" {
			p.repeatable = true
		}
	}
	if c.query != "" {
		p.target = withQuery(p.target, c.query)
	}
	if c.judge != nil {
		if err := c.judge(r.Endpoint); err != nil {
			return nil, c.failed(ctx, r.Endpoint.Label, err)
		}
	}
	var res *Response
	var err error
	if c.auth == nil {
		res, err = c.via.exchange(ctx, &p)
	} else {
		res, err = c.auth.exchange(ctx, &p)
	}
	if err != nil {
		return nil, c.failed(ctx, r.Endpoint.Label, err)
	}
	res.label, res.secret = r.Endpoint.Label, &c.secret
	return res, nil
}

func withQuery(target, query string) string {
	if strings.Contains(target, "?") {
		return target + "&" + query
	}
	return target + "?" + query
}

// Reach asks whether the endpoint can be connected to, with TLS where it is https, and for a token where there is an OAuth server. It makes no request to the endpoint.
func (c *Client) Reach(ctx context.Context, e *Endpoint) error {
	label := "connect to " + e.to.addr
	if c.judge != nil {
		if err := c.judge(e); err != nil {
			return c.failed(ctx, label, err)
		}
	}
	if err := c.via.reach(ctx, e.to); err != nil {
		return c.failed(ctx, label, err)
	}
	if c.auth != nil {
		if _, err := c.auth.get(ctx); err != nil {
			return c.failed(ctx, label, err)
		}
	}
	return nil
}

// Close lets go of kept connections. Requests in hand are not cut off. Safe to call twice.
func (c *Client) Close() { c.via.close() }

// failed words an error for people: what was asked, what happened, in bounded text without secrets.
func (c *Client) failed(ctx context.Context, label string, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return fmt.Errorf("%s: %w", label, &plainError{c.secret.clean(err.Error(), 512), err})
}

// plainError is an error whose text has been cleaned. What it wraps can be asked for, but does not print.
type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }
