package storetest

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/tidewire/tidewire/pipeline"
)

var historyPromises = []promise{
	{"history: random ones, step by step beside a model", func(s *stage) {
		for seed := range uint64(3) {
			h := newHistory(s, seed+uint64(time.Now().UnixNano())<<8)
			if seed == 0 {
				h = newHistory(s, 1) // one that is always the same
			}
			h.run(250)
		}
	}},
	{"history: hubs with many hands, restarted in the middle", func(s *stage) {
		newTraffic(s).run()
	}},
}

// history does what a pipeline may do to a ledger, in random order, and compares each answer with the model's.
type history struct {
	*stage
	rand  *rand.Rand
	seed  uint64
	m     *model
	trail []string
	// inHand are deliveries that were handed out: from the log (Number 0), one of a chain at a time, and leased ones.
	inHand []pipeline.Delivery
	dealt  []pipeline.Delivery
}

// newHistory begins one on routes of its own, beside what the stage did before.
func newHistory(s *stage, seed uint64) *history {
	return &history{stage: s, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), m: &model{rows: make(map[place]*modelRow)}}
}

func (h *history) note(format string, args ...any) {
	h.trail = append(h.trail, fmt.Sprintf(format, args...))
}

func (h *history) fail(format string, args ...any) {
	h.Helper()
	h.Logf("seed %d; what happened before:", h.seed)
	for _, line := range h.trail[max(0, len(h.trail)-60):] {
		h.Logf("  %s", line)
	}
	h.Fatalf(format, args...)
}

func (h *history) run(steps int) {
	h.Helper()
	for range steps {
		switch n := h.rand.IntN(100); {
		case n < 35:
			h.take()
		case n < 55:
			h.finish()
		case n < 70:
			h.fetch(h.rand.IntN(6))
		case n < 75:
			h.giveBackOne()
		case n < 85:
			h.tick()
		case n < 93:
			h.redeliver()
		case n < 95:
			h.audit()
		case n < 97:
			h.restart()
		default:
			h.settleAgain()
		}
	}
	h.drain()
}

func (h *history) routes() []string {
	return []string{fmt.Sprintf("a%d", h.seed), fmt.Sprintf("b%d", h.seed)}
}

// take deals the next delivery whose chain is not in hand, as a subscriber does, and asks for its standing.
func (h *history) take() {
	h.Helper()
	route := h.routes()[h.rand.IntN(2)]
	key := []string{"", "k1", "k2", "k3"}[h.rand.IntN(4)]
	d := h.deal(route, []string{"shop", "crm"}[h.rand.IntN(2)], key)
	for _, other := range h.inHand {
		if other.Number == 0 && key != "" && chainOf(other) == chainOf(d) {
			return // its turn has not come; another of this chain is dealt later
		}
	}
	h.dealt = append(h.dealt, d)
	switch h.ask(d) {
	case pipeline.Unknown:
		h.inHand = append(h.inHand, d)
	case pipeline.Behind:
		o := h.outcome(pipeline.Parked)
		h.decide(d, o)
	}
}

func (h *history) ask(d pipeline.Delivery) pipeline.Standing {
	h.Helper()
	got, err := h.ledger.Admit(h.ctx, d)
	if err != nil {
		h.fail("admit: %v", err)
	}
	want := h.m.admit(d)
	h.note("admit %s %s %q: %s", d.Route, d.Event.ID, d.Event.Key, standing(got))
	if got != want {
		h.fail("%s on %s with key %q is %s, want %s", d.Event.ID, d.Route, d.Event.Key, standing(got), standing(want))
	}
	return got
}

func (h *history) decide(d pipeline.Delivery, o pipeline.Outcome) {
	h.Helper()
	h.note("settle %s %s %q number %d lease %s as %s next %s", d.Route, d.Event.ID, d.Event.Key, d.Number, d.Lease, o.State, o.Next)
	if err := h.ledger.Settle(h.ctx, d, o); err != nil {
		h.fail("settle: %v", err)
	}
	h.m.settle(d, o)
}

// pick removes a random delivery from those in hand.
func (h *history) pick() (pipeline.Delivery, bool) {
	if len(h.inHand) == 0 {
		return pipeline.Delivery{}, false
	}
	i := h.rand.IntN(len(h.inHand))
	d := h.inHand[i]
	h.inHand = append(h.inHand[:i], h.inHand[i+1:]...)
	return d, true
}

func (h *history) finish() {
	h.Helper()
	d, ok := h.pick()
	if !ok {
		return
	}
	d.Attempts++
	state := []pipeline.State{pipeline.Delivered, pipeline.Delivered, pipeline.Parked, pipeline.Parked, pipeline.Dead, pipeline.Skipped}[h.rand.IntN(6)]
	o := h.outcome(state)
	if state == pipeline.Parked {
		o.Next = h.now.Add(time.Duration(h.rand.IntN(300)) * time.Second)
	}
	h.decide(d, o)
}

