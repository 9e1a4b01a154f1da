package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/pipeline"
)

func (h *hub) resting() bool { return h.pipeline.Status(h.t.Context())[0].Resting }

// A target that takes every call and never answers is as bad as one that refuses them.
func TestATargetThatNeverAnswersRests(t *testing.T) {
	var tries atomic.Int32
	r := route(func(ctx context.Context, _ connectors.Delivery) (connectors.Receipt, error) {
		tries.Add(1)
		<-ctx.Done()
		return connectors.Receipt{}, ctx.Err()
	})
	r.Concurrency, r.Timeout = 32, 15*time.Second // a try is longer than what the breaker looks back upon for quick ones
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		for i := range 200 {
			h.accept(fmt.Sprintf("k%d-1", i))
		}
		rested := false
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			rested = rested || h.resting()
		}
		h.cut()
		// Without a rest: 32 tries every fifteen seconds.
		if n := tries.Load(); !rested || n > 100 {
			t.Errorf("rested: %v; %d tries in a minute", rested, n)
		}
	})
}

// A try that waits for the rate limit when the target goes to rest, or the route is paused, is not made.
func TestNothingPassesTheRateLimitOfARouteThatIsPaused(t *testing.T) {
	var tries atomic.Int32
	r := route(func(context.Context, connectors.Delivery) (connectors.Receipt, error) {
		tries.Add(1)
		time.Sleep(500 * time.Millisecond) // the others come to wait for the limit meanwhile
		return connectors.Receipt{}, connectors.Gone(errors.New("410"))
	})
	r.PerSecond = 1
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		for i := range 20 {
			h.accept(fmt.Sprintf("k%d-1", i))
		}
		time.Sleep(time.Hour)
		if n := tries.Load(); n != 1 {
			t.Errorf("%d tries at an address that is gone", n)
		}
	})
}

func TestRateLimitIsObeyed(t *testing.T) {
	var seen journal
	var down atomic.Bool
	down.Store(true)
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		if down.Load() {
			return connectors.Receipt{}, connectors.RetryAfter(errors.New("429"), time.Minute)
		}
		return connectors.Receipt{}, nil
	})
	r.PerSecond, r.Concurrency = 20, 64
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		for i := range 100 {
			h.accept(fmt.Sprintf("k%d-1", i))
			down.Store(i < 5) // a few come again
		}
		eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == 100 })
		at := seen.times()
		for i := range at {
			// Twenty a second, and a tenth of that at once.
			if i >= 22 && at[i].Sub(at[i-22]) < time.Second-10*time.Millisecond {
				t.Fatalf("23 tries within %s", at[i].Sub(at[i-22]))
			}
		}
	})
}

// countingLedger counts how often it is asked for what is due, and what it is given back.
type countingLedger struct {
	pipeline.Ledger
	due, back atomic.Int32
}

func (l *countingLedger) Due(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
	l.due.Add(1)
	return l.Ledger.Due(ctx, now, room, lease)
}

func (l *countingLedger) GiveBack(ctx context.Context, ds []pipeline.Delivery) error {
	l.back.Add(int32(len(ds)))
	return l.Ledger.GiveBack(ctx, ds)
}

// A parked delivery of a route that may try once in five minutes waits for its turn and does not go to and fro between the hub and the store.
func TestASlowRateLimitMakesNoHotLoop(t *testing.T) {
	var seen journal
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		if d.Attempt == 1 {
			return connectors.Receipt{}, connectors.RetryAfter(errors.New("429"), time.Minute)
		}
		return connectors.Receipt{}, nil
	})
	r.PerSecond = 12.0 / 3600
	counting := &countingLedger{}
	inBubble(t, nil, func(t *testing.T, h *hub) {
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		h.routes, h.ledger = []pipeline.Route{r}, func(l pipeline.Ledger) pipeline.Ledger { counting.Ledger = l; return counting }
		h.start()
		for i := range 4 {
			h.accept(fmt.Sprintf("k%d-1", i))
		}
		counting.due.Store(0)
		began := time.Now()
		eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == 4 })
		took := time.Since(began)
		if took > time.Hour {
			t.Errorf("eight tries took %s at twelve an hour", took)
		}
		if n, most := counting.due.Load(), int32(took/(150*time.Millisecond)); n > most || counting.back.Load() > 50 {
			t.Errorf("within %s asked %d times, at most %d expected; given back %d times", took, n, most, counting.back.Load())
		}
	})
}
