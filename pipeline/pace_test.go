package pipeline

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever cannot have his turn before his time is over is told so when it is over. Told at once he would come again at once, for as long as the turn is away: a
// parked delivery would go to and fro between the hub and the store.
func TestTheRateLimitSendsNobodyBackAheadOfTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := configured(t, "rate_limit: 12/h", nil)
		pass := func() (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			began := time.Now()
			leave, err := r.gate.enter(ctx, true)
			if err == nil {
				leave(nil)
			}
			return time.Since(began), err
		}
		if took, err := pass(); err != nil || took != 0 {
			t.Fatalf("the first waited %s: %v", took, err)
		}
		for range 4 {
			if took, err := pass(); !errors.Is(err, context.DeadlineExceeded) || took != time.Minute {
				t.Errorf("sent back after %s: %v", took, err)
			}
		}
		// Those who were sent back have taken nobody's turn.
		if took, err := pass(); err != nil || took != time.Minute {
			t.Errorf("the turn came after %s more: %v", took, err)
		}
	})
}

// As many deliveries of a slow route stand before its limit as may begin within one timeout, and no more.
func TestFewStandBeforeASlowLimit(t *testing.T) {
	t.Parallel()
	for route, want := range map[string]int{
		"concurrency: 8": 8, "concurrency: 8, rate_limit: 12/h": 2, "concurrency: 8, rate_limit: 1/s, timeout: 3s": 4, "concurrency: 8, rate_limit: 100/s": 8,
	} {
		if r := configured(t, route, nil); r.gate.slots.all != want {
			t.Errorf("%s: %d, want %d", route, r.gate.slots.all, want)
		}
	}
}
