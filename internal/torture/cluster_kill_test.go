package torture

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// clusterRate is what is posted, per second.
const clusterRate = 200

// TestTortureClusterKillHub kills one of two hubs again and again: the other has its partitions, and nothing is lost.
func TestTortureClusterKillHub(t *testing.T) {
	must(t, killHub(t, hub, rounds(1, 2, 50)))
}

// killHub kills hubs in turn.
func killHub(t *testing.T, bin string, kills int) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 2, rules: fewParked()})
	random := choices(t)
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	for i := range kills {
		pause(t, moment(random, 500, 2500))
		r.kill(i % 2)
		pause(t, moment(random, 0, 3000))
		r.up(i % 2)
		r.flowing("/steady")
	}
	pause(t, time.Second)
	r.settled("cluster: SIGKILL of a hub", kills, stop, kills*inHand)
	watched()
	return r.violations()
}

// fewParked are the rules of an everyday run that cuts leases: what a hub was about to try again when it died is due when its lease has run out, after a minute.
// A long run waits for that.
func fewParked() map[string]load.Rule {
	if long() {
		return nil
	}
	return map[string]load.Rule{"/steady": {Delay: time.Millisecond}, "/flaky": {Share: 0.002, Fail: 2, Status: 503, RetryAfter: time.Second}}
}

// moment is a time between two numbers of milliseconds.
func moment(r *rand.Rand, from, to int) time.Duration {
	return time.Duration(from+r.IntN(to-from)) * time.Millisecond
}

// TestTortureClusterSIGTERM stops one of two hubs gracefully under load, again and again: no repeat, no dead letter, within the time that a stop may take.
func TestTortureClusterSIGTERM(t *testing.T) {
	must(t, leaveInTurn(t, hub, rounds(1, 3, 50)))
}

func leaveInTurn(t *testing.T, bin string, stops int) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 2})
	random := choices(t)
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	var exits []time.Duration
	for i := range stops {
		pause(t, moment(random, 500, 2000))
		began := time.Now()
		r.down(i % 2) // it says so when that takes more than ten seconds
		exits = append(exits, time.Since(began))
		r.up(i % 2)
		r.flowing("/steady")
	}
	const name = "cluster: SIGTERM of a hub"
	r.settled(name, stops, stop, 0)
	watched()
	r.noDead()
	tell(t, name, stops, "exit p95 ms", quantile(exits, 0.95).Milliseconds())
	return r.violations()
}

// noDead checks that nothing died, where targets were well.
func (r *rack) noDead() {
	type count struct{ N int64 }
	if n := query[count](r, "SELECT count(*) FROM tidewire.dead")[0].N; n > 0 {
		r.fault("%d dead letters of healthy targets", n)
	}
}

// TestTortureClusterFrozenHub stops a hub's process for longer than the group's session, so that the other takes its partitions, and lets it go on: what it
// had in hand comes twice at most, and it overwrites no place.
func TestTortureClusterFrozenHub(t *testing.T) {
	must(t, frozenHub(t, hub, rounds(1, 1, 20)))
}

// sessionTimeout is that of the hubs' consumer groups.
const sessionTimeout = 10 * time.Second

func frozenHub(t *testing.T, bin string, freezes int) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 2})
	random := choices(t)
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	for i := range freezes {
		pause(t, moment(random, 1000, 3000))
		frozen := int(r.running[i%2].Process)
		if err := syscall.Kill(frozen, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		pause(t, sessionTimeout+moment(random, 1000, 4000))
		if err := syscall.Kill(frozen, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		r.flowing("/steady")
		pause(t, 2*time.Second)
	}
	r.settled("cluster: hub frozen past its session", freezes, stop, freezes*inHand)
	watched()
	return r.violations()
}

// TestTortureClusterComeAndGo has hubs come and go every two seconds: nothing is lost, no key is out of order, the work goes on, and what stays has no more
// goroutines than before.
func TestTortureClusterComeAndGo(t *testing.T) {
	span := 8 * time.Second
	if long() {
		span = 5 * time.Minute
	}
	must(t, comeAndGo(t, hub, span, nil))
}

func comeAndGo(t *testing.T, bin string, span time.Duration, rules map[string]load.Rule) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 3, rules: rules})
	random := choices(t)
	r.allUp()
	r.calm(time.Minute)
	before := r.goroutines(0)
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	moves := 0
	for began := time.Now(); time.Since(began) < span; moves++ {
		pause(t, 2*time.Second)
		i := 1 + random.IntN(2)
		if r.running[i] != nil {
			r.down(i)
		} else {
			r.up(i)
		}
	}
	const name = "cluster: hubs come and go"
	taken := r.sink.Taken("/steady")
	sent := stop()
	tell(t, name, moves, "share delivered by the end", fmt.Sprintf("%.2f", float64(taken)/float64(max(1, accepted(sent)))))
	if taken < int64(accepted(sent)/5) { // on a machine that does nothing else it is more than half; the figure above tells
		r.fault("of %d accepted events only %d were delivered while hubs came and went", accepted(sent), taken)
	}
	r.allUp()
	r.calm(2 * time.Minute)
	var after float64
	if !await(t, 30*time.Second, func() bool { after = r.goroutines(0); return after <= before*1.05 }) {
		r.fault("the hub that stayed had %v goroutines and has %v", before, after)
	}
	tell(t, name, moves, "goroutines before and after", fmt.Sprint(before, after))
	r.settled(name, moves, func() []*load.Sent { return sent }, 0)
	watched()
	return r.violations()
}

// goroutines is how many a hub has.
func (r *rack) goroutines(i int) float64 {
	m, err := r.hubs[i].metrics()
	if err != nil {
		r.fault("%v", err)
	}
	return m["go_goroutines"]
}
