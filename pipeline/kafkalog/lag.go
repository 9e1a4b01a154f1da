package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
	"github.com/segmentio/kafka-go/protocol/offsetfetch"
)

// committed returns the places of a group in some partitions of a topic; those in which it has none are missing.
func (l *Log) committed(ctx context.Context, group, topic string, numbers []int32) (map[int32]int64, error) {
	m, err := l.client.roundTrip(ctx, &offsetfetch.Request{
		GroupID: l.client.wire(group),
		Topics:  []offsetfetch.RequestTopic{{Name: l.client.wire(topic), PartitionIndexes: numbers}},
	})
	if err != nil {
		return nil, fmt.Errorf("places of group %s: %w", group, err)
	}
	res := m.(*offsetfetch.Response)
	if err := code(res.ErrorCode, ""); errors.Is(err, kafka.GroupIdNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("places of group %s: %w", group, err)
	}
	at := make(map[int32]int64, len(numbers))
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			if err := code(p.ErrorCode, ""); err != nil && !errors.Is(err, kafka.GroupIdNotFound) {
				return nil, fmt.Errorf("places of group %s: %w", group, err)
			}
			if p.CommittedOffset >= 0 {
				at[p.PartitionIndex] = p.CommittedOffset
			}
		}
	}
	return at, nil
}

