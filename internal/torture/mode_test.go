package torture

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// mode is in which of the two ways the hub of a scenario that holds in both keeps what it has.
type mode struct {
	bin     string
	cluster bool
}

// alone is a hub by itself.
func alone(bin string) mode { return mode{bin: bin} }

// clustered is a hub that keeps what it has in Kafka and PostgreSQL.
func clustered(bin string) mode { return mode{bin: bin, cluster: true} }

// bed makes a hub and a sink by the rules and the settings of newBed, which have to say something.
func (m mode) bed(t *testing.T, rules map[string]load.Rule, settings string) *bed {
	t.Helper()
	if m.cluster {
		return newRack(t, plan{bin: m.bin, rules: rules, settings: settings}).hubs[0]
	}
	return newBed(t, m.bin, rules, settings)
}

// tell is tell with the mode.
func (m mode) tell(t *testing.T, fault string, runs int, invariant string, value any) {
	t.Helper()
	if m.cluster {
		fault = "cluster: " + fault
	}
	tell(t, fault, runs, invariant, value)
}

// bear is how long something may take that is over within d on one machine. In a cluster the partitions of a hub that was killed are given to nobody, not even to
// the same hub, before its session has ended.
func (b *bed) bear(d time.Duration) time.Duration {
	if b.rack == nil {
		return d
	}
	return max(d+recoverWithin, 90*time.Second)
}

// drained waits until no route has anything to do. What is still there after the time is stuck.
func (b *bed) drained(within time.Duration, routes ...string) {
	within = b.bear(within)
	if left := b.rested(within, func() error { return b.busy(routes, routeLag, routeParked) }); left != nil {
		b.fault("stuck for %s: %v; the hub said %s", within, left, b.said())
	}
}

// newsAfter is more than how old what a hub of a cluster says of its lag may be.
const newsAfter = 1200 * time.Millisecond

// rested waits until busy finds nothing to do, or returns what it finds when the time is over.
func (b *bed) rested(within time.Duration, busy func() error) error {
	looks, every, old := 1, 20*time.Millisecond, time.Duration(0)
	if b.rack != nil {
		looks, every, old = 2, 200*time.Millisecond, newsAfter
	}
	began := time.Now()
	for quiet := 0; ; pause(b.t, every) {
		left, passed := busy(), time.Since(began)
		switch {
		case left != nil && passed > within:
			return left
		case left != nil:
			quiet = 0
		case passed >= old:
			quiet++
		}
		if quiet == looks {
			return nil
		}
	}
}

// What a route has left to do: records that it has not come to, and deliveries that wait to be tried again.
const (
	routeLag    = "tidewire_route_lag_events"
	routeParked = "tidewire_parked"
)

// busy says what of these kinds a hub has left to do for routes, or what waits in its spool; nil for nothing.
func (b *bed) busy(routes []string, kinds ...string) error {
	m, err := b.metrics()
	if err != nil {
		return err
	}
	if n := m["tidewire_spool_records"]; n != 0 { // only a hub of a cluster has one
		return fmt.Errorf("%v events in the spool", n)
	}
	for _, route := range routes {
		for _, kind := range kinds {
			if v, ok := m[kind+`{route="`+route+`"}`]; !ok || v != 0 {
				return fmt.Errorf("%s of %s is %v (known: %t)", kind, route, v, ok)
			}
		}
	}
	return nil
}

// wrote are the books of a hub that does not run: out of its file, or, of a topic and of routes, out of Kafka and PostgreSQL.
func (b *bed) wrote(topic string, routes []string) books {
	b.t.Helper()
	if b.rack == nil {
		return b.open()
	}
	shared := b.rack.books(topic, routes)
	k := books{records: map[string]int64{topic: int64(len(shared.events))}, states: shared.states, dead: shared.dead}
	for route, letters := range shared.letters {
		k.records["dead."+route] = int64(letters)
	}
	return k
}

// What holds on one machine holds in a cluster: the same scenarios, with fewer events.

func TestTortureClusterFailedAmongSuccesses(t *testing.T) {
	must(t, failedAmongSuccesses(t, clustered(hub), rounds(100, 1000, 3000)))
}

func TestTortureClusterHealthyTargets(t *testing.T) {
	must(t, healthyTargets(t, clustered(hub), rounds(500, 1000, 20_000)))
}

func TestTortureClusterSchedule(t *testing.T) {
	must(t, scheduleKept(t, clustered(hub), rounds(100, 400, 3000)))
}

func TestTortureClusterParkedThroughKill(t *testing.T) {
	must(t, parkedThroughKill(t, clustered(hub), rounds(100, 200, 1000)))
}

func TestTortureClusterOneFactOneEvent(t *testing.T) {
	must(t, oneFactOneEvent(t, clustered(hub)))
}

func TestTortureClusterHostileTargets(t *testing.T) {
	must(t, hostileTargets(t, clustered(hub), rounds(200, 500, 5000), 1<<30))
}
