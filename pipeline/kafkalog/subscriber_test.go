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
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const orders = "events.orders"

// lively is at with heartbeats and commits so often that a test need not wait for them.
func lively(k *kfake.Cluster) Config {
	c := at(k)
	c.HeartbeatInterval, c.CommitEvery = 20*time.Millisecond, 5*time.Millisecond
	c.CloseTimeout = 500 * time.Millisecond
	c.NackDelay, c.NackDelayMax = time.Millisecond, 5*time.Millisecond
	c.PartitionKey = func(m *message.Message) string { return m.Metadata.Get("key") }
	return c
}

// alone is lively with one partition.
func alone(k *kfake.Cluster) Config {
	c := lively(k)
	c.Partitions = 1
	return c
}

func msg(uuid, payload string) *message.Message {
	m := message.NewMessage(uuid, []byte(payload))
	m.Metadata.Set("key", uuid[:1])
	return m
}

func add(t testing.TB, l *Log, ms ...*message.Message) {
	t.Helper()
	if err := l.Publish(orders, ms...); err != nil {
		t.Fatal(err)
	}
}

func unordered(*message.Message) string { return "" }

func keyed(m *message.Message) string { return m.Metadata.Get("key") }

func subscribe(t testing.TB, l *Log, c SubscriberConfig) (<-chan *message.Message, *Subscriber) {
	t.Helper()
	s, err := l.Subscriber(c)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Subscribe(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	return out, s
}

func receive(t testing.TB, out <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-out:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return m
	case <-time.After(time.Minute):
		t.Fatal("no message came")
	}
	return nil
}

func closed(t testing.TB, s *Subscriber) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// placeOf is what a group has committed in a partition; -1 when nothing.
func placeOf(t testing.TB, l *Log, group string, number int32) int64 {
	t.Helper()
	at, err := l.committed(t.Context(), group, orders, []int32{number})
	if err != nil {
		t.Fatal(err)
	}
	if offset, ok := at[number]; ok {
		return offset
	}
	return -1
}

// behind is the group's lag as of now.
func behind(t testing.TB, l *Log, group string) int64 {
	t.Helper()
	l.ends.mu.Lock()
	clear(l.ends.topic)
	l.ends.mu.Unlock()
	n, _, err := l.Lag(t.Context(), orders, group)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// falls watches the commits that reach the cluster and counts those that put a group's place back.
func falls(k *kfake.Cluster) *atomic.Int64 {
	var mu sync.Mutex
	var fell atomic.Int64
	places := make(map[string]int64)
	k.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		r := req.(*kmsg.OffsetCommitRequest)
		mu.Lock()
		defer mu.Unlock()
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				at := fmt.Sprint(r.Group, t.Topic, p.Partition)
				if p.Offset < places[at] {
					fell.Add(1)
				}
				places[at] = max(places[at], p.Offset)
			}
		}
		return nil, nil, false
	})
	return &fell
}

type preparedKey struct{}
type subscribedKey struct{}

func TestEveryGroupSeesWhatPrepareLeft(t *testing.T) {
	t.Parallel()
	var prepared atomic.Int64
	c := alone(cluster(t, 1))
	c.Prepare = func(m *message.Message, topic string, partition int32, offset int64) {
		prepared.Add(1)
		m.SetContext(context.WithValue(m.Context(), preparedKey{}, fmt.Sprintf("%s/%d/%d", topic, partition, offset)))
	}
	l := opened(t, c)
	var outs []<-chan *message.Message
	for g := range 5 {
		s, err := l.Subscriber(SubscriberConfig{Group: fmt.Sprint(g)})
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Subscribe(context.WithValue(t.Context(), subscribedKey{}, "mine"), orders)
		if err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out)
	}
	until(t, "all are members", func() bool { return len(l.Holdings()) == 5 })
	add(t, l, msg("a", "1"))
	for _, out := range outs {
		m := receive(t, out)
		if got := m.Context().Value(preparedKey{}); got != orders+"/0/0" {
			t.Errorf("prepared value is %v", got)
		}
		if got := m.Context().Value(subscribedKey{}); got != "mine" {
			t.Errorf("subscription's value is %v", got)
		}
		if m.Metadata.Get("key") != "a" {
			t.Error("one group's change reached another")
		}
		m.Metadata.Set("key", "changed by one group")
		m.Ack()
		<-m.Context().Done()
	}
	if n := prepared.Load(); n != 1 {
		t.Errorf("prepared %d times, want once", n)
	}
}

