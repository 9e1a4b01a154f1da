package sqlitelog

import (
	"context"
	"fmt"
	"maps"
	"slices"

	zsqlite "zombiezen.com/go/sqlite"
)

// Topics returns the names of all topics, sorted.
func (l *Log) Topics() []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Sorted(maps.Keys(l.topics))
}

// Backlog calls each with the bytes that UUID, metadata and payload of a record have together, for every record of the topic that is
// not before the group's place on disk, in log order. It reads no payloads.
func (l *Log) Backlog(ctx context.Context, topic, group string, each func(bytes int)) error {
	l.mu.RLock()
	t, closed := l.topics[topic], l.closed
	p := l.places[placeKey{t, group}]
	l.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	if t == nil {
		return nil
	}
	from, _ := t.end()
	if p != nil {
		from = max(from, p.written.Load())
	}
	err := l.db.Read(ctx, func(conn *zsqlite.Conn) error {
		stmt, err := conn.Prepare("SELECT octet_length(uuid) + octet_length(metadata) + octet_length(payload) FROM " + t.table + " WHERE offset >= ? ORDER BY offset")
		if err != nil {
			return err
		}
		stmt.BindInt64(1, from)
		for {
			more, err := stmt.Step()
			if err != nil || !more {
				return err
			}
			each(stmt.ColumnInt(0))
		}
	})
	if err != nil {
		return fmt.Errorf("backlog of %s in %s: %w", group, topic, err)
	}
	return nil
}
