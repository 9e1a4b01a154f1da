package torture

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// inHand is how many records a route with a concurrency of 16 may hold: the most that one crash can make come twice.
const inHand = 64

// campaign ends a hub again and again while webhooks pour in.
type campaign struct {
	bin  string
	ends int
	// graceful sends SIGTERM, else SIGKILL.
	graceful bool
	rate     float64
	// fewKeys has 8 keys instead of 64, as fast as they go: many events of one key are in the log at any time.
	fewKeys bool
}

const campaignRoutes = `routes:
  steady: {from: stripe, to: steady, concurrency: 16}
  flaky: {from: stripe, to: flaky, concurrency: 16, retry: {initial: 200ms, multiplier: 1.5, max_interval: 1s, max_retry_after: 200ms}}
`

// run returns the violations; the figures go to the test's log.
func (c campaign) run(t *testing.T, r *rand.Rand) []string {
	t.Helper()
	b := newBed(t, c.bin, map[string]load.Rule{
		"/steady": {Delay: time.Millisecond},
		"/flaky":  {Share: 0.02, Fail: 2, Status: 503, RetryAfter: time.Second}, // parked at once
	}, connections("steady", "flaky")+campaignRoutes)
	g := b.generator("k")
	g.Rate = c.rate
	g.Duplicates = 0.01
	if c.fewKeys {
		g.Connections, g.KeysPerConnection = 8, 1
	}
	child := b.start()
	stop := b.background(g)
	var ready, exits []time.Duration
	for i := range c.ends {
		pause(t, time.Duration(100+r.IntN(900))*time.Millisecond)
		began := time.Now()
		if c.graceful {
			b.stop(child)
			exits = append(exits, time.Since(began))
		} else {
			child.Kill()
			if i%4 == 3 {
				b.killWhileStarting(r)
			}
		}
		child = b.start()
		ready = append(ready, child.Ready)
	}
	pause(t, 200*time.Millisecond)
	sent := stop()
	b.drained(30*time.Second, "steady", "flaky")
	duplicates := 0
	name := "SIGTERM"
	if !c.graceful {
		duplicates, name = c.ends*inHand, "SIGKILL"
	}
	var sum load.Verdict
	for _, path := range []string{"/steady", "/flaky"} {
		sum = sum.Add(b.check(sent, path, duplicates))
	}
	b.stop(child)
	k := b.addUp("events.stripe", sent.Count(load.Accepted), "steady", "flaky")
	if n := k.states["steady"]["dead"] + k.states["flaky"]["dead"]; n > 0 {
		b.fault("%d dead letters of healthy targets", n)
	}
	tell(t, name, c.ends, "lost", sum.Lost)
	tell(t, name, c.ends, "accepted", sent.Count(load.Accepted))
	tell(t, name, c.ends, "first-delivery inversions", sum.Inversions)
	tell(t, name, c.ends, "duplicates", sum.Duplicates)
	tell(t, name, c.ends, "duplicates allowed", 2*duplicates)
	tell(t, name, c.ends, "duplicates under another id", sum.DuplicateIDs)
	tell(t, name, c.ends, "dead letters", k.states["steady"]["dead"]+k.states["flaky"]["dead"])
	tell(t, name, c.ends, "ready p95 ms", quantile(ready, 0.95).Milliseconds())
	if c.graceful {
		tell(t, name, c.ends, "exit p95 ms", quantile(exits, 0.95).Milliseconds())
	}
	return b.faults
}

// killWhileStarting starts a hub and kills it some milliseconds later, wherever it has got to.
func (b *bed) killWhileStarting(r *rand.Rand) {
	c := b.command()
	c.Within = time.Duration(1+r.IntN(60)) * time.Millisecond
	if child, err := load.Start(b.t.Context(), c); err == nil { // it was fast
		child.Kill()
	}
}

func quantile(all []time.Duration, q float64) time.Duration {
	all = slices.Sorted(slices.Values(all))
	if len(all) == 0 {
		return 0
	}
	return all[min(int(q*float64(len(all))), len(all)-1)]
}

