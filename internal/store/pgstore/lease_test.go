package pgstore_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/store/pgstore"
)

// named opens a store for a hub of that name.
func named(t *testing.T, c pgstore.Config, instance string) *pgstore.Store {
	t.Helper()
	c.Instance = instance
	return openStore(t, c)
}

func lease(t *testing.T, s *pgstore.Store, name string, d time.Duration, want bool) {
	t.Helper()
	if held, err := s.Lease(t.Context(), name, d); held != want || err != nil {
		t.Errorf("lease of %s: %v, %v, want %v", name, held, err, want)
	}
}

func TestOneHubHoldsALease(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	a, b := named(t, c, "a"), named(t, c, "b")
	lease(t, a, "retention", time.Hour, true)
	lease(t, a, "retention", time.Hour, true)
	lease(t, b, "retention", time.Hour, false)
	lease(t, b, "pull", time.Hour, true)
	leases, err := a.Leases(t.Context())
	if err != nil || len(leases) != 2 || leases[0].Name != "pull" || leases[0].Holder != "b" || leases[1].Name != "retention" || leases[1].Holder != "a" ||
		leases[1].Until.Before(time.Now().Add(59*time.Minute)) {
		t.Errorf("leases are %+v, %v", leases, err)
	}
	if err := b.Release(t.Context(), "retention"); err != nil {
		t.Error(err)
	}
	lease(t, b, "retention", time.Hour, false) // it was not b's to release
	if err := a.Release(t.Context(), "retention"); err != nil {
		t.Error(err)
	}
	lease(t, b, "retention", time.Hour, true)
	lease(t, a, "retention", time.Hour, false)
	lease(t, b, "retention", -time.Second, true) // b lets it run out
	lease(t, a, "retention", time.Hour, true)
	lease(t, b, "retention", time.Hour, false)
}

func TestManyHubsWantALease(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	var held atomic.Int64
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		s := named(t, c, name)
		for range 4 {
			all.Go(func() {
				if ok, err := s.Lease(t.Context(), "x", time.Hour); err != nil {
					t.Error(err)
				} else if ok && held.Add(1) > 0 {
					if leases, err := s.Leases(t.Context()); err != nil || leases[0].Holder != name {
						t.Errorf("%s was told that it holds it: %v, %v", name, leases, err)
					}
				}
			})
		}
	}
	all.Wait()
	if held.Load() != 4 {
		t.Errorf("%d calls were told that they hold it, want the 4 of one hub", held.Load())
	}
}

func TestHubsAgree(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	a, b, other := named(t, c, "a"), named(t, c, "b"), named(t, c, "other")
	join := func(s *pgstore.Store, name, fingerprint, want string) {
		t.Helper()
		err := s.Join(t.Context(), name, fingerprint)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s joins with %s: %v, want %q", name, fingerprint, err, want)
		}
	}
	beat := func(s *pgstore.Store, want string) {
		t.Helper()
		err := s.Beat(t.Context())
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("a sign of life: %v, want %q", err, want)
		}
	}
	names := func() (names string) {
		t.Helper()
		hubs, err := a.Hubs(t.Context())
		if err != nil {
			t.Error(err)
		}
		for _, h := range hubs {
			names += h.Instance + "=" + h.Config + " "
		}
		return names
	}
	beat(a, "")
	join(a, "a", "12", "")
	join(b, "b", "12", "")
	join(other, "other", "13", "hub a runs with another cluster configuration (12, this one has 13)")
	beat(other, "")
	beat(a, "")
	if got := names(); got != "a=12 b=12 " {
		t.Errorf("hubs are %q", got)
	}

	twin := named(t, c, "a2")
	join(twin, "a", "12", "") // started again, or a twin: the later one has the name
	beat(twin, "")
	beat(a, "another hub runs under the name a")

	// b falls silent, all others end: another configuration may come in, and b may not come back.
	shared.exec(t, `UPDATE `+c.Schema+`.hubs SET seen = now() - interval '31 seconds' WHERE instance = 'b'`)
	if got := names(); got != "a=12 " {
		t.Errorf("hubs are %q", got)
	}
	beat(b, "")
	shared.exec(t, `UPDATE `+c.Schema+`.hubs SET seen = now() - interval '31 seconds' WHERE instance = 'b'`)
	twin.Close()
	join(other, "other", "13", "")
	beat(b, "hub other runs with another cluster configuration (13, this one has 12)")
	if got := names(); got != "other=13 " {
		t.Errorf("hubs are %q", got)
	}
}
