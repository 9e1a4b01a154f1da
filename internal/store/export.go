package store

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/pipeline"
)

// Carried is one delivery with all that another store needs to go on with it.
type Carried struct {
	// Delivery has the whole event where it is parked or dead. Of any other the event has ID and Source alone, and for Recorded the time of the decision: the store
	// does not keep more. Number and Lease are zero.
	Delivery pipeline.Delivery
	// Outcome is the latest; Next is when a parked one comes due.
	Outcome pipeline.Outcome
	// Since is when a parked one was first parked.
	Since time.Time
	// Fault says why the event of a parked or dead one is none: its bytes are damaged, or it never was valid. Then Delivery.Event holds its ID, its source, its
	// bytes and whatever else is left of it.
	Fault error
}

// exportRows is how many rows one look of Export reads: the writer is not held up, and the write-ahead log not kept, for longer.
const exportRows = 500

// Export walks all deliveries: first the parked ones in the order in which they were parked, then the dead letters, then the ledger of each route. What is changed meanwhile comes as it
// was or as it is. An error ends the walk.
func (s *Store) Export(ctx context.Context) iter.Seq2[Carried, error] {
	return func(yield func(Carried, error) bool) {
		for _, part := range []func(context.Context, func(Carried) bool) (more bool, err error){s.exportParked, s.exportDead, s.exportPlain} {
			more, err := part(ctx, func(c Carried) bool { return yield(c, nil) })
			if err != nil {
				yield(Carried{}, fmt.Errorf("export deliveries: %w", err))
				return
			}
			if !more {
				return
			}
		}
	}
}

// walk reads chunks, each from where the one before ended, until one is empty. read returns the rows of a chunk and how many there were, with those left out.
func walk(yield func(Carried) bool, read func() (rows []Carried, n int, err error)) (more bool, err error) {
	for {
		rows, n, err := read()
		if err != nil || n == 0 {
			return true, err
		}
		for _, c := range rows {
			if !yield(c) {
				return false, nil
			}
		}
	}
}

func (s *Store) exportParked(ctx context.Context, yield func(Carried) bool) (more bool, err error) {
	return s.exportNumbered(ctx, sqlExportParked, yield, func(c *Carried, row *zsqlite.Stmt) {
		c.Outcome.Next, c.Since = Instant(row.ColumnInt64(13)), Instant(row.ColumnInt64(14))
		c.past(row, 15)
	})
}

func (s *Store) exportDead(ctx context.Context, yield func(Carried) bool) (more bool, err error) {
	return s.exportNumbered(ctx, sqlExportDead, yield, func(c *Carried, row *zsqlite.Stmt) { c.past(row, 13) })
}

// exportNumbered walks rows that bear numbers, in their order. rest adds to what every row has.
func (s *Store) exportNumbered(ctx context.Context, sql string, yield func(Carried) bool, rest func(*Carried, *zsqlite.Stmt)) (more bool, err error) {
	names := s.names.Load()
	after := int64(0)
	return walk(yield, func() (rows []Carried, n int, err error) {
		last := after
		err = s.db.Read(ctx, func(conn *zsqlite.Conn) error {
			rows, n, last = nil, 0, after
			return query(conn, sql, func(row *zsqlite.Stmt) error {
				n++
				last = row.ColumnInt64(0)
				c := carried(names, row, 1)
				rest(&c, row)
				rows = append(rows, c)
				return nil
			}, after, exportRows/10) // their events may be large
		})
		after = last
		return rows, n, err
	})
}

// exportPlain walks what was delivered or skipped, range by range.
func (s *Store) exportPlain(ctx context.Context, yield func(Carried) bool) (more bool, err error) {
	names := s.names.Load()
	ranges, err := s.ranges(ctx)
	if err != nil {
		return false, err
	}
	for _, at := range ranges {
		after := int64(-1 << 63)
		more, err = walk(yield, func() (rows []Carried, n int, err error) {
			last := after
			err = s.db.Read(ctx, func(conn *zsqlite.Conn) error {
				rows, n, last = nil, 0, after
				return query(conn, sqlExportRange, func(row *zsqlite.Stmt) error {
					n++
					c := carried(names, row, 0)
					last = c.Delivery.At.Offset
					if c.Outcome.State == pipeline.Delivered || c.Outcome.State == pipeline.Skipped {
						rows = append(rows, c)
					}
					return nil
				}, at.route, at.partition, after, exportRows)
			})
			after = last
			return rows, n, err
		})
		if !more || err != nil {
			return more, err
		}
	}
	return true, nil
}

// carried reads what every row has, from a column on.
func carried(n *names, row *zsqlite.Stmt, i int) Carried {
	at := n.position(row.ColumnInt64(i+1), row.ColumnInt64(i+2))
	decided := Instant(row.ColumnInt64(i + 4))
	return Carried{
		Delivery: pipeline.Delivery{
			Route: n.routeNames[row.ColumnInt64(i)], At: at, Attempts: row.ColumnInt(i + 5),
			Event: event.Event{ID: row.ColumnText(i + 8), Source: strings.TrimPrefix(at.Topic, pipeline.EventsTopic("")), Recorded: decided},
		},
		Outcome: pipeline.Outcome{
			State: StateBy(row.ColumnInt64(i + 3)), At: decided, Code: row.ColumnInt(i + 6), Duration: time.Duration(row.ColumnInt64(i + 7)),
			TargetID: row.ColumnText(i + 9), Reason: row.ColumnText(i + 10), Error: row.ColumnText(i + 11),
		},
	}
}

// past adds what parked and dead rows have, from a column on. Of an event that cannot be read, what is left of it: ID, source and bytes.
func (c *Carried) past(row *zsqlite.Stmt, i int) {
	c.Delivery.First, c.Delivery.Parks, c.Delivery.History = Instant(row.ColumnInt64(i)), row.ColumnInt(i+1), DecodeHistory(row.ColumnText(i+2))
	known := c.Delivery.Event
	c.Delivery.Event, c.Fault = DecodeEvent(blob(row, i+3), blob(row, i+5), row.ColumnInt64(i+4))
	if c.Fault != nil {
		e := &c.Delivery.Event
		e.ID, e.Source, e.Body = known.ID, known.Source, blob(row, i+5)
	}
}
