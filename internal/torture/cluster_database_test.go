package torture

import (
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/services"
)

// TestTortureClusterDatabase ends PostgreSQL at once, as a crash does, again and again, and cuts its sessions faster than they are made: deliveries wait for it,
// nothing is lost and nothing comes twice, and the hubs take no more sessions than before.
func TestTortureClusterDatabase(t *testing.T) {
	must(t, database(t, hub, rounds(1, 2, 30)))
}

func database(t *testing.T, bin string, stops int) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 2, rules: fewParked()})
	postgres := r.postgres
	random := choices(t)
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	pause(t, 2*time.Second)
	base := r.sessions()
	for range stops {
		pause(t, moment(random, 1000, 2500))
		if err := postgres.Stop(services.Immediate); err != nil {
			t.Fatal(err)
		}
		pause(t, moment(random, 0, 3000))
		if err := postgres.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.flowing("/steady")
	}
	storm := time.Duration(rounds(1, 3, 30)) * time.Second
	ended := 0
	for began := time.Now(); time.Since(began) < storm; pause(t, 50*time.Millisecond) {
		n, err := postgres.TerminateBackends(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ended += n
	}
	r.flowing("/steady")
	var now int64
	if !await(t, 30*time.Second, func() bool { pause(t, 200*time.Millisecond); now = r.sessions(); return now <= max(base, 20) }) {
		r.fault("the hubs had %d sessions at the database and have %d", base, now)
	}
	const name = "cluster: PostgreSQL stopped at once"
	r.settled(name, stops, stop, 0)
	watched()
	r.noDead()
	tell(t, name, stops, "sessions cut besides", ended)
	tell(t, name, stops, "sessions before and after", []int64{base, now})
	return r.violations()
}

// sessions is how many connections the hubs have to their database.
func (r *rack) sessions() int64 {
	type count struct{ N int64 }
	return query[count](r, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")[0].N
}
