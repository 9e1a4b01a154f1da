package pgstore

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// Import takes over deliveries as they stand: states, outcomes, attempts, history and times, parked ones behind their elders in the order in which they come. It returns
// how many it went through. What is known already, by route, source, event ID and time of recording, stays as it is: an import that ended midway is simply done again. A parked
// event whose bytes are damaged becomes a dead letter with the reason "damaged". Nobody else should use the tables meanwhile.
func (s *Store) Import(ctx context.Context, rows iter.Seq2[store.Carried, error]) (n int64, err error) {
	var plain, others []*call[*decision]
	for row, err := range rows {
		if err != nil {
			return n, fmt.Errorf("import deliveries: %w", err)
		}
		c, err := s.imported(ctx, row)
		if err != nil {
			return n, fmt.Errorf("import event %s of route %s: %w", row.Delivery.Event.ID, row.Delivery.Route, err)
		}
		if c.v.plain() {
			plain = append(plain, c)
		} else {
			others = append(others, c)
		}
		if len(plain) < mostRows && len(others) < mostParked {
			continue
		}
		if err := s.importAll(ctx, plain, others); err != nil {
			return n, fmt.Errorf("import deliveries: %w", err)
		}
		n += int64(len(plain) + len(others))
		plain, others = nil, nil
	}
	if err := s.importAll(ctx, plain, others); err != nil {
		return n, fmt.Errorf("import deliveries: %w", err)
	}
	return n + int64(len(plain)+len(others)), nil
}

func (s *Store) imported(ctx context.Context, row store.Carried) (*call[*decision], error) {
	d, o := row.Delivery, row.Outcome
	d.Number = 0
	if row.Fault != nil && o.State != pipeline.Dead {
		o = pipeline.Outcome{State: pipeline.Dead, Reason: store.ReasonDamaged, Error: row.Fault.Error(), At: o.At}
	}
	c, err := s.decide(ctx, d, o)
	if err != nil {
		return nil, err
	}
	c.since = store.Nanos(row.Since)
	return &call[*decision]{v: c}, nil
}

// importAll writes two batches. Parked ones keep their order, which is that of their keys; nobody else is there to wait for.
func (s *Store) importAll(ctx context.Context, plain, others []*call[*decision]) error {
	if len(plain) > 0 {
		s.settleAll(ctx, plain)
		for _, c := range plain {
			if c.err != nil {
				return fmt.Errorf("event %s of route %s: %w", c.v.d.Event.ID, c.v.d.Route, c.err)
			}
		}
	}
	if len(others) == 0 {
		return nil
	}
	s.cover(ctx, others)
	return s.try(ctx, kindImport, func(ctx context.Context) error {
		var all pgx.Batch
		all.Queue(sqlLockKeys, s.locks(others))
		for _, c := range others {
			c.v.queue(&all)
			if c.v.since != 0 {
				all.Queue(sqlParkedSince, c.v.since, c.v.route, c.v.source, c.v.id, c.v.recorded)
			}
		}
		return s.pool.SendBatch(ctx, &all).Close()
	})
}