func TestTortureKillUnderLoad(t *testing.T) {
	t.Parallel()
	must(t, campaign{bin: hub, ends: rounds(2, 8, 200), rate: 1500}.run(t, choices(t)))
}

// TestTortureKillFewKeys: order holds where there is most of it to lose.
func TestTortureKillFewKeys(t *testing.T) {
	t.Parallel()
	must(t, campaign{bin: hub, ends: rounds(1, 3, 50), fewKeys: true}.run(t, choices(t)))
}

func TestTortureSIGTERMUnderLoad(t *testing.T) {
	t.Parallel()
	must(t, campaign{bin: hub, ends: rounds(1, 5, 50), rate: 1000, graceful: true}.run(t, choices(t)))
}

// TestTortureSecondSIGTERM: a graceful stop that a slow target holds up can be cut short, and costs nothing but a repeat.
func TestTortureSecondSIGTERM(t *testing.T) {
	t.Parallel()
	b := newBed(t, hub, map[string]load.Rule{"/all": {Delay: 3 * time.Second}}, "")
	child := b.start()
	g := b.generator("s")
	g.Events = 5
	sent := b.post(g)
	if !await(t, 5*time.Second, func() bool { return b.sink.Seen("/all") > 0 }) {
		t.Fatal("nothing was sent")
	}
	began := time.Now()
	first := make(chan struct{})
	go func() { // ends with the process
		defer close(first)
		_ = child.Stop(20 * time.Second)
	}()
	pause(t, 200*time.Millisecond)
	_ = child.Stop(20 * time.Second) // the second SIGTERM
	<-first
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the second SIGTERM did not end the hub at once: %s", took)
	}
	child = b.start()
	b.drained(20*time.Second, "all")
	b.check(sent, "/all", 5)
	b.stop(child)
	must(t, b.faults)
}

// TestTortureFailedAmongSuccesses: one in ten fails, successes follow, the hub is killed: each failed one comes again.
func TestTortureFailedAmongSuccesses(t *testing.T) {
	t.Parallel()
	must(t, failedAmongSuccesses(t, alone(hub), rounds(100, 1200, 3000)))
}

func failedAmongSuccesses(t *testing.T, in mode, events int) []string {
	t.Helper()
	b := in.bed(t, map[string]load.Rule{"/all": {Share: 0.1, Fail: 1 << 20}}, oneRoute())
	child := b.start()
	g := b.generator("h")
	g.Events, g.Connections = events, 40
	sent := b.post(g)
	// Those that fail are being tried again for half a second; what is behind them is through, and places are written meanwhile.
	pause(t, 350*time.Millisecond)
	child.Kill()
	failing := b.sink
	failed := make(map[load.ID]bool)
	for _, r := range failing.Receipts("/all") {
		if r.Status == 500 {
			failed[r.ID] = true
		}
	}
	var err error
	if b.sink, err = load.NewSink(load.SinkConfig{Rules: map[string]load.Rule{"/all": {}}}); err != nil {
		t.Fatal(err)
	}
	defer b.sink.Close()
	b.configure(oneRoute())
	child = b.start()
	b.drained(20*time.Second, "all")
	again := 0
	for _, r := range b.sink.Receipts("/all") {
		if failed[r.ID] {
			again++
			delete(failed, r.ID)
		}
	}
	if len(failed) > 0 || again == 0 {
		b.fault("%d that had failed came again, %d did not", again, len(failed))
	}
	v := load.Check(sent, slices.Concat(failing.Receipts("/all"), b.sink.Receipts("/all")), load.Expect{})
	if !v.Clean(inHand * 2) {
		b.fault("after the kill: %s", v)
	}
	b.stop(child)
	b.addUp("events.stripe", events, "all")
	in.tell(t, "one in ten fails, then SIGKILL", 1, "failed ones that came again", again)
	in.tell(t, "one in ten fails, then SIGKILL", 1, "lost", v.Lost)
	return b.faults
}
