package store

import (
	"context"
	"errors"
	"fmt"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/internal/failpoint"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline"
)

// The states as rows have them.
const (
	stateParked    = 1
	stateDelivered = 2
	stateDead      = 3
	stateSkipped   = 4
)

// NumberOf is a state as rows have it: 1 parked, 2 delivered, 3 dead, 4 skipped; 0 for one that does not exist.
func NumberOf(s pipeline.State) int64 {
	switch s {
	case pipeline.Parked:
		return stateParked
	case pipeline.Delivered:
		return stateDelivered
	case pipeline.Dead:
		return stateDead
	case pipeline.Skipped:
		return stateSkipped
	}
	return 0
}

// StateBy is the inverse of NumberOf; empty for a number that is no state.
func StateBy(number int64) pipeline.State {
	switch number {
	case stateParked:
		return pipeline.Parked
	case stateDelivered:
		return pipeline.Delivered
	case stateDead:
		return pipeline.Dead
	case stateSkipped:
		return pipeline.Skipped
	}
	return ""
}

// decision is one call of Settle on its way through the writer.
type decision struct {
	ids
	d     pipeline.Delivery
	o     pipeline.Outcome
	state int64
	// What the job found out; set, not added to, because a job may run twice.
	inserted bool   // a parked row was added
	moved    bool   // a parked row was given another time
	removed  parked // the parked row that was removed; number 0 when none was
}

// parked is what a decision has to know of a parked row.
type parked struct {
	number, source int64
	key            string
	head           bool
	leaseUntil     int64
}

// Settle implements pipeline.Ledger. A delivery that comes from Due bears its lease: when that has run out and somebody else
// has the delivery in hand by now, a Parked or Dead outcome is dropped, for the other one decides; Delivered and
// Skipped count whoever says so. A delivery without a lease is not held to one. Reason is cut to 64 bytes, TargetID to
// 255, Error to 2 KiB and each error in the history to 512 bytes.
func (s *Store) Settle(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
	state := NumberOf(o.State)
	if state == 0 {
		return fmt.Errorf("settle event %s on route %s: there is no state %q", d.Event.ID, d.Route, o.State)
	}
	id, err := s.idsOf(ctx, d)
	if err != nil {
		return fmt.Errorf("settle event %s on route %s: %w", d.Event.ID, d.Route, err)
	}
	switch state {
	case stateParked:
		failpoint.Hit("before-park")
	case stateDead:
		failpoint.Hit("before-dead")
		fallthrough
	default:
		failpoint.Hit("before-settle")
	}
	if err := s.decide(ctx, &decision{ids: id, d: d, o: Bounded(o), state: state}); err != nil {
		return fmt.Errorf("settle event %s on route %s as %s: %w", d.Event.ID, d.Route, o.State, err)
	}
	if state == stateParked {
		failpoint.Hit("after-park")
	} else {
		failpoint.Hit("after-settle")
	}
	return nil
}

// decide writes a decision and keeps the picture in step: marks before, takes back after.
func (s *Store) decide(ctx context.Context, c *decision) error {
	job, err := c.job()
	if err != nil {
		return err
	}
	parks := c.state == stateParked && c.d.Number == 0 && c.d.Event.Key != ""
	if parks {
		s.picture.park(c.route, c.source, c.d.Event.Key)
	}
	if c.d.Number == 0 {
		s.picture.settle(c.rangeID, c.d.At.Offset)
	}
	err = s.db.Write(ctx, job)
	switch {
	case errors.Is(err, sqlite.ErrFailed):
		return err // what is on disk is unknown: every mark stays
	case err != nil:
		c.inserted, c.moved, c.removed = false, false, parked{} // undone, whatever the job saw
	}
	if parks && !c.inserted {
		s.picture.unpark(c.route, c.source, c.d.Event.Key)
	}
	if c.removed.number != 0 {
		s.forgetParked(c.route, c.removed)
	}
	if c.moved {
		s.picture.endLease(c.d.Number)
	}
	return err
}

