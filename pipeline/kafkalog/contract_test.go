package kafkalog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// neutral is what a log promises whatever client it speaks to the brokers with.
type neutral interface {
	message.Publisher
	Ensure(ctx context.Context, topics ...string) error
	Subscriber(c SubscriberConfig) (message.Subscriber, error)
}

var (
	_ neutral = onKafkaGo{}
	_ neutral = (*kgoLog)(nil)
)

// onKafkaGo is the log itself.
type onKafkaGo struct{ *Log }

func (l onKafkaGo) Subscriber(c SubscriberConfig) (message.Subscriber, error) {
	return l.Log.Subscriber(c)
}

// opener opens a log, which is closed with the test.
type opener func(t *testing.T, c Config) neutral

// clients are the logs that keep the contract.
func clients() map[string]opener {
	return map[string]opener{
		"kafka-go": func(t *testing.T, c Config) neutral { return onKafkaGo{opened(t, c)} },
		"franz-go": func(t *testing.T, c Config) neutral {
			t.Helper()
			l, err := openKgo(c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return l
		},
	}
}

// onEach runs a test of the contract with each client.
func onEach(t *testing.T, test func(t *testing.T, open opener)) {
	t.Parallel()
	for name, open := range clients() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open)
		})
	}
}

// bed is one client's log on brokers in this process, with a topic; and the log itself beside it, which tells what the cluster holds.
type bed struct {
	neutral
	judge *Log
}

func newBed(t *testing.T, open opener, c Config) bed {
	t.Helper()
	b := bed{open(t, c), opened(t, c)}
	if err := b.Ensure(t.Context(), orders, shop); err != nil {
		t.Fatal(err)
	}
	ensured(t, b.judge, orders, shop)
	return b
}

func (b bed) add(t *testing.T, ms ...*message.Message) {
	t.Helper()
	if err := b.Publish(orders, ms...); err != nil {
		t.Fatal(err)
	}
}

// reads is subscribe for any log.
func reads(t *testing.T, l neutral, c SubscriberConfig) (<-chan *message.Message, message.Subscriber) {
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

func ended(t *testing.T, s message.Subscriber) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWatermillSuite(t *testing.T) {
	for name, open := range clients() {
		t.Run(name, func(t *testing.T) {
			c := at(cluster(t, 2))
			c.Partitions = 1 // the suite asks for the order of all messages
			watermillSuite(t, open(t, hurried(c)), nil)
		})
	}
}

func TestPublishStoresEverything(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		c := at(cluster(t, 3))
		c.PartitionKey = byKey
		l := newBed(t, open, c)
		var want []string
		var publishing sync.WaitGroup
		for who := range 20 {
			for i := range 50 {
				want = append(want, fmt.Sprintf("%d/%02d", who, i))
			}
			publishing.Go(func() {
				for i := range 50 {
					if err := l.Publish(shop, note(t.Context(), fmt.Sprintf("%d-%02d", who, i), fmt.Sprintf("%d/%02d", who, i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		publishing.Wait()
		found := stored(t, l.judge, shop)
		slices.Sort(want)
		if got := bodies(found); !slices.Equal(got, want) {
			t.Errorf("%d records are stored, want %d", len(got), len(want))
		}
		inOrder(t, found)
	})
}

func TestEveryProduceRequestAsksForAllReplicas(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		k := cluster(t, 2)
		var requests, wrong atomic.Int64
		k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			k.KeepControl()
			requests.Add(1)
			if req.(*kmsg.ProduceRequest).Acks != -1 {
				wrong.Add(1)
			}
			return nil, nil, false
		})
		l := newBed(t, open, at(k))
		for i := range 50 {
			if err := l.Publish(shop, note(t.Context(), named("id", i), "x")); err != nil {
				t.Fatal(err)
			}
		}
		if requests.Load() < 50 || wrong.Load() > 0 {
			t.Errorf("%d of %d requests do not ask for all replicas", wrong.Load(), requests.Load())
		}
	})
}

func TestNackedComesAgainBeforeYoungerOnesOfItsKeyWhileOthersGoOn(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		c := alone(cluster(t, 1))
		c.NackDelay, c.NackDelayMax = 20*time.Millisecond, time.Second
		l := newBed(t, open, c)
		l.add(t, msg("a1", ""), msg("a2", ""), msg("b1", ""), msg("b2", ""), msg("b3", ""))
		out, _ := reads(t, l, SubscriberConfig{Group: "g", InHand: 2, Key: keyed})
		var got []string
		nacks := 3
		for len(got) < 5 {
			m := receive(t, out)
			if m.UUID == "a1" && nacks > 0 {
				nacks--
				m.Nack()
				continue
			}
			got = append(got, m.UUID)
			m.Ack()
		}
		if fmt.Sprint(got) != "[b1 b2 b3 a1 a2]" {
			t.Errorf("finished in the order %v", got)
		}
		until(t, "no lag", func() bool { return behind(t, l.judge, "g") == 0 })
	})
}

