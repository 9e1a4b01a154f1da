package pgstore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline"
)

const day = 24 * time.Hour

// recordedAt is the delivery at an offset, of an event recorded at a time.
func recordedAt(offset int64, at time.Time) pipeline.Delivery {
	d := dealt("", offset)
	d.Event.Time, d.Event.Recorded = at, at
	return d
}

// decidedAt is an outcome of that time.
func decidedAt(state pipeline.State, at time.Time) pipeline.Outcome {
	o := outcome(state)
	o.At = at
	return o
}

func expectStanding(tb testing.TB, s *pgstore.Store, d pipeline.Delivery, want pipeline.Standing) {
	tb.Helper()
	if got, err := s.Admit(tb.Context(), d); got != want || err != nil {
		tb.Errorf("%s recorded %s: standing %v, %v, want %v", d.Event.ID, d.Event.Recorded, got, err, want)
	}
}

// Old deliveries go with their partition; what is parked or dead in it, or was decided late, stays.
func TestOldPartitionsAreDropped(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Retention = 8 * day
	s := openStore(t, c)
	now := time.Now()
	if n := len(s.Partitions()); n != 2 {
		t.Errorf("%d partitions at the start, want today's and tomorrow's", n)
	}
	var kept, gone []pipeline.Delivery
	for i := range int64(8) {
		at := now.Add(-time.Duration(i) * day)
		for j, state := range []pipeline.State{pipeline.Delivered, pipeline.Skipped, pipeline.Delivered, pipeline.Parked, pipeline.Dead, pipeline.Delivered} {
			d := recordedAt(10*i+int64(j), at)
			o := decidedAt(state, at.Add(time.Second))
			if j == 5 {
				o.At = now // after days of trying
			}
			mustSettle(t, s, d, o)
			if i >= 5 && j < 3 {
				gone = append(gone, d)
			} else {
				kept = append(kept, d)
			}
		}
	}
	if n := len(s.Partitions()); n != 9 {
		t.Errorf("%d partitions, want one for each of 8 days and the next", n)
	}
	for _, d := range append(kept, gone...) {
		if got, err := s.Admit(t.Context(), d); err != nil || got == pipeline.Unknown {
			t.Errorf("%s is %v, %v", d.Event.ID, got, err)
		}
	}
	before := now.Add(-4 * day)
	removed, err := s.Retain(t.Context(), before)
	if err != nil || removed != int64(len(gone)) {
		t.Errorf("removed %d, %v, want %d", removed, err, len(gone))
	}
	for _, bounds := range s.Partitions() {
		if !bounds[1].After(before) {
			t.Errorf("the partition of %s is left", bounds[0])
		}
	}
	for _, d := range gone {
		expectStanding(t, s, d, pipeline.Unknown)
	}
	for _, d := range kept {
		if got, err := s.Admit(t.Context(), d); err != nil || got == pipeline.Unknown {
			t.Errorf("%s was to be kept: %v, %v", d.Event.ID, got, err)
		}
	}
	audit(t, shared, c.Schema)
	if removed, err := s.Retain(t.Context(), before); removed != 0 || err != nil {
		t.Errorf("a second time removed %d, %v", removed, err)
	}

	// The parked ones of the dropped partitions are settled where they are now, and go when their time has come.
	ds, err := s.Due(t.Context(), now.Add(time.Hour), map[string]int{"orders": 99}, time.Minute)
	if err != nil || len(ds) != 8 {
		t.Fatalf("%d are due, %v, want 8", len(ds), err)
	}
	for _, d := range ds {
		mustSettle(t, s, d, decidedAt(pipeline.Delivered, now))
		expectStanding(t, s, d, pipeline.Settled)
	}
	audit(t, shared, c.Schema)
	if removed, err := s.RetainDead(t.Context(), now.Add(time.Hour)); removed != 8 || err != nil {
		t.Errorf("removed %d dead letters, %v, want 8", removed, err)
	}
	if _, err := s.Retain(t.Context(), now.Add(7*day)); err != nil {
		t.Error(err)
	}
	if b, err := s.Balance(t.Context()); err != nil || len(b) != 0 {
		t.Errorf("left over: %v, %v", b, err)
	}
}

// A record of a time that has no partition, nor will get one, is known as any other.
func TestTimesFarAwayFindAPlace(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := openStore(t, c)
	for i, at := range []time.Time{time.Now().Add(-400 * day), time.Now().Add(400 * day), {}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
		for j, state := range []pipeline.State{pipeline.Delivered, pipeline.Parked, pipeline.Dead} {
			d := recordedAt(int64(10*i+j), at)
			mustSettle(t, s, d, outcome(state))
			mustSettle(t, s, d, outcome(pipeline.Skipped))
			expectStanding(t, s, d, pipeline.Settled)
		}
	}
	if n := len(s.Partitions()); n != 2 {
		t.Errorf("%d partitions, want 2", n)
	}
	audit(t, shared, c.Schema)
}

