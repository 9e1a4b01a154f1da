package webhooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/failpoint"
)

// door is one connection's way in.
type door struct {
	name     string
	receiver connectors.Receiver
	replier  connectors.Replier
	greeter  connectors.Greeter
	limits   connectors.Limits
	limiter  *rate.Limiter
	// busy is the answer to a call over the rate.
	busy connectors.Reply
	// methods are those of deliveries, greetings those of the handshake; allow names both, noDelivery the first alone.
	methods, greetings []string
	allow, noDelivery  connectors.Reply

	results counters
	seconds prometheus.Observer
	reasons *prometheus.CounterVec

	// warned holds back warnings about refusals: anybody can cause them. refused counts those since the last.
	warned  rate.Sometimes
	refused atomic.Int64
	// unstored and failures do the same for calls that could not be stored: a full disk meets every call.
	unstored rate.Sometimes
	failures atomic.Int64
}

// warnEvery is how often at most one connection's refusals are warned of; the rest is counted.
const warnEvery = 10 * time.Second

func newDoor(name string, r connectors.Receiver, m metrics) *door {
	d := &door{
		name: name, receiver: r,
		results: m.counters(name), seconds: m.seconds.WithLabelValues(name), reasons: m.reasons,
		warned: rate.Sometimes{Interval: warnEvery}, unstored: rate.Sometimes{Interval: warnEvery},
	}
	d.replier, _ = r.(connectors.Replier)
	d.greeter, _ = r.(connectors.Greeter)
	if l, ok := r.(connectors.Limited); ok {
		d.limits = l.Limits()
	}
	if d.limits.MaxBody <= 0 {
		d.limits.MaxBody = DefaultMaxBody
	}
	if per := d.limits.Rate; per > 0 {
		d.limiter = rate.NewLimiter(rate.Limit(per), max(1, int(math.Ceil(2*per))))
		wait := strconv.Itoa(max(1, int(math.Ceil(1/per))))
		d.busy = problem(http.StatusTooManyRequests, "too many calls: send it again", "Retry-After", wait)
	}
	d.methods = []string{http.MethodPost}
	if len(d.limits.Methods) > 0 {
		d.methods = d.limits.Methods
	}
	if d.greeter != nil {
		d.greetings = d.greeter.Greetings()
	}
	d.noDelivery, d.allow = notBy(d.methods), notBy(slices.Concat(d.methods, d.greetings))
	return d
}

// receive answers one call at /in/{connection}. A panic costs that call an answer of 500 and nothing else.
func (e *Ear) receive(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	if len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) {
		// Whoever is in front of us may have seen another end of this call than we do: nothing that follows it on this
		// connection is to be believed.
		w.Header().Set("Connection", "close")
		if ambiguous(r.Context()) {
			e.unknown[invalid].Inc()
			write(w, unframed)
			return
		}
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		// An answer that a cache on the way gave again would stand for a delivery that never came here.
		w.Header().Set("Cache-Control", "no-store")
	}
	if isFolded(r) {
		e.unknown[invalid].Inc()
		write(w, folded)
		return
	}
	d := e.doors[mux.Vars(r)["connection"]]
	if d == nil {
		e.unknown[unsupported].Inc()
		write(w, noCall)
		return
	}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { //nolint:errorlint // a panic's value is compared as net/http compares it
				panic(p)
			}
			d.results[failed].Inc()
			e.logger.ErrorContext(r.Context(), "webhook call failed: this is a bug in its connector",
				"connection", d.name, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			write(w, broken)
		}
	}()
	reply, n, res := e.call(w, r, d)
	write(w, reply)
	d.results[res].Add(float64(n))
	if res == accepted {
		d.seconds.Observe(time.Since(start).Seconds())
	}
}

// call does the work in its order and says what to answer, how many events or calls that counts for, and as what.
func (e *Ear) call(w http.ResponseWriter, r *http.Request, d *door) (connectors.Reply, int, result) {
	delivers, greets := slices.Contains(d.methods, r.Method), slices.Contains(d.greetings, r.Method)
	if !delivers && !greets {
		return d.allow, 1, unsupported
	}
	if d.limiter != nil && !d.limiter.Allow() {
		return d.busy, 1, rateLimited
	}
	c := connectors.Call{
		Method: r.Method, URL: r.URL, Header: r.Header, Remote: e.caller(r), TLS: r.TLS, Received: e.now().UTC(),
	}
	if greets {
		if reply, ok := d.greeter.Greet(&c); ok {
			return reply, 1, handshake
		}
		if !delivers {
			return d.noDelivery, 1, unsupported
		}
	}
	s := seat{ear: e}
	// The seat is kept until the events are durable: only then has the memory passed to the log.
	defer s.release()
	body, stop := e.body(w, r, d, &s)
	if stop != nil {
		return stop.reply, 1, stop.result
	}
	c.Body = body
	if err := d.receiver.Verify(r.Context(), &c); err != nil {
		e.refusal(r.Context(), d, &c, err)
		return d.answer(&c, connectors.Refused, notSigned), 1, refused
	}
	if d.greeter != nil && !greets {
		if reply, ok := d.greeter.Greet(&c); ok {
			return reply, 1, handshake
		}
	}
	events, err := d.events(&c, r.Header)
	if err != nil {
		e.logger.WarnContext(r.Context(), "webhook call is verified but cannot be read",
			"connection", d.name, "remote", c.Remote, "bytes", len(body), "error", err)
		return d.answer(&c, connectors.Invalid, unreadable(err)), 1, invalid
	}
	if len(events) == 0 {
		return d.answer(&c, connectors.Accepted, done), 1, nothing
	}
	return e.accept(r.Context(), d, &c, events)
}

