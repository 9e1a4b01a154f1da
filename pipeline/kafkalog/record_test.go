package kafkalog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestOtherClientsCanReadTheRecords(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.Prefix = "tidewire."
	c.PartitionKey = func(m *message.Message) string { return m.Metadata["ce_partitionkey"] }
	l := opened(t, c)
	ensured(t, l, shop)
	m := note(t.Context(), "evt_1", `{"amount":5}`)
	m.Metadata = message.Metadata{"ce_specversion": "1.0", "ce_id": "evt_1", "ce_source": "shop", "ce_type": "invoice.paid", "ce_partitionkey": "cus_1", "content-type": "application/json"}
	began := time.Now().Add(-time.Second)
	if err := l.Publish(shop, m); err != nil {
		t.Fatal(err)
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.ConsumeTopics("tidewire."+shop))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	fetched := reader.PollFetches(t.Context()).Records()
	r := fetched[0]
	headers := make(map[string]string)
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	seq := headers["tidewire-seq"]
	delete(headers, "tidewire-seq")
	want := map[string]string{"tidewire-uuid": "evt_1", "tidewire-crc32c": "81138bc9"}
	maps.Copy(want, m.Metadata)
	if string(r.Key) != "cus_1" || string(r.Value) != `{"amount":5}` || !maps.Equal(headers, want) || len(r.Headers) != 9 || r.Timestamp.Before(began) {
		t.Errorf("key %q, value %q, headers %v at %v", r.Key, r.Value, headers, r.Timestamp)
	}
	if name, number, ok := strings.Cut(seq, "-"); !ok || len(name) != 8 || number != "1" {
		t.Errorf("tidewire-seq is %q", seq)
	}
	if r.Partition != spread("cus_1", 3) {
		t.Errorf("it is in partition %d", r.Partition)
	}
	// The number counts the records of a partition.
	if err := l.Publish(shop, m); err != nil {
		t.Fatal(err)
	}
	fetched = reader.PollFetches(t.Context()).Records()
	last := fetched[len(fetched)-1].Headers
	if name, _, _ := strings.Cut(seq, "-"); string(last[len(last)-1].Value) != name+"-2" {
		t.Errorf("tidewire-seq of the next is %q, of the first %q", last[len(last)-1].Value, seq)
	}
}

func TestRecordsOfOtherProgramsAreAccepted(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, "foreign")
	writer, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.DefaultProduceTopic("foreign"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for _, r := range []*kgo.Record{
		{Value: []byte("plain")},
		{Value: []byte("named"), Key: []byte("k"), Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte("evt_7")}, {Key: "x", Value: []byte{0xff, 0}}, {Key: "x", Value: nil}}},
		{},
	} {
		if err := writer.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for offset, want := range []struct{ uuid, body string }{{"foreign/0/0", "plain"}, {"evt_7", "named"}, {"foreign/0/2", ""}} {
		m, err := l.Read(t.Context(), "foreign", 0, int64(offset))
		if err != nil || m.UUID != want.uuid || string(m.Payload) != want.body {
			t.Errorf("offset %d: %v, %v", offset, m, err)
		}
	}
}

// encoded is a message's record as it comes back.
func encoded(t testing.TB, m *message.Message) protocol.Record {
	t.Helper()
	r, _, err := encodeRecord(m, "key")
	if err != nil {
		t.Fatal(err)
	}
	r.Headers = append(r.Headers, protocol.Header{Key: headerSeq, Value: []byte("00000000-1")})
	return r
}

// received is a record as it is in an answer.
func received(r *protocol.Record) *rawRecord {
	in := &rawRecord{offset: r.Offset, at: r.Time, count: len(r.Headers)}
	if r.Value != nil {
		in.value, _ = protocol.ReadAll(r.Value)
	}
	text := func(b []byte) {
		in.headers = append(binary.AppendVarint(in.headers, int64(len(b))), b...)
	}
	for _, h := range r.Headers {
		if text([]byte(h.Key)); h.Value == nil {
			in.headers = binary.AppendVarint(in.headers, -1)
		} else {
			text(h.Value)
		}
	}
	return in
}

// decoded is what becomes of it.
func decoded(p partition, r *protocol.Record) record {
	var room []byte
	return decodeRecord(p, received(r), &room)
}

func example(t testing.TB) *message.Message {
	m := note(t.Context(), "evt_1", `{"amount":5}`)
	m.Metadata = message.Metadata{"ce_type": "invoice.paid", "empty": "", "": "nameless"}
	return m
}

