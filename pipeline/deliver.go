package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v4"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/failpoint"
)

// Reasons an outcome is given; also what dead letters can be searched by.
const (
	ReasonUndecodable = "undecodable" // the log record holds no event
	ReasonFilter      = "filter"      // the route's "when" fails on this event
	ReasonMapping     = "mapping"     // the route's "map" fails on this event
	ReasonPermanent   = "permanent"   // the target refused it for good
	ReasonExhausted   = "exhausted"   // too many attempts, or too old
	ReasonTransient   = "transient"   // failed, to be tried again
	ReasonGone        = "gone"        // the target's address is no more; the route is paused
	ReasonBehind      = "behind"      // elders of its key are parked
)

// errHandedBack ends the handling of a delivery that was not tried, because the hub stops: nothing is written. It is a
// context.Canceled so that Watermill's router does not report it as a failure.
var errHandedBack = fmt.Errorf("the hub is stopping: %w", context.Canceled)

// maxErrorText bounds the error text that is stored, logged and put on dead letters.
const maxErrorText = 500

// reach is how long the two steps of a stop leave a delivery: no new try is begun once take has ended, and the one under way is
// cut off when work ends.
type reach struct {
	take, work context.Context
	// lease is the lease of a delivery from Due as it stands; nil for one that comes fresh from the log.
	lease func() time.Time
}

// carry brings one delivery to an outcome and writes that down. First tries, retries of parked deliveries and replays all come
// through here. It returns nil when the outcome is durable, errHandedBack when nothing was tried or written.
func (r *runner) carry(in reach, d Delivery, rec *record) error {
	failpoint.Hit("before-map")
	d, o, err := r.attempt(in, d, rec)
	if err != nil {
		return err
	}
	if o.State == Parked {
		d.Parks++
	}
	return r.settle(in, d, o)
}

// attempt maps and sends until there is an outcome.
func (r *runner) attempt(in reach, d Delivery, rec *record) (Delivery, Outcome, error) {
	body, contentType, reason, err := r.shape(in.work, rec)
	if err != nil && in.work.Err() != nil {
		return d, Outcome{}, errHandedBack // an expression that was cut short says nothing of the event
	}
	if err != nil {
		r.logger.Warn("delivery is a dead letter before its first attempt", "event", d.Event.ID, "type", d.Event.Type, "target", r.To,
			"outcome", Dead, "reason", reason, "error", bounded(err))
		return d, Outcome{State: Dead, Reason: reason, Error: bounded(err), At: now()}, nil
	}
	send := connectors.Delivery{
		Route: r.Name, Event: d.Event, Body: body, ContentType: contentType,
		IdempotencyKey: idempotencyKey(d),
	}
	fresh, since := d.Parks == 0 && d.Attempts == 0, time.Now()
	var pauses backoff.BackOff // made when it is needed, which is seldom
	for tries := 1; ; tries++ {
		leave, err := r.gate.enter(in.take, d.Number != 0)
		if err != nil {
			if tries == 1 {
				return d, Outcome{}, errHandedBack
			}
			return d, r.parked(d, ReasonTransient, 0), nil
		}
		d.Attempts++
		send.Attempt = d.Attempts
		began := now()
		if d.First.IsZero() {
			d.First = began
		}
		receipt, sendErr := r.send(in.work, send)
		took := time.Since(began)
		if sendErr != nil && in.work.Err() != nil {
			leave(errNoVerdict)
			return d, Outcome{}, errHandedBack
		}
		failure := connectors.AsFailure(sendErr)
		d.History = remember(d.History, Attempt{At: began, Duration: took, Code: max(receipt.Code, failure.Code), Error: bounded(sendErr)})
		o, verdict := r.decide(d, receipt, sendErr, failure)
		o.Duration = took
		if verdict != nil && d.Attempts > 1 {
			verdict = errAgain
		}
		leave(verdict)
		pause := backoff.Stop
		if fresh && o.State == Parked && o.Reason == ReasonTransient && tries < quickTries && failure.Wait == 0 {
			if pauses == nil {
				pauses = quick(time.Since(since))
			}
			pause = pauses.NextBackOff()
		}
		r.report(in.work, d, o, pause)
		if pause == backoff.Stop || !sleep(in.take, pause) {
			return d, o, nil
		}
	}
}