// job is what the writer has to do. What can be encoded is encoded here, on the caller's time.
func (c *decision) job() (func(*zsqlite.Conn) error, error) {
	switch {
	case c.state == stateParked && c.d.Number != 0:
		history := EncodeHistory(c.d.History)
		return func(conn *zsqlite.Conn) error { return c.parkAgain(conn, history) }, nil
	case c.state == stateParked:
		row, err := EncodeRow(c.d)
		return func(conn *zsqlite.Conn) error { return c.park(conn, row) }, err
	case c.state == stateDead:
		row, err := EncodeRow(c.d)
		return func(conn *zsqlite.Conn) error { return c.bury(conn, row) }, err
	}
	return c.end, nil
}

// forgetParked takes a removed row out of the picture.
func (s *Store) forgetParked(route int64, p parked) {
	if p.key != "" {
		s.picture.unpark(route, p.source, p.key)
	}
	s.picture.endLease(p.number)
}

// end settles a delivery that needs no more said: the hot path, one insert.
func (c *decision) end(conn *zsqlite.Conn) error {
	_, err := c.finish(conn)
	return err
}

// insert adds the delivery's row and reports whether there was none. Deliveries that came to a plain end, nearly all
// of them, leave two columns out.
func (c *decision) insert(conn *zsqlite.Conn) (fresh bool, err error) {
	sql := sqlDelivered
	plain := c.o.Reason == "" && c.o.Error == ""
	if !plain {
		sql = sqlDecided
	}
	stmt, err := conn.Prepare(sql)
	if err != nil {
		return false, err
	}
	stmt.BindInt64(1, c.route)
	stmt.BindInt64(2, c.partition)
	stmt.BindInt64(3, c.d.At.Offset)
	stmt.BindInt64(4, c.state)
	stmt.BindInt64(5, Nanos(c.o.At))
	stmt.BindInt64(6, int64(c.d.Attempts))
	stmt.BindInt64(7, int64(c.o.Code))
	stmt.BindInt64(8, int64(c.o.Duration))
	stmt.BindText(9, c.d.Event.ID)
	stmt.BindText(10, c.o.TargetID)
	if !plain {
		stmt.BindText(11, c.o.Reason)
		stmt.BindText(12, c.o.Error)
	}
	if _, err := stmt.Step(); err != nil {
		return false, err
	}
	return conn.Changes() == 1, nil
}

// finish settles a delivery for good and reports whether this call did it.
func (c *decision) finish(conn *zsqlite.Conn) (done bool, err error) {
	c.removed = parked{}
	if c.d.Number == 0 {
		if fresh, err := c.insert(conn); err != nil || fresh {
			return fresh, err
		}
	}
	return c.finishKnown(conn)
}

// finishKnown ends the parking of a delivery that has a row, and frees the next of its key. A delivery that is
// not parked is settled already, and stays as it is.
func (c *decision) finishKnown(conn *zsqlite.Conn) (done bool, err error) {
	p, err := c.findParked(conn)
	if err != nil || p.number == 0 || c.state == stateDead && c.outdated(p) {
		return false, err
	}
	if err := unpark(conn, c.route, p); err != nil {
		return false, err
	}
	if err := c.rewrite(conn); err != nil {
		return false, err
	}
	c.removed = p
	return true, nil
}

// unpark removes a parked row and makes the next of its key its head, in the caller's transaction.
func unpark(conn *zsqlite.Conn, route int64, p parked) error {
	if _, err := exec(conn, sqlUnpark, p.number); err != nil {
		return err
	}
	if _, err := exec(conn, sqlTally, route, -1, 0); err != nil {
		return err
	}
	if p.key == "" || !p.head {
		return nil
	}
	_, err := exec(conn, sqlPromote, route, p.source, p.key)
	return err
}

