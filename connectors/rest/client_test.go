package rest_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/rest"
)

func TestAuthentication(t *testing.T) {
	t.Parallel()
	seen := server(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s", r.Header.Get("Authorization"), r.Header.Get("X-API-Key")+r.Header.Get("X-Own"), r.URL.RawQuery)
	})
	secret := config.NewSecret("se cret&")
	for name, tt := range map[string]struct {
		auth *rest.Auth
		want string
	}{
		"none":         {nil, "||a=b"},
		"basic":        {&rest.Auth{Scheme: "basic", Username: "u", Password: secret}, "Basic " + base64.StdEncoding.EncodeToString([]byte("u:se cret&")) + "||a=b"},
		"bearer":       {&rest.Auth{Scheme: "bearer", Token: secret}, "Bearer se cret&||a=b"},
		"key":          {&rest.Auth{Scheme: "api_key", Key: secret}, "|se cret&|a=b"},
		"key in own":   {&rest.Auth{Scheme: "api_key", Key: secret, Header: "X-Own"}, "|se cret&|a=b"},
		"key in query": {&rest.Auth{Scheme: "api_key", Key: secret, Query: "k"}, "||a=b&k=se+cret%26"},
	} {
		c := client(t, rest.Settings{AllowPrivate: true, Auth: tt.auth}, rest.Options{})
		res, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", seen+"/?a=b")})
		if err != nil || string(res.Body) != tt.want {
			t.Errorf("%s: got %v, %v; want %s", name, res, err, tt.want)
		}
	}
}

