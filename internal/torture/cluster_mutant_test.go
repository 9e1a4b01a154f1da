package torture

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// clusterMutants are hubs with one mistake that only a cluster shows.
var clusterMutants = map[string]mutant{
	"answers before Kafka has it": {
		file:   "pipeline/kafkalog/publish.go",
		old:    "select {\n\tcase <-c.done:\n\t\treturn several(topic, c.errs)",
		new:    "select {\n\tdefault:\n\t\treturn nil\n\tcase <-c.done:\n\t\treturn several(topic, c.errs)",
		caught: brokerAndHub,
	},
	"commits what it has read, as a group reader does": {
		file:   "pipeline/kafkalog/place.go",
		old:    "if len(p.order) > 0 {",
		new:    "if len(p.order) > 1<<30 {",
		caught: slowTarget,
	},
	"commits past what has failed": {
		file:   "pipeline/kafkalog/place.go",
		old:    "at = p.order[0].r.offset\n",
		new:    "at = p.order[0].r.offset\n\t\tfor _, it := range p.order {\n\t\t\tif it.done {\n\t\t\t\tat = it.r.offset + 1\n\t\t\t}\n\t\t}\n",
		caught: slowTarget,
	},
	"commits in whatever generation is current": {
		file: "pipeline/kafkalog/subscriber.go",
		old:  "\tgen    *generation ",
		new:  "\tkept   []*holding\n\tgen    *generation ",
		also: []edit{
			{"pipeline/kafkalog/group.go", "g.holdings = append(g.holdings, t.holdings...)", "g.holdings = append(g.holdings, t.holdings...)\n\t\t\t\ts.kept = append(s.kept, t.holdings...)"},
			{"pipeline/kafkalog/group.go", "for _, h := range g.holdings {\n\t\tif at, ok := h.due()", "for _, h := range g.s.kept {\n\t\tif at, ok := h.due()"},
		},
		caught: func(t *testing.T, bin string) []string { return frozenHub(t, bin, 1) },
	},
	"goes on with what a dead generation had read": {
		file:   "pipeline/kafkalog/subscription.go",
		old:    "t.cancel() // whoever",
		new:    "// whoever",
		caught: func(t *testing.T, bin string) []string { return wokenHub(t, bin, 1) },
	},
	"marks before the effect": {
		file: "pipeline/deliver.go",
		old:  "failpoint.Hit(\"before-map\")",
		new:  "_ = r.settle(in, d, Outcome{State: Delivered, At: now()}); failpoint.Hit(\"before-map\")",
		caught: func(t *testing.T, bin string) []string {
			return dieInCluster(t, bin, "before-send", 30)
		},
	},
	"gives partitions away with messages in hand": {
		file: "pipeline/kafkalog/group.go",
		old:  "func (g *generation) await(ctx context.Context, within time.Duration) {\n",
		new:  "func (g *generation) await(ctx context.Context, within time.Duration) {\n\tif within > 0 {\n\t\treturn\n\t}\n",
		caught: func(t *testing.T, bin string) []string {
			return comeAndGo(t, bin, 8*time.Second, map[string]load.Rule{"/steady": {Delay: 100 * time.Millisecond}, "/flaky": {}})
		},
	},
}

// TestTortureClusterMutants: hubs that make one mistake each do not pass the scenario that is about it.
func TestTortureClusterMutants(t *testing.T) {
	for name, m := range clusterMutants {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			faults := m.caught(t, m.build(t))
			if len(faults) == 0 {
				t.Errorf("a hub that %s passes", name)
				return
			}
			first, _, _ := strings.Cut(faults[0], "\n")
			t.Logf("seen: %.300s", first)
		})
	}
}

// TestTortureClusterSlowTarget kills a hub with much in hand, of which the younger is finished before the elder.
func TestTortureClusterSlowTarget(t *testing.T) {
	must(t, slowTarget(t, hub))
}

func slowTarget(t *testing.T, bin string) []string {
	t.Helper()
	r := newRack(t, plan{
		bin: bin, rules: map[string]load.Rule{"/all": {Delay: 100 * time.Millisecond}}, routes: []string{"all"},
		settings: connections("all") + "routes:\n  all: {from: stripe, to: all, concurrency: 4, timeout: 2s}\n",
	})
	r.allUp()
	watched := r.watchPlaces()
	g := r.hubs[0].generator("slow")
	g.Events, g.Rate = 200, 80
	sent := r.hubs[0].post(g)
	r.kill(0)
	r.up(0)
	r.settled("cluster: SIGKILL with much in hand", 1, func() []*load.Sent { return []*load.Sent{sent} }, inHand)
	watched()
	return r.violations()
}

// TestTortureClusterFailpoints has a hub die between two steps of an event's journey through the cluster.
func TestTortureClusterFailpoints(t *testing.T) {
	names := []string{
		"kafka-before-produce", "kafka-after-produce", "before-accept", "after-accept", "before-admit", "before-map", "before-send", "after-send",
		"before-settle", "after-settle", "before-park", "after-park", "after-lease", "before-ack",
	}
	r := choices(t)
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:rounds(1, 1, len(names))] {
		for range rounds(1, 1, 3) {
			must(t, dieInCluster(t, armedHub, name, 1+r.IntN(deepest(name))))
		}
	}
}

// dieInCluster has one of two hubs die at one passage of a failpoint.
func dieInCluster(t *testing.T, bin, name string, after int) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 2})
	r.up(0)
	r.up(1, "TIDEWIRE_FAILPOINT="+name+":"+strconv.Itoa(after))
	stop := r.background(clusterRate)
	select {
	case <-r.running[1].Exited():
	case <-time.After(30 * time.Second):
		r.fault("the hub never came to %s:%d", name, after)
		r.running[1].Kill()
	}
	r.running[1] = nil
	r.up(1)
	pause(t, 500*time.Millisecond)
	r.settled("cluster: failpoint "+name, 1, stop, inHand)
	return r.violations()
}
