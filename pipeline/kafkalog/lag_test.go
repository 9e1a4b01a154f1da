package kafkalog

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestLagCountsWhatIsNotFinished(t *testing.T) {
	t.Parallel()
	k := cluster(t, 2)
	one, two := opened(t, lively(k)), opened(t, lively(k))
	if n, at, err := one.Lag(t.Context(), "events.nowhere", "g"); n != 0 || !at.IsZero() || err != nil {
		t.Errorf("a topic that does not exist: %d, %v, %v", n, at, err)
	}
	ensured(t, one, orders)
	if n := behind(t, one, "g"); n != 0 {
		t.Errorf("an empty topic: %d", n)
	}
	before := time.Now().Truncate(time.Millisecond)
	for i := range 10 {
		add(t, one, msg(fmt.Sprintf("%c", 'a'+i), ""))
	}
	if n := behind(t, one, "never subscribed"); n != 10 {
		t.Errorf("a group that has no place: %d", n)
	}
	out, s := subscribe(t, one, SubscriberConfig{Group: "g", InHand: 10, Key: unordered})
	var ms []*message.Message
	for range 10 {
		ms = append(ms, receive(t, out))
	}
	for _, m := range ms[:9] {
		m.Ack()
	}
	until(t, "nine are finished, wherever they are", func() bool { return behind(t, one, "g") == 1 })
	_, at, err := one.Lag(t.Context(), orders, "g")
	if err != nil || at.Before(before) || at.After(time.Now()) {
		t.Errorf("the oldest is of %v, %v", at, err)
	}
	// Another hub knows what is committed, and cannot do better.
	until(t, "another hub knows it too", func() bool { n := behind(t, two, "g"); return n >= 1 && n < 10 })
	ms[9].Ack()
	until(t, "no lag", func() bool { return behind(t, one, "g") == 0 && behind(t, two, "g") == 0 })
	closed(t, s)
	for group, offset := range map[string]bool{"g": true, "never subscribed": false} {
		if n := behind(t, two, group); (n == 0) != offset {
			t.Errorf("group %s has %d before it", group, n)
		}
	}
}

// Asking for a hundred groups at once asks the cluster once where the topics end.
func TestLagOfManyGroupsIsCheap(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	lists := count(k, kmsg.ListOffsets)
	fetches := count(k, kmsg.Fetch)
	l := opened(t, lively(k))
	ensured(t, l, orders)
	for i := range 10 {
		add(t, l, msg(fmt.Sprintf("%c", 'a'+i), ""))
	}
	lists.Store(0)
	began := time.Now()
	for g := range 100 {
		n, at, err := l.Lag(t.Context(), orders, fmt.Sprint(g))
		if n != 10 || at.IsZero() || err != nil {
			t.Fatalf("group %d: %d, %v, %v", g, n, at, err)
		}
	}
	if n, most := lists.Load(), 2+2*int64(time.Since(began)/lagAge); n > most {
		t.Errorf("%d requests for where topics begin and end, want at most %d", n, most)
	}
	if n := fetches.Load(); n > 3 {
		t.Errorf("%d requests for the oldest record of three partitions", n)
	}
}

// Many groups that are far behind and slow hold no more than the bound, and all get everything.
func TestGroupsThatAreBehindHoldLittle(t *testing.T) {
	t.Parallel()
	const groups, records, size = 20, 300, 4 << 10
	k := cluster(t, 2)
	c := lively(k)
	c.WindowBytes = 256 << 10
	l := opened(t, c)
	ensured(t, l, orders)
	for i := range records {
		m := msg(fmt.Sprintf("%c%d", 'a'+i%26, i), "")
		m.Payload = bytes.Repeat([]byte("x"), size)
		add(t, l, m)
	}
	var got [groups]atomic.Int64
	var peak, window atomic.Int64
	raise := func(p *atomic.Int64, to int64) {
		for old := p.Load(); to > old && !p.CompareAndSwap(old, to); old = p.Load() {
		}
	}
	var consumers sync.WaitGroup
	for g := range groups {
		out, _ := subscribe(t, l, SubscriberConfig{Group: fmt.Sprint(g), InHand: 4, Key: unordered})
		consumers.Go(func() {
			for m := range out {
				raise(&peak, l.reader.held.Load())
				raise(&window, l.reader.windows.Load())
				got[g].Add(1)
				m.Ack()
			}
		})
	}
	for g := range groups {
		until(t, "all is finished", func() bool { return behind(t, l, fmt.Sprint(g)) == 0 })
		if n := got[g].Load(); n != records {
			t.Errorf("group %d got %d of %d", g, n, records)
		}
	}
	// Beside the bound: a portion for each who asked before it was reached, and one record for each group and partition.
	if most := int64(c.WindowBytes + 2*ownBytes*3 + groups*3*(size+2048)); peak.Load() > most {
		t.Errorf("%d bytes were held, want at most %d", peak.Load(), most)
	}
	t.Logf("at most %d bytes held, %d in windows; all records take %d for each group", peak.Load(), window.Load(), records*(size+512))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	consumers.Wait()
	if n := l.reader.held.Load(); n != 0 {
		t.Errorf("%d bytes still count as held", n)
	}
}

