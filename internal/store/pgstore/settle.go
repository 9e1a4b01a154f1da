package pgstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidewire/tidewire/internal/failpoint"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// The states as rows have them.
const (
	stateParked    = 1
	stateDelivered = 2
	stateDead      = 3
	stateSkipped   = 4
)

// decision is one call of Settle on its way to the database.
type decision struct {
	ids
	d        pipeline.Delivery
	o        pipeline.Outcome
	state    int16
	id       string
	recorded int64
	key      pgtype.UUID
	row      store.Row // of parked and dead ones
	among    bool      // found to be parked by the hot path, which leaves it to the other
	damaged  bool      // its event is not what was written
	since    int64     // when one that is imported was first parked
}

// Settle implements pipeline.Ledger. A delivery that comes from Due bears its lease: when that has run out and somebody else
// has the delivery in hand by now, a Parked or Dead outcome is dropped, for the other one decides; Delivered and
// Skipped count whoever says so. A delivery without a lease is not held to one. Reason is cut to 64 bytes, TargetID to
// 255, Error to 2 KiB and each error in the history to 512 bytes.
//
// An error leaves open whether the outcome was written; saying it again is safe.
func (s *Store) Settle(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
	if err := s.settle(ctx, d, o); err != nil {
		return fmt.Errorf("settle event %s on route %s as %s: %w", d.Event.ID, d.Route, o.State, err)
	}
	return nil
}

func (s *Store) settle(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
	c, err := s.decide(ctx, d, o)
	if err != nil {
		return err
	}
	switch c.state {
	case stateParked:
		failpoint.Hit("before-park")
	case stateDead:
		failpoint.Hit("before-dead")
		fallthrough
	default:
		failpoint.Hit("before-settle")
	}
	if c.plain() {
		err = s.settles.do(ctx, c)
	}
	if err == nil && (!c.plain() || c.among) {
		err = s.parks.do(ctx, c)
	}
	if err != nil {
		return err
	}
	if c.state == stateParked {
		failpoint.Hit("after-park")
	} else {
		failpoint.Hit("after-settle")
	}
	return nil
}

