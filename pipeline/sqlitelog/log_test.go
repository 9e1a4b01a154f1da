package sqlitelog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

const topic = "events.stripe"

func all(string) bool { return true }

func msg(uuid, payload string) *message.Message {
	m := message.NewMessage(uuid, []byte(payload))
	m.Metadata.Set("key", uuid[:1])
	return m
}

func publish(t testing.TB, l *sqlitelog.Log, ms ...*message.Message) {
	t.Helper()
	if err := l.Publish(topic, ms...); err != nil {
		t.Fatal(err)
	}
}

func subscribe(t testing.TB, l *sqlitelog.Log, c sqlitelog.SubscriberConfig) (<-chan *message.Message, *sqlitelog.Subscriber) {
	t.Helper()
	s, err := l.Subscriber(c)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Subscribe(t.Context(), topic)
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
	case <-time.After(20 * time.Second):
		t.Fatal("no message came")
	}
	return nil
}

// until waits for a condition that other goroutines bring about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

func lag(t testing.TB, l *sqlitelog.Log, group string) int64 {
	t.Helper()
	n, _, err := l.Lag(t.Context(), topic, group)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// place is the offset up to which the group has written that it has finished.
func place(t testing.TB, l *sqlitelog.Log, group string) int64 {
	t.Helper()
	return l.Written(topic, group)
}

func isConflict(err error) bool {
	c, ok := errors.AsType[interface {
		error
		Conflict() bool
	}](err)
	return ok && c.Conflict()
}

func isRefused(err error) bool {
	c, ok := errors.AsType[interface {
		error
		Refused() bool
	}](err)
	return ok && c.Refused()
}

func TestUniqueTopicStoresAnIdentityOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var duplicates atomic.Int64
	config := sqlitelog.Config{
		Unique:      func(topic string) bool { return topic != "dead.r" },
		OnDuplicate: func(string, string) { duplicates.Add(1) },
	}
	l := open(t, dir, config)
	publish(t, l, msg("a", "1"), msg("b", "2"))
	publish(t, l, msg("a", "1"))
	publish(t, l, msg("c", "3"), msg("b", "2"), msg("c", "3"))
	if err := l.Publish(topic, msg("d", "4"), msg("a", "other")); !isConflict(err) {
		t.Fatalf("another payload under a known UUID: %v, want a conflict", err)
	}
	if err := l.Publish(topic, msg("e", "1"), msg("e", "2")); !isConflict(err) {
		t.Fatalf("two payloads under one UUID in one call: %v, want a conflict", err)
	}
	publish(t, l, msg("d", "5")) // nothing of the refused call was stored
	until(t, "duplicates", func() bool { return duplicates.Load() == 3 })
	if err := l.Publish("events.other", msg("a", "elsewhere")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Publish("dead.r", msg("a", "x")); err != nil {
			t.Fatal(err)
		}
	}
	for topic, want := range map[string]int64{topic: 4, "events.other": 1, "dead.r": 2} {
		if n, _, err := l.Lag(t.Context(), topic, "nobody"); err != nil || n != want {
			t.Errorf("%s holds %d records, %v; want %d", topic, n, err, want)
		}
	}
}

func TestIdentitiesSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 {
		t.Run("", func(t *testing.T) {
			l := open(t, dir, sqlitelog.Config{Unique: all})
			publish(t, l, msg("a", "1"), msg("b", "2"))
			if err := l.Publish(topic, msg("a", "2")); !isConflict(err) {
				t.Errorf("got %v, want a conflict", err)
			}
			if n := lag(t, l, "nobody"); n != 2 {
				t.Errorf("%d records, want 2", n)
			}
		})
	}
}