// tokenServer gives out tokens and takes only the last one.
type tokenServer struct {
	mu     sync.Mutex
	given  int
	valid  string
	fail   int // a status, to fail with
	asked  []string
	target atomic.Int64
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/token" {
		user, password, _ := r.BasicAuth()
		b, _ := io.ReadAll(r.Body)
		s.asked = append(s.asked, user+" "+password+" "+string(b))
		if s.fail == http.StatusFound {
			http.Redirect(w, r, "/target?leak=1", s.fail)
			return
		}
		if s.fail > 0 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(s.fail)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"no such client, secret was %s"}`, password)
			return
		}
		s.given++
		s.valid = fmt.Sprintf("token-number-%d", s.given)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, s.valid)
		return
	}
	s.target.Add(1)
	if r.Header.Get("Authorization") != "Bearer "+s.valid {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, "bad token %s", r.Header.Get("Authorization"))
	}
}

func oauth(base string) rest.Settings {
	return rest.Settings{AllowPrivate: true, Auth: &rest.Auth{
		Scheme: "oauth2", TokenURL: base + "/token", ClientID: "client", ClientSecret: config.NewSecret("planted-client-secret"), Scopes: []string{"a", "b"}, Audience: "them",
	}}
}

func TestTokensAreFetchedSharedAndRenewed(t *testing.T) {
	t.Parallel()
	s := &tokenServer{}
	base := server(t, s.ServeHTTP)
	c := client(t, oauth(base), rest.Options{})
	e := to(t, "POST", base+"/target")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if res, err := c.Do(t.Context(), rest.Request{Endpoint: e}); err != nil || res.Code != 200 {
				t.Errorf("got %v, %v", res, err)
			}
		})
	}
	wg.Wait()
	if s.given != 1 || s.asked[0] != "client planted-client-secret audience=them&grant_type=client_credentials&scope=a+b" {
		t.Errorf("%d tokens were fetched for 20 requests at once: %q", s.given, s.asked)
	}
	// Revoked before its time: one more token, one more try.
	s.mu.Lock()
	s.valid = "something else"
	s.mu.Unlock()
	if res, err := c.Do(t.Context(), rest.Request{Endpoint: e}); err != nil || res.Code != 200 || s.given != 2 {
		t.Errorf("got %v, %v after %d tokens", res, err, s.given)
	}
	// A target that takes no token at all is told so, once.
	never := server(t, func(w http.ResponseWriter, r *http.Request) {
		s.target.Add(1)
		w.WriteHeader(401)
		io.WriteString(w, "you sent "+r.Header.Get("Authorization"))
	})
	before := s.target.Load()
	res, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", never)})
	if err != nil || res.Code != 401 || s.target.Load()-before != 2 {
		t.Fatalf("got %v, %v after %d tries", res, err, s.target.Load()-before)
	}
	if err := res.Err(); !connectors.AsFailure(err).Final || strings.Contains(err.Error(), "token-number") {
		t.Errorf("got %v", err)
	}
}

func TestTokenServersThatRefuse(t *testing.T) {
	t.Parallel()
	for _, status := range []int{302, 400, 401, 500} {
		s := &tokenServer{fail: status}
		base := server(t, s.ServeHTTP)
		c := client(t, oauth(base), rest.Options{})
		_, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", base+"/target?key=planted-query")})
		if err == nil || connectors.AsFailure(err).Final || !strings.Contains(err.Error(), "no token from") {
			t.Errorf("%d: got %v, want an error to try again", status, err)
			continue
		}
		if strings.Contains(err.Error(), "planted") {
			t.Errorf("%d: %v shows a secret", status, err)
		}
		if s.target.Load() != 0 {
			t.Errorf("%d: the target was asked without a token, or a redirect was followed", status)
		}
		if err := c.Reach(t.Context(), to(t, "POST", base+"/target")); err == nil {
			t.Errorf("%d: Reach finds nothing wrong", status)
		}
	}
}

func TestWaitingForATokenEndsWithTheContext(t *testing.T) {
	t.Parallel()
	base := server(t, func(_ http.ResponseWriter, r *http.Request) { io.ReadAll(r.Body); <-r.Context().Done() })
	c := client(t, oauth(base), rest.Options{})
	ctx := short(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := c.Do(ctx, rest.Request{Endpoint: to(t, "POST", base+"/target")}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, tt := range []struct {
		code        int
		after, date string
		want        connectors.Failure
	}{
		{code: 301}, {code: 304}, {code: 307, after: "9"}, {code: 400, want: connectors.Failure{Final: true}}, {code: 404, after: "9", want: connectors.Failure{Final: true}},
		{code: 410, want: connectors.Failure{Gone: true}}, {code: 451, want: connectors.Failure{Final: true}}, {code: 408}, {code: 425}, {code: 500}, {code: 599},
		{code: 429, after: "0"}, {code: 429, after: " 3 ", want: connectors.Failure{Wait: 3 * time.Second}}, {code: 429, after: "1.5"}, {code: 429, after: "-1"}, {code: 429, after: "+1"},
		{code: 503, after: "99999999999999999999", want: connectors.Failure{Wait: 365 * 24 * time.Hour}}, {code: 503, after: "9223372036", want: connectors.Failure{Wait: 365 * 24 * time.Hour}},
		{code: 503, after: "Wed, 04 Mar 2026 05:07:07 GMT", want: connectors.Failure{Wait: time.Minute}},
		{code: 503, after: "Wednesday, 04-Mar-26 05:07:07 GMT", want: connectors.Failure{Wait: time.Minute}},
		{code: 503, after: "Wed, 04 Mar 2026 05:07:07 GMT", date: "Wed, 04 Mar 2026 05:06:57 GMT", want: connectors.Failure{Wait: 10 * time.Second}}, // by their clock
		{code: 503, after: "Wed, 04 Mar 2020 05:07:07 GMT"}, {code: 503, after: "tomorrow"},
	} {
		h := http.Header{}
		h.Set("Retry-After", tt.after)
		h.Set("Date", tt.date)
		got := connectors.AsFailure(rest.Judge(tt.code, h, errors.New("x"), now))
		if got.Code != tt.code || got.Final != tt.want.Final || got.Gone != tt.want.Gone || got.Wait != tt.want.Wait {
			t.Errorf("%d, Retry-After %q: got %+v", tt.code, tt.after, got)
		}
	}
}

func TestErrorsHoldNoSecretsAndAreBounded(t *testing.T) {
	t.Parallel()
	const planted = `planted "secret" & more`
	quoted := url.QueryEscape(planted) + " " + base64.StdEncoding.EncodeToString([]byte(planted)) + ` planted \"secret\" \u0026 more `
	u := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			w.Header().Set("Location", "https://user:planted-password@elsewhere.test/planted-path?planted-query")
			w.WriteHeader(302)
			return
		}
		w.WriteHeader(400)
		fmt.Fprintf(w, "%s\r\n\x00\x1b[2J \u202e\xff%s %s %s %s", planted, quoted, r.Header.Get("Authorization"), r.URL, strings.Repeat(planted, 5000))
	})
	c := client(t, rest.Settings{AllowPrivate: true, Auth: &rest.Auth{Scheme: "basic", Username: "u", Password: config.NewSecret(planted)}},
		rest.Options{Secrets: []config.Secret{config.NewSecret("planted-in-query")}})
	res, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u+"/path?key=planted-in-query")})
	if err != nil {
		t.Fatal(err)
	}
	text := res.Err().Error()
	if strings.Contains(text, "plant") || strings.ContainsAny(text, "\x00\x1b\r\n\u202e\ufffd") || !strings.Contains(text, "***") || !strings.Contains(text, "/path: answered 400 Bad Request") {
		t.Errorf("got %q", text)
	}
	if _, excerpt, _ := strings.Cut(text, "Bad Request: "); len(excerpt) > 256 || len(excerpt) < 30 {
		t.Errorf("an excerpt of %d bytes: %q", len(excerpt), excerpt)
	}
	res, err = c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u+"/redirect")})
	if err != nil {
		t.Fatal(err)
	}
	if text := res.Err().Error(); strings.Contains(text, "planted") || !strings.Contains(text, "host elsewhere.test") {
		t.Errorf("got %q", text)
	}
	_, err = c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", "http://planted.invalid.:1/path?planted")})
	if err == nil || strings.Contains(err.Error(), "?") || len(err.Error()) > 800 {
		t.Errorf("got %v", err)
	}
}

