package kafkalog

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A broker that was just made the leader of a new topic's partitions may not know it yet.
func TestLagOfATopicThatWasJustMade(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, "events.orders")
	var asked atomic.Int32
	k.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if asked.Add(1) > 2 {
			return nil, nil, false
		}
		r := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, topic := range req.(*kmsg.ListOffsetsRequest).Topics {
			rt := kmsg.NewListOffsetsResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				rp := kmsg.NewListOffsetsResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, int16(kafka.NotLeaderForPartition)
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
		return r, nil, true
	})
	if n, _, err := l.Lag(t.Context(), "events.orders", "g"); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n := asked.Load(); n < 3 {
		t.Errorf("asked %d times", n)
	}
	asked.Store(0)
	s, err := l.Subscriber(SubscriberConfig{Group: "g", FromEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SubscribeInitialize("events.orders"); err != nil {
		t.Errorf("a group that is to begin at its end: %v", err)
	}
}

// While brokers do not answer, one who may wait for long looks at the cluster; another who may not wait must not have to wait for that one.
func TestWhoMayNotWaitDoesNotWaitForOthers(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.RequestTimeout = 15 * time.Second
	l := opened(t, c)
	ensured(t, l, "events.orders")
	open, arrived := make(chan struct{}), make(chan struct{}, 16)
	release := sync.OnceFunc(func() { close(open) })
	t.Cleanup(release)
	k.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		arrived <- struct{}{}
		k.SleepControl(func() { <-open })
		return nil, nil, false
	})
	patient, end := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer release() // the broker first: its answers end the request that waits
	defer end()
	l.client.refresh()
	work.Go(func() { l.Lag(patient, "events.orders", "g") })
	<-arrived
	for what, ask := range map[string]func(context.Context) error{
		"Lag":   func(ctx context.Context) error { _, _, err := l.Lag(ctx, "events.orders", "g"); return err },
		"Probe": l.Probe,
	} {
		hasty, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		answer := make(chan error, 1)
		work.Go(func() { answer <- ask(hasty) })
		late := time.NewTimer(5 * time.Second) // a third of what the other may wait
		select {
		case err := <-answer:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
		case <-late.C:
			t.Errorf("%s waits for somebody else", what)
		}
		late.Stop()
		cancel()
	}
}
