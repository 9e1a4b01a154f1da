package pgstore_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/store/pgstore"
)

// A place is there for every hub. It goes forward whatever the clocks say, and back or into another topic only by a later word.
func TestPlacesGoForward(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	one, other := openStore(t, c), openStore(t, c)
	began := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	at := func(offset int64, minute int, id byte) pgstore.Place {
		return pgstore.Place{
			Group: "t.paid", Topic: "t.events.shop", Partition: 2, TopicID: [16]byte{15: id}, Offset: offset,
			At: began.Add(time.Duration(minute) * time.Minute),
		}
	}
	first := at(10, 0, 1)
	for _, step := range []struct {
		what       string
		kept, want pgstore.Place
	}{
		{"the first", first, first},
		{"the same again", at(10, 1, 1), first},
		{"further", at(12, 2, 1), at(12, 2, 1)},
		{"further, by a slow clock", at(13, 1, 1), at(13, 1, 1)},
		{"back, by a hub that was asleep", at(11, 0, 1), at(13, 1, 1)},
		{"back, because somebody has set it back", at(5, 3, 1), at(5, 3, 1)},
		{"another topic of that name, by a hub that was asleep", at(90, 2, 9), at(5, 3, 1)},
		{"the topic made anew", at(1, 4, 2), at(1, 4, 2)},
	} {
		if err := one.KeepPlaces(t.Context(), []pgstore.Place{step.kept}); err != nil {
			t.Fatal(err)
		}
		if got, err := other.Places(t.Context(), "t.paid"); err != nil || !slices.Equal(got, []pgstore.Place{step.want}) {
			t.Errorf("%s: %+v, %v; want %+v", step.what, got, err, step.want)
		}
	}
	if got, err := other.Places(t.Context(), "paid"); err != nil || len(got) != 0 {
		t.Errorf("of another installation's group: %+v, %v", got, err)
	}
}

// Two hubs that write the same places at the same time, in one statement each, do not wait for one another for ever, and nothing is lost.
func TestHubsKeepPlacesSideBySide(t *testing.T) {
	t.Parallel()
	const groups, partitions, rounds = 20, 12, 15
	c := config(t.TempDir())
	var hubs sync.WaitGroup
	for range 2 {
		s := openStore(t, c)
		hubs.Go(func() {
			for round := range int64(rounds) {
				var all []pgstore.Place
				for g := range groups {
					for p := range int32(partitions) {
						all = append(all, pgstore.Place{Group: string(rune('a' + g)), Topic: "events", Partition: p, Offset: round, At: time.Unix(round, 0)})
					}
				}
				if err := s.KeepPlaces(t.Context(), all); err != nil {
					t.Error(err)
				}
			}
		})
	}
	hubs.Wait()
	s := openStore(t, c)
	for g := range groups {
		got, err := s.Places(t.Context(), string(rune('a'+g)))
		if err != nil || len(got) != partitions || slices.ContainsFunc(got, func(p pgstore.Place) bool { return p.Offset != rounds-1 }) {
			t.Fatalf("group %d: %+v, %v", g, got, err)
		}
	}
}