func TestSameIdentityFromManyAtOnceIsOneRecord(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{Unique: all})
	var wg sync.WaitGroup
	var conflicts atomic.Int64
	for i := range 50 {
		wg.Go(func() {
			payload := "same"
			if i%5 == 0 {
				payload = "other"
			}
			if err := l.Publish(topic, msg("x", payload)); isConflict(err) {
				conflicts.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := lag(t, l, "nobody"); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
	if c := conflicts.Load(); c != 10 && c != 40 {
		t.Errorf("%d conflicts, want all of one payload", c)
	}
}

func TestTooLargeIsRefusedAndItsNeighboursAreStored(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{MaxRecord: 1000})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			m := msg(fmt.Sprint(i), "small")
			if i == 4 {
				m.Payload = bytes.Repeat([]byte("x"), 1001)
			}
			if err := l.Publish(topic, m); isRefused(err) != (i == 4) || (err != nil) != (i == 4) {
				t.Errorf("message %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := lag(t, l, "nobody"); n != 9 {
		t.Errorf("%d records, want 9", n)
	}
}

func TestPublishEndsWithTheMessagesContext(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := msg("a", "1")
	m.SetContext(ctx)
	if err := l.Publish(topic, msg("b", "2"), m); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context canceled", err)
	}
}

func TestRecordsComeBackBitForBit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	payload := make([]byte, 100_000)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	metadata := message.Metadata{"": "", "ключ": "значение\x00\xff", "long": string(payload[:5000])}
	for _, publishing := range []bool{true, false} { // from memory, then from the file
		t.Run("", func(t *testing.T) {
			l := open(t, dir, sqlitelog.Config{})
			out, _ := subscribe(t, l, sqlitelog.SubscriberConfig{Group: fmt.Sprint(publishing)})
			if publishing {
				m := message.NewMessage("u", payload)
				m.Metadata = metadata
				publish(t, l, m, message.NewMessage("", nil))
			}
			m := receive(t, out)
			if m.UUID != "u" || !bytes.Equal(m.Payload, payload) || len(m.Metadata) != len(metadata) {
				t.Fatal("the message is not what was published")
			}
			for k, v := range metadata {
				if m.Metadata.Get(k) != v {
					t.Errorf("metadata %q changed", k)
				}
			}
			m.Ack()
			if m = receive(t, out); m.UUID != "" || len(m.Payload) != 0 || len(m.Metadata) != 0 {
				t.Error("the empty message is not empty")
			}
			m.Ack()
			got, err := l.Get(t.Context(), topic, 0)
			if err != nil || !bytes.Equal(got.Payload, payload) {
				t.Errorf("get: %v", err)
			}
			if _, err := l.Get(t.Context(), topic, 2); err == nil {
				t.Error("got a record that is not there")
			}
		})
	}
}

type preparedKey struct{}
type subscribedKey struct{}

func TestEveryGroupSeesWhatPrepareLeft(t *testing.T) {
	t.Parallel()
	var prepared atomic.Int64
	l := open(t, t.TempDir(), sqlitelog.Config{Prepare: func(m *message.Message, topic string, partition int32, offset int64) {
		prepared.Add(1)
		m.SetContext(context.WithValue(m.Context(), preparedKey{}, fmt.Sprintf("%s/%d/%d", topic, partition, offset)))
	}})
	var outs []<-chan *message.Message
	for g := range 5 {
		s, err := l.Subscriber(sqlitelog.SubscriberConfig{Group: fmt.Sprint(g)})
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Subscribe(context.WithValue(t.Context(), subscribedKey{}, "mine"), topic)
		if err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out)
	}
	publish(t, l, msg("a", "1"))
	for _, out := range outs {
		m := receive(t, out)
		if got := m.Context().Value(preparedKey{}); got != topic+"/0/0" {
			t.Errorf("prepared value is %v", got)
		}
		if got := m.Context().Value(subscribedKey{}); got != "mine" {
			t.Errorf("subscription's value is %v", got)
		}
		m.Metadata.Set("key", "changed by one group")
		m.Ack()
		<-m.Context().Done()
	}
	if n := prepared.Load(); n != 1 {
		t.Errorf("prepared %d times, want once", n)
	}
	if m, err := l.Get(t.Context(), topic, 0); err != nil || m.Metadata.Get("key") != "a" {
		t.Error("one group's change reached the log")
	}
}

