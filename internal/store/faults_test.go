package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// dealt is the delivery at an offset, now.
func dealt(key string, offset int64) pipeline.Delivery {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return pipeline.Delivery{
		Route: "orders", At: pipeline.Position{Topic: "events.shop", Offset: offset},
		Event: event.Event{
			ID: fmt.Sprint("evt_", offset), Source: "shop", Type: "invoice.paid", Key: key,
			Time: at, Recorded: at, Body: []byte("the body of an event"),
		},
	}
}

func parkedFor(at time.Time) pipeline.Outcome {
	return pipeline.Outcome{State: pipeline.Parked, At: at, Next: at}
}

func mustSettle(t *testing.T, s *store.Store, d pipeline.Delivery, o pipeline.Outcome) {
	t.Helper()
	if err := s.Settle(t.Context(), d, o); err != nil {
		t.Fatal(err)
	}
}

func mustDue(t *testing.T, s *store.Store, now time.Time, want int) []pipeline.Delivery {
	t.Helper()
	ds, err := s.Due(t.Context(), now, map[string]int{"orders": 99}, time.Minute)
	if err != nil || len(ds) != want {
		t.Fatalf("%d are due, %v, want %d", len(ds), err, want)
	}
	return ds
}

// An event that the disk has changed is not delivered: it is a dead letter, and the key goes on.
func TestDamagedEventIsNotDelivered(t *testing.T) {
	t.Parallel()
	for _, damage := range []string{
		`UPDATE parked SET body = replace(body, 'body', 'BODY') WHERE log_offset = 1`,
		`UPDATE parked SET body = substr(body, 1, 5) WHERE log_offset = 1`,
		`UPDATE parked SET attributes = replace(attributes, 'paid', 'void') WHERE log_offset = 1`,
	} {
		s, db, closeIt := openStore(t, t.TempDir())
		t.Cleanup(closeIt)
		now := time.Now()
		for offset := range int64(3) {
			mustSettle(t, s, dealt("k", offset+1), parkedFor(now))
		}
		err := db.Write(t.Context(), func(conn *zsqlite.Conn) error {
			stmt, err := conn.Prepare(strings.Replace(damage, "replace(body, 'body', 'BODY')", "CAST(replace(CAST(body AS TEXT), 'body', 'BODY') AS BLOB)", 1))
			if err != nil {
				return err
			}
			_, err = stmt.Step()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		mustDue(t, s, now, 0)
		letters, err := s.Dead(t.Context(), "orders", 9)
		if err != nil || len(letters) != 1 {
			t.Fatalf("%s: %d dead letters, %v", damage, len(letters), err)
		}
		if l := letters[0]; l.Outcome.Reason != "damaged" || l.Fault == nil || l.Delivery.At.Offset != 1 {
			t.Errorf("%s: the dead letter is %+v", damage, l)
		}
		if got, err := s.Admit(t.Context(), dealt("k", 1)); got != pipeline.Settled || err != nil {
			t.Errorf("%s: standing %v, %v", damage, got, err)
		}
		mustSettle(t, s, mustDue(t, s, now, 1)[0], pipeline.Outcome{State: pipeline.Delivered, At: now})
		if c, err := s.Count(t.Context()); err != nil || c["orders"].Parked != 1 || c["orders"].Dead != 1 {
			t.Errorf("%s: counted %v, %v", damage, c, err)
		}
	}
}

// A write that did not happen leaves nothing behind, in the tables or in the picture.
func TestRefusedWriteLeavesNothing(t *testing.T) {
	t.Parallel()
	s, _, closeIt := openStore(t, t.TempDir())
	t.Cleanup(closeIt)
	now := time.Now()
	mustSettle(t, s, dealt("", 1), pipeline.Outcome{State: pipeline.Delivered, At: now})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, state := range []pipeline.State{pipeline.Parked, pipeline.Dead, pipeline.Delivered} {
		o := parkedFor(now)
		o.State = state
		if err := s.Settle(ctx, dealt("k", 2), o); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", state, err)
		}
		for _, d := range []pipeline.Delivery{dealt("k", 2), dealt("k", 3)} {
			if got, err := s.Admit(t.Context(), d); got != pipeline.Unknown || err != nil {
				t.Errorf("%s: standing %v, %v", state, got, err)
			}
		}
	}
	if parked, _ := s.Remembered(); parked != 0 {
		t.Errorf("the picture holds %d keys", parked)
	}
	mustSettle(t, s, dealt("k", 2), parkedFor(now))
	if got, err := s.Admit(t.Context(), dealt("k", 3)); got != pipeline.Behind || err != nil {
		t.Errorf("standing %v, %v", got, err)
	}
}

// The disk is full: what was refused is as if it had never been asked for, and everything goes on when there is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s, db, closeIt := openStore(t, t.TempDir())
	t.Cleanup(closeIt)
	now := time.Now()
	pragma := func(text string) (value int64) {
		t.Helper()
		err := db.Write(t.Context(), func(conn *zsqlite.Conn) error {
			stmt, err := conn.Prepare(text)
			if err != nil {
				return err
			}
			if _, err := stmt.Step(); err != nil {
				return err
			}
			value = stmt.ColumnInt64(0)
			return stmt.Reset()
		})
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	mustSettle(t, s, dealt("", 1), pipeline.Outcome{State: pipeline.Delivered, At: now})
	pragma(fmt.Sprintf("PRAGMA max_page_count = %d", pragma("PRAGMA page_count")+60))

	const hands, each = 32, 4
	var (
		mu      sync.Mutex
		refused []pipeline.Delivery
		stored  int64
		all     sync.WaitGroup
	)
	for h := range int64(hands) {
		all.Go(func() {
			for i := range int64(each) {
				d := dealt(fmt.Sprint(h, i), h*each+i+2)
				d.Event.Body = make([]byte, 5000)
				err := s.Settle(t.Context(), d, parkedFor(now))
				mu.Lock()
				switch {
				case err == nil:
					stored++
				case errors.Is(err, sqlite.ErrFull):
					refused = append(refused, d)
				default:
					t.Errorf("settle: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(refused) == 0 || stored == 0 {
		t.Fatalf("%d refused, %d stored: the disk was not filled in the middle", len(refused), stored)
	}
	if parked, _ := s.Remembered(); int64(parked) != stored {
		t.Errorf("the picture holds %d keys, %d were parked", parked, stored)
	}
	for _, d := range refused {
		if got, err := s.Admit(t.Context(), d); got != pipeline.Unknown || err != nil {
			t.Errorf("%s was refused and is %v, %v", d.Event.ID, got, err)
		}
	}
	pragma("PRAGMA max_page_count = 1000000")
	for _, d := range refused {
		mustSettle(t, s, d, parkedFor(now))
	}
	ds, err := s.Due(t.Context(), now, map[string]int{"orders": 1000}, time.Minute)
	if err != nil || len(ds) != hands*each {
		t.Errorf("%d are due, %v, want %d", len(ds), err, hands*each)
	}
}

// Jobs of other rooms fail beside ours: the transaction is undone and ours run again.
func TestJobsThatRunAgain(t *testing.T) {
	t.Parallel()
	s, db, closeIt := openStore(t, t.TempDir())
	t.Cleanup(closeIt)
	now := time.Now()
	const hands, each = 24, 40
	sabotage := errors.New("sabotage")
	var all sync.WaitGroup
	for h := range hands {
		all.Go(func() {
			for i := range each {
				if h%4 == 0 {
					if err := db.Write(t.Context(), func(*zsqlite.Conn) error { return sabotage }); !errors.Is(err, sabotage) {
						t.Errorf("write: %v", err)
					}
					continue
				}
				d := dealt(fmt.Sprint(h), int64(i*hands+h+1))
				o := parkedFor(now)
				o.State = []pipeline.State{pipeline.Delivered, pipeline.Dead, pipeline.Parked}[h%4-1]
				for range 2 { // the second changes nothing
					if err := s.Settle(t.Context(), d, o); err != nil {
						t.Errorf("settle: %v", err)
					}
				}
			}
		})
	}
	all.Wait()
	want := int64(hands / 4 * each)
	balance, err := s.Balance(t.Context())
	if b := balance["orders"]; err != nil || b[pipeline.Delivered] != want || b[pipeline.Dead] != want || b[pipeline.Parked] != want {
		t.Errorf("balance %v, %v, want %d of each", balance, err, want)
	}
	count, err := s.Count(t.Context())
	if c := count["orders"]; err != nil || c.Dead != want || c.Parked != want {
		t.Errorf("counted %v, %v, want %d of each", count, err, want)
	}
	letters, err := s.Dead(t.Context(), "orders", 10_000)
	if err != nil || int64(len(letters)) != want {
		t.Errorf("%d dead letters, %v, want %d", len(letters), err, want)
	}
	if parked, _ := s.Remembered(); parked != hands/4 {
		t.Errorf("the picture holds %d keys, want %d", parked, hands/4)
	}
	for left := want; left > 0; {
		ds, err := s.Due(t.Context(), now, map[string]int{"orders": 99}, time.Minute)
		if err != nil || len(ds) != hands/4 {
			t.Fatalf("%d are due, %v, want %d", len(ds), err, hands/4)
		}
		for _, d := range ds {
			mustSettle(t, s, d, pipeline.Outcome{State: pipeline.Delivered, At: now})
			left--
		}
	}
	if parked, leases := s.Remembered(); parked != 0 || leases != 0 {
		t.Errorf("the picture holds %d keys and %d leases of what is settled", parked, leases)
	}
}

// The wall clock jumps a day ahead while a delivery is out: by the monotonic clock the lease has not run out.
func TestLeaseOutlastsClockJump(t *testing.T) {
	t.Parallel()
	s, _, closeIt := openStore(t, t.TempDir())
	t.Cleanup(closeIt)
	now := time.Now()
	for offset := range int64(2) {
		mustSettle(t, s, dealt("", offset+1), parkedFor(now))
	}
	out, err := s.Due(t.Context(), now, map[string]int{"orders": 1}, time.Minute)
	if err != nil || len(out) != 1 {
		t.Fatal(len(out), err)
	}
	later := jumped(now.Add(time.Second), 24*time.Hour)
	if later.Sub(now) != time.Second || later.Round(0).Sub(now.Round(0)) != 24*time.Hour+time.Second {
		t.Fatalf("the clock did not jump: from %s to %s", now, later)
	}
	other := mustDue(t, s, later, 1)[0]
	if other.At == out[0].At {
		t.Errorf("a delivery that is out was handed out again")
	}
	mustSettle(t, s, out[0], pipeline.Outcome{State: pipeline.Delivered, At: later})
	mustDue(t, s, later.Add(time.Hour), 1) // the other one, whose lease has run out by both clocks
}

// jumped is t on a wall clock that was set ahead, its monotonic reading as it was. The first word of a time.Time with a
// monotonic reading holds the seconds from bit 30 on.
func jumped(t time.Time, ahead time.Duration) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(ahead/time.Second) << 30
	return t
}

func TestOpenNeedsADatabase(t *testing.T) {
	t.Parallel()
	if _, err := store.Open(t.Context(), store.Config{}); err == nil {
		t.Error("opened nothing")
	}
}
