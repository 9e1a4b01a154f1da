package kafkalog

import (
	"encoding/binary"
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
// payload as eight hexadecimal digits (see checksum); tidewire-seq, which is set when the record is given its turn, names the process that published and the
// record's number among those it published to the partition, so that one that arrived out of turn can be told.
func encodeRecord(m *message.Message, key string) (protocol.Record, int, error) {
	names := slices.Sorted(maps.Keys(m.Metadata))
	headers := make([]protocol.Header, 0, len(names)+3)
	size := len(key) + len(m.Payload) + recordOverhead
	for _, name := range names {
		switch name {
		case headerUUID, headerSum, headerSeq:
			return protocol.Record{}, 0, fmt.Errorf("metadata may not be called %s, which is the log's own", name)
		}
		headers = append(headers, protocol.Header{Key: name, Value: []byte(m.Metadata[name])})
	}
	sum := checksum(m.UUID, names, m.Metadata, m.Payload)
	headers = append(headers,
		protocol.Header{Key: headerUUID, Value: []byte(m.UUID)},
		protocol.Header{Key: headerSum, Value: fmt.Appendf(nil, "%08x", sum)})
	for _, h := range headers {
		size += len(h.Key) + len(h.Value) + 2*binary.MaxVarintLen32
	}
	size += len(headerSeq) + seqLength + 2*binary.MaxVarintLen32
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

// checksum is the CRC32C of UUID, pairs of metadata by name, and payload, each with its length (four bytes, big endian) before it, the payload
// without.
func checksum(uuid string, names []string, metadata message.Metadata, payload []byte) uint32 {
	var sum uint32
	var length [4]byte
	add := func(s string) {
		binary.BigEndian.PutUint32(length[:], uint32(len(s)))
		sum = crc32.Update(sum, castagnoli, length[:])
		sum = crc32.Update(sum, castagnoli, []byte(s))
	}
	add(uuid)
	for _, name := range names {
		add(name)
		add(metadata[name])
	}
	return crc32.Update(sum, castagnoli, payload)
}

// decodeRecord copies the record out of the answer that it came in, whatever it holds. A record without the log's headers was written by
// another program: its UUID is its ce_id, or else its place. One that fails its checksum has a fault.
func decodeRecord(p partition, r *protocol.Record) record {
	d := record{topic: p.topic, partition: p.number, offset: r.Offset, at: r.Time, metadata: make(message.Metadata, len(r.Headers))}
	if r.Key != nil {
		r.Key.Close() // the key is in the metadata too, if it is of any use
	}
	if r.Value != nil {
		d.payload, d.fault = protocol.ReadAll(r.Value)
		r.Value.Close()
	}
	d.size = len(d.payload) + 512
	var uuid, sum *string
	for _, h := range r.Headers {
		value := string(h.Value)
		d.size += len(h.Key) + len(value)
		switch h.Key {
		case headerUUID:
			uuid = &value
		case headerSum:
			sum = &value
		case headerSeq:
		default:
			d.metadata[h.Key] = value
		}
	}
	switch {
	case uuid != nil:
		d.uuid = *uuid
	case d.metadata[headerID] != "":
		d.uuid = d.metadata[headerID]
	default:
		d.uuid = p.String() + "/" + strconv.FormatInt(r.Offset, 10)
	}
	if d.fault == nil && (uuid != nil || sum != nil) {
		d.fault = verify(&d, uuid != nil, sum)
	}
	return d
}

// verify compares a record of our own with its checksum.
func verify(d *record, named bool, sum *string) error {
	if !named || sum == nil {
		return errors.New("its UUID or its checksum is missing")
	}
	got := fmt.Sprintf("%08x", checksum(d.uuid, slices.Sorted(maps.Keys(d.metadata)), d.metadata, d.payload))
	if got != *sum {
		return fmt.Errorf("checksum is %s, written was %.16q", got, *sum)
	}
	return nil
}
