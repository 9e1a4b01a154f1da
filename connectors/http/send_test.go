package http_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/http"
	"github.com/tidewire/tidewire/connectors/rest"
	"github.com/tidewire/tidewire/connectors/signature"
	"github.com/tidewire/tidewire/event"
)

// got is one request as it arrived.
type got struct {
	*nethttp.Request
	body []byte
}

// sink keeps what it is sent, and answers 200 unless the test wants otherwise.
func sink(t testing.TB, answer nethttp.HandlerFunc) (url string, last func() got) {
	t.Helper()
	var mu sync.Mutex
	var seen got
	s := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		seen = got{r, b}
		mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() got {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func openHTTP(t testing.TB, settings string, own ...netip.AddrPort) connectors.Connection {
	t.Helper()
	n, err := config.ParseNode("test.yaml", []byte(settings), config.Options{Getenv: func(name string) (string, bool) { return "planted-" + name, true }})
	if err != nil {
		t.Fatal(err)
	}
	c, err := http.Connector.Open(n, connectors.Env{Name: "out", Logger: slog.New(slog.DiscardHandler), Own: own})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var order = connectors.Delivery{
	Route: "r", Body: []byte("{\"n\" : 1,\r\n\"s\":\"\\u00e4\"}"), ContentType: "application/json", IdempotencyKey: "dlv_1", Attempt: 1,
	Event: event.Event{
		ID: "evt_1", Source: "shop", Type: "order.paid", Subject: `order "7" ü 5%`, Time: time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.FixedZone("x", 3600)),
		Extensions: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	},
}

func send(t testing.TB, c connectors.Connection, d connectors.Delivery) connectors.Receipt {
	t.Helper()
	r, err := c.(connectors.Target).Send(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRequestOnTheWire(t *testing.T) {
	t.Parallel()
	u, last := sink(t, nil)
	c := openHTTP(t, "url: '"+u+"/a%2Fb?c=d'\nallow_private: true\nmethod: PUT\nheaders: {X-Tenant: acme, X-Key: '${env:KEY}'}")
	if r := send(t, c, order); r.Code != 200 || r.TargetID != "" {
		t.Errorf("got %+v", r)
	}
	g := last()
	if g.Method != "PUT" || g.RequestURI != "/a%2Fb?c=d" || !bytes.Equal(g.body, order.Body) || g.ContentLength != int64(len(order.Body)) {
		t.Errorf("got %s %s %q", g.Method, g.RequestURI, g.body)
	}
	for name, want := range map[string]string{
		"Webhook-Id": "dlv_1", "Idempotency-Key": "dlv_1", "Content-Type": "application/json", "X-Tenant": "acme", "X-Key": "planted-KEY",
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"Ce-Id":       "evt_1", "Ce-Source": "shop", "Ce-Type": "order.paid", "Ce-Specversion": "1.0", "Ce-Time": "2026-01-02T02:04:05.6Z",
		"Ce-Subject": "order%20%227%22%20%C3%BC%205%25", "Webhook-Signature": "", "Authorization": "", "Accept-Encoding": "",
	} {
		if v := strings.Join(g.Header.Values(name), "|"); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if ua := g.UserAgent(); !strings.HasPrefix(ua, "tidewire/") {
		t.Errorf("User-Agent is %q", ua)
	}
	if ts, err := strconv.ParseInt(g.Header.Get("Webhook-Timestamp"), 10, 64); err != nil || time.Since(time.Unix(ts, 0)).Abs() > time.Hour {
		t.Errorf("Webhook-Timestamp is %q", g.Header.Get("Webhook-Timestamp"))
	}
	c = openHTTP(t, "url: '"+u+"'\nallow_private: true\nheaders: {content-type: text/own, user-agent: own}")
	send(t, c, order)
	if g := last(); g.Method != "POST" || g.URL.Path != "/" || len(g.Header.Values("Content-Type")) != 1 || g.Header.Get("Content-Type") != "text/own" || g.UserAgent() != "own" {
		t.Errorf("got %s %s %v", g.Method, g.URL, g.Header)
	}
}

// What is sent passes the verification that others, and the hub's own receiving side, apply.
func TestSignaturesAreVerifiable(t *testing.T) {
	t.Parallel()
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	private := ed25519.NewKeyFromSeed(seed)
	public := base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	u, last := sink(t, nil)
	for name, tt := range map[string]struct {
		sign   string
		verify signature.Settings
	}{
		"standard": {"{scheme: standard-webhooks, secret: " + hookSecret + "}", signature.Settings{Scheme: "standard-webhooks", Secret: config.NewSecret(hookSecret)}},
		"rotation, the new": {"{scheme: standard-webhooks, secrets: [" + hookSecret + ", " + otherSecret + "]}",
			signature.Settings{Scheme: "standard-webhooks", Secret: config.NewSecret(hookSecret)}},
		"rotation, the old": {"{scheme: standard-webhooks, secrets: [" + hookSecret + ", " + otherSecret + "]}",
			signature.Settings{Scheme: "standard-webhooks", Secret: config.NewSecret(otherSecret)}},
		"ed25519 seed": {"{scheme: standard-webhooks-v1a, secret: whsk_" + base64.StdEncoding.EncodeToString(seed) + "}",
			signature.Settings{Scheme: "standard-webhooks-v1a", PublicKey: "whpk_" + public}},
		"github": {"{scheme: github, secret: abc-123456}", signature.Settings{Scheme: "github", Secret: config.NewSecret("abc-123456")}},
		"stripe": {"{scheme: stripe, secret: whsec_abcdefgh}", signature.Settings{Scheme: "stripe", Secret: config.NewSecret("whsec_abcdefgh")}},
		"spelled out": {"{scheme: hmac, secret: abc-123456, header: X-S, encoding: base64, format: {kind: prefix, prefix: 'sha256='}}",
			signature.Settings{Scheme: "hmac", Secret: config.NewSecret("abc-123456"), Header: "X-S", Encoding: "base64", Format: &signature.Format{Kind: "prefix", Prefix: "sha256="}}},
	} {
		c := openHTTP(t, "url: '"+u+"'\nallow_private: true\nsign: "+tt.sign)
		v, err := signature.New(tt.verify)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for range 2 { // the second with a hash that was used before
			send(t, c, order)
			g := last()
			call := signature.Request{Method: g.Method, URL: g.RequestURI, Header: g.Header, Body: g.body, At: time.Now().UTC()}
			if err := v.Verify(call); err != nil {
				t.Errorf("%s: %v (%v)", name, err, g.Header)
			}
			call.Body = append(bytes.Clone(g.body), ' ')
			if v.Verify(call) == nil {
				t.Errorf("%s: a changed body passes", name)
			}
		}
	}
}

func TestEachAttemptIsSignedAnewUnderOneID(t *testing.T) {
	t.Parallel()
	u, last := sink(t, nil)
	c := openHTTP(t, "url: '"+u+"'\nallow_private: true\nsign: {scheme: standard-webhooks, secret: "+hookSecret+"}")
	send(t, c, order)
	first := last()
	again := order
	again.Attempt = 2
	again.Body = []byte("{}")
	send(t, c, again)
	second := last()
	if first.Header.Get("Webhook-Id") != second.Header.Get("Webhook-Id") {
		t.Error("the ID changed with the attempt")
	}
	want := standardSignature(hookSecret, "dlv_1", second.Header.Get("Webhook-Timestamp"), again.Body)
	if got := second.Header.Get("Webhook-Signature"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTargetIDComesFromLocation(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]string{
		"/orders/4711": "4711", "https://x.test/a/b%20c?d": "b%20c", "": "", "/": "", "::": "", "/" + strings.Repeat("x", 300): "",
	} {
		u, _ := sink(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(201)
		})
		if r := send(t, openHTTP(t, "url: '"+u+"'\nallow_private: true"), order); r.Code != 201 || r.TargetID != want {
			t.Errorf("%q: got %+v, want %q", location, r, want)
		}
	}
	u, _ := sink(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) { w.Header().Set("Location", "/orders/4711") })
	if r := send(t, openHTTP(t, "url: '"+u+"'\nallow_private: true"), order); r.TargetID != "" {
		t.Errorf("a 200 made something: %+v", r)
	}
}

func TestConnectionsHaveTheFacesTheirSettingsAskFor(t *testing.T) {
	t.Parallel()
	webhook := "webhook: {verify: {scheme: none}}"
	for settings, want := range map[string]connectors.Faces{
		webhook: {Receive: true}, "url: https://example.com/": {Send: true}, "url: https://example.com/\n" + webhook: {Send: true, Receive: true},
	} {
		c := openHTTP(t, settings)
		_, receives := c.(connectors.Receiver)
		_, sends := c.(connectors.Target)
		_, limits := c.(connectors.Limited)
		_, replies := c.(connectors.Replier)
		_, greets := c.(connectors.Greeter)
		if receives != want.Receive || sends != want.Send || limits != receives || replies != receives || greets != receives {
			t.Errorf("%s: receives %v (%v, %v, %v), sends %v", settings, receives, limits, replies, greets, sends)
		}
	}
}

func TestCheckConnectsAndSendsNothing(t *testing.T) {
	t.Parallel()
	u, last := sink(t, nil)
	if err := openHTTP(t, "url: '"+u+"'\nallow_private: true").Check(t.Context()); err != nil {
		t.Error(err)
	}
	if last().Request != nil {
		t.Error("Check made a request")
	}
	if err := openHTTP(t, "url: '"+u+"'").Check(t.Context()); !errors.Is(err, rest.ErrForbidden) {
		t.Errorf("got %v, want a refusal", err)
	}
	own := netip.MustParseAddrPort(strings.TrimPrefix(u, "http://"))
	if err := openHTTP(t, "url: '"+u+"'\nallow_private: true", own).Check(t.Context()); !errors.Is(err, rest.ErrForbidden) {
		t.Errorf("the hub's own listener: got %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := openHTTP(t, "url: 'http://"+l.Addr().String()+"'\nallow_private: true").Check(t.Context()); err == nil {
		t.Error("Check reaches where nobody listens")
	}
	if err := openHTTP(t, "webhook: {verify: {scheme: none}}").Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// An address can be a secret itself: errors show its host.
func TestErrorsShowTheHostOnly(t *testing.T) {
	t.Parallel()
	u, _ := sink(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.WriteHeader(404)
		io.WriteString(w, "no such hook: "+r.URL.String()+" with "+r.Header.Get("X-Key"))
	})
	c := openHTTP(t, "url: '"+u+"/services/planted-path-token?t=planted-query-token'\nallow_private: true\nheaders: {X-Key: '${env:KEY_OF_THE_SHOP}'}")
	_, err := c.(connectors.Target).Send(t.Context(), order)
	if err == nil || strings.Contains(err.Error(), "planted") || !strings.Contains(err.Error(), "POST "+u+": answered 404 Not Found: no such hook") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.(connectors.Target).Send(ctx, order); err == nil || strings.Contains(err.Error(), "planted") || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
