package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const shop = "events.shop"

func isRefused(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Refused() bool
	}](err)
	return ok && e.Refused()
}

func isUnknown(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Unknown() bool
	}](err)
	return ok && e.Unknown()
}

// byKey puts every message of one word of its UUID into one partition: "a-1" and "a-2" share one.
func byKey(m *message.Message) string { key, _, _ := strings.Cut(m.UUID, "-"); return key }

// inOrder checks that records of one key, whose bodies are "key/number", are in one partition in the order of their numbers.
func inOrder(t *testing.T, found map[int32][]record) {
	t.Helper()
	where := make(map[string]int32)
	for n, rs := range found {
		last := make(map[string]string)
		for _, r := range rs {
			key, number, _ := strings.Cut(string(r.payload), "/")
			if other, ok := where[key]; ok && other != n {
				t.Errorf("key %s is in partitions %d and %d", key, other, n)
			}
			where[key] = n
			if number <= last[key] {
				t.Errorf("partition %d: %s/%s is behind %s", n, key, number, last[key])
			}
			last[key] = number
		}
	}
}

func TestOneRequestAtATimeCarriesWhatCameMeanwhile(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop, "events.till")
	var under, most, requests, partitions atomic.Int64
	g := newGate()
	t.Cleanup(g.release)
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		requests.Add(1)
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			partitions.Add(int64(len(topic.Partitions)))
		}
		most.Store(max(most.Load(), under.Add(1)))
		g.arrived <- struct{}{}
		k.SleepControl(func() { <-g.open })
		under.Add(-1)
		return nil, nil, false
	})
	var publishing sync.WaitGroup
	publish := func(topic string, i int) {
		publishing.Go(func() {
			if err := l.Publish(topic, note(t.Context(), named("id", i), "x")); err != nil {
				t.Error(err)
			}
		})
	}
	publish(shop, 0)
	<-g.arrived
	for i := range 100 {
		publish(shop, i+1)
		publish("events.till", i+1)
	}
	until(t, "all are in the queue", func() bool { l.publish.mu.Lock(); defer l.publish.mu.Unlock(); return l.publish.open == 201 })
	g.release()
	publishing.Wait()
	if most.Load() != 1 || requests.Load() != 2 || partitions.Load() != 7 {
		t.Errorf("%d requests with %d partitions, %d at a time; want 2 with 1+6, 1 at a time", requests.Load(), partitions.Load(), most.Load())
	}
}

func TestAnOversizeMessageSuffersAlone(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.MaxRecord = 4000
	c.PartitionKey = func(*message.Message) string { return "one" }
	l := opened(t, c)
	ensured(t, l, shop)
	g := stall(t, k)
	errs := make([]error, 10)
	var publishing sync.WaitGroup
	for i := range errs {
		publishing.Go(func() {
			body := strings.Repeat("x", 100)
			if i == 4 {
				body = strings.Repeat("x", 5000)
			}
			errs[i] = l.Publish(shop, note(t.Context(), named("id", i), body))
		})
	}
	until(t, "nine are in the queue", func() bool { l.publish.mu.Lock(); defer l.publish.mu.Unlock(); return l.publish.open == 9 })
	g.release()
	publishing.Wait()
	for i, err := range errs {
		if (i == 4) != isRefused(err) || i != 4 && err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if got := bodies(stored(t, l, shop)); len(got) != 9 {
		t.Errorf("%d are stored, want 9", len(got))
	}
}

func TestATopicsOwnBoundHolds(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	createTopic(t, l, shop, 3, map[string]string{settingMost: "2000"})
	ensured(t, l, shop)
	for size := range 400 {
		m := note(t.Context(), "id", strings.Repeat("x", 1100+size))
		m.Metadata.Set("ce_subject", strings.Repeat("y", 500))
		if err := l.Publish(shop, m); err != nil && !strings.Contains(err.Error(), "more than") {
			t.Fatalf("with %d bytes the broker refuses what was thought to fit: %v", 1600+size, err)
		}
	}
	if err := l.Publish(shop, note(t.Context(), "id", strings.Repeat("x", 2000))); !isRefused(err) {
		t.Errorf("%v", err)
	}
}

func TestARecordTheBrokerRefusesSuffersAlone(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.PartitionKey = func(*message.Message) string { return "one" }
	l := opened(t, c)
	ensured(t, l, shop)
	g := newGate()
	first := true
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if first {
			first = false
			g.arrived <- struct{}{}
			k.SleepControl(func() { <-g.open })
		}
		// As a broker does it: one bad record and the whole batch is refused.
		if strings.Contains(string(req.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records), "bad") {
			return refusal(req, kafka.InvalidRecord), nil, true
		}
		return nil, nil, false
	})
	errs := make([]error, 10)
	var publishing sync.WaitGroup
	publish := func(i int, body string) {
		publishing.Go(func() { errs[i] = l.Publish(shop, note(t.Context(), named("id", i), body)) })
		until(t, "it is in the queue", func() bool { l.publish.mu.Lock(); defer l.publish.mu.Unlock(); return l.publish.open == i+1 })
	}
	publish(0, "one/00")
	<-g.arrived
	for i := 1; i < 10; i++ {
		if i == 5 {
			publish(i, "bad")
		} else {
			publish(i, fmt.Sprintf("one/%02d", i))
		}
	}
	g.release()
	publishing.Wait()
	for i, err := range errs {
		if (i == 5) != isRefused(err) || i != 5 && err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
	found := stored(t, l, shop)
	if len(bodies(found)) != 9 {
		t.Errorf("%d are stored, want 9", len(bodies(found)))
	}
	inOrder(t, found)
}