// decide is the one place where the result of a try becomes an outcome. verdict is what the breaker hears: an error only
// when it speaks against the target and not against this delivery.
func (r *runner) decide(d Delivery, receipt connectors.Receipt, err error, f connectors.Failure) (o Outcome, verdict error) {
	switch {
	case err == nil:
		return Outcome{State: Delivered, Code: receipt.Code, TargetID: receipt.TargetID, At: now()}, nil
	case f.Gone:
		r.pause(ReasonGone, err)
		o = r.parked(d, ReasonGone, f.Wait)
	case f.Final:
		o = Outcome{State: Dead, Reason: ReasonPermanent, At: now()}
	case r.Retry.spent(d, time.Now()):
		o, verdict = Outcome{State: Dead, Reason: ReasonExhausted, At: now()}, err
	default:
		o, verdict = r.parked(d, ReasonTransient, f.Wait), err
	}
	o.Code, o.Error = f.Code, bounded(err)
	return o, verdict
}

// parked is the outcome of a failed round.
func (r *runner) parked(d Delivery, reason string, asked time.Duration) Outcome {
	at := now()
	o := Outcome{State: Parked, Reason: reason, At: at, Next: at.Add(r.Retry.wait(d.Parks, asked))}
	if n := len(d.History); n > 0 {
		o.Error, o.Code = d.History[n-1].Error, d.History[n-1].Code
	}
	return o
}

// send makes one try within the route's timeout. A connector that panics fails this try and nothing else.
func (r *runner) send(work context.Context, d connectors.Delivery) (receipt connectors.Receipt, err error) {
	ctx, cancel := context.WithTimeout(work, r.Timeout)
	defer cancel()
	defer caught("connector of "+r.To, &err)
	failpoint.Hit("before-send")
	receipt, err = r.Target.Send(ctx, d)
	failpoint.Hit("after-send")
	if err != nil && ctx.Err() != nil && work.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = connectors.WithCode(fmt.Errorf("%s gave no answer within %s (the route's timeout)", r.To, r.Timeout), connectors.AsFailure(err).Code)
	}
	return receipt, err
}

// caught, deferred, makes an error of a panic: one event must not take the hub down, again at every start. What a panic says beside the runtime's own
// words may hold anything, so only its type is told.
func caught(what string, err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		*err = fmt.Errorf("%s panicked: %w", what, p)
	default:
		*err = fmt.Errorf("%s panicked with a %T", what, p)
	}
}

