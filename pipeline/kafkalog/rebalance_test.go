package kafkalog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ledger is what the consumers of a test did, and what was wrong with it.
type ledger struct {
	t      *testing.T
	mu     sync.Mutex
	newest map[string]int // by key, the number after the last that was acked
	inHand map[string]int // by key, of messages whose context lives
	acked  map[string]bool
	dups   int
}

func newLedger(t *testing.T) *ledger {
	return &ledger{t: t, newest: make(map[string]int), inHand: make(map[string]int), acked: make(map[string]bool)}
}

// handle is a handler that takes a moment, gives up when its message does, and nacks now and then.
func (l *ledger) handle(m *message.Message) {
	var n int
	key := m.Metadata.Get("key")
	fmt.Sscanf(m.UUID, key+"-%d", &n)
	l.mu.Lock()
	if m.Context().Err() != nil {
		l.mu.Unlock()
		m.Nack()
		return // given back before it was begun
	}
	if n > l.newest[key] {
		l.t.Errorf("%s came before %s-%d was acked", m.UUID, key, l.newest[key])
	}
	if l.inHand[key]++; l.inHand[key] > 1 {
		l.t.Errorf("%s came while another of its key was in hand", m.UUID)
	}
	if l.acked[m.UUID] {
		l.dups++
	}
	l.mu.Unlock()
	work := time.NewTimer(time.Duration(rand.IntN(1000)) * time.Microsecond)
	defer work.Stop()
	select {
	case <-work.C:
	case <-m.Context().Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inHand[key]--
	if m.Context().Err() != nil || rand.IntN(10) == 0 {
		m.Nack()
		return
	}
	l.acked[m.UUID] = true
	l.newest[key] = max(l.newest[key], n+1)
	m.Ack()
}

func (l *ledger) done() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// work hands what comes out to a handler each until the channel closes.
func (l *ledger) work(out <-chan *message.Message) {
	var handlers sync.WaitGroup
	for m := range out {
		handlers.Go(func() { l.handle(m) })
	}
	handlers.Wait()
}

// disturb has the group's partitions shared out anew, by a member that comes and goes, and returns when it has gone.
func disturb(t *testing.T, l *Log) {
	t.Helper()
	s, err := l.Subscriber(SubscriberConfig{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Subscribe(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for m := range out {
			m.Nack()
		}
	}()
	until(t, "the other is a member", func() bool { return s.membership().State == stateMember })
	closed(t, s)
}

// Acks of generations that have ended do nothing, and what was handed out in them and not received is received no more.
func TestWhatADeadGenerationHandedOutIsDead(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	fell := falls(k)
	c := alone(k)
	c.CloseTimeout = time.Millisecond // nobody acks in time
	one, two := opened(t, c), opened(t, c)
	ensured(t, one, orders)
	for i := range 10 {
		add(t, one, msg(fmt.Sprintf("%c", 'a'+i), ""))
	}
	out, _ := subscribe(t, one, SubscriberConfig{Group: "g", InHand: 3, Key: unordered})
	for round := range 30 {
		m := receive(t, out)
		if m.UUID != "a" {
			t.Fatalf("round %d: got %s, so an ack of a dead generation was counted", round, m.UUID)
		}
		// Two more wait to be received while the generation ends.
		disturbed := make(chan struct{})
		go func() {
			defer close(disturbed)
			disturb(t, two)
		}()
		<-m.Context().Done()
		<-disturbed
		m.Ack()
		if at := placeOf(t, one, "g", 0); at > 0 {
			t.Fatalf("round %d: the place is %d", round, at)
		}
		for _, want := range []string{"a", "b", "c"} {
			m := receive(t, out)
			if m.UUID != want {
				t.Fatalf("round %d: got %s, want %s", round, m.UUID, want)
			}
			if m.Context().Err() != nil {
				t.Fatalf("round %d: %s was received though its generation had ended", round, m.UUID)
			}
			if want == "a" {
				defer m.Ack()
			}
		}
		disturb(t, two)
	}
	if fell.Load() != 0 {
		t.Error("a place fell")
	}
}

// While others wait for it the member waits for what is in hand: it is acked, committed, and not handed out again.
func TestAPartitionIsGivenBackWhenWhatIsInHandIsDone(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := alone(k)
	c.CloseTimeout = 5 * time.Second
	c.Instance = "hub-1"
	one := opened(t, c)
	c.Instance = "hub-2"
	two := opened(t, c)
	ensured(t, one, orders)
	add(t, one, msg("a", ""), msg("b", ""))
	out1, s1 := subscribe(t, one, SubscriberConfig{Group: "g"})
	m := receive(t, out1)
	out2, _ := subscribe(t, two, SubscriberConfig{Group: "g"})
	until(t, "the first has heard of it", func() bool {
		s1.mu.Lock()
		defer s1.mu.Unlock()
		for _, h := range s1.subs {
			h.s.mu.Lock()
			stopping := h.s.term != nil && h.s.term.stopping
			h.s.mu.Unlock()
			if stopping {
				return true
			}
		}
		return false
	})
	if m.Context().Err() == nil {
		t.Error("who only waits with the message is not told to give it back")
	}
	select {
	case other := <-out2:
		t.Errorf("%s is handed out elsewhere while %s is in hand", other.UUID, m.UUID)
	default:
	}
	m.Ack()
	var next *message.Message
	select {
	case next = <-out1:
	case next = <-out2:
	case <-time.After(time.Minute):
		t.Fatal("no message came")
	}
	if next.UUID != "b" {
		t.Errorf("got %s again", next.UUID)
	}
	next.Ack()
}

// A process that was stopped for longer than the session time-out hands out nothing when it goes on, though it does not know yet that others
// have its partitions, and its commits are refused.
func TestAStoppedProcessHandsOutNothingWhenItGoesOn(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	fell := falls(k)
	c := alone(k)
	l := opened(t, c)
	ensured(t, l, orders)
	add(t, l, msg("a", ""), msg("b", ""), msg("c", ""))
	out, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	first := receive(t, out)
	// The coordinator does not answer, and the last answer is an hour old.
	g := newGate()
	t.Cleanup(g.release)
	k.ControlKey(int16(kmsg.Heartbeat), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		k.SleepControl(func() { <-g.open })
		return nil, nil, false
	})
	stopped := func() { s.hear(time.Now().Add(-time.Hour)) }
	stopped()
	first.Ack()
	until(t, "it is noticed", func() bool { stopped(); return s.stalled.Load() })
	select {
	case m := <-out:
		t.Errorf("%s was handed out", m.UUID)
	default:
	}
	g.release() // the coordinator answers, and nothing has happened
	receive(t, out).Ack()
	// Now something has: others had the partitions.
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Group: "g", Err: kerr.UnknownMemberID, Count: 1})
	receive(t, out).Ack()
	until(t, "no lag", func() bool { return behind(t, l, "g") == 0 })
	if fell.Load() != 0 {
		t.Error("a place fell")
	}
}

