package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/time/rate"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/internal/expression"
	"github.com/tidewire/tidewire/internal/failpoint"
	"github.com/tidewire/tidewire/pipeline/mapping"
)

// Route is one compiled route of the config. Compile makes them.
type Route struct {
	// Name is the route's name and its consumer group on the log.
	Name string
	// From names the connections it reads.
	From []string
	// When is the filter; nil lets every event through.
	When *expression.Program
	// WhenHidden: the filter's text holds values from outside the file, and errors must not show it.
	WhenHidden bool
	// Map shapes the payload; nil sends the event's body byte for byte.
	Map *mapping.Map
	// To names the target's connection; Target is that connection.
	To     string
	Target connectors.Target
	// Retry is the route's schedule.
	Retry Retry
	// PerSecond limits the tries per second; 0 is no limit.
	PerSecond float64
	// Timeout bounds one try.
	Timeout time.Duration
	// Concurrency is how many deliveries are being sent at once, at most.
	Concurrency int
	// FromEnd: a route that is new to the log starts with the events that come from now on, not with the oldest kept.
	FromEnd bool
}

// inHand is how many records a route may hold: those being sent, and those whose outcome is being written or that wait for the target.
func (r Route) inHand() int { return min(max(4*r.Concurrency, 64), 1024) }

// runner is a route at work.
type runner struct {
	Route
	gate    *gate
	only    map[string]bool // event types "when" can hold for; nil: any
	log     Log
	ledger  Ledger
	metrics routeMetrics
	logger  *slog.Logger
	flights flights
}

func (p *Pipeline) newRunner(r Route, rest *rest, m routeMetrics) *runner {
	g := &gate{rest: rest, slots: newSlots(r.Concurrency)}
	if r.PerSecond > 0 {
		burst := max(1, int(r.PerSecond/10))
		g.limit = rate.NewLimiter(rate.Limit(r.PerSecond), burst)
		// More than begin within one timeout are never under way; the others would only stand before the limiter, in front of what comes due.
		if most := r.PerSecond*r.Timeout.Seconds() + float64(burst); most < float64(r.Concurrency) {
			g.slots = newSlots(int(math.Ceil(most)))
		}
	}
	run := &runner{Route: r, gate: g, log: p.log, ledger: p.ledger, metrics: m, logger: p.logger.With("route", r.Name)}
	if r.When != nil {
		if types, ok := r.When.Types(); ok {
			run.only = make(map[string]bool, len(types))
			for _, t := range types {
				run.only[t] = true
			}
		}
	}
	return run
}

// key is the order key of a record: within a route, events of one connection with equal keys go one at a time.
func (r *runner) key(m *message.Message) string {
	e, err := recordOf(m).Event()
	if err != nil {
		return ""
	}
	return e.Key
}

// match says whether a record concerns the route. What cannot be decided concerns it: carry turns that into a dead letter.
func (r *runner) match(m *message.Message) bool {
	if r.When == nil {
		return true
	}
	rec := recordOf(m)
	e, err := rec.Event()
	if err != nil {
		return true
	}
	if r.only != nil && !r.only[e.Type] {
		r.metrics.filtered.Inc()
		return false
	}
	holds, err := r.holds(context.Background(), rec)
	if err == nil && !holds {
		r.metrics.filtered.Inc()
		return false
	}
	return true
}

// holds evaluates "when". Its cost limit bounds it more closely than any context.
func (r *runner) holds(ctx context.Context, rec *record) (holds bool, err error) {
	defer caught("the filter of "+r.Name, &err)
	if r.When == nil {
		return true, nil
	}
	in, err := rec.input(r.When.NeedsBody())
	if err != nil {
		return false, err
	}
	return r.When.Bool(ctx, in)
}

var errHidden = errors.New("the filter failed; it holds values from outside the file (${…}), so it is not shown")

// shape makes the payload. reason says which step failed.
func (r *runner) shape(ctx context.Context, rec *record) (body []byte, contentType, reason string, err error) {
	defer func() {
		if err != nil && reason == "" {
			reason = ReasonMapping // it panicked
		}
	}()
	defer caught("the map of "+r.Name, &err)
	e, err := rec.Event()
	if err != nil {
		return nil, "", ReasonUndecodable, err
	}
	if _, err := r.holds(ctx, rec); err != nil {
		if r.WhenHidden {
			err = errHidden
		}
		return nil, "", ReasonFilter, fmt.Errorf("when: %w", err)
	}
	if r.Map == nil {
		return e.Body, e.ContentType, "", nil
	}
	in, err := rec.input(r.Map.NeedsBody())
	if err == nil {
		body, err = r.Map.Run(ctx, in)
	}
	if err != nil {
		return nil, "", ReasonMapping, err
	}
	return body, "application/json", "", nil
}

