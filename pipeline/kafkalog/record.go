package kafkalog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go/protocol"
)

// Headers of the log's own, beside the metadata.
const (
	headerUUID = "tidewire-uuid"
	headerSum  = "tidewire-crc32c"
	headerSeq  = "tidewire-seq"
	headerID   = "ce_id" // what names a record that another program wrote
)

// What Kafka's format adds: batchOverhead to a batch, recordOverhead to each record beside its headers, at most.
const (
	batchOverhead  = 61
	recordOverhead = 40
	seqLength      = 28 // of the value of headerSeq, at most
)

// castagnoli is CRC32C, which the processor computes.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one record as it was read. With a fault it is not what was written, and nothing but its place is to be relied on.
type record struct {
	topic     string
	partition int32
	offset    int64
	at        time.Time // when it was published, to the millisecond
	uuid      string
	metadata  message.Metadata
	payload   []byte
	size      int // about what it takes in memory
	fault     error
}

// message is a new message of the record.
func (r *record) message() *message.Message {
	m := message.NewMessage(r.uuid, r.payload)
	m.Metadata = r.metadata
	return m
}

// encodeRecord makes the record of a message, and says what it takes in the log: payload as the value, key (when there is one) as the key, each pair of
// metadata as a header. Three headers more are the log's own: tidewire-uuid is the message's UUID; tidewire-crc32c the CRC32C of UUID, metadata and
// payload as eight hexadecimal digits (see textOverhead); tidewire-seq, which is set when the record is given its turn, names the process that published and the
// record's number among those it published to the partition, so that one that arrived out of turn can be told.
func encodeRecord(m *message.Message, key string) (protocol.Record, int, error) {
	names, room := make([]string, 0, len(m.Metadata)), textOverhead+len(m.UUID)+sumLength
	for name, value := range m.Metadata {
		if reserved(name) {
			return protocol.Record{}, 0, fmt.Errorf("metadata may not be called %s, which is the log's own", name)
		}
		names = append(names, name)
		room += 2*textOverhead + len(name) + len(value)
	}
	slices.Sort(names)
	// What is summed is laid out in one piece, of which the headers' values are parts.
	summed := appendText(make([]byte, 0, room), m.UUID)
	uuid := last(summed, len(m.UUID))
	headers := make([]protocol.Header, 0, len(names)+3)
	for _, name := range names {
		value := m.Metadata[name]
		summed = appendText(appendText(summed, name), value)
		headers = append(headers, protocol.Header{Key: name, Value: last(summed, len(value))})
	}
	sum := last(appendSum(summed, sumOf(summed, m.Payload)), sumLength)
	headers = append(headers, protocol.Header{Key: headerUUID, Value: uuid}, protocol.Header{Key: headerSum, Value: sum})
	size := len(key) + len(m.Payload) + recordOverhead + len(headerSeq) + seqLength + 2*binary.MaxVarintLen32
	for _, h := range headers {
		size += len(h.Key) + len(h.Value) + 2*binary.MaxVarintLen32
	}
	payload := []byte(m.Payload)
	if payload == nil {
		payload = []byte{} // no value at all would mean something else to others
	}
	r := protocol.Record{Time: time.Now(), Value: protocol.NewBytes(payload), Headers: headers}
	if key != "" {
		r.Key = protocol.NewBytes([]byte(key))
	}
	return r, size, nil
}

// last is the end of b, which nobody can append to.
func last(b []byte, n int) []byte { return b[len(b)-n : len(b) : len(b)] }

// The checksum is the CRC32C of UUID, pairs of metadata by name, and payload, each with its length (four bytes, big endian) before it, the payload
// without. It is written as eight hexadecimal digits.
const (
	textOverhead = 4 // of a text that is summed
	sumLength    = 8
)

// appendText appends a text as it is summed.
func appendText(summed []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint32(summed, uint32(len(text))), text...)
}

// sumOf is the checksum of what is laid out before the payload, and of the payload.
func sumOf(summed, payload []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, summed), castagnoli, payload)
}

// appendSum appends a checksum as it is written.
func appendSum(to []byte, sum uint32) []byte {
	return hex.AppendEncode(to, binary.BigEndian.AppendUint32(make([]byte, 0, sumLength/2), sum))
}

// pair is one header as it was read.
type pair struct{ name, value string }

// decodeRecord copies the record out of the answer that it came in, whatever it holds. A record without the log's headers was written by
// another program: its UUID is its ce_id, or else its place. One that fails its checksum has a fault. room is used to lay out what is summed, and
// may be used again.
func decodeRecord(p partition, r *rawRecord, room *[]byte) record {
	d := record{topic: p.topic, partition: p.number, offset: r.offset, at: r.at, payload: bytes.Clone(r.value)}
	d.size = len(d.payload) + len(r.headers) + 512
	var few [16]pair
	pairs, err := r.pairs(few[:0])
	d.fault = err
	d.metadata = make(message.Metadata, len(pairs))
	var uuid, sum *pair
	for i := range pairs {
		switch h := &pairs[i]; h.name {
		case headerUUID:
			uuid = h
		case headerSum:
			sum = h
		case headerSeq:
		default:
			d.metadata[h.name] = h.value
		}
	}
	switch {
	case uuid != nil:
		d.uuid = uuid.value
	case d.metadata[headerID] != "":
		d.uuid = d.metadata[headerID]
	default:
		d.uuid = p.String() + "/" + strconv.FormatInt(r.offset, 10)
	}
	switch {
	case d.fault != nil || uuid == nil && sum == nil:
	case uuid == nil || sum == nil:
		d.fault = errors.New("its UUID or its checksum is missing")
	default:
		d.fault = d.verify(pairs, sum.value, room)
	}
	return d
}

// verify compares a record of our own with its checksum.
func (d *record) verify(pairs []pair, sum string, room *[]byte) error {
	summed := appendText((*room)[:0], d.uuid)
	if ordered(pairs) {
		for _, h := range pairs {
			if !reserved(h.name) {
				summed = appendText(appendText(summed, h.name), h.value)
			}
		}
	} else { // we write them in order; whoever has copied the record need not have
		for _, name := range slices.Sorted(maps.Keys(d.metadata)) {
			summed = appendText(appendText(summed, name), d.metadata[name])
		}
	}
	got := appendSum(summed, sumOf(summed, d.payload))
	*room = got
	if got = got[len(summed):]; string(got) != sum {
		return fmt.Errorf("checksum is %s, written was %.16q", got, sum)
	}
	return nil
}

// ordered reports whether the pairs of metadata are in the order of their names, each name once.
func ordered(pairs []pair) bool {
	last, first := "", true
	for _, h := range pairs {
		if reserved(h.name) {
			continue
		}
		if !first && h.name <= last {
			return false
		}
		last, first = h.name, false
	}
	return true
}

// reserved reports whether a header is the log's own.
func reserved(name string) bool { return name == headerUUID || name == headerSum || name == headerSeq }
