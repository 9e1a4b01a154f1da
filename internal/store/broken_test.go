package store_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/internal/store/storetest"
	"github.com/tidewire/tidewire/pipeline"
)

// wrong is a ledger that breaks one promise: each func replaces a method, nil leaves it as it is.
type wrong struct {
	storetest.Ledger
	admit  func(d pipeline.Delivery, got pipeline.Standing) pipeline.Standing
	settle func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error
	due    func(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error)
	back   func(ctx context.Context, ds []pipeline.Delivery) error
	retain func(ctx context.Context, before time.Time) (int64, error)
	count  func(map[string]pipeline.Numbers)
}

func (w *wrong) Admit(ctx context.Context, d pipeline.Delivery) (pipeline.Standing, error) {
	got, err := w.Ledger.Admit(ctx, d)
	if w.admit != nil {
		got = w.admit(d, got)
	}
	return got, err
}

func (w *wrong) Settle(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
	if w.settle != nil {
		return w.settle(ctx, d, o)
	}
	return w.Ledger.Settle(ctx, d, o)
}

func (w *wrong) Due(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
	if w.due != nil {
		return w.due(ctx, now, room, lease)
	}
	return w.Ledger.Due(ctx, now, room, lease)
}

func (w *wrong) GiveBack(ctx context.Context, ds []pipeline.Delivery) error {
	if w.back != nil {
		return w.back(ctx, ds)
	}
	return w.Ledger.GiveBack(ctx, ds)
}

func (w *wrong) Retain(ctx context.Context, before time.Time) (int64, error) {
	if w.retain != nil {
		return w.retain(ctx, before)
	}
	return w.Ledger.Retain(ctx, before)
}

func (w *wrong) Count(ctx context.Context) (map[string]pipeline.Numbers, error) {
	c, err := w.Ledger.Count(ctx)
	if w.count != nil {
		w.count(c)
	}
	return c, err
}

// turned makes an admit that takes one standing for another.
func turned(from, to pipeline.Standing) func(*wrong) {
	return func(w *wrong) {
		w.admit = func(_ pipeline.Delivery, got pipeline.Standing) pipeline.Standing {
			if got == from {
				return to
			}
			return got
		}
	}
}

// wrongs are the ledgers that the suite has to tell from a right one, each with a promise that must be found broken.
var wrongs = []struct {
	name, breaks string
	make         func(*wrong)
}{
	{"frees the next before the head is settled", "due: the heads of keys only", func(w *wrong) {
		var mu sync.Mutex
		eldest := make(map[string]bool)
		keys := make(map[pipeline.Position]string)
		w.settle = func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
			mu.Lock()
			if name := d.Route + d.Event.Source + d.Event.Key; o.State == pipeline.Parked && d.Number == 0 && eldest[name] {
				keys[d.At] = d.Event.Key
				d.Event.Key = ""
			} else if o.State == pipeline.Parked {
				eldest[name] = true
			}
			mu.Unlock()
			return w.Ledger.Settle(ctx, d, o)
		}
		w.due = func(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
			ds, err := w.Ledger.Due(ctx, now, room, lease)
			mu.Lock()
			defer mu.Unlock()
			for i := range ds {
				if key := keys[ds[i].At]; key != "" {
					ds[i].Event.Key = key
				}
			}
			return ds, err
		}
	}},
	{"forgets leases", "lease: nobody else", func(w *wrong) {
		w.due = func(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
			ds, err := w.Ledger.Due(ctx, now, room, lease)
			if err == nil {
				err = w.Ledger.GiveBack(ctx, ds)
			}
			return ds, err
		}
	}},
	{"never ends a lease", "lease: nobody else", func(w *wrong) {
		w.due = func(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
			ds, err := w.Ledger.Due(ctx, now, room, 10000*time.Hour)
			for i := range ds {
				ds[i].Lease = now.Add(lease)
			}
			return ds, err
		}
	}},
	{"does not give back", "lease: given back", func(w *wrong) {
		w.back = func(context.Context, []pipeline.Delivery) error { return nil }
	}},
	{"lets a former holder decide", "lease: the failure of a former holder", func(w *wrong) {
		w.settle = func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
			d.Lease = time.Time{}
			return w.Ledger.Settle(ctx, d, o)
		}
	}},
	{"lets a former holder give back", "lease: one that has passed on", func(w *wrong) {
		w.back = func(ctx context.Context, ds []pipeline.Delivery) error {
			ds = slices.Clone(ds)
			for i := range ds {
				ds[i].Lease = time.Time{}
			}
			return w.Ledger.GiveBack(ctx, ds)
		}
	}},
	{"admits what is settled", "admit: what is settled", turned(pipeline.Settled, pipeline.Unknown)},
	{"admits what is parked", "admit: a parked delivery is held", turned(pipeline.Held, pipeline.Unknown)},
	{"takes parked for settled", "admit: a parked delivery is held", turned(pipeline.Held, pipeline.Settled)},
	{"lets the younger overtake", "admit: the younger", turned(pipeline.Behind, pipeline.Unknown)},
	{"takes every fresh one for settled that is not the highest", "admit: what is settled", func(w *wrong) {
		var mu sync.Mutex
		highest := make(map[string]int64)
		w.admit = func(d pipeline.Delivery, got pipeline.Standing) pipeline.Standing {
			mu.Lock()
			defer mu.Unlock()
			if got == pipeline.Unknown && d.At.Offset < highest[d.Route] {
				return pipeline.Settled
			}
			return got
		}
		w.settle = func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
			mu.Lock()
			highest[d.Route] = max(highest[d.Route], d.At.Offset)
			mu.Unlock()
			return w.Ledger.Settle(ctx, d, o)
		}
	}},
	{"loses every fiftieth decision", "history: random", func(w *wrong) {
		var n atomic.Int64
		w.settle = func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
			if n.Add(1)%50 == 0 {
				return nil
			}
			return w.Ledger.Settle(ctx, d, o)
		}
	}},
	{"loses the body of a dead letter", "settle: a dead letter keeps", func(w *wrong) {
		w.settle = func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
			if o.State == pipeline.Dead {
				d.Event.Body = nil
			}
			return w.Ledger.Settle(ctx, d, o)
		}
	}},
	{"loses the attempts of a parked one", "due: a parked delivery comes back whole", func(w *wrong) {
		w.settle = func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
			if o.State == pipeline.Parked {
				d.Attempts, d.History = 0, nil
			}
			return w.Ledger.Settle(ctx, d, o)
		}
	}},
	{"comes early", "due: nothing before its time", func(w *wrong) {
		w.due = func(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
			return w.Ledger.Due(ctx, now.Add(time.Millisecond), room, lease)
		}
	}},
	{"ignores the time a failure asked for", "due: nothing before its time", func(w *wrong) {
		w.settle = func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
			o.Next = time.Time{}
			return w.Ledger.Settle(ctx, d, o)
		}
	}},
	{"ignores the room", "due: the longest due first", func(w *wrong) {
		w.due = func(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
			more := make(map[string]int)
			for route, n := range room {
				more[route] = n + 1
			}
			return w.Ledger.Due(ctx, now, more, lease)
		}
	}},
	{"hands out the youngest first", "due: the longest due first", func(w *wrong) {
		w.due = func(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
			ds, err := w.Ledger.Due(ctx, now, room, lease)
			slices.Reverse(ds)
			return ds, err
		}
	}},
	{"forgets what is still young", "retain: what was delivered", func(w *wrong) {
		w.retain = func(ctx context.Context, before time.Time) (int64, error) {
			return w.Ledger.Retain(ctx, before.Add(24*time.Hour))
		}
	}},
	{"forgets the dead with the delivered", "retain: dead letters", func(w *wrong) {
		w.retain = func(ctx context.Context, before time.Time) (int64, error) {
			if _, err := w.Ledger.RetainDead(ctx, before); err != nil {
				return 0, err
			}
			return w.Ledger.Retain(ctx, before)
		}
	}},
	{"does not count the dead", "count:", func(w *wrong) {
		w.count = func(c map[string]pipeline.Numbers) {
			for route, n := range c {
				n.Dead = 0
				c[route] = n
			}
		}
	}},
}

