package kafkalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// damages collects what a log says of damage.
type damages struct {
	mu  sync.Mutex
	all []int64
}

func (d *damages) note(_ string, _ int32, offset int64, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, offset)
}

func (d *damages) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprint(d.all)
}

// raw appends a record as it is, by way of kafka-go.
func raw(t *testing.T, l *Log, r protocol.Record) {
	t.Helper()
	answer, err := l.client.roundTrip(t.Context(), &produce.Request{
		Acks: -1, Timeout: 1000,
		Topics: []produce.RequestTopic{{Topic: orders, Partitions: []produce.RequestPartition{{
			RecordSet: protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(r)},
		}}}},
	})
	if err == nil {
		err = code(answer.(*produce.Response).Topics[0].Partitions[0].ErrorCode, "")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A record that fails its own checksum is reported once and finished for every group; one of another program is handed out.
func TestARecordThatIsNotAsWrittenNeverReachesAHandler(t *testing.T) {
	t.Parallel()
	var found damages
	c := alone(cluster(t, 1))
	c.OnDamage = found.note
	l := opened(t, c)
	ensured(t, l, orders)
	add(t, l, msg("a", "one"))
	r, _, err := encodeRecord(msg("b", "two"), "")
	if err != nil {
		t.Fatal(err)
	}
	r.Value = protocol.NewBytes([]byte("six"))
	raw(t, l, r)
	raw(t, l, protocol.Record{Value: protocol.NewBytes([]byte("not ours")), Headers: []protocol.Header{{Key: "ce_id", Value: []byte("x")}}})
	for g := range 3 {
		out, _ := subscribe(t, l, SubscriberConfig{Group: fmt.Sprint(g)})
		if got := fmt.Sprint(drain(t, out, 2)); got != "[a x]" {
			t.Errorf("got %s", got)
		}
		until(t, "no lag", func() bool { return behind(t, l, fmt.Sprint(g)) == 0 })
	}
	if got := found.String(); got != "[1]" {
		t.Errorf("reported %s", got)
	}
}

// script is a partition whose batches are given as they are, with the offsets they cover.
type script struct {
	mu      sync.Mutex
	batches []scripted
	asked   atomic.Int64
}

type scripted struct {
	from, upTo int64
	bytes      []byte
}

// play keeps the batches that reach the cluster, and answers fetches of partition 0 of a topic with what is made of them.
func (s *script) play(k *kfake.Cluster, topic string, made func(b scripted) []byte) {
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, t := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range t.Partitions {
				if t.Topic != topic || p.Partition != 0 {
					continue
				}
				from := int64(0)
				if n := len(s.batches); n > 0 {
					from = s.batches[n-1].upTo
				}
				b := scripted{from: from, upTo: from + 1 + int64(int32(binary.BigEndian.Uint32(p.Records[23:]))), bytes: append([]byte(nil), p.Records...)}
				binary.BigEndian.PutUint64(b.bytes, uint64(from)) // outside of what the sum covers
				s.batches = append(s.batches, b)
			}
		}
		return nil, nil, false
	})
	k.ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		s.asked.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		req := kreq.(*kmsg.FetchRequest)
		res := req.ResponseKind().(*kmsg.FetchResponse)
		some := false
		for _, rt := range req.Topics {
			if rt.Topic != topic {
				return nil, nil, false
			}
			at := kmsg.NewFetchResponseTopic()
			at.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				p := kmsg.NewFetchResponseTopicPartition()
				p.Partition = rp.Partition
				if rp.Partition == 0 && len(s.batches) > 0 {
					p.HighWatermark = s.batches[len(s.batches)-1].upTo
					for _, b := range s.batches {
						if rp.FetchOffset < b.upTo {
							bytes := made(b)
							p.RecordBatches, some = append(p.RecordBatches, bytes...), true
							if bytes == nil || int32(len(p.RecordBatches)) >= rp.PartitionMaxBytes {
								break
							}
						}
					}
				}
				at.Partitions = append(at.Partitions, p)
			}
			res.Topics = append(res.Topics, at)
		}
		if !some {
			return nil, nil, false // the cluster waits for records better
		}
		return res, nil, true
	})
}

func TestABatchThatCannotBeReadIsSkippedAndReported(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(b []byte) []byte{
		"its sum is wrong":        func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"its compression unknown": func(b []byte) []byte { b[22] |= 7; return b },
		"it is empty": func(b []byte) []byte {
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := cluster(t, 1)
			var found damages
			c := lively(k)
			c.Partitions = 2
			c.OnDamage = found.note
			c.PartitionKey = func(*message.Message) string { return "" }
			l := opened(t, c)
			ensured(t, l, orders)
			var s script
			s.play(k, orders, func(b scripted) []byte {
				bytes := append([]byte(nil), b.bytes...)
				if b.from >= 3 && b.from < 6 {
					return spoil(bytes)
				}
				return bytes
			})
			var want []string
			for i := 0; len(want) < 9 || i < 20; i++ { // until there are nine in partition 0
				m := msg(fmt.Sprint(i), "")
				s.mu.Lock()
				before := len(s.batches)
				s.mu.Unlock()
				add(t, l, m)
				s.mu.Lock()
				if len(s.batches) > before {
					want = append(want, m.UUID)
				}
				s.mu.Unlock()
			}
			lost := want[3:6]
			out, _ := subscribe(t, l, SubscriberConfig{Group: "g", InHand: 100, Key: unordered})
			came := make(map[string]bool)
			for len(came) < len(want)-3 {
				m := receive(t, out)
				for _, uuid := range want {
					if m.UUID == uuid {
						came[uuid] = true
					}
				}
				m.Ack()
			}
			for _, uuid := range lost {
				if came[uuid] {
					t.Errorf("%s came", uuid)
				}
			}
			if got := found.String(); got != "[3 4 5]" {
				t.Errorf("reported %s, want [3 4 5]", got)
			}
			asked := s.asked.Load()
			began := time.Now()
			until(t, "time passes", func() bool { return time.Since(began) > 300*time.Millisecond })
			if n := s.asked.Load() - asked; n > 20 {
				t.Errorf("%d requests while nothing happens", n)
			}
		})
	}
}

func TestOnlyAnswersThatCannotBeReadAreSuspect(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		errors.New("crc32 checksum mismatch"):              true,
		net.ErrClosed:                                      false,
		&net.OpError{Op: "read", Err: errors.New("reset")}: false,
	} {
		if unreadable(fmt.Errorf("fetch: %w", err)) != want {
			t.Errorf("%v: want %v", err, want)
		}
	}
}

func TestDamageIsToldOnceHoweverManyGroupsMeetIt(t *testing.T) {
	t.Parallel()
	var told damages
	c := alone(cluster(t, 1))
	c.OnDamage = told.note
	l := opened(t, c)
	ensured(t, l, orders)
	raw(t, l, protocol.Record{Value: protocol.NewBytes([]byte("x")), Headers: []protocol.Header{
		{Key: headerUUID, Value: []byte("a")}, {Key: headerSum, Value: []byte("00000000")},
	}})
	raw(t, l, protocol.Record{Value: protocol.NewBytes([]byte("y"))})
	for _, group := range []string{"one", "another", "a third"} {
		out, s := subscribe(t, l, SubscriberConfig{Group: group})
		receive(t, out).Ack()
		closed(t, s)
	}
	if told.String() != "[0]" {
		t.Errorf("told of %s", &told)
	}
}
