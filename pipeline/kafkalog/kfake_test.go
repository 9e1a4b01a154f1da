package kafkalog

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// cluster starts brokers in this process, which end with the test.
func cluster(t testing.TB, brokers int, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(brokers)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// at is a config for a cluster: three partitions, no replicas, nothing logged.
func at(c *kfake.Cluster) Config {
	return Config{
		Brokers: c.ListenAddrs(), Partitions: 3, Replication: 1,
		Logger:         slog.New(slog.DiscardHandler),
		RequestTimeout: 5 * time.Second, CloseTimeout: 2 * time.Second,
	}
}

// opened opens a log, which is closed with the test.
func opened(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ensured creates topics.
func ensured(t testing.TB, l *Log, topics ...string) {
	t.Helper()
	if err := l.Ensure(t.Context(), topics...); err != nil {
		t.Fatal(err)
	}
}

// note is a message with a body and a UUID.
func note(ctx context.Context, uuid, body string) *message.Message {
	return message.NewMessageWithContext(ctx, uuid, []byte(body))
}

// stored reads everything a topic holds, partition by partition, not by way of the log's own reading.
func stored(t testing.TB, l *Log, topic string) map[int32][]record {
	t.Helper()
	numbers, err := l.client.layout(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[int32][]record)
	for _, n := range numbers {
		p := partition{topic, n}
		l.client.refresh()
		ends, err := l.client.offsets(t.Context(), []partition{p}, atEnd)
		if err != nil {
			t.Fatal(err)
		}
		for next := int64(0); next < ends[p]; {
			r, err := l.client.roundTrip(t.Context(), &fetch.Request{
				ReplicaID: -1, MaxBytes: 1 << 20, SessionEpoch: -1,
				Topics: []fetch.RequestTopic{{Topic: l.client.wire(topic), Partitions: []fetch.RequestPartition{
					{Partition: n, CurrentLeaderEpoch: -1, FetchOffset: next, LogStartOffset: -1, PartitionMaxBytes: 1 << 20}}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			part := r.(*fetch.Response).Topics[0].Partitions[0]
			if part.ErrorCode != 0 {
				t.Fatal(kafka.Error(part.ErrorCode))
			}
			for {
				k, err := part.RecordSet.Records.ReadRecord()
				if err != nil {
					break
				}
				d := decoded(p, k)
				if d.fault != nil {
					t.Fatalf("record %d of %s: %v", d.offset, p, d.fault)
				}
				if d.offset >= next {
					found[n] = append(found[n], d)
					next = d.offset + 1
				}
			}
		}
	}
	return found
}

// bodies are the payloads of records of all partitions, sorted.
func bodies(rs map[int32][]record) []string {
	var all []string
	for _, part := range rs {
		for _, r := range part {
			all = append(all, string(r.payload))
		}
	}
	slices.Sort(all)
	return all
}

// refusal is the answer of a broker that fails a whole produce request with a code before it writes anything, as Apache Kafka gives
// it: without an offset.
func refusal(req kmsg.Request, code kafka.Error) *kmsg.ProduceResponse {
	p := req.(*kmsg.ProduceRequest)
	resp := p.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range p.Topics {
		t := kmsg.NewProduceResponseTopic()
		t.Topic, t.TopicID = topic.Topic, topic.TopicID
		for _, part := range topic.Partitions {
			a := kmsg.NewProduceResponseTopicPartition()
			a.Partition, a.ErrorCode, a.BaseOffset = part.Partition, int16(code), -1
			t.Partitions = append(t.Partitions, a)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

// announce makes the cluster name one broker, number 7, at an address where nobody is, and leader as the one that leads the three partitions of a topic.
func announce(c *kfake.Cluster, topic string, leader int32) {
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		r := req.ResponseKind().(*kmsg.MetadataResponse)
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = 7, "127.0.0.1", 1
		r.Brokers = append(r.Brokers, b)
		t := kmsg.NewMetadataResponseTopic()
		t.Topic = kmsg.StringPtr(topic)
		for i := range int32(3) {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader = i, leader
			t.Partitions = append(t.Partitions, p)
		}
		r.Topics = append(r.Topics, t)
		return r, nil, true
	})
}

// gate holds up what passes it until it is opened.
type gate struct {
	once    sync.Once
	open    chan struct{}
	arrived chan struct{} // gets one for each that came
}

func newGate() *gate { return &gate{open: make(chan struct{}), arrived: make(chan struct{}, 1024)} }

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

// stall makes the broker hold up every produce request until the gate is open.
func stall(t testing.TB, c *kfake.Cluster) *gate {
	g := newGate()
	t.Cleanup(g.release)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		g.arrived <- struct{}{}
		c.SleepControl(func() { <-g.open })
		return nil, nil, false
	})
	return g
}

// until waits for a condition.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("waited in vain: " + what)
		}
	}
}

func named(prefix string, i int) string { return fmt.Sprintf("%s-%04d", prefix, i) }

// worth is what a counter or gauge stands at.
func worth(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		t.Fatal(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}
