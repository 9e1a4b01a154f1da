package kafkalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// kgoLog is a log on franz-go in place of kafka-go, as small as one can be that keeps what Publish and Subscribe promise: no shared reading, no bounds of memory, no
// metrics, and results of Publish that are not told apart. The wire form is that of encodeRecord and decodeRecord, and the partitions those of spread.
type kgoLog struct {
	c      Config
	client *kgo.Client
	name   string // of this publisher, in headerSeq

	mu     sync.Mutex // guards the following, and keeps records of a partition in the order of their numbers
	seq    map[partition]int
	subs   map[*kgoSubscriber]struct{}
	closed bool
}

func openKgo(c Config) (*kgoLog, error) {
	c = c.withDefaults()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(c.Brokers...), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RecordDeliveryTimeout(c.PublishTimeout), kgo.ProducerBatchMaxBytes(int32(c.MaxRecord)),
		kgo.MaxVersions(kversion.V2_8_0())) // settle's requests name their topics and are for one group
	if err != nil {
		return nil, err
	}
	return &kgoLog{
		c: c, client: client, name: fmt.Sprintf("%08x", rand.Uint32()), seq: make(map[partition]int), subs: make(map[*kgoSubscriber]struct{}),
	}, nil
}

func (l *kgoLog) Ensure(ctx context.Context, topics ...string) error {
	r := kmsg.NewPtrCreateTopicsRequest()
	for _, topic := range topics {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = l.c.Prefix+topic, int32(l.c.Partitions), int16(l.c.Replication)
		r.Topics = append(r.Topics, t)
	}
	answer, err := r.RequestWith(ctx, l.client)
	if err != nil {
		return err
	}
	for _, t := range answer.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", t.Topic, err)
		}
	}
	return nil
}

func (l *kgoLog) Publish(topic string, ms ...*message.Message) error {
	var sent sync.WaitGroup
	errs := make([]error, len(ms))
	l.mu.Lock()
	for i, m := range ms {
		if l.closed {
			errs[i] = ErrClosed
			break
		}
		r, err := l.encode(topic, m)
		if err != nil {
			errs[i] = err
			break
		}
		sent.Add(1)
		l.client.Produce(m.Context(), r, func(_ *kgo.Record, err error) {
			errs[i] = err
			sent.Done()
		})
	}
	l.mu.Unlock()
	sent.Wait()
	return errors.Join(errs...)
}

// encode is a message as a record of franz-go's. The lock is held.
func (l *kgoLog) encode(topic string, m *message.Message) (*kgo.Record, error) {
	key := l.c.PartitionKey(m)
	encoded, _, err := encodeRecord(m, key)
	if err != nil {
		return nil, err
	}
	p := partition{topic, spread(key, int32(l.c.Partitions))}
	if key == "" {
		p.number = spread(m.UUID, int32(l.c.Partitions))
	}
	r := &kgo.Record{Topic: l.c.Prefix + topic, Partition: p.number, Value: m.Payload}
	if r.Value == nil {
		r.Value = []byte{}
	}
	if key != "" {
		r.Key = []byte(key)
	}
	for _, h := range encoded.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	l.seq[p]++
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: headerSeq, Value: fmt.Appendf(nil, "%s-%d", l.name, l.seq[p])})
	return r, nil
}

// decode is a record of franz-go's as decodeRecord has it.
func decode(topic string, r *kgo.Record) record {
	p := protocol.Record{Offset: r.Offset, Time: r.Timestamp}
	if r.Value != nil {
		p.Value = protocol.NewBytes(bytes.Clone(r.Value))
	}
	for _, h := range r.Headers {
		p.Headers = append(p.Headers, protocol.Header{Key: h.Key, Value: h.Value})
	}
	return decoded(partition{topic, r.Partition}, &p)
}

func (l *kgoLog) Close() error {
	l.mu.Lock()
	l.closed = true
	var subs []*kgoSubscriber
	for s := range l.subs {
		subs = append(subs, s)
	}
	l.mu.Unlock()
	var closing sync.WaitGroup
	for _, s := range subs {
		closing.Go(func() { _ = s.Close() })
	}
	closing.Wait()
	l.client.Close()
	return nil
}

func (l *kgoLog) Subscriber(c SubscriberConfig) (message.Subscriber, error) {
	c.InHand = max(c.InHand, 1)
	if c.Key == nil {
		c.InHand = 1
	}
	s := &kgoSubscriber{l: l, c: c}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	l.subs[s] = struct{}{}
	return s, nil
}

// kgoSubscriber is a group's subscriptions, each a member of the group.
type kgoSubscriber struct {
	l *kgoLog
	c SubscriberConfig

	mu     sync.Mutex
	subs   []*kgoSubscription
	closed bool
}

func (s *kgoSubscriber) SubscribeInitialize(topic string) error {
	err := s.l.Ensure(context.Background(), topic)
	if err == nil && s.c.FromEnd {
		err = s.settle(context.Background(), topic)
	}
	return err
}

// settle gives a group that starts at the end its places there, unless it has some.
func (s *kgoSubscriber) settle(ctx context.Context, topic string) error {
	group, name := s.l.c.Prefix+s.c.Group, s.l.c.Prefix+topic
	fetch, list, commit := kmsg.NewPtrOffsetFetchRequest(), kmsg.NewPtrListOffsetsRequest(), kmsg.NewPtrOffsetCommitRequest()
	of := kmsg.NewOffsetFetchRequestTopic()
	lo := kmsg.NewListOffsetsRequestTopic()
	of.Topic, lo.Topic, list.ReplicaID = name, name, -1
	for n := range int32(s.l.c.Partitions) {
		of.Partitions = append(of.Partitions, n)
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = n, -1
		lo.Partitions = append(lo.Partitions, p)
	}
	fetch.Group, fetch.Topics, list.Topics = group, append(fetch.Topics, of), append(list.Topics, lo)
	places, err := fetch.RequestWith(ctx, s.l.client)
	if err != nil {
		return err
	}
	ends, err := list.RequestWith(ctx, s.l.client)
	if err != nil {
		return err
	}
	known := make(map[int32]bool)
	for _, t := range places.Topics {
		for _, p := range t.Partitions {
			known[p.Partition] = p.Offset >= 0
		}
	}
	oc := kmsg.NewOffsetCommitRequestTopic()
	oc.Topic = name
	for _, t := range ends.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
			if !known[p.Partition] {
				c := kmsg.NewOffsetCommitRequestTopicPartition()
				c.Partition, c.Offset = p.Partition, p.Offset
				oc.Partitions = append(oc.Partitions, c)
			}
		}
	}
	commit.Group, commit.Generation, commit.Topics = group, -1, append(commit.Topics, oc)
	if len(oc.Partitions) == 0 {
		return nil
	}
	answer, err := commit.RequestWith(ctx, s.l.client)
	if err != nil {
		return err
	}
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			// A group that has members has been settled by them.
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil && !errors.Is(err, kerr.UnknownMemberID) {
				return err
			}
		}
	}
	return nil
}

func (s *kgoSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := s.SubscribeInitialize(topic); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	sub, err := newKgoSubscription(ctx, s, topic)
	if err != nil {
		return nil, err
	}
	s.subs = append(s.subs, sub)
	return sub.out, nil
}

func (s *kgoSubscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	subs := slices.Clone(s.subs)
	s.mu.Unlock()
	for _, sub := range subs {
		sub.cancel()
	}
	for _, sub := range subs {
		<-sub.gone
	}
	s.l.mu.Lock()
	delete(s.l.subs, s)
	s.l.mu.Unlock()
	return nil
}