// accept makes the events durable. All of them or none: a call is one promise.
func (e *Ear) accept(ctx context.Context, d *door, c *connectors.Call, events []event.Event) (connectors.Reply, int, result) {
	failpoint.Hit("before-accept")
	err := e.intake.Accept(ctx, events...)
	failpoint.Hit("after-accept")
	switch {
	case err == nil:
		return d.answer(c, connectors.Accepted, done), len(events), accepted
	case conflicts(err):
		e.logger.WarnContext(ctx, "webhook call refused: an event's id is known with another body",
			"connection", d.name, "remote", c.Remote, "id", events[0].ID, "events", len(events))
		return d.answer(c, connectors.Conflict, conflicting), 1, conflict
	case refuses(err):
		e.logger.WarnContext(ctx, "webhook call refused: an event is larger than the log takes",
			"connection", d.name, "remote", c.Remote, "id", events[0].ID, "bytes", len(c.Body))
		return d.answer(c, connectors.Invalid, overLimit), 1, tooLarge
	}
	d.failures.Add(1)
	d.unstored.Do(func() {
		e.logger.ErrorContext(ctx, "webhook calls not stored, their providers are told to send them again",
			"connection", d.name, "since_last", d.failures.Swap(0), "id", events[0].ID, "events", len(events), "error", err)
	})
	reply := d.answer(c, connectors.Unavailable, e.unavailable)
	if reply.Status < 300 {
		// A provider that hears 2xx forgets the event: no connector may promise that for us.
		reply = e.unavailable
	}
	if reply.Header.Get("Retry-After") == "" {
		reply.Header = maps.Clone(reply.Header)
		if reply.Header == nil {
			reply.Header = http.Header{}
		}
		reply.Header.Set("Retry-After", e.unavailable.Header.Get("Retry-After"))
	}
	return reply, 1, unavailable
}

// events reads the call and completes what only the ear knows of its events.
func (d *door) events(c *connectors.Call, h http.Header) ([]event.Event, error) {
	events, err := d.receiver.Events(c)
	if err != nil {
		return nil, err
	}
	trace := traceparent(h)
	for i := range events {
		ev := &events[i]
		ev.Source = d.name
		ev.Recorded = c.Received
		if ev.Time.IsZero() {
			ev.Time = c.Received
		}
		if trace != "" {
			// A connector may have given the same map to all of them.
			x := make(map[string]string, len(ev.Extensions)+1)
			maps.Copy(x, ev.Extensions)
			x["traceparent"] = trace
			ev.Extensions = x
		}
		if err := ev.Validate(); err != nil {
			return nil, err
		}
	}
	return events, nil
}

func (d *door) answer(c *connectors.Call, v connectors.Verdict, own connectors.Reply) connectors.Reply {
	if d.replier != nil {
		if r, ok := d.replier.Reply(c, v); ok {
			return r
		}
	}
	return own
}

// refusal counts and reports a signature that is not good. The log is told at most once in warnEvery and connection: anybody can cause it.
func (e *Ear) refusal(ctx context.Context, d *door, c *connectors.Call, err error) {
	d.reasons.WithLabelValues(d.name, reason(err)).Inc()
	d.refused.Add(1)
	told := false
	d.warned.Do(func() {
		told = true
		e.logger.WarnContext(ctx, "webhook calls refused: their signatures are not good",
			"connection", d.name, "since_last", d.refused.Swap(0), "remote", c.Remote, "bytes", len(c.Body), "error", err)
	})
	if !told && e.logger.Enabled(ctx, slog.LevelDebug) {
		e.logger.DebugContext(ctx, "webhook call refused", "connection", d.name, "remote", c.Remote, "bytes", len(c.Body), "error", err)
	}
}

func conflicts(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Conflict() bool
	}](err)
	return ok && e.Conflict()
}

func refuses(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Refused() bool
	}](err)
	return ok && e.Refused()
}

// reason is the word for metrics that a receiver's error brings; of a bounded set, because receivers take it from one.
func reason(err error) string {
	if e, ok := errors.AsType[interface {
		error
		Reason() string
	}](err); ok {
		return e.Reason()
	}
	return "refused"
}
