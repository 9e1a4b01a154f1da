package pipeline_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/pipeline"
)

// ids are n events of one key, "key-001" and so on.
func ids(key string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s-%03d", key, i+1)
	}
	return all
}

// A route that has more fresh events than it can send still gives a part of its slots to what comes due.
func TestParkedComeDueWhileTheRouteIsBusy(t *testing.T) {
	var seen journal
	var well atomic.Bool
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if d.Event.Key == "bad" && !well.Load() {
			return connectors.Receipt{}, errDown
		}
		time.Sleep(time.Second)
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	r.Concurrency = 1
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("bad-1")
		for i := range 400 {
			h.accept(fmt.Sprintf("k%d-1", i))
		}
		eventually(t, "parked", func() bool { return h.parked() == 1 })
		well.Store(true)
		began, before := time.Now(), len(seen.all())
		eventually(t, "the parked one delivered", func() bool { return slices.Contains(seen.all(), "bad-1") })
		if waited, fresh := time.Since(began), len(seen.all())-before; waited > 70*time.Second || fresh < 30 {
			t.Errorf("due after a minute, delivered after %s and %d others", waited, fresh)
		}
		eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == 401 })
	})
}

// What comes due does not take the whole route either.
func TestFreshEventsGoOnWhileMuchIsDue(t *testing.T) {
	var seen journal
	var down atomic.Bool
	down.Store(true)
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if down.Load() && d.Attempt <= 3 && d.Event.Key != "x" {
			return connectors.Receipt{}, errDown
		}
		time.Sleep(time.Second)
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	r.Concurrency, r.Retry.Schedule = 4, []time.Duration{5 * time.Minute, time.Hour}
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		for i := range 400 {
			h.accept(fmt.Sprintf("p%d-1", i))
		}
		eventually(t, "parked", func() bool { return h.parked() == 400 })
		down.Store(false)
		eventually(t, "the first are due", func() bool { return len(seen.all()) > 0 })
		h.accept("x-1", "y-1", "z-1")
		eventually(t, "the fresh ones delivered", func() bool {
			return len(seen.of("x"))+len(seen.of("y"))+len(seen.of("z")) == 3
		})
		if n := len(seen.all()); n > 100 {
			t.Errorf("the fresh ones came after %d of 403", n)
		}
		eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == 403 })
	})
}

// The success of a parked head frees the next of its key at once: a key that gets more events than the store is asked for due
// ones would never catch up otherwise.
func TestAKeyCatchesUpAsSoonAsItsHeadIsDelivered(t *testing.T) {
	var seen journal
	var down atomic.Bool
	down.Store(true)
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if down.Load() {
			return connectors.Receipt{}, errDown
		}
		time.Sleep(10 * time.Millisecond)
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		all := ids("a", 200)
		h.accept(all[:100]...)
		eventually(t, "parked", func() bool { return h.parked() == 100 })
		down.Store(false)
		eventually(t, "the head delivered", func() bool { return len(seen.all()) > 0 })
		for _, id := range all[100:] { // twenty a second, while it catches up
			h.accept(id)
			time.Sleep(50 * time.Millisecond)
		}
		eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == 200 })
		if got := seen.of("a"); !slices.Equal(got, all) {
			t.Errorf("a came in the order %v", got)
		}
		at := seen.times()
		if took := at[len(at)-1].Sub(at[0]); took > 8*time.Second {
			t.Errorf("catching up took %s", took)
		}
	})
}

// An outcome that could not be written for longer than its lease is not a reason to send again when the store is back.
func TestAnOutcomeThatIsWrittenLateIsNotSentAgain(t *testing.T) {
	var seen journal
	var down atomic.Bool
	down.Store(true)
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if down.Load() {
			return connectors.Receipt{}, errDown
		}
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	away := &awayLedger{}
	inBubble(t, nil, func(t *testing.T, h *hub) {
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		h.routes, h.ledger = []pipeline.Route{r}, func(l pipeline.Ledger) pipeline.Ledger { away.Ledger = l; return away }
		h.start()
		h.accept("a-1", "a-2", "b-1")
		eventually(t, "parked", func() bool { return h.parked() == 3 })
		down.Store(false)
		away.away.Store(true)
		time.Sleep(10 * time.Minute)
		away.away.Store(false)
		eventually(t, "delivered", func() bool { return h.balance()[pipeline.Delivered] == 3 })
		time.Sleep(time.Hour)
		if got := seen.all(); len(got) != 3 || len(seen.of("a")) != 2 {
			t.Errorf("the target saw %v", got)
		}
	})
}