// handle is the Watermill handler: one record, fresh from the log or redelivered. A nil error acks; then the record is settled or parked,
// durably.
func (r *runner) handle(in reach, m *message.Message) error {
	_ = deepen(0)
	if r.log.Shared() {
		take, cancel := context.WithCancel(in.take)
		defer cancel()
		defer context.AfterFunc(m.Context(), cancel)()
		in.take = take
	}
	rec := recordOf(m)
	e, _ := rec.Event() // an undecodable record becomes a dead letter in carry
	d := Delivery{Route: r.Name, Event: e, At: rec.at}
	if r.log.Shared() {
		leave, err := r.flights.enter(in.take, flight{e.Source, e.ID})
		if err != nil {
			return err
		}
		defer leave()
	}
	failpoint.Hit("before-admit")
	standing, err := r.admit(in, d)
	if err != nil {
		return err
	}
	switch standing {
	case Settled:
		r.metrics.duplicate.Inc()
	case Held:
	case Behind:
		err = r.settle(in, d, Outcome{State: Parked, Reason: ReasonBehind, At: now()})
	case Unknown:
		err = r.carry(in, d, rec)
	}
	failpoint.Hit("before-ack")
	return err
}

// deepen makes room on the stack for all that a delivery calls: a call needs the stack for its whole frame, used or not. Watermill starts a goroutine
// for each message; grown step by step its stack is copied two or three times, each time with more frames on it, which was a thirteenth of
// all the CPU time of the hub.
//
//go:noinline
func deepen(i int) byte {
	if i == 0 {
		return 0
	}
	var room [8 << 10]byte
	return room[i]
}

// admit asks the ledger until it answers: a ledger that is away for a while is no reason to hand records back and forth.
func (r *runner) admit(in reach, d Delivery) (Standing, error) {
	var said string
	for {
		standing, err := r.ledger.Admit(in.take, d)
		if err == nil {
			return standing, nil
		}
		if in.take.Err() != nil {
			return Unknown, errHandedBack
		}
		r.metrics.settleFailures.Inc()
		if text := err.Error(); text != said {
			said = text
			r.logger.Error("the ledger does not answer; trying on", "event", d.Event.ID, "error", err)
		}
		if !sleep(in.take, time.Second) {
			return Unknown, errHandedBack
		}
	}
}

// pause stops the route for a reason that people have to look at.
func (r *runner) pause(reason string, err error) {
	if r.gate.pause(reason) {
		r.metrics.paused.Set(1)
		r.logger.Error("route paused: correct the target and start the hub again; its deliveries are kept",
			"reason", reason, "target", r.To, "error", bounded(err))
	}
}

// deadLetter is the record on the route's dead-letter topic: the event as it was, and why it died. Its UUID is the event's
// connection and ID, so that a repeat after a crash is stored once.
func deadLetter(ctx context.Context, d Delivery, o Outcome) *message.Message {
	m := encode(ctx, d.Event)
	m.UUID = d.Event.Source + "/" + d.Event.ID
	m.Metadata["tidewire_route"] = d.Route
	m.Metadata["tidewire_reason"] = o.Reason
	m.Metadata["tidewire_error"] = o.Error
	m.Metadata["tidewire_attempts"] = strconv.Itoa(d.Attempts)
	m.Metadata["tidewire_died"] = o.At.Format(time.RFC3339Nano)
	return m
}

// input is what expressions see of a record.
func (r *record) input(withBody bool) (*expression.Input, error) {
	e, err := r.Event()
	if err != nil {
		return nil, err
	}
	in := &expression.Input{ID: e.ID, Type: e.Type, Source: e.Source, Subject: e.Subject, Key: e.Key, Time: e.Time, Ext: e.Extensions}
	if withBody {
		if in.Body, err = r.Body(); err != nil {
			return nil, fmt.Errorf("the body cannot be read as JSON: %w", err)
		}
	}
	return in, nil
}
