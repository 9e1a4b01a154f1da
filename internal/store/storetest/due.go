package storetest

import (
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/tidewire/tidewire/pipeline"
)

var duePromises = []promise{
	{"due: nothing before its time, and at its time", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.park(d, time.Minute)
		s.now = s.now.Add(time.Minute - 1)
		s.expectDue("orders", 9)
		s.now = s.now.Add(1)
		s.expectDue("orders", 9, d)
	}},
	{"due: a parked delivery comes back whole", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		d.At.Partition = 5
		d.Event.Body = []byte("\x00\xfe\"'\n")
		d.Attempts, d.Parks, d.First, d.History = 7, 2, s.now.Add(-time.Hour), past(s.now, 7)
		s.park(d, time.Second)
		s.reopen()
		s.now = s.now.Add(time.Minute)
		got := s.expectDue("orders", 9, d)[0]
		s.sameDelivery(got, d)
		got.Attempts, got.Parks, got.History = 8, 3, past(s.now, 8)
		s.park(got, time.Hour)
		s.now = s.now.Add(2 * time.Hour)
		s.sameDelivery(s.expectDue("orders", 9, d)[0], got)
	}},
	{"due: the heads of keys only, in the order in which they were parked", func(s *stage) {
		var ds []pipeline.Delivery
		for range 4 {
			d := s.deal("orders", "shop", "k")
			ds = append(ds, d)
			s.park(d, time.Second)
		}
		s.now = s.now.Add(time.Hour)
		for i, d := range ds {
			if i == 2 {
				s.reopen()
			}
			head := s.expectDue("orders", 9, d)[0]
			s.expectDue("orders", 9)
			s.settle(head, finals[i%len(finals)])
		}
		s.expectDue("orders", 9)
	}},
	{"due: the next of a key comes at its own time once it is the head", func(s *stage) {
		first, soon, later := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "k"), s.deal("orders", "shop", "k")
		s.park(first, time.Second)
		s.park(soon, 0)
		s.park(later, time.Hour)
		s.now = s.now.Add(time.Second)
		s.settle(s.expectDue("orders", 9, first)[0], pipeline.Delivered)
		s.settle(s.expectDue("orders", 9, soon)[0], pipeline.Delivered)
		s.expectDue("orders", 9)
		s.now = s.now.Add(time.Hour)
		s.expectDue("orders", 9, later)
	}},
	{"due: a head that is parked again stays the head", func(s *stage) {
		first, second := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "k")
		s.park(first, time.Second)
		s.park(second, 0)
		for range 3 {
			s.now = s.now.Add(time.Minute)
			s.park(s.expectDue("orders", 9, first)[0], time.Minute)
			s.expectDue("orders", 9)
		}
	}},
	{"due: one that ends in the middle of a key frees nobody", func(s *stage) {
		first, second, third := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "k"), s.deal("orders", "shop", "k")
		s.park(first, time.Hour)
		s.park(second, 0)
		s.park(third, 0)
		s.settle(second, pipeline.Dead)
		s.expectDue("orders", 9)
		s.now = s.now.Add(time.Hour)
		s.settle(s.expectDue("orders", 9, first)[0], pipeline.Delivered)
		s.expectDue("orders", 9, third)
	}},
	{"due: keys, sources, routes and deliveries without a key do not wait for one another", func(s *stage) {
		ds := []pipeline.Delivery{
			s.deal("orders", "shop", "k"), s.deal("orders", "shop", "j"), s.deal("orders", "crm", "k"),
			s.deal("orders", "shop", ""), s.deal("orders", "shop", ""),
		}
		for i, d := range ds {
			s.park(d, time.Duration(i+1)*time.Second)
		}
		other := s.deal("ledger", "shop", "k")
		s.park(other, time.Second)
		s.now = s.now.Add(time.Minute)
		s.expectDue("orders", 9, ds...)
		s.expectDue("ledger", 9, other)
	}},
	{"due: the longest due first, of each route as many as it has room for", func(s *stage) {
		var orders, ledger []pipeline.Delivery
		for i := range 6 {
			d := s.deal("orders", "shop", fmt.Sprint(i))
			s.park(d, time.Duration(10-i)*time.Second)
			orders = append([]pipeline.Delivery{d}, orders...)
			d.Route = "ledger"
			s.park(d, time.Duration(i+1)*time.Second)
			ledger = append(ledger, d)
		}
		s.now = s.now.Add(time.Hour)
		got := s.dueOn(map[string]int{"orders": 2, "ledger": 3, "empty": 9, "none": 0})
		s.sameEvents(ofRoute(got, "orders"), orders[:2])
		s.sameEvents(ofRoute(got, "ledger"), ledger[:3])
		if len(got) != 5 {
			s.Fatalf("due are %v", eventIDs(got))
		}
		s.expectDue("orders", 0)
		s.expectDue("orders", -1)
		s.expectDue("orders", 3, orders[2:5]...)
		s.sameEvents(s.dueOn(map[string]int{"ledger": 9}), ledger[3:])
	}},
	{"due: the clock jumps", func(s *stage) {
		first, second := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "k")
		s.park(first, time.Minute)
		s.park(second, 0)
		s.now = s.now.Add(24 * time.Hour)
		head := s.expectDue("orders", 9, first)[0]
		s.expectDue("orders", 9)
		s.now = s.now.Add(-48 * time.Hour)
		s.expectDue("orders", 9)
		s.park(head, time.Minute)
		s.expectDue("orders", 9)
		s.now = s.now.Add(time.Minute)
		s.settle(s.expectDue("orders", 9, first)[0], pipeline.Delivered)
		s.expectDue("orders", 9, second)
	}},
	{"due: times at the ends of the calendar", func(s *stage) {
		never, always := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "j")
		o := s.outcome(pipeline.Parked)
		o.Next = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
		s.settleAs(never, o)
		o.Next = time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)
		s.settleAs(always, o)
		s.expectDue("orders", 9, always)
	}},
	{"due: many hands, and each delivery in one of them", func(s *stage) {
		const n = 120
		for i := range n {
			s.park(s.deal("orders", "shop", fmt.Sprint(i%80)), time.Second)
		}
		s.now = s.now.Add(time.Minute)
		var (
			mu    sync.Mutex
			taken = make(map[string]int)
			hands sync.WaitGroup
		)
		for range 6 {
			hands.Go(func() {
				for range n {
					ds, err := s.ledger.Due(s.ctx, s.now, map[string]int{"orders": 5}, lease)
					if err != nil {
						s.Errorf("due: %v", err)
						return
					}
					for _, d := range ds {
						mu.Lock()
						taken[d.Event.ID]++
						mu.Unlock()
						if err := s.ledger.Settle(s.ctx, d, s.outcome(pipeline.Delivered)); err != nil {
							s.Errorf("settle: %v", err)
						}
					}
				}
			})
		}
		hands.Wait()
		for id, times := range taken {
			if times != 1 {
				s.Errorf("%s was handed out %d times", id, times)
			}
		}
		if len(taken) != n {
			s.Errorf("%d deliveries were handed out, want %d", len(taken), n)
		}
	}},
}

