package pipeline

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// When a target's breaker opens, and how it is tested again.
const (
	restAfterFailures = 10               // in a row
	restAfterCalls    = 20               // within restWindow, of which
	restFailureRatio  = 0.6              // failed
	restWindow        = 10 * time.Second // and the time that one try may take
	restFor           = 2 * time.Second  // then one probe
)

// rest is one target's breaker. While it is open the target is resting: the routes to it hold what they have and take no more, one
// delivery at a time probes, and after the first success the routes start again slowly.
type rest struct {
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change of state
	state   gobreaker.State
	until   time.Time // when an open breaker lets a probe through
}

// newRest takes the longest time that one try may take: what is counted are tries that began within the window, so a window that
// is no longer than a try would count none of a target that never answers. It calls onChange with the state's word at each change: "closed", "half-open", "open". The breaker is locked meanwhile:
// onChange must not come back to it.
func newRest(target string, timeout time.Duration, onChange func(state string)) *rest {
	r := &rest{changed: make(chan struct{}), state: gobreaker.StateClosed}
	r.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        target,
		MaxRequests: 1,
		Interval:    restWindow + timeout,
		// Counts roll on: emptied all at once they would forget the tries that are under way.
		BucketPeriod: time.Second,
		Timeout:      restFor,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			// Requests also counts those still under way, so it is left out.
			ended := c.TotalSuccesses + c.TotalFailures
			return c.ConsecutiveFailures >= restAfterFailures ||
				ended >= restAfterCalls && float64(c.TotalFailures) >= restFailureRatio*float64(ended)
		},
		IsExcluded: func(err error) bool {
			return errors.Is(err, errNoVerdict)
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			r.mu.Lock()
			r.state = to
			if to == gobreaker.StateOpen {
				// The breaker lets a probe through after its time, not at it: asking too early would be asking in a loop.
				r.until = time.Now().Add(restFor + time.Millisecond)
			}
			close(r.changed)
			r.changed = make(chan struct{})
			r.mu.Unlock()
			onChange(to.String())
		},
	})
	return r
}

// errNoVerdict tells the breaker that a permitted try said nothing about the target.
var errNoVerdict = errors.New("no verdict")

// errAgain is the verdict of a delivery that has failed before. An event that its target cannot take fails on every try: counted each
// time, a few of them would put a target to rest that is well for all others. So only its first failure speaks against the target,
// unless it is the probe of a resting one: then there is no other witness.
var errAgain = errors.New("it had failed before")

// allow asks for a try without waiting. The function it returns reports how the try went: nil, the error
// that speaks against the target (errAgain when that is nothing new), or errNoVerdict. It must be called exactly once.
func (r *rest) allow() (done func(error), ok bool) {
	report, err := r.breaker.Allow()
	if err != nil {
		return nil, false
	}
	r.mu.Lock()
	probe := r.state == gobreaker.StateHalfOpen
	r.mu.Unlock()
	return func(verdict error) {
		if !probe && errors.Is(verdict, errAgain) {
			verdict = errNoVerdict
		}
		report(verdict)
	}, true
}

// ready waits until a try may be allowed: at once when the target is not resting, else at the next change of state or when the
// rest is over.
func (r *rest) ready(ctx context.Context) error {
	r.mu.Lock()
	changed, state, until := r.changed, r.state, r.until
	r.mu.Unlock()
	var pause time.Duration
	switch state {
	case gobreaker.StateClosed:
		return ctx.Err()
	case gobreaker.StateOpen:
		pause = time.Until(until)
	case gobreaker.StateHalfOpen:
		// The probe may end without a verdict, which changes no state.
		pause = restFor / 8
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-changed:
		return nil
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// resting reports whether the target is to be left alone now. It is false again when a probe is due.
func (r *rest) resting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state == gobreaker.StateOpen && time.Now().Before(r.until)
}