func TestTopicsThatComeLaterAreReadToo(t *testing.T) {
	t.Parallel()
	l := opened(t, lively(cluster(t, 1)))
	const more = "events.more"
	s, err := l.Subscriber(SubscriberConfig{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	one, err := s.Subscribe(ctx, orders)
	if err != nil {
		t.Fatal(err)
	}
	add(t, l, msg("a", ""))
	receive(t, one).Ack()
	two, err := s.Subscribe(t.Context(), more)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Publish(more, msg("b", "")); err != nil {
		t.Fatal(err)
	}
	receive(t, two).Ack()
	add(t, l, msg("c", ""))
	receive(t, one).Ack()
	cancel()
	for range one {
	}
	until(t, "the first topic is given back", func() bool {
		return len(l.Holdings()) == 3 && !slices.ContainsFunc(l.Holdings(), func(h Holding) bool { return h.Topic == orders })
	})
	if err := l.Publish(more, msg("d", "")); err != nil {
		t.Fatal(err)
	}
	receive(t, two).Ack()
}

func TestSubscribersOfAGroupShareItsPartitions(t *testing.T) {
	t.Parallel()
	k := cluster(t, 2)
	one, two := opened(t, lively(k)), opened(t, lively(k))
	out1, _ := subscribe(t, one, SubscriberConfig{Group: "g", InHand: 9, Key: keyed})
	out2, s2 := subscribe(t, one, SubscriberConfig{Group: "g", InHand: 9, Key: keyed})
	out3, _ := subscribe(t, two, SubscriberConfig{Group: "g", InHand: 9, Key: keyed})
	until(t, "each has one partition", func() bool { return len(one.Holdings()) == 2 && len(two.Holdings()) == 1 })
	for i := range 60 {
		add(t, one, msg(fmt.Sprintf("%c%d", 'a'+i%26, i), ""))
	}
	var got [3]int
	seen := make(map[string]bool)
	for len(seen) < 60 {
		var m *message.Message
		which := 0
		select {
		case m = <-out1:
		case m = <-out2:
			which = 1
		case m = <-out3:
			which = 2
		case <-time.After(time.Minute):
			t.Fatal("no message came")
		}
		if seen[m.UUID] {
			t.Errorf("%s came twice", m.UUID)
		}
		seen[m.UUID] = true
		got[which]++
		m.Ack()
	}
	if slices.Min(got[:]) == 0 {
		t.Errorf("they got %v", got)
	}
	closed(t, s2)
	until(t, "the others take over", func() bool { return len(one.Holdings())+len(two.Holdings()) == 3 })
}

func TestAGroupDisturbsNoOther(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, lively(k))
	out, _ := subscribe(t, l, SubscriberConfig{Group: "stays"})
	add(t, l, msg("a", ""))
	held := receive(t, out)
	for range 3 {
		other, s := subscribe(t, l, SubscriberConfig{Group: "comes and goes"})
		receive(t, other) // in hand when it goes
		go s.Close()
		<-s.done
	}
	if n := worth(t, l.reader.metrics.rebalances.WithLabelValues("stays")); n != 1 {
		t.Errorf("the partitions of the group that stays were shared out %v times", n)
	}
	if held.Context().Err() != nil {
		t.Error("what it has in hand was cancelled")
	}
	held.Ack()
	until(t, "no lag", func() bool { return behind(t, l, "stays") == 0 })
}

func TestClosedLogTakesNothing(t *testing.T) {
	t.Parallel()
	l := opened(t, alone(cluster(t, 1)))
	out, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-out; ok {
		t.Error("a message came out of a closed log")
	}
	if _, err := s.Subscribe(t.Context(), orders); err == nil {
		t.Error("subscribed to a closed log")
	}
	if _, err := l.Subscriber(SubscriberConfig{Group: "g"}); !errors.Is(err, ErrClosed) {
		t.Errorf("subscriber: %v", err)
	}
	if _, _, err := l.Lag(t.Context(), orders, "g"); !errors.Is(err, ErrClosed) {
		t.Errorf("lag: %v", err)
	}
}
