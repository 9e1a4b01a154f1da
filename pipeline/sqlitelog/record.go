package sqlitelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	zsqlite "zombiezen.com/go/sqlite"
)

// castagnoli is CRC32C, which the processor computes.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one durable record in memory, shared by all groups: nobody acks or changes its message.
type record struct {
	offset int64
	at     int64 // when it was appended, in nanoseconds since 1970
	msg    *message.Message
	once   sync.Once
}

// size is about what the record takes in memory.
func (r *record) size() int { return len(r.msg.Payload) + 512 }

// ready calls prepare before the first use by any group.
func (r *record) ready(t *topic, prepare func(*message.Message, string, int32, int64)) {
	if prepare != nil {
		r.once.Do(func() { prepare(r.msg, t.name, 0, r.offset) })
	}
}

// draft is a message on its way into the log.
type draft struct {
	msg      *message.Message
	metadata []byte
	crc      uint32 // of the topic's name and the content
	hash     uint64 // of the identity, where it is stored once
	known    bool   // found to be stored already
	offset   int64
	at       int64
	topic    *topic
	same     *draft // another draft of the same transaction whose hash is the same
}

// size is what the draft adds to a transaction, in bytes.
func (d *draft) size() int { return len(d.msg.UUID) + len(d.metadata) + len(d.msg.Payload) }

func newDraft(t *topic, m *message.Message) draft {
	d := draft{msg: m, metadata: appendMetadata(nil, m.Metadata)}
	d.crc = contentSum(t.seed, m.UUID, d.metadata, m.Payload)
	return d
}

// contentSum continues the sum of the topic's name over what the sender gave. The lengths keep a byte from moving
// over from one part to the next.
func contentSum(seed uint32, uuid string, metadata, payload []byte) uint32 {
	var lengths [8]byte
	binary.BigEndian.PutUint32(lengths[0:], uint32(len(uuid)))
	binary.BigEndian.PutUint32(lengths[4:], uint32(len(metadata)))
	sum := crc32.Update(seed, castagnoli, lengths[:])
	sum = crc32.Update(sum, castagnoli, []byte(uuid))
	sum = crc32.Update(sum, castagnoli, metadata)
	return crc32.Update(sum, castagnoli, payload)
}

// placeSum continues a content sum over where and when the record was stored, so that a record that
// turns up at another offset is known for what it is.
func placeSum(sum uint32, offset, at int64) uint32 {
	var place [16]byte
	binary.BigEndian.PutUint64(place[0:], uint64(offset))
	binary.BigEndian.PutUint64(place[8:], uint64(at))
	return crc32.Update(sum, castagnoli, place[:])
}

// appendMetadata appends the number of pairs, then each key and value after its length, all as varints.
func appendMetadata(b []byte, m message.Metadata) []byte {
	if b == nil {
		n := 2
		for k, v := range m {
			n += len(k) + len(v) + 4
		}
		b = make([]byte, 0, n)
	}
	b = binary.AppendUvarint(b, uint64(len(m)))
	for k, v := range m {
		b = append(binary.AppendUvarint(b, uint64(len(k))), k...)
		b = append(binary.AppendUvarint(b, uint64(len(v))), v...)
	}
	return b
}

var errMetadata = errors.New("its metadata cannot be decoded")

// parseMetadata is the inverse of appendMetadata.
func parseMetadata(b []byte) (message.Metadata, error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)) {
		return nil, errMetadata
	}
	s := string(b[used:]) // one allocation that all keys and values share
	m := make(message.Metadata, n)
	for range n {
		var k, v string
		var ok bool
		if k, s, ok = cutString(s); !ok {
			return nil, errMetadata
		}
		if v, s, ok = cutString(s); !ok {
			return nil, errMetadata
		}
		m[k] = v
	}
	if s != "" {
		return nil, errMetadata
	}
	return m, nil
}

// cutString takes one length-prefixed string off the front of s.
func cutString(s string) (first, rest string, ok bool) {
	var n uint64
	for i := range min(len(s), binary.MaxVarintLen32) {
		c := s[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			s = s[i+1:]
			if n > uint64(len(s)) {
				return "", "", false
			}
			return s[:n], s[n:], true
		}
	}
	return "", "", false
}

// columns is what scan expects of a query's result.
const columns = "offset, at, crc, uuid, metadata, payload"

// scan reads the record of the current row. An error says that it is not what was written; the
// offset is the row's, which may be wrong as well.
func (t *topic) scan(s *zsqlite.Stmt) (*record, error) {
	r := &record{offset: s.ColumnInt64(0), at: s.ColumnInt64(1)}
	uuid := s.ColumnText(3)
	metadata := make([]byte, s.ColumnLen(4))
	s.ColumnBytes(4, metadata)
	payload := make([]byte, s.ColumnLen(5))
	s.ColumnBytes(5, payload)
	want := uint32(s.ColumnInt64(2))
	if got := placeSum(contentSum(t.seed, uuid, metadata, payload), r.offset, r.at); got != want {
		return r, fmt.Errorf("checksum is %08x, stored was %08x", got, want)
	}
	m, err := parseMetadata(metadata)
	if err != nil {
		return r, err
	}
	r.msg = &message.Message{UUID: uuid, Metadata: m, Payload: payload}
	return r, nil
}