func TestHundredGroupsEachGetTheirOwn(t *testing.T) {
	t.Parallel()
	const groups, records = 100, 1000
	l := opened(t, lively(cluster(t, 1)))
	var got [groups]atomic.Int64
	var consumers sync.WaitGroup
	for g := range groups {
		out, _ := subscribe(t, l, SubscriberConfig{
			Group: fmt.Sprint(g), InHand: 4, Key: unordered,
			Match: func(m *message.Message) bool { return m.Metadata.Get("to") == fmt.Sprint(g) },
		})
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
				if err := l.Publish(orders, m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishers.Wait()
	for g := range groups {
		until(t, "no lag", func() bool { return behind(t, l, fmt.Sprint(g)) == 0 })
		if n := got[g].Load(); n != records/groups {
			t.Errorf("group %d got %d, want %d", g, n, records/groups)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	consumers.Wait()
}

// What is shown of who holds what.
func TestHoldingsAndMetricsSayWhatIsRead(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	c := lively(cluster(t, 1))
	c.Registerer = reg
	l := opened(t, c)
	_, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	until(t, "it is a member", func() bool { return len(l.Holdings()) == 3 })
	for i, h := range l.Holdings() {
		if h.Group != "g" || h.Topic != orders || h.Partition != int32(i) || h.Position != 0 || h.Since.IsZero() {
			t.Errorf("got %+v", h)
		}
	}
	if n := worth(t, l.reader.metrics.held.WithLabelValues("g")); n != 3 {
		t.Errorf("the metric says %v", n)
	}
	if ms := l.Memberships(); len(ms) != 1 || ms[0].State != stateMember {
		t.Errorf("got %+v", ms)
	}
	closed(t, s)
	if n := worth(t, l.reader.metrics.held.WithLabelValues("g")); n != 0 {
		t.Errorf("after closing the metric says %v", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if fs, err := reg.Gather(); err != nil || len(fs) != 0 {
		t.Errorf("%d metrics are left of a closed log, %v", len(fs), err)
	}
}

// Between two commits this process knows more than the cluster. The oldest record is the oldest of all partitions'.
func TestLagKnowsWhatIsNotCommittedYet(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := lively(k)
	c.CommitEvery = time.Hour
	one, two := opened(t, c), opened(t, lively(k))
	ensured(t, one, orders)
	add(t, one, msg("a", ""))
	first := time.Now()
	until(t, "time has passed", func() bool { return time.Since(first) > 5*time.Millisecond })
	for i := 1; i < 10; i++ {
		add(t, one, msg(fmt.Sprintf("%c", 'a'+i), ""))
	}
	if _, at, err := one.Lag(t.Context(), orders, "never subscribed"); err != nil || at.IsZero() || at.After(first) {
		t.Errorf("the oldest is of %v, %v; the first was published before %v", at, err, first)
	}
	out, _ := subscribe(t, one, SubscriberConfig{Group: "g", InHand: 10, Key: unordered})
	for range 10 {
		receive(t, out).Ack()
	}
	until(t, "all are finished", func() bool { return behind(t, one, "g") == 0 })
	if n := behind(t, two, "g"); n != 10 {
		t.Errorf("another hub knows of %d before the group, and nothing is committed", n)
	}
}
