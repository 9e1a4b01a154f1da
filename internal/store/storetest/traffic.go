package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/pipeline"
)

// traffic runs a small hub over the ledger with many hands at once: a log that hands out one delivery of a key at a time, a target that
// fails a fifth of the time, and a fetcher of what is due. It is stopped and restarted in the middle, the log begins
// again at the first record that was not finished, and in the end every delivery has reached the target once, in order of its key.
type traffic struct {
	*stage
	records []pipeline.Delivery

	mu     sync.Mutex
	freed  sync.Cond // a key is no longer busy
	done   []bool    // by index of records: settled or parked, so that the log moves on
	busy   map[chain]bool
	sent   map[chain][]int64
	total  map[string]int
	ticks  atomic.Int64 // seconds that the clock has moved
	ending atomic.Bool
}

func newTraffic(s *stage) *traffic {
	t := &traffic{stage: s, busy: make(map[chain]bool), sent: make(map[chain][]int64), total: make(map[string]int)}
	t.freed.L = &t.mu
	r := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		key := fmt.Sprint(r.IntN(12))
		if r.IntN(10) == 0 {
			key = ""
		}
		d := s.deal("orders", "shop", key)
		t.records = append(t.records, d)
		d.Route = "ledger"
		t.records = append(t.records, d)
	}
	t.done = make([]bool, len(t.records))
	return t
}

func (t *traffic) run() {
	t.Helper()
	for part := range 3 {
		if part > 0 {
			t.reopen()
		}
		t.part((part + 1) * len(t.records) / 3)
	}
	for key, offsets := range t.sent {
		if key.key != "" && !slices.IsSorted(offsets) {
			t.Errorf("of %v arrived, in this order: %v", key, offsets)
		}
	}
	for _, d := range t.records {
		name := d.Route + "/" + d.Event.ID
		if t.total[name] != 1 {
			t.Errorf("%s arrived %d times", name, t.total[name])
		}
	}
	for route, states := range t.balance() {
		if states[pipeline.Delivered] != int64(len(t.records)/2) || len(states) != 1 {
			t.Errorf("the balance of %s is %v, want %d delivered", route, states, len(t.records)/2)
		}
	}
}

// part hands out records up to an index, and in the last part goes on until nothing is parked.
func (t *traffic) part(until int) {
	ctx, stop := context.WithCancel(t.ctx)
	defer stop()
	t.ending.Store(false)
	var fetcher, hands sync.WaitGroup
	fetcher.Go(func() { t.fetch(ctx, until == len(t.records)) })
	first := slices.Index(t.done, false) // the log keeps the contiguous prefix only
	for i := max(first, 0); i < until; i++ {
		d := t.records[i]
		t.claim(chainOf(d))
		hands.Go(func() {
			t.carry(d)
			t.mu.Lock()
			defer t.mu.Unlock()
			t.done[i] = true
			delete(t.busy, chainOf(d))
			t.freed.Broadcast()
		})
	}
	hands.Wait()
	t.ending.Store(true)
	fetcher.Wait()
}

// claim waits until no elder of a chain is in hand, as the log does.
func (t *traffic) claim(c chain) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c.key != "" && t.busy[c] {
		t.freed.Wait()
	}
	t.busy[c] = true
}

// clock is a time that the fetcher moves on; many hands read it.
func (t *traffic) clock() time.Time { return t.now.Add(time.Duration(t.ticks.Load()) * time.Second) }

// fetch carries what is due until the part ends, in the last part until there is nothing left.
func (t *traffic) fetch(ctx context.Context, toTheEnd bool) {
	for idle := 0; ; {
		ending := t.ending.Load()
		t.ticks.Add(1)
		// Leases outlast the whole test: the clock runs faster here than the hands.
		ds, err := t.ledger.Due(ctx, t.clock(), map[string]int{"orders": 7, "ledger": 7}, 1000*time.Hour)
		if err != nil {
			t.Errorf("due: %v", err)
			return
		}
		var all sync.WaitGroup
		for _, d := range ds {
			all.Go(func() { t.carry(d) })
		}
		all.Wait()
		if len(ds) > 0 {
			idle = 0
		} else if idle++; ending && (!toTheEnd || idle > 30) {
			return
		}
	}
}

// carry is a delivery's way: standing, target, outcome.
func (t *traffic) carry(d pipeline.Delivery) {
	o := pipeline.Outcome{State: pipeline.Delivered, At: t.clock()}
	if d.Number == 0 {
		standing, err := t.ledger.Admit(t.ctx, d)
		switch {
		case err != nil:
			t.Errorf("admit: %v", err)
			return
		case standing == pipeline.Settled || standing == pipeline.Held:
			return
		case standing == pipeline.Behind:
			o.State = pipeline.Parked
		}
	}
	if o.State == pipeline.Delivered && !t.send(d) {
		o.State, o.Next = pipeline.Parked, t.clock().Add(time.Duration(rand.IntN(5))*time.Second)
	}
	if err := t.ledger.Settle(t.ctx, d, o); err != nil {
		t.Errorf("settle: %v", err)
	}
}

// send is the target.
func (t *traffic) send(d pipeline.Delivery) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if rand.IntN(5) == 0 {
		return false
	}
	t.sent[chainOf(d)] = append(t.sent[chainOf(d)], d.At.Offset)
	t.total[d.Route+"/"+d.Event.ID]++
	return true
}