func (h *history) settleAgain() {
	h.Helper()
	if len(h.dealt) == 0 {
		return
	}
	d := h.dealt[h.rand.IntN(len(h.dealt))]
	if r := h.m.rows[place{d.Route, d.At}]; r == nil || r.state == pipeline.Parked {
		return
	}
	h.decide(d, h.outcome([]pipeline.State{pipeline.Delivered, pipeline.Parked, pipeline.Dead, pipeline.Skipped}[h.rand.IntN(4)]))
}

// fetch leases what is due on every route and holds it against the model.
func (h *history) fetch(room int) {
	h.Helper()
	for _, route := range h.routes() {
		got := h.due(route, room)
		h.note("due %s %d at %s: %v", route, room, h.now, eventIDs(got))
		want := h.m.due(route, h.now)
		if len(got) != min(room, len(want)) {
			h.fail("%d of %s are due, want %d of the %d", len(got), route, min(room, len(want)), len(want))
		}
		for i, d := range got {
			r := h.m.rows[place{d.Route, d.At}]
			if r == nil || r.state != pipeline.Parked || r.dueAt().After(h.now) {
				h.fail("%s on %s is handed out, which is not due", d.Event.ID, route)
			}
			// Those that came due at the same time may come in any order.
			if !r.dueAt().Equal(want[i].dueAt()) {
				h.fail("%s on %s, due since %s, is handed out in place %d, which is due since %s", d.Event.ID, route, r.dueAt(), i, want[i].dueAt())
			}
			if d.Event.Key != "" && h.m.head(chainOf(d)) != r {
				h.fail("%s on %s is handed out before its elders", d.Event.ID, route)
			}
			if d.Attempts != r.d.Attempts || !reflect.DeepEqual(d.Event, r.d.Event) {
				h.fail("%s on %s comes back as %+v, was %+v", d.Event.ID, route, d, r.d)
			}
			for _, other := range got[:i] {
				if other.At == d.At {
					h.fail("%s on %s is handed out twice", d.Event.ID, route)
				}
			}
		}
		for _, d := range got {
			h.m.rows[place{d.Route, d.At}].lease = d.Lease
			h.inHand = append(h.inHand, d)
		}
	}
}

func (h *history) giveBackOne() {
	h.Helper()
	d, ok := h.pick()
	switch {
	case !ok:
	case d.Number == 0:
		h.inHand = append(h.inHand, d)
	default:
		h.note("give back %s %s", d.Route, d.Event.ID)
		h.giveBack(d)
		h.m.giveBack(d)
	}
}

func (h *history) tick() {
	h.now = h.now.Add(time.Duration(h.rand.IntN(120)) * time.Second)
	if h.rand.IntN(10) == 0 {
		h.now = h.now.Add(time.Duration(h.rand.IntN(3)-1) * 20 * time.Minute)
	}
	h.note("it is %s", h.now)
}

// redeliver is what the log does after a crash: a record comes again.
func (h *history) redeliver() {
	h.Helper()
	if len(h.dealt) == 0 {
		return
	}
	d := h.dealt[h.rand.IntN(len(h.dealt))]
	for _, other := range h.inHand {
		if chainOf(other) == chainOf(d) {
			return
		}
	}
	h.ask(d)
}

// restart loses what came from the log and is in hand; the log hands it out again. Leased ones stay in hand: hands that
// belong to another hub, or that come late.
func (h *history) restart() {
	h.Helper()
	h.note("restart")
	h.reopen()
	if h.f.LeasesEndOnOpen {
		h.m.endLeases()
	}
	for _, d := range h.inHand {
		if d.Number == 0 {
			h.ask(d)
		}
	}
}

func (h *history) audit() {
	h.Helper()
	all, counts := h.balance(), h.count()
	want := h.m.balance()
	for _, route := range h.routes() {
		got := all[route]
		if len(got) == 0 && len(want[route]) == 0 {
			continue
		}
		if !reflect.DeepEqual(got, want[route]) {
			h.fail("the balance of %s is %v, want %v", route, got, want[route])
		}
		if c := counts[route]; c.Parked != got[pipeline.Parked] || c.Dead != got[pipeline.Dead] {
			h.fail("%s counts %+v, its balance is %v", route, c, got)
		}
		if n := int64(len(h.dead(route, 10_000))); n != got[pipeline.Dead] {
			h.fail("%s has %d dead letters, its balance is %v", route, n, got)
		}
	}
}

// drain settles everything there is and checks that it all adds up.
func (h *history) drain() {
	h.Helper()
	for len(h.inHand) > 0 {
		d, _ := h.pick()
		if d.Number == 0 {
			h.decide(d, h.outcome(pipeline.Delivered))
		}
	}
	for rounds := 0; ; rounds++ {
		h.now = h.now.Add(24 * time.Hour)
		h.fetch(1000)
		if len(h.inHand) == 0 {
			break
		}
		for len(h.inHand) > 0 {
			d, _ := h.pick()
			h.decide(d, h.outcome(pipeline.Delivered))
		}
		if rounds > 1000 {
			h.fail("draining does not end")
		}
	}
	h.audit()
	for _, d := range h.dealt {
		if h.ask(d) != pipeline.Settled {
			h.fail("%s on %s is left over", d.Event.ID, d.Route)
		}
	}
}
