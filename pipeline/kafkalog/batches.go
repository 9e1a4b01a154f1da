package kafkalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/segmentio/kafka-go/protocol"
)

// rawRecord is one record of an answer, in the memory of the answer.
type rawRecord struct {
	offset  int64
	at      time.Time
	control bool   // it is the cluster's own
	value   []byte // nil: none
	headers []byte // as they are on the wire, without their number
	count   int    // of headers
}

var errHeaders = errors.New("its headers cannot be read")

// pairs appends the record's headers to some. All their texts are parts of one.
func (r *rawRecord) pairs(to []pair) ([]pair, error) {
	text := string(r.headers)
	in := bites{left: r.headers}
	next := func() string {
		b := in.text()
		end := len(text) - len(in.left)
		return text[end-len(b) : end]
	}
	for range r.count {
		name := next()
		value := next()
		if in.short {
			return nil, errHeaders
		}
		to = append(to, pair{name, value})
	}
	return to, nil
}

// Where things are in a batch, and what its attributes mean.
const (
	batchHead    = 12 // offset and length, which the length does not count
	batchMagic   = 16
	batchSummed  = 21 // what follows is what the sum is of
	batchRecords = 61
	attrCodec    = 7
	attrControl  = 1 << 5
	magic        = 2 // of the format of all that brokers have stored since 2017, unless they were told otherwise
)

// unpackedBytes bounds what a compressed batch may hold.
const unpackedBytes = 256 << 20

// readBatches reads the batches of one partition. The last one may be cut off, and counts as not there. What cannot be read is an error only when there is nothing
// before it: it will be there again, in front, in the next answer. some says that there were records, whatever they were.
func readBatches(b []byte) (records []rawRecord, some bool, err error) {
	for err == nil && len(b) > batchMagic {
		if b[batchMagic] != magic {
			records, err = readOld(records, b)
			break
		}
		length := int64(int32(binary.BigEndian.Uint32(b[8:]))) + batchHead
		if length > int64(len(b)) {
			break
		}
		if length < batchRecords {
			err = fmt.Errorf("a batch of %d bytes", length)
			break
		}
		records, err = readBatch(records, b[:length])
		some = some || err == nil
		b = b[length:]
	}
	if len(records) > 0 {
		return records, true, nil
	}
	return nil, some, err
}

// readBatch appends the records of a batch, as far as they can be read.
func readBatch(to []rawRecord, b []byte) ([]rawRecord, error) {
	if want, got := binary.BigEndian.Uint32(b[batchSummed-4:]), crc32.Checksum(b[batchSummed:], castagnoli); got != want {
		return to, fmt.Errorf("the checksum of a batch is %08x, written was %08x", got, want)
	}
	base := int64(binary.BigEndian.Uint64(b))
	in := bites{left: b[batchSummed:]}
	attributes := in.int16()
	in.int32() // the last offset
	first := in.int64()
	in.take(8 + 8 + 2 + 4) // the latest time, and what tells a producer's batches apart
	n := in.int32()
	if codec := attributes & attrCodec; codec != 0 {
		var err error
		if in.left, err = unpack(codec, in.left); err != nil {
			return to, err
		}
	}
	before := len(to)
	for range n {
		one := bites{left: in.text()}
		one.int8() // attributes, of which there are none
		r := rawRecord{control: attributes&attrControl != 0, at: time.UnixMilli(first + one.varint())}
		r.offset = base + one.varint()
		one.text() // the key, which is in the metadata too, if it is of any use
		r.value = one.text()
		r.count = int(one.varint())
		r.headers = one.left
		if in.short || one.short {
			if len(to) == before {
				return to, errors.New("a batch holds less than it says")
			}
			break
		}
		to = append(to, r)
	}
	return to, nil
}

// unpack undoes the compression of a batch.
func unpack(codec int16, b []byte) ([]byte, error) {
	c := protocol.Attributes(codec).Compression().Codec()
	if c == nil {
		return nil, fmt.Errorf("a batch is compressed in a way (%d) that is not known", codec)
	}
	r := c.NewReader(bytes.NewReader(b))
	defer r.Close()
	all, err := io.ReadAll(io.LimitReader(r, unpackedBytes+1))
	if err == nil && len(all) > unpackedBytes {
		err = fmt.Errorf("it holds more than %d bytes", unpackedBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("a compressed batch: %w", err)
	}
	return all, nil
}

// readOld appends records of the formats before the present one, as kafka-go reads them.
func readOld(to []rawRecord, b []byte) ([]rawRecord, error) {
	var set protocol.RecordSet
	sized := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	if _, err := set.ReadFrom(bytes.NewReader(sized)); err != nil {
		return to, err
	}
	if set.Records == nil {
		return to, nil
	}
	for {
		r, err := set.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return to, nil
		}
		if err != nil {
			return to, err
		}
		one := rawRecord{offset: r.Offset, at: r.Time}
		if r.Key != nil {
			r.Key.Close()
		}
		if r.Value != nil {
			one.value, err = protocol.ReadAll(r.Value)
			r.Value.Close()
			if err != nil {
				return to, err
			}
		}
		to = append(to, one)
	}
}