// settle writes an outcome down and goes on trying until it is durable: what the target has must not be sent again because the
// store was away for a while. Only the end of the hub stops it, after a last try that the end does not cut short; then the delivery comes
// again and bears the same idempotency key.
func (r *runner) settle(in reach, d Delivery, o Outcome) error {
	var pauses backoff.BackOff // made when it is needed, which is seldom
	var said string
	for {
		if in.lease != nil {
			d.Lease = in.lease()
		}
		ending := in.work.Err() != nil
		err := r.writeWithin(in.work, d, o)
		if err == nil {
			r.count(d, o)
			return nil
		}
		r.metrics.settleFailures.Inc()
		if ending {
			return fmt.Errorf("%w; %s of %s on route %s is not written down", errHandedBack, o.State, d.Event.ID, r.Name)
		}
		if text := err.Error(); text != said {
			said = text
			r.logger.Error("an outcome could not be written; trying on", "event", d.Event.ID, "state", o.State, "error", err)
		}
		if pauses == nil {
			pauses = backoff.NewExponentialBackOff(
				backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMultiplier(2),
				backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
		}
		sleep(in.work, pauses.NextBackOff())
	}
}

// lastWrite is how long an outcome that is known when the hub ends may take to be written.
const lastWrite = 500 * time.Millisecond

// writeWithin writes within work or, when that has ended, within lastWrite.
func (r *runner) writeWithin(work context.Context, d Delivery, o Outcome) error {
	if work.Err() == nil {
		return r.write(work, d, o)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(work), lastWrite)
	defer cancel()
	return r.write(ctx, d, o)
}

// write publishes a dead letter's record first: a crash between the two leaves the delivery in the log, and it dies again under
// the same ID. A record that the topic will never take (too large with its reason) is no reason to hold up the key: the ledger has it all.
func (r *runner) write(ctx context.Context, d Delivery, o Outcome) error {
	if o.State == Dead {
		failpoint.Hit("before-dead-letter")
		switch err := r.log.Publish(DeadTopic(r.Name), deadLetter(ctx, d, o)); {
		case err == nil:
		case refused(err):
			r.logger.Error("a dead letter is in the ledger only: its topic does not take it", "event", d.Event.ID, "error", err)
		default:
			return err
		}
		failpoint.Hit("after-dead-letter")
	}
	return r.ledger.Settle(ctx, d, o)
}

// refused reports whether the log says that a record will never be stored (see Log).
func refused(err error) bool {
	large, ok := errors.AsType[interface {
		error
		Refused() bool
	}](err)
	if ok && large.Refused() {
		return true
	}
	other, ok := errors.AsType[interface {
		error
		Conflict() bool
	}](err)
	return ok && other.Conflict()
}

func (r *runner) count(d Delivery, o Outcome) {
	switch o.State {
	case Delivered:
		r.metrics.delivered.Inc()
		r.metrics.endToEnd.Observe(max(0, time.Since(d.Event.Recorded).Seconds()))
	case Dead:
		r.metrics.dead.Inc()
	case Parked:
		if o.Reason == ReasonBehind {
			r.metrics.behind.Inc()
		} else {
			r.metrics.parked.Inc()
		}
	case Skipped:
		r.metrics.duplicate.Inc()
	}
}

// report writes the one line of an attempt and observes it.
func (r *runner) report(ctx context.Context, d Delivery, o Outcome, pause time.Duration) {
	r.metrics.attempts.Observe(o.Duration.Seconds())
	level, outcome := slog.LevelInfo, string(o.State)
	if o.State != Delivered {
		level = slog.LevelWarn
	}
	if !r.logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs,
		slog.String("event", d.Event.ID), slog.String("type", d.Event.Type), slog.String("target", r.To),
		slog.Int("attempt", d.Attempts), slog.Float64("ms", float64(o.Duration.Microseconds())/1000))
	if o.Code != 0 {
		attrs = append(attrs, slog.Int("code", o.Code))
	}
	switch {
	case pause != backoff.Stop:
		outcome = "failed"
		attrs = append(attrs, slog.Duration("again_in", pause.Round(time.Millisecond)))
	case o.State == Parked:
		attrs = append(attrs, slog.Time("next", o.Next))
	}
	attrs = append(attrs, slog.String("outcome", outcome))
	if o.State != Delivered {
		attrs = append(attrs, slog.String("reason", o.Reason), slog.String("error", o.Error))
	}
	// Not through the Logger: it looks up its caller for every line, and no handler of ours prints it.
	line := slog.NewRecord(time.Now(), level, "attempt", 0)
	line.AddAttrs(attrs...)
	_ = r.logger.Handler().Handle(ctx, line)
}

// idempotencyKey is what the target sees on every attempt of a delivery. The connection is part of it, within which an ID is unique, and so
// is the route: two routes may carry one event to one target in two shapes. Standard Webhooks forbids points in it (they part what is signed), so an ID that has one is replaced by
// its fingerprint.
func idempotencyKey(d Delivery) string {
	id := d.Event.ID
	if strings.Contains(id, ".") {
		id = event.Fingerprint([]byte(id))
	}
	return id + ":" + d.Event.Source + ":" + d.Route
}

func remember(history []Attempt, a Attempt) []Attempt {
	if len(history) >= HistoryKept {
		history = history[len(history)-HistoryKept+1:]
	}
	// A copy: the slice may be another delivery's picture of the same past.
	return append(append(make([]Attempt, 0, len(history)+1), history...), a)
}

// bounded is an error's text fit to be kept: short and without control characters. That it holds no secrets is the connectors' promise.
func bounded(err error) string {
	if err == nil {
		return ""
	}
	text := []byte(err.Error())
	for i, c := range text {
		if c < 0x20 || c == 0x7f {
			text[i] = ' '
		}
	}
	if len(text) > maxErrorText {
		text = append(text[:maxErrorText:maxErrorText], "…"...)
	}
	if !utf8.Valid(text) {
		return string([]rune(string(text)))
	}
	return string(text)
}

// sleep reports whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
