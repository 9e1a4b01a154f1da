package rest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

func basicAuth(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// tokens authenticates requests with OAuth 2 client credentials. The token is fetched when it is first needed, kept until shortly before it
// expires, and shared.
type tokens struct {
	via     exchanger
	server  *Endpoint
	config  *clientcredentials.Config
	http    *http.Client
	fetch   chan struct{} // holds one: who has taken it fetches, the others wait under their own contexts
	current atomic.Pointer[oauth2.Token]
}

// tokens is nil when the scheme needs none. c's exchanger is there already.
func (a *Auth) tokens(c *Client, report Report) *tokens {
	if a.Scheme != "oauth2" || a.TokenURL == "" {
		return nil
	}
	u, err := url.Parse(a.TokenURL)
	if err != nil {
		report("auth.token_url", "is not a URL", "write it as https://host/path")
		return nil
	}
	server, err := NewEndpoint(http.MethodPost, u)
	if err != nil {
		report("auth.token_url", "cannot be used: "+err.Error(), "write it as https://host/path")
		return nil
	}
	if u.Scheme != "https" && !loopback(u.Hostname()) {
		report("auth.token_url", "is not https", "a client secret must not cross a network in the clear")
	}
	server.Label = "POST " + u.Scheme + "://" + u.Host // some paths name a customer, or hold a key
	t := &tokens{
		via: c.via, server: server, fetch: make(chan struct{}, 1),
		config: &clientcredentials.Config{
			ClientID: a.ClientID, ClientSecret: a.ClientSecret.Reveal(), TokenURL: a.TokenURL, Scopes: a.Scopes,
		},
		http: &http.Client{
			Transport:     transport{c},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if a.Audience != "" {
		t.config.EndpointParams = url.Values{"audience": {a.Audience}}
	}
	return t
}

// get returns a token that is valid now.
func (t *tokens) get(ctx context.Context) (*oauth2.Token, error) {
	if k := t.current.Load(); k.Valid() {
		return k, nil
	}
	select {
	case t.fetch <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-t.fetch }()
	if k := t.current.Load(); k.Valid() { // another has fetched it meanwhile
		return k, nil
	}
	k, err := t.config.Token(context.WithValue(ctx, oauth2.HTTPClient, t.http))
	if err != nil {
		return nil, fmt.Errorf("no token from %s: %w", t.server.Label, tokenError(err))
	}
	if CheckField(Field{"Authorization", k.AccessToken}) != nil || k.AccessToken == "" {
		return nil, fmt.Errorf("no token from %s: what it gave is not a token", t.server.Label)
	}
	t.current.Store(k)
	return k, nil
}

// tokenError keeps what helps and drops what may hold the secrets that were sent: the answer's body and the request's address.
func tokenError(err error) error {
	if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		text := "answered without success"
		if r.Response != nil {
			text = fmt.Sprintf("answered %d", r.Response.StatusCode)
		}
		if r.ErrorCode != "" {
			text += " " + r.ErrorCode
		}
		return errors.New(text)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func (t *tokens) exchange(ctx context.Context, p *prepared) (*Response, error) {
	k, err := t.get(ctx)
	if err != nil {
		return nil, err
	}
	plain := p.fields
	p.fields = append(slices.Clip(plain), Field{"Authorization", "Bearer " + k.AccessToken})
	res, err := t.via.exchange(ctx, p)
	if err == nil && res.Code == http.StatusUnauthorized {
		t.current.CompareAndSwap(k, nil) // revoked before its time; whoever comes first fetches another
		if k, err = t.get(ctx); err != nil {
			return nil, err
		}
		p.fields = append(slices.Clip(plain), Field{"Authorization", "Bearer " + k.AccessToken})
		res, err = t.via.exchange(ctx, p)
	}
	if err == nil {
		res.token = k.AccessToken
	}
	return res, err
}

// transport lends the client's guarded wire to packages that want a net/http client. It knows no authentication of the client's.
type transport struct{ c *Client }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	e, err := NewEndpoint(r.Method, r.URL)
	if err != nil {
		return nil, err
	}
	if t.c.judge != nil {
		if err := t.c.judge(e); err != nil {
			return nil, err
		}
	}
	p := prepared{method: e.method, target: e.target, host: e.host, to: e.to, max: t.c.max, repeatable: true,
		static: appendField(nil, Field{"User-Agent", userAgent()})}
	for name, values := range r.Header {
		for _, v := range values {
			f := Field{name, v}
			if err := CheckField(f); err != nil {
				return nil, err
			}
			p.fields = append(p.fields, f)
		}
	}
	if r.Body != nil {
		defer r.Body.Close()
		if p.body, err = io.ReadAll(io.LimitReader(r.Body, 1<<20)); err != nil {
			return nil, err
		}
	}
	res, err := t.c.via.exchange(r.Context(), &p)
	if err != nil {
		return nil, err
	}
	if res.Truncated {
		return nil, fmt.Errorf("answered %d with more than %d bytes", res.Code, p.max)
	}
	return &http.Response{
		StatusCode: res.Code, Status: fmt.Sprintf("%d %s", res.Code, http.StatusText(res.Code)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: res.Header, Body: io.NopCloser(bytes.NewReader(res.Body)), ContentLength: int64(len(res.Body)), Request: r,
	}, nil
}
