package pgstore

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// WithClock gives a hub another clock.
func WithClock(c Config, now func() time.Time) Config {
	c.now = now
	return c
}

// Partitions lists the bounds of the partitions of deliveries, as they stand.
func (s *Store) Partitions() (bounds [][2]time.Time) {
	for _, n := range *s.deliveries.list.Load() {
		bounds = append(bounds, [2]time.Time{time.Unix(0, n.from).UTC(), time.Unix(0, n.until).UTC()})
	}
	return bounds
}

// Setting is a parameter as the store's connections have it.
func (s *Store) Setting(ctx context.Context, name string) (value string) {
	if err := s.pool.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
		return err.Error()
	}
	return value
}

// Explain is the plan that the store's connections make of a query, or what went wrong.
func (s *Store) Explain(ctx context.Context, sql, parameters string) (plan string) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err.Error()
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "PREPARE looked_at AS "+sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return err.Error()
	}
	defer conn.Exec(ctx, "DEALLOCATE looked_at", pgx.QueryExecModeSimpleProtocol)
	rows, err := conn.Query(ctx, "EXPLAIN EXECUTE looked_at"+parameters, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return err.Error()
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err.Error()
	}
	return strings.Join(lines, "\n")
}
