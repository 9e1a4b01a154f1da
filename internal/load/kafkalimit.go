package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/produce"
)

const (
	limitPartitions = 12
	limitGroup      = "limit"
	// longPoll is how long a fetch waits for something to come, and commitEvery how often offsets are committed.
	longPoll    = 250 * time.Millisecond
	commitEvery = 250 * time.Millisecond
	// patience bounds every other request.
	patience = 10 * time.Second
)

// kafkaLimit is the bare loop around Kafka.
type kafkaLimit struct {
	*limit
	address   net.Addr
	transport *kafka.Transport
	client    *kafka.Client
	leads     map[int][]int // partitions by the broker that leads them
	turn      int           // partition of the next record; used by produce alone

	mu    sync.Mutex
	parts []limitPart
}

// limitPart is how far a partition is.
type limitPart struct {
	end       int64          // after what was confirmed
	fetched   int64          // after what was fetched
	done      int64          // after what was posted on without a gap
	beyond    map[int64]bool // posted on, after a gap
	committed int64
}

// newKafkaLimit creates the topic and finds its leaders, which do not change: nothing fails where a limit is measured.
func newKafkaLimit(ctx context.Context, l *limit) (*kafkaLimit, error) {
	k := &kafkaLimit{
		limit: l, address: kafka.TCP(l.config.Brokers...), transport: &kafka.Transport{ClientID: "tidewire-limit"},
		leads: make(map[int][]int), parts: make([]limitPart, limitPartitions),
	}
	k.client = &kafka.Client{Addr: k.address, Transport: k.transport, Timeout: patience}
	made, err := k.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{
		{Topic: l.config.Topic, NumPartitions: limitPartitions, ReplicationFactor: 1},
	}})
	if err == nil {
		err = made.Errors[l.config.Topic]
	}
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return nil, fmt.Errorf("create topic %s: %w", l.config.Topic, err)
	}
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := k.findLeaders(bound)
		if err == nil {
			return k, nil
		}
		select {
		case <-bound.Done():
			return nil, fmt.Errorf("topic %s: %w", l.config.Topic, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (k *kafkaLimit) findLeaders(ctx context.Context) error {
	m, err := k.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{k.config.Topic}})
	if err != nil {
		return err
	}
	clear(k.leads)
	for _, t := range m.Topics {
		if err := t.Error; err != nil {
			return err
		}
		for _, p := range t.Partitions {
			if p.Error != nil {
				return p.Error
			}
			if p.Leader.Host == "" || p.ID >= len(k.parts) {
				return fmt.Errorf("partition %d has no leader, or is not one of %d", p.ID, len(k.parts))
			}
			k.leads[p.Leader.ID] = append(k.leads[p.Leader.ID], p.ID)
		}
	}
	if len(k.leads) == 0 {
		return errors.New("it has no partitions")
	}
	return nil
}

// carry produces, fetches and commits until quit is closed and all that was confirmed is in posts.
func (k *kafkaLimit) carry(ctx context.Context) {
	defer close(k.posts)
	produced := make(chan struct{})
	var work sync.WaitGroup
	for _, partitions := range k.leads {
		work.Go(func() { k.fetchAll(ctx, partitions, produced) })
	}
	committing, stop := context.WithCancel(ctx)
	var committer sync.WaitGroup
	committer.Go(func() { k.commitAll(committing) })
	k.produceAll(ctx)
	close(produced)
	work.Wait()
	stop()
	committer.Wait()
}

// produceAll sends what waits, again and again, one request to each leader at a time.
func (k *kafkaLimit) produceAll(ctx context.Context) {
	var group []*appending
	for {
		select {
		case first := <-k.appends:
			group = append(group[:0], first)
		case <-k.quit:
			return
		}
		for range len(k.appends) {
			group = append(group, <-k.appends)
		}
		spread := make(map[int][]*appending) // by partition
		for _, a := range group {
			spread[k.turn] = append(spread[k.turn], a)
			k.turn = (k.turn + 1) % len(k.parts)
		}
		var sending sync.WaitGroup
		for _, partitions := range k.leads {
			sending.Go(func() { k.produce(ctx, partitions, spread) })
		}
		sending.Wait()
	}
}

