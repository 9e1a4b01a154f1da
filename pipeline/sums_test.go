package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/internal/expression"
	"github.com/tidewire/tidewire/pipeline"
)

// metric is the sum of a metric's values, of one outcome when one is given.
func (h *hub) metric(name, outcome string) (sum float64) {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			counts := outcome == ""
			for _, l := range m.GetLabel() {
				counts = counts || l.GetName() == "outcome" && l.GetValue() == outcome
			}
			if counts {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// Every accepted event is on every route delivered, dead, parked or filtered, and the metrics say the same as the ledger.
func TestMetricsAddUp(t *testing.T) {
	env, err := expression.ForEvents()
	if err != nil {
		t.Fatal(err)
	}
	when, err := env.Compile(`!key.startsWith("x")`, expression.Bool)
	if err != nil {
		t.Fatal(err)
	}
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		switch d.Event.Key[0] {
		case 'd':
			return connectors.Receipt{}, connectors.Permanent(errors.New("never"))
		case 'p':
			return connectors.Receipt{}, connectors.RetryAfter(errors.New("later"), 24*time.Hour)
		}
		return connectors.Receipt{}, nil
	})
	r.When = when
	r.Retry.Schedule = []time.Duration{24 * time.Hour}
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		const each = 7
		for i := range each {
			h.accept(fmt.Sprintf("a%d-1", i), fmt.Sprintf("d%d-1", i), "p-"+fmt.Sprint(i), fmt.Sprintf("x%d-1", i))
		}
		h.accept("a0-1") // the log knows it: it reaches no route
		eventually(t, "nothing is behind", func() bool { return h.metric("tidewire_route_lag_events", "") == 0 })
		balance := h.balance()
		for _, c := range []struct {
			what      string
			got, want float64
		}{
			{"delivered", h.metric("tidewire_deliveries_total", "delivered"), float64(balance[pipeline.Delivered])},
			{"dead", h.metric("tidewire_deliveries_total", "dead"), float64(balance[pipeline.Dead])},
			{"dead letters", h.metric("tidewire_dead", ""), float64(balance[pipeline.Dead])},
			{"parked", h.metric("tidewire_parked", ""), float64(balance[pipeline.Parked])},
			{"filtered", h.metric("tidewire_deliveries_total", "filtered"), each},
			{"duplicate", h.metric("tidewire_deliveries_total", "duplicate"), 0},
			{"all", float64(balance[pipeline.Delivered] + balance[pipeline.Dead] + balance[pipeline.Parked]), 3 * each},
		} {
			if c.got != c.want {
				t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
			}
		}
	})
}

// A thousand deliveries wait for their time when the hub is stopped and started again: each is tried once, none before its time, and no faster
// than the route's rate.
func TestAThousandParkedComeDueOnceAfterARestart(t *testing.T) {
	const n = 1000
	var mu sync.Mutex
	first, second := map[string]time.Time{}, map[string][]time.Time{}
	var down atomic.Bool
	down.Store(true)
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		mu.Lock()
		defer mu.Unlock()
		if down.Load() {
			first[d.Event.ID] = time.Now()
			return connectors.Receipt{}, connectors.RetryAfter(errors.New("429"), 5*time.Minute)
		}
		second[d.Event.ID] = append(second[d.Event.ID], time.Now())
		return connectors.Receipt{}, nil
	})
	r.PerSecond, r.Concurrency = 100, 32
	r.Retry = pipeline.Retry{Initial: 5 * time.Second, MaxInterval: time.Hour, Multiplier: 3, MaxAge: 72 * time.Hour, MaxRetryAfter: time.Hour}
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		for i := range n {
			h.accept(fmt.Sprintf("k%d-1", i))
		}
		eventually(t, "all parked", func() bool { return h.parked() == n })
		h.cut()
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		down.Store(false)
		h.start()
		eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == n })
		time.Sleep(5 * time.Minute) // longer than a lease
		mu.Lock()
		defer mu.Unlock()
		var at []time.Time
		for id, times := range second {
			if len(times) != 1 || times[0].Sub(first[id]) < 5*time.Minute {
				t.Fatalf("%s first tried at %s, again at %v", id, first[id], times)
			}
			at = append(at, times[0])
		}
		slices.SortFunc(at, time.Time.Compare)
		if took := at[n-1].Sub(at[0]); took < 9*time.Second {
			t.Errorf("a thousand went out within %s at 100 a second", took)
		}
	})
}

// A route that begins now leaves what was there before it, also when it is restarted before anything comes.
func TestARouteThatBeginsNow(t *testing.T) {
	var old, fresh journal
	send := func(j *journal) func(context.Context, connectors.Delivery) (connectors.Receipt, error) {
		return func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
			j.add(d.Event.ID)
			return connectors.Receipt{}, nil
		}
	}
	first := route(send(&old))
	inBubble(t, []pipeline.Route{first}, func(t *testing.T, h *hub) {
		h.accept("a-1", "a-2")
		eventually(t, "delivered", func() bool { return len(old.all()) == 2 })
		added := route(send(&fresh))
		added.Name, added.FromEnd = "added", true
		h.routes = append(h.routes, added)
		for range 2 {
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			h.start()
		}
		h.accept("a-3")
		eventually(t, "the new one delivered", func() bool { return len(old.all()) == 3 && len(fresh.all()) > 0 })
		if got := fresh.all(); !slices.Equal(got, []string{"a-3"}) {
			t.Errorf("the added route sent %v", got)
		}
	})
}

// A try ends with the route's timeout, and a Retry-After beyond the cap counts as the cap.
func TestTimeoutAndRetryAfterAreBounded(t *testing.T) {
	var seen journal
	r := route(func(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		switch d.Attempt {
		case 1:
			<-ctx.Done()
			return connectors.Receipt{}, ctx.Err()
		case 2:
			return connectors.Receipt{}, connectors.RetryAfter(errors.New("429"), 1000*time.Hour)
		}
		return connectors.Receipt{}, nil
	})
	r.Retry.MaxRetryAfter = 20 * time.Minute
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1")
		eventually(t, "delivered", func() bool { return h.balance()[pipeline.Delivered] == 1 })
		at := seen.times()
		for i, want := range []time.Duration{r.Timeout + r.Retry.Schedule[0], r.Retry.MaxRetryAfter} {
			if got := at[i+1].Sub(at[i]); got < want || got > want+time.Second {
				t.Errorf("try %d came after %s, want %s", i+2, got, want)
			}
		}
	})
}
