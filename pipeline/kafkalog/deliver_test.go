package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestAnAnswerThatIsLostLeavesTheResultUnknown(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop)
	// The connection ends, and then the records are stored.
	conns, first := l.client.conns, true
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		if !first {
			return nil, nil, false
		}
		first = false
		conns.mu.Lock()
		defer conns.mu.Unlock()
		for c := range conns.open {
			c.Conn.Close()
		}
		return nil, nil, false
	})
	err := l.Publish(shop, note(t.Context(), "a", "lost"))
	if !isUnknown(err) || isRefused(err) {
		t.Fatalf("unknown is told as %v", err)
	}
	if err := l.Publish(shop, note(t.Context(), "a", "next")); err != nil {
		t.Fatal(err)
	}
	found := stored(t, l, shop)
	n := spread("a", 3)
	if len(found[n]) != 2 || string(found[n][0].payload) != "lost" || string(found[n][1].payload) != "next" {
		t.Errorf("stored are %q, want lost and next once each, in order", bodies(found))
	}
}

func TestARequestThatIsEatenIsUnknownAndNotSentAgain(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop)
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		return nil, errors.New("eaten"), true // ends the connection
	})
	if err := l.Publish(shop, note(t.Context(), "a", "eaten")); !isUnknown(err) {
		t.Fatalf("unknown is told as %v", err)
	}
	if err := l.Publish(shop, note(t.Context(), "a", "next")); err != nil {
		t.Fatal(err)
	}
	if got := bodies(stored(t, l, shop)); !slices.Equal(got, []string{"next"}) {
		t.Errorf("stored are %q, want next only", got)
	}
}

// A broker that answers and does not say what it did with the partition has said nothing.
func TestAnAnswerThatDoesNotNameThePartitionLeavesTheResultUnknown(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop)
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		return req.ResponseKind(), nil, true
	})
	if err := l.Publish(shop, note(t.Context(), "a", "unnamed")); !isUnknown(err) || isRefused(err) {
		t.Fatalf("unknown is told as %v", err)
	}
	if err := l.Publish(shop, note(t.Context(), "a", "next")); err != nil {
		t.Fatal(err)
	}
	if got := bodies(stored(t, l, shop)); !slices.Equal(got, []string{"next"}) {
		t.Errorf("stored are %q, want next only", got)
	}
}

func TestWhatNeverLeftIsNotUnknown(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop)
	announce(k, shop, 7)
	l.client.refresh()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for range 5 {
		if err := l.Publish(shop, note(ctx, "a", "x")); err == nil || isUnknown(err) || isRefused(err) {
			t.Errorf("%v", err)
		}
	}
	if worth(t, l.metrics.requests) == 0 {
		t.Error("nothing was tried")
	}
}

func TestARequestThatIsCancelledBeforeItIsWrittenNeverIs(t *testing.T) {
	t.Parallel()
	r := &request{}
	b := &batch{request: r, records: make([]protocol.Record, 2)}
	if !r.state.CompareAndSwap(unwritten, cancelled) {
		t.Fatal("it is written")
	}
	if _, err := b.ReadRecord(); !errors.Is(err, errCancelled) {
		t.Errorf("%v", err)
	}
	other := &request{}
	b = &batch{request: other, records: make([]protocol.Record, 2)}
	for range 2 {
		if _, err := b.ReadRecord(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.ReadRecord(); !errors.Is(err, io.EOF) || other.state.CompareAndSwap(unwritten, cancelled) {
		t.Errorf("%v, in state %d", err, other.state.Load())
	}
}

func TestAfterAnUnknownResultThePartitionWaitsForItsLeader(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop)
	var asked, before atomic.Bool
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("eaten"), true })
	if err := l.Publish(shop, note(t.Context(), "a", "x")); !isUnknown(err) {
		t.Fatalf("unknown is told as %v", err)
	}
	// To ask is not enough: the first question is not answered.
	k.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("eaten"), true })
	k.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) { asked.Store(true); return nil, nil, false })
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { before.Store(!asked.Load()); return nil, nil, false })
	if err := l.Publish(shop, note(t.Context(), "a", "y")); err != nil {
		t.Fatal(err)
	}
	if before.Load() || !asked.Load() {
		t.Error("the next request did not wait for the leader's answer")
	}
}

func TestCodesThatTellWhetherABatchIsStored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code   kafka.Error
		offset int64
		want   int
	}{
		{kafka.MessageSizeTooLarge, -1, refuse}, {kafka.RecordListTooLarge, -1, refuse}, {kafka.InvalidRecord, -1, refuse}, {kafka.InvalidTimestamp, -1, refuse},
		{kafka.TopicAuthorizationFailed, -1, denied}, {kafka.ClusterAuthorizationFailed, -1, denied},
		{kafka.NotLeaderForPartition, -1, again}, {kafka.LeaderNotAvailable, -1, again}, {kafka.NotEnoughReplicas, -1, again}, {kafka.UnknownTopicOrPartition, -1, again},
		{kafka.NotLeaderForPartition, 17, doubt}, // written by a leader that is none any more
		{kafka.UnknownTopicOrPartition, 0, doubt},
		{kafka.NotEnoughReplicasAfterAppend, -1, doubt}, {kafka.RequestTimedOut, -1, doubt}, {kafka.KafkaStorageError, -1, doubt}, {kafka.Unknown, -1, doubt}, {kafka.NetworkException, -1, doubt},
	} {
		if got := meaning(c.code, c.offset); got != c.want {
			t.Errorf("%v at offset %d means %d, want %d", c.code, c.offset, got, c.want)
		}
	}
}