// rewrite brings the row of a delivery that had one up to this decision.
func (c *decision) rewrite(conn *zsqlite.Conn) error {
	_, err := exec(conn, sqlDecidedAgain, c.state, Nanos(c.o.At), c.d.Attempts, c.o.Code, int64(c.o.Duration),
		c.o.TargetID, c.o.Reason, c.o.Error, c.route, c.partition, c.d.At.Offset)
	return err
}

// park adds the delivery and its event, behind its elders if there are any. One that has a row already is left alone.
func (c *decision) park(conn *zsqlite.Conn, row Row) error {
	c.inserted = false
	fresh, err := c.insert(conn)
	if err != nil || !fresh {
		return err
	}
	_, err = exec(conn, sqlPark, c.route, c.source, c.d.Event.Key, c.partition, c.d.At.Offset,
		Nanos(c.o.Next), Nanos(c.o.At), Nanos(c.d.First), c.d.Attempts, c.d.Parks, row.History, row.Attributes, row.CRC, c.d.Event.Body)
	if err != nil {
		return err
	}
	c.inserted = true
	_, err = exec(conn, sqlTally, c.route, 1, 0)
	return err
}

// parkAgain moves the next time of a parked delivery.
func (c *decision) parkAgain(conn *zsqlite.Conn, history string) error {
	c.moved = false
	p, err := c.findParked(conn)
	if err != nil || p.number == 0 || c.outdated(p) {
		return err
	}
	if _, err := exec(conn, sqlParkAgain, Nanos(c.o.Next), Nanos(c.d.First), c.d.Attempts, c.d.Parks, history, p.number); err != nil {
		return err
	}
	c.moved = true
	return c.rewrite(conn)
}

// bury settles a delivery as dead and keeps its event.
func (c *decision) bury(conn *zsqlite.Conn, row Row) error {
	done, err := c.finish(conn)
	if err != nil || !done {
		return err
	}
	_, err = exec(conn, sqlBury, c.route, c.partition, c.d.At.Offset, Nanos(c.o.At), Nanos(c.d.First), c.d.Attempts, c.d.Parks, c.o.Code,
		int64(c.o.Duration), c.o.TargetID, c.o.Reason, c.o.Error, row.History, row.Attributes, row.CRC, c.d.Event.Body)
	if err != nil {
		return err
	}
	_, err = exec(conn, sqlTally, c.route, 0, 1)
	return err
}

// outdated reports whether the delivery's lease has passed to somebody else.
func (c *decision) outdated(p parked) bool {
	return !c.d.Lease.IsZero() && p.leaseUntil != Nanos(c.d.Lease)
}

// findParked finds the parked row of the delivery, by its number or else by its place.
func (c *decision) findParked(conn *zsqlite.Conn) (p parked, err error) {
	found := func(r *zsqlite.Stmt) error {
		// A number that belongs to another delivery is somebody's mistake and must not end that one.
		if r.ColumnInt64(5) == c.route && r.ColumnInt64(6) == c.partition && r.ColumnInt64(7) == c.d.At.Offset {
			p = parked{r.ColumnInt64(0), r.ColumnInt64(1), r.ColumnText(2), r.ColumnInt64(3) == 1, r.ColumnInt64(4)}
		}
		return nil
	}
	if c.d.Number != 0 {
		err = query(conn, sqlParkedByNumber, found, c.d.Number)
	} else {
		err = query(conn, sqlParkedByPosition, found, c.route, c.partition, c.d.At.Offset)
	}
	return p, err
}

// stateOf is the state of a delivery's row; 0 when there is none.
func stateOf(conn *zsqlite.Conn, at rangeID, offset int64) (state int64, err error) {
	err = query(conn, sqlState, func(row *zsqlite.Stmt) error {
		state = row.ColumnInt64(0)
		return nil
	}, at.route, at.partition, offset)
	return state, err
}
