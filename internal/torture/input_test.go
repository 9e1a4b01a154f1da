package torture

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

func TestTortureOneFactOneEvent(t *testing.T) {
	t.Parallel()
	must(t, oneFactOneEvent(t, alone(hub)))
}

// oneFactOneEvent posts one event many times at once, before and after a kill, and then another body under its ID.
func oneFactOneEvent(t *testing.T, in mode) []string {
	t.Helper()
	b := in.bed(t, map[string]load.Rule{"/all": {}}, connections("all")+anyone+"routes:\n  all: {from: any, to: all}\n")
	child := b.start()
	post := func(body string) int {
		code, _ := b.call("/in/any", []byte(body), map[string]string{"X-Token": anyToken, "X-Id": "one"})
		return code
	}
	other := func(killed bool) {
		if code := post("[]"); code != 409 {
			b.fault("another body under a known id (after a kill: %v) is answered %d", killed, code)
		}
	}
	for _, kill := range []bool{false, true} {
		if kill {
			if b.rack != nil {
				b.rack.indexed(1) // the index is how a hub of a cluster knows what others were told
			}
			child.Kill()
			child = b.start()
			other(kill)
		}
		var all sync.WaitGroup
		codes := make([]int, 50)
		for i := range codes {
			all.Go(func() { codes[i] = post("{}") })
		}
		all.Wait()
		for _, code := range codes {
			if code != 200 {
				b.fault("50 calls with one event (after a kill: %v) were answered %v", kill, codes)
				break
			}
		}
		other(kill)
		b.drained(10*time.Second, "all")
	}
	if n := b.sink.Seen("/all"); n != 1 {
		b.fault("one event came %d times", n)
	}
	b.stop(child)
	if k := b.addUp("events.any", 1, "all"); k.records["events.any"] != 1 {
		b.fault("one event is stored %d times", k.records["events.any"])
	}
	in.tell(t, "one event 50 times at once, before and after SIGKILL", 2, "deliveries", b.sink.Seen("/all"))
	return b.faults
}

// TestTorturePoison: events that cannot be handled end where they should, each in its own way, and what follows is carried as if they were not there.
func TestTorturePoison(t *testing.T) {
	t.Parallel()
	b := newBed(t, hub, map[string]load.Rule{"/raw": {}, "/mapped": {}, "/good": {}}, connections("raw", "mapped", "good")+anyone+`routes:
  raw: {from: any, to: raw}
  mapped: {from: any, to: mapped, when: 'body.kind != "none"', map: {n: 'int(body.n) / int(body.d)', list: 'body.items.map(i, i.sku)'}}
  good: {from: stripe, to: good}
`)
	child := b.start()
	poison := poisoned()
	post := func(id string, body []byte) {
		want := 200
		if id == "duplicate" {
			want = 422 // it says two things: refused where it comes in
		}
		if code, _ := b.call("/in/any", body, map[string]string{"X-Token": anyToken, "X-Id": id}); code != want {
			b.fault("%s is answered %d, want %d", id, code, want)
		}
	}
	for id, body := range poison {
		post(id, []byte(body))
		post("good-after-"+id, []byte(`{"kind":"x","n":6,"d":2,"items":[{"sku":"b"}]}`))
	}
	g := b.generator("q")
	g.Events = 1000
	began := time.Now()
	sent := b.post(g)
	b.drained(30*time.Second, "raw", "mapped", "good")
	tell(t, "poison", len(poison), "1000 that follow, ms", time.Since(began).Milliseconds())
	b.check(sent, "/good", 0)
	if n := b.sink.Taken("/raw"); n != int64(2*len(poison)-1) {
		b.fault("of %d events with any bytes %d were delivered as they came", 2*len(poison)-1, n)
	}
	if n := b.sink.Taken("/mapped"); n < int64(len(poison)) {
		b.fault("of %d good events among the poison %d were delivered", len(poison), n)
	}
	pause(t, 500*time.Millisecond)
	before, _ := child.CPU()
	pause(t, 2*time.Second)
	after, err := child.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if busy := after - before; busy > 500*time.Millisecond {
		b.fault("after poison the hub used %s of two seconds", busy)
	}
	b.stop(child)
	k := b.addUp("events.any", 2*len(poison)-1, "raw", "mapped")
	dead := slices.Sorted(slices.Values(k.dead["mapped"]))
	tell(t, "poison", len(poison), "dead letters", fmt.Sprint(dead))
	for _, id := range dead {
		if _, ok := poison[id]; !ok {
			b.fault("%s is a dead letter", id)
		}
	}
	// A long list is no poison as such: it may be within the cost limit.
	for id := range poison {
		if id != "huge-list" && id != "duplicate" && !slices.Contains(dead, id) {
			b.fault("%s is no dead letter", id)
		}
	}
	if len(k.dead["raw"]) > 0 {
		b.fault("dead letters of a route that needs no JSON: %v", k.dead["raw"])
	}
	must(t, b.faults)
}

// anyone is the YAML of a connection that takes anything from who knows its token.
const (
	anyToken = "a-token-of-some-length"
	anyone   = `  any:
    connector: http
    webhook: {verify: {scheme: token, header: X-Token, secret: ` + anyToken + `}, id: 'header("X-Id")', key: '"one key for all"', max_body: 1MiB}
`
)

// poisoned are bodies that cannot be handled, by event ID.
func poisoned() map[string]string {
	return map[string]string{
		"not-json":   "this is no JSON",
		"cut":        `{"kind":"x","n":1`,
		"empty":      "",
		"duplicate":  `{"kind":"x","kind":"y","n":1,"d":1,"items":[]}`,
		"deep":       strings.Repeat(`{"a":`, 50_000) + "1" + strings.Repeat("}", 50_000),
		"wrong-type": `{"kind":"x","n":"seven","d":1,"items":[]}`,
		"by-zero":    `{"kind":"x","n":1,"d":0,"items":[]}`,
		"missing":    `{"kind":"x","n":1,"d":1}`,
		"not-list":   `{"kind":"x","n":1,"d":1,"items":7}`,
		"bytes":      "\x00\xff\xfe{}",
		"huge-list":  `{"kind":"x","n":1,"d":1,"items":[` + strings.TrimSuffix(strings.Repeat(`{"sku":"a"},`, 80_000), ",") + `]}`,
		"number":     `{"kind":"x","n":1e400,"d":1,"items":[]}`,
	}
}