func TestNackedComesAgainBeforeYoungerOnesOfItsKeyWhileOthersGoOn(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{NackDelay: 20 * time.Millisecond})
	out, _ := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g", InHand: 2, Key: func(m *message.Message) string { return m.Metadata.Get("key") }})
	publish(t, l, msg("a1", ""), msg("a2", ""), msg("b1", ""), msg("b2", ""), msg("b3", ""))
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
	until(t, "no lag", func() bool { return lag(t, l, "g") == 0 })
}

func TestPlaceCoversOnlyTheContiguousPrefix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Run("ack all but the second", func(t *testing.T) {
		l := open(t, dir, sqlitelog.Config{CloseTimeout: time.Millisecond})
		publish(t, l, msg("a", ""), msg("b", ""), msg("c", ""), msg("d", ""))
		out, _ := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g", InHand: 4, Key: func(*message.Message) string { return "" }})
		for range 4 {
			if m := receive(t, out); m.UUID != "b" {
				m.Ack()
			}
		}
		until(t, "one left", func() bool { return lag(t, l, "g") == 1 })
	})
	t.Run("the second and what is behind it come again", func(t *testing.T) {
		l := open(t, dir, sqlitelog.Config{})
		out, _ := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g"})
		for _, want := range []string{"b", "c", "d"} {
			m := receive(t, out)
			if m.UUID != want {
				t.Errorf("got %s, want %s", m.UUID, want)
			}
			m.Ack()
		}
	})
	t.Run("then nothing", func(t *testing.T) {
		l := open(t, dir, sqlitelog.Config{})
		if n := lag(t, l, "g"); n != 0 {
			t.Errorf("%d left", n)
		}
	})
}

func TestLateAckOfAClosedSubscriptionIsIgnored(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{CloseTimeout: time.Millisecond})
	publish(t, l, msg("a", ""), msg("b", ""))
	for range 20 {
		out, s := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g"})
		m := receive(t, out)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if m.UUID != "a" {
			t.Fatalf("got %s: an ack that came too late was counted", m.UUID)
		}
		if m.Context().Err() == nil {
			t.Error("the message's context outlives its subscription")
		}
		m.Ack()
		if n := lag(t, l, "g"); n != 2 {
			t.Fatalf("lag is %d, want 2", n)
		}
	}
}

func TestClosingWaitsForWhatIsInHand(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{})
	publish(t, l, msg("a", ""), msg("b", ""), msg("c", ""))
	out, s := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g", InHand: 2, Key: func(*message.Message) string { return "" }})
	first := receive(t, out)
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	for range out { // what was not taken in time is not handed out any more
	}
	if first.Context().Err() != nil {
		t.Error("the message in hand was cancelled")
	}
	first.Ack()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if n := lag(t, l, "g"); n > 2 {
		t.Errorf("lag is %d: the ack during closing was not counted", n)
	}
}

func TestSecondSubscriberOfAGroupTakesOver(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{})
	one, s1 := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g"})
	two, _ := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g"})
	publish(t, l, msg("a", ""), msg("b", ""))
	receive(t, one).Ack()
	m := receive(t, one)
	select {
	case m := <-two:
		t.Fatalf("both subscribers of one group get records: %s", m.UUID)
	default:
	}
	m.Ack()
	publish(t, l, msg("c", ""))
	receive(t, one).Nack()
	if err := s1.Close(); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, two); m.UUID != "c" {
		t.Errorf("got %s, want c", m.UUID)
	} else {
		m.Ack()
	}
}

func TestGroupFromTheEndKeepsItsPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Run("subscribe", func(t *testing.T) {
		l := open(t, dir, sqlitelog.Config{})
		publish(t, l, msg("a", ""))
		_, s := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g", FromEnd: true})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		publish(t, l, msg("b", ""))
	})
	t.Run("and find what came since", func(t *testing.T) {
		l := open(t, dir, sqlitelog.Config{})
		out, _ := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g", FromEnd: true})
		m := receive(t, out)
		if m.UUID != "b" {
			t.Errorf("got %s, want b", m.UUID)
		}
		m.Ack()
	})
}
