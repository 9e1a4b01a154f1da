package connectortest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
)

// Send declares the sending face.
type Send struct {
	// Settings is YAML that asks for this face. A connector that speaks HTTP sends to {{url}}.
	Settings string
	// HTTP says that deliveries are HTTP requests to {{url}}, so that the table of statuses holds.
	HTTP bool
	// Outcomes are the statuses that this system means otherwise than the table in this file.
	Outcomes map[int]Outcome
	// Before answers requests that are not the delivery itself, such as those for tokens, and says whether it has. May be nil.
	Before func(w http.ResponseWriter, r *http.Request) bool
	// Key reads the idempotency key out of a request, for HTTP.
	Key func(r *http.Request, body []byte) string
	// Keys reads the idempotency keys of all deliveries that were taken, in order, for all else. dir is what {{dir}} stood for.
	Keys func(t testing.TB, dir string) []string
}

// Outcome is what a status means for a delivery.
type Outcome string

// The outcomes.
const (
	Delivered Outcome = "delivered"
	Again     Outcome = "try again"
	Permanent Outcome = "permanent"
	Gone      Outcome = "gone"
)

func outcome(err error) Outcome {
	f := connectors.AsFailure(err)
	switch {
	case err == nil:
		return Delivered
	case f.Gone:
		return Gone
	case f.Final:
		return Permanent
	}
	return Again
}

// table is what statuses mean. A redirect is tried again: the address is wrong, not the delivery.
var table = []struct {
	code   int
	want   Outcome
	header map[string]string
	wait   [2]time.Duration // the least and the most
}{
	{code: 200, want: Delivered}, {code: 201, want: Delivered}, {code: 202, want: Delivered}, {code: 204, want: Delivered},
	{code: 301, want: Again}, {code: 302, want: Again}, {code: 303, want: Again}, {code: 307, want: Again}, {code: 308, want: Again},
	{code: 400, want: Permanent}, {code: 401, want: Permanent}, {code: 403, want: Permanent}, {code: 404, want: Permanent}, {code: 405, want: Permanent},
	{code: 409, want: Permanent}, {code: 413, want: Permanent}, {code: 422, want: Permanent},
	{code: 408, want: Again}, {code: 425, want: Again}, {code: 429, want: Again},
	{code: 429, want: Again, header: map[string]string{"Retry-After": "7"}, wait: [2]time.Duration{7 * time.Second, 7 * time.Second}},
	{code: 429, want: Again, header: map[string]string{"Retry-After": "DATE"}, wait: [2]time.Duration{50 * time.Second, 61 * time.Second}},
	{code: 429, want: Again, header: map[string]string{"Retry-After": "soon"}},
	{code: 429, want: Again, header: map[string]string{"Retry-After": "-5"}},
	{code: 410, want: Gone},
	{code: 500, want: Again}, {code: 501, want: Again}, {code: 502, want: Again}, {code: 504, want: Again}, {code: 520, want: Again},
	{code: 503, want: Again},
	{code: 503, want: Again, header: map[string]string{"Retry-After": "120"}, wait: [2]time.Duration{2 * time.Minute, 2 * time.Minute}},
}

// delivery is one to send. Its body is JSON, and not in the form that an encoder would give it.
func delivery(key string) connectors.Delivery {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)
	return connectors.Delivery{
		Route: "suite-route",
		Event: event.Event{
			ID: "evt_suite", Source: "suite", Type: "thing.happened", Subject: "thing 1", Key: "k", Time: at, Recorded: at, ContentType: "application/json",
			Body: []byte(`{"other":true}`), Extensions: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		},
		Body: []byte("{\"n\" : 9007199254740993,\r\n \"s\":\"\\u00e4\" }"), ContentType: "application/json", IdempotencyKey: key, Attempt: 1,
	}
}

func withTimeout(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 20*time.Second)
}

// target opens the sending connection, or returns nil where there is no such face.
func (w *world) target() connectors.Target {
	w.Helper()
	if w.suite.Send == nil {
		return nil
	}
	c := w.open(w.suite.Send.Settings)
	target, ok := c.(connectors.Target)
	if !ok {
		w.Fatalf("the connection is a %T, which is no Target, though its settings ask for sending", c)
	}
	return target
}

// http is target for connectors that speak HTTP.
func (w *world) http() connectors.Target {
	w.Helper()
	if w.suite.Send == nil || !w.suite.Send.HTTP {
		return nil
	}
	return w.target()
}

// grace is how long after its context's end a call may still take: not a measure of speed, but of whether it listens at all.
const grace = 5 * time.Second

func (s Suite) patience() time.Duration {
	if s.grace > 0 {
		return s.grace
	}
	return grace
}

// send is target.Send, given up when it does not end with ctx.
func (s Suite) send(ctx context.Context, target connectors.Target, d connectors.Delivery) (connectors.Receipt, error) {
	type result struct {
		connectors.Receipt
		error
	}
	done := make(chan result, 1)
	go func() {
		r, err := target.Send(ctx, d)
		done <- result{r, err}
	}()
	select {
	case r := <-done:
		return r.Receipt, r.error
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.Receipt, r.error
	case <-time.After(s.patience()):
		return connectors.Receipt{}, connectors.Permanent(errors.New("Send goes on after its context has ended"))
	}
}

