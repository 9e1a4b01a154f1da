package webhooks_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/tidewire/tidewire/connectors"
)

// TestMethodsOfDeliveries: a connection takes deliveries by its methods and by no others, and says which.
func TestMethodsOfDeliveries(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{
		"plain": sealed{}, "many": sealed{connectors.Limits{Methods: []string{"PUT", "POST", "DELETE", "GET"}}}, "put": sealed{connectors.Limits{Methods: []string{"PUT"}}},
	})
	takes := map[string]map[string]string{
		"plain": {"POST": ""}, "many": {"PUT": "", "POST": "", "DELETE": "", "GET": ""}, "put": {"PUT": ""},
	}
	allow := map[string]string{"plain": "POST", "many": "DELETE, GET, POST, PUT", "put": "PUT"}
	kept := 0
	for connection, methods := range takes {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			body := []byte(connection + method)
			a := h.do(h.request(method, "/in/"+connection, bytes.NewReader(body), "X-Seal", seal(body), "X-Id", connection+method))
			if kept := a.header.Get("Cache-Control") != "no-store"; kept == (method == "GET" || method == "HEAD") {
				t.Errorf("%s %s: a cache on the way may keep the answer: %t", method, connection, kept)
			}
			if _, taken := methods[method]; taken {
				if kept++; a.status != http.StatusOK {
					t.Errorf("%s %s: %+v", method, connection, a)
				}
				continue
			}
			if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != allow[connection] {
				t.Errorf("%s %s: %d, Allow %q", method, connection, a.status, a.header.Get("Allow"))
			}
		}
	}
	if got := len(h.intake.kept()); got != kept || kept != 6 {
		t.Errorf("%d kept, %d accepted", got, kept)
	}
	for _, e := range h.intake.kept() {
		if string(e.Body) != e.ID {
			t.Errorf("%s has the body %s", e.ID, e.Body)
		}
	}
	if a := h.do(h.request("PUT", "/in/put", bytes.NewReader([]byte("x")), "X-Seal", "no")); a.status != http.StatusUnauthorized {
		t.Errorf("a forged PUT: %d", a.status)
	}
}

// civil is a receiver with a handshake that takes deliveries by GET too.
type civil struct{ polite }

func (civil) Limits() connectors.Limits { return connectors.Limits{Methods: []string{"GET", "POST"}} }

// curt is a receiver whose handshake comes as a delivery does.
type curt struct{ polite }

func (curt) Greetings() []string { return nil }

// TestOnlyMethodsOfTheHandshakeAreAllowed: an address without one is not said to take GET, and nobody is asked about one.
func TestOnlyMethodsOfTheHandshakeAreAllowed(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": curt{}})
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT"} {
		if a := h.do(h.request(method, "/in/shop?challenge=abc", nil)); a.status != 405 || a.header.Get("Allow") != "POST" {
			t.Errorf("%s: %d, Allow %q", method, a.status, a.header.Get("Allow"))
		}
	}
	if a := h.post("/in/shop", []byte("x"), "X-Challenge", "def"); a.status != 200 || a.body != "def" {
		t.Errorf("a handshake by POST: %+v", a)
	}
}

// TestTheHandshakeComesBeforeADelivery: it needs no signature, and what is none is judged as a delivery.
func TestTheHandshakeComesBeforeADelivery(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": civil{}})
	if a := h.do(h.request("GET", "/in/shop?challenge=abc", nil)); a.status != 200 || a.body != "abc" {
		t.Errorf("a handshake: %+v", a)
	}
	if a := h.do(h.request("GET", "/in/shop", nil, "X-Seal", "no")); a.status != 498 {
		t.Errorf("a forged GET: %+v", a)
	}
	if len(h.intake.kept()) != 0 {
		t.Error("something was kept")
	}
	if a := h.do(h.request("GET", "/in/shop", nil, "X-Seal", seal(nil), "X-Id", "e1")); a.status >= 300 || len(h.intake.kept()) != 1 {
		t.Errorf("a delivery: %+v, %d kept", a, len(h.intake.kept()))
	}
	if a := h.do(h.request("HEAD", "/in/shop", nil)); a.status != 405 || a.header.Get("Allow") != "GET, POST" {
		t.Errorf("HEAD: %+v", a)
	}
	if a := h.do(h.request("PATCH", "/in/shop", nil)); a.status != 405 || a.header.Get("Allow") != "GET, HEAD, OPTIONS, POST" {
		t.Errorf("PATCH: %+v", a)
	}
	if got := h.received("shop", "handshake"); got != 1 {
		t.Errorf("%v handshakes", got)
	}
}