// A commit that is refused because others have the partitions ends what is in hand at once.
func TestAFencedCommitEndsTheGeneration(t *testing.T) {
	t.Parallel()
	for _, why := range []*kerr.Error{kerr.UnknownMemberID, kerr.IllegalGeneration} {
		k := cluster(t, 1)
		c := alone(k)
		c.HeartbeatInterval = time.Hour
		l := opened(t, c)
		ensured(t, l, orders)
		add(t, l, msg("a", ""), msg("b", ""))
		out, _ := subscribe(t, l, SubscriberConfig{Group: "g", InHand: 2, Key: unordered})
		a, b := receive(t, out), receive(t, out)
		k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: "g", Err: why, Count: 1})
		a.Ack()
		<-b.Context().Done()
		for _, want := range []string{"a", "b"} {
			m := receive(t, out)
			if m.UUID != want {
				t.Errorf("%s: got %s, want %s", why.Message, m.UUID, want)
			}
			m.Ack()
		}
		closed(t, l.subscribers()[0])
	}
}

// Other errors of commits are tried again, and the generation goes on.
func TestCommitsThatFailAreTriedAgain(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, alone(k))
	ensured(t, l, orders)
	add(t, l, msg("a", ""))
	out, _ := subscribe(t, l, SubscriberConfig{Group: "g"})
	m := receive(t, out)
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: "g", Err: kerr.OffsetMetadataTooLarge, Count: 5})
	m.Ack()
	until(t, "the place is written", func() bool { return placeOf(t, l, "g", 0) == 1 })
	if n := worth(t, l.reader.metrics.commits.WithLabelValues("g")); n != 5 {
		t.Errorf("%v failures were counted", n)
	}
	if n := worth(t, l.reader.metrics.rebalances.WithLabelValues("g")); n != 1 {
		t.Errorf("the partitions were shared out %v times", n)
	}
}

// While the coordinator cannot be found the state says so; it is asked again, and no members are left behind.
func TestAGroupWaitsForItsCoordinator(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, alone(k))
	ensured(t, l, orders)
	add(t, l, msg("a", ""))
	find := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.FindCoordinator}, Err: kerr.CoordinatorNotAvailable, Count: 6})
	join := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.CoordinatorLoadInProgress, Count: 3})
	out, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	until(t, "the state says so", func() bool { return s.membership().State == stateWaiting })
	receive(t, out).Ack()
	if find.Hits() != 6 || join.Hits() != 3 {
		t.Errorf("asked %d and %d times", find.Hits(), join.Hits())
	}
	if info := k.GroupInfo("g"); len(info.Members) != 1 {
		t.Errorf("the group has %d members", len(info.Members))
	}
	until(t, "the state is well", func() bool { return s.membership().State == stateMember })
}