func TestWhatIsWrittenComesBack(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]*message.Message{
		"usual":   example(t),
		"bare":    {UUID: "", Metadata: nil, Payload: nil},
		"binary":  {UUID: "\x00\xff", Metadata: message.Metadata{"\xff": "\x00"}, Payload: []byte{0, 255}},
		"pairs":   {UUID: "u", Metadata: message.Metadata{"ab": "c"}, Payload: []byte("d")},
		"a large": {UUID: "u", Payload: bytes.Repeat([]byte("x"), 200_000)},
	} {
		r := encoded(t, m)
		if r.Value == nil {
			t.Errorf("%s: the record has no value, which to others is a deletion", name)
		}
		d := decoded(partition{shop, 2}, &r)
		if d.fault != nil || d.uuid != m.UUID || !bytes.Equal(d.payload, m.Payload) || !maps.Equal(d.metadata, m.Metadata) || d.topic != shop || d.partition != 2 {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestAnyChangeOfARecordIsAFault(t *testing.T) {
	t.Parallel()
	changes := map[string]func(*protocol.Record){
		"payload":       func(r *protocol.Record) { r.Value = protocol.NewBytes([]byte(`{"amount":6}`)) },
		"no payload":    func(r *protocol.Record) { r.Value = nil },
		"no checksum":   func(r *protocol.Record) { drop(r, headerSum) },
		"no UUID":       func(r *protocol.Record) { drop(r, headerUUID) },
		"a header less": func(r *protocol.Record) { drop(r, "empty") },
		"a header more": func(r *protocol.Record) { r.Headers = append(r.Headers, protocol.Header{Key: "more"}) },
		"moved a letter": func(r *protocol.Record) {
			swap(r, "ce_type", protocol.Header{Key: "ce_typei", Value: []byte("nvoice.paid")})
		},
		"UUID": func(r *protocol.Record) {
			swap(r, headerUUID, protocol.Header{Key: headerUUID, Value: []byte("evt_2")})
		},
		"value": func(r *protocol.Record) {
			swap(r, "ce_type", protocol.Header{Key: "ce_type", Value: []byte("invoice.void")})
		},
		"checksum": func(r *protocol.Record) { swap(r, headerSum, protocol.Header{Key: headerSum, Value: []byte("x")}) },
	}
	for name, change := range changes {
		r := encoded(t, example(t))
		change(&r)
		if d := decoded(partition{shop, 0}, &r); d.fault == nil {
			t.Errorf("%s: no fault", name)
		}
	}
}

func drop(r *protocol.Record, name string) {
	for i, h := range r.Headers {
		if h.Key == name {
			r.Headers = append(r.Headers[:i:i], r.Headers[i+1:]...)
			return
		}
	}
}

func swap(r *protocol.Record, name string, h protocol.Header) {
	drop(r, name)
	r.Headers = append(r.Headers, h)
}

func TestTheLogsOwnHeadersAreNoMetadata(t *testing.T) {
	t.Parallel()
	for _, name := range []string{headerUUID, headerSum, headerSeq} {
		if _, _, err := encodeRecord(&message.Message{Metadata: message.Metadata{name: "x"}}, ""); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestPartitionsOfKeysNeverChange(t *testing.T) {
	t.Parallel()
	// The hashes are those of Kafka's own producer.
	for key, want := range map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107} {
		if got := int32(murmur2(key)); got != want {
			t.Errorf("hash of %q is %d, want %d", key, got, want)
		}
	}
	for key, want := range map[string]int32{"": 9, "a": 4, "cus_1": 8, "cus_2": 11, "evt_1NG8Du2eZvKYlo2CUI79vXWy": 0, "日本語": 10} {
		if got := spread(key, 12); got != want {
			t.Errorf("%q is in partition %d of 12, want %d", key, got, want)
		}
	}
}

func TestOtherProducersChooseTheSamePartitions(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1, kfake.SeedTopics(12, "spread"))
	writer, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.DefaultProduceTopic("spread"))
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for i := range 100 {
		key := strings.Repeat("k", i%7) + named("", i*i)
		r, err := writer.ProduceSync(t.Context(), &kgo.Record{Key: []byte(key)}).First()
		if err != nil {
			t.Fatal(err)
		}
		if got := spread(key, 12); got != r.Partition {
			t.Errorf("key %q is in partition %d here and in %d there", key, got, r.Partition)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, m := range []*message.Message{example(f), {UUID: "u"}} {
		r := encoded(f, m)
		value, _ := protocol.ReadAll(r.Value)
		headers, _ := json.Marshal(r.Headers)
		f.Add(value, headers)
	}
	f.Add([]byte("x"), []byte(`[{"Key":"tidewire-crc32c","Value":"AAAA"},{"Key":"tidewire-uuid"}]`))
	f.Add([]byte("x"), []byte(`[{"Key":"ce_id","Value":"AAAA"},{"Key":"ce_id"}]`))
	f.Fuzz(func(t *testing.T, value, pairs []byte) {
		var headers []protocol.Header
		if json.Unmarshal(pairs, &headers) != nil {
			return
		}
		r := protocol.Record{Offset: 7, Value: protocol.NewBytes(value), Headers: headers}
		d := decoded(partition{shop, 1}, &r)
		if d.fault != nil {
			return
		}
		if d.uuid == "" && len(headers) == 0 || !bytes.Equal(d.payload, value) {
			t.Fatalf("%+v", d)
		}
		// What is taken is written again as the same.
		again, _, err := encodeRecord(d.message(), "")
		if err != nil {
			t.Fatal(err)
		}
		if e := decoded(partition{shop, 1}, &again); e.fault != nil || e.uuid != d.uuid || !maps.Equal(e.metadata, d.metadata) {
			t.Fatalf("%+v\n%+v", d, e)
		}
	})
}
