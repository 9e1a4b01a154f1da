package connectortest

import (
	"bytes"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
)

// Signed declares one kind of call that the receiving face takes.
type Signed struct {
	// Name of the kind.
	Name string
	// Settings is YAML that asks for this face; the secret in it is Secret.
	Settings string
	// Secret is the right one, Other a wrong one of the same form.
	Secret, Other string
	// Make builds a call as the provider would have made it with that secret at that time. Received is set to the same time. Each result is a fresh one.
	Make func(secret string, body []byte, at time.Time) *connectors.Call
	// Body is a body of this kind.
	Body []byte
	// Protected are the headers that no one may change or leave out.
	Protected []string
	// Tolerance is how far off the provider's clock may be, in both directions; 0 where the scheme signs no time.
	Tolerance time.Duration
	// Unsigned says that the scheme does not cover the body (a bare token, basic authentication).
	Unsigned bool
	// IDs are the identities of the call's events, in order.
	IDs []string
}

var received = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// receiver opens the connection of one kind of call.
func (w *world) receiver(s Signed) connectors.Receiver {
	w.Helper()
	c := w.open(s.Settings)
	r, ok := c.(connectors.Receiver)
	if !ok {
		w.Fatalf("%s: the connection is a %T, which is no Receiver, though its settings ask for receiving", s.Name, c)
	}
	return r
}

func passes(t testing.TB, s Suite) {
	w := newWorld(t, s)
	for _, k := range s.Receive {
		r := w.receiver(k)
		call := k.Make(k.Secret, k.Body, received)
		if err := r.Verify(t.Context(), call); err != nil {
			t.Errorf("%s: a good call is refused: %v", k.Name, err)
			continue
		}
		if !bytes.Equal(call.Body, k.Body) {
			t.Errorf("%s: Verify changed the body", k.Name)
		}
		events, err := r.Events(call)
		if err != nil {
			t.Errorf("%s: %v", k.Name, err)
		}
		var ids []string
		for _, e := range events {
			ids = append(ids, e.ID)
			e.Recorded = received // the hub's to set
			if e.Source == "" {
				e.Source = "suite"
			}
			if err := e.Validate(); err != nil {
				t.Errorf("%s: %v", k.Name, err)
			}
		}
		if !slices.Equal(ids, k.IDs) {
			t.Errorf("%s: the events are %q, want %q", k.Name, ids, k.IDs)
		}
	}
}

func changed(t testing.TB, s Suite) {
	w := newWorld(t, s)
	for _, k := range s.Receive {
		r := w.receiver(k)
		refuse := func(what string, change func(c *connectors.Call)) {
			call := k.Make(k.Secret, slices.Clone(k.Body), received)
			change(call)
			err := r.Verify(t.Context(), call)
			if err == nil {
				t.Errorf("%s: accepted with %s", k.Name, what)
				return
			}
			w.failure(k.Name+" with "+what, err)
		}
		refuse("another secret", func(c *connectors.Call) { *c = *k.Make(k.Other, slices.Clone(k.Body), received) })
		for _, name := range k.Protected {
			refuse(name+" left out", func(c *connectors.Call) { c.Header.Del(name) })
			refuse(name+" empty", func(c *connectors.Call) { c.Header.Set(name, "") })
			refuse(name+" altered", func(c *connectors.Call) { c.Header.Set(name, flip(c.Header.Get(name))) })
			refuse(name+" cut short", func(c *connectors.Call) { v := c.Header.Get(name); c.Header.Set(name, v[:len(v)/2]) })
		}
		if k.Unsigned {
			continue
		}
		refuse("the first byte altered", func(c *connectors.Call) { c.Body[0] ^= 1 })
		refuse("the last byte altered", func(c *connectors.Call) { c.Body[len(c.Body)-1] ^= 1 })
		refuse("a byte more", func(c *connectors.Call) { c.Body = append(c.Body, ' ') })
		refuse("a byte less", func(c *connectors.Call) { c.Body = c.Body[:len(c.Body)-1] })
		refuse("no body", func(c *connectors.Call) { c.Body = nil })
	}
}

// flip changes a letter or digit in the middle of s into another.
func flip(s string) string {
	b := []byte(s)
	for i := len(b) / 2; i < len(b); i++ {
		switch c := b[i]; {
		case c >= '0' && c < '9', c >= 'a' && c < 'f', c >= 'A' && c < 'F':
			b[i]++
			return string(b)
		case c == '9', c == 'f', c == 'F', c > 'f' && c <= 'z', c > 'F' && c <= 'Z':
			b[i]--
			return string(b)
		}
	}
	return s + "0"
}

func clock(t testing.TB, s Suite) {
	w := newWorld(t, s)
	for _, k := range s.Receive {
		if k.Tolerance == 0 {
			continue
		}
		r := w.receiver(k)
		for _, off := range []time.Duration{-k.Tolerance - time.Second, -k.Tolerance + time.Second, k.Tolerance - time.Second, k.Tolerance + time.Second, -24 * time.Hour, 24 * time.Hour} {
			call := k.Make(k.Secret, k.Body, received.Add(off))
			call.Received = received
			err := r.Verify(t.Context(), call)
			if within := off.Abs() < k.Tolerance; within != (err == nil) {
				t.Errorf("%s: signed at %s from our time: got %v", k.Name, off, err)
			}
		}
	}
}

func same(t testing.TB, s Suite) {
	w := newWorld(t, s)
	for _, k := range s.Receive {
		r := w.receiver(k)
		call := k.Make(k.Secret, k.Body, received)
		if err := r.Verify(t.Context(), call); err != nil {
			t.Errorf("%s: %v", k.Name, err)
			continue
		}
		body, header := slices.Clone(call.Body), maps.Clone(map[string][]string(call.Header))
		first, err := r.Events(call)
		if err != nil {
			t.Errorf("%s: %v", k.Name, err)
			continue
		}
		again, err := w.receiver(k).Events(call) // another connection of the same settings, as after a restart
		if err != nil || !reflect.DeepEqual(first, again) {
			t.Errorf("%s: the same call gave %v, then %v (%v)", k.Name, first, again, err)
		}
		if !bytes.Equal(body, call.Body) || !reflect.DeepEqual(http.Header(header), call.Header) {
			t.Errorf("%s: Events changed the call", k.Name)
		}
	}
}
