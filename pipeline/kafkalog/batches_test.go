package kafkalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// batchOf is a batch of n records as kafka-go writes them.
func batchOf(t testing.TB, n int, version int8, attributes protocol.Attributes) []byte {
	t.Helper()
	var records []protocol.Record
	for i := range n {
		m := note(t.Context(), fmt.Sprint("evt_", i), fmt.Sprintf(`{"amount":%d,"text":%q}`, i, bytes.Repeat([]byte("x"), 900)))
		m.Metadata = map[string]string{
			"ce_id": m.UUID, "ce_source": "/shop", "ce_specversion": "1.0", "ce_type": "invoice.paid", "ce_time": "2026-01-02T03:04:05Z",
			"ce_recorded": "2026-01-02T03:04:05.123456Z", "ce_partitionkey": "cus_1", "content-type": "application/json",
		}
		r, _, err := encodeRecord(m, "cus_1")
		if err != nil {
			t.Fatal(err)
		}
		r.Headers = append(r.Headers, protocol.Header{Key: headerSeq, Value: []byte("00000000-1")})
		if version < 2 {
			r.Headers = nil
		}
		records = append(records, r)
	}
	var b bytes.Buffer
	set := protocol.RecordSet{Version: version, Attributes: attributes, Records: protocol.NewRecordReader(records...)}
	if _, err := set.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()[4:]
}

// shifted is a batch that begins at another offset.
func shifted(b []byte, to int64) []byte {
	b = bytes.Clone(b)
	binary.BigEndian.PutUint64(b, uint64(to))
	return b
}

// summed is a batch whose checksum has been put right.
func summed(b []byte) []byte {
	binary.BigEndian.PutUint32(b[batchSummed-4:], crc32.Checksum(b[batchSummed:], castagnoli))
	return b
}

func offsets(records []rawRecord) (all []int64) {
	for _, r := range records {
		all = append(all, r.offset)
	}
	return all
}

func TestBatchesOfAllKindsAreRead(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]struct {
		version int8
		codec   protocol.Attributes
	}{
		"plain": {2, 0}, "gzip": {2, protocol.Gzip}, "snappy": {2, protocol.Snappy}, "lz4": {2, protocol.Lz4}, "zstd": {2, protocol.Zstd},
		"old": {1, 0},
	} {
		b := batchOf(t, 3, of.version, of.codec)
		records, some, err := readBatches(append(b, shifted(b, 3)...))
		if of.version < 2 { // each of its records bears its own offset
			records = records[:3]
		}
		if err != nil || !some || len(records) < 3 {
			t.Fatalf("%s: %d records, %v, %v", name, len(records), some, err)
		}
		for i, r := range records {
			if of.version == 2 {
				var room []byte
				d := decodeRecord(partition{shop, 1}, &r, &room)
				if d.fault != nil || d.offset != int64(i) || d.uuid != fmt.Sprint("evt_", i%3) || len(d.metadata) != 8 || d.metadata["ce_type"] != "invoice.paid" {
					t.Errorf("%s: record %d: %+v", name, i, d)
				}
			}
			if r.control || time.Since(r.at).Abs() > time.Hour || !bytes.HasPrefix(r.value, fmt.Appendf(nil, `{"amount":%d,`, i%3)) {
				t.Errorf("%s: record %d: %+v", name, i, r)
			}
		}
	}
}

// The last batch of an answer may be cut off anywhere.
func TestABatchThatIsCutOffIsNotThere(t *testing.T) {
	t.Parallel()
	b := batchOf(t, 2, 2, 0)
	two := append(bytes.Clone(b), shifted(b, 2)...)
	for n := range two {
		records, some, err := readBatches(two[:n])
		want := 0
		if n >= len(b) {
			want = 2
		}
		if len(records) != want || some != (want > 0) || err != nil {
			t.Fatalf("of %d bytes: %d records, %v, %v", n, len(records), some, err)
		}
	}
}

func TestWhatIsBeforeABatchThatCannotBeReadIsKept(t *testing.T) {
	t.Parallel()
	good := batchOf(t, 2, 2, 0)
	for name, spoil := range map[string]func(b []byte) []byte{
		"sum":            func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"codec":          func(b []byte) []byte { b[22] |= 7; return summed(b) },
		"not compressed": func(b []byte) []byte { b[22] |= byte(protocol.Gzip); return summed(b) },
		"a long record":  func(b []byte) []byte { b[batchRecords], b[batchRecords+1] = 0xff, 0x7f; return summed(b) },
		"short":          func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 20); return b },
		"negative":       func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 1<<31); return b },
		"format":         func(b []byte) []byte { b[batchMagic] = 3; return b },
	} {
		bad := spoil(shifted(good, 2))
		if records, some, err := readBatches(bad); len(records) > 0 || some || err == nil {
			t.Errorf("%s: %d records, %v, %v", name, len(records), some, err)
		}
		records, some, err := readBatches(append(bytes.Clone(good), bad...))
		if fmt.Sprint(offsets(records)) != "[0 1]" || !some || err != nil {
			t.Errorf("%s, after a good one: %v, %v, %v", name, offsets(records), some, err)
		}
	}
}

func TestHeadersThatCannotBeReadAreAFaultOfTheirRecord(t *testing.T) {
	t.Parallel()
	records, _, err := readBatches(batchOf(t, 1, 2, 0))
	if err != nil {
		t.Fatal(err)
	}
	whole := records[0]
	for n := range whole.headers {
		r := whole
		r.headers = r.headers[:n]
		var room []byte
		if d := decodeRecord(partition{shop, 1}, &r, &room); !errors.Is(d.fault, errHeaders) || d.uuid == "" {
			t.Fatalf("of %d bytes: %+v", n, d)
		}
	}
}

