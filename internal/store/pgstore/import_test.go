package pgstore_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline"
)

// What the store on SQLite holds goes on in the one on PostgreSQL as if nothing had happened, also when moving it is begun again.
func TestMovingUpFromSQLite(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "tidewire.db"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	from, err := store.Open(t.Context(), store.Config{DB: db, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	const total = 1200
	states := []pipeline.State{pipeline.Delivered, pipeline.Parked, pipeline.Dead, pipeline.Skipped, pipeline.Delivered, pipeline.Parked}
	var dealt1 []pipeline.Delivery
	for n := range int64(total) {
		d := dealt(fmt.Sprint("k", n%7), n)
		d.Route = []string{"orders", "ledger"}[n%2]
		d.Attempts, d.Parks, d.First = int(n%5), int(n%3), now.Add(-time.Hour)
		d.History = []pipeline.Attempt{{At: now, Code: 500, Error: "no luck"}}
		o := pipeline.Outcome{State: states[n%6], At: now.Add(time.Duration(n) * time.Second), Code: 200, TargetID: "t", Duration: time.Second}
		switch o.State {
		case pipeline.Parked:
			o.Next, o.Error = now.Add(time.Duration(n)*time.Second), "503"
		case pipeline.Skipped, pipeline.Dead:
			o.Reason = "why"
		}
		if err := from.Settle(t.Context(), d, o); err != nil {
			t.Fatal(err)
		}
		dealt1 = append(dealt1, d)
	}
	// One that never was an event, and one that the disk has changed.
	poison := pipeline.Delivery{Route: "orders", At: pipeline.Position{Topic: "events.shop", Offset: total}, Event: event.Event{ID: "evt_poison", Source: "shop", Body: []byte("junk")}}
	broken := dealt("", total+1)
	broken.Route = "broken"
	for _, d := range []pipeline.Delivery{poison, broken} {
		o := outcome(pipeline.Dead)
		if o.Reason = "undecodable"; d.Route == "broken" {
			o = outcome(pipeline.Parked)
		}
		if err := from.Settle(t.Context(), d, o); err != nil {
			t.Fatal(err)
		}
	}
	damage(t, db, `UPDATE parked SET crc = crc + 1 WHERE log_offset = 1201`)
	c := config(t.TempDir())
	to := openStore(t, c)
	if n, err := to.Import(t.Context(), from.Export(t.Context())); n != total+2 || err != nil {
		t.Fatalf("imported %d, %v, want %d", n, err, total+2)
	}
	if n, err := to.Import(t.Context(), from.Export(t.Context())); n != total+2 || err != nil {
		t.Errorf("a second time imported %d, %v", n, err)
	}
	audit(t, shared, c.Schema)
	if letters, err := to.Dead(t.Context(), "broken", 9); err != nil || len(letters) != 1 || letters[0].Outcome.Reason != store.ReasonDamaged || letters[0].Fault == nil {
		t.Errorf("the damaged one is %+v, %v", letters, err)
	}
	expectStanding(t, to, broken, pipeline.Settled)
	if ds, err := from.Due(t.Context(), now.Add(48*time.Hour), map[string]int{"broken": 9}, time.Minute); err != nil || len(ds) != 0 { // which buries it there, too
		t.Errorf("%d due, %v", len(ds), err)
	}
	sameBooks(t, from, to)
	for n, d := range dealt1 {
		d.At = pipeline.Position{Topic: "elsewhere", Partition: 3, Offset: 5_000_000} // its place in another log
		want := pipeline.Settled
		if states[n%6] == pipeline.Parked {
			want = pipeline.Held
		}
		expectStanding(t, to, d, want)
	}
	// Every key goes on where it stood: both stores hand out the same, in the same order.
	for _, route := range []string{"orders", "ledger"} {
		for round := 0; ; round++ {
			at := now.Add(48 * time.Hour)
			theirs, err1 := from.Due(t.Context(), at, map[string]int{route: 100}, time.Hour)
			ours, err2 := to.Due(t.Context(), at, map[string]int{route: 100}, time.Hour)
			if err1 != nil || err2 != nil || len(theirs) != len(ours) {
				t.Fatalf("%d due, %v, and %d due, %v", len(theirs), err1, len(ours), err2)
			}
			for i := range ours {
				a, b := theirs[i], ours[i]
				b.Number = a.Number
				if !reflect.DeepEqual(a, b) {
					t.Fatalf("round %d: got %+v, want %+v", round, b, a)
				}
				mustSettle(t, to, ours[i], outcome(pipeline.Delivered))
				if err := from.Settle(t.Context(), theirs[i], outcome(pipeline.Delivered)); err != nil {
					t.Fatal(err)
				}
			}
			if len(ours) == 0 {
				break
			}
		}
	}
}

// sameBooks compares what people see of two stores.
func sameBooks(t *testing.T, from *store.Store, to *pgstore.Store) {
	t.Helper()
	a, err1 := from.Balance(t.Context())
	b, err2 := to.Balance(t.Context())
	if err1 != nil || err2 != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("the balance is %v (%v), was %v (%v)", b, err2, a, err1)
	}
	ca, err1 := from.Count(t.Context())
	cb, err2 := to.Count(t.Context())
	if err1 != nil || err2 != nil || !reflect.DeepEqual(ca, cb) {
		t.Errorf("counted %v (%v), was %v (%v)", cb, err2, ca, err1)
	}
	for _, route := range []string{"orders", "ledger"} {
		da, err1 := from.Dead(t.Context(), route, 10_000)
		db, err2 := to.Dead(t.Context(), route, 10_000)
		if err1 != nil || err2 != nil || len(da) != len(db) {
			t.Fatalf("%d dead (%v), were %d (%v)", len(db), err2, len(da), err1)
		}
		for i := range da {
			db[i].Number = da[i].Number
			if da[i].Fault != nil && db[i].Fault != nil {
				db[i].Fault = da[i].Fault
			}
			if !reflect.DeepEqual(da[i], db[i]) {
				t.Errorf("dead letter %+v, was %+v", db[i], da[i])
			}
		}
		ea, err1 := from.Deliveries(t.Context(), store.Filter{Route: route, Limit: 10_000})
		eb, err2 := to.Deliveries(t.Context(), store.Filter{Route: route, Limit: 10_000})
		if err1 != nil || err2 != nil || !reflect.DeepEqual(ea, eb) {
			t.Errorf("%d entries (%v), were %d (%v), or they differ", len(eb), err2, len(ea), err1)
		}
	}
}

func damage(t *testing.T, db *sqlite.DB, sql string) {
	t.Helper()
	err := db.Write(t.Context(), func(conn *zsqlite.Conn) error { return sqlitex.ExecuteTransient(conn, sql, nil) })
	if err != nil {
		t.Fatal(err)
	}
}