func TestSuiteFindsWrongLedgers(t *testing.T) {
	t.Parallel()
	for _, w := range wrongs {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			mustBreak(t, w.breaks, func(tb testing.TB, dir string) (storetest.Ledger, func()) {
				l, closeIt := open(tb, dir)
				bad := &wrong{Ledger: l}
				w.make(bad)
				return bad, closeIt
			})
		})
	}
}

// A wrong ledger that needs to know that it was opened before.
func TestSuiteFindsLossAtRestart(t *testing.T) {
	t.Parallel()
	t.Run("forgets a parked one", func(t *testing.T) {
		t.Parallel()
		mustBreak(t, "admit: a parked delivery is held", func(tb testing.TB, dir string) (storetest.Ledger, func()) {
			l, closeIt := open(tb, dir)
			parked, err := l.Deliveries(tb.Context(), store.Filter{State: pipeline.Parked, Limit: 1})
			if err != nil {
				tb.Fatal(err)
			}
			for _, e := range parked {
				lost := pipeline.Delivery{Route: e.Route, At: e.At, Event: event.Event{ID: e.EventID, Source: strings.TrimPrefix(e.At.Topic, "events.")}}
				if err := l.Settle(tb.Context(), lost, pipeline.Outcome{State: pipeline.Skipped}); err != nil {
					tb.Fatal(err)
				}
			}
			return l, closeIt
		})
	})
	t.Run("remembers only what it settled itself", func(t *testing.T) {
		t.Parallel()
		mustBreak(t, "admit: what is settled", func(tb testing.TB, dir string) (storetest.Ledger, func()) {
			l, closeIt := open(tb, dir)
			var mu sync.Mutex
			mine := make(map[pipeline.Position]bool)
			w := &wrong{Ledger: l}
			w.settle = func(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
				mu.Lock()
				mine[d.At] = true
				mu.Unlock()
				return l.Settle(ctx, d, o)
			}
			w.admit = func(d pipeline.Delivery, got pipeline.Standing) pipeline.Standing {
				mu.Lock()
				defer mu.Unlock()
				if got == pipeline.Settled && !mine[d.At] {
					return pipeline.Unknown
				}
				return got
			}
			return w, closeIt
		})
	})
}

// And a right one is not called wrong.
func TestSuiteFindsNothingInARightLedger(t *testing.T) {
	t.Parallel()
	if broken := storetest.Broken(t, features, open, ""); len(broken) > 0 {
		t.Errorf("the suite calls a right ledger wrong: %q", broken)
	}
}

func mustBreak(t *testing.T, promise string, open storetest.Opener) {
	t.Helper()
	if broken := storetest.Broken(t, features, open, promise); len(broken) == 0 {
		t.Errorf("the suite does not find that %q… is broken", promise)
	}
}