func TestAStalledBrokerBoundsMemoryAndCallers(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.QueueBytes, c.MaxRecord = 20_000, 10_000
	c.RequestTimeout = time.Minute // nothing ends but by the callers' own deadlines
	reg := prometheus.NewRegistry()
	c.Registerer = reg
	l := opened(t, c)
	ensured(t, l, shop)
	g := stall(t, k)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var publishing sync.WaitGroup
	var unknown, unsent atomic.Int64
	for i := range 100 {
		publishing.Go(func() {
			switch err := l.Publish(shop, note(ctx, named("id", i), strings.Repeat("x", 1000))); {
			case isUnknown(err):
				unknown.Add(1)
			case errors.Is(err, context.DeadlineExceeded) && !isRefused(err):
				unsent.Add(1)
			default:
				t.Errorf("a caller is told %v", err)
			}
		})
	}
	<-g.arrived
	until(t, "the queue is full", func() bool { return worth(t, l.metrics.queue) > 17_000 })
	if most := worth(t, l.metrics.queue); most > 20_000 {
		t.Errorf("%v bytes are in the queue", most)
	}
	publishing.Wait()
	if unknown.Load() == 0 || unsent.Load() == 0 || unknown.Load()+unsent.Load() != 100 {
		t.Errorf("%d unknown and %d unsent of 100", unknown.Load(), unsent.Load())
	}
	if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	g.release()
	until(t, "the queue is empty", func() bool { return worth(t, l.metrics.queue) == 0 })
	if got := int64(len(bodies(stored(t, l, shop)))); got != unknown.Load() {
		t.Errorf("%d are stored; %d were unknown and the rest was said not to be stored", got, unknown.Load())
	}
}

func TestWhatIsWithdrawnLeavesNothingBehindWhileThereIsNoLeader(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop)
	announce(k, shop, -1)
	l.client.refresh()
	for i := range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if err := l.Publish(shop, note(ctx, named("id", i), "x")); err == nil {
			t.Error("it is stored")
		}
		cancel()
	}
	until(t, "the queues are empty", func() bool {
		l.publish.mu.Lock()
		defer l.publish.mu.Unlock()
		left := len(l.publish.lost) + l.publish.open
		for _, ln := range l.publish.lines {
			left += len(ln.queue)
		}
		return left == 0
	})
}

