package pgstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidewire/tidewire/internal/failpoint"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// candidate is a delivery that was leased, as its row has it.
type candidate struct {
	dueAt, number, offset, first, crc int64
	route, partition, attempts, parks int32
	history, attributes               string
	body                              []byte
	key                               pgtype.UUID
}

// Due implements pipeline.Ledger. Leases are counted by now, the caller's time, and not by the database's clock. Any number of hubs may ask at the same time, and
// each delivery goes to one of them; there is no need to be told of what another hub
// has parked or freed, because asking is cheap. When two ask for the same route, each may get fewer than there are. When nothing is due it costs one look at an index for each route, and
// nothing is written. A delivery whose lease ran out is due since then. An event that was damaged is not returned: it becomes a dead letter with the reason
// "damaged". When the connection is lost before the answer is here, what was leased stays leased until it runs out.
func (s *Store) Due(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]pipeline.Delivery, error) {
	found, err := s.leaseDue(ctx, now, room, now.Add(lease))
	if err != nil {
		return nil, fmt.Errorf("lease what is due: %w", err)
	}
	if len(found) == 0 {
		return nil, nil
	}
	failpoint.Hit("after-lease")
	due, damaged, err := s.deliveriesOf(ctx, found, now.Add(lease))
	if err != nil {
		return nil, fmt.Errorf("load what is due: %w", err)
	}
	for _, c := range damaged {
		c.o.At = now
		s.log.Error("a parked event is damaged and will not be delivered", "route", c.d.Route, "number", c.d.Number,
			"topic", c.d.At.Topic, "partition", c.d.At.Partition, "offset", c.d.At.Offset, "error", c.o.Error)
		if err := s.parks.do(ctx, c); err != nil {
			s.log.Error("a damaged delivery could not be made a dead letter", "route", c.d.Route, "number", c.d.Number, "error", err)
		}
	}
	return due, nil
}

// leaseDue takes the heads that are due, the longest due first.
func (s *Store) leaseDue(ctx context.Context, now time.Time, room map[string]int, until time.Time) (found []candidate, err error) {
	n := s.names.Load()
	var routes, rooms []int32
	for name, some := range room {
		if some <= 0 {
			continue
		}
		if n.routes[name] == 0 {
			if n, err = s.knowingRoute(ctx, name); err != nil {
				return nil, err
			}
		}
		if id := n.routes[name]; id != 0 {
			routes, rooms = append(routes, id), append(rooms, int32(min(some, 10_000)))
		}
	}
	if len(routes) == 0 {
		return nil, nil
	}
	err = s.try(ctx, kindDue, func(ctx context.Context) error {
		found = found[:0]
		rows, err := s.pool.Query(ctx, sqlDue, routes, rooms, store.Nanos(now), store.Nanos(until))
		if err != nil {
			return err
		}
		var c candidate
		into := []any{&c.dueAt, &c.number, &c.route, &c.partition, &c.offset, &c.first, &c.attempts, &c.parks, &c.history, &c.attributes, &c.crc, &c.body, &c.key}
		_, err = pgx.ForEachRow(rows, into, func() error {
			found = append(found, c)
			c.body = nil // the next row's must not be written over it
			return nil
		})
		return err
	})
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.dueAt, b.dueAt), cmp.Compare(a.number, b.number))
	})
	return found, err
}

// deliveriesOf makes deliveries of rows, and decisions about those whose event cannot be used.
func (s *Store) deliveriesOf(ctx context.Context, found []candidate, until time.Time) (due []pipeline.Delivery, damaged []*decision, err error) {
	routes, partitions := make([]int32, len(found)), make([]int32, len(found))
	for i, c := range found {
		routes[i], partitions[i] = c.route, c.partition
	}
	n, err := s.knowing(ctx, routes, nil, partitions)
	if err != nil {
		return nil, nil, err
	}
	due = make([]pipeline.Delivery, 0, len(found))
	for _, c := range found {
		d := pipeline.Delivery{
			Route: n.routeNames[c.route], At: n.position(c.partition, c.offset), Number: c.number, Lease: until,
			First: store.Instant(c.first), Attempts: int(c.attempts), Parks: int(c.parks), History: store.DecodeHistory(c.history),
		}
		var fault error
		if d.Event, fault = store.DecodeEvent([]byte(c.attributes), c.body, c.crc); fault == nil {
			due = append(due, d)
			continue
		}
		damaged = append(damaged, &decision{
			ids: ids{route: c.route}, d: d, key: c.key, damaged: true, state: stateDead,
			o: store.Bounded(pipeline.Outcome{State: pipeline.Dead, Reason: store.ReasonDamaged, Error: fault.Error()}),
		})
	}
	return due, damaged, nil
}

// GiveBack implements pipeline.Ledger. Deliveries that are settled by now, or that somebody else has leased since, are left alone.
func (s *Store) GiveBack(ctx context.Context, ds []pipeline.Delivery) error {
	var numbers, leases []int64
	for _, d := range ds {
		if d.Number != 0 { // one that came from the log is handed out again by the log
			numbers, leases = append(numbers, d.Number), append(leases, store.Nanos(d.Lease))
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	err := s.try(ctx, kindGiveBack, func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, sqlGiveBack, numbers, leases)
		return err
	})
	if err != nil {
		return fmt.Errorf("give back %d deliveries: %w", len(ds), err)
	}
	return nil
}
