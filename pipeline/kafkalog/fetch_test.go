package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// count counts the requests of a kind that reach the cluster.
func count(k *kfake.Cluster, key kmsg.Key) *atomic.Int64 {
	var n atomic.Int64
	k.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		n.Add(1)
		return nil, nil, false
	})
	return &n
}

// drain acks everything until it has come, and returns the UUIDs in order.
func drain(t testing.TB, out <-chan *message.Message, n int) (uuids []string) {
	t.Helper()
	for range n {
		m := receive(t, out)
		uuids = append(uuids, m.UUID)
		m.Ack()
	}
	return uuids
}

// A hundred groups that wait for records cost one request per broker and poll, however many partitions there are.
func TestGroupsNearTheHeadShareOneRequestPerBroker(t *testing.T) {
	t.Parallel()
	const groups = 40
	k := cluster(t, 2)
	fetches := count(k, kmsg.Fetch)
	var decoded atomic.Int64
	c := lively(k)
	c.Partitions = 8
	c.Prepare = func(*message.Message, string, int32, int64) { decoded.Add(1) }
	l := opened(t, c)
	var outs []<-chan *message.Message
	for g := range groups {
		out, _ := subscribe(t, l, SubscriberConfig{Group: fmt.Sprint(g), InHand: 4, Key: unordered})
		outs = append(outs, out)
	}
	until(t, "all are members", func() bool { return len(l.Holdings()) == groups*8 })
	until(t, "all wait", func() bool {
		for _, f := range l.reader.all() {
			f.mu.Lock()
			hungry := 0
			for c := range f.cursors {
				if c.hungry {
					hungry++
				}
			}
			f.mu.Unlock()
			if hungry != groups {
				return false
			}
		}
		return true
	})
	before, began := fetches.Load(), time.Now()
	until(t, "six polls", func() bool { return fetches.Load() >= before+6 })
	if d := time.Since(began); d < pollFor {
		t.Errorf("six polls of two brokers took %s", d)
	}
	for i := range 50 {
		add(t, l, msg(fmt.Sprintf("%c%d", 'a'+i%26, i), ""))
	}
	for _, out := range outs {
		drain(t, out, 50)
	}
	if n := decoded.Load(); n != 50 {
		t.Errorf("50 records were prepared %d times", n)
	}
	if n := fetches.Load() - before; n > 300 {
		t.Errorf("%d requests for 50 records", n)
	}
}

// Whatever goes wrong with fetching, it is tried again without haste, and everything comes once it is over.
func TestFetchesThatFailAreTriedAgainWithoutHaste(t *testing.T) {
	t.Parallel()
	for _, why := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition, kerr.LeaderNotAvailable, kerr.KafkaStorageError,
		kerr.UnknownServerError, kerr.FencedLeaderEpoch, kerr.OffsetOutOfRange,
	} {
		t.Run(why.Message, func(t *testing.T) {
			t.Parallel()
			k := cluster(t, 1)
			l := opened(t, alone(k))
			out, _ := subscribe(t, l, SubscriberConfig{Group: "g", InHand: 9, Key: unordered})
			add(t, l, msg("a", ""))
			receive(t, out).Ack()
			f := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: orders, Err: why, Count: -1})
			for i := range 10 {
				add(t, l, msg(fmt.Sprintf("%c", 'b'+i), ""))
			}
			failed := func() float64 { return worth(t, l.reader.metrics.failed) }
			began := time.Now()
			until(t, "some fail", func() bool { return failed() >= 6 })
			if d := time.Since(began); d < 300*time.Millisecond {
				t.Errorf("6 failures in %s", d)
			}
			f.Remove()
			drain(t, out, 10)
		})
	}
}

func TestConnectionsThatBreakAreReplaced(t *testing.T) {
	t.Parallel()
	k := cluster(t, 2)
	l := opened(t, lively(k))
	out, _ := subscribe(t, l, SubscriberConfig{Group: "g", InHand: 9, Key: keyed})
	var broken atomic.Int64
	k.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if n := broken.Add(1); n%3 == 1 && n < 20 {
			return nil, errors.New("cut"), true
		}
		return nil, nil, false
	})
	for i := range 30 {
		add(t, l, msg(fmt.Sprintf("%c%d", 'a'+i%5, i), ""))
	}
	seen := make(map[string]bool)
	for len(seen) < 30 {
		m := receive(t, out)
		seen[m.UUID] = true
		m.Ack()
	}
	k.ShufflePartitionLeaders()
	k.RehashCoordinators()
	for i := range 30 {
		m := msg(fmt.Sprintf("%c%d", 'f'+i%5, i), "")
		until(t, "it is stored", func() bool { return l.Publish(orders, m) == nil })
	}
	for len(seen) < 60 {
		m := receive(t, out)
		seen[m.UUID] = true
		m.Ack()
	}
	until(t, "no lag", func() bool { return behind(t, l, "g") == 0 })
}

