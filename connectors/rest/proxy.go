package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/tidewire/tidewire/config"
)

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// proxied makes requests through a proxy that the user has named. net/http's Transport speaks to it, over guarded
// connections: the proxy itself may have a private address, as most have. Which addresses a target's name stands for only the proxy gets to know; targets
// that are written as an address are judged here.
type proxied struct {
	guard     Guard
	dialer    *dialer
	proxy     hostport
	transport *http.Transport
}

func newProxied(s config.Secret, g Guard, t *tls.Config, r *net.Resolver, report Report) *proxied {
	u, err := url.Parse(s.Reveal())
	if err != nil {
		report("proxy", "is not a URL", "write it as http://host:port")
		return nil
	}
	bare := *u
	bare.User = nil
	e, err := NewEndpoint(http.MethodConnect, &bare)
	if err != nil {
		report("proxy", "cannot be used: "+err.Error(), "write it as http://host:port or http://user:password@host:port")
		return nil
	}
	near := g
	near.AllowPrivate = true
	p := &proxied{guard: g, dialer: newDialer(near, r), proxy: e.to}
	p.transport = &http.Transport{
		Proxy: http.ProxyURL(u), DialContext: p.dialer.dial, TLSClientConfig: t, TLSHandshakeTimeout: dialTimeout,
		DisableCompression: true, MaxIdleConns: idleMax, MaxIdleConnsPerHost: idleMax, IdleConnTimeout: idleFor,
		MaxResponseHeaderBytes: maxHeader, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	return p
}

// judge looks at targets that are addresses already.
func (p *proxied) judge(e *Endpoint) error {
	host, port, err := net.SplitHostPort(e.to.addr)
	if err != nil {
		return err
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		if loopback(strings.TrimSuffix(strings.ToLower(host), ".")) && !p.guard.AllowPrivate {
			return fmt.Errorf("%s is a loopback name: %w", host, ErrForbidden)
		}
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	return p.guard.Judge(netip.AddrPortFrom(a, uint16(n)))
}

func (p *proxied) exchange(ctx context.Context, r *prepared) (*Response, error) {
	u := &url.URL{Scheme: "http", Host: r.to.addr, Opaque: ""}
	if r.to.secure {
		u.Scheme = "https"
	}
	path, query, _ := strings.Cut(r.target, "?")
	u.RawQuery = query
	var err error
	if u.Path, err = url.PathUnescape(path); err != nil {
		return nil, errors.New("the path is not escaped properly")
	}
	u.RawPath = path
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, errors.New("the request cannot be made")
	}
	req.Host = r.host
	for line := range strings.SplitSeq(string(r.static), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			req.Header.Add(name, value)
		}
	}
	for _, f := range r.fields {
		req.Header.Add(f.Name, f.Value)
	}
	res, err := p.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, r.max+1))
	if err != nil {
		return nil, fmt.Errorf("answer %d ended early: %w", res.StatusCode, err)
	}
	out := &Response{Code: res.StatusCode, Header: res.Header, Body: body}
	if int64(len(body)) > r.max {
		out.Body, out.Truncated = body[:r.max], true
	}
	return out, nil
}

// reach connects to the proxy: whether it can reach the target shows with the first request.
func (p *proxied) reach(ctx context.Context, _ hostport) error {
	c, err := p.dialer.dial(ctx, "tcp", p.proxy.addr)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	return c.Close()
}

func (p *proxied) close() { p.transport.CloseIdleConnections() }
