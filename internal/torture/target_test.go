package torture

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

func TestTortureHealthyTargetsGoOn(t *testing.T) {
	t.Parallel()
	must(t, healthyTargets(t, alone(hub), rounds(500, 2000, 20_000)))
}

// healthyTargets: of four targets on one connection one fails and one never answers; the others get everything.
func healthyTargets(t *testing.T, in mode, events int) []string {
	t.Helper()
	const routes = `routes:
  one: {from: stripe, to: one}
  two: {from: stripe, to: two}
  bad: {from: stripe, to: bad, timeout: 1s}
  mute: {from: stripe, to: mute, timeout: 1s}
`
	var took [2]time.Duration
	var faults []string
	for i, rules := range []map[string]load.Rule{
		{"/one": {}, "/two": {}, "/bad": {}, "/mute": {}},
		{"/one": {}, "/two": {}, "/bad": {Fail: 1 << 20}, "/mute": {Tarpit: true}},
	} {
		b := in.bed(t, rules, connections("one", "two", "bad", "mute")+routes)
		child := b.start()
		g := b.generator("w")
		g.Events = events
		began := time.Now()
		sent := b.post(g)
		bound, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := b.sink.Wait(bound, int64(2*events), 10*time.Second, "/one", "/two"); err != nil {
			b.fault("healthy targets: %v", err)
		}
		cancel()
		took[i] = time.Since(began)
		b.check(sent, "/one", 0)
		b.check(sent, "/two", 0)
		if i == 1 {
			if !await(t, 20*time.Second, func() bool {
				_, body, err := b.get("http://" + b.admin + "/readyz")
				return err == nil && strings.Contains(body, `"resting"`)
			}) {
				b.fault("/readyz never lists a resting route")
			}
			child.Kill() // what the bad ones did not get is not what this is about
		} else {
			b.drained(20*time.Second, "one", "two", "bad", "mute")
			b.stop(child)
		}
		faults = append(faults, b.faults...)
	}
	if took[1] > 5*took[0]+3*time.Second {
		faults = append(faults, fmt.Sprintf("healthy targets took %s beside bad ones, %s without", took[1], took[0]))
	}
	in.tell(t, "two of four targets bad", 1, "throughput of the healthy", fmt.Sprintf("%.2f", took[0].Seconds()/took[1].Seconds()))
	return faults
}

func TestTortureHostileTargets(t *testing.T) {
	t.Parallel()
	must(t, hostileTargets(t, alone(hub), rounds(200, 3000, 5000), 1<<30))
}

// hostileTargets answer with bodies without end, cut connections, or say nothing. The hub stays in time and hardly larger than under the same
// load with targets that behave, and the healthy target gets everything.
func hostileTargets(t *testing.T, in mode, events int, huge int64) []string {
	t.Helper()
	var log string
	var faults []string
	var grown, most int64
	least := int64(math.MaxInt64)
	for range 5 { // when the collector runs is a matter of chance in both: the most that is usual and the least beside hostile ones count, of up to five
		_, usual, found := besideGood(t, in, events, map[string]load.Rule{"/good": {}, "/huge": {}, "/mute": {}, "/cut": {}})
		faults = append(faults, found...)
		var peak int64
		log, peak, found = besideGood(t, in, events, map[string]load.Rule{
			"/good": {}, "/huge": {HugeBody: huge}, "/mute": {Tarpit: true}, "/cut": {Fail: 1, Reset: true},
		})
		faults = append(faults, found...)
		most, least = max(most, usual), min(least, peak)
		if grown = (least - most) >> 20; grown <= 32 || len(faults) > 0 {
			break
		}
	}
	in.tell(t, "1 GiB answers, tarpits, resets", 1, "memory grown MiB", grown)
	if grown > 32 {
		faults = append(faults, fmt.Sprintf("the hub is %d MiB larger than with targets that behave", grown))
	}
	slowest := 0.0
	for _, m := range regexp.MustCompile(`msg=attempt .*target=mute .* ms=([0-9.]+) `).FindAllStringSubmatch(log, -1) {
		ms, _ := strconv.ParseFloat(m[1], 64)
		slowest = math.Max(slowest, ms)
	}
	in.tell(t, "1 GiB answers, tarpits, resets", 1, "slowest attempt with a timeout of 1 s, ms", slowest)
	if slowest < 900 || slowest > 3000 {
		faults = append(faults, fmt.Sprintf("an attempt with a timeout of one second took %v ms", slowest))
	}
	return faults
}

