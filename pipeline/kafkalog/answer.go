package kafkalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// fetchVersion is the version of fetch requests that is spoken here; see needed.
const fetchVersion = 11

// fetchRequest is a fetch request whose answer is read here. Answers are most of what a hub reads from the cluster, and what kafka-go makes of each header of
// each record on the way was a twentieth of its CPU time.
type fetchRequest struct {
	fetch.Request
	clientID string
}

// fetched is the answer to a fetch.
type fetched struct {
	code  int16
	parts []fetchedPart
}

// fetchedPart is one partition of it.
type fetchedPart struct {
	topic      string // on the cluster
	number     int32
	code       int16
	start, end int64
	some       bool        // there were records, if only such as are not to be given to anybody
	records    []rawRecord // in the memory of the answer
}

// ApiKey says what it is the answer to.
func (*fetched) ApiKey() protocol.ApiKey { return protocol.Fetch }

// Required is always true: see fetchRequest.
func (*fetchRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange writes the request and reads the answer. An error ends the connection.
func (r *fetchRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	id := rand.Int32()
	if err := protocol.WriteRequest(rw, fetchVersion, id, r.clientID, &r.Request); err != nil {
		return nil, err
	}
	b, err := readSized(rw)
	if err != nil {
		return nil, err
	}
	in := bites{left: b}
	if got := in.int32(); got != id || in.short {
		return nil, fmt.Errorf("the answer belongs to another request (%d, not %d)", got, id)
	}
	return readFetched(&in)
}

// sizedStep bounds the memory that is made ready for bytes that were announced and have not come.
const sizedStep = 1 << 20

// readSized reads a message with its size, four bytes, before it.
func readSized(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, cut(err)
	}
	left := int(int32(binary.BigEndian.Uint32(size[:])))
	if left < 0 {
		return nil, fmt.Errorf("an answer of %d bytes", left)
	}
	var b []byte
	for left > 0 {
		n := min(left, max(sizedStep, len(b)))
		b = slices.Grow(b, n)[:len(b)+n]
		if _, err := io.ReadFull(r, b[len(b)-n:]); err != nil {
			return nil, cut(err)
		}
		left -= n
	}
	return b, nil
}

// cut is the error of a connection that has ended in the middle of an answer.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

var errAnswerEnds = errors.New("the answer to a fetch ends too soon")

// readFetched reads an answer of fetchVersion.
func readFetched(in *bites) (*fetched, error) {
	in.int32() // for how long the broker has slowed the client down
	all := &fetched{code: in.int16()}
	in.int32() // a session, which is not asked for
	for range in.int32() {
		topic := string(in.take(int(in.int16())))
		for range in.int32() {
			p, err := readPart(in, topic)
			if err != nil {
				return nil, err
			}
			if in.short {
				return nil, errAnswerEnds
			}
			all.parts = append(all.parts, p)
		}
		if in.short {
			return nil, errAnswerEnds
		}
	}
	if in.short {
		return nil, errAnswerEnds
	}
	return all, nil
}

func readPart(in *bites, topic string) (fetchedPart, error) {
	p := fetchedPart{topic: topic, number: in.int32(), code: in.int16(), end: in.int64()}
	in.int64() // up to where transactions have ended
	p.start = in.int64()
	for range in.int32() { // transactions that came to nothing
		if in.take(16); in.short {
			break
		}
	}
	in.int32() // a replica that is nearer
	batches := in.take(int(in.int32()))
	if in.short {
		return p, errAnswerEnds
	}
	var err error
	p.records, p.some, err = readBatches(batches)
	return p, err
}

// bites takes one value after the other from some bytes. Where there are too few, it notes that and gives zeroes.
type bites struct {
	left  []byte
	short bool
}

// take returns the next n bytes; none for a negative n, which stands for nothing at all.
func (b *bites) take(n int) []byte {
	if n < 0 {
		return nil
	}
	if n > len(b.left) {
		b.short, b.left = true, nil
		return nil
	}
	taken := b.left[:n:n]
	b.left = b.left[n:]
	return taken
}

func (b *bites) int8() int8 {
	if v := b.take(1); v != nil {
		return int8(v[0])
	}
	return 0
}

func (b *bites) int16() int16 {
	if v := b.take(2); v != nil {
		return int16(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (b *bites) int32() int32 {
	if v := b.take(4); v != nil {
		return int32(binary.BigEndian.Uint32(v))
	}
	return 0
}

func (b *bites) int64() int64 {
	if v := b.take(8); v != nil {
		return int64(binary.BigEndian.Uint64(v))
	}
	return 0
}

// varint is a number of variable length.
func (b *bites) varint() int64 {
	v, n := binary.Varint(b.left)
	if n <= 0 {
		b.short, b.left = true, nil
		return 0
	}
	b.left = b.left[n:]
	return v
}

// text is a run of bytes with its length, a varint, before it.
func (b *bites) text() []byte {
	n := b.varint()
	if n > int64(len(b.left)) {
		b.short, b.left = true, nil
		return nil
	}
	return b.take(int(max(n, -1)))
}