// settle makes durable that a group begins where the topic ends now, in the partitions in which it has no place. While the group has members only they may
// commit: then this process remembers it, and commits it should it get the partition.
func (s *Subscriber) settle(ctx context.Context, topic string) error {
	numbers, err := s.l.client.layout(ctx, topic)
	if err != nil {
		return err
	}
	ps := make([]partition, len(numbers))
	for i, n := range numbers {
		ps[i] = partition{topic, n}
	}
	var ends map[partition]int64
	for attempt := 0; ; attempt++ {
		if ends == nil { // also while those who lead a new topic do not know it yet
			ends, err = s.l.client.offsets(ctx, ps, atEnd)
		}
		if ends != nil {
			err = s.settleAt(ctx, topic, numbers, ends)
		}
		if err == nil || attempt == 20 || !retriable(err) && !displaced(err) {
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

func (s *Subscriber) settleAt(ctx context.Context, topic string, numbers []int32, ends map[partition]int64) error {
	has, err := s.l.committed(ctx, s.c.Group, topic, numbers)
	if err != nil {
		return err
	}
	fresh := make([]partition, 0, len(numbers))
	for p := range ends {
		if _, ok := has[p.number]; !ok {
			fresh = append(fresh, p)
		}
	}
	back, err := s.resume(ctx, fresh)
	if err != nil {
		return err
	}
	req := offsetcommit.RequestTopic{Name: s.l.client.wire(topic)}
	places := make(map[partition]int64, len(fresh))
	s.mu.Lock()
	for _, p := range fresh {
		if place, ok := back.at[p]; ok {
			s.starts[p] = place
		} else if _, ok := s.starts[p]; !ok {
			s.starts[p] = ends[p]
		}
		places[p] = s.starts[p]
		req.Partitions = append(req.Partitions, offsetcommit.RequestPartition{
			PartitionIndex: p.number, CommittedOffset: s.starts[p], CommittedLeaderEpoch: -1,
		})
	}
	s.mu.Unlock()
	if len(req.Partitions) == 0 {
		return nil
	}
	m, err := s.l.client.roundTrip(ctx, &offsetcommit.Request{
		GroupID: s.l.client.wire(s.c.Group), GenerationID: -1, RetentionTimeMs: -1, Topics: []offsetcommit.RequestTopic{req},
	})
	if err != nil {
		return err
	}
	for _, t := range m.(*offsetcommit.Response).Topics {
		for _, p := range t.Partitions {
			switch err := code(p.ErrorCode, ""); {
			case err == nil:
			case errors.Is(err, kafka.UnknownMemberId), errors.Is(err, kafka.IllegalGeneration), errors.Is(err, kafka.RebalanceInProgress):
				return nil // it has members
			default:
				return fmt.Errorf("place of group %s in %s/%d: %w", s.c.Group, topic, p.PartitionIndex, err)
			}
		}
	}
	s.l.keeper.note(s.c.Group, places)
	s.tell(back)
	return nil
}

// retriable reports whether an error goes away by itself, as far as is known.
func retriable(err error) bool {
	k, ok := errors.AsType[kafka.Error](err)
	return !ok || k.Temporary() || errors.Is(err, kafka.GroupCoordinatorNotAvailable) || errors.Is(err, kafka.GroupLoadInProgress)
}

// lagAge is how old what Lag says may be, so that asking for a hundred groups does not ask the cluster a hundred times for the same.
const lagAge = time.Second

// ends remembers where topics begin and end, and when records were published.
type ends struct {
	mu    sync.Mutex
	topic map[string]*bounds
	times map[spot]time.Time
}

// bounds are where the partitions of a topic began and ended at a time.
type bounds struct {
	turn        chan struct{} // has room for the one who asks; the others wait, each as long as it may
	at          time.Time
	first, next map[partition]int64
}

func newEnds() *ends {
	return &ends{topic: make(map[string]*bounds), times: make(map[spot]time.Time)}
}

// bounds returns where a topic's partitions begin and end; one caller asks for all who want to know.
func (l *Log) bounds(ctx context.Context, topic string) (first, next map[partition]int64, err error) {
	l.ends.mu.Lock()
	b := l.ends.topic[topic]
	if b == nil {
		b = &bounds{turn: make(chan struct{}, 1)}
		l.ends.topic[topic] = b
	}
	l.ends.mu.Unlock()
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if time.Since(b.at) < lagAge {
		return b.first, b.next, nil
	}
	for attempt := 0; ; attempt++ {
		asked := time.Now()
		first, next, err = l.askBounds(ctx, topic)
		if err == nil {
			b.at, b.first, b.next = asked, first, next
		}
		// Who leads a partition may be news even to itself: that of a topic that was made a moment ago.
		if !displaced(err) || errors.Is(err, kafka.UnknownTopicOrPartition) || attempt == boundsTries-1 || pause(ctx, attempt) != nil {
			return first, next, err
		}
	}
}

// boundsTries is how often it is asked where a topic begins and ends before it is said that nobody leads one of its partitions.
const boundsTries = 5

func (l *Log) askBounds(ctx context.Context, topic string) (first, next map[partition]int64, err error) {
	numbers, err := l.client.layout(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	ps := make([]partition, len(numbers))
	for i, n := range numbers {
		ps[i] = partition{topic, n}
	}
	if first, err = l.client.offsets(ctx, ps, atStart); err != nil {
		return nil, nil, err
	}
	next, err = l.client.offsets(ctx, ps, atEnd)
	return first, next, err
}

// Lag says how many records of the topic the group has not finished, and when the oldest of them was published; zero when there are none. It
// counts from the places that the group has committed, whoever reads for it, and from what this process knows of its own. What is
// said may be a second old. A group that has no place yet has all records before it. A topic that does not exist has none.
func (l *Log) Lag(ctx context.Context, topic, group string) (records int64, oldest time.Time, err error) {
	l.mu.RLock()
	closed := l.closed
	l.mu.RUnlock()
	if closed {
		return 0, time.Time{}, ErrClosed
	}
	first, next, err := l.bounds(ctx, topic)
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		return 0, time.Time{}, nil
	}
	var at map[int32]int64
	if err == nil {
		numbers := make([]int32, 0, len(next))
		for p := range next {
			numbers = append(numbers, p.number)
		}
		at, err = l.committed(ctx, group, topic, numbers)
	}
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("lag of %s in %s: %w", group, topic, err)
	}
	from := make(map[partition]int64)
	mine := l.held(group, topic)
	for p, end := range next {
		own := mine[p]
		place := max(at[p.number], first[p], own.finished)
		if n := end - place - own.beyond; n > 0 {
			records += n
			from[p] = place
		}
	}
	if records == 0 {
		return 0, time.Time{}, nil
	}
	if oldest, err = l.oldest(ctx, from); err != nil {
		return 0, time.Time{}, fmt.Errorf("lag of %s in %s: %w", group, topic, err)
	}
	return records, oldest, nil
}

// progress is how far this process has got in a partition for a group: everything before finished, and beyond more records after it.
type progress struct{ finished, beyond int64 }

func (l *Log) held(group, topic string) map[partition]progress {
	all := make(map[partition]progress)
	for _, s := range l.subscribers() {
		if s.c.Group != group {
			continue
		}
		for _, sub := range s.of(topic) {
			sub.progress(all)
		}
	}
	return all
}

// progress adds what the subscription holds.
func (s *subscription) progress(all map[partition]progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term == nil {
		return
	}
	for _, h := range s.term.holdings {
		done := h.finished.Load()
		all[h.partition] = progress{done, max(0, h.pos-done-int64(h.unfinished()))}
	}
}

// oldest is when the oldest of some records was published. What was asked before is remembered, as groups that do not get on ask for the same again.
func (l *Log) oldest(ctx context.Context, at map[partition]int64) (oldest time.Time, err error) {
	unknown := make(map[partition]int64)
	see := func(t time.Time) {
		if !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	for p, offset := range at {
		if t, ok := l.published(spot{p, offset}); ok {
			see(t)
		} else {
			unknown[p] = offset
		}
	}
	if len(unknown) == 0 {
		return oldest, nil
	}
	ps := make([]partition, 0, len(unknown))
	for p := range unknown {
		ps = append(ps, p)
	}
	groups, _, err := l.client.byLeader(ctx, ps)
	if err != nil {
		return oldest, err
	}
	for _, ps := range groups {
		for len(ps) > 0 {
			// One at a time is sure to get a record: the bounds hold for all but the first.
			ask := map[partition]int64{ps[0]: unknown[ps[0]]}
			a, err := l.reader.fetch(ctx, ask, 0, 1, 1, 0)
			if err != nil {
				return oldest, err
			}
			got := l.reader.decode(ps[0], ask[ps[0]], a.parts[ps[0]].records)
			if len(got.records) > 0 {
				l.remember(spot{ps[0], ask[ps[0]]}, got.records[0].at)
				see(got.records[0].at)
			}
			ps = ps[1:]
		}
	}
	return oldest, nil
}

// maxTimes bounds the times that are remembered.
const maxTimes = 10_000

// published says when a record was published, if that is known.
func (l *Log) published(s spot) (time.Time, bool) {
	if f := l.reader.feed(s.partition); f != nil {
		f.mu.Lock()
		if i := f.search(s.offset); s.offset >= f.first && i < len(f.records) {
			at := f.records[i].at
			f.mu.Unlock()
			return at, true
		}
		f.mu.Unlock()
	}
	l.ends.mu.Lock()
	defer l.ends.mu.Unlock()
	at, ok := l.ends.times[s]
	return at, ok
}

func (l *Log) remember(s spot, at time.Time) {
	l.ends.mu.Lock()
	defer l.ends.mu.Unlock()
	if len(l.ends.times) >= maxTimes {
		clear(l.ends.times)
	}
	l.ends.times[s] = at
}