// produce sends one leader its share and answers those who wait.
func (k *kafkaLimit) produce(ctx context.Context, partitions []int, spread map[int][]*appending) {
	t := produce.RequestTopic{Topic: k.config.Topic}
	for _, p := range partitions {
		var records []protocol.Record
		for _, a := range spread[p] {
			records = append(records, protocol.Record{Value: protocol.NewBytes(a.body)})
		}
		if len(records) > 0 {
			t.Partitions = append(t.Partitions, produce.RequestPartition{
				Partition: int32(p), RecordSet: protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(records...)},
			})
		}
	}
	if len(t.Partitions) == 0 {
		return
	}
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := k.transport.RoundTrip(bound, k.address, &produce.Request{
		Acks: int16(kafka.RequireAll), Timeout: int32(patience.Milliseconds()), Topics: []produce.RequestTopic{t},
	})
	results := make(map[int32]error)
	if err == nil {
		for _, t := range answer.(*produce.Response).Topics {
			for _, p := range t.Partitions {
				results[p.Partition] = nil
				if p.ErrorCode != 0 {
					results[p.Partition] = kafka.Error(p.ErrorCode)
					continue
				}
				k.confirmed(int(p.Partition), p.BaseOffset+int64(len(spread[int(p.Partition)])))
			}
		}
	}
	for _, p := range t.Partitions {
		failed, answered := results[p.Partition]
		if err == nil && !answered {
			failed = errors.New("the broker says nothing of the partition")
		}
		for _, a := range spread[int(p.Partition)] {
			a.done <- errors.Join(err, failed)
		}
	}
}

func (k *kafkaLimit) confirmed(partition int, end int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.parts[partition].end = max(k.parts[partition].end, end)
}

// fetchAll reads one leader's partitions until all that was confirmed has been fetched and no more will be.
func (k *kafkaLimit) fetchAll(ctx context.Context, partitions []int, produced <-chan struct{}) {
	for ctx.Err() == nil {
		select {
		case <-produced:
			if k.allFetched(partitions) {
				return
			}
		default:
		}
		if err := k.fetch(ctx, partitions); err != nil {
			select { // there is nobody to tell; the bench sees what does not come
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func (k *kafkaLimit) allFetched(partitions []int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range partitions {
		if k.parts[p].fetched < k.parts[p].end {
			return false
		}
	}
	return true
}

func (k *kafkaLimit) fetch(ctx context.Context, partitions []int) error {
	t := fetch.RequestTopic{Topic: k.config.Topic}
	k.mu.Lock()
	for _, p := range partitions {
		t.Partitions = append(t.Partitions, fetch.RequestPartition{
			Partition: int32(p), CurrentLeaderEpoch: -1, FetchOffset: k.parts[p].fetched, LogStartOffset: -1, PartitionMaxBytes: 1 << 20,
		})
	}
	k.mu.Unlock()
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := k.transport.RoundTrip(bound, k.address, &fetch.Request{
		ReplicaID: -1, SessionEpoch: -1, MinBytes: 1, MaxBytes: 8 << 20, MaxWaitTime: int32(longPoll.Milliseconds()), Topics: []fetch.RequestTopic{t},
	})
	if err != nil {
		return err
	}
	for _, t := range answer.(*fetch.Response).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				err = errors.Join(err, kafka.Error(p.ErrorCode))
			} else if p.RecordSet.Records != nil {
				err = errors.Join(err, k.take(ctx, int(p.Partition), p.RecordSet.Records))
			}
		}
	}
	return err
}

// take brings the records of one partition to posts.
func (k *kafkaLimit) take(ctx context.Context, partition int, records protocol.RecordReader) error {
	k.mu.Lock()
	next := k.parts[partition].fetched
	k.mu.Unlock()
	for {
		r, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.Offset < next { // a batch comes whole, also when only its end was asked for
			continue
		}
		body, err := protocol.ReadAll(r.Value)
		if err != nil {
			return err
		}
		offset := r.Offset
		select {
		case k.posts <- posting{body, func() { k.posted(partition, offset) }}:
		case <-ctx.Done():
			return ctx.Err()
		}
		k.mu.Lock()
		k.parts[partition].fetched = offset + 1
		k.mu.Unlock()
	}
}

// posted moves the prefix that may be committed.
func (k *kafkaLimit) posted(partition int, offset int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := &k.parts[partition]
	if offset != p.done {
		if p.beyond == nil {
			p.beyond = make(map[int64]bool)
		}
		p.beyond[offset] = true
		return
	}
	for p.done++; p.beyond[p.done]; p.done++ {
		delete(p.beyond, p.done)
	}
}

// commitAll commits now and then until ctx ends.
func (k *kafkaLimit) commitAll(ctx context.Context) {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var moved []kafka.OffsetCommit
		k.mu.Lock()
		for i := range k.parts {
			if p := &k.parts[i]; p.done > p.committed {
				p.committed = p.done
				moved = append(moved, kafka.OffsetCommit{Partition: i, Offset: p.done})
			}
		}
		k.mu.Unlock()
		if len(moved) > 0 {
			// One that fails is made good by the next: nobody reads them here.
			_, _ = k.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
				GroupID: limitGroup, GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{k.config.Topic: moved},
			})
		}
	}
}
