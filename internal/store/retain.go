package store

import (
	"context"
	"fmt"
	"math"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
)

// chunkRows is how many rows one transaction of the retention looks at: about a millisecond of the writer's time.
const chunkRows = 500

// Retain removes the entries of deliveries that were delivered or skipped before a time, and says how many. Parked ones always stay,
// dead ones are RetainDead's. It works in small transactions, so that settling goes on beside it, and what it removed stays removed
// when ctx ends it midway.
//
// A delivery that is forgotten would be sent again if the log handed it out again: before must not be later than the oldest
// record that the log may still hand to a group.
//
// It walks every route's entries from the oldest offset, as far as it finds old ones. An entry that was settled late may keep
// it from looking further, so some go a little after their time, never before.
func (s *Store) Retain(ctx context.Context, before time.Time) (removed int64, err error) {
	ranges, err := s.ranges(ctx)
	if err != nil {
		return 0, fmt.Errorf("retain deliveries: %w", err)
	}
	for _, at := range ranges {
		n, err := s.retainRange(ctx, at, Nanos(before))
		removed += n
		if err != nil {
			return removed, fmt.Errorf("retain deliveries: %w", err)
		}
	}
	return removed, nil
}

// ranges lists every route's reading of every partition.
func (s *Store) ranges(ctx context.Context) (found []rangeID, err error) {
	err = s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		return eachRange(conn, func(at rangeID, _ int64) { found = append(found, at) })
	})
	return found, err
}

// eachRange calls f with every range that has rows and its highest offset, with two seeks each.
func eachRange(conn *zsqlite.Conn, f func(at rangeID, highest int64)) error {
	last := rangeID{maxID, maxID}
	for more := true; more; {
		more = false
		err := query(conn, sqlRangeBefore, func(row *zsqlite.Stmt) error {
			more = true
			last = rangeID{row.ColumnInt64(0), row.ColumnInt64(1)}
			f(last, row.ColumnInt64(2))
			return nil
		}, last.route, last.partition)
		if err != nil {
			return err
		}
	}
	return nil
}

// chunk is what a look at some rows of a range found.
type chunk struct {
	first, last int64 // offsets
	rows        int
	old, young  int // of those that may be removed at all
}

// retainRange looks without holding up the writer, and asks it only for chunks that have something to remove.
func (s *Store) retainRange(ctx context.Context, at rangeID, before int64) (removed int64, err error) {
	for after := int64(math.MinInt64); ; {
		c, err := s.look(ctx, at, after, before)
		if err != nil || c.rows == 0 {
			return removed, err
		}
		if c.old > 0 {
			changes := 0
			err := s.db.Write(ctx, func(conn *zsqlite.Conn) (err error) {
				changes, err = exec(conn, sqlForget, at.route, at.partition, c.first, c.last, before)
				return err
			})
			if err != nil {
				return removed, err
			}
			removed += int64(changes)
		} else if c.young > 0 {
			return removed, nil
		}
		after = c.last
	}
}

func (s *Store) look(ctx context.Context, at rangeID, after, before int64) (c chunk, err error) {
	err = s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		c = chunk{}
		return query(conn, sqlOldChunk, func(row *zsqlite.Stmt) error {
			if c.rows++; c.rows == 1 {
				c.first = row.ColumnInt64(0)
			}
			c.last = row.ColumnInt64(0)
			switch state := row.ColumnInt64(1); {
			case state != stateDelivered && state != stateSkipped:
			case row.ColumnInt64(2) < before:
				c.old++
			default:
				c.young++
			}
			return nil
		}, at.route, at.partition, after, chunkRows)
	})
	return c, err
}

// RetainDead removes the dead letters decided before a time, with their events and their entries in the ledger, and says how
// many. It works in small transactions like Retain.
func (s *Store) RetainDead(ctx context.Context, before time.Time) (removed int64, err error) {
	for route := range s.names.Load().routeNames {
		n, err := s.retainDead(ctx, route, Nanos(before))
		removed += n
		if err != nil {
			return removed, fmt.Errorf("retain dead letters: %w", err)
		}
	}
	return removed, nil
}

// deadPlace is one dead letter and its entry.
type deadPlace struct{ number, partition, offset int64 }

func (s *Store) retainDead(ctx context.Context, route, before int64) (removed int64, err error) {
	for after := int64(0); ; {
		var old []deadPlace
		err := s.db.Read(ctx, func(conn *zsqlite.Conn) error {
			old = old[:0]
			return query(conn, sqlDeadBefore, func(row *zsqlite.Stmt) error {
				old = append(old, deadPlace{row.ColumnInt64(0), row.ColumnInt64(1), row.ColumnInt64(2)})
				return nil
			}, route, after, before, chunkRows/10) // their events may be large
		})
		if err != nil || len(old) == 0 {
			return removed, err
		}
		n := 0
		err = s.db.Write(ctx, func(conn *zsqlite.Conn) error {
			n = 0
			for _, d := range old {
				changes, err := exec(conn, sqlUnbury, d.number)
				if err != nil {
					return err
				}
				if changes == 0 {
					continue
				}
				n++
				if _, err := exec(conn, sqlForgetDead, route, d.partition, d.offset); err != nil {
					return err
				}
			}
			_, err := exec(conn, sqlTally, route, 0, -n)
			return err
		})
		if err != nil {
			return removed, err
		}
		removed += int64(n)
		after = old[len(old)-1].number
	}
}