func TestCodesOfTheBrokerReachTheCaller(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code             kafka.Error
		refused, unknown bool
	}{
		{kafka.InvalidRecord, true, false}, {kafka.MessageSizeTooLarge, true, false},
		{kafka.NotEnoughReplicasAfterAppend, false, true}, {kafka.RequestTimedOut, false, true}, {kafka.Unknown, false, true},
		{kafka.TopicAuthorizationFailed, false, false},
	} {
		t.Run(c.code.Title(), func(t *testing.T) {
			t.Parallel()
			k := cluster(t, 1)
			l := opened(t, at(k))
			ensured(t, l, shop)
			requests := 0
			k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				k.KeepControl()
				requests++
				return refusal(req, c.code), nil, true
			})
			err := l.Publish(shop, note(t.Context(), "a", "x"))
			if err == nil || isRefused(err) != c.refused || isUnknown(err) != c.unknown || !errors.Is(err, c.code) && !c.refused {
				t.Errorf("refused %v, unknown %v: %v", isRefused(err), isUnknown(err), err)
			}
			if requests != 1 {
				t.Errorf("it was sent %d times", requests)
			}
		})
	}
}

func TestWhatIsCertainlyNotStoredIsSentAgain(t *testing.T) {
	t.Parallel()
	for _, code := range []kafka.Error{kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.NotEnoughReplicas} {
		t.Run(code.Title(), func(t *testing.T) {
			t.Parallel()
			k := cluster(t, 2)
			l := opened(t, at(k))
			ensured(t, l, shop)
			left := 3
			k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				k.KeepControl()
				if left--; left < 0 {
					return nil, nil, false
				}
				return refusal(req, code), nil, true
			})
			ms := make([]*message.Message, 30)
			for i := range ms {
				ms[i] = note(t.Context(), named("a", i), fmt.Sprintf("a/%02d", i))
			}
			if err := l.Publish(shop, ms...); err != nil {
				t.Fatal(err)
			}
			if got := bodies(stored(t, l, shop)); len(got) != 30 || len(slices.Compact(got)) != 30 {
				t.Errorf("%d records are stored, want 30", len(got))
			}
		})
	}
}

func TestWhatWaitsDoesNotOvertakeWhatIsSentAgain(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.PartitionKey = func(*message.Message) string { return "one" }
	l := opened(t, c)
	ensured(t, l, shop)
	g, first := newGate(), true
	t.Cleanup(g.release)
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if !first {
			return nil, nil, false
		}
		first = false
		g.arrived <- struct{}{}
		k.SleepControl(func() { <-g.open })
		return refusal(req, kafka.NotEnoughReplicas), nil, true
	})
	var publishing sync.WaitGroup
	for i := range 5 {
		publishing.Go(func() {
			if err := l.Publish(shop, note(t.Context(), named("id", i), fmt.Sprintf("one/%02d", i))); err != nil {
				t.Error(err)
			}
		})
		if i == 0 {
			<-g.arrived
		}
		until(t, "it is in the queue", func() bool { l.publish.mu.Lock(); defer l.publish.mu.Unlock(); return l.publish.open == i+1 })
	}
	g.release()
	publishing.Wait()
	found := stored(t, l, shop)
	if got := bodies(found); len(got) != 5 {
		t.Errorf("stored are %q", got)
	}
	inOrder(t, found)
}

func TestSendingAgainEndsWithTheMessage(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop)
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		return refusal(req, kafka.NotEnoughReplicas), nil, true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := l.Publish(shop, note(ctx, "a", "x"))
	if !errors.Is(err, context.DeadlineExceeded) || isRefused(err) {
		t.Errorf("%v", err)
	}
	if got := stored(t, l, shop); len(bodies(got)) != 0 {
		t.Errorf("stored are %q", bodies(got))
	}
}

func TestNoMessageIsLostOrOvertakenWhenLeadersMove(t *testing.T) {
	t.Parallel()
	k := cluster(t, 3)
	requests, moves := 0, 0
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if requests++; requests%7 == 0 {
			if err := k.MoveTopicPartition(shop, int32(moves%3), int32((moves+moves/3)%3)); err != nil {
				t.Error(err)
			}
			moves++
		}
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				if k.LeaderFor(topic.Topic, p.Partition) != k.CurrentNode() {
					return refusal(req, kafka.NotLeaderForPartition), nil, true
				}
			}
		}
		return nil, nil, false
	})
	c := at(k)
	c.PartitionKey = byKey
	l := opened(t, c)
	ensured(t, l, shop)
	var publishing sync.WaitGroup
	for who := range 8 {
		publishing.Go(func() {
			for i := range 60 {
				if err := l.Publish(shop, note(t.Context(), fmt.Sprintf("%d-%06d", who, i), fmt.Sprintf("%d/%06d", who, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishing.Wait()
	found := stored(t, l, shop)
	if got := bodies(found); len(got) != 480 || len(slices.Compact(got)) != 480 {
		t.Errorf("%d records are stored, want 480", len(got))
	}
	if moves < 5 {
		t.Errorf("the partitions moved %d times", moves)
	}
	inOrder(t, found)
}