func statuses(t testing.TB, s Suite) {
	w := newWorld(t, s)
	target := w.http()
	if target == nil {
		return
	}
	for _, row := range table {
		a := answer{code: row.code, header: map[string]string{}}
		for name, value := range row.header {
			if value == "DATE" {
				value = time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)
			}
			a.header[name] = value
		}
		w.server.say(a)
		ctx, cancel := withTimeout(t)
		receipt, err := s.send(ctx, target, delivery("status-key"))
		cancel()
		what := fmt.Sprintf("%d %v", row.code, row.header)
		want := row.want
		if o, ok := s.Send.Outcomes[row.code]; ok {
			want = o
		}
		if got := outcome(err); got != want {
			t.Errorf("%s: %s, want %s (%v)", what, got, want, err)
			continue
		}
		if err == nil {
			if receipt.Code != row.code {
				t.Errorf("%s: the receipt says %d", what, receipt.Code)
			}
			continue
		}
		w.failure(what, err)
		f := connectors.AsFailure(err)
		if f.Code != row.code {
			t.Errorf("%s: the failure's code is %d", what, f.Code)
		}
		if f.Wait < row.wait[0] || f.Wait > row.wait[1] {
			t.Errorf("%s: wait is %s, want %s to %s", what, f.Wait, row.wait[0], row.wait[1])
		}
	}
}

// failure wants an error fit for a log: no secrets, bounded, on one line.
func (w *world) failure(what string, err error) {
	w.Helper()
	text := err.Error()
	w.clean(what, text)
	if len(text) > 1024 {
		w.Errorf("%s: an error of %d bytes", what, len(text))
	}
	for _, r := range text {
		if r < ' ' || r == 0x7f {
			w.Errorf("%s: the error holds control characters: %q", what, text)
			return
		}
	}
}

func lost(t testing.TB, s Suite) {
	w := newWorld(t, s)
	target := w.target()
	if target == nil {
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.send(ctx, target, delivery("lost-key")); err == nil || outcome(err) != Again || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before it began: got %v, want an error to try again that wraps context.Canceled", err)
	}
	if !s.Send.HTTP {
		return
	}
	for _, do := range []string{reset, silent} {
		w.server.say(answer{code: 200, do: do})
		limit := 5 * time.Second
		if do == silent {
			limit = 200 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		_, err := s.send(ctx, target, delivery("lost-key"))
		cancel()
		if err == nil || outcome(err) != Again {
			t.Errorf("%s: %s (%v), want try again", do, outcome(err), err)
			continue
		}
		if do == silent && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v does not wrap context.DeadlineExceeded", do, err)
		}
		w.failure(do, err)
	}
	// A target that is not there at all.
	w.server.close()
	ctx, cancel = withTimeout(t)
	defer cancel()
	_, err := s.send(ctx, target, delivery("lost-key"))
	if err == nil || outcome(err) != Again {
		t.Errorf("nobody listens: %s (%v), want try again", outcome(err), err)
		return
	}
	w.failure("nobody listens", err)
}

func bounded(t testing.TB, s Suite) {
	w := newWorld(t, s)
	target := w.http()
	if target == nil {
		return
	}
	for _, code := range []int{200, 500} {
		w.server.say(answer{code: code, do: tarpit})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := s.send(ctx, target, delivery("bound-key"))
		if err == nil || outcome(err) != Again {
			t.Errorf("tarpit with %d: %s (%v), want try again", code, outcome(err), err)
		}
		cancel()
		w.server.say(answer{code: code, do: huge})
		ctx, cancel = withTimeout(t)
		_, err = s.send(ctx, target, delivery("bound-key"))
		if want := map[int]Outcome{200: Delivered, 500: Again}[code]; outcome(err) != want {
			t.Errorf("1 GiB with %d: %s (%v), want %s", code, outcome(err), err, want)
		}
		cancel()
	}
	w.server.close()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if w.server.sent > 300<<20 {
		t.Errorf("%d MiB of endless answers were read", w.server.sent>>20)
	}
}

func redirects(t testing.TB, s Suite) {
	w := newWorld(t, s)
	target := w.http()
	if target == nil {
		return
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		for _, to := range []string{w.server.url + "/stray", "/stray", "http://localhost:1/?token=stray-token"} {
			w.server.say(answer{code: code, header: map[string]string{"Location": to}})
			ctx, cancel := withTimeout(t)
			_, err := s.send(ctx, target, delivery("redirect-key"))
			cancel()
			if err == nil {
				t.Errorf("%d to %s counts as delivered", code, to)
				continue
			}
			w.failure("redirect", err)
		}
	}
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if w.server.strays > 0 {
		t.Errorf("%d redirects were followed", w.server.strays)
	}
}

func keys(t testing.TB, s Suite) {
	w := newWorld(t, s)
	target := w.target()
	if target == nil {
		return
	}
	want := []string{"key-one", "key-one", "key-two"} // a second attempt bears the first one's key
	var got []string
	for i, key := range want {
		d := delivery(key)
		d.Attempt = i + 1
		ctx, cancel := withTimeout(t)
		w.server.say(answer{code: 200})
		if _, err := s.send(ctx, target, d); err != nil {
			t.Errorf("send: %v", err)
		}
		cancel()
		if s.Send.HTTP {
			for _, r := range w.server.requests() {
				got = append(got, s.Send.Key(r.Request, r.body))
			}
		}
	}
	if !s.Send.HTTP {
		got = s.Send.Keys(t, w.dir)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the system saw the keys %q, want %q", got, want)
	}
	// Many at once, each whole.
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			ctx, cancel := withTimeout(t)
			defer cancel()
			if _, err := s.send(ctx, target, delivery(fmt.Sprintf("side-by-side-%02d", i))); err != nil {
				t.Errorf("side by side: %v", err)
			}
		})
	}
	wg.Wait()
}
