package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/internal/store"
)

const (
	// chunkRows is how many rows one statement of the retention removes where rows are removed singly.
	chunkRows = 1000
	// countRows is up to how many rows a partition that goes is counted; of a larger one the database's estimate is told.
	countRows = 1_000_000
)

// Retain forgets deliveries that were delivered or skipped before a time, and says how many, of large partitions by the database's estimate. Parked ones
// always stay, dead ones are RetainDead's. One hub at a time should call it.
//
// A partition whose events were all recorded before that time is dropped whole; what it holds of parked, dead and later decided deliveries moves to
// the rest, from where rows are removed singly. So most go a little after their time, when their partition has become old, and none before. Everybody waits
// for a moment while a partition is dropped; when a long audit is in the way the partition stays until the next call.
//
// A delivery that is forgotten would be sent again if the log handed it out again: before must not be later than the oldest
// record that the log may still hand to a group.
func (s *Store) Retain(ctx context.Context, before time.Time) (removed int64, err error) {
	s.ahead(ctx, s.deliveries, s.now().UnixNano())
	if err := s.try(ctx, kindSpans, func(ctx context.Context) error { return s.reloadSpans(ctx, s.deliveries) }); err != nil {
		return 0, fmt.Errorf("retain deliveries: %w", err)
	}
	for _, old := range *s.deliveries.list.Load() {
		if old.until > store.Nanos(before) {
			break
		}
		n, err := s.drop(ctx, s.deliveries, old, func(tx pgx.Tx) (int64, error) { return keepWanted(ctx, tx, old, store.Nanos(before)) })
		removed += n
		if err != nil {
			return removed, fmt.Errorf("retain deliveries: drop partition %s: %w", old.name, err)
		}
	}
	n, err := s.forget(ctx, sqlForget, before)
	if err != nil {
		return removed + n, fmt.Errorf("retain deliveries: %w", err)
	}
	return removed + n, nil
}

// RetainIndex forgets where events recorded before a time are in the log, and says how many, as Retain does: by dropping partitions.
func (s *Store) RetainIndex(ctx context.Context, before time.Time) (removed int64, err error) {
	s.ahead(ctx, s.events, s.now().UnixNano())
	if err := s.try(ctx, kindSpans, func(ctx context.Context) error { return s.reloadSpans(ctx, s.events) }); err != nil {
		return 0, fmt.Errorf("retain the index of events: %w", err)
	}
	for _, old := range *s.events.list.Load() {
		if old.until > store.Nanos(before) {
			break
		}
		n, err := s.drop(ctx, s.events, old, func(pgx.Tx) (int64, error) { return 0, nil })
		removed += n
		if err != nil {
			return removed, fmt.Errorf("retain the index of events: drop partition %s: %w", old.name, err)
		}
	}
	n, err := s.forget(ctx, sqlForgetIndex, before)
	if err != nil {
		return removed + n, fmt.Errorf("retain the index of events: %w", err)
	}
	return removed + n, nil
}

// drop removes a partition and says how many rows went with it. keep copies what is still wanted, from the partition to its parent, which puts it with
// the rest.
func (s *Store) drop(ctx context.Context, p *spans, old span, keep func(pgx.Tx) (int64, error)) (rows int64, err error) {
	// Counting waits for nobody and makes nobody wait.
	err = s.tryAtLength(ctx, kindRetain, func(ctx context.Context) (err error) {
		rows, err = s.sizeOf(ctx, old)
		return err
	})
	if err != nil {
		return 0, err
	}
	err = s.try(ctx, kindRetain, func(ctx context.Context) error {
		return s.alter(ctx, func(tx pgx.Tx) error {
			name := pgx.Identifier{old.name}.Sanitize()
			tag, err := tx.Exec(ctx, `DELETE FROM spans WHERE name = $1`, old.name)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 0 {
				rows = 0 // another hub was faster
				return nil
			}
			if _, err := tx.Exec(ctx, `ALTER TABLE `+pgx.Identifier{p.parent}.Sanitize()+` DETACH PARTITION `+name); err != nil {
				return err
			}
			kept, err := keep(tx)
			if err != nil {
				return err
			}
			rows = max(rows-kept, 0)
			_, err = tx.Exec(ctx, `DROP TABLE `+name)
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	s.log.Info("a partition was dropped", "table", p.parent, "partition", old.name, "rows", rows)
	return rows, s.reloadSpans(ctx, p)
}

// sizeOf counts a partition's rows, and brings its summary of decision times up to date, both before anybody has to wait.
func (s *Store) sizeOf(ctx context.Context, old span) (rows int64, err error) {
	name := pgx.Identifier{old.name}.Sanitize()
	err = s.pool.QueryRow(ctx, `SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass($1)`, name).Scan(&rows)
	if err != nil || rows > countRows {
		return rows, err
	}
	if _, err := s.pool.Exec(ctx, `SELECT brin_summarize_new_values(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
		WHERE i.indrelid = to_regclass($1) AND a.amname = 'brin'`, name); err != nil {
		return 0, err
	}
	err = s.pool.QueryRow(ctx, `SELECT count(*) FROM `+name).Scan(&rows)
	return rows, err
}

// keepWanted copies what outlives its partition: what is parked or dead, and what was decided late.
func keepWanted(ctx context.Context, tx pgx.Tx, old span, before int64) (kept int64, err error) {
	name := pgx.Identifier{old.name}.Sanitize()
	for _, from := range []string{
		fmt.Sprintf(`x WHERE x.decided_at >= %d`, before),
		fmt.Sprintf(`x JOIN parked p USING (route_id, source_id, event_id, recorded) WHERE p.recorded >= %d AND p.recorded < %d`, old.from, old.until),
		fmt.Sprintf(`x JOIN dead p USING (route_id, source_id, event_id, recorded) WHERE p.recorded >= %d AND p.recorded < %d`, old.from, old.until),
	} {
		tag, err := tx.Exec(ctx, `INSERT INTO deliveries SELECT x.* FROM `+name+` `+from+` ON CONFLICT DO NOTHING`, pgx.QueryExecModeExec)
		if err != nil {
			return 0, err
		}
		kept += tag.RowsAffected()
	}
	return kept, nil
}

// forget removes rows of the rest, in small statements.
func (s *Store) forget(ctx context.Context, sql string, before time.Time) (removed int64, err error) {
	for {
		var n int64
		err := s.try(ctx, kindRetain, func(ctx context.Context) error {
			tag, err := s.pool.Exec(ctx, sql, store.Nanos(before), chunkRows)
			n = tag.RowsAffected()
			return err
		})
		removed += n
		if err != nil || n < chunkRows {
			return removed, err
		}
	}
}

// RetainDead removes the dead letters decided before a time, with their events and their entries in the ledger, and says how
// many. It works in small transactions, and what it removed stays removed when ctx ends it midway.
func (s *Store) RetainDead(ctx context.Context, before time.Time) (removed int64, err error) {
	var n *names
	err = s.try(ctx, kindNames, func(ctx context.Context) (err error) {
		n, err = s.reloadNames(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("retain dead letters: %w", err)
	}
	for route := range n.routeNames {
		for after, rows := int64(0), int64(1); rows > 0; {
			err := s.try(ctx, kindRetain, func(ctx context.Context) error {
				var last int64
				err := s.pool.QueryRow(ctx, sqlUnbury, route, after, store.Nanos(before), chunkRows/10).Scan(&rows, &last) // their events may be large
				after = max(after, last)
				return err
			})
			if err != nil {
				return removed, fmt.Errorf("retain dead letters: %w", err)
			}
			removed += rows
		}
	}
	return removed, nil
}