func TestFieldsThatCannotBeSent(t *testing.T) {
	t.Parallel()
	c := local(t)
	e := to(t, "POST", server(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was made") }))
	for _, f := range []rest.Field{
		{Name: "A", Value: "b\r\nC: d"}, {Name: "A", Value: "b\nC: d"}, {Name: "A", Value: "b\x00"}, {Name: "A\r\nB", Value: "c"}, {Name: "A B", Value: "c"}, {Name: "", Value: "c"},
		{Name: "A:", Value: "c"}, {Name: "Host", Value: "other"}, {Name: "content-length", Value: "0"}, {Name: "Transfer-Encoding", Value: "chunked"}, {Name: "TE", Value: "trailers"},
		{Name: "Connection", Value: "close"}, {Name: "Upgrade", Value: "h2c"}, {Name: "Expect", Value: "100-continue"},
		{Name: "Trailer", Value: "X"}, {Name: "Keep-Alive", Value: "timeout=1"}, {Name: "Proxy-Connection", Value: "close"}, {Name: "\u00e4", Value: "x"},
	} {
		_, err := c.Do(t.Context(), rest.Request{Endpoint: e, Fields: []rest.Field{f}})
		if err == nil || !connectors.AsFailure(err).Final {
			t.Errorf("%q: got %v, want a permanent error", f, err)
		}
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://example.com/a/b?c=d#e": "POST https://example.com/a/b", "http://[2001:db8::1]:8080/": "POST http://[2001:db8::1]:8080/", "https://example.com.": "POST https://example.com.",
		"https://xn--bcher-kva.example/": "POST https://xn--bcher-kva.example/", "http://127.0.0.1:80/": "POST http://127.0.0.1:80/",
		"ftp://example.com/": "", "https:///a": "", "/a": "", "https://u@example.com": "", "https://bücher.example/": "", "http://0x7f.1/": "", "http://1.2.3/": "", "http://2130706433/": "",
		"http://[fe80::1%25eth0]/": "", "http://a%20b/": "", "mailto:a@b": "", "http://a..1/": "",
	} {
		u, err := url.Parse(text)
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		e, err := rest.NewEndpoint("POST", u)
		switch {
		case err != nil && want != "":
			t.Errorf("%s: %v", text, err)
		case err == nil && e.Label != want:
			t.Errorf("%s: label %q, want %q", text, e.Label, want)
		}
	}
	if _, err := rest.NewEndpoint("GET /x HTTP/1.1\r\nA: b\r\n\r\nPOST", &url.URL{Scheme: "http", Host: "a"}); err == nil {
		t.Error("a method with a line break is accepted")
	}
}

func TestOwnListenersAreNeverReached(t *testing.T) {
	t.Parallel()
	admin := listen(t, "127.0.0.1:0")
	c := client(t, rest.Settings{AllowPrivate: true, AllowAddresses: []string{"127.0.0.0/8", "::1"}},
		rest.Options{Own: []netip.AddrPort{netip.MustParseAddrPort(admin.Addr().String())}})
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", "http://"+host+":"+admin.port())}); !errors.Is(err, rest.ErrForbidden) {
			t.Errorf("%s: got %v", host, err)
		}
	}
	if admin.seen.Load() != 0 {
		t.Error("the hub's own listener was connected to")
	}
}

// Whatever a stranger answers, what is shown of it is bounded, printable and without the secret.
func FuzzClean(f *testing.F) {
	f.Add("planted-secret", "a planted-secret\x00 b\xff planted-secre", 20)
	f.Add("a b&\"", "a+b%26%22", 256)
	f.Fuzz(func(t *testing.T, secret, text string, limit int) {
		limit = max(1, min(limit, 1000))
		got := rest.Clean(secret, text, limit)
		if len(got) > limit || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(got) {
			t.Errorf("got %q", got)
		}
		if len(secret) >= 4 && len(rest.Clean(secret, secret, 1000)) > 3 {
			t.Errorf("the secret %q shows as %q", secret, rest.Clean(secret, secret, 1000))
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "Wed, 04 Mar 2026 05:07:07 GMT")
	f.Add("Wed, 04 Mar 2026 05:07:07 GMT", "x")
	f.Fuzz(func(t *testing.T, after, date string) {
		wait, ok := rest.RetryAfter(http.Header{"Retry-After": {after}, "Date": {date}}, time.Unix(1_700_000_000, 0))
		if wait < 0 || wait > 365*24*time.Hour || !ok && wait != 0 {
			t.Errorf("got %s, %v", wait, ok)
		}
	})
}
