package storetest

import (
	"reflect"
	"strings"
	"time"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

var settlePromises = []promise{
	{"settle: the first decision stands", func(s *stage) {
		for _, first := range finals {
			for _, second := range append([]pipeline.State{pipeline.Parked}, finals...) {
				d := s.deal("orders", "shop", "k")
				s.settle(d, first)
				s.settle(d, second)
				s.admits(d, pipeline.Settled)
				if got := s.deliveries(store.Filter{Limit: 1000}); entry(got, d).Outcome.State != first {
					s.Errorf("settled as %s and then as %s: the entry says %s", first, second, entry(got, d).Outcome.State)
				}
			}
		}
		if got := s.due("orders", 99); len(got) > 0 {
			s.Errorf("settled deliveries are due: %v", eventIDs(got))
		}
		if n := len(s.dead("orders", 99)); n != 4 {
			s.Errorf("%d dead letters, want the 4 whose first decision it was", n)
		}
	}},
	{"settle: parking twice parks once", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.park(d, time.Second)
		s.park(d, time.Hour)
		s.now = s.now.Add(time.Minute)
		s.settle(s.expectDue("orders", 9, d)[0], pipeline.Delivered)
		s.expectDue("orders", 9)
		s.admits(s.deal("orders", "shop", "k"), pipeline.Unknown)
	}},
	{"settle: a redelivered record of a parked delivery ends the parking", func(s *stage) {
		for _, state := range finals {
			d, next := s.deal("orders", "shop", string(state)), s.deal("orders", "shop", string(state))
			s.park(d, time.Second)
			s.park(next, 0)
			s.settle(d, state)
			s.admits(d, pipeline.Settled)
			s.settle(s.expectDue("orders", 9, next)[0], state)
		}
		if c := s.count()["orders"]; c.Parked != 0 || c.Dead != 2 {
			s.Errorf("counted %+v, want nothing parked and 2 dead", c)
		}
	}},
	{"settle: a number that belongs to another delivery ends nothing", func(s *stage) {
		d, other := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "j")
		s.park(d, time.Second)
		s.now = s.now.Add(time.Minute)
		leased := s.expectDue("orders", 9, d)[0]
		other.Number = leased.Number
		s.settle(other, pipeline.Delivered)
		s.admits(d, pipeline.Held)
		s.settle(leased, pipeline.Delivered)
		s.admits(d, pipeline.Settled)
	}},
	{"settle: a dead letter keeps the whole event and its past", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		d.Event.Body = []byte("\x00\xff{\"a\":\n1}\x00")
		d.Attempts, d.Parks, d.First = 12, 3, s.now.Add(-time.Hour)
		d.History = past(s.now, 3)
		fresh := s.outcome(pipeline.Dead)
		s.settleAs(d, fresh)
		parked := d
		parked.At.Offset, parked.Event.ID, parked.Event.Body = 1000, "evt_parked", []byte{}
		s.park(parked, time.Second)
		s.now = s.now.Add(time.Minute)
		leased := s.expectDue("orders", 9, parked)[0]
		leased.Attempts++
		s.settle(leased, pipeline.Dead)
		s.reopen()
		letters := s.dead("orders", 9)
		if len(letters) != 2 || letters[0].Number <= letters[1].Number {
			s.Fatalf("got %d dead letters, want 2, newest first", len(letters))
		}
		for i, want := range []pipeline.Delivery{parked, d} {
			got := letters[i]
			s.sameEvent(got.Delivery.Event, want.Event)
			if got.Fault != nil {
				s.Errorf("the event of %s is said to be unusable: %v", want.Event.ID, got.Fault)
			}
			if got.Delivery.Route != "orders" || got.Delivery.At != want.At || !got.Delivery.First.Equal(want.First) || !reflect.DeepEqual(got.Delivery.History, want.History) {
				s.Errorf("got %+v, want %+v", got.Delivery, want)
			}
		}
		if letters[0].Delivery.Attempts != 13 || letters[1].Delivery.Attempts != 12 {
			s.Errorf("attempts are %d and %d, want 13 and 12", letters[0].Delivery.Attempts, letters[1].Delivery.Attempts)
		}
		if o := letters[1].Outcome; o != fresh {
			s.Errorf("outcome is %+v, want %+v", o, fresh)
		}
		if got := s.dead("orders", 1); len(got) != 1 || got[0].Number != letters[0].Number {
			s.Errorf("one dead letter asked for: got %d", len(got))
		}
		if got := s.dead("other", 9); len(got) != 0 {
			s.Errorf("another route has %d dead letters", len(got))
		}
	}},
	{"settle: what never was a valid event can be a dead letter", func(s *stage) {
		d := s.deal("orders", "shop", "")
		d.Event = event.Event{ID: "evt_poison", Source: "shop", Body: []byte("junk")}
		s.settle(d, pipeline.Dead)
		got := s.dead("orders", 1)
		if len(got) != 1 || got[0].Fault == nil || string(got[0].Delivery.Event.Body) != "junk" {
			s.Fatalf("got %+v, want the junk with a fault", got)
		}
		s.admits(d, pipeline.Settled)
	}},
	{"settle: long and malformed texts are bounded", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		d.History = past(s.now, 50)
		d.History[49].Error = strings.Repeat("h", 9999)
		o := s.outcome(pipeline.Dead)
		o.Error = strings.Repeat("é", 4000) + "\xff\x00"
		o.TargetID = "t\x00\xfe" + strings.Repeat("x", 9999)
		o.Reason = strings.Repeat("r", 999)
		s.settleAs(d, o)
		got := s.dead("orders", 1)[0]
		if n := len(got.Outcome.Error); n > 2048 || n < 2040 || strings.Trim(got.Outcome.Error, "é") != "" {
			s.Errorf("the error has %d bytes and is %.20q…, want 2 KiB of é", n, got.Outcome.Error)
		}
		if n := len(got.Outcome.TargetID); n > 255 || n < 200 || strings.Contains(got.Outcome.TargetID, "\x00") {
			s.Errorf("the target's ID is %q", got.Outcome.TargetID)
		}
		if n := len(got.Outcome.Reason); n != 64 {
			s.Errorf("the reason has %d bytes, want 64", n)
		}
		h := got.Delivery.History
		if len(h) != pipeline.HistoryKept || h[19].Code != 549 || h[0].Code != 530 || len(h[19].Error) != 512 {
			s.Errorf("the history is not the latest %d attempts, each bounded: %d kept", pipeline.HistoryKept, len(h))
		}
	}},
	{"settle: a state that does not exist is refused", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		if err := s.ledger.Settle(s.ctx, d, pipeline.Outcome{State: "gone", At: s.now}); err == nil {
			s.Errorf("accepted")
		}
		s.admits(d, pipeline.Unknown)
	}},
}

// past makes up n attempts.
func past(now time.Time, n int) []pipeline.Attempt {
	h := make([]pipeline.Attempt, n)
	for i := range h {
		h[i] = pipeline.Attempt{At: now.Add(time.Duration(i-n) * time.Minute), Duration: time.Second, Code: 500 + i, Error: "no luck"}
	}
	return h
}

func entry(entries []store.Entry, d pipeline.Delivery) store.Entry {
	for _, e := range entries {
		if e.Route == d.Route && e.At == d.At {
			return e
		}
	}
	return store.Entry{}
}

func (s *stage) sameEvent(got, want event.Event) {
	s.Helper()
	if len(got.Body) == 0 && len(want.Body) == 0 {
		got.Body, want.Body = nil, nil
	}
	if !reflect.DeepEqual(got, want) {
		s.Errorf("the event is\n%+v, want\n%+v", got, want)
	}
}
