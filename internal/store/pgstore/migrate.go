package pgstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/tidewire/tidewire/internal/failpoint"
)

// ErrNewer says that the tables were made by a newer version of this program.
var ErrNewer = errors.New("newer than that")

// migrationsTable is goose's own.
const migrationsTable = "migrations"

// lockKey is a number for an advisory lock; what shares a database with us has others.
func lockKey(parts ...string) int64 {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s", len(p), p)
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

// prepare connects once, looks at the server and migrates under a lock, so that hubs may start together.
func prepare(ctx context.Context, c Config, cc *pgx.ConnConfig) (err error) {
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return explain(cc, err)
	}
	// Closing the connection also gives the lock back.
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	v, err := ask(ctx, conn, c.now)
	if err != nil {
		return explain(cc, err)
	}
	if err := v.check(); err != nil {
		return err
	}
	if v.fsync == "off" {
		c.Logger.Warn("PostgreSQL runs with fsync=off: what it has confirmed does not survive a power cut", "component", "store")
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, lockKey("tidewire migrate", c.Schema)); err != nil {
		return fmt.Errorf("wait for another hub's migration: %w", explain(cc, err))
	}
	if err := migrate(ctx, c, cc, conn); err != nil {
		return fmt.Errorf("bring the schema %s up to date: %w", c.Schema, err)
	}
	return nil
}

func migrate(ctx context.Context, c Config, cc *pgx.ConnConfig, conn *pgx.Conn) (err error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	stored, err := version(ctx, conn, c.Schema)
	if err != nil {
		return explain(cc, err)
	}
	pool := stdlib.OpenDB(*cc, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		return tune(ctx, conn, c.Schema)
	}))
	defer func() { err = errors.Join(err, pool.Close()) }()
	p, err := goose.NewProvider(goose.DialectPostgres, pool, dir, goose.WithTableName(migrationsTable),
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	var known int64
	for _, m := range p.ListSources() {
		known = max(known, m.Version)
	}
	switch {
	case stored > known:
		return fmt.Errorf("its version is %d, this program knows %d, and the tables are %w: use the version that made them", stored, known, ErrNewer)
	case stored == known:
		return nil
	}
	if stored == 0 {
		if _, err := conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS `+pgx.Identifier{c.Schema}.Sanitize()); err != nil {
			return fmt.Errorf("create it (or have it created for the user %q): %w", cc.User, explain(cc, err))
		}
	}
	failpoint.Hit("before-migrate")
	done, err := p.Up(ctx)
	failpoint.Hit("after-migrate")
	if err != nil {
		return err
	}
	for _, m := range done {
		c.Logger.Info("migrated", "component", "store", "schema", c.Schema, "version", m.Source.Version, "took", m.Duration)
	}
	return nil
}

// version is the highest version applied; 0 when there are no tables yet.
func version(ctx context.Context, conn *pgx.Conn, schema string) (v int64, err error) {
	table := pgx.Identifier{schema, migrationsTable}.Sanitize()
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, table).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	err = conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+table+` WHERE is_applied`).Scan(&v)
	return v, err
}
