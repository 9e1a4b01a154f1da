package sqlitelog_test

import (
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

// Many keys, random delays and nacks, several rounds of closing and opening: per key the first deliveries are in order, the place
// never falls, and in the end everything was acked.
func TestKeysStayInOrderWhateverHappens(t *testing.T) {
	t.Parallel()
	const keys, each = 8, 60
	l := open(t, t.TempDir(), sqlitelog.Config{NackDelay: time.Millisecond, NackDelayMax: 3 * time.Millisecond, TailRecords: 20, CloseTimeout: 50 * time.Millisecond})
	var publishers sync.WaitGroup
	publishers.Go(func() {
		for n := range each {
			for k := range keys {
				m := message.NewMessage(fmt.Sprintf("%d-%d", k, n), nil)
				m.Metadata.Set("key", fmt.Sprint(k))
				if err := l.Publish(topic, m); err != nil {
					t.Error(err)
				}
			}
		}
	})
	defer publishers.Wait()
	var mu sync.Mutex
	newest := make(map[string]int)
	inHand := make(map[string]bool)
	acked := make(map[string]bool)
	before := int64(0)
	// What was acked behind a message that was not comes again after a restart, and may be nacked then: it is over when nothing is left.
	for len(acked) < keys*each || lag(t, l, "g") > 0 {
		out, s := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g", InHand: 5, Key: func(m *message.Message) string { return m.Metadata.Get("key") }})
		var handlers sync.WaitGroup
		for taken := 0; taken < 100; taken++ {
			var m *message.Message
			until(t, "a message or the end", func() bool {
				select {
				case m = <-out:
					return true
				default:
				}
				mu.Lock()
				defer mu.Unlock()
				return len(acked) == keys*each
			})
			if m == nil {
				break
			}
			var n int
			key := m.Metadata.Get("key")
			fmt.Sscanf(m.UUID[2:], "%d", &n)
			mu.Lock()
			if n > newest[key] {
				t.Errorf("key %s: %d came before %d was acked", key, n, newest[key])
			}
			if inHand[key] {
				t.Errorf("key %s is in hand twice", key)
			}
			inHand[key] = true
			mu.Unlock()
			handlers.Go(func() {
				<-time.After(time.Duration(rand.IntN(1500)) * time.Microsecond) // a handler's work
				mu.Lock()
				defer mu.Unlock()
				inHand[key] = false
				if rand.IntN(4) == 0 {
					m.Nack()
					return
				}
				acked[m.UUID] = true
				newest[key] = max(newest[key], n+1)
				m.Ack()
			})
		}
		handlers.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		now := place(t, l, "g")
		if now < before {
			t.Errorf("the place fell from %d to %d", before, now)
		}
		before = now
	}
	if n := lag(t, l, "g"); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestHundredGroupsEachGetTheirOwn(t *testing.T) {
	t.Parallel()
	const groups, records = 100, 2000
	l := open(t, t.TempDir(), sqlitelog.Config{TailRecords: 100})
	var got [groups]atomic.Int64
	var consumers sync.WaitGroup
	var subs []*sqlitelog.Subscriber
	for g := range groups {
		out, s := subscribe(t, l, sqlitelog.SubscriberConfig{
			Group: fmt.Sprint(g), InHand: 4, Key: func(*message.Message) string { return "" },
			Match: func(m *message.Message) bool { return m.Metadata.Get("to") == fmt.Sprint(g) },
		})
		subs = append(subs, s)
		consumers.Go(func() {
			for m := range out {
				got[g].Add(1)
				m.Ack()
			}
		})
	}
	var publishers sync.WaitGroup
	for w := range 8 {
		publishers.Go(func() {
			for i := w; i < records; i += 8 {
				m := message.NewMessage(fmt.Sprint(i), []byte("x"))
				m.Metadata.Set("to", fmt.Sprint(i%groups))
				if err := l.Publish(topic, m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishers.Wait()
	for g := range groups {
		until(t, "no lag", func() bool { return lag(t, l, fmt.Sprint(g)) == 0 })
		if n := got[g].Load(); n != records/groups {
			t.Errorf("group %d got %d, want %d", g, n, records/groups)
		}
	}
	for _, s := range subs {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	consumers.Wait()
}

func TestRetentionKeepsWhatAGroupHasNotFinished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := sqlitelog.Config{Unique: all, CommitEvery: time.Millisecond}
	t.Run("remove", func(t *testing.T) {
		l := open(t, dir, config)
		for i := range 2000 {
			publish(t, l, msg(fmt.Sprint(i), "x"))
		}
		out, s := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "slow"})
		for range 700 {
			receive(t, out).Ack()
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if removed, _, err := l.Retain(t.Context(), nil, time.Now().Add(-time.Hour), nil); err != nil || removed != 0 {
			t.Fatalf("removed %d young records, %v", removed, err)
		}
		future := time.Now().Add(time.Hour)
		removed, held, err := l.Retain(t.Context(), nil, future, []string{"slow", "never subscribed"})
		if err != nil || removed != 700 || held != 1299 {
			t.Fatalf("removed %d, held %d, %v; want 700, 1299", removed, held, err)
		}
		if removed, held, err = l.Retain(t.Context(), nil, future, nil); err != nil || removed != 1299 || held != 0 {
			t.Fatalf("removed %d, held %d, %v; want 1299, 0", removed, held, err)
		}
		publish(t, l, msg("1999", "x")) // the newest is kept, and known
		publish(t, l, msg("5", "y"))    // this one is gone, so it is new
	})
	t.Run("offsets go on", func(t *testing.T) {
		l := open(t, dir, config)
		if m, err := l.Get(t.Context(), topic, 2000); err != nil || m.UUID != "5" {
			t.Errorf("got %v, %v", m, err)
		}
		if n := lag(t, l, "slow"); n != 2 {
			t.Errorf("the slow group has %d before it, want 2", n)
		}
		out, _ := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "slow"})
		m := receive(t, out)
		if m.UUID != "1999" {
			t.Errorf("got %s, want 1999", m.UUID)
		}
		m.Ack()
	})
}

func TestClosedLogTakesNothing(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{})
	out, s := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-out; ok {
		t.Error("a message came out of a closed log")
	}
	if err := l.Publish(topic, msg("a", "")); !errors.Is(err, sqlitelog.ErrClosed) {
		t.Errorf("publish: %v", err)
	}
	if _, err := s.Subscribe(t.Context(), topic); err == nil {
		t.Error("subscribed to a closed log")
	}
	if _, err := l.Subscriber(sqlitelog.SubscriberConfig{Group: "g"}); !errors.Is(err, sqlitelog.ErrClosed) {
		t.Errorf("subscriber: %v", err)
	}
}
