package kafkalog

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Another member that does not come back holds up the group; closing does not wait for that.
func TestClosingDoesNotWaitForAGroupThatCannotBeJoined(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, alone(k))
	ensured(t, l, orders)
	g := newGate()
	t.Cleanup(g.release)
	k.ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		g.arrived <- struct{}{}
		k.SleepControl(func() { <-g.open })
		return nil, nil, false
	})
	_, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	<-g.arrived
	began := time.Now()
	closed(t, s)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("closing took %s", d)
	}
}

func TestClosingIsQuick(t *testing.T) {
	t.Parallel()
	c := alone(cluster(t, 1))
	c.CloseTimeout = 300 * time.Millisecond
	l := opened(t, c)
	ensured(t, l, orders)
	for _, busy := range []bool{false, true} {
		out, s := subscribe(t, l, SubscriberConfig{Group: "g"})
		until(t, "it is a member", func() bool { return s.membership().State == stateMember })
		if busy {
			add(t, l, msg("a", ""))
			receive(t, out) // never acked
		}
		began := time.Now()
		closed(t, s)
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("closing took %s; busy: %v", d, busy)
		}
		if held, windows := l.reader.held.Load(), l.reader.windows.Load(); held != 0 || windows != 0 {
			t.Errorf("busy: %v: %d bytes count as held, %d as in windows", busy, held, windows)
		}
	}
}

// Who subscribes to one more topic joins the group anew; a message of another topic that nobody finishes holds that up no longer than a close.
func TestATopicThatComesLaterDoesNotWaitForWhatNobodyFinishes(t *testing.T) {
	t.Parallel()
	c := alone(cluster(t, 1))
	c.CloseTimeout = 300 * time.Millisecond
	l := opened(t, c)
	ensured(t, l, orders)
	out, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	add(t, l, msg("a", ""))
	receive(t, out) // never acked
	const more = "events.more"
	two, err := s.Subscribe(t.Context(), more)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Publish(more, msg("b", "")); err != nil {
		t.Fatal(err)
	}
	receive(t, two).Ack()
	if m := receive(t, out); m.UUID != "a" {
		t.Errorf("%s came again", m.UUID)
	}
	closed(t, s)
}

// goroutines that subscribers leave behind are found by the leak check of the package; this says that none add up while the log lives.
func TestSubscribersThatComeAndGoLeaveNothing(t *testing.T) {
	t.Parallel()
	l := opened(t, alone(cluster(t, 1)))
	ensured(t, l, orders)
	var all sync.WaitGroup
	for w := range 20 {
		all.Go(func() {
			for i := range 50 {
				s, err := l.Subscriber(SubscriberConfig{Group: fmt.Sprint(w)})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := s.Subscribe(t.Context(), orders); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					until(t, "it is a member", func() bool { return s.membership().State == stateMember })
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := len(l.subscribers()); n != 0 {
		t.Errorf("%d subscribers are left", n)
	}
	if fs := l.reader.all(); len(fs) != 0 {
		t.Errorf("%d partitions are still read", len(fs))
	}
	if n := l.reader.held.Load(); n != 0 {
		t.Errorf("%d bytes count as held", n)
	}
	if n := l.reader.windows.Load(); n != 0 {
		t.Errorf("%d bytes count as in windows", n)
	}
}
