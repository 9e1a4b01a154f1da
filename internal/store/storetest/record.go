package storetest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

var recordPromises = []promise{
	{"deliveries: the outcome of each, latest first", func(s *stage) {
		want := make(map[pipeline.Position]pipeline.Outcome)
		for _, state := range []pipeline.State{pipeline.Delivered, pipeline.Dead, pipeline.Skipped, pipeline.Parked, pipeline.Delivered} {
			s.now = s.now.Add(time.Second)
			d := s.deal("orders", "shop", "")
			d.Attempts = 2
			want[d.At] = s.outcome(state)
			s.settleAs(d, want[d.At])
		}
		s.settle(s.deal("ledger", "crm", ""), pipeline.Delivered)
		got := s.deliveries(store.Filter{Route: "orders"})
		if len(got) != len(want) {
			s.Fatalf("got %d entries, want %d", len(got), len(want))
		}
		for i, e := range got {
			if e.Outcome != want[e.At] || e.Attempts != 2 || e.Route != "orders" || e.EventID != fmt.Sprintf("evt_shop_%d", e.At.Offset) {
				s.Errorf("got %+v, want %+v", e, want[e.At])
			}
			if i > 0 && e.Outcome.At.After(got[i-1].Outcome.At) {
				s.Errorf("entry %d is newer than the one before it", i)
			}
		}
		for state, n := range map[pipeline.State]int{pipeline.Delivered: 2, pipeline.Dead: 1, pipeline.Skipped: 1, pipeline.Parked: 1} {
			for _, e := range s.deliveries(store.Filter{Route: "orders", State: state}) {
				if n--; e.Outcome.State != state {
					s.Errorf("a list of %s has one that is %s", state, e.Outcome.State)
				}
			}
			if n != 0 {
				s.Errorf("the list of %s lacks %d", state, n)
			}
		}
		if n := len(s.deliveries(store.Filter{})); n != len(want)+1 {
			s.Errorf("all routes have %d entries, want %d", n, len(want)+1)
		}
		if got := s.deliveries(store.Filter{Limit: 1}); len(got) != 1 || !got[0].Outcome.At.Equal(s.now) {
			s.Errorf("one entry asked for: got %v", got)
		}
		if _, err := s.ledger.Deliveries(s.ctx, store.Filter{State: "gone"}); err == nil {
			s.Errorf("a state that does not exist was accepted")
		}
	}},
	{"deliveries: a parked one shows its latest failure", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.park(d, time.Second)
		s.now = s.now.Add(time.Minute)
		head := s.expectDue("orders", 9, d)[0]
		head.Attempts = 9
		o := s.outcome(pipeline.Parked)
		o.Code, o.Error = 502, "502 Bad Gateway"
		s.settleAs(head, o)
		got := s.deliveries(store.Filter{State: pipeline.Parked})
		if len(got) != 1 || got[0].Outcome != o || got[0].Attempts != 9 {
			s.Errorf("got %+v, want %+v", got, o)
		}
	}},
	{"count: what is parked and dead, and since when", func(s *stage) {
		if c := s.count(); len(c) != 0 {
			s.Errorf("an empty store counts %v", c)
		}
		start := s.now
		a, b := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "k")
		s.park(a, time.Second)
		s.now = s.now.Add(time.Hour)
		s.park(b, 0)
		s.settle(s.deal("orders", "shop", ""), pipeline.Dead)
		s.settle(s.deal("ledger", "shop", ""), pipeline.Dead)
		s.settle(s.deal("quiet", "shop", ""), pipeline.Delivered)
		s.expectCount(map[string]pipeline.Numbers{"orders": {Parked: 2, Dead: 1, OldestParked: start}, "ledger": {Dead: 1}})
		s.park(s.expectDue("orders", 1, a)[0], time.Second)
		s.expectCount(map[string]pipeline.Numbers{"orders": {Parked: 2, Dead: 1, OldestParked: start}, "ledger": {Dead: 1}})
		s.settle(a, pipeline.Delivered)
		s.reopen()
		s.expectCount(map[string]pipeline.Numbers{"orders": {Parked: 1, Dead: 1, OldestParked: start.Add(time.Hour)}, "ledger": {Dead: 1}})
	}},
	{"retain: what was delivered or skipped before, and nothing else", func(s *stage) {
		young, old := s.now, s.now.Add(-time.Hour)
		var kept, gone []pipeline.Delivery
		for i := range 1300 {
			d := s.deal("orders", "shop", "")
			s.now = old
			switch {
			case i%100 == 7:
				s.now = young
				s.settle(d, pipeline.Delivered)
				kept = append(kept, d)
			case i%100 == 8:
				s.park(d, 0)
				kept = append(kept, d)
			case i%100 == 9 || i > 100 && i < 700 && i%2 == 0:
				s.settle(d, pipeline.Dead)
				kept = append(kept, d)
			case i%100 == 10:
				s.settle(d, pipeline.Skipped)
				gone = append(gone, d)
			case i%10 == 0:
				s.settle(d, pipeline.Delivered)
				gone = append(gone, d)
			}
		}
		s.now = young
		before := s.balance()["orders"]
		removed, err := s.ledger.Retain(s.ctx, old.Add(time.Minute))
		if err != nil || removed != int64(len(gone)) {
			s.Errorf("removed %d, %v, want %d", removed, err, len(gone))
		}
		for _, d := range gone {
			s.admits(d, pipeline.Unknown)
		}
		for _, d := range kept {
			if got, err := s.ledger.Admit(s.ctx, d); err != nil || got == pipeline.Unknown {
				s.Errorf("%s was to be kept: %v, %v", d.Event.ID, got, err)
			}
		}
		after := s.balance()["orders"]
		if after[pipeline.Parked] != before[pipeline.Parked] || after[pipeline.Dead] != before[pipeline.Dead] || len(s.due("orders", 99)) != 13 {
			s.Errorf("before %v, after %v", before, after)
		}
	}},
	{"retain: what lies behind many that stay", func(s *stage) {
		for range 600 {
			s.settle(s.deal("orders", "shop", ""), pipeline.Dead)
		}
		s.now = s.now.Add(-time.Hour)
		old := s.deal("orders", "shop", "")
		s.settle(old, pipeline.Delivered)
		if n, err := s.ledger.Retain(s.ctx, s.now.Add(time.Minute)); n != 1 || err != nil {
			s.Errorf("removed %d, %v, want 1", n, err)
		}
		s.admits(old, pipeline.Unknown)
	}},
	{"retain: dead letters by their own time", func(s *stage) {
		first := s.deal("orders", "shop", "")
		s.settle(first, pipeline.Dead)
		for range 120 {
			s.settle(s.deal("orders", "shop", ""), pipeline.Dead)
		}
		s.now = s.now.Add(time.Hour)
		last := s.deal("orders", "shop", "")
		s.settle(last, pipeline.Dead)
		if n, err := s.ledger.Retain(s.ctx, s.now.Add(time.Hour)); n != 0 || err != nil {
			s.Errorf("retaining deliveries removed %d, %v", n, err)
		}
		if n, err := s.ledger.RetainDead(s.ctx, s.now); n != 121 || err != nil {
			s.Errorf("removed %d, %v, want 121", n, err)
		}
		s.admits(first, pipeline.Unknown)
		s.admits(last, pipeline.Settled)
		if got := s.dead("orders", 9); len(got) != 1 || got[0].Delivery.Event.ID != last.Event.ID {
			s.Errorf("left are %d", len(got))
		}
		s.expectCount(map[string]pipeline.Numbers{"orders": {Dead: 1}})
	}},
	{"settle: many at once", func(s *stage) {
		const hands, each = 16, 40
		var all sync.WaitGroup
		for h := range hands {
			all.Go(func() {
				for i := range each {
					d := s.at(fmt.Sprintf("route-%d", h%5), "shop", "", int64(i*hands+h+1))
					if err := s.ledger.Settle(s.ctx, d, s.outcome(finals[(h+i)%3])); err != nil {
						s.Errorf("settle: %v", err)
					}
				}
			})
		}
		all.Wait()
		sum := int64(0)
		for _, states := range s.balance() {
			for _, n := range states {
				sum += n
			}
		}
		if sum != hands*each {
			s.Errorf("%d entries, want %d", sum, hands*each)
		}
	}},
}

func (s *stage) expectCount(want map[string]pipeline.Numbers) {
	s.Helper()
	got := s.count()
	maps.DeleteFunc(got, func(_ string, n pipeline.Numbers) bool { return n.Parked == 0 && n.Dead == 0 })
	same := maps.EqualFunc(got, want, func(a, b pipeline.Numbers) bool {
		return a.Parked == b.Parked && a.Dead == b.Dead && a.OldestParked.Equal(b.OldestParked)
	})
	if !same {
		s.Errorf("counted %v, want %v (routes %v)", got, want, slices.Sorted(maps.Keys(got)))
	}
}