// A repeat of an event has no key in common with the first one when routes order by nothing; it still waits.
func TestEqualUUIDsAreNeverInHandTogether(t *testing.T) {
	for name, key := range map[string]func(*message.Message) string{
		"no order": unordered,
		"a key each": func(m *message.Message) string {
			return string(m.Payload)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, open opener) {
				l := newBed(t, open, alone(cluster(t, 1)))
				l.add(t, msg("a", "1"), msg("a", "2"), msg("b", "3"), msg("a", "4"), msg("c", "5"))
				out, _ := reads(t, l, SubscriberConfig{Group: "g", InHand: 10, Key: key})
				first := receive(t, out)
				var others []string
				for range 2 {
					m := receive(t, out)
					others = append(others, m.UUID)
					m.Ack()
				}
				if first.UUID != "a" || fmt.Sprint(others) != "[b c]" {
					t.Fatalf("with %s in hand came %v", first.UUID, others)
				}
				first.Nack()
				for _, want := range []string{"1", "2", "4"} {
					m := receive(t, out)
					if string(m.Payload) != want {
						t.Errorf("got %s, want %s", m.Payload, want)
					}
					select {
					case other := <-out:
						t.Errorf("%s came while %s was in hand", other.Payload, want)
					default:
					}
					m.Ack()
				}
			})
		})
	}
}

func TestPlaceCoversOnlyTheContiguousPrefix(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		k := cluster(t, 1)
		fell := falls(k)
		c := alone(k)
		c.CloseTimeout = 100 * time.Millisecond
		l := newBed(t, open, c)
		l.add(t, msg("a", ""), msg("b", ""), msg("c", ""), msg("d", ""))
		out, s := reads(t, l, SubscriberConfig{Group: "g", InHand: 4, Key: unordered})
		for range 4 {
			if m := receive(t, out); m.UUID != "b" {
				m.Ack()
			}
		}
		until(t, "a is finished", func() bool { return placeOf(t, l.judge, "g", 0) == 1 })
		ended(t, s)
		if at := placeOf(t, l.judge, "g", 0); at != 1 {
			t.Errorf("the place is %d, want 1", at)
		}
		out, s = reads(t, l, SubscriberConfig{Group: "g"})
		for _, want := range []string{"b", "c", "d"} {
			m := receive(t, out)
			if m.UUID != want {
				t.Errorf("got %s, want %s", m.UUID, want)
			}
			m.Ack()
		}
		until(t, "all is finished", func() bool { return behind(t, l.judge, "g") == 0 })
		ended(t, s)
		if at := placeOf(t, l.judge, "g", 0); at != 4 {
			t.Errorf("the place is %d, want 4", at)
		}
		if fell.Load() != 0 {
			t.Error("a place fell")
		}
	})
}

func TestLateAckOfAClosedSubscriptionIsIgnored(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		c := alone(cluster(t, 1))
		c.CloseTimeout = time.Millisecond
		l := newBed(t, open, c)
		l.add(t, msg("a", ""), msg("b", ""))
		for range 5 {
			out, s := reads(t, l, SubscriberConfig{Group: "g"})
			m := receive(t, out)
			ended(t, s)
			if m.UUID != "a" {
				t.Fatalf("got %s: an ack that came too late was counted", m.UUID)
			}
			if m.Context().Err() == nil {
				t.Error("the message's context outlives its subscription")
			}
			m.Ack()
			if n := behind(t, l.judge, "g"); n != 2 {
				t.Fatalf("lag is %d, want 2", n)
			}
		}
	})
}

func TestClosingWaitsForWhatIsInHand(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		l := newBed(t, open, alone(cluster(t, 1)))
		l.add(t, msg("a", ""), msg("b", ""), msg("c", ""))
		out, s := reads(t, l, SubscriberConfig{Group: "g", InHand: 2, Key: unordered})
		first := receive(t, out)
		done := make(chan error)
		go func() { done <- s.Close() }()
		for range out { // what was not taken in time is not handed out any more
		}
		if first.Context().Err() == nil {
			t.Error("who only waits with the message is not told to give it back")
		}
		first.Ack()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if at := placeOf(t, l.judge, "g", 0); at < 1 {
			t.Errorf("the place is %d: the ack during closing was not written", at)
		}
	})
}

