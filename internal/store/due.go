package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/internal/failpoint"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline"
)

// candidate is a head whose time has come.
type candidate struct{ dueAt, number int64 }

// Due implements pipeline.Ledger. When nothing is due it costs one seek for each route
// that has something parked, and no transaction. Two calls
// for the same route at the same time may each return fewer than there are. A delivery whose lease ran out is due
// since then. An event that the disk has damaged is not returned: it becomes a dead letter with the reason "damaged"; one that
// cannot be read at all stays leased, is reported in the log, and comes up again when the lease has run out.
func (s *Store) Due(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
	heads, err := s.heads(ctx, now, room)
	if err != nil {
		return nil, fmt.Errorf("look for what is due: %w", err)
	}
	if len(heads) == 0 {
		return nil, nil
	}
	until := now.Add(lease)
	taken, err := s.lease(ctx, heads, now, until)
	if err != nil {
		return nil, fmt.Errorf("lease what is due: %w", err)
	}
	due, damaged, err := s.load(ctx, taken, until)
	if err != nil {
		// When giving back fails too, the leases run out by themselves.
		_ = s.GiveBack(context.WithoutCancel(ctx), leased(taken, until))
		return nil, fmt.Errorf("load what is due: %w", err)
	}
	for _, b := range damaged {
		if err := s.buryDamaged(ctx, b, now); err != nil {
			s.log.Error("a damaged delivery could not be made a dead letter", "route", b.d.Route, "number", b.d.Number, "error", err)
		}
	}
	return due, nil
}

// heads lists the heads that are due, of each route as many as there is room for, the longest due first.
func (s *Store) heads(ctx context.Context, now time.Time, room map[string]int) (heads []candidate, err error) {
	n := s.names.Load()
	err = s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		heads = heads[:0]
		return query(conn, sqlWithParked, func(row *zsqlite.Stmt) error {
			route := row.ColumnInt64(0)
			found, err := s.headsOf(conn, route, now, room[n.routeNames[route]])
			heads = append(heads, found...)
			return err
		})
	})
	slices.SortFunc(heads, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.dueAt, b.dueAt), cmp.Compare(a.number, b.number))
	})
	return heads, err
}

// headsOf lists up to room heads of one route that are due.
func (s *Store) headsOf(conn *zsqlite.Conn, route int64, now time.Time, room int) (heads []candidate, err error) {
	if room <= 0 {
		return nil, nil
	}
	err = query(conn, sqlDue, func(row *zsqlite.Stmt) error {
		c := candidate{row.ColumnInt64(0), row.ColumnInt64(1)}
		if s.picture.leased(c.number, now) {
			return nil // the wall clock has jumped, the lease has not run out
		}
		heads = append(heads, c)
		if len(heads) == room {
			return errEnough
		}
		return nil
	}, route, Nanos(now))
	if errors.Is(err, errEnough) {
		err = nil
	}
	return heads, err
}

var errEnough = errors.New("enough rows")

