package torture

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tidewire/tidewire/internal/load"
	"github.com/tidewire/tidewire/pipeline/kafkalog"
)

// TestTortureClusterWokenHub stops a hub's process while its target is slow, so that what it has in hand mostly waits, and lets it go on when another has its partitions:
// what has not begun by then belongs to the other, and is not begun here as well.
func TestTortureClusterWokenHub(t *testing.T) {
	must(t, wokenHub(t, hub, rounds(1, 1, 5)))
}

// wokenHub counts what comes twice at the target: the ledger drops much of what should not have been handed out, but not what was asked for before it was settled.
func wokenHub(t *testing.T, bin string, freezes int) []string {
	t.Helper()
	const concurrency, events = 4, 120
	r := newRack(t, plan{
		bin: bin, hubs: 2, rules: map[string]load.Rule{"/all": {Delay: time.Second}}, routes: []string{"all"},
		settings: connections("all") + fmt.Sprintf("routes:\n  all: {from: stripe, to: all, concurrency: %d, timeout: 10s}\n", concurrency),
	})
	r.allUp()
	watched := r.watchPlaces()
	var all []*load.Sent
	for i := range freezes {
		before := r.sink.Seen("/all")
		if !await(t, time.Minute, func() bool { return r.holds(0) == 2 && r.holds(1) == 2 }) {
			t.Fatalf("the hubs hold %v and %v partitions of 4", r.holds(0), r.holds(1))
		}
		g := r.hubs[0].generator("woken" + strconv.Itoa(i))
		g.Events = events
		all = append(all, r.hubs[0].post(g))
		if !await(t, time.Minute, func() bool { return r.sink.Seen("/all") >= before+2*concurrency }) {
			r.fault("%d of %d deliveries began", r.sink.Seen("/all")-before, events)
		}
		frozen := int(r.running[1].Process)
		if err := syscall.Kill(frozen, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		taken := await(t, time.Minute, func() bool { return r.holds(0) == 4 })
		pause(t, time.Second) // until the other is at work on them
		if err := syscall.Kill(frozen, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if !taken {
			r.fault("nobody took over the partitions of a hub that was frozen for a minute")
		}
		r.calm(2 * time.Minute)
	}
	// Of those under way at the freeze each may come again, and as many may begin in the moment between waking and hearing that others have the partitions.
	r.settled("cluster: hub woken among what others have", freezes, func() []*load.Sent { return all }, freezes*3*concurrency)
	watched()
	return r.violations()
}

// holds is how many partitions a hub holds of the events for the first route.
func (r *rack) holds(i int) float64 {
	m, err := r.hubs[i].metrics()
	if err != nil {
		r.fault("%v", err)
	}
	return m[`tidewire_kafka_partitions_held{group="`+r.routes[0]+`"}`]
}

// TestTortureClusterDeadGenerations has a partition change hands again and again while a message of it is in hand, and acks that message afterwards: the ack of a
// generation that has ended moves no place, and nothing that such a generation handed out is received later. This one meets the log itself: a hub finishes what it has
// in hand before it gives a partition away.
func TestTortureClusterDeadGenerations(t *testing.T) {
	must(t, deadGenerations(t, rounds(5, 20, 1000)))
}

func deadGenerations(t *testing.T, rounds int) (faults []string) {
	t.Helper()
	r := &rack{t: t, kafka: servers.Kafka(t, 1), partitions: 1, routes: []string{"g"}, hubs: []*bed{{t: t}}, prefix: fmt.Sprintf("torture%d.", prefixes.Add(1))}
	const topic = "events.stripe"
	open := func(instance string) *kafkalog.Log {
		l, err := kafkalog.Open(t.Context(), kafkalog.Config{
			Brokers: r.kafka.Addresses(), Prefix: r.prefix, Partitions: 1, Replication: 1, Instance: instance, Logger: slog.New(slog.DiscardHandler),
			HeartbeatInterval: 20 * time.Millisecond, CommitEvery: 5 * time.Millisecond,
			CloseTimeout: time.Millisecond, // nobody acks in time
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	one, two := open("one"), open("two")
	if err := one.Ensure(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	client, done := r.client()
	defer done()
	publish := func(n int) {
		body := kafka.NewBytes([]byte(strconv.Itoa(n)))
		answer, err := client.Produce(t.Context(), &kafka.ProduceRequest{
			Topic: r.prefix + topic, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(kafka.Record{Value: body, Time: time.Now()}),
		})
		if err == nil {
			err = answer.Error
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &watch{r: r, client: client, places: make(map[lane]int64)}
	place := func() int64 { w.look(t.Context()); return w.places[lane{"g", 0}] }
	member, err := one.Subscriber(kafkalog.SubscriberConfig{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := member.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	stale, late := 0, 0
	for n := range rounds {
		publish(n)
		m := <-out
		if m == nil {
			t.Fatal("the log handed out nothing")
		}
		// Another comes and goes: twice the partition may change hands.
		ctx, leave := context.WithCancel(t.Context())
		other, err := two.Subscriber(kafkalog.SubscriberConfig{Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := other.Subscribe(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		given := make(chan struct{})
		go func() { // ends when the other has left
			defer close(given)
			for m := range theirs {
				m.Nack()
			}
		}()
		if !await(t, time.Minute, func() bool { all := two.Memberships(); return len(all) == 1 && all[0].State == "member" }) {
			t.Fatalf("round %d: the other does not become a member: %v", n, two.Memberships())
		}
		<-m.Context().Done()
		if n%2 == 0 { // while the other is a member, or after it has left
			m.Ack()
		}
		leave()
		<-given
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		if n%2 == 1 {
			m.Ack()
		}
		if at := place(); at > int64(n) {
			late++
			faults = append(faults, fmt.Sprintf("round %d: the place is %d: an ack of a generation that had ended was counted", n, at))
		}
		for again := range out {
			if again.Context().Err() != nil {
				// The generation may end between the two lines above; one that ended before the message was received is what must not be.
				again.Nack()
				stale++
				continue
			}
			if string(again.Payload) != strconv.Itoa(n) {
				faults = append(faults, fmt.Sprintf("round %d: got message %s", n, again.Payload))
			}
			again.Ack()
			break
		}
		if !await(t, time.Minute, func() bool { return place() == int64(n)+1 }) {
			t.Fatalf("round %d: the place is %d", n, place())
		}
	}
	if err := member.Close(); err != nil {
		t.Fatal(err)
	}
	w.reread()
	const name = "cluster: generations that end with messages in hand"
	tell(t, name, rounds, "late acks that counted", late)
	tell(t, name, rounds, "messages of ended generations received", stale)
	tell(t, name, rounds, "commits looked at", w.commits)
	tell(t, name, rounds, "committed offsets that fell", len(w.fell))
	if stale > rounds/10 {
		faults = append(faults, fmt.Sprintf("%d messages of generations that had ended were received", stale))
	}
	return append(append(faults, w.fell...), r.violations()...)
}