// besideGood sends events to a good target and three others, and returns the hub's log and its peak of memory.
func besideGood(t *testing.T, in mode, events int, rules map[string]load.Rule) (log string, peak int64, faults []string) {
	t.Helper()
	b := in.bed(t, rules, connections("good", "huge", "mute", "cut")+`routes:
  good: {from: stripe, to: good}
  huge: {from: stripe, to: huge, timeout: 2s, concurrency: 4}
  mute: {from: stripe, to: mute, timeout: 1s}
  cut: {from: stripe, to: cut, retry: {initial: 100ms, multiplier: 1, max_interval: 100ms}}
`)
	child := b.start()
	g := b.generator("x")
	g.Events = events
	sent := b.post(g)
	b.drained(30*time.Second, "good", "huge")
	b.check(sent, "/good", 0)
	v := load.Check(sent, b.sink.Receipts("/huge"), load.Expect{})
	if v.Lost > 0 || v.Altered > 0 {
		b.fault("/huge: %s", v)
	}
	// The others may have everything before the first attempt at a mute target has met its end.
	await(t, 20*time.Second, func() bool { return strings.Contains(b.everything(), "target=mute") })
	memory, err := child.Memory()
	if err != nil {
		t.Fatal(err)
	}
	child.Kill()
	return b.everything(), memory.Peak, b.faults
}

func TestTortureParkedThroughKill(t *testing.T) {
	t.Parallel()
	must(t, parkedThroughKill(t, alone(hub), rounds(200, 1000, 3000)))
}

// parkedThroughKill: so many deliveries and more are parked until the target wants them again, and the hub is killed; each comes once, in time, and the
// route's rate is kept.
func parkedThroughKill(t *testing.T, in mode, parked int) []string {
	t.Helper()
	rate := min(200, parked/3) // the limit is felt
	// Longer than all first tries take, also on a busy machine.
	asked := 10*time.Second + time.Duration(parked/100)*time.Second
	const route = "routes:\n  all: {from: stripe, to: all, retry: {initial: 100ms}%s}\n"
	b := in.bed(t, map[string]load.Rule{"/all": {Share: 0.3, Fail: 1, Status: 503, RetryAfter: asked}}, connections("all")+fmt.Sprintf(route, ""))
	child := b.start()
	g := b.generator("p")
	g.Events, g.KeysPerConnection = 4*parked, 200+parked // hardly any waits for an elder of its key
	sent := b.post(g)
	if left := b.rested(b.bear(30*time.Second), func() error { return b.busy([]string{"all"}, routeLag) }); left != nil {
		b.fault("the first tries do not end: %v", left)
	}
	m, err := b.metrics()
	if err != nil {
		t.Fatal(err)
	}
	if n := m[`tidewire_parked{route="all"}`]; n < float64(parked) {
		b.fault("only %v deliveries are parked, want %d", n, parked)
	}
	child.Kill()
	killed := time.Now().UnixNano()
	b.configure(connections("all") + fmt.Sprintf(route, fmt.Sprintf(", rate_limit: %d/s", rate)))
	child = b.start()
	b.drained(time.Minute+asked, "all")
	v := b.check(sent, "/all", inHand)
	early, again, late := 0, 0, time.Duration(0)
	refused := make(map[load.ID]int64)
	fired := make(map[load.ID]int)
	var at []int64
	for _, r := range b.sink.Receipts("/all") {
		if r.At > killed {
			at = append(at, r.At)
		}
		if r.Status == 503 {
			refused[r.ID] = r.At
		} else if first, ok := refused[r.ID]; ok {
			gap := time.Duration(r.At - first)
			late = max(late, gap-asked)
			if gap < asked {
				early++
			}
			if fired[r.ID]++; fired[r.ID] > 1 {
				again++
			}
		}
	}
	if early > 0 {
		b.fault("%d of %d were tried again before the target wanted them", early, len(refused))
	}
	if len(fired) != len(refused) || again > 0 {
		b.fault("of %d that were parked %d came, and %d more than once", len(refused), len(fired), again)
	}
	burst := 0
	for i, j := 0, 0; j < len(at); j++ {
		for at[j]-at[i] > int64(3*time.Second) {
			i++
		}
		burst = max(burst, j-i+1)
	}
	// A tenth of the rate may go at once; and what is counted is when they came, not when they left, which a busy machine spreads.
	if burst > 3*rate+rate/10+3*rate/10 {
		b.fault("%d tries within three seconds, the limit is %d a second", burst, rate)
	}
	const name = "parked, then SIGKILL"
	in.tell(t, name, 1, "parked at the kill", m[`tidewire_parked{route="all"}`])
	in.tell(t, name, 1, "early", early)
	in.tell(t, name, 1, "more than once", again)
	in.tell(t, name, 1, "latest beyond its time ms", late.Milliseconds())
	in.tell(t, name, 1, "most tries within three seconds", burst)
	in.tell(t, name, 1, "lost", v.Lost)
	in.tell(t, name, 1, "duplicates", v.Duplicates)
	b.stop(child)
	b.addUp("events.stripe", g.Events, "all")
	return b.faults
}