// With nothing in hand for too long the watch says so, once, and takes nothing away.
func TestAMessageThatNobodyFinishesIsReported(t *testing.T) {
	t.Parallel()
	c := alone(cluster(t, 1))
	c.HandlingLimit = 20 * time.Millisecond
	l := opened(t, c)
	ensured(t, l, orders)
	add(t, l, msg("a", ""), msg("b", ""))
	out, _ := subscribe(t, l, SubscriberConfig{Group: "g", InHand: 2, Key: unordered})
	m := receive(t, out)
	receive(t, out).Ack()
	overdue := func() float64 { return worth(t, l.reader.metrics.overdue.WithLabelValues("g")) }
	until(t, "it is reported", func() bool { return overdue() == 1 })
	for range 30 { // while it is looked at again
		add(t, l, msg("c", ""))
		receive(t, out).Ack()
	}
	if m.Context().Err() != nil {
		t.Error("it was taken away")
	}
	if overdue() != 1 {
		t.Errorf("it was reported %v times", overdue())
	}
	m.Ack()
	until(t, "no lag", func() bool { return behind(t, l, "g") == 0 })
}

// While a target rests, all that a route has in hand waits: that is one thing to be told, and not hundreds.
func TestManyMessagesThatNobodyFinishesAreOneLine(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told bytes.Buffer
	c := alone(cluster(t, 1))
	c.HandlingLimit, c.CommitEvery = 20*time.Millisecond, 500*time.Millisecond
	c.Logger = slog.New(slog.NewTextHandler(guarded{&mu, &told}, &slog.HandlerOptions{Level: slog.LevelError}))
	l := opened(t, c)
	ensured(t, l, orders)
	const many = 200
	for i := range many {
		add(t, l, msg(named("m", i), ""))
	}
	out, _ := subscribe(t, l, SubscriberConfig{Group: "g", InHand: many, Key: unordered})
	var ms []*message.Message
	for range many {
		ms = append(ms, receive(t, out))
	}
	until(t, "all are reported", func() bool { return worth(t, l.reader.metrics.overdue.WithLabelValues("g")) == many })
	for _, m := range ms {
		m.Ack()
	}
	until(t, "no lag", func() bool { return behind(t, l, "g") == 0 })
	mu.Lock()
	defer mu.Unlock()
	if n := bytes.Count(told.Bytes(), []byte("in hand for too long")); n == 0 || n > many/4 {
		t.Errorf("%d lines", n)
	}
}

// guarded is a writer for many.
type guarded struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (g guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.to.Write(p)
}

func TestPartitionsThatAreAddedAreReadToo(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, alone(k))
	_, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	until(t, "it is a member", func() bool { return len(l.Holdings()) == 1 })
	admin := &kafka.Client{Addr: kafka.TCP(l.c.Brokers...)}
	defer func() { admin.Transport.(*kafka.Transport).CloseIdleConnections() }()
	admin.Transport = &kafka.Transport{}
	res, err := admin.CreatePartitions(t.Context(), &kafka.CreatePartitionsRequest{
		Topics: []kafka.TopicPartitionsConfig{{Name: orders, Count: 4}},
	})
	if err = errors.Join(err, res.Errors[orders]); err != nil {
		t.Fatal(err)
	}
	until(t, "it is noticed", func() bool { l.client.refresh(); return s.balancer.outdated() })
	if got := s.balancer.AssignGroups([]kafka.GroupMember{member("x", "hub", orders)}, nil); len(got["x"][orders]) != 4 {
		t.Errorf("got %v", got)
	}
	if s.balancer.outdated() {
		t.Error("it is not over")
	}
}

// A member that loses its coordinator comes back under another name; nobody waits for the old one until its session time-out, also
// when the broker that is asked to let it go is the coordinator not yet, or no more.
func TestAMemberThatLostItsCoordinatorIsBackSoon(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := alone(k)
	c.SessionTimeout, c.RebalanceTimeout = 25*time.Second, 30*time.Second
	l := opened(t, c)
	ensured(t, l, orders)
	out, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	until(t, "it is a member", func() bool { return s.membership().State == stateMember })
	find := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.FindCoordinator}, Err: kerr.CoordinatorNotAvailable, Count: 6})
	bye := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.LeaveGroup}, Group: "g", Err: kerr.NotCoordinator, Count: 3})
	k.ControlKey(int16(kmsg.Heartbeat), func(kmsg.Request) (kmsg.Response, error, bool) {
		return nil, errors.New("cut"), true
	})
	until(t, "the coordinator is lost", func() bool { return find.Hits() == 6 })
	add(t, l, msg("a", ""))
	receive(t, out).Ack()
	if bye.Hits() != 3 {
		t.Errorf("%d of 3 goodbyes were refused: nothing is proved", bye.Hits())
	}
	if info := k.GroupInfo("g"); len(info.Members) != 1 {
		t.Errorf("the group has %d members", len(info.Members))
	}
}
