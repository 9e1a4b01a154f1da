package sqlitelog

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/internal/sqlite"
)

const (
	// maxTopics is what two bytes of the index of identities can tell apart.
	maxTopics = 1<<16 - 1
	// maxReported bounds the damaged offsets of a topic that are remembered, so that each is reported once.
	maxReported = 10_000
)

// topic is one topic: where it begins and ends, its newest records in memory, and who reads it.
type topic struct {
	id     int64
	name   string
	table  string
	unique bool
	seed   uint32 // CRC32C of the name

	insert, between, point string // queries

	lastAt int64 // when the newest record was appended; used by the appender alone

	mu        sync.Mutex
	first     int64     // oldest offset kept
	next      int64     // offset of the next record; all before it are durable
	tail      []*record // the newest records, tailFirst up to next
	tailFirst int64
	tailSize  int
	readers   []*subscription        // those that are reading
	groups    map[string]*membership // by name
	reported  map[int64]struct{}     // damaged offsets
}

// membership is who subscribes to a topic in one group: the first reads, the others wait for it to close.
type membership struct {
	active  *subscription
	waiting []*subscription
}

func (l *Log) newTopic(id int64, name string) *topic {
	table := "log_records_" + strconv.FormatInt(id, 10)
	return &topic{
		id: id, name: name, table: table,
		unique:   l.c.Unique(name),
		seed:     crc32.Checksum([]byte(name), castagnoli),
		insert:   "INSERT INTO " + table + " (" + columns + ") VALUES (?, ?, ?, ?, ?, ?)",
		between:  "SELECT " + columns + " FROM " + table + " WHERE offset >= ? AND offset < ? ORDER BY offset",
		point:    "SELECT " + columns + " FROM " + table + " WHERE offset = ?",
		groups:   make(map[string]*membership),
		reported: make(map[int64]struct{}),
	}
}

// damaged reports a record, or with offset -1 the topic's bookkeeping, once.
func (l *Log) damaged(t *topic, offset int64, err error) {
	if offset >= 0 {
		t.mu.Lock()
		_, known := t.reported[offset]
		if !known && len(t.reported) < maxReported {
			t.reported[offset] = struct{}{}
		}
		t.mu.Unlock()
		if known {
			return
		}
	}
	l.c.Logger.Error("the log is damaged", "topic", t.name, "offset", offset, "error", err)
	l.c.OnDamage(t.name, offset, err)
}

// extend makes durable records visible to those who read the topic. Records are kept in memory only while someone does.
func (t *topic) extend(l *Log, drafts []*draft) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = drafts[len(drafts)-1].offset + 1
	if len(t.readers) == 0 {
		t.dropTail()
		return
	}
	for _, d := range drafts {
		r := &record{offset: d.offset, at: d.at, msg: &message.Message{UUID: d.msg.UUID, Metadata: d.msg.Metadata, Payload: d.msg.Payload}}
		if l.c.Prepare != nil {
			r.msg.SetContext(d.msg.Context())
			r.ready(t, l.c.Prepare) // now, so that nothing of that context is kept which Prepare does not keep
		}
		t.tail = append(t.tail, r)
		t.tailSize += r.size()
	}
	t.trim(l.c.TailRecords, l.c.TailBytes)
	for _, s := range t.readers {
		if s.hungry {
			s.hungry = false
			s.wake()
		}
	}
}

// trim drops what every reader has passed, and the oldest of what is too much. The newest is kept, whatever its size.
func (t *topic) trim(records, bytes int) {
	floor := t.next
	for _, s := range t.readers {
		floor = min(floor, s.seen.Load())
	}
	n := 0
	for n < len(t.tail) {
		r := t.tail[n]
		over := len(t.tail)-n > records || t.tailSize > bytes
		if r.offset >= floor && (!over || n == len(t.tail)-1) {
			break
		}
		t.tailSize -= r.size()
		n++
	}
	if n == 0 {
		return
	}
	t.tailFirst += int64(n)
	// Moving the rest down lets the dropped records go without a new array for each batch.
	left := copy(t.tail, t.tail[n:])
	clear(t.tail[left:])
	t.tail = t.tail[:left]
}

func (t *topic) dropTail() {
	t.tail, t.tailSize, t.tailFirst = nil, 0, t.next
}

// end returns the first and the next offset.
func (t *topic) end() (first, next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.first, t.next
}

// Bounds of one read from the file. The bytes may be exceeded by one record.
const (
	chunkRecords = 256
	chunkBytes   = 256 << 10
)

