package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the database/sql driver that migrations run through
	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/failpoint"
)

// Migrate brings the tables of one room up to date: migrations holds goose files (0001_name.sql, …) at its root, and the table
// migrations_<name> the versions that have been applied. It only goes forward. When the file has a version that
// migrations does not, it changes nothing and returns ErrNewer. Writers wait meanwhile.
func (db *DB) Migrate(ctx context.Context, name string, migrations fs.FS) error {
	for _, c := range name {
		if (c < 'a' || c > 'z') && c != '_' {
			return fmt.Errorf("migrate %s: the name %q is not made of lower-case letters", db.o.Path, name)
		}
	}
	if err := db.exclusively(ctx, func(conn *zsqlite.Conn) error {
		return db.migrate(ctx, conn, "migrations_"+name, migrations)
	}); err != nil {
		return fmt.Errorf("migrate %s: %s: %w", db.o.Path, name, err)
	}
	return nil
}

func (db *DB) migrate(ctx context.Context, conn *zsqlite.Conn, table string, migrations fs.FS) (err error) {
	// The schemes of a file name that database/sql would take for options are escaped.
	dsn := (&url.URL{Scheme: "file", Opaque: url.PathEscape(db.o.Path), RawQuery: "_pragma=busy_timeout(5000)&_pragma=synchronous(FULL)&_pragma=wal_autocheckpoint(0)"}).String()
	pool, err := sql.Open("sqlite", dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	pool.SetMaxOpenConns(1)
	p, err := goose.NewProvider(goose.DialectSQLite3, pool, migrations,
		goose.WithTableName(table), goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	var known int64
	for _, s := range p.ListSources() {
		known = max(known, s.Version)
	}
	stored, err := version(conn, table)
	if err != nil {
		return err
	}
	switch cmp.Compare(stored, known) {
	case +1:
		return fmt.Errorf("its version %d is %w of this program, which knows %d; use that version, or restore a backup", stored, ErrNewer, known)
	case 0:
		return nil
	}
	failpoint.Hit("before-migrate")
	done, err := p.Up(ctx)
	failpoint.Hit("after-migrate")
	if err != nil {
		return err
	}
	for _, m := range done {
		db.log.Info("migrated", "file", db.o.Path, "table", table, "version", m.Source.Version, "took", m.Duration)
	}
	return nil
}

// version is the highest version applied; 0 when none was.
func version(conn *zsqlite.Conn, table string) (v int64, err error) {
	exists := false
	if err := sqlitex.ExecuteTransient(conn, "SELECT 1 FROM sqlite_master WHERE type='table' AND name=?", &sqlitex.ExecOptions{
		Args:       []any{table},
		ResultFunc: func(*zsqlite.Stmt) error { exists = true; return nil },
	}); err != nil || !exists {
		return 0, err
	}
	err = sqlitex.ExecuteTransient(conn, "SELECT max(version_id) FROM "+table+" WHERE is_applied", &sqlitex.ExecOptions{
		ResultFunc: func(s *zsqlite.Stmt) error { v = s.ColumnInt64(0); return nil },
	})
	return v, err
}
