package pgstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/services"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline"
)

// dealt is the delivery at an offset, now.
func dealt(key string, offset int64) pipeline.Delivery {
	at := time.Now().UTC().Truncate(time.Hour)
	return pipeline.Delivery{
		Route: "orders", At: pipeline.Position{Topic: "events.shop", Offset: offset},
		Event: event.Event{
			ID: fmt.Sprint("evt_", offset), Source: "shop", Type: "invoice.paid", Key: key,
			Time: at, Recorded: at, Body: []byte("the body of an event"),
		},
	}
}

func outcome(state pipeline.State) pipeline.Outcome {
	o := pipeline.Outcome{State: state, At: time.Now()}
	if state == pipeline.Parked {
		o.Next = o.At
	}
	return o
}

func mustSettle(tb testing.TB, s *pgstore.Store, d pipeline.Delivery, o pipeline.Outcome) {
	tb.Helper()
	if err := s.Settle(tb.Context(), d, o); err != nil {
		tb.Fatal(err)
	}
}

func mustDue(tb testing.TB, s *pgstore.Store, now time.Time, want int) []pipeline.Delivery {
	tb.Helper()
	ds, err := s.Due(tb.Context(), now, map[string]int{"orders": 99}, time.Minute)
	if err != nil || len(ds) != want {
		tb.Fatalf("%d are due, %v, want %d", len(ds), err, want)
	}
	return ds
}

// until tries again as the pipeline does.
func until(ctx context.Context, failures *atomic.Int64, f func() error) bool {
	for ctx.Err() == nil {
		if f() == nil {
			return true
		}
		failures.Add(1)
		pause, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		<-pause.Done()
		cancel()
	}
	return false
}

// load carries events over a store until enough of them are settled; each is delivered, parked or dead by its number.
type load struct {
	next     atomic.Int64
	settled  [3]atomic.Int64
	failures atomic.Int64
}

var loadStates = [3]pipeline.State{pipeline.Delivered, pipeline.Parked, pipeline.Dead}

func (l *load) run(ctx context.Context, t *testing.T, s *pgstore.Store, hands int, total int64) {
	var all sync.WaitGroup
	for range hands {
		all.Go(func() {
			for n := l.next.Add(1); n <= total; n = l.next.Add(1) {
				d := dealt(fmt.Sprint("k", n%40), n)
				kind := 0
				if n%8 == 0 {
					kind = int(n / 8 % 3)
				}
				var standing pipeline.Standing
				ok := until(ctx, &l.failures, func() (err error) {
					standing, err = s.Admit(ctx, d)
					return err
				})
				if ok && standing != pipeline.Unknown && standing != pipeline.Behind {
					t.Errorf("%s is known before it was settled: %v", d.Event.ID, standing)
				}
				if !ok || !until(ctx, &l.failures, func() error { return s.Settle(ctx, d, outcome(loadStates[kind])) }) {
					t.Errorf("%s was not settled within the test's time", d.Event.ID)
					return
				}
				l.settled[kind].Add(1)
			}
		})
	}
	all.Wait()
}

// check holds the tables against what was confirmed, and the store's own books against each other.
func (l *load) check(t *testing.T, s *pgstore.Store, on *server, schema string) {
	t.Helper()
	balance, err := s.Balance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, state := range loadStates {
		if got, want := balance["orders"][state], l.settled[i].Load(); got != want {
			t.Errorf("%d are %s, %d were confirmed", got, state, want)
		}
	}
	audit(t, on, schema)
}

