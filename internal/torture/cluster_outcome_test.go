package torture

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// TestTortureClusterPoison: in a cluster as on one machine, events that cannot be handled end where they should and hold up nobody, what a target refuses is a dead
// letter and what fails for a while is not. In a long run a hub is killed among
// them.
func TestTortureClusterPoison(t *testing.T) {
	must(t, clusterPoison(t, hub, rounds(100, 300, 5000)))
}

func clusterPoison(t *testing.T, bin string, events int) []string {
	t.Helper()
	r := newRack(t, plan{
		bin: bin, hubs: 2, routes: []string{"picky", "flaky"},
		rules: map[string]load.Rule{
			"/mapped": {}, "/picky": {Share: 0.1, Fail: 1 << 20, Status: 400}, "/flaky": {Share: 0.1, Fail: 2, Status: 503, RetryAfter: time.Second},
		},
		settings: connections("mapped", "picky", "flaky") + anyone + `routes:
  mapped: {from: any, to: mapped, map: {n: 'int(body.n) / int(body.d)', list: 'body.items.map(i, i.sku)'}}
  picky: {from: stripe, to: picky, timeout: 2s}
  flaky: {from: stripe, to: flaky, timeout: 2s, retry: {initial: 200ms, multiplier: 1.5, max_interval: 1s, max_retry_after: 200ms}}
`})
	r.allUp()
	good := 0
	for id, body := range poisoned() {
		post := func(id, body string) (code int) {
			code, _ = r.hubs[0].call("/in/any", []byte(body), map[string]string{"X-Token": anyToken, "X-Id": id})
			return code
		}
		if code := post(id, body); code != 200 && id != "duplicate" {
			r.fault("%s is answered %d", id, code)
		}
		if code := post("good-after-"+id, `{"n":6,"d":2,"items":[{"sku":"b"}]}`); code == 200 {
			good++
		}
	}
	g := r.hubs[0].generator("q")
	g.Events, g.Rate = events, clusterRate
	stop := r.hubs[0].background(g)
	if long() { // what it was about to try again is due when its lease has run out, after a minute
		pause(t, time.Second)
		r.kill(1)
		pause(t, time.Second)
		r.up(1)
	}
	if !await(t, 2*time.Minute, func() bool { return r.sink.Seen("/picky") >= int64(events) }) {
		r.fault("of %d events %d came to a target that refuses some", events, r.sink.Seen("/picky"))
	}
	sent := stop()
	r.routes = append(r.routes, "mapped")
	r.calm(3 * time.Minute)
	r.routes = r.routes[:2]
	if n := r.sink.Taken("/mapped"); n < int64(good) {
		r.fault("of %d good events among the poison %d were delivered", good, n)
	}
	r.verdict([]*load.Sent{sent}, "/flaky", inHand)
	r.allDown()
	k := r.addUp(sent.Count(load.Accepted))
	r.hubs[0].pickyOutcomes(sent, k.dead["picky"])
	const name = "cluster: poison and refusals"
	dead := slices.Sorted(slices.Values(k.dead["mapped"]))
	tell(t, name, 1, "dead letters of poison", fmt.Sprint(dead))
	tell(t, name, 1, "dead letters of refusals", len(k.dead["picky"]))
	for id := range poisoned() {
		if id != "huge-list" && id != "duplicate" && !slices.Contains(dead, id) {
			r.fault("%s is no dead letter", id)
		}
	}
	if n := len(k.dead["flaky"]); n > 0 {
		r.fault("%d that failed for a while are dead letters", n)
	}
	return r.violations()
}

// TestTortureClusterSoak lets two hubs work for a while with now and then one killed, and looks whether they grow.
func TestTortureClusterSoak(t *testing.T) {
	must(t, clusterSoak(t, hub, time.Duration(rounds(10, 10, 1200))*time.Second))
}

func clusterSoak(t *testing.T, bin string, span time.Duration) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 2})
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	pause(t, span/8)
	begin := r.goroutines(0)
	var ages, sizes []float64 // hours, MiB
	kills := 0
	began := time.Now()
	for next := 10 * time.Minute; time.Since(began) < span; pause(t, time.Second) {
		if time.Since(began) > next {
			next += 10 * time.Minute
			kills++
			r.kill(1)
			r.up(1)
		}
		m, err := r.running[0].Memory()
		if err != nil {
			t.Fatal(err)
		}
		ages, sizes = append(ages, time.Since(began).Hours()), append(sizes, float64(m.RSS)/(1<<20))
	}
	// A heap takes minutes to have its size; before that only what is lost in heaps of megabytes is told from it.
	most := 16.0
	if span < 5*time.Minute {
		most = 64
	}
	// What is in hand at the moment comes and goes.
	var end float64
	if !await(t, 30*time.Second, func() bool { end = r.goroutines(0); return end <= begin*1.05 }) {
		r.fault("a hub had %v goroutines under load and has %v", begin, end)
	}
	const name = "cluster: soak"
	half := len(sizes) / 2
	if grown := mean(sizes[len(sizes)*7/8:]) - mean(sizes[half:half+len(sizes)/8]); grown > most {
		r.fault("a hub's RSS grew by %.1f MiB in the second half of %s", grown, span)
	}
	tell(t, name, kills, "minutes", span.Minutes())
	tell(t, name, kills, "goroutines at first and at last", []float64{begin, end})
	tell(t, name, kills, "RSS at last MiB", fmt.Sprintf("%.1f", sizes[len(sizes)-1]))
	if long() { // in seconds there is no slope to speak of
		tell(t, name, kills, "RSS slope of the second half MiB/h", fmt.Sprintf("%.1f", gradient(ages[half:], sizes[half:])))
	}
	r.settled(name, kills, stop, kills*inHand)
	watched()
	return r.violations()
}

func mean(all []float64) (sum float64) {
	for _, v := range all {
		sum += v / float64(len(all))
	}
	return sum
}

// gradient is the slope of the line that is nearest to the points.
func gradient(x, y []float64) float64 {
	mx, my := mean(x), mean(y)
	var above, below float64
	for i := range x {
		above += (x[i] - mx) * (y[i] - my)
		below += (x[i] - mx) * (x[i] - mx)
	}
	return above / below
}