// One group reads from before the first record, one from the end, and what is published while nobody subscribes is not missed.
func TestWhereAGroupBegins(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		l := newBed(t, open, alone(cluster(t, 1)))
		l.add(t, msg("a", ""))
		s, err := l.Subscriber(SubscriberConfig{Group: "end", FromEnd: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.(message.SubscribeInitializer).SubscribeInitialize(orders); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		l.add(t, msg("b", ""))
		for group, want := range map[string]string{"end": "b", "start": "a"} {
			out, _ := reads(t, l, SubscriberConfig{Group: group, FromEnd: group == "end"})
			m := receive(t, out)
			if m.UUID != want {
				t.Errorf("group %s: got %s, want %s", group, m.UUID, want)
			}
			m.Ack()
		}
		out, _ := reads(t, l, SubscriberConfig{Group: "later", FromEnd: true})
		l.add(t, msg("c", "")) // Subscribe has returned, though the group may not have been joined
		if m := receive(t, out); m.UUID != "c" {
			t.Errorf("got %s, want c", m.UUID)
		}
		for _, group := range []string{"later", "start"} {
			until(t, "a place is fixed", func() bool { return placeOf(t, l.judge, group, 0) >= 0 })
		}
	})
}

// A record of ours that is not as it was written is reported once and finished; one of another program is handed out.
func TestDamageIsFinishedAndReported(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var told damages
		c := alone(cluster(t, 1))
		c.OnDamage = told.note
		l := newBed(t, open, c)
		raw(t, l.judge, protocol.Record{Value: protocol.NewBytes([]byte("x")), Headers: []protocol.Header{
			{Key: headerUUID, Value: []byte("a")}, {Key: headerSum, Value: []byte("00000000")},
		}})
		raw(t, l.judge, protocol.Record{Value: protocol.NewBytes([]byte("y"))})
		out, _ := reads(t, l, SubscriberConfig{Group: "g"})
		m := receive(t, out)
		if m.UUID != orders+"/0/1" || string(m.Payload) != "y" || told.String() != "[0]" {
			t.Errorf("got %s %q, damage %s", m.UUID, m.Payload, &told)
		}
		m.Ack()
		until(t, "both are finished", func() bool { return placeOf(t, l.judge, "g", 0) == 2 })
	})
}

// Three hubs come and go; what each key's records do is in order, one at a time, and nothing is lost. No place falls.
func TestHubsThatComeAndGoKeepTheOrderAndLoseNothing(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		const keys, each = 20, 60
		k := cluster(t, 3)
		fell := falls(k)
		c := lively(k)
		c.Partitions = 6
		c.SessionTimeout, c.RebalanceTimeout = 6*time.Second, 6*time.Second // for so long one that went without a goodbye holds up the others
		var hubs [3]neutral
		for i := range hubs {
			c.Instance = fmt.Sprint("hub-", i)
			hubs[i] = open(t, c)
		}
		judge := opened(t, c)
		ensured(t, judge, orders)
		led := newLedger(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var running sync.WaitGroup
		running.Go(func() {
			for n := range each {
				var ms []*message.Message
				for key := range keys {
					m := message.NewMessage(fmt.Sprintf("k%d-%d", key, n), nil)
					m.Metadata.Set("key", fmt.Sprint("k", key))
					ms = append(ms, m)
				}
				if err := hubs[0].Publish(orders, ms...); err != nil {
					t.Error(err)
				}
			}
		})
		var rounds [3]int
		for i, l := range hubs {
			running.Go(func() { rounds[i] = comeAndGo(ctx, t, l, led) })
		}
		until(t, "all are acked", func() bool { return led.done() == keys*each })
		until(t, "no lag", func() bool { return behind(t, judge, "g") == 0 })
		cancel()
		running.Wait()
		if fell.Load() != 0 {
			t.Errorf("a place fell %d times", fell.Load())
		}
		t.Logf("%d messages came again after they were acked; the hubs came and went %v times", led.dups, rounds)
	})
}

// comeAndGo subscribes and closes again and again, and stays in the end; it returns how often.
func comeAndGo(ctx context.Context, t *testing.T, l neutral, led *ledger) (rounds int) {
	for ; ctx.Err() == nil; rounds++ {
		s, err := l.Subscriber(SubscriberConfig{Group: "g", InHand: 8, Key: keyed})
		if err != nil {
			t.Error(err)
			return rounds
		}
		out, err := s.Subscribe(ctx, orders)
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			s.Close()
			return rounds
		}
		if rounds < 6 { // then it stays: on a slow machine nobody would get anything done
			stay := time.AfterFunc(time.Duration(200+rand.IntN(400))*time.Millisecond, func() { s.Close() })
			defer stay.Stop()
		}
		led.work(out)
		s.Close()
	}
	return rounds
}