var leasePromises = []promise{
	{"lease: nobody else gets it until it runs out", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.park(d, time.Second)
		s.now = s.now.Add(time.Second)
		s.expectDue("orders", 9, d)
		s.now = s.now.Add(lease - 1)
		s.expectDue("orders", 9)
		s.now = s.now.Add(1)
		s.expectDue("orders", 9, d)
		s.admits(d, pipeline.Held)
	}},
	{"lease: given back, it is due as before", func(s *stage) {
		early, late := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "j")
		s.park(early, time.Second)
		s.park(late, 2*time.Second)
		s.now = s.now.Add(time.Hour)
		s.giveBack(s.expectDue("orders", 1, early)...)
		s.giveBack(s.expectDue("orders", 9, early, late)...)
		s.giveBack()
		s.expectDue("orders", 9, early, late)
	}},
	{"lease: giving back what is settled, or came from the log, does nothing", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.giveBack(d)
		s.park(d, time.Second)
		s.now = s.now.Add(time.Second)
		head := s.expectDue("orders", 9, d)[0]
		s.settle(head, pipeline.Delivered)
		s.giveBack(head, s.deal("orders", "shop", "k"))
		s.expectDue("orders", 9)
		s.admits(d, pipeline.Settled)
	}},
	{"lease: one that has passed on is not given back by the former holder", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.park(d, time.Second)
		s.now = s.now.Add(time.Second)
		former := s.expectDue("orders", 9, d)
		s.now = s.now.Add(lease)
		s.expectDue("orders", 9, d)
		s.giveBack(former...)
		s.expectDue("orders", 9)
	}},
	{"lease: the failure of a former holder decides nothing, its success does", func(s *stage) {
		for _, state := range []pipeline.State{pipeline.Parked, pipeline.Dead, pipeline.Delivered, pipeline.Skipped} {
			d := s.deal("orders", "shop", string(state))
			s.park(d, time.Second)
			s.now = s.now.Add(time.Second)
			former := s.expectDue("orders", 9, d)[0]
			s.now = s.now.Add(lease)
			holder := s.expectDue("orders", 9, d)[0]
			s.settle(former, state)
			s.expectDue("orders", 9)
			if state == pipeline.Parked || state == pipeline.Dead {
				s.admits(d, pipeline.Held)
			} else {
				s.admits(d, pipeline.Settled)
			}
			s.settle(holder, pipeline.Delivered)
			s.admits(d, pipeline.Settled)
		}
		if n := len(s.dead("orders", 9)); n != 0 {
			s.Errorf("%d dead letters, want none", n)
		}
	}},
	{"lease: one that has run out still counts while nobody else has it", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.park(d, time.Second)
		s.now = s.now.Add(time.Second)
		holder := s.expectDue("orders", 9, d)[0]
		s.now = s.now.Add(2 * lease)
		s.park(holder, time.Hour)
		s.expectDue("orders", 9)
		s.now = s.now.Add(time.Hour)
		s.expectDue("orders", 9, d)
	}},
	{"lease: the holder has one word", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.park(d, time.Second)
		s.now = s.now.Add(time.Second)
		holder := s.expectDue("orders", 9, d)[0]
		s.park(holder, time.Hour)
		s.settle(holder, pipeline.Dead)
		s.park(holder, time.Second)
		s.giveBack(holder)
		s.admits(d, pipeline.Held)
		s.now = s.now.Add(time.Minute)
		s.expectDue("orders", 9)
		s.now = s.now.Add(time.Hour)
		s.expectDue("orders", 9, d)
	}},
	{"lease: a restart", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.park(d, time.Second)
		s.now = s.now.Add(time.Second)
		former := s.expectDue("orders", 9, d)[0]
		s.reopen()
		if s.f.LeasesEndOnOpen {
			s.expectDue("orders", 9, d)
		} else {
			s.expectDue("orders", 9)
		}
		s.settle(former, pipeline.Delivered)
		s.admits(d, pipeline.Settled)
		s.now = s.now.Add(lease)
		s.expectDue("orders", 9)
	}},
}

func (s *stage) sameDelivery(got, want pipeline.Delivery) {
	s.Helper()
	s.sameEvent(got.Event, want.Event)
	if got.Route != want.Route || got.At != want.At || got.Number == 0 || got.Attempts != want.Attempts || got.Parks != want.Parks ||
		!got.First.Equal(want.First) || !reflect.DeepEqual(got.History, want.History) {
		s.Errorf("the delivery is\n%+v, want\n%+v", got, want)
	}
	if !got.Lease.Equal(s.now.Add(lease)) {
		s.Errorf("the lease is until %s, want %s", got.Lease, s.now.Add(lease))
	}
}

func ofRoute(ds []pipeline.Delivery, route string) (of []pipeline.Delivery) {
	for _, d := range ds {
		if d.Route == route {
			of = append(of, d)
		}
	}
	return of
}
