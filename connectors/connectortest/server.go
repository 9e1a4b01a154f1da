package connectortest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// answer is what the suite's server says to the next requests.
type answer struct {
	code   int
	header map[string]string
	body   string
	do     string // "", or one of the misbehaviours below
}

// The server's misbehaviours.
const (
	reset  = "reset"  // reads the request, then breaks the connection
	silent = "silent" // never answers
	tarpit = "tarpit" // answers with a body that never ends
	huge   = "huge"   // answers with a body of 1 GiB
)

// request is one that the server saw, with its body.
type request struct {
	*http.Request
	body []byte
}

// server plays the target system.
type server struct {
	*httptest.Server
	url   string
	suite Suite
	once  sync.Once

	mu     sync.Mutex
	now    answer
	seen   []request
	conns  map[string]bool // the addresses that have connected
	heard  *sync.Cond      // of one more
	strays int             // requests for where a redirect leads
	sent   int64
}

func newServer(t testing.TB, s Suite) *server {
	v := &server{suite: s, now: answer{code: 200}, conns: make(map[string]bool)}
	v.heard = sync.NewCond(&v.mu)
	v.Server = httptest.NewUnstartedServer(v)
	v.Config.ConnState = func(c net.Conn, st http.ConnState) {
		if st == http.StateNew {
			v.mu.Lock()
			v.conns[c.RemoteAddr().String()] = true
			v.mu.Unlock()
			v.heard.Broadcast()
		}
	}
	v.Start()
	v.url = v.URL
	t.Cleanup(v.close)
	return v
}

func (v *server) close() {
	v.once.Do(func() {
		v.CloseClientConnections()
		v.Close()
	})
}

func (v *server) say(a answer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now, v.seen = a, nil
}

func (v *server) requests() []request {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]request(nil), v.seen...)
}

// connections is how many have been made. A connection is made before the server hears of it, so one of our own is made after all others
// and waited for: the server hears of them in order.
func (v *server) connections() (int, error) {
	own, err := net.Dial("tcp", v.Listener.Addr().String())
	if err != nil {
		return 0, err
	}
	defer own.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	for !v.conns[own.LocalAddr().String()] {
		v.heard.Wait()
	}
	delete(v.conns, own.LocalAddr().String())
	return len(v.conns), nil
}

// ServeHTTP implements http.Handler.
func (v *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if v.suite.Send != nil && v.suite.Send.Before != nil && v.suite.Send.Before(w, r) {
		return
	}
	body, _ := io.ReadAll(r.Body)
	v.mu.Lock()
	if strings.HasPrefix(r.URL.Path, "/stray") {
		v.strays++
	}
	v.seen = append(v.seen, request{r, body})
	a := v.now
	v.mu.Unlock()
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	switch a.do {
	case reset:
		if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		return
	case silent:
		<-r.Context().Done()
		return
	}
	w.WriteHeader(a.code)
	io.WriteString(w, a.body)
	if a.code >= 300 && a.do == "" { // systems like to quote what they did not like
		fmt.Fprintf(w, "you said %v %s %s\x00\x1b[31m%s", r.Header, r.URL, body, strings.Join(v.suite.Secrets, " "))
	}
	switch a.do {
	case tarpit:
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case huge:
		block := make([]byte, 1<<20)
		for range 1 << 10 {
			n, err := w.Write(block)
			v.mu.Lock()
			v.sent += int64(n)
			v.mu.Unlock()
			if err != nil {
				return
			}
		}
	}
}