// audit says what must be true of the tables whatever happened.
func audit(t *testing.T, on *server, schema string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), on.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "SET search_path TO "+schema); err != nil {
		t.Fatal(err)
	}
	for name, sql := range map[string]string{
		"keys without one head, the eldest": `SELECT count(*) FROM (SELECT 1 FROM parked WHERE key_hash IS NOT NULL GROUP BY route_id, key_hash
			HAVING count(*) FILTER (WHERE head) <> 1 OR min(number) <> min(number) FILTER (WHERE head)) AS x`,
		"parked rows whose entry says otherwise": `SELECT count(*) FROM parked p LEFT JOIN deliveries d USING (route_id, source_id, event_id, recorded) WHERE d.state IS DISTINCT FROM 1`,
		"entries that say parked and have no row": `SELECT count(*) FROM deliveries d WHERE state = 1 AND NOT EXISTS
			(SELECT 1 FROM parked p WHERE p.route_id = d.route_id AND p.source_id = d.source_id AND p.event_id = d.event_id AND p.recorded = d.recorded)`,
		"dead letters that are not one for one": `SELECT (SELECT count(*) FROM dead) - (SELECT count(*) FROM dead JOIN deliveries d USING (route_id, source_id, event_id, recorded) WHERE d.state = 3)
			+ abs((SELECT count(*) FROM dead) - (SELECT count(*) FROM deliveries WHERE state = 3))`,
	} {
		var n int64
		if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil || n != 0 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

// Connections are cut again and again under load: what was confirmed is there, once, and the store goes on by itself.
func TestTerminatedConnections(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.MaxConnections, c.Instance = 8, schemaOf(t.TempDir())
	s := openStore(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var l load
	const total = 6000
	done := make(chan struct{})
	var killer sync.WaitGroup
	cuts := 0
	killer.Go(func() {
		// One cut for every so many events, so that the storm lasts as long as the load.
		for at := int64(100); at < total; {
			select {
			case <-done:
				return
			default:
			}
			if l.next.Load() < at {
				pause, stop := context.WithTimeout(ctx, time.Millisecond)
				<-pause.Done()
				stop()
				continue
			}
			at += 150
			cuts++
			shared.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tidewire ' || $1`, c.Instance)
		}
	})
	l.run(ctx, t, s, 48, total)
	close(done)
	killer.Wait()
	if cuts < 10 {
		t.Errorf("only %d cuts", cuts)
	}
	t.Logf("%d cuts, %d calls failed and were repeated", cuts, l.failures.Load())
	l.check(t, s, shared, c.Schema)
	if err := s.Probe(t.Context()); err != nil {
		t.Errorf("after it all: %v", err)
	}
}

// The server crashes under load and comes back: nothing that was confirmed is lost, and nothing has to be started again.
func TestServerCrashes(t *testing.T) {
	t.Parallel()
	mine, err := newServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mine.Close)
	c := config(t.TempDir())
	c.URL, c.MaxConnections = mine.url("postgres"), 8
	s := openStore(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var l load
	const total = 6000
	var crashes sync.WaitGroup
	crashes.Go(func() {
		for i := range int64(3) {
			for ctx.Err() == nil && l.next.Load() < (i+1)*total/4 {
				pause, stop := context.WithTimeout(ctx, time.Millisecond)
				<-pause.Done()
				stop()
			}
			if err := mine.Stop(services.Immediate); err != nil {
				t.Error(err)
			}
			if i == 0 {
				if err := s.Probe(ctx); err == nil {
					t.Error("the probe is content without a server")
				}
			}
			if err := mine.Start(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	l.run(ctx, t, s, 48, total)
	crashes.Wait()
	if l.failures.Load() == 0 {
		t.Error("no call failed: the server was not missed")
	}
	l.check(t, s, mine, c.Schema)
}

// Two hubs have the same records in hand, as happens when one of them has lost its partitions and does not know it yet, and share what is due: the
// first decision on each stands, a key has one head, and nothing is in two hands at once.
func TestTwoHubsHammerTheSameKeys(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.MaxConnections = 8
	hubs := []*pgstore.Store{openStore(t, c), openStore(t, c)}
	const records, hands = 400, 8
	states := []pipeline.State{pipeline.Delivered, pipeline.Parked, pipeline.Parked, pipeline.Parked, pipeline.Dead, pipeline.Skipped}
	var (
		all    sync.WaitGroup
		mu     sync.Mutex
		inHand = make(map[int64]bool)
		now    = time.Now().Add(time.Hour)
	)
	for _, s := range hubs {
		for range hands {
			all.Go(func() {
				r := rand.New(rand.NewPCG(rand.Uint64(), 1))
				for range records / 2 {
					d := dealt([]string{"", "a", "b", "c"}[r.IntN(4)], 0)
					n := r.Int64N(records)
					d.Event.Key = []string{"", "a", "b", "c"}[n%4]
					d.At.Offset, d.Event.ID = n, fmt.Sprint("evt_", n)
					if err := s.Settle(t.Context(), d, outcome(states[r.IntN(len(states))])); err != nil {
						t.Errorf("settle: %v", err)
					}
				}
			})
			all.Go(func() {
				r := rand.New(rand.NewPCG(rand.Uint64(), 2))
				for range records / 2 {
					ds, err := s.Due(t.Context(), now, map[string]int{"orders": 5}, time.Hour)
					if err != nil {
						t.Errorf("due: %v", err)
						return
					}
					mu.Lock()
					for _, d := range ds {
						if inHand[d.Number] {
							t.Errorf("%s is in two hands", d.Event.ID)
						}
						inHand[d.Number] = true
					}
					mu.Unlock()
					for _, d := range ds {
						mu.Lock()
						delete(inHand, d.Number)
						mu.Unlock()
						if r.IntN(3) == 0 {
							err = s.GiveBack(t.Context(), []pipeline.Delivery{d})
						} else {
							err = s.Settle(t.Context(), d, outcome(states[r.IntN(len(states))]))
						}
						if err != nil {
							t.Errorf("end a lease: %v", err)
						}
					}
				}
			})
		}
	}
	all.Wait()
	audit(t, shared, c.Schema)
	for range records * 20 { // what is left can be drained, in whatever hands
		ds, err := hubs[0].Due(t.Context(), now.Add(48*time.Hour), map[string]int{"orders": 1000}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if len(ds) == 0 {
			break
		}
		for _, d := range ds {
			mustSettle(t, hubs[1], d, outcome(pipeline.Delivered))
		}
	}
	audit(t, shared, c.Schema)
	if n, err := hubs[0].Count(t.Context()); err != nil || n["orders"].Parked != 0 {
		t.Errorf("left over: %+v, %v", n, err)
	}
}

// A delivery that somebody is about to settle is nobody else's to take, and the others do not wait for that.
func TestWhatIsLockedHoldsUpNobody(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := openStore(t, c)
	for n := range int64(3) {
		mustSettle(t, s, dealt("", n), outcome(pipeline.Parked))
	}
	conn, err := pgx.Connect(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM `+c.Schema+`.parked WHERE event_id = 'evt_0' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	now := time.Now().Add(time.Hour)
	ds, err := s.Due(waiting, now, map[string]int{"orders": 99}, time.Minute)
	if err != nil || len(ds) != 2 || ds[0].Event.ID != "evt_1" || ds[1].Event.ID != "evt_2" {
		t.Errorf("beside a locked one %d are due, %v", len(ds), err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ds := mustDue(t, s, now, 1); ds[0].Event.ID != "evt_0" {
		t.Errorf("%s is due", ds[0].Event.ID)
	}
}

// Two hubs park the first deliveries of a key at the same time, each before it can see the other's: one of them is the head.
func TestAKeyHasOneHeadWhoeverParksFirst(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	hubs := []*pgstore.Store{openStore(t, c), openStore(t, c)}
	shared.exec(t, `CREATE FUNCTION `+c.Schema+`.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$`)
	shared.exec(t, `CREATE TRIGGER dawdle BEFORE INSERT ON `+c.Schema+`.parked FOR EACH ROW EXECUTE FUNCTION `+c.Schema+`.dawdle()`)
	var all sync.WaitGroup
	for n, s := range hubs {
		all.Go(func() {
			if err := s.Settle(t.Context(), dealt("k", int64(n)), outcome(pipeline.Parked)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	audit(t, shared, c.Schema)
	mustDue(t, hubs[0], time.Now().Add(time.Hour), 1)
}

// A row that PostgreSQL refuses fails alone, whoever shared its statement.
func TestBadRowFailsAlone(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := openStore(t, c)
	mustSettle(t, s, dealt("", 0), outcome(pipeline.Delivered))
	shared.exec(t, `ALTER TABLE `+c.Schema+`.deliveries ADD CONSTRAINT bad CHECK (attempts < 1000)`)
	var all sync.WaitGroup
	for n := range int64(300) {
		all.Go(func() {
			d := dealt("", n+1)
			state := []pipeline.State{pipeline.Delivered, pipeline.Parked}[n%2]
			bad := n%50 < 2
			if bad {
				d.Attempts = 1000
			}
			if err := s.Settle(t.Context(), d, outcome(state)); (err != nil) != bad {
				t.Errorf("%d: %v", n, err)
			}
		})
	}
	all.Wait()
	audit(t, shared, c.Schema)
}

// An event that was changed in the database is not delivered: it is a dead letter, and the key goes on.
func TestDamagedEventIsNotDelivered(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := openStore(t, c)
	now := time.Now().Add(time.Minute)
	for offset := range int64(3) {
		mustSettle(t, s, dealt("k", offset+1), outcome(pipeline.Parked))
	}
	shared.exec(t, `UPDATE `+c.Schema+`.parked SET body = 'another body' WHERE log_offset = 1`)
	mustDue(t, s, now, 0)
	letters, err := s.Dead(t.Context(), "orders", 9)
	if err != nil || len(letters) != 1 {
		t.Fatalf("%d dead letters, %v", len(letters), err)
	}
	if l := letters[0]; l.Outcome.Reason != store.ReasonDamaged || l.Fault == nil || l.Delivery.At.Offset != 1 {
		t.Errorf("the dead letter is %+v", l)
	}
	if got, err := s.Admit(t.Context(), dealt("k", 1)); got != pipeline.Settled || err != nil {
		t.Errorf("standing %v, %v", got, err)
	}
	mustSettle(t, s, mustDue(t, s, now, 1)[0], outcome(pipeline.Delivered))
	mustDue(t, s, now, 1)
	audit(t, shared, c.Schema)
}

// What strangers may put into a record finds a place all the same.
func TestStrangeIdentities(t *testing.T) {
	t.Parallel()
	s := openStore(t, config(t.TempDir()))
	for n, id := range []string{"", "\xff\x00", string(make([]byte, 5000)), "plain"} {
		for m, state := range []pipeline.State{pipeline.Dead, pipeline.Parked, pipeline.Delivered} {
			d := dealt(string(make([]byte, 9000)), int64(10*n+m))
			d.Event.Source, d.Event.ID = "src\xfe"+id, id
			if id != "" {
				d.Event.ID = fmt.Sprint(id, m)
			}
			if got, err := s.Admit(t.Context(), d); err != nil || got == pipeline.Settled || got == pipeline.Held {
				t.Errorf("%q as %s before: %v, %v", id[:min(9, len(id))], state, got, err)
			}
			mustSettle(t, s, d, outcome(state))
			want := pipeline.Settled
			if state == pipeline.Parked {
				want = pipeline.Held
			}
			if got, err := s.Admit(t.Context(), d); err != nil || got != want {
				t.Errorf("%q as %s after: %v, %v", id[:min(9, len(id))], state, got, err)
			}
		}
	}
}

// A call that comes too late, or whose caller has gone, leaves nothing behind.
func TestRefusedCalls(t *testing.T) {
	t.Parallel()
	s := openStore(t, config(t.TempDir()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, state := range loadStates {
		if err := s.Settle(ctx, dealt("k", 1), outcome(state)); err == nil {
			t.Errorf("%s: settled for a caller that has gone", state)
		}
	}
	if got, err := s.Admit(t.Context(), dealt("k", 1)); got != pipeline.Unknown || err != nil {
		t.Errorf("standing %v, %v", got, err)
	}
	mustSettle(t, s, dealt("k", 1), outcome(pipeline.Delivered))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Settle(t.Context(), dealt("k", 2), outcome(pipeline.Delivered)); err == nil {
		t.Error("settled by a closed store")
	}
	if _, err := s.Admit(t.Context(), dealt("k", 2)); err == nil {
		t.Error("admitted by a closed store")
	}
}
