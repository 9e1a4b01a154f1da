package torture

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
	"github.com/tidewire/tidewire/internal/services"
)

// TestTortureClusterOrder sends events of 64 keys through everything that could put them out of order at once: hubs that are killed and hubs that come and go, while
// targets fail and are tried again.
func TestTortureClusterOrder(t *testing.T) {
	must(t, orderKept(t, hub, rounds(500, 1500, 100_000)))
}

func orderKept(t *testing.T, bin string, events int) []string {
	t.Helper()
	r := newRack(t, plan{bin: bin, hubs: 3, rules: fewParked()})
	random := choices(t)
	r.allUp()
	watched := r.watchPlaces()
	g := r.hubs[0].generator("order") // 16 connections of 4 keys each; this hub stays
	g.Events, g.Rate = events, 300
	stop := r.hubs[0].background(g)
	kills, moves := 0, 0
	for came := int64(0); came < int64(events)*8/10; came = r.sink.Seen("/steady") {
		pause(t, moment(random, 1000, rounds(3000, 3000, 15_000)))
		switch i := 1 + random.IntN(2); {
		case r.running[i] == nil:
			r.up(i)
			moves++
		case random.IntN(3) == 0:
			r.kill(i)
			kills++
		default:
			r.down(i)
			moves++
		}
	}
	if kills == 0 && r.running[1] != nil {
		r.kill(1)
		kills++
	}
	if !await(t, 10*time.Minute, func() bool { pause(t, 100*time.Millisecond); return r.sink.Seen("/steady") >= int64(events) }) {
		r.fault("of %d events %d came", events, r.sink.Seen("/steady"))
	}
	const name = "cluster: 64 keys through kills, moves and retries"
	r.settled(name, kills+moves, func() []*load.Sent { return []*load.Sent{stop()} }, kills*inHand)
	watched()
	tell(t, name, kills+moves, "kills, moves", fmt.Sprint(kills, ", ", moves))
	return r.violations()
}

// TestTortureClusterWire reads what the hub asks of a broker when it stores one webhook after the other: every produce request asks for all replicas, and nobody waits
// for company.
func TestTortureClusterWire(t *testing.T) {
	must(t, onTheWire(t, hub, rounds(200, 1000, 1000)))
}

func onTheWire(t *testing.T, bin string, webhooks int) []string {
	t.Helper()
	const name = "cluster: single webhooks"
	door := load.FreeAddress(t.Context())
	p := newEater(t, door, choices(t))
	kafka := services.NewKafka(t, services.KafkaOptions{Properties: map[string]string{"advertised.listeners": "PLAINTEXT://" + door}})
	p.to = kafka.Addresses()[0]
	r := newRack(t, plan{bin: bin, kafka: kafka, brokers: []string{door}})
	r.allUp()
	g := r.hubs[0].generator("warm")
	g.Events, g.Rate = 500, 200
	warm := r.hubs[0].post(g)
	r.calm(time.Minute)
	acks := make(map[int16]int)
	var mu sync.Mutex
	seen := func(a int16) {
		mu.Lock()
		defer mu.Unlock()
		acks[a]++
	}
	p.seen.Store(&seen)
	var took []time.Duration
	for i := range webhooks {
		began := time.Now()
		if code, _ := r.hubs[0].stripe("single" + strconv.Itoa(i)); code != http.StatusOK {
			r.fault("webhook %d is answered %d", i, code)
		}
		took = append(took, time.Since(began))
	}
	p.seen.Store(nil)
	r.settled(name, webhooks, func() []*load.Sent { return []*load.Sent{warm} }, 0)
	mu.Lock()
	defer mu.Unlock()
	asked := 0
	for a, n := range acks {
		if asked += n; a != -1 {
			r.fault("%d produce requests ask for %d acknowledgements instead of all", n, a)
		}
	}
	if asked < webhooks {
		r.fault("%d webhooks were stored by %d requests: nothing is proved", webhooks, asked)
	}
	slices.Sort(took)
	tell(t, name, webhooks, "produce requests, all with acks of all replicas", asked)
	tell(t, name, webhooks, "answered p50, p99 ms", fmt.Sprintf("%.1f, %.1f", ms(quantile(took, 0.5)), ms(quantile(took, 0.99))))
	if q := quantile(took, 0.5); q > 200*time.Millisecond { // Kafka's other clients wait up to a second for a batch to fill
		r.fault("a webhook waits %s", q)
	}
	return r.violations()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// acksOf are the acknowledgements that a produce request asks for.
func acksOf(f []byte) (acks int16, ok bool) {
	if len(f) < 14 {
		return 0, false
	}
	version, at := binary.BigEndian.Uint16(f[6:]), 12
	if n := int16(binary.BigEndian.Uint16(f[at:])); n > 0 { // the client's name
		at += int(n)
	}
	at += 2
	if version >= 9 { // tagged fields, and a compact name of a transaction
		at += 2
	} else if version >= 3 {
		if n := int16(binary.BigEndian.Uint16(f[at:])); n > 0 {
			at += int(n)
		}
		at += 2
	}
	if len(f) < at+2 {
		return 0, false
	}
	return int16(binary.BigEndian.Uint16(f[at:])), true
}

// TestTortureClusterOneFact posts one event many times at once through two doors, and then another body under its ID: it comes once.
func TestTortureClusterOneFact(t *testing.T) {
	must(t, oneFactInCluster(t, hub))
}

func oneFactInCluster(t *testing.T, bin string) []string {
	t.Helper()
	r := newRack(t, plan{
		bin: bin, hubs: 2, rules: map[string]load.Rule{"/all": {}}, routes: []string{"all"},
		settings: connections("all") + anyone + "routes:\n  all: {from: any, to: all}\n",
	})
	r.allUp()
	const facts = 5
	post := func(door, fact int, body string) int {
		code, _ := r.hubs[door].call("/in/any", []byte(body), map[string]string{"X-Token": anyToken, "X-Id": "fact" + strconv.Itoa(fact)})
		return code
	}
	for fact := range facts {
		if fact == facts-1 {
			r.kill(1)
			r.up(1)
		}
		var all sync.WaitGroup
		codes := make([]int, 50)
		for i := range codes {
			all.Go(func() { codes[i] = post(i%2, fact, "{}") })
		}
		all.Wait()
		if slices.Max(codes) != 200 || slices.Min(codes) != 200 {
			r.fault("50 calls with one event were answered %v", codes)
		}
	}
	r.calm(time.Minute)
	type count struct{ N int64 }
	if !await(t, time.Minute, func() bool {
		pause(t, 100*time.Millisecond)
		return query[count](r, "SELECT count(DISTINCT event_id) FROM tidewire.event_index")[0].N == facts
	}) {
		r.fault("the events are not in the index after a minute")
	}
	for fact := range facts {
		for door := range 2 {
			if code := post(door, fact, `[]`); code != 409 {
				r.fault("another body under a known ID is answered %d", code)
			}
		}
	}
	r.calm(time.Minute)
	if n := r.sink.Seen("/all"); n != facts {
		r.fault("%d events came %d times", facts, n)
	}
	r.allDown()
	if n := query[count](r, "SELECT count(*) FROM tidewire.deliveries")[0].N; n != facts {
		r.fault("%d events have %d outcomes", facts, n)
	}
	tell(t, "cluster: one fact through two doors", facts*50, "deliveries of so many events", fmt.Sprint(r.sink.Seen("/all"), " of ", facts))
	return r.violations()
}
