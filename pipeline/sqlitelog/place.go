package sqlitelog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"time"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/internal/failpoint"
)

// commitRecords is how many records a group may finish before its place is written without waiting for the next turn.
const commitRecords = 10_000

type placeKey struct {
	t     *topic
	group string
}

// place is how far a group has got in a topic: everything before finished is finished, everything before written is known to
// be so on disk. Both only grow.
type place struct {
	t        *topic
	group    string
	finished atomic.Int64
	written  atomic.Int64
}

func newPlace(t *topic, group string, next int64) *place {
	p := &place{t: t, group: group}
	p.finished.Store(next)
	p.written.Store(next)
	return p
}

// sum guards a place on disk: a wrong one would skip records.
func (p *place) sum(next int64) uint32 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[0:], uint64(p.t.id))
	binary.BigEndian.PutUint64(b[8:], uint64(next))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, []byte(p.group))
}

// advance moves the finished prefix on. It is called by the group's one active subscription, under its lock.
func (p *place) advance(l *Log, finished int64) {
	if finished <= p.finished.Load() {
		return
	}
	p.finished.Store(finished)
	if finished-p.written.Load() >= commitRecords {
		select {
		case l.enough <- struct{}{}:
		default:
		}
	}
}

// place returns the group's place in the topic. The first time it makes one, durable before any record is handed out: retention
// must know of the group, and one that starts at the end must not start at a later end after a crash.
func (l *Log) place(ctx context.Context, t *topic, group string, fromEnd bool) (*place, error) {
	key := placeKey{t, group}
	l.mu.RLock()
	p := l.places[key]
	l.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	first, next := t.end()
	if fromEnd {
		first = next
	}
	p = newPlace(t, group, first)
	if err := l.db.Write(ctx, func(conn *zsqlite.Conn) error { return p.write(conn, first) }); err != nil {
		return nil, fmt.Errorf("place of group %s in %s: %w", group, t.name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if other := l.places[key]; other != nil { // another call was first
		return other, nil
	}
	l.places[key] = p
	return p, nil
}

// write stores the place unless a later one is stored.
func (p *place) write(conn *zsqlite.Conn, next int64) error {
	stmt, err := conn.Prepare("INSERT INTO log_groups (topic, name, next, crc) VALUES (?, ?, ?, ?)" +
		" ON CONFLICT (topic, name) DO UPDATE SET next = excluded.next, crc = excluded.crc WHERE excluded.next > next OR next > ?")
	if err != nil {
		return err
	}
	_, end := p.t.end()
	stmt.BindInt64(1, p.t.id)
	stmt.BindText(2, p.group)
	stmt.BindInt64(3, next)
	stmt.BindInt64(4, int64(p.sum(next)))
	stmt.BindInt64(5, end) // a place behind the end can only be damage
	_, err = stmt.Step()
	return err
}

// commitPlaces writes the places of all groups now and then, until the log closes.
func (l *Log) commitPlaces() {
	tick := time.NewTicker(l.c.CommitEvery)
	defer tick.Stop()
	var last error
	for {
		select {
		case <-l.quit:
			return
		case <-tick.C:
		case <-l.enough:
		}
		err := l.writePlaces(context.Background())
		if err != nil && (last == nil || last.Error() != err.Error()) {
			l.c.Logger.Warn("places of groups could not be written; after a crash they see again what they finished since", "error", err)
		}
		last = err
	}
}

// writePlaces writes the places that have moved, in one transaction.
func (l *Log) writePlaces(ctx context.Context) error {
	type step struct {
		p    *place
		next int64
	}
	var steps []step
	l.mu.RLock()
	for _, p := range l.places {
		// Read before the transaction begins: a place never covers what was not finished then.
		if next := p.finished.Load(); next > p.written.Load() {
			steps = append(steps, step{p, next})
		}
	}
	l.mu.RUnlock()
	if len(steps) == 0 {
		return nil
	}
	failpoint.Hit("before-place")
	err := l.db.Write(ctx, func(conn *zsqlite.Conn) error {
		for _, s := range steps {
			if err := s.p.write(conn, s.next); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the places of groups: %w", err)
	}
	failpoint.Hit("after-place")
	for _, s := range steps {
		s.p.wrote(s.next)
	}
	return nil
}

// wrote notes that a place is on disk.
func (p *place) wrote(next int64) {
	for {
		old := p.written.Load()
		if next <= old || p.written.CompareAndSwap(old, next) {
			return
		}
	}
}

// Retain removes, from the topics that which is true for (nil: from all), the records that were appended before a time
// and that every listed group has finished on disk, oldest first and a few in each transaction.
// A group counts where it has a place, that is where it has subscribed at least once; a topic no listed group reads is
// removed by age alone. The newest record of a topic is always kept. It returns how many were removed and how many are old
// enough but held by a group that has not finished them.
func (l *Log) Retain(ctx context.Context, which func(topic string) bool, before time.Time, groups []string) (removed, held int64, err error) {
	l.mu.RLock()
	closed := l.closed
	limits := make(map[*topic]int64, len(l.topics))
	for _, t := range l.topics {
		if which != nil && !which(t.name) {
			continue
		}
		_, next := t.end()
		limits[t] = next - 1
		for _, g := range groups {
			if p := l.places[placeKey{t, g}]; p != nil {
				limits[t] = min(limits[t], p.written.Load())
			}
		}
	}
	l.mu.RUnlock()
	if closed {
		return 0, 0, ErrClosed
	}
	var errs []error
	for t, limit := range limits {
		old, err := l.firstSince(ctx, t, before)
		if err != nil {
			errs = append(errs, fmt.Errorf("retain %s: %w", t.name, err))
			continue
		}
		n, err := l.removeBefore(ctx, t, min(old, limit))
		removed += n
		if err != nil {
			errs = append(errs, fmt.Errorf("retain %s: %w", t.name, err))
			continue
		}
		_, next := t.end()
		held += max(0, min(old, next-1)-limit)
	}
	return removed, held, errors.Join(errs...)
}

// firstSince returns the lowest offset whose record was appended at or after a time; the next offset when there is none.
// Times never fall from one offset to the next, so it can be searched for.
func (l *Log) firstSince(ctx context.Context, t *topic, since time.Time) (int64, error) {
	low, high := t.end()
	end := high
	for low < high {
		middle := low + (high-low)/2
		r, err := l.readable(ctx, t, middle, end)
		if err != nil {
			return 0, err
		}
		switch {
		case r == nil: // nothing can be read from here on: what comes after is no younger than this
			high = middle
		case r.at < since.UnixNano():
			low = r.offset + 1
		default:
			high = middle
		}
	}
	return low, nil
}

// readable returns the first intact record from an offset on.
func (l *Log) readable(ctx context.Context, t *topic, from, end int64) (*record, error) {
	for from < end {
		records, upTo, err := l.read(ctx, t, from, min(from+1, end))
		if err != nil || len(records) > 0 {
			return append(records, nil)[0], err
		}
		from = upTo
	}
	return nil, nil
}

// removeChunk is how many records one transaction removes: some two milliseconds of the writer's time.
const removeChunk = 500

// removeBefore removes the records before an offset.
func (l *Log) removeBefore(ctx context.Context, t *topic, before int64) (removed int64, err error) {
	query := "DELETE FROM " + t.table + " WHERE offset < ?"
	for {
		first, _ := t.end()
		to := min(first+removeChunk, before)
		if to <= first {
			return removed, nil
		}
		err := l.db.Write(ctx, func(conn *zsqlite.Conn) error {
			stmt, err := conn.Prepare("UPDATE log_topics SET first = ? WHERE id = ?")
			if err != nil {
				return err
			}
			stmt.BindInt64(1, to)
			stmt.BindInt64(2, t.id)
			if _, err := stmt.Step(); err != nil {
				return err
			}
			if stmt, err = conn.Prepare(query); err != nil {
				return err
			}
			stmt.BindInt64(1, to)
			_, err = stmt.Step()
			return err
		})
		if err != nil {
			return removed, err
		}
		t.mu.Lock()
		t.first = max(t.first, to)
		t.mu.Unlock()
		removed += to - first
	}
}
