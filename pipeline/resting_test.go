package pipeline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func newTestGate(concurrency int) (*gate, *[]string) {
	var states []string
	g := &gate{slots: newSlots(concurrency)}
	g.rest = newRest("target", time.Second, func(state string) {
		states = append(states, state)
		if state == "open" {
			g.slots.restart()
		}
	})
	return g, &states
}

// try passes the gate once and reports verdict.
func try(ctx context.Context, g *gate, verdict error) error {
	leave, err := g.enter(ctx, false)
	if err != nil {
		return err
	}
	leave(verdict)
	return nil
}

func TestTargetRestsAndStartsSlowly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, states := newTestGate(8)
		down := errors.New("down")
		for range restAfterFailures {
			if err := try(t.Context(), g, down); err != nil {
				t.Fatal(err)
			}
		}
		if !g.rest.resting() || g.room() != 0 {
			t.Fatal("the target does not rest after failures in a row")
		}
		// Deliveries that wait: none may try before the rest is over, one probes, the others follow only after its success.
		began := time.Now()
		var inside, most, passed atomic.Int32
		var first time.Duration
		var once sync.Once
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				leave, err := g.enter(t.Context(), false)
				if err != nil {
					t.Error(err)
					return
				}
				once.Do(func() { first = time.Since(began) })
				n := inside.Add(1)
				// With k successes so far at most k+1 may be inside.
				if n > passed.Load()+1 {
					t.Errorf("%d tries at once after %d successes", n, passed.Load())
				}
				most.Store(max(most.Load(), n))
				time.Sleep(100 * time.Millisecond)
				inside.Add(-1)
				passed.Add(1)
				leave(nil)
			})
		}
		wg.Wait()
		if first < restFor {
			t.Errorf("the first probe came after %s, want %s", first, restFor)
		}
		if most.Load() < 4 || most.Load() > 8 {
			t.Errorf("at most %d tries at once, want it to grow towards 8", most.Load())
		}
		if want := []string{"open", "half-open", "closed"}; len(*states) != 3 || (*states)[0] != want[0] || (*states)[2] != want[2] {
			t.Errorf("states %v, want %v", *states, want)
		}
	})
}

func TestFailingProbeRestsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _ := newTestGate(4)
		down := errors.New("down")
		for range restAfterFailures {
			_ = try(t.Context(), g, down)
		}
		began := time.Now()
		for i := 1; i <= 3; i++ {
			if err := try(t.Context(), g, down); err != nil {
				t.Fatal(err)
			}
			if got, want := time.Since(began), time.Duration(i)*restFor; got < want {
				t.Errorf("probe %d after %s, want at least %s", i, got, want)
			}
		}
	})
}

// A probe that ends without a verdict (the hub handed the delivery back) must not block the target for ever.
func TestProbeWithoutVerdict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _ := newTestGate(4)
		for range restAfterFailures {
			_ = try(t.Context(), g, errors.New("down"))
		}
		if err := try(t.Context(), g, errNoVerdict); err != nil {
			t.Fatal(err)
		}
		if err := try(t.Context(), g, nil); err != nil {
			t.Fatal(err)
		}
		if g.rest.resting() {
			t.Error("the target still rests after a good probe")
		}
	})
}

func TestStopWhileResting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _ := newTestGate(2)
		for range restAfterFailures {
			_ = try(t.Context(), g, errors.New("down"))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := try(ctx, g, nil); err == nil {
					t.Error("a try was let through although the hub stops")
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

func TestPausedRouteTakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _ := newTestGate(2)
		if !g.pause(ReasonGone) || g.pause(ReasonGone) {
			t.Error("a route is paused once")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if err := try(ctx, g, nil); err == nil {
			t.Error("a paused route let a try through")
		}
		if g.room() != 0 {
			t.Error("a paused route has room for parked deliveries")
		}
	})
}

// An event that its target cannot take fails again and again: that says nothing about the target.
func TestRepeatedFailureOfOneDeliveryDoesNotRestTheTarget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _ := newTestGate(4)
		for range 10 * restAfterCalls {
			if err := try(t.Context(), g, errAgain); err != nil {
				t.Fatal(err)
			}
		}
		if g.rest.resting() {
			t.Fatal("the target rests although no delivery failed for the first time")
		}
		for range restAfterFailures {
			_ = try(t.Context(), g, errors.New("down"))
		}
		// As the probe it counts: there is no other witness.
		began := time.Now()
		for range 2 {
			if err := try(t.Context(), g, errAgain); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got < 2*restFor || !g.rest.resting() {
			t.Errorf("two failing probes took %s, want at least %s, and the target to rest", got, 2*restFor)
		}
	})
}
