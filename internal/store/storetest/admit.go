package storetest

import (
	"time"

	"github.com/tidewire/tidewire/pipeline"
)

var admitPromises = []promise{
	{"admit: a fresh delivery is unknown, and asking writes nothing", func(s *stage) {
		d := s.deal("orders", "shop", "k")
		s.admits(d, pipeline.Unknown)
		s.admits(d, pipeline.Unknown)
		s.reopen()
		s.admits(d, pipeline.Unknown)
		if b := s.balance(); len(b) != 0 {
			s.Errorf("admitting left entries: %v", b)
		}
	}},
	{"admit: what is settled stays settled, also after a restart", func(s *stage) {
		var ds []pipeline.Delivery
		for _, state := range finals {
			d := s.deal("orders", "shop", "k")
			ds = append(ds, d)
			s.settle(d, state)
		}
		between := s.deal("orders", "shop", "k")
		last := s.deal("orders", "shop", "k")
		s.settle(last, pipeline.Delivered)
		check := func() {
			s.Helper()
			for _, d := range append(ds, last) {
				s.admits(d, pipeline.Settled)
				d.Route = "other"
				s.admits(d, pipeline.Unknown)
			}
			s.admits(between, pipeline.Unknown)
			elsewhere := last
			elsewhere.At.Partition = 3
			elsewhere.Event.ID = "evt_elsewhere"
			s.admits(elsewhere, pipeline.Unknown)
		}
		check()
		s.reopen()
		check()
		s.settle(between, pipeline.Delivered)
		s.admits(between, pipeline.Settled)
	}},
	{"admit: a parked delivery is held, also after a restart, until it is settled", func(s *stage) {
		keyed, bare := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "")
		for _, d := range []pipeline.Delivery{keyed, bare} {
			s.park(d, time.Hour)
			s.admits(d, pipeline.Held)
		}
		s.reopen()
		for _, d := range []pipeline.Delivery{keyed, bare} {
			s.admits(d, pipeline.Held)
			s.settle(d, pipeline.Delivered)
			s.admits(d, pipeline.Settled)
		}
	}},
	{"admit: the younger of a key are behind its parked elders, and nobody else is", func(s *stage) {
		s.park(s.deal("orders", "shop", "k"), time.Hour)
		s.park(s.deal("orders", "shop", ""), time.Hour)
		check := func() {
			s.Helper()
			s.admits(s.deal("orders", "shop", "k"), pipeline.Behind)
			s.admits(s.deal("orders", "shop", "other"), pipeline.Unknown)
			s.admits(s.deal("orders", "shop", ""), pipeline.Unknown)
			s.admits(s.deal("orders", "crm", "k"), pipeline.Unknown)
			s.admits(s.deal("ledger", "shop", "k"), pipeline.Unknown)
		}
		check()
		s.reopen()
		check()
	}},
	{"admit: a key is free when the last of it is settled", func(s *stage) {
		first, second := s.deal("orders", "shop", "k"), s.deal("orders", "shop", "k")
		s.park(first, time.Second)
		s.park(second, 0)
		s.now = s.now.Add(time.Minute)
		s.settle(s.expectDue("orders", 9, first)[0], pipeline.Delivered)
		s.admits(s.deal("orders", "shop", "k"), pipeline.Behind)
		s.settle(s.expectDue("orders", 9, second)[0], pipeline.Dead)
		s.admits(s.deal("orders", "shop", "k"), pipeline.Unknown)
		s.reopen()
		s.admits(s.deal("orders", "shop", "k"), pipeline.Unknown)
	}},
	{"admit: far below and far above what was settled last", func(s *stage) {
		settled := map[int64]bool{1: true, 4095: true, 4096: true, 5_000_000: true, 80_000_000: true, 80_000_001: true}
		for offset := range settled {
			s.settle(s.at("orders", "shop", "k", offset), pipeline.Delivered)
		}
		check := func() {
			s.Helper()
			for offset := range settled {
				s.admits(s.at("orders", "shop", "k", offset), pipeline.Settled)
				if !settled[offset+1] {
					s.admits(s.at("orders", "shop", "k", offset+1), pipeline.Unknown)
				}
			}
		}
		check()
		s.settle(s.at("orders", "shop", "k", 2_000_000), pipeline.Delivered)
		s.admits(s.at("orders", "shop", "k", 2_000_000), pipeline.Settled)
		s.reopen()
		check()
		s.admits(s.at("orders", "shop", "k", 2_000_000), pipeline.Settled)
	}},
	{"admit: an event that comes from another place (where declared)", func(s *stage) {
		if !s.f.MatchesByID {
			return
		}
		d := s.deal("orders", "shop", "")
		s.settle(d, pipeline.Delivered)
		d.At.Offset += 10
		s.admits(d, pipeline.Settled)
		p := s.deal("orders", "shop", "")
		s.park(p, time.Hour)
		p.At.Partition = 7
		s.admits(p, pipeline.Held)
		p.Event.Source = "crm"
		s.admits(p, pipeline.Unknown)
	}},
}
