package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// SubscriberConfig is one consumer group's way of reading. Only Group is needed.
type SubscriberConfig struct {
	// Group names the consumer group; its places survive restarts.
	Group string
	// InHand bounds the messages handed out and not yet acked, per topic and process. Default 1; with a nil Key it is always 1.
	InHand int
	// Key orders: messages of a topic with equal non-empty keys are handed out one at a time, in log order; an empty key asks for no
	// order. For the order to hold between processes, such messages must be in one partition, see Config.PartitionKey. nil: all of a partition in order, one
	// at a time. Called once for each record that Match lets through. Messages with equal UUIDs are one at a time whatever their keys.
	Key func(*message.Message) string
	// Match says whether a record concerns the group; nil: all do. One that does not is finished at once and never
	// handed out. It is given the record that all groups share: it must not ack, nack or change it.
	Match func(*message.Message) bool
	// FromEnd starts a group that has no place yet after the last record instead of before the first.
	FromEnd bool
}

// Subscriber hands out topics to one consumer group. It is one member of the group: the partitions of its topics are shared out among all members,
// in this process and in others.
type Subscriber struct {
	l        *Log
	c        SubscriberConfig
	balancer *balancer
	heard    atomic.Int64 // when the coordinator last answered, as the age of epoch
	stalled  atomic.Bool  // nothing was handed out because it did not
	changed  chan struct{}
	quit     chan struct{}
	done     chan struct{} // closed when the member has left

	mu     sync.Mutex
	subs   []*handle
	starts map[partition]int64 // where topics ended when a group that starts at the end subscribed
	gen    *generation         // nil while not a member
	state  string
	since  time.Time
	closed bool
	watch  sync.WaitGroup // one for each subscription whose context is watched
	once   sync.Once
}

// handle is a subscription and what ends its context.
type handle struct {
	s      *subscription
	cancel context.CancelFunc
	stop   func() bool // no longer watch the subscriber's context
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// Subscriber opens a subscriber of a consumer group. Several subscribers of one group, in any number of processes, share the partitions of their
// topics: each partition is read by one of them.
func (l *Log) Subscriber(c SubscriberConfig) (*Subscriber, error) {
	if c.Group == "" {
		return nil, errors.New("subscriber: no group")
	}
	c.InHand = max(c.InHand, 1)
	if c.Key == nil {
		c.InHand = 1
	}
	s := &Subscriber{
		l: l, c: c,
		changed: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		starts: make(map[partition]int64),
		state:  stateIdle, since: time.Now(),
	}
	s.balancer = &balancer{instance: l.c.Instance, layout: s.layout}
	if err := l.attach(s); err != nil {
		return nil, err
	}
	go s.run() // Close waits for it
	return s, nil
}

// SubscribeInitialize creates the topic and, for a group that starts at the end, its place in it: what is published from now on is not
// missed, even if nobody subscribes yet.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	return s.initialize(context.Background(), topic)
}

func (s *Subscriber) initialize(ctx context.Context, topic string) error {
	err := s.l.Ensure(ctx, topic)
	if err == nil {
		s.l.keeper.meet(ctx, topic)
	}
	if err == nil && s.c.FromEnd {
		err = s.settle(ctx, topic)
	}
	if err != nil {
		return fmt.Errorf("subscribe group %s to %s: %w", s.c.Group, topic, err)
	}
	return nil
}

// Subscribe hands out the topic's records from the group's place on, each as a message of its own, until ctx ends or Close is called; then the
// channel is closed. A message's context ends when it is acked or nacked, with ctx, or when its partition is about to go to another member of the group: then
// what has not begun should be nacked, and what has begun be finished within seconds (see generation.patience), after which an ack does nothing. It has the
// values of ctx and those that Config.Prepare gave. A nacked message comes again. The payload is shared between groups and must not be changed.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := s.initialize(ctx, topic); err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancel(ctx)
	sub := &subscription{
		s: s, topic: topic, ctx: inner,
		out:  make(chan *message.Message, s.c.InHand),
		kick: make(chan struct{}, 1),
		quit: make(chan struct{}),
	}
	h := &handle{s: sub, cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel()
		return nil, fmt.Errorf("subscribe group %s to %s: the subscriber is closed", s.c.Group, topic)
	}
	s.subs = append(s.subs, h)
	sub.work.Go(sub.follow)
	s.watch.Add(1)
	h.stop = context.AfterFunc(ctx, func() {
		defer s.watch.Done()
		s.end(h)
	})
	s.change()
	return sub.out, nil
}

