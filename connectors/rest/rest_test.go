package rest_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/tidewire/tidewire/connectors/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client makes a client of settings that must be good.
func client(t testing.TB, s rest.Settings, o rest.Options) *rest.Client {
	t.Helper()
	c := rest.New(s, o, func(key, message, fix string) { t.Errorf("%s %s; %s", key, message, fix) })
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(c.Close)
	return c
}

// problems is what New finds wrong with settings, as "key message".
func problems(s rest.Settings) []string {
	var found []string
	rest.New(s, rest.Options{}, func(key, message, _ string) { found = append(found, key+" "+message) }).Close()
	return found
}

func server(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func to(t testing.TB, method, address string) *rest.Endpoint {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	e, err := rest.NewEndpoint(method, u)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// short is a context that ends soon enough for a test that waits for it.
func short(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// trap listens on an address and counts who comes.
type trap struct {
	net.Listener
	seen atomic.Int64
}

func listen(t testing.TB, address string) *trap {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	tr := &trap{Listener: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tr.seen.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return tr
}

func (t *trap) port() string { return strconv.Itoa(t.Addr().(*net.TCPAddr).Port) }

// names is a name server: answer says which addresses a name has, question by question.
func names(answer func(name string, n int64) []string) *net.Resolver {
	var asked atomic.Int64
	return &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go serveNames(far, func(name string) []string { return answer(name, asked.Add(1)) })
		return near, nil
	}}
}

func serveNames(c net.Conn, answer func(name string) []string) {
	defer c.Close()
	size := make([]byte, 2)
	for {
		if _, err := c.Read(size[:1]); err != nil {
			return
		}
		if _, err := c.Read(size[1:]); err != nil {
			return
		}
		b := make([]byte, int(size[0])<<8|int(size[1]))
		if _, err := c.Read(b); err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b) != nil || len(m.Questions) == 0 {
			return
		}
		q := m.Questions[0]
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		for _, text := range answer(strings.TrimSuffix(q.Name.String(), ".")) {
			ip := net.ParseIP(text)
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
			switch v4 := ip.To4(); {
			case q.Type == dnsmessage.TypeA && v4 != nil:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: [4]byte(v4)}})
			case q.Type == dnsmessage.TypeAAAA && v4 == nil:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: [16]byte(ip.To16())}})
			}
		}
		out, err := m.Pack()
		if err != nil {
			return
		}
		if _, err := c.Write(slices.Concat([]byte{byte(len(out) >> 8), byte(len(out))}, out)); err != nil {
			return
		}
	}
}
