package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/pipeline"
)

// clockLedger is a store whose hub has its wall clock set ahead or back. (A bubble's own clock cannot be set.)
type clockLedger struct {
	pipeline.Ledger
	off atomic.Int64
}

// set is what a wall clock that is off says at t.
func (l *clockLedger) set(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(time.Duration(l.off.Load()))
}

func (l *clockLedger) Due(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
	return l.Ledger.Due(ctx, l.set(now), room, lease)
}

func (l *clockLedger) Settle(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
	o.At, o.Next = l.set(o.At), l.set(o.Next)
	return l.Ledger.Settle(ctx, d, o)
}

// A thousand deliveries are parked when the clock jumps by a day, and when it is set right again. Each comes once, whatever the clock does, and no faster than
// the route's rate. A clock that has gone back lets none come early; one that has gone ahead makes them due, for by the clock they are.
func TestAThousandParkedComeOnceWhenTheClockJumps(t *testing.T) {
	const n = 1000
	for name, jump := range map[string]time.Duration{"ahead": 24 * time.Hour, "back": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			tries := map[string][]time.Time{}
			r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
				mu.Lock()
				defer mu.Unlock()
				tries[d.Event.ID] = append(tries[d.Event.ID], time.Now())
				if len(tries[d.Event.ID]) == 1 {
					return connectors.Receipt{}, connectors.RetryAfter(errors.New("429"), time.Hour)
				}
				return connectors.Receipt{}, nil
			})
			r.PerSecond, r.Concurrency = 100, 32
			clock := &clockLedger{}
			inBubble(t, nil, func(t *testing.T, h *hub) {
				if err := h.stop(); err != nil {
					t.Fatal(err)
				}
				h.routes, h.ledger = []pipeline.Route{r}, func(l pipeline.Ledger) pipeline.Ledger { clock.Ledger = l; return clock }
				h.start()
				for i := range n {
					h.accept(fmt.Sprintf("k%d-1", i))
				}
				eventually(t, "all parked", func() bool { return h.parked() == n })
				clock.off.Store(int64(jump))
				began := time.Now()
				time.Sleep(5 * time.Minute)
				mu.Lock()
				early := 0
				for _, at := range tries {
					early += len(at) - 1
				}
				mu.Unlock()
				if want := map[string]int{"ahead": n, "back": 0}[name]; early != want {
					t.Errorf("%d came within five minutes of the jump, want %d", early, want)
				}
				clock.off.Store(0)
				eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == n })
				time.Sleep(time.Hour) // longer than any lease
				mu.Lock()
				defer mu.Unlock()
				var first, last time.Time
				for id, at := range tries {
					if len(at) != 2 {
						t.Fatalf("%s was tried at %v", id, at)
					}
					if name == "back" && at[1].Sub(at[0]) < time.Hour {
						t.Fatalf("%s came %s after it had failed", id, at[1].Sub(at[0]))
					}
					if first.IsZero() || at[1].Before(first) {
						first = at[1]
					}
					if at[1].After(last) {
						last = at[1]
					}
				}
				if len(tries) != n || first.Before(began) || last.Sub(first) < 9*time.Second {
					t.Errorf("%d came between %s and %s, at a hundred a second", len(tries), first, last)
				}
			})
		})
	}
}

// A hundred times an event is known to the log and the hub dies before the target has it, while the provider sends it again and again: the repeat is no new event,
// and what the first one stood for still happens, once.
func TestAKnownEventStillHasItsEffect(t *testing.T) {
	const rounds = 100
	var mu sync.Mutex
	effects := map[string]int{}
	var reached atomic.Int32
	var dying atomic.Bool
	r := route(func(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if dying.Load() {
			reached.Add(1)
			<-ctx.Done()
			return connectors.Receipt{}, ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		effects[d.Event.ID]++
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		for i := range rounds {
			id := fmt.Sprintf("k%d-1", i)
			dying.Store(true)
			h.accept(id)
			eventually(t, "the try has begun", func() bool { return reached.Load() == int32(i+1) })
			h.cut()
			_ = h.stop() // it was cut off
			dying.Store(false)
			h.start()
			h.accept(id, id)
			eventually(t, "delivered", func() bool { return h.balance()[pipeline.Delivered] == int64(i+1) })
		}
		mu.Lock()
		defer mu.Unlock()
		for id, n := range effects {
			if n != 1 {
				t.Errorf("%s had its effect %d times", id, n)
			}
		}
		if len(effects) != rounds {
			t.Errorf("%d of %d had their effect", len(effects), rounds)
		}
	})
}