func TestTortureSchedule(t *testing.T) {
	t.Parallel()
	must(t, scheduleKept(t, alone(hub), rounds(100, 1100, 3000)))
}

// scheduleKept: the gaps between the tries are those of the schedule, spread by the jitter; a longer Retry-After counts up to its cap.
func scheduleKept(t *testing.T, in mode, events int) []string {
	t.Helper()
	b := in.bed(t, map[string]load.Rule{
		"/plain":  {Share: 0.2, Fail: 6}, // three quick tries, then the schedule
		"/wished": {Share: 0.3, Fail: 1, Status: 429, RetryAfter: 2 * time.Second},
		"/capped": {Share: 0.3, Fail: 1, Status: 429, RetryAfter: time.Hour},
		"/filler": {},
	}, connections("plain", "wished", "capped")+`routes:
  plain: {from: stripe, to: plain, retry: {schedule: [500ms, 1s, 2s, 2s], jitter: 0.2}}
  wished: {from: stripe, to: wished, retry: {schedule: [100ms, 100ms]}}
  capped: {from: stripe, to: capped, retry: {schedule: [100ms, 100ms], max_retry_after: 1s}}
`)
	child := b.start()
	g := b.generator("g")
	// As many keys as events: none waits for an elder. And slowly, so that the failing ones do not stand alone and rest their target.
	g.Events, g.KeysPerConnection, g.Rate = events, 200, 120
	sent := b.post(g)
	b.drained(40*time.Second, "plain", "wished", "capped")
	for _, path := range []string{"/plain", "/wished", "/capped"} {
		b.check(sent, path, 0)
	}
	// What a try may come later than planned: the store is asked five times a second, and the machine is busy.
	const slack = 1500 * time.Millisecond
	for path, plan := range map[string][]time.Duration{
		"/plain":  {0, 0, 500 * time.Millisecond, time.Second, 2 * time.Second, 2 * time.Second},
		"/wished": {2 * time.Second}, "/capped": {time.Second},
	} {
		tries := make(map[load.ID][]int64)
		for _, r := range b.sink.Receipts(path) {
			tries[r.ID] = append(tries[r.ID], r.At)
		}
		var gaps []float64
		for id, at := range tries {
			for i := 1; i < len(at); i++ {
				gap := time.Duration(at[i] - at[i-1])
				jitter := time.Duration(0)
				if path == "/plain" {
					jitter = plan[i-1] / 5
				}
				if gap < plan[i-1]-jitter || gap > plan[i-1]+jitter+slack {
					b.fault("%s: %s: gap %d is %s, planned %s", path, id, i, gap, plan[i-1])
				}
				if path == "/plain" && i == 4 {
					gaps = append(gaps, gap.Seconds())
				}
			}
		}
		if path == "/plain" {
			_, sigma := moments(gaps)
			in.tell(t, "schedule", len(gaps), "jitter of the second wait (1 s), sigma s", fmt.Sprintf("%.3f", sigma))
			if len(gaps) < g.Events/6 || sigma < 0.02 {
				b.fault("%d gaps do not vary: sigma %v", len(gaps), sigma)
			}
		}
	}
	b.stop(child)
	return b.faults
}

func moments(v []float64) (mean, sigma float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		sigma += (x - mean) * (x - mean) / float64(len(v))
	}
	return mean, math.Sqrt(sigma)
}
