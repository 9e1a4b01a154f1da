package kafkalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// maxReported bounds the damaged records that are remembered, so that each is reported once.
const maxReported = 10_000

// spot is where a record is.
type spot struct {
	partition
	offset int64
}

// answer is what a broker answered to a fetch.
type answer struct {
	parts map[partition]part
	first partition // had all the room it wanted
	some  bool      // there are records in it, so that others than the first may have had no room
}

// part is one partition of an answer.
type part struct {
	err     error
	start   int64 // where the partition begins
	end     int64 // where it ends, for those who read
	records []rawRecord
}

func compare(a, b partition) int {
	return cmp.Or(strings.Compare(a.topic, b.topic), cmp.Compare(a.number, b.number))
}

// fetch asks the leader of some partitions for their records from given offsets on. Partitions take turns in being the first of a request:
// a batch that is larger than the bounds is given only to the first partition that has something.
func (r *reader) fetch(ctx context.Context, at map[partition]int64, turn, each, most int, patience time.Duration) (answer, error) {
	a := answer{parts: make(map[partition]part, len(at))}
	if len(at) == 0 {
		return a, nil
	}
	req := &fetchRequest{clientID: r.c.ClientID, Request: fetch.Request{
		ReplicaID: -1, SessionEpoch: -1,
		MinBytes: 1, MaxBytes: int32(most), MaxWaitTime: int32(patience / time.Millisecond),
	}}
	ps := make([]partition, 0, len(at))
	for p := range at {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, compare)
	first := turn % len(ps)
	a.first = ps[first]
	for _, p := range slices.Concat(ps[first:], ps[:first]) {
		topic := r.client.wire(p.topic)
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != topic {
			req.Topics = append(req.Topics, fetch.RequestTopic{Topic: topic})
		}
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, fetch.RequestPartition{
			Partition: p.number, CurrentLeaderEpoch: -1, FetchOffset: at[p], LogStartOffset: -1, PartitionMaxBytes: int32(each),
		})
	}
	m, err := r.client.roundTrip(ctx, req)
	if err != nil {
		return a, err
	}
	res := m.(*fetched)
	if err := code(res.code, ""); err != nil {
		return a, err
	}
	for _, p := range res.parts {
		a.parts[partition{strings.TrimPrefix(p.topic, r.c.Prefix), p.number}] = part{
			err: code(p.code, ""), start: p.start, end: p.end, records: p.records,
		}
		a.some = a.some || p.some
	}
	return a, nil
}

// take makes of one partition's answer what it means for those who read it. t is the trouble with what was asked for, one of the feed's.
func (r *reader) take(ctx context.Context, f *feed, t *trouble, at int64, all answer, give func(*portion)) {
	a, ok := all.parts[f.partition]
	if !ok {
		r.failed(f, t, errNoProgress)
		return
	}
	if a.err != nil {
		r.partitionFailed(ctx, f, t, at, a)
		return
	}
	got := r.decode(f.partition, at, a.records)
	switch {
	case got.upTo > at:
		f.calm(t)
		give(got)
	case a.end > at && all.some && f.partition != all.first:
		// No room for it this time.
	case a.end > at:
		if r.failed(f, t, errNoProgress); f.troubles(t) > 4 {
			r.skip(ctx, f, t, at, errNoProgress)
		}
	case t == &f.early:
		// It is at the end already, and the window beyond: one of the two is wrong, or the broker does not know yet.
		r.failed(f, t, errNoProgress)
	default:
		f.calm(t)
	}
}

var errNoProgress = errors.New("the broker says that there are records, and gives none")

// decode copies the records from an offset on out of an answer.
func (r *reader) decode(p partition, from int64, raws []rawRecord) *portion {
	upTo := from
	records := make([]*shared, 0, len(raws))
	var room []byte
	for i := range raws {
		raw := &raws[i]
		if raw.offset < upTo {
			continue // a batch comes whole, also when only its end was asked for
		}
		upTo = raw.offset + 1
		if raw.control {
			continue
		}
		s := newShared(decodeRecord(p, raw, &room))
		if s.fault != nil {
			r.damaged(p, s.offset, s.fault)
		}
		records = append(records, s)
	}
	return newPortion(from, upTo, records)
}

// damaged reports a record, once.
func (r *reader) damaged(p partition, offset int64, err error) {
	r.mu.Lock()
	_, known := r.reported[spot{p, offset}]
	if !known && len(r.reported) < maxReported {
		r.reported[spot{p, offset}] = struct{}{}
	}
	r.mu.Unlock()
	if known {
		return
	}
	r.metrics.damaged.Inc()
	r.c.Logger.Error("the log is damaged", "topic", p.topic, "partition", p.number, "offset", offset, "error", err)
	r.c.OnDamage(p.topic, p.number, offset, err)
}

// calm forgets the failures of a partition.
func (f *feed) calm(t *trouble) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*t = trouble{}
}

// troubles is how many failures there have been in a row.
func (f *feed) troubles(t *trouble) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return t.count
}

