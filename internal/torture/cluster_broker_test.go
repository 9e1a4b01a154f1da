package torture

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tidewire/tidewire/internal/load"
	"github.com/tidewire/tidewire/internal/services"
)

// TestTortureClusterKillBroker kills the only broker again and again, once for longer than anybody waits for an answer: webhooks are accepted meanwhile, and all of
// them are delivered in order when it is back, without a hub being started again.
func TestTortureClusterKillBroker(t *testing.T) {
	must(t, killBroker(t, hub, rounds(1, 1, 50), time.Duration(rounds(5, 5, 60))*time.Second))
}

func killBroker(t *testing.T, bin string, kills int, outage time.Duration) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 2})
	random := choices(t)
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	for i := range kills {
		pause(t, moment(random, 1000, 3000))
		r.broken(0, moment(random, 100, 2000))
		if i == kills/2 {
			pause(t, time.Second)
			r.broken(0, outage)
		}
	}
	pause(t, time.Second)
	const name = "cluster: SIGKILL of the broker"
	r.settled(name, kills+1, stop, 0)
	watched()
	tell(t, name, kills+1, "longest outage s", outage.Seconds())
	return r.violations()
}

// broken kills a broker for a while and waits until deliveries go on.
func (r *rack) broken(broker int, while time.Duration) {
	r.t.Helper()
	if err := r.kafka.Kill(broker); err != nil {
		r.t.Fatal(err)
	}
	pause(r.t, while)
	if err := r.kafka.Start(r.t.Context(), broker); err != nil {
		r.t.Fatal(err)
	}
	r.flowing("/steady")
}

// TestTortureClusterNoSpool kills the broker of hubs that have no spool: what cannot be stored is not accepted, but answered with a request to come again, and what
// was accepted is there.
func TestTortureClusterNoSpool(t *testing.T) {
	must(t, noSpool(t, hub, rounds(1, 1, 20)))
}

func noSpool(t *testing.T, bin string, kills int) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, noSpool: true})
	random := choices(t)
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	refused, taken := 0, 0
	for range kills {
		pause(t, moment(random, 500, 2000))
		if err := r.kafka.Kill(0); err != nil {
			t.Fatal(err)
		}
		// What is posted from now on cannot be stored anywhere.
		code, retryAfter := r.hubs[0].stripe("nowhere")
		switch {
		case code/100 == 2:
			taken++
		case code == http.StatusServiceUnavailable && retryAfter != "":
			refused++
		default:
			r.fault("without a broker: answered %d, Retry-After %q", code, retryAfter)
		}
		if err := r.kafka.Start(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		r.flowing("/steady")
	}
	pause(t, time.Second)
	const name = "cluster: SIGKILL of the broker, no spool"
	r.settled(name, kills, stop, 0)
	watched()
	if taken > 0 {
		r.fault("%d webhooks were accepted that were stored nowhere", taken)
	}
	tell(t, name, kills, "accepted and not stored", taken)
	tell(t, name, kills, "asked to come again", refused)
	return r.violations()
}

// TestTortureClusterLeader kills, of three brokers, the one that leads, again and again: what was accepted is in another's log.
func TestTortureClusterLeader(t *testing.T) {
	must(t, killLeader(t, hub, rounds(1, 1, 20)))
}

func killLeader(t *testing.T, bin string, kills int) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 2, kafka: services.NewKafka(t, services.KafkaOptions{Brokers: 3}), copies: 3})
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	for range kills {
		pause(t, time.Second)
		if err := r.kafka.AwaitInSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		leader := r.leader()
		if err := r.kafka.Kill(leader); err != nil {
			t.Fatal(err)
		}
		r.flowing("/steady") // by the others
		if err := r.kafka.Start(t.Context(), leader); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.kafka.AwaitInSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settled("cluster: SIGKILL of a leader of three", kills, stop, 0)
	watched()
	return r.violations()
}

// leader is the broker, from 0, that leads the first partition of the events.
func (r *rack) leader() int {
	r.t.Helper()
	client, done := r.client()
	defer done()
	known, err := client.Metadata(r.t.Context(), &kafka.MetadataRequest{Topics: []string{r.prefix + "events.stripe"}})
	if err != nil {
		r.t.Fatal(err)
	}
	return known.Topics[0].Partitions[0].Leader.ID - 1
}

// TestTortureClusterStalledBroker stops the broker's process, so that its connections stay open and nothing answers, while webhooks come in at five times the
// rate: the hub's memory stays bounded, and nothing is lost.
func TestTortureClusterStalledBroker(t *testing.T) {
	must(t, stalledBroker(t, hub, time.Duration(rounds(5, 6, 60))*time.Second))
}

func stalledBroker(t *testing.T, bin string, stall time.Duration) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin})
	r.allUp()
	stop := r.background(5 * clusterRate)
	pause(t, 3*time.Second)
	base, err := r.running[0].Memory()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.kafka.Pause(0); err != nil {
		t.Fatal(err)
	}
	var most int64
	for began := time.Now(); time.Since(began) < stall; pause(t, 100*time.Millisecond) {
		m, err := r.running[0].Memory()
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, m.RSS)
	}
	code, said, err := r.hubs[0].get("http://" + r.hubs[0].admin + "/readyz")
	if err != nil || !strings.Contains(said, "spool") {
		r.fault("readyz while the broker does not answer: %d %s %v", code, said, err)
	}
	if err := r.kafka.Resume(0); err != nil {
		t.Fatal(err)
	}
	r.flowing("/steady")
	const name = "cluster: stalled broker"
	r.settled(name, 1, stop, 0)
	const bound = 64 << 20
	if most > base.RSS+bound {
		r.fault("RSS was %d MiB before and came to %d MiB", base.RSS>>20, most>>20)
	}
	tell(t, name, 1, "RSS before and at most MiB", []int64{base.RSS >> 20, most >> 20})
	return r.violations()
}

// TestTortureClusterBrokerAndHub kills the broker while webhooks come in, then the hub: what was accepted in between is on the hub's disk.
func TestTortureClusterBrokerAndHub(t *testing.T) {
	for range rounds(1, 1, 10) {
		must(t, brokerAndHub(t, hub))
	}
}

func brokerAndHub(t *testing.T, bin string) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin})
	r.allUp()
	g := r.hubs[0].generator("b")
	g.Rate, g.Connections = clusterRate, 8
	stop := r.hubs[0].background(g)
	pause(t, time.Second)
	if err := r.kafka.Kill(0); err != nil {
		t.Fatal(err)
	}
	pause(t, 4*time.Second)
	r.kill(0)
	sent := stop() // what was not accepted by now never is
	if err := r.kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	r.up(0)
	r.settled("cluster: SIGKILL of the broker, then of the hub", 1, func() []*load.Sent { return []*load.Sent{sent} }, inHand)
	return r.violations()
}
