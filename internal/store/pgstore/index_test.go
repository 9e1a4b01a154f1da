package pgstore_test

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline"
)

func indexed(id string, partition int32, offset int64, at time.Time, body string) pgstore.Indexed {
	hash := sha256.Sum256([]byte(body))
	return pgstore.Indexed{
		At: pipeline.Position{Topic: "events.shop", Partition: partition, Offset: offset}, ID: id, Source: "shop", Type: "invoice.paid",
		Subject: "in_1", Key: "cus_1", Time: at.Add(-time.Second).UTC(), Recorded: at.UTC(), BodyHash: hash[:],
	}
}

func same(a, b pgstore.Indexed) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

func TestIndexFindsEvents(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	a, b := openStore(t, c), openStore(t, c)
	now := time.Now().Round(0)
	first, second := indexed("evt_1", 0, 1, now, "body"), indexed("evt_2", 0, 2, now, "body")
	for range 2 { // reading the log again changes nothing
		if repeats, err := a.Index(t.Context(), []pgstore.Indexed{first, second}); err != nil || len(repeats) != 0 {
			t.Errorf("repeats %v, %v", repeats, err)
		}
	}
	again, conflict := indexed("evt_1", 3, 9, now.Add(time.Hour), "body"), indexed("evt_2", 3, 10, now.Add(time.Hour), "other")
	repeats, err := b.Index(t.Context(), []pgstore.Indexed{again, conflict})
	if err != nil || len(repeats) != 2 {
		t.Fatalf("%d repeats, %v", len(repeats), err)
	}
	for _, r := range repeats {
		wantFirst, wantAgain, wantConflict := first, again, false
		if r.First.ID == "evt_2" {
			wantFirst, wantAgain, wantConflict = second, conflict, true
		}
		if !same(r.First, wantFirst) || !same(r.Again, wantAgain) || r.Conflict != wantConflict {
			t.Errorf("got %+v", r)
		}
	}
	if found, err := a.Find(t.Context(), "shop", "evt_1"); err != nil || len(found) != 2 || !same(found[0], first) || !same(found[1], again) {
		t.Errorf("found %+v, %v", found, err)
	}
	for _, nobody := range [][2]string{{"shop", "evt_3"}, {"crm", "evt_1"}} {
		if found, err := a.Find(t.Context(), nobody[0], nobody[1]); err != nil || len(found) != 0 {
			t.Errorf("%v: found %+v, %v", nobody, found, err)
		}
	}
	// Twice in one call, the later one before the earlier.
	x, y := indexed("evt_5", 0, 8, now, "body"), indexed("evt_5", 0, 7, now, "body")
	if repeats, err := a.Index(t.Context(), []pgstore.Indexed{x, y}); err != nil || len(repeats) != 1 || !same(repeats[0].First, y) || !same(repeats[0].Again, x) {
		t.Errorf("repeats %+v, %v", repeats, err)
	}
}

// Whoever comes second sees the other: of two hubs that index one ID at the same time, one at least tells of it.
func TestNoRepeatGoesUnseen(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	hubs := []*pgstore.Store{openStore(t, c), openStore(t, c)}
	now := time.Now()
	var mu sync.Mutex
	seen := make(map[string]bool)
	const total = 300
	var all sync.WaitGroup
	for h, s := range hubs {
		all.Go(func() {
			for i := range int64(total / 10) {
				var events []pgstore.Indexed
				for j := range int64(10) {
					events = append(events, indexed(fmt.Sprint("evt_", 10*i+j), int32(h), 10*i+j, now, "body"))
				}
				repeats, err := s.Index(t.Context(), events)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				for _, r := range repeats {
					seen[r.First.ID] = true
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(seen) != total {
		t.Errorf("%d repeats were told, want %d", len(seen), total)
	}
}

func TestIndexIsForgottenByPartitions(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Retention = 8 * day
	s := openStore(t, c)
	now := time.Now()
	var events []pgstore.Indexed
	for i := range int64(1500) {
		events = append(events, indexed(fmt.Sprint("evt_", i), 0, i, now.Add(-time.Duration(i%30)*day), "body"))
	}
	if _, err := s.Index(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	removed, err := s.RetainIndex(t.Context(), now.Add(-5*day))
	if err != nil || removed < 1500/30*23 || removed > 1500/30*25 {
		t.Errorf("removed %d, %v", removed, err)
	}
	for i, want := range map[int]int{0: 1, 4: 1, 5: 1, 7: 0, 29: 0} { // that of five days ago is not older than the time
		if found, err := s.Find(t.Context(), "shop", fmt.Sprint("evt_", i)); err != nil || len(found) != want {
			t.Errorf("event of %d days ago: found %d, %v, want %d", i, len(found), err, want)
		}
	}
}