// Whoever announces two gigabytes has not sent them yet.
func TestAnAnswerTakesMemoryAsItComes(t *testing.T) {
	t.Parallel()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readSized(bytes.NewReader([]byte{0x7f, 0xff, 0xff, 0xff, 1, 2, 3}))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) || after.TotalAlloc-before.TotalAlloc > 256<<20 {
		t.Errorf("%v, and %d bytes", err, after.TotalAlloc-before.TotalAlloc)
	}
	want := bytes.Repeat([]byte("0123456789"), sizedStep/4)
	got, err := readSized(iotest.HalfReader(bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, uint32(len(want))), want...))))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if _, err := readSized(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff})); err == nil {
		t.Error("an answer of less than nothing is taken")
	}
}

// A record that somebody has copied may have its headers in another order.
func TestTheOrderOfHeadersDoesNotMatter(t *testing.T) {
	t.Parallel()
	r := encoded(t, example(t))
	slices.Reverse(r.Headers)
	d := decoded(partition{shop, 1}, &r)
	if d.fault != nil || d.uuid != "evt_1" || len(d.metadata) != 3 {
		t.Errorf("%+v", d)
	}
}

// answered is an answer of one topic to a fetch.
func answered(t testing.TB, parts ...fetch.ResponsePartition) []byte {
	t.Helper()
	var b bytes.Buffer
	err := protocol.WriteResponse(&b, fetchVersion, 7, &fetch.Response{Topics: []fetch.ResponseTopic{{Topic: "tidewire.shop", Partitions: parts}}})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAnswersAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	r, _, err := encodeRecord(example(t), "key")
	if err != nil {
		t.Fatal(err)
	}
	b := answered(t,
		fetch.ResponsePartition{Partition: 3, HighWatermark: 9, LogStartOffset: 2, AbortedTransactions: []fetch.ResponseTransaction{{ProducerID: 1, FirstOffset: 2}},
			RecordSet: protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(r)}},
		fetch.ResponsePartition{Partition: 4, ErrorCode: 6, HighWatermark: -1, LogStartOffset: -1,
			RecordSet: protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(r)}})
	got, err := readFetched(&bites{left: b[8:]})
	if err != nil || len(got.parts) != 2 || got.code != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	one, two := got.parts[0], got.parts[1]
	if one.topic != "tidewire.shop" || one.number != 3 || one.code != 0 || one.end != 9 || one.start != 2 || !one.some || len(one.records) != 1 {
		t.Errorf("%+v", one)
	}
	if two.number != 4 || two.code != 6 || two.end != -1 || two.start != -1 {
		t.Errorf("%+v", two)
	}
	for n := range len(b) - 8 {
		if _, err := readFetched(&bites{left: b[8 : 8+n]}); err == nil {
			t.Fatalf("%d bytes of %d are an answer", n, len(b)-8)
		}
	}
}

func FuzzReadFetched(f *testing.F) {
	r, _, err := encodeRecord(example(f), "key")
	if err != nil {
		f.Fatal(err)
	}
	for _, codec := range []protocol.Attributes{0, protocol.Gzip, protocol.Snappy} {
		f.Add(answered(f, fetch.ResponsePartition{RecordSet: protocol.RecordSet{Version: 2, Attributes: codec, Records: protocol.NewRecordReader(r)}})[8:])
	}
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readFetched(&bites{left: b})
		if err != nil {
			return
		}
		var room []byte
		for _, p := range got.parts {
			for _, raw := range p.records {
				if d := decodeRecord(partition{p.topic, p.number}, &raw, &room); d.fault == nil && !bytes.Equal(d.payload, raw.value) {
					t.Errorf("%+v", d)
				}
			}
		}
	})
}

// What reading a record costs, beside what it costs when kafka-go reads the answer.
func BenchmarkReadRecords(b *testing.B) {
	const records = 32
	batch := batchOf(b, records, 2, 0)
	b.Run("here", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N / records {
			var room []byte
			raws, _, err := readBatches(batch)
			if err != nil || len(raws) != records {
				b.Fatal(len(raws), err)
			}
			for i := range raws {
				if d := decodeRecord(partition{shop, 0}, &raws[i], &room); d.fault != nil {
					b.Fatal(d.fault)
				}
			}
		}
	})
	b.Run("kafka-go", func(b *testing.B) {
		b.ReportAllocs()
		sized := append(binary.BigEndian.AppendUint32(nil, uint32(len(batch))), batch...)
		for range b.N / records {
			var set protocol.RecordSet
			if _, err := set.ReadFrom(bytes.NewReader(sized)); err != nil {
				b.Fatal(err)
			}
			for n := 0; ; n++ {
				r, err := set.Records.ReadRecord()
				if err != nil && n == records {
					break
				}
				if err != nil {
					b.Fatal(err)
				}
				if _, err := protocol.ReadAll(r.Value); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// What making a record of a message costs.
func BenchmarkEncodeRecord(b *testing.B) {
	m := note(b.Context(), "evt_1NG8Du2eZvKYlo2CUI79vXWy", string(make([]byte, 1024)))
	m.Metadata = map[string]string{
		"ce_id": m.UUID, "ce_source": "/shop", "ce_specversion": "1.0", "ce_type": "invoice.paid", "ce_time": "2026-01-02T03:04:05Z",
		"ce_recorded": "2026-01-02T03:04:05.123456Z", "ce_partitionkey": "cus_1", "content-type": "application/json",
	}
	b.ReportAllocs()
	for range b.N {
		if _, _, err := encodeRecord(m, "cus_1"); err != nil {
			b.Fatal(err)
		}
	}
}
