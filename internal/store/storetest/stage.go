package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// stage is one ledger with a log that deals out deliveries and a clock that stands still unless it is moved.
type stage struct {
	testing.TB
	ctx     context.Context
	f       Features
	open    Opener
	dir     string
	ledger  Ledger
	closeIt func()
	now     time.Time
	offsets map[string]int64
}

func newStage(tb testing.TB, f Features, open Opener) *stage {
	s := &stage{
		TB: tb, ctx: context.WithoutCancel(tb.Context()), f: f, open: open, dir: tb.TempDir(),
		now:     time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		offsets: make(map[string]int64),
	}
	s.ledger, s.closeIt = open(tb, s.dir)
	tb.Cleanup(func() { s.closeIt() })
	return s
}

// reopen closes the ledger and opens it again, as a restart does.
func (s *stage) reopen() {
	s.Helper()
	s.closeIt()
	s.closeIt = func() {} // if opening fails, there is nothing to close
	s.ledger, s.closeIt = s.open(s.TB, s.dir)
}

// deal returns the next delivery of a source's topic on a route.
func (s *stage) deal(route, source, key string) pipeline.Delivery {
	s.offsets[source]++
	return s.at(route, source, key, s.offsets[source])
}

// at returns the delivery at one place in the log. It is the same event whichever route it is dealt to.
func (s *stage) at(route, source, key string, offset int64) pipeline.Delivery {
	happened := time.Date(2026, 2, 1, 0, 0, 0, 123456789, time.UTC).Add(time.Duration(offset) * time.Second)
	return pipeline.Delivery{
		Route: route,
		At:    pipeline.Position{Topic: pipeline.EventsTopic(source), Partition: 0, Offset: offset},
		Event: event.Event{
			ID: fmt.Sprintf("evt_%s_%d", source, offset), Source: source, Type: "invoice.paid", Subject: "in_1",
			Key: key, Time: happened, Recorded: happened.Add(time.Second), ContentType: "application/json",
			Body:       fmt.Appendf(nil, `{"n":%d}`, offset),
			Extensions: map[string]string{"apiversion": "2022-11-15"},
		},
	}
}

func (s *stage) outcome(state pipeline.State) pipeline.Outcome {
	o := pipeline.Outcome{State: state, At: s.now, Code: 200, TargetID: "t-1", Duration: 15 * time.Millisecond}
	switch state {
	case pipeline.Dead:
		o.Code, o.Reason, o.Error = 400, "permanent", "400 Bad Request"
	case pipeline.Skipped:
		o.Code, o.Reason = 0, "duplicate"
	case pipeline.Parked:
		o.Code, o.Reason, o.Error = 503, "transient", "503 Service Unavailable"
	}
	return o
}

func (s *stage) settle(d pipeline.Delivery, state pipeline.State) {
	s.Helper()
	s.settleAs(d, s.outcome(state))
}

func (s *stage) settleAs(d pipeline.Delivery, o pipeline.Outcome) {
	s.Helper()
	if err := s.ledger.Settle(s.ctx, d, o); err != nil {
		s.Fatalf("settle %s on %s as %s: %v", d.Event.ID, d.Route, o.State, err)
	}
}

// park parks a delivery until now plus wait; at once when its elders are gone for a wait of 0.
func (s *stage) park(d pipeline.Delivery, wait time.Duration) {
	s.Helper()
	o := s.outcome(pipeline.Parked)
	if wait != 0 {
		o.Next = s.now.Add(wait)
	}
	s.settleAs(d, o)
}

func (s *stage) admits(d pipeline.Delivery, want pipeline.Standing) {
	s.Helper()
	got, err := s.ledger.Admit(s.ctx, d)
	if err != nil {
		s.Fatalf("admit %s on %s: %v", d.Event.ID, d.Route, err)
	}
	if got != want {
		s.Fatalf("%s with key %q on %s is %s, want %s", d.Event.ID, d.Event.Key, d.Route, standing(got), standing(want))
	}
}

func standing(s pipeline.Standing) string {
	return [...]string{"unknown", "settled", "held", "behind"}[s]
}

const lease = time.Minute

// due leases what is due on one route for a minute.
func (s *stage) due(route string, room int) []pipeline.Delivery {
	s.Helper()
	return s.dueOn(map[string]int{route: room})
}

func (s *stage) dueOn(room map[string]int) []pipeline.Delivery {
	s.Helper()
	ds, err := s.ledger.Due(s.ctx, s.now, room, lease)
	if err != nil {
		s.Fatalf("due: %v", err)
	}
	return ds
}

// expectDue leases what is due on a route and checks which it is, in order.
func (s *stage) expectDue(route string, room int, want ...pipeline.Delivery) []pipeline.Delivery {
	s.Helper()
	got := s.due(route, room)
	s.sameEvents(got, want)
	return got
}

func (s *stage) sameEvents(got, want []pipeline.Delivery) {
	s.Helper()
	g, w := eventIDs(got), eventIDs(want)
	if fmt.Sprint(g) != fmt.Sprint(w) {
		s.Fatalf("due are %v, want %v", g, w)
	}
}

func eventIDs(ds []pipeline.Delivery) []string {
	ids := make([]string, len(ds))
	for i, d := range ds {
		ids[i] = d.Route + "/" + d.Event.ID
	}
	return ids
}

func (s *stage) giveBack(ds ...pipeline.Delivery) {
	s.Helper()
	if err := s.ledger.GiveBack(s.ctx, ds); err != nil {
		s.Fatalf("give back: %v", err)
	}
}

func (s *stage) dead(route string, limit int) []store.DeadLetter {
	s.Helper()
	letters, err := s.ledger.Dead(s.ctx, route, limit)
	if err != nil {
		s.Fatalf("dead: %v", err)
	}
	return letters
}

func (s *stage) deliveries(f store.Filter) []store.Entry {
	s.Helper()
	entries, err := s.ledger.Deliveries(s.ctx, f)
	if err != nil {
		s.Fatalf("deliveries: %v", err)
	}
	return entries
}

func (s *stage) balance() map[string]map[pipeline.State]int64 {
	s.Helper()
	b, err := s.ledger.Balance(s.ctx)
	if err != nil {
		s.Fatalf("balance: %v", err)
	}
	return b
}

func (s *stage) count() map[string]pipeline.Numbers {
	s.Helper()
	c, err := s.ledger.Count(s.ctx)
	if err != nil {
		s.Fatalf("count: %v", err)
	}
	return c
}

// finals are the states that end a delivery.
var finals = []pipeline.State{pipeline.Delivered, pipeline.Dead, pipeline.Skipped}
