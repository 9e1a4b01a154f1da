package kafkalog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// topicID tells a topic from every other, also from one of the same name that was there before it. Zero: not known.
type topicID [16]byte

// idsVersion is the version of Metadata requests whose answers name topics by ID. kafka-go stops short of it.
const idsVersion = 12

// mostIDs bounds an answer, in bytes: it is asked for some hundred topics at most.
const mostIDs = 16 << 20

// idsRequest is a Metadata request that is written and whose answer is read here.
type idsRequest struct {
	clientID string
	topics   []string
}

// idsResponse is what is needed of the answer: the IDs by name.
type idsResponse map[string]topicID

var _ protocol.RawExchanger = (*idsRequest)(nil)

// ApiKey implements protocol.Message.
func (*idsRequest) ApiKey() protocol.ApiKey { return protocol.Metadata }

// ApiKey implements protocol.Message.
func (idsResponse) ApiKey() protocol.ApiKey { return protocol.Metadata }

// Required implements protocol.RawExchanger.
func (*idsRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange implements protocol.RawExchanger. Nothing else is under way on the connection.
func (r *idsRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if _, err := rw.Write(r.bytes()); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(rw, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > mostIDs {
		return nil, fmt.Errorf("an answer of %d bytes to a question about topics", n)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(rw, answer); err != nil {
		return nil, err
	}
	return readIDs(answer)
}

// bytes is the request on the wire.
func (r *idsRequest) bytes() []byte {
	b := make([]byte, 4, 64)
	b = binary.BigEndian.AppendUint16(b, uint16(protocol.Metadata))
	b = binary.BigEndian.AppendUint16(b, idsVersion)
	b = binary.BigEndian.AppendUint32(b, idsCorrelation)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.clientID)))
	b = append(b, r.clientID...)
	b = append(b, 0) // no tagged fields
	b = binary.AppendUvarint(b, uint64(len(r.topics))+1)
	for _, t := range r.topics {
		b = append(b, make([]byte, len(topicID{}))...) // asked for by name
		b = binary.AppendUvarint(b, uint64(len(t))+1)
		b = append(b, t...)
		b = append(b, 0)
	}
	b = append(b, 0, 0, 0) // create none, no rights, no tagged fields
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// idsCorrelation is the number by which the answer names its request.
const idsCorrelation = 1

// readIDs reads an answer.
func readIDs(answer []byte) (idsResponse, error) {
	r := wireReader{left: answer}
	if n := r.int32(); r.err == nil && n != idsCorrelation {
		return nil, fmt.Errorf("an answer to request %d instead of %d", n, idsCorrelation)
	}
	r.tags()
	r.skip(4) // throttled
	for range r.count() {
		r.skip(4) // broker
		r.text()  // host
		r.skip(4) // port
		r.text()  // rack
		r.tags()
	}
	r.text()  // cluster
	r.skip(4) // controller
	ids := make(idsResponse)
	for range r.count() {
		failed := r.int16()
		name := r.text()
		var id topicID
		copy(id[:], r.skip(len(id)))
		r.skip(1) // internal
		for range r.count() {
			r.skip(2 + 4 + 4 + 4) // error, number, leader, epoch
			for range 3 {         // replicas, in sync, offline
				r.skip(4 * r.count())
			}
			r.tags()
		}
		r.skip(4) // rights
		r.tags()
		if r.err != nil {
			break
		}
		if err := code(failed, ""); err != nil {
			return nil, fmt.Errorf("topic %s: %w", name, err)
		}
		ids[name] = id
	}
	if r.err != nil {
		return nil, fmt.Errorf("an answer about topics: %w", r.err)
	}
	return ids, nil
}

// wireReader reads what a broker has written. After the first error it yields nothing more.
type wireReader struct {
	left []byte
	err  error
}

var errShort = errors.New("it ends too early")

// skip returns the next n bytes.
func (r *wireReader) skip(n int) []byte {
	if n < 0 || n > len(r.left) {
		r.left, r.err = nil, errShort
		return nil
	}
	b := r.left[:n]
	r.left = r.left[n:]
	return b
}

func (r *wireReader) int16() int16 {
	if b := r.skip(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *wireReader) int32() int32 {
	if b := r.skip(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *wireReader) uvarint() uint64 {
	n, took := binary.Uvarint(r.left)
	if took <= 0 {
		r.left, r.err = nil, errShort
		return 0
	}
	r.left = r.left[took:]
	return n
}

// count is the length of an array or a text; 0 also for none. Nothing that follows can be longer than what is left.
func (r *wireReader) count() int {
	n := r.uvarint()
	if n == 0 {
		return 0
	}
	if n-1 > uint64(len(r.left)) {
		r.left, r.err = nil, errShort
		return 0
	}
	return int(n - 1)
}

func (r *wireReader) text() string { return string(r.skip(r.count())) }

// tags passes over tagged fields.
func (r *wireReader) tags() {
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		r.uvarint()
		size := r.uvarint()
		r.skip(int(min(size, mostIDs+1)))
	}
}

// topicIDs asks for the IDs of topics, which may be zero where the brokers know none.
func (c *client) topicIDs(ctx context.Context, topics []string) (map[string]topicID, error) {
	ids := make(map[string]topicID, len(topics))
	if !c.knowsIDs {
		for _, t := range topics {
			ids[t] = topicID{}
		}
		return ids, nil
	}
	req := &idsRequest{clientID: c.c.ClientID}
	for _, t := range topics {
		req.topics = append(req.topics, c.wire(t))
	}
	m, err := c.roundTrip(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask for the IDs of topics: %w", err)
	}
	found := m.(idsResponse)
	for _, t := range topics {
		id, ok := found[c.wire(t)]
		if !ok {
			return nil, fmt.Errorf("ask for the IDs of topics: topic %s: %w", t, kafka.UnknownTopicOrPartition)
		}
		ids[t] = id
	}
	return ids, nil
}