// decide makes a decision ready for the database. What can be encoded is encoded here, on the caller's time.
func (s *Store) decide(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) (*decision, error) {
	c := &decision{d: d, o: store.Bounded(o), state: int16(store.NumberOf(o.State))}
	if c.state == 0 {
		return nil, fmt.Errorf("there is no state %q", o.State)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	source := storable(d.Event.Source)
	var err error
	if c.ids, err = s.number(ctx, d.Route, source, partition{d.At.Topic, d.At.Partition}); err != nil {
		return nil, err
	}
	c.id, c.recorded, c.key = eventID(d.Event.ID, d.At), store.Nanos(d.Event.Recorded), keyHash(source, d.Event.Key)
	if c.state == stateParked || c.state == stateDead {
		if c.row, err = store.EncodeRow(d); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// plain reports whether the decision is the common one: an event fresh from the log came to a plain end. It costs one insert.
func (c *decision) plain() bool {
	return c.d.Number == 0 && (c.state == stateDelivered || c.state == stateSkipped) && c.o.Reason == "" && c.o.Error == ""
}

// compare orders decisions by the key of their rows: batches of two hubs that hold the same rows must touch them in the same order, or each would
// wait for the other.
func compare(a, b *decision) int {
	return cmp.Or(cmp.Compare(a.route, b.route), cmp.Compare(a.source, b.source), cmp.Compare(a.id, b.id), cmp.Compare(a.recorded, b.recorded))
}

// columns are the parameters of sqlDelivered.
type columns struct {
	recorded, decided, duration, offset      []int64
	route, source, partition, attempts, code []int32
	state                                    []int16
	id, target                               []string
}

func columnsOf(batch []*call[*decision]) columns {
	n := len(batch)
	// Two arrays for all columns of a type: a batch costs few allocations.
	wide, narrow, text := make([]int64, 4*n), make([]int32, 5*n), make([]string, 2*n)
	c := columns{
		wide[:n:n], wide[n : 2*n : 2*n], wide[2*n : 3*n : 3*n], wide[3*n:],
		narrow[:n:n], narrow[n : 2*n : 2*n], narrow[2*n : 3*n : 3*n], narrow[3*n : 4*n : 4*n], narrow[4*n:],
		make([]int16, n), text[:n:n], text[n:],
	}
	for i, call := range batch {
		v := call.v
		c.recorded[i], c.decided[i], c.duration[i], c.offset[i] = v.recorded, store.Nanos(v.o.At), int64(v.o.Duration), v.d.At.Offset
		c.route[i], c.source[i], c.partition[i], c.attempts[i], c.code[i] = v.route, v.source, v.partition, int32(v.d.Attempts), int32(v.o.Code)
		c.state[i], c.id[i], c.target[i] = v.state, v.id, v.o.TargetID
	}
	return c
}

// settleAll writes a batch of plain ends with one insert. Those that had a row already are settled, unless they are parked: then they
// are marked, and go the other way.
func (s *Store) settleAll(ctx context.Context, batch []*call[*decision]) {
	s.metrics.batch(kindSettle, len(batch))
	slices.SortFunc(batch, func(a, b *call[*decision]) int { return compare(a.v, b.v) })
	s.cover(ctx, batch)
	c := columnsOf(batch)
	err := s.try(ctx, kindSettle, func(ctx context.Context) error {
		tag, err := s.pool.Exec(ctx, sqlDelivered, c.recorded, c.decided, c.duration, c.offset, c.route, c.source, c.partition, c.attempts, c.code, c.state, c.id, c.target)
		if err != nil || tag.RowsAffected() == int64(len(batch)) {
			return err
		}
		rows, err := s.pool.Query(ctx, sqlAmongParked, c.route, c.source, c.id, c.recorded)
		if err != nil {
			return err
		}
		var n int64
		_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
			batch[n-1].v.among = true
			return nil
		})
		return err
	})
	if err != nil && len(batch) > 1 && faultOf(err) == faultFinal && ctx.Err() == nil {
		for i := range batch { // one of them is at fault; the others must not pay for it
			s.settleAll(ctx, batch[i:i+1])
		}
		return
	}
	for _, call := range batch {
		call.err = err
	}
}

// parkAll writes a batch of all other decisions in one transaction, each with a statement of its own, in one round trip.
func (s *Store) parkAll(ctx context.Context, batch []*call[*decision]) {
	s.metrics.batch(kindPark, len(batch))
	slices.SortStableFunc(batch, func(a, b *call[*decision]) int { return compare(a.v, b.v) })
	s.cover(ctx, batch)
	err := s.try(ctx, kindPark, func(ctx context.Context) error {
		var all pgx.Batch // without BEGIN: one implicit transaction
		all.Queue(sqlLockKeys, s.locks(batch))
		for _, call := range batch {
			call.v.queue(&all)
		}
		return s.pool.SendBatch(ctx, &all).Close()
	})
	if err != nil && len(batch) > 1 && faultOf(err) == faultFinal && ctx.Err() == nil {
		for i := range batch {
			s.parkAll(ctx, batch[i:i+1])
		}
		return
	}
	for _, call := range batch {
		call.err = err
	}
}

// locks are the numbers of the advisory locks of a batch's keys.
func (s *Store) locks(batch []*call[*decision]) []int64 {
	keys := make([]int64, 0, len(batch))
	for _, call := range batch {
		if c := call.v; c.key.Valid {
			keys = append(keys, lockKey("tidewire key", s.schema, fmt.Sprint(c.route), string(c.key.Bytes[:])))
		}
	}
	return keys
}

// queue adds the decision's statement to a batch.
func (c *decision) queue(all *pgx.Batch) {
	reason, text := nullable(c.o.Reason), nullable(c.o.Error)
	at, took, first := store.Nanos(c.o.At), int64(c.o.Duration), store.Nanos(c.d.First)
	attempts, code, parks := int32(c.d.Attempts), int32(c.o.Code), int32(c.d.Parks)
	switch {
	case c.damaged:
		all.Queue(sqlBuryParked, c.d.Number, store.Nanos(c.d.Lease), at, c.o.Reason, c.o.Error)
	case c.state == stateParked && c.d.Number == 0:
		all.Queue(sqlPark, c.recorded, at, took, c.d.At.Offset, c.route, c.source, c.partition, attempts, code, c.id, c.o.TargetID, reason, text,
			store.Nanos(c.o.Next), first, c.row.CRC, parks, c.key, c.row.History, c.row.Attributes, c.body())
	case c.state == stateParked:
		all.Queue(sqlParkAgain, c.recorded, at, took, c.d.At.Offset, c.route, c.source, c.partition, attempts, code, c.id, c.o.TargetID, reason, text,
			store.Nanos(c.o.Next), first, parks, c.row.History, c.d.Number, store.Nanos(c.d.Lease))
	default:
		held := int64(0)
		if c.state == stateDead {
			held = store.Nanos(c.d.Lease)
		}
		all.Queue(sqlFinish, c.recorded, at, took, c.d.At.Offset, c.route, c.source, c.partition, attempts, code, c.id, c.o.TargetID, reason, text,
			c.state, c.d.Number, held, first, c.row.CRC, parks, c.row.History, c.row.Attributes, c.body())
	}
}

// body is the event's, never null, and only where it is kept.
func (c *decision) body() []byte {
	if c.d.Event.Body == nil || c.state != stateParked && c.state != stateDead {
		return []byte{}
	}
	return c.d.Event.Body
}

func nullable(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