// A change of the retention changes the width of the partitions made from then on; those that are there stay, and every time has one place.
func TestWidthChanges(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	now := time.Now()
	for round, retention := range []time.Duration{8 * day, 80 * day, 24 * day, 8 * day} {
		c.Retention = retention
		s := openStore(t, c)
		for i := range int64(40) {
			mustSettle(t, s, recordedAt(int64(round)*100+i, now.Add(-time.Duration(i*int64(round+1))*7*time.Hour)), outcome(pipeline.Delivered))
		}
		bounds := s.Partitions()
		for i := 1; i < len(bounds); i++ {
			if bounds[i][0].Before(bounds[i-1][1]) {
				t.Errorf("%s to %s overlaps %s to %s", bounds[i-1][0], bounds[i-1][1], bounds[i][0], bounds[i][1])
			}
		}
		s.Close()
	}
	b, err := openStore(t, c).Balance(t.Context())
	if err != nil || b["orders"][pipeline.Delivered] != 160 {
		t.Errorf("balance %v, %v", b, err)
	}
}

// Rows that had to go with the rest, because their partition could not be made, move into it when it can.
func TestRowsMoveOutOfTheRest(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Retention = 8 * day
	s := openStore(t, c)
	at := time.Now().Add(-3 * day)
	shared.exec(t, fmt.Sprintf(`INSERT INTO %[1]s.routes (name) VALUES ('orders'); INSERT INTO %[1]s.sources (name) VALUES ('shop'); INSERT INTO %[1]s.partitions (topic, partition) VALUES ('events.shop', 0);
		INSERT INTO %[1]s.deliveries SELECT %[2]d, %[2]d, 0, 7, 1, 1, 1, 1, 200, 2, 'evt_7', ''`, c.Schema, at.UnixNano()))
	mustSettle(t, s, recordedAt(8, at), outcome(pipeline.Delivered))
	if n := len(s.Partitions()); n != 3 {
		t.Errorf("%d partitions, want 3", n)
	}
	mustSettle(t, s, recordedAt(7, time.Unix(0, at.UnixNano())), outcome(pipeline.Dead))
	expectStanding(t, s, recordedAt(7, at), pipeline.Settled)
	b, err := s.Balance(t.Context())
	if err != nil || b["orders"][pipeline.Delivered] != 2 || b["orders"][pipeline.Dead] != 0 {
		t.Errorf("balance %v, %v", b, err)
	}
}

// Partitions are made and dropped while others settle and ask.
func TestPartitionsChangeUnderLoad(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Retention, c.MaxConnections = 8*day, 8
	a, b := openStore(t, c), openStore(t, c)
	now := time.Now()
	var all sync.WaitGroup
	var next atomic.Int64
	const total = 4000
	for h := range 32 {
		s := []*pgstore.Store{a, b}[h%2]
		all.Go(func() {
			for n := next.Add(1); n <= total; n = next.Add(1) {
				at := now.Add(-time.Duration(n%9) * day)
				d := recordedAt(n, at)
				state := []pipeline.State{pipeline.Delivered, pipeline.Delivered, pipeline.Parked}[n%3]
				if _, err := s.Admit(t.Context(), d); err != nil {
					t.Error(err)
				}
				if err := s.Settle(t.Context(), d, decidedAt(state, at)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for next.Load() < total {
			if _, err := a.Retain(t.Context(), now.Add(-4*day)); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	if _, err := b.Retain(t.Context(), now.Add(-4*day)); err != nil {
		t.Error(err)
	}
	audit(t, shared, c.Schema)
	for n := range int64(total) {
		n++
		d := recordedAt(n, now.Add(-time.Duration(n%9)*day))
		young := n%9 <= 4
		got, err := a.Admit(t.Context(), d)
		switch {
		case err != nil:
			t.Error(err)
		case n%3 == 2 && got != pipeline.Held, n%3 != 2 && young && got != pipeline.Settled, n%3 != 2 && n%9 > 5 && got != pipeline.Unknown:
			t.Errorf("%s of %d days ago is %v", d.Event.ID, n%9, got)
		}
	}
}

// Listing finds the latest first, also those of partitions long past.
func TestLatestDeliveriesFirst(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := openStore(t, c)
	now := time.Now()
	for i := range int64(60) {
		d := recordedAt(i, now.Add(-time.Duration(i)*3*time.Hour))
		d.Route = []string{"orders", "ledger"}[i%2]
		mustSettle(t, s, d, decidedAt(pipeline.Delivered, d.Event.Recorded))
	}
	got, err := s.Deliveries(t.Context(), store.Filter{Route: "ledger", Limit: 20})
	if err != nil || len(got) != 20 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	for i, e := range got {
		if e.At.Offset != int64(2*i+1) || e.Route != "ledger" {
			t.Errorf("entry %d is %+v", i, e)
		}
	}
}
