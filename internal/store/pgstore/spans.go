package pgstore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// span is one partition: the rows recorded from from, and before until.
type span struct {
	from, until int64
	name        string
}

// spans are the partitions of one table, as far as this process knows. Others make and drop them, too; a row finds a place whatever it
// knows.
type spans struct {
	parent           string
	width, retention time.Duration

	list    atomic.Pointer[[]span] // in order; replaced, never changed
	making  sync.Mutex
	resting atomic.Int64 // until when none is made, because the last attempt failed, by the hub's clock
}

func newSpans(parent string, width, retention time.Duration) *spans {
	p := &spans{parent: parent, width: width, retention: retention}
	p.list.Store(new([]span))
	return p
}

// find returns the span that holds a time, or the gap around it.
func find(list []span, t int64) (held bool, before, after int64) {
	i, _ := slices.BinarySearchFunc(list, t, func(s span, t int64) int {
		if s.until <= t {
			return -1
		}
		return 1
	})
	before, after = -1<<63, 1<<63-1
	if i > 0 {
		before = list[i-1].until
	}
	if i < len(list) {
		if list[i].from <= t {
			return true, 0, 0
		}
		after = list[i].from
	}
	return false, before, after
}

// next is the span to make for a time that none holds: whole widths since 1970 where nothing is in the way, so that hubs and restarts agree, and clipped to the gap
// where the width was another before.
func (p *spans) next(list []span, t int64) (s span, missing bool) {
	held, before, after := find(list, t)
	if held {
		return span{}, false
	}
	width := int64(p.width)
	from := t - ((t%width)+width)%width
	s = span{from: max(from, before), until: min(from+width, after)}
	s.name = p.parent + time.Unix(0, s.from).UTC().Format("_20060102_150405")
	return s, true
}

// wanted reports whether a time is worth a partition: neither long past retention nor far ahead.
func (p *spans) wanted(t, now int64) bool {
	return t >= now-int64(p.retention)-int64(p.width) && t <= now+2*int64(p.width)
}

// cover makes the partitions that a batch needs, and the one after the last when it is in use. It never fails: what has no partition goes with the rest.
func (s *Store) cover(ctx context.Context, batch []*call[*decision]) {
	times := make([]int64, len(batch))
	for i, c := range batch {
		times[i] = c.v.recorded
	}
	s.coverTimes(ctx, s.deliveries, times)
}

func (s *Store) coverTimes(ctx context.Context, p *spans, times []int64) {
	latest := int64(0)
	now := s.now().UnixNano()
	for _, t := range times {
		latest = max(latest, t)
		if held, _, _ := find(*p.list.Load(), t); !held && p.wanted(t, now) {
			s.makeSpan(ctx, p, t)
		}
	}
	list := *p.list.Load()
	if n := len(list); n > 0 && latest >= list[n-1].from && latest < list[n-1].until {
		s.ahead(ctx, p, now)
	}
}

// ahead makes the partitions of now and of the time after it.
func (s *Store) ahead(ctx context.Context, p *spans, now int64) {
	for _, t := range []int64{now, now + int64(p.width)} {
		if held, _, _ := find(*p.list.Load(), t); !held {
			s.makeSpan(ctx, p, t)
		}
	}
}

// makeSpan makes the partition for a time, unless it is there. When that fails, the rows go with the rest, which is worth a line in the
// log and no more; after a minute it is tried again.
func (s *Store) makeSpan(ctx context.Context, p *spans, t int64) {
	p.making.Lock()
	defer p.making.Unlock()
	now := s.now().UnixNano()
	if held, _, _ := find(*p.list.Load(), t); held || now < p.resting.Load() {
		return
	}
	err := s.try(ctx, kindSpans, func(ctx context.Context) error { return s.makeSpanOnce(ctx, p, t) })
	if err == nil {
		err = s.reloadSpans(ctx, p)
	}
	if err != nil {
		p.resting.Store(now + int64(time.Minute))
		s.log.Warn("a partition could not be made; its rows go with the rest until it can", "table", p.parent, "error", err)
	}
}

func (s *Store) makeSpanOnce(ctx context.Context, p *spans, t int64) error {
	return s.alter(ctx, func(tx pgx.Tx) error {
		list, err := readSpans(ctx, tx, p.parent)
		if err != nil {
			return err
		}
		n, missing := p.next(list, t)
		if !missing {
			return nil // another hub was faster
		}
		name, parent, rest := pgx.Identifier{n.name}.Sanitize(), pgx.Identifier{p.parent}.Sanitize(), pgx.Identifier{p.parent + "_rest"}.Sanitize()
		// Rows of this time that had to go with the rest come along: a partition may not be made beside them.
		for _, sql := range []string{
			`CREATE TABLE ` + name + ` (LIKE ` + parent + ` INCLUDING ALL)`,
			fmt.Sprintf(`WITH late AS (DELETE FROM %s WHERE recorded >= %d AND recorded < %d RETURNING *) INSERT INTO %s SELECT * FROM late`, rest, n.from, n.until, name),
			fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, parent, name, n.from, n.until),
		} {
			if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeExec); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `INSERT INTO spans (name, parent, from_ns, until_ns) VALUES ($1, $2, $3, $4)`, n.name, p.parent, n.from, n.until)
		return err
	})
}

// lockPatience is how long a change of partitions waits for a lock on a table: everybody else waits behind it.
const lockPatience = "2s"

// alter runs f in a transaction, one at a time among all hubs.
func (s *Store) alter(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey("tidewire partitions", s.schema)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+lockPatience+`'`); err != nil {
			return err
		}
		return f(tx)
	})
}

func (s *Store) reloadSpans(ctx context.Context, p *spans) error {
	list, err := readSpans(ctx, s.pool, p.parent)
	if err != nil {
		return fmt.Errorf("read the partitions of %s: %w", p.parent, err)
	}
	p.list.Store(&list)
	return nil
}

func readSpans(ctx context.Context, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, parent string) (list []span, err error) {
	rows, err := q.Query(ctx, `SELECT from_ns, until_ns, name FROM spans WHERE parent = $1 ORDER BY from_ns`, parent)
	if err != nil {
		return nil, err
	}
	var n span
	_, err = pgx.ForEachRow(rows, []any{&n.from, &n.until, &n.name}, func() error {
		list = append(list, n)
		return nil
	})
	return list, err
}