// lease takes the heads that are still free and still due, and returns their numbers.
func (s *Store) lease(ctx context.Context, heads []candidate, now, until time.Time) (taken []int64, err error) {
	err = s.db.Write(ctx, func(conn *zsqlite.Conn) error {
		taken = taken[:0]
		for _, h := range heads {
			changes, err := exec(conn, sqlLease, Nanos(until), h.number, Nanos(now))
			if err != nil {
				return err
			}
			if changes == 1 {
				taken = append(taken, h.number)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	failpoint.Hit("after-lease")
	for _, number := range taken {
		s.picture.lease(number, until)
	}
	return taken, nil
}

// broken is a parked delivery whose event cannot be used, and why.
type broken struct {
	d   pipeline.Delivery
	err error
}

// load reads leased deliveries. A row that cannot be read is reported and left out.
func (s *Store) load(ctx context.Context, numbers []int64, until time.Time) (due []pipeline.Delivery, damaged []broken, err error) {
	due = make([]pipeline.Delivery, 0, len(numbers))
	err = s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		for _, number := range numbers {
			d, fault, err := s.loadOne(conn, number)
			switch {
			case sqlite.IsDamage(err):
				s.log.Error("a parked delivery cannot be read; the others go on", "number", number, "error", err)
				continue
			case err != nil:
				return err
			case d.Number == 0: // settled meanwhile
				s.picture.endLease(number)
				continue
			}
			d.Lease = until
			if fault == nil {
				due = append(due, d)
				continue
			}
			s.log.Error("a parked event is damaged and will not be delivered", "route", d.Route, "number", number,
				"topic", d.At.Topic, "partition", d.At.Partition, "offset", d.At.Offset, "error", fault)
			damaged = append(damaged, broken{d, fault})
		}
		return nil
	})
	return due, damaged, err
}

// loadOne reads one parked delivery; its Number is 0 when there is none. fault says that its event cannot be used.
func (s *Store) loadOne(conn *zsqlite.Conn, number int64) (d pipeline.Delivery, fault, err error) {
	n := s.names.Load()
	err = query(conn, sqlLoad, func(row *zsqlite.Stmt) error {
		d = pipeline.Delivery{
			Route:    n.routeNames[row.ColumnInt64(0)],
			At:       n.position(row.ColumnInt64(1), row.ColumnInt64(2)),
			Number:   number,
			First:    Instant(row.ColumnInt64(3)),
			Attempts: row.ColumnInt(4),
			Parks:    row.ColumnInt(5),
			History:  DecodeHistory(row.ColumnText(6)),
		}
		d.Event, fault = DecodeEvent(blob(row, 7), blob(row, 9), row.ColumnInt64(8))
		return nil
	}, number)
	return d, fault, err
}

// buryDamaged makes a parked delivery whose event is damaged a dead letter, its bytes as they are, and frees the next
// of its key.
func (s *Store) buryDamaged(ctx context.Context, b broken, now time.Time) error {
	d := b.d
	n := s.names.Load()
	c := &decision{
		ids:   ids{rangeID: rangeID{n.routes[d.Route], n.partitions[partition{d.At.Topic, d.At.Partition}]}},
		d:     d,
		o:     pipeline.Outcome{State: pipeline.Dead, Reason: ReasonDamaged, Error: b.err.Error(), At: now},
		state: stateDead,
	}
	err := s.db.Write(ctx, func(conn *zsqlite.Conn) error {
		c.removed = parked{}
		// Copied first: finishing removes the row. When there is nothing to finish, the copy is taken back.
		copied, err := exec(conn, sqlBuryParked, Nanos(now), c.o.Reason, c.o.Error, d.Number)
		if err != nil || copied == 0 {
			return err
		}
		done, err := c.finishKnown(conn)
		if err != nil {
			return err
		}
		if !done {
			return errors.New("its lease has passed to somebody else")
		}
		_, err = exec(conn, sqlTally, c.route, 0, 1)
		return err
	})
	if err == nil && c.removed.number != 0 {
		s.forgetParked(c.route, c.removed)
	}
	return err
}

// ReasonDamaged is the reason of a dead letter whose event is not what was written.
const ReasonDamaged = "damaged"

func leased(numbers []int64, until time.Time) []pipeline.Delivery {
	ds := make([]pipeline.Delivery, 0, len(numbers))
	for _, n := range numbers {
		ds = append(ds, pipeline.Delivery{Number: n, Lease: until})
	}
	return ds
}

// GiveBack implements pipeline.Ledger. Deliveries that are settled by now, or that somebody else has leased since, are left alone.
func (s *Store) GiveBack(ctx context.Context, ds []pipeline.Delivery) error {
	if len(ds) == 0 {
		return nil
	}
	ended := make([]int64, 0, len(ds))
	err := s.db.Write(ctx, func(conn *zsqlite.Conn) error {
		ended = ended[:0]
		for _, d := range ds {
			if d.Number == 0 {
				continue // it came from the log, which hands it out again by itself
			}
			changes, err := exec(conn, sqlGiveBack, d.Number, Nanos(d.Lease))
			if err != nil {
				return err
			}
			if changes == 1 {
				ended = append(ended, d.Number)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("give back %d deliveries: %w", len(ds), err)
	}
	for _, number := range ended {
		s.picture.endLease(number)
	}
	return nil
}