func TestCloseSendsWhatWasTaken(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l, err := Open(t.Context(), at(k))
	if err != nil {
		t.Fatal(err)
	}
	ensured(t, l, shop)
	g := stall(t, k)
	var published, closed atomic.Value
	var both sync.WaitGroup
	both.Go(func() { published.Store(fmt.Sprint(l.Publish(shop, note(t.Context(), "a", "x")))) })
	<-g.arrived
	both.Go(func() { closed.Store(fmt.Sprint(l.Close())) })
	until(t, "no more is taken", func() bool { return errors.Is(l.open(), ErrClosed) })
	g.release()
	both.Wait()
	if published.Load() != "<nil>" || closed.Load() != "<nil>" {
		t.Errorf("published: %v, closed: %v", published.Load(), closed.Load())
	}
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.CloseTimeout, c.RequestTimeout = 100*time.Millisecond, time.Hour
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ensured(t, l, shop)
	g := stall(t, k)
	errs := make([]error, 2)
	var publishing sync.WaitGroup
	publishing.Go(func() { errs[0] = l.Publish(shop, note(t.Context(), "a", "x")) })
	<-g.arrived
	publishing.Go(func() { errs[1] = l.Publish(shop, note(t.Context(), "b", "y")) })
	until(t, "both are in the queue", func() bool { l.publish.mu.Lock(); defer l.publish.mu.Unlock(); return l.publish.open == 2 })
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	l.client.conns.mu.Lock()
	if n := len(l.client.conns.open); n > 0 {
		t.Errorf("%d connections are left", n)
	}
	l.client.conns.mu.Unlock()
	publishing.Wait()
	if !isUnknown(errs[0]) || !errors.Is(errs[1], ErrClosed) {
		t.Errorf("the one under way: %v; the one that waits: %v", errs[0], errs[1])
	}
	if err := l.Publish(shop, note(t.Context(), "c", "z")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestMetricsOfPublishing(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.MaxRecord = 4000
	c.Registerer = prometheus.NewPedanticRegistry()
	l := opened(t, c)
	ensured(t, l, shop)
	l.Publish(shop, note(t.Context(), "a", "x"), note(t.Context(), "b", "x"))
	l.Publish(shop, note(t.Context(), "c", strings.Repeat("x", 4000)))
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("eaten"), true })
	l.Publish(shop, note(t.Context(), "d", "x"))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	l.Publish(shop, note(gone, "e", "x"))
	got := make(map[string]float64)
	for _, result := range []string{resultStored, resultRefused, resultUnknown, resultUnsent} {
		got[result] = worth(t, l.metrics.published.WithLabelValues(result))
	}
	if want := map[string]float64{resultStored: 2, resultRefused: 1, resultUnknown: 1, resultUnsent: 1}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if queue := worth(t, l.metrics.queue); math.Abs(queue) > 0 {
		t.Errorf("%v bytes are left in the queue", queue)
	}
}

func TestManyPartitionsShareAFullRequestFairly(t *testing.T) {
	t.Parallel()
	const each, partitions = 500_000, 12
	k := cluster(t, 1, kfake.BlackholeProduce())
	c := at(k)
	c.Partitions = partitions
	l := opened(t, c)
	ensured(t, l, shop)
	g := stall(t, k)
	var largest, batch atomic.Int64
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		all := 0
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				batch.Store(max(batch.Load(), int64(len(p.Records))))
				all += len(p.Records)
			}
		}
		largest.Store(max(largest.Load(), int64(all)))
		return nil, nil, false
	})
	var publishing sync.WaitGroup
	body := strings.Repeat("x", each)
	for i := range 60 {
		publishing.Go(func() {
			if err := l.Publish(shop, note(t.Context(), named("id", i), body)); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, "all are in the queue", func() bool { l.publish.mu.Lock(); defer l.publish.mu.Unlock(); return l.publish.open == 60 })
	g.release()
	publishing.Wait()
	if n := worth(t, l.metrics.requests); n < 5 {
		t.Errorf("30 MB went in %v requests", n)
	}
	// One message may be over the bound, and a little is Kafka's own.
	if largest.Load() > requestBytes+each+partitions*200 || batch.Load() > batchBytes+200 {
		t.Errorf("a request had %d bytes, a batch %d", largest.Load(), batch.Load())
	}
}