// change has the member see whether it is still a member for the right topics.
func (s *Subscriber) change() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// end closes one subscription and forgets it.
func (s *Subscriber) end(h *handle) {
	h.s.close(h.cancel)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = slices.DeleteFunc(s.subs, func(o *handle) bool { return o == h })
	s.change()
}

// Close closes every subscription: their channels at once, then it waits for what is in hand up to Config.CloseTimeout, writes the group's
// places and leaves the group. An ack that comes later is ignored, and the record handed out again. Calling it again waits for the first.
func (s *Subscriber) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		subs := slices.Clone(s.subs)
		s.mu.Unlock()
		var closing sync.WaitGroup
		for _, h := range subs {
			closing.Go(func() {
				if h.stop() {
					s.watch.Done()
				}
				s.end(h)
			})
		}
		closing.Wait()
		s.watch.Wait()
		close(s.quit)
	})
	<-s.done
	s.l.detach(s)
	return nil
}

// topics are those that are subscribed to, each as often as it is.
func (s *Subscriber) topics() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var topics []string
	for _, h := range s.subs {
		topics = append(topics, h.s.topic)
	}
	slices.Sort(topics)
	return topics
}

// of are the subscriptions to a topic.
func (s *Subscriber) of(topic string) []*subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	var subs []*subscription
	for _, h := range s.subs {
		if h.s.topic == topic {
			subs = append(subs, h.s)
		}
	}
	return subs
}

// enter notes how the member stands in its group.
func (s *Subscriber) enter(state string, g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := 0
	if g != nil {
		held = len(g.holdings)
	}
	s.l.reader.metrics.held.WithLabelValues(s.c.Group).Set(float64(held))
	s.gen = g
	if s.state != state {
		s.state, s.since = state, time.Now()
	}
}

func (s *Subscriber) membership() Membership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Membership{Group: s.c.Group, State: s.state, Since: s.since}
}

func (s *Subscriber) holdings() []Holding {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen == nil {
		return nil
	}
	var all []Holding
	for _, h := range s.gen.holdings {
		all = append(all, Holding{
			Group: s.c.Group, Topic: h.topic, Partition: h.number, Position: h.finished.Load(), Since: s.gen.since,
		})
	}
	return all
}

// displaced deals with a place that the partition does not hold. Retention has removed the records up to where it goes on, or the log
// has lost its end.
func (s *Subscriber) displaced(h *holding, at int64) {
	log := s.l.c.Logger.With("topic", h.topic, "partition", h.number, "group", s.c.Group)
	if at > h.pos {
		log.Error("retention removed records that a group had not finished", "records", at-h.pos, "from", h.pos, "to", at)
		s.l.reader.metrics.gaps.WithLabelValues(s.c.Group).Add(float64(at - h.pos))
		s.l.c.OnGap(h.topic, s.c.Group, h.number, h.pos, at)
		return
	}
	log.Error("the place of a group is behind the end of the log, which has lost records; the group goes on at the end", "place", h.pos, "end", at)
	h.restart(at)
}

// layout is a topic's partitions; none when they are not known.
func (s *Subscriber) layout(wire string) []int32 {
	ctx, cancel := context.WithTimeout(context.Background(), s.l.c.RequestTimeout)
	defer cancel()
	ps, err := s.l.client.layout(ctx, wire[min(len(s.l.c.Prefix), len(wire)):])
	if err != nil {
		return nil
	}
	return ps
}