// read reads records from offset from on, up to offset to or the bounds of a chunk. It returns the intact ones and the offset up
// to which it has looked; what lies between and is not returned is damaged, and has been reported.
func (l *Log) read(ctx context.Context, t *topic, from, to int64) (records []*record, upTo int64, err error) {
	to = min(to, from+chunkRecords)
	upTo = from
	size := 0
	err = l.db.Read(ctx, func(conn *zsqlite.Conn) error {
		stmt, err := conn.Prepare(t.between)
		if err != nil {
			return err
		}
		stmt.BindInt64(1, from)
		stmt.BindInt64(2, to)
		for size < chunkBytes {
			more, err := stmt.Step()
			if err != nil {
				return err
			}
			if !more {
				break
			}
			r, err := t.scan(stmt)
			if err != nil || r.offset != upTo {
				return fmt.Errorf("offset %d: %w", r.offset, sqlite.ErrDamaged)
			}
			records = append(records, r)
			size += r.size()
			upTo++
		}
		return stmt.Reset()
	})
	if err != nil && !sqlite.IsDamage(err) {
		return nil, from, err
	}
	if err == nil && (upTo == to || size >= chunkBytes) {
		return records, upTo, nil
	}
	// Something is wrong at upTo or behind it: one by one from there.
	for ; upTo < to && size < chunkBytes; upTo++ {
		r, err := l.point(ctx, t, upTo)
		switch {
		case err == nil:
			records = append(records, r)
			size += r.size()
		case sqlite.IsDamage(err):
			l.damaged(t, upTo, err)
		case errors.Is(err, errGone):
			// Retention may have taken it since.
		default:
			return records, upTo, err
		}
	}
	return records, upTo, nil
}

var errGone = errors.New("no longer kept")

// point reads one record. Its error is ErrDamaged when the record is not as it was written or is not
// found where it must be, and errGone when retention has removed it.
func (l *Log) point(ctx context.Context, t *topic, offset int64) (r *record, err error) {
	err = l.db.Read(ctx, func(conn *zsqlite.Conn) error {
		r, err = t.pointOn(conn, offset)
		return err
	})
	if err == nil && r == nil {
		if first, _ := t.end(); offset < first {
			return nil, errGone
		}
		return nil, fmt.Errorf("record is missing: %w", sqlite.ErrDamaged)
	}
	return r, err
}

// pointOn reads one record on conn; nil when there is none.
func (t *topic) pointOn(conn *zsqlite.Conn, offset int64) (*record, error) {
	stmt, err := conn.Prepare(t.point)
	if err != nil {
		return nil, err
	}
	stmt.BindInt64(1, offset)
	more, err := stmt.Step()
	if err != nil || !more {
		return nil, err
	}
	r, err := t.scan(stmt)
	if err != nil {
		err = fmt.Errorf("%w: %w", sqlite.ErrDamaged, err)
	} else if r.offset != offset {
		err = fmt.Errorf("%w: found the record of offset %d", sqlite.ErrDamaged, r.offset)
	}
	return r, errors.Join(err, stmt.Reset())
}

// Get returns a copy of one record. An error that is sqlite.ErrDamaged says that it is not as it was written.
func (l *Log) Get(ctx context.Context, topic string, offset int64) (*message.Message, error) {
	l.mu.RLock()
	t, closed := l.topics[topic], l.closed
	l.mu.RUnlock()
	if closed {
		return nil, ErrClosed
	}
	if t == nil {
		return nil, fmt.Errorf("get %d of %s: no such topic", offset, topic)
	}
	first, next := t.end()
	if offset < first || offset >= next {
		return nil, fmt.Errorf("get %d of %s: it holds %d to %d", offset, topic, first, next-1)
	}
	r, err := l.point(ctx, t, offset)
	if err != nil {
		return nil, fmt.Errorf("get %d of %s: %w", offset, topic, err)
	}
	r.ready(t, l.c.Prepare)
	return r.msg.CopyWithContext(), nil
}

// Lag says how many records of the topic the group has not finished, and when the oldest of them was appended; zero
// when there are none. A group that has no place yet has all of them before it.
func (l *Log) Lag(ctx context.Context, topic, group string) (records int64, oldest time.Time, err error) {
	l.mu.RLock()
	t, closed := l.topics[topic], l.closed
	var p *place
	if t != nil {
		p = l.places[placeKey{t, group}]
	}
	l.mu.RUnlock()
	if closed {
		return 0, time.Time{}, ErrClosed
	}
	if t == nil {
		return 0, time.Time{}, nil
	}
	t.mu.Lock()
	from := t.first
	if p != nil {
		from = max(from, p.finished.Load())
	}
	records = t.next - from
	var s *subscription
	if m := t.groups[group]; m != nil {
		s = m.active
	}
	var at int64
	if from < t.next && from >= t.tailFirst {
		at = t.tail[from-t.tailFirst].at
	}
	t.mu.Unlock()
	if records == 0 {
		return 0, time.Time{}, nil
	}
	if s != nil {
		records -= s.finishedBeyond()
	}
	if at == 0 {
		recs, _, err := l.read(ctx, t, from, from+1)
		if err != nil {
			return 0, time.Time{}, fmt.Errorf("lag of %s in %s: %w", group, topic, err)
		}
		if len(recs) > 0 {
			at = recs[0].at
		}
	}
	return max(records, 0), time.Unix(0, at).UTC(), nil
}
