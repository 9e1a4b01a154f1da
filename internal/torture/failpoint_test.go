package torture

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// failpoints are the names in the hub's sources: a new one is tried without being listed here.
func failpoints(t *testing.T) []string {
	t.Helper()
	hit := regexp.MustCompile(`failpoint\.Hit\("([a-z-]+)"\)`)
	var names []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range hit.FindAllSubmatch(text, -1) {
			if name := string(m[1]); !strings.HasPrefix(name, "kafka-") { // those are passed in cluster mode, where TestTortureClusterFailpoint dies at them
				names = append(names, name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) < 20 {
		t.Fatalf("only %d failpoints found: %v", len(names), names)
	}
	return names
}

// deepest is how often a failpoint is passed at most before the hub dies at it. Some are passed seldom.
func deepest(name string) int {
	switch {
	case strings.HasSuffix(name, "-migrate"):
		return 2
	case strings.HasSuffix(name, "-checkpoint"):
		return 1
	case strings.HasSuffix(name, "-place"), strings.HasSuffix(name, "-lease"), strings.HasSuffix(name, "-park"):
		return 4
	case strings.Contains(name, "dead"):
		return 10
	}
	return 60
}

// TestFailpoints has the hub die between any two steps of an event's journey: nothing that was accepted is lost, nothing is stuck, what
// comes twice bears its id, and each event ends either delivered or dead and never both.
func TestFailpoints(t *testing.T) {
	t.Parallel()
	names := failpoints(t)
	r := choices(t)
	if testing.Short() {
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		names = names[:3]
	}
	for _, name := range names {
		for range rounds(1, 1, 20) {
			after := 1 + r.IntN(deepest(name))
			own := rand.New(rand.NewPCG(seed, r.Uint64()))
			t.Run(name+":"+strconv.Itoa(after), func(t *testing.T) {
				t.Parallel()
				faults := dieAt(t, armedHub, name, after, own)
				must(t, faults)
				tell(t, "failpoint "+name, 1, "violations", len(faults))
			})
		}
	}
}

// dieAt kills the hub at one passage of a failpoint and lets another one clean up.
func dieAt(t *testing.T, bin, name string, after int, r *rand.Rand) []string {
	t.Helper()
	b := newBed(t, bin, map[string]load.Rule{
		"/steady": {},
		"/flaky":  {Share: 0.05, Fail: 1, Status: 503, RetryAfter: time.Second},
		"/picky":  {Share: 0.1, Fail: 1 << 20, Status: 400},
	}, connections("steady", "flaky", "picky")+`routes:
  steady: {from: stripe, to: steady, concurrency: 16}
  flaky: {from: stripe, to: flaky, concurrency: 16, retry: {initial: 50ms, multiplier: 1, max_interval: 50ms, max_retry_after: 100ms}}
  picky: {from: stripe, to: picky, concurrency: 16, map: {event: id, again: body.id}}
`)
	c := b.command("TIDEWIRE_FAILPOINT=" + name + ":" + strconv.Itoa(after))
	dying, err := load.Start(t.Context(), c)
	var stop func() *load.Sent
	g := b.generator("f")
	g.Seed, g.Duplicates, g.BodySize = r.Uint64(), 0.02, 1024
	if strings.HasSuffix(name, "-checkpoint") {
		g.BodySize = 100 << 10 // enough pages to be worth copying
	}
	switch {
	case err == nil:
		defer dying.Kill()
		stop = b.background(g)
		select {
		case <-dying.Exited():
		case <-time.After(15 * time.Second):
			b.fault("the hub never came to %s:%d", name, after)
			dying.Kill()
		}
	case strings.Contains(err.Error(), "signal: killed"): // died while it started
	default:
		t.Fatal(err)
	}
	child := b.start()
	if stop == nil {
		stop = b.background(g)
	}
	pause(t, 100*time.Millisecond)
	sent := stop()
	b.drained(60*time.Second, "steady", "flaky", "picky")
	b.check(sent, "/steady", inHand)
	b.check(sent, "/flaky", inHand)
	b.stop(child)
	k := b.addUp("events.stripe", sent.Count(load.Accepted), "steady", "flaky", "picky")
	b.pickyOutcomes(sent, k.dead["picky"])
	return b.faults
}

// pickyOutcomes checks that the dead letters are what was refused, and nothing else.
func (b *bed) pickyOutcomes(sent *load.Sent, dead []string) {
	refused, taken := make(map[string]bool), make(map[string]bool)
	for _, r := range b.sink.Receipts("/picky") {
		if r.Status == 400 {
			refused[r.ID.String()] = true
		} else {
			taken[r.ID.String()] = true
		}
	}
	for _, id := range dead {
		if !refused[id] || taken[id] {
			b.fault("%s is a dead letter although it was not refused, or delivered as well", id)
		}
		delete(refused, id)
	}
	for id := range refused {
		b.fault("%s was refused and is no dead letter", id)
	}
	for _, p := range sent.Posts {
		id := sent.ID(p).String()
		if p.State == load.Accepted && !taken[id] && !slices.Contains(dead, id) {
			b.fault("%s is neither delivered nor dead", id)
		}
	}
}
