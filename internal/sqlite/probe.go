package sqlite

import (
	"context"
	"fmt"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// Probe writes a few bytes and returns nil when they are on disk: what readiness asks. They go into the file's user_version, which
// nothing else uses.
func (db *DB) Probe(ctx context.Context) error {
	return db.Write(ctx, func(conn *zsqlite.Conn) error {
		return sqlitex.ExecuteTransient(conn, fmt.Sprintf("PRAGMA user_version = %d", time.Now().Unix()&0x7fffffff), nil)
	})
}
