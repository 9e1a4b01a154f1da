package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/pipeline"
)

// DeadLetter is a delivery that will not be tried again by itself.
type DeadLetter struct {
	// Number identifies the dead letter; a later one has a higher number.
	Number int64
	// Delivery holds the whole event and the latest attempts.
	Delivery pipeline.Delivery
	// Outcome is what made it a dead letter: reason, error, code, time.
	Outcome pipeline.Outcome
	// Fault says why Delivery.Event cannot be used: its bytes are damaged, or it never was a valid event. Nil when it can.
	Fault error
}

// Dead lists dead letters of a route, newest first, at most limit.
func (s *Store) Dead(ctx context.Context, route string, limit int) ([]DeadLetter, error) {
	n := s.names.Load()
	var letters []DeadLetter
	err := s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		return query(conn, sqlDead, func(row *zsqlite.Stmt) error {
			l := DeadLetter{
				Number: row.ColumnInt64(0),
				Delivery: pipeline.Delivery{
					Route:    route,
					At:       n.position(row.ColumnInt64(1), row.ColumnInt64(2)),
					First:    Instant(row.ColumnInt64(4)),
					Attempts: row.ColumnInt(5),
					Parks:    row.ColumnInt(6),
					History:  DecodeHistory(row.ColumnText(12)),
				},
				Outcome: pipeline.Outcome{
					State:    pipeline.Dead,
					At:       Instant(row.ColumnInt64(3)),
					Code:     row.ColumnInt(7),
					Duration: time.Duration(row.ColumnInt64(8)),
					TargetID: row.ColumnText(9),
					Reason:   row.ColumnText(10),
					Error:    row.ColumnText(11),
				},
			}
			l.Delivery.Event, l.Fault = DecodeEvent(blob(row, 13), blob(row, 15), row.ColumnInt64(14))
			letters = append(letters, l)
			return nil
		}, n.routes[route], max(limit, 0))
	})
	if err != nil {
		return nil, fmt.Errorf("list dead letters of route %s: %w", route, err)
	}
	return letters, nil
}

// Entry is one line of the ledger: what became of a delivery.
type Entry struct {
	Route   string
	At      pipeline.Position
	EventID string
	// Attempts made when it was decided.
	Attempts int
	// Outcome is the last one; Next is not kept here.
	Outcome pipeline.Outcome
}

// Filter says which entries to list.
type Filter struct {
	// Route is one route's name; empty means all.
	Route string
	// State is one state; empty means all.
	State pipeline.State
	// Limit bounds the list. Default 100.
	Limit int
}

// Deliveries lists entries, the latest decided first. Of each partition it considers the highest offsets, or for parked and dead ones
// the latest numbers. Looking for skipped ones may read the whole ledger of a route that has few.
func (s *Store) Deliveries(ctx context.Context, f Filter) ([]Entry, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	if f.State != "" && NumberOf(f.State) == 0 {
		return nil, fmt.Errorf("list deliveries: there is no state %q", f.State)
	}
	n := s.names.Load()
	var entries []Entry
	err := s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		entries = entries[:0]
		for id, name := range n.routeNames {
			if f.Route != "" && f.Route != name {
				continue
			}
			found, err := listRoute(conn, n, id, f)
			if err != nil {
				return err
			}
			entries = append(entries, found...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Or(b.Outcome.At.Compare(a.Outcome.At), cmp.Compare(b.At.Offset, a.At.Offset))
	})
	return entries[:min(len(entries), f.Limit)], nil
}

func listRoute(conn *zsqlite.Conn, n *names, route int64, f Filter) (entries []Entry, err error) {
	add := func(at pipeline.Position, row *zsqlite.Stmt, column int) {
		entries = append(entries, Entry{
			Route:    n.routeNames[route],
			At:       at,
			EventID:  row.ColumnText(column + 5),
			Attempts: row.ColumnInt(column + 2),
			Outcome: pipeline.Outcome{
				State:    StateBy(row.ColumnInt64(column)),
				At:       Instant(row.ColumnInt64(column + 1)),
				Code:     row.ColumnInt(column + 3),
				Duration: time.Duration(row.ColumnInt64(column + 4)),
				TargetID: row.ColumnText(column + 6),
				Reason:   row.ColumnText(column + 7),
				Error:    row.ColumnText(column + 8),
			},
		})
	}
	if f.State == pipeline.Parked || f.State == pipeline.Dead {
		sql := sqlParkedDeliveries
		if f.State == pipeline.Dead {
			sql = sqlDeadDeliveries
		}
		err = query(conn, sql, func(row *zsqlite.Stmt) error {
			add(n.position(row.ColumnInt64(0), row.ColumnInt64(1)), row, 2)
			return nil
		}, route, f.Limit)
		return entries, err
	}
	for id := range n.partitionNames {
		err := query(conn, sqlNewest, func(row *zsqlite.Stmt) error {
			add(n.position(id, row.ColumnInt64(0)), row, 1)
			return nil
		}, route, id, NumberOf(f.State), f.Limit)
		if err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// Balance counts the entries of every route by state, from the rows themselves: an audit, which reads the whole ledger (about
// a quarter of a second of one core per million entries, and the disk's time).
func (s *Store) Balance(ctx context.Context) (map[string]map[pipeline.State]int64, error) {
	n := s.names.Load()
	balance := make(map[string]map[pipeline.State]int64)
	err := s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		return query(conn, sqlBalance, func(row *zsqlite.Stmt) error {
			states := make(map[pipeline.State]int64)
			for number := int64(stateParked); number <= stateSkipped; number++ {
				if c := row.ColumnInt64(int(number)); c > 0 {
					states[StateBy(number)] = c
				}
			}
			balance[n.routeNames[row.ColumnInt64(0)]] = states
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("balance the ledger: %w", err)
	}
	return balance, nil
}

// Count implements pipeline.Census. It reads one small row per route, and one more for each that has something parked.
func (s *Store) Count(ctx context.Context) (map[string]pipeline.Numbers, error) {
	n := s.names.Load()
	counts := make(map[string]pipeline.Numbers)
	err := s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		return query(conn, sqlTallies, func(row *zsqlite.Stmt) error {
			route := row.ColumnInt64(0)
			c := pipeline.Numbers{Parked: row.ColumnInt64(1), Dead: row.ColumnInt64(2)}
			if c.Parked > 0 {
				err := query(conn, sqlOldest, func(row *zsqlite.Stmt) error {
					c.OldestParked = Instant(row.ColumnInt64(0))
					return nil
				}, route)
				if err != nil {
					return err
				}
			}
			counts[n.routeNames[route]] = c
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("count what is parked and dead: %w", err)
	}
	return counts, nil
}