// failed leaves a partition alone for a while and returns for how long.
func (r *reader) failed(f *feed, t *trouble, err error) time.Duration {
	r.metrics.failed.Inc()
	f.mu.Lock()
	d, tell, at := t.note(), t.tell(), f.next
	f.mu.Unlock()
	r.client.refresh()
	if tell {
		r.c.Logger.Warn("a partition cannot be read; trying again", "topic", f.topic, "partition", f.number, "offset", at, "error", err)
	}
	return d
}

// partitionFailed deals with an error that a broker gave for one partition.
func (r *reader) partitionFailed(ctx context.Context, f *feed, t *trouble, at int64, a part) {
	if !errors.Is(a.err, kafka.OffsetOutOfRange) {
		r.failed(f, t, a.err)
		return
	}
	to, err := r.within(ctx, f.partition, at)
	if err != nil {
		r.failed(f, t, cmp.Or(err, a.err))
		return
	}
	// A broker that has only just become the leader may not know yet how far the partition reaches: it is asked again before a place is put back.
	if r.failed(f, t, a.err); to == at || to < at && f.troubles(t) < 3 {
		return
	}
	f.calm(t)
	f.relocate(at, to)
}

// within returns the offset of a partition that is closest to one that may be outside.
func (r *reader) within(ctx context.Context, p partition, at int64) (int64, error) {
	first, err := r.client.offsets(ctx, []partition{p}, atStart)
	if err != nil {
		return 0, err
	}
	last, err := r.client.offsets(ctx, []partition{p}, atEnd)
	if err != nil {
		return 0, err
	}
	return min(max(at, first[p]), last[p]), nil
}

// heard notes that a broker answers.
func (r *reader) heard(leader int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.troubles, leader)
}

// unheard notes that a request to a broker failed as a whole. When that happens again and the network is not to blame, there is something in
// the answer that cannot be read; then the partitions are asked for one by one, so that only the one that has it is held up.
func (r *reader) unheard(ctx context.Context, leader int32, at map[partition]int64, err error) {
	r.metrics.failed.Inc()
	r.client.refresh()
	r.mu.Lock()
	t := r.troubles[leader]
	if t == nil {
		t = &trouble{}
		r.troubles[leader] = t
	}
	t.note()
	count, tell := t.count, t.tell()
	r.mu.Unlock()
	if tell {
		r.c.Logger.Warn("a broker does not answer to fetch; trying again", "broker", leader, "error", err)
	}
	if count < 2 || !unreadable(err) {
		return
	}
	for p, offset := range at {
		f := r.feed(p)
		if f == nil {
			continue
		}
		a, err := r.fetch(ctx, map[partition]int64{p: offset}, 0, r.c.FetchBytes, r.c.FetchBytes, 0)
		switch {
		case err == nil:
			r.take(ctx, f, &f.trouble, offset, a, func(got *portion) { r.give(f, got); f.extend(got, a.parts[p].end) })
		case unreadable(err):
			r.skip(ctx, f, &f.trouble, offset, err)
		default:
			return
		}
	}
}

// unreadable reports whether an error says that an answer came and is not what it should be. Everything that the network or the broker
// may say is something else.
func unreadable(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return false
	}
	if _, ok := errors.AsType[kafka.Error](err); ok {
		return false
	}
	if _, ok := errors.AsType[*fetch.Error](err); ok {
		return false
	}
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, os.ErrDeadlineExceeded, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return false
		}
	}
	return true
}

// skip goes past records that cannot be read at all, reports each, and lets the groups go on behind them.
func (r *reader) skip(ctx context.Context, f *feed, t *trouble, at int64, why error) {
	next, err := r.beyond(ctx, f.partition, at)
	if err != nil {
		r.failed(f, t, fmt.Errorf("%w; and what comes after it: %w", why, err))
		return
	}
	if next <= at {
		return
	}
	for offset := at; offset < next; offset++ {
		r.damaged(f.partition, offset, why)
	}
	got := newPortion(at, next, nil)
	r.give(f, got)
	f.extend(got, next)
	f.calm(t)
}

// lookBeyond bounds how many offsets are tried at a time.
const lookBeyond = 1000

// beyond finds the first offset after one that cannot be read from which something can, or the partition's end. It tries one after
// the other: there may be good records between two bad batches.
func (r *reader) beyond(ctx context.Context, p partition, at int64) (int64, error) {
	for offset := at + 1; offset < at+lookBeyond; offset++ {
		a, err := r.fetch(ctx, map[partition]int64{p: offset}, 0, ownBytes, ownBytes, 0)
		if err != nil {
			if unreadable(err) {
				continue
			}
			return 0, err
		}
		part := a.parts[p]
		switch {
		case errors.Is(part.err, kafka.OffsetOutOfRange):
			return offset, nil
		case part.err != nil:
			return 0, part.err
		case offset >= part.end || r.decode(p, offset, part.records).upTo > offset:
			return offset, nil
		}
	}
	return at + lookBeyond, nil
}
