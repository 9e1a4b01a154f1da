package sqlitelog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// SubscriberConfig is one consumer group's way of reading. Only Group is needed.
type SubscriberConfig struct {
	// Group names the consumer group; its places survive restarts.
	Group string
	// InHand bounds the messages handed out and not yet acked, per topic. Default 1; with a nil Key it is always 1.
	InHand int
	// Key orders: messages with equal non-empty keys are handed out one at a time, in log order; an empty key asks for no
	// order. nil: all in order, one at a time. Called once for each record that Match lets through.
	Key func(*message.Message) string
	// Match says whether a record concerns the group; nil: all do. One that does not is finished at once and never
	// handed out. It is given the record that all groups share: it must not ack, nack or change it.
	Match func(*message.Message) bool
	// FromEnd starts a group that has no place yet after the last record instead of before the first.
	FromEnd bool
}

// Subscriber hands out topics to one consumer group.
type Subscriber struct {
	l *Log
	c SubscriberConfig

	mu     sync.Mutex
	subs   []*handle
	closed bool
	watch  sync.WaitGroup // one for each subscription whose context is watched
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

// Subscriber opens a subscriber of a consumer group. When several subscribers of one group subscribe to a topic, one of them gets
// its messages and the others wait, in turn, for it to close.
func (l *Log) Subscriber(c SubscriberConfig) (*Subscriber, error) {
	if c.Group == "" {
		return nil, errors.New("subscriber: no group")
	}
	c.InHand = max(c.InHand, 1)
	if c.Key == nil {
		c.InHand = 1
	}
	s := &Subscriber{l: l, c: c}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	l.subs[s] = struct{}{}
	return s, nil
}

// SubscribeInitialize creates the topic and the group's place in it.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	_, _, err := s.place(context.Background(), topic)
	return err
}

func (s *Subscriber) place(ctx context.Context, topic string) (*topic, *place, error) {
	t, err := s.l.topic(ctx, topic)
	if err != nil {
		return nil, nil, fmt.Errorf("subscribe group %s to %s: %w", s.c.Group, topic, err)
	}
	p, err := s.l.place(ctx, t, s.c.Group, s.c.FromEnd)
	if err != nil {
		return nil, nil, fmt.Errorf("subscribe group %s to %s: %w", s.c.Group, topic, err)
	}
	return t, p, nil
}

// Subscribe hands out the topic's records from the group's place on, each as a message of its own, until ctx ends or Close is called; then the
// channel is closed. A message's context ends when it is acked or nacked, or with ctx; it has the values of
// ctx and those that Config.Prepare gave. A nacked message comes again. The payload is shared between groups and must not be changed.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	t, p, err := s.place(ctx, topic)
	if err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancel(ctx)
	sub := &subscription{
		l: s.l, c: s.c, t: t, place: p, ctx: inner,
		out:   make(chan *message.Message, s.c.InHand),
		kick:  make(chan struct{}, 1),
		ended: make(chan struct{}),
		idle:  make(chan struct{}),
		lanes: make(map[string]*lane),
	}
	h := &handle{s: sub, cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel()
		return nil, fmt.Errorf("subscribe group %s to %s: the subscriber is closed", s.c.Group, topic)
	}
	s.subs = append(s.subs, h)
	sub.join()
	s.watch.Add(1)
	h.stop = context.AfterFunc(ctx, func() {
		defer s.watch.Done()
		if err := s.end(h); err != nil {
			s.l.c.Logger.Warn("close a subscription", "error", err)
		}
	})
	return sub.out, nil
}

// join makes the subscription the group's reader, or puts it behind those that came before.
func (s *subscription) join() {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.groups[s.c.Group]
	if m == nil {
		m = &membership{}
		t.groups[s.c.Group] = m
	}
	if m.active != nil {
		m.waiting = append(m.waiting, s)
		return
	}
	m.active = s
	s.activate()
}

// end closes one subscription and forgets it.
func (s *Subscriber) end(h *handle) error {
	err := h.s.close(h.cancel)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = slices.DeleteFunc(s.subs, func(o *handle) bool { return o == h })
	return err
}

// Close closes every subscription: their channels at once, then it waits for what is in hand up to Config.CloseTimeout and writes the group's
// places. An ack that comes later is ignored, and the record handed out again. Calling it again waits for the first.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	subs := slices.Clone(s.subs)
	s.mu.Unlock()
	errs := make([]error, len(subs))
	var closing sync.WaitGroup
	for i, h := range subs {
		closing.Go(func() {
			if h.stop() {
				s.watch.Done()
			}
			errs[i] = s.end(h)
		})
	}
	closing.Wait()
	s.watch.Wait()
	s.l.mu.Lock()
	delete(s.l.subs, s)
	s.l.mu.Unlock()
	return errors.Join(errs...)
}
