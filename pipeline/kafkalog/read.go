package kafkalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// Read returns one record by its place, of a topic that exists. ErrNoRecord says that there is none: not yet, or no longer. Another error may say that it is not as it was
// written.
func (l *Log) Read(ctx context.Context, topic string, number int32, offset int64) (*message.Message, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	p := partition{topic, number}
	r, err := l.client.record(ctx, p, offset)
	if err != nil {
		return nil, fmt.Errorf("read %d of %s: %w", offset, p, err)
	}
	if r.fault != nil {
		return nil, fmt.Errorf("read %d of %s: it is not as it was written: %w", offset, p, r.fault)
	}
	m := r.message()
	if l.c.Prepare != nil {
		l.c.Prepare(m, topic, number, offset)
	}
	return m, nil
}

// record fetches one record. It tries again when the partition has moved.
func (c *client) record(ctx context.Context, p partition, offset int64) (*record, error) {
	for attempt := 0; ; attempt++ {
		r, err := c.fetchOne(ctx, p, offset)
		if err == nil || !displaced(err) || attempt == 5 {
			return r, err
		}
		c.refresh()
		if err := pause(ctx, attempt); err != nil {
			return nil, err
		}
		if err := c.freshen(ctx); err != nil {
			return nil, err
		}
	}
}

func (c *client) fetchOne(ctx context.Context, p partition, offset int64) (*record, error) {
	answer, err := c.roundTrip(ctx, &fetchRequest{clientID: c.c.ClientID, Request: fetch.Request{
		ReplicaID: -1, MaxBytes: 1, SessionEpoch: -1, // a batch comes whole, however large
		Topics: []fetch.RequestTopic{{Topic: c.wire(p.topic), Partitions: []fetch.RequestPartition{
			{Partition: p.number, CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: 1},
		}}},
	}})
	if err != nil {
		return nil, err
	}
	r := answer.(*fetched)
	if err := code(r.code, ""); err != nil {
		return nil, err
	}
	if len(r.parts) != 1 {
		return nil, errors.New("the answer does not name the partition")
	}
	part := r.parts[0]
	if kafka.Error(part.code) == kafka.OffsetOutOfRange {
		return nil, ErrNoRecord
	}
	if err := code(part.code, ""); err != nil {
		return nil, err
	}
	for i := range part.records {
		if raw := &part.records[i]; raw.offset == offset {
			var room []byte
			found := decodeRecord(p, raw, &room)
			return &found, nil
		}
	}
	return nil, ErrNoRecord
}
