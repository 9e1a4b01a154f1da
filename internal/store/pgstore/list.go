package pgstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// Dead lists dead letters of a route, newest first, at most limit.
func (s *Store) Dead(ctx context.Context, route string, limit int) (letters []store.DeadLetter, err error) {
	err = s.try(ctx, kindList, func(ctx context.Context) (err error) {
		letters, err = s.readDead(ctx, route, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list dead letters of route %s: %w", route, err)
	}
	return letters, nil
}

func (s *Store) readDead(ctx context.Context, route string, limit int) (letters []store.DeadLetter, err error) {
	n, err := s.reloadNames(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, sqlDead, n.routes[route], max(limit, 0))
	if err != nil {
		return nil, err
	}
	var (
		number, offset, at, first, took, crc             int64
		partition, attempts, parks, code                 int32
		target, reason, text, history, attributes, empty string
		body                                             []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&number, &partition, &offset, &at, &first, &attempts, &parks, &code, &took, &target, &reason, &text, &history, &attributes, &crc, &body}, func() error {
		l := store.DeadLetter{
			Number: number,
			Delivery: pipeline.Delivery{
				Route: route, At: n.position(partition, offset), First: store.Instant(first),
				Attempts: int(attempts), Parks: int(parks), History: store.DecodeHistory(history),
			},
			Outcome: pipeline.Outcome{
				State: pipeline.Dead, At: store.Instant(at), Code: int(code), Duration: time.Duration(took), TargetID: target, Reason: reason, Error: text,
			},
		}
		l.Delivery.Event, l.Fault = store.DecodeEvent([]byte(attributes), body, crc)
		body, history, attributes = nil, empty, empty
		letters = append(letters, l)
		return nil
	})
	return letters, err
}

// windows are how far back the latest deliveries are looked for, until there are enough.
var windows = [...]time.Duration{time.Minute, 15 * time.Minute, 4 * time.Hour, 48 * time.Hour, 0}

// Deliveries lists entries, the latest decided first. Looking for few among many, such as the skipped ones of a quiet route, may read
// the whole ledger.
func (s *Store) Deliveries(ctx context.Context, f store.Filter) (entries []store.Entry, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	if f.State != "" && store.NumberOf(f.State) == 0 {
		return nil, fmt.Errorf("list deliveries: there is no state %q", f.State)
	}
	err = s.try(ctx, kindList, func(ctx context.Context) (err error) {
		entries, err = s.readDeliveries(ctx, f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	return entries, nil
}

func (s *Store) readDeliveries(ctx context.Context, f store.Filter) (entries []store.Entry, err error) {
	n, err := s.reloadNames(ctx)
	if err != nil {
		return nil, err
	}
	route := n.routes[f.Route]
	if f.Route != "" && route == 0 {
		return nil, nil
	}
	switch f.State {
	case pipeline.Parked:
		return s.entries(ctx, n, sqlParkedDeliveries, route, f.Limit)
	case pipeline.Dead:
		return s.entries(ctx, n, sqlDeadDeliveries, route, f.Limit)
	case pipeline.Delivered, pipeline.Skipped:
	}
	for _, window := range windows {
		since := int64(-1 << 63)
		if window != 0 {
			since = s.now().Add(-window).UnixNano()
		}
		entries, err = s.entries(ctx, n, sqlLatest, since, route, int16(store.NumberOf(f.State)), f.Limit)
		if err != nil || len(entries) >= f.Limit {
			break
		}
	}
	return entries, err
}

func (s *Store) entries(ctx context.Context, n *names, sql string, args ...any) (entries []store.Entry, err error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	var (
		route, partition, attempts, code int32
		offset, at, took                 int64
		state                            int16
		id, target                       string
		reason, text                     *string
	)
	_, err = pgx.ForEachRow(rows, []any{&route, &partition, &offset, &id, &attempts, &state, &at, &code, &took, &target, &reason, &text}, func() error {
		e := store.Entry{
			Route: n.routeNames[route], At: n.position(partition, offset), EventID: id, Attempts: int(attempts),
			Outcome: pipeline.Outcome{State: store.StateBy(int64(state)), At: store.Instant(at), Code: int(code), Duration: time.Duration(took), TargetID: target},
		}
		if reason != nil {
			e.Outcome.Reason = *reason
		}
		if text != nil {
			e.Outcome.Error = *text
		}
		entries = append(entries, e)
		return nil
	})
	slices.SortStableFunc(entries, func(a, b store.Entry) int {
		return cmp.Or(b.Outcome.At.Compare(a.Outcome.At), cmp.Compare(b.At.Offset, a.At.Offset))
	})
	return entries, err
}

// Balance counts the entries of every route by state, from the rows themselves: an audit, which reads the whole ledger.
func (s *Store) Balance(ctx context.Context) (balance map[string]map[pipeline.State]int64, err error) {
	err = s.tryAtLength(ctx, kindList, func(ctx context.Context) error {
		n, err := s.reloadNames(ctx)
		if err != nil {
			return err
		}
		rows, err := s.pool.Query(ctx, sqlBalance)
		if err != nil {
			return err
		}
		balance = make(map[string]map[pipeline.State]int64)
		var route int32
		var state int16
		var count int64
		_, err = pgx.ForEachRow(rows, []any{&route, &state, &count}, func() error {
			name := n.routeNames[route]
			if balance[name] == nil {
				balance[name] = make(map[pipeline.State]int64)
			}
			balance[name][store.StateBy(int64(state))] += count
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("balance the ledger: %w", err)
	}
	return balance, nil
}

// Count implements pipeline.Census. It counts the entries of an index, about a quarter of a second for a million parked deliveries.
func (s *Store) Count(ctx context.Context) (counts map[string]pipeline.Numbers, err error) {
	err = s.try(ctx, kindList, func(ctx context.Context) error {
		n, err := s.reloadNames(ctx)
		if err != nil {
			return err
		}
		rows, err := s.pool.Query(ctx, sqlCount)
		if err != nil {
			return err
		}
		counts = make(map[string]pipeline.Numbers)
		var route int32
		var parked, dead, since int64
		_, err = pgx.ForEachRow(rows, []any{&route, &parked, &dead, &since}, func() error {
			counts[n.routeNames[route]] = pipeline.Numbers{Parked: parked, Dead: dead, OldestParked: store.Instant(since)}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count what is parked and dead: %w", err)
	}
	return counts, nil
}