// within counts the records that come from each partition, until there are none of some partitions left.
func within(t *testing.T, l *Log, out <-chan *message.Message, numbers ...int32) {
	t.Helper()
	until(t, "the other partitions are finished", func() bool {
		select {
		case m := <-out:
			m.Ack()
		default:
		}
		ps := make([]partition, len(numbers))
		for i, n := range numbers {
			ps[i] = partition{orders, n}
		}
		ends, err := l.client.offsets(t.Context(), ps, atEnd)
		if err != nil {
			t.Fatal(err)
		}
		held := l.held("g", orders)
		for _, p := range ps {
			if held[p].finished < ends[p] {
				return false
			}
		}
		return true
	})
}

// A partition whose records nobody finishes, or that cannot be read, holds up no other.
func TestPartitionsDoNotBlockOneAnother(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := lively(k)
	c.Prepare = func(m *message.Message, _ string, partition int32, _ int64) {
		m.SetContext(context.WithValue(m.Context(), preparedKey{}, partition))
	}
	l := opened(t, c)
	ensured(t, l, orders)
	out, _ := subscribe(t, l, SubscriberConfig{Group: "g", InHand: 2, Key: keyed})
	add(t, l, msg("slow", ""))
	slow := receive(t, out)
	number := slow.Context().Value(preparedKey{}).(int32)
	others := slices.DeleteFunc([]int32{0, 1, 2}, func(n int32) bool { return n == number })
	for i := range 200 { // many behind the slow one, in its partition
		add(t, l, msg(fmt.Sprintf("s%d", i), ""))
	}
	for i := range 26 {
		add(t, l, msg(fmt.Sprintf("%c-%d", 'a'+i, i), ""))
	}
	within(t, l, out, others...)
	slow.Ack()
	within(t, l, out, 0, 1, 2)
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: orders, Partitions: []int32{number}, Err: kerr.KafkaStorageError, Count: -1})
	for i := range 26 {
		add(t, l, msg(fmt.Sprintf("%c-again", 'a'+i), ""))
	}
	within(t, l, out, others...)
}

// gaps collects what a log says of gaps.
type gaps struct {
	mu  sync.Mutex
	all []string
}

func (g *gaps) note(topic, group string, partition int32, from, to int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, fmt.Sprint(topic, " ", group, " ", partition, " ", from, " ", to))
}

func (g *gaps) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fmt.Sprint(g.all)
}

func TestWhatRetentionTookIsReported(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	var found gaps
	c := alone(k)
	c.OnGap = found.note
	l := opened(t, c)
	ensured(t, l, orders)
	for i := range 10 {
		add(t, l, msg(fmt.Sprintf("%c", 'a'+i), ""))
	}
	out, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	drain(t, out, 3)
	until(t, "three are written", func() bool { return placeOf(t, l, "g", 0) == 3 })
	closed(t, s)
	if err := k.DeleteRecords(orders, 0, 7); err != nil {
		t.Fatal(err)
	}
	out, _ = subscribe(t, l, SubscriberConfig{Group: "g"})
	if m := receive(t, out); m.UUID != "h" {
		t.Errorf("got %s, want h", m.UUID)
	} else {
		m.Ack()
	}
	if got := found.String(); got != "[events.orders g 0 3 7]" {
		t.Errorf("reported %s", got)
	}
	if n := worth(t, l.reader.metrics.gaps.WithLabelValues("g")); n != 4 {
		t.Errorf("%v records are missing by the metric", n)
	}
	drain(t, out, 2)
	until(t, "no lag", func() bool { return behind(t, l, "g") == 0 })
}

// A place behind the end is no reason to wait for the end to come there.
func TestAPlaceBehindTheEndGoesOnAtTheEnd(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, alone(k))
	ensured(t, l, orders)
	add(t, l, msg("a", ""), msg("b", ""))
	s, err := l.Subscriber(SubscriberConfig{Group: "g", FromEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	s.starts[partition{orders, 0}] = 100 // as if the log had been longer once
	if err := s.SubscribeInitialize(orders); err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	if at := placeOf(t, l, "g", 0); at != 100 {
		t.Fatalf("the place is %d", at)
	}
	other, _ := subscribe(t, l, SubscriberConfig{Group: "well"}) // reads the same partition at its head
	drain(t, other, 2)
	out, _ := subscribe(t, l, SubscriberConfig{Group: "g"})
	until(t, "the place is at the end", func() bool { return placeOf(t, l, "g", 0) == 2 })
	add(t, l, msg("c", ""))
	for _, o := range []<-chan *message.Message{out, other} {
		if m := receive(t, o); m.UUID != "c" {
			t.Errorf("got %s, want c", m.UUID)
		}
	}
}
