// Package store keeps what the hub has to remember outside the log: what became of every delivery, the
// parked deliveries with their events, and the dead letters. It fulfils pipeline.Ledger and pipeline.Census.
//
// One SQLite file, shared with the log, and one process that owns it. What is true is in the tables. Beside
// them the store keeps a picture in memory that can only err in one direction: it may take a delivery for known
// or a key for parked when they are not, never the other way round. Where the picture says "new", which it does for
// nearly every delivery, Admit costs no query; where it says "perhaps", the tables are asked.
//
// What the store relies on:
//
//   - One process owns the file, so nobody else writes what the picture does not know.
//   - The pipeline has one delivery of a key in hand at a time: a younger one is admitted only after its elder is
//     settled or parked. The store decides who is the head of a key inside the transaction that parks or settles, so it does not
//     matter when Settle is called for an elder that comes from Due while a younger one is admitted or parked.
//
// It does not rely on callers coming in any order, on clocks that run forward, or on an event reaching it once.
//
// Clocks. Times are stored as given. When the clock jumps forward, parked deliveries come due early by the jump, each once:
// a delivery that this process has leased is kept back by the monotonic clock until its lease has really run out. When
// the clock jumps back, parked deliveries come due late by the jump, and so does a lease that nobody ends. Nothing
// is lost either way.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline"
)

//go:embed migrations/sqlite/*.sql
var migrations embed.FS

var (
	_ pipeline.Ledger = (*Store)(nil)
	_ pipeline.Census = (*Store)(nil)
)

// Config is what a Store stands on.
type Config struct {
	// DB is the file, opened and owned by the caller; it must outlive the Store. Required.
	DB *sqlite.DB
	// Logger is told of damaged rows. Default: slog.Default().
	Logger *slog.Logger
}

// Store is the ledger on SQLite. Its methods may be called from many goroutines at once. It starts no
// goroutines and needs no closing.
type Store struct {
	db  *sqlite.DB
	log *slog.Logger

	names   atomic.Pointer[names] // replaced, never changed
	naming  sync.Mutex            // one replaces at a time
	picture *picture
}

// Open brings the tables up to date and draws the picture. Leases of an earlier process end here: it is gone, and
// what it had in hand is due again. The time it takes grows with the number of parked deliveries that have a key (about
// a second for a million), not with the number of settled ones.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.DB == nil {
		return nil, errors.New("open store: no database given")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	dir, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := c.DB.Migrate(ctx, "store", dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{db: c.DB, log: c.Logger.With("component", "store"), picture: newPicture()}
	err = c.DB.Write(ctx, func(conn *zsqlite.Conn) error {
		_, err := exec(conn, sqlEndLeases)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open store: end leases: %w", err)
	}
	if err := c.DB.Read(ctx, s.draw); err != nil {
		return nil, fmt.Errorf("open store: read what is parked: %w", err)
	}
	return s, nil
}

// draw reads the names, the ends of the ranges and the parked keys.
func (s *Store) draw(conn *zsqlite.Conn) error {
	n, err := readNames(conn)
	if err != nil {
		return err
	}
	s.names.Store(n)
	if err := eachRange(conn, s.picture.startAfter); err != nil {
		return err
	}
	return query(conn, sqlParkedKeys, func(row *zsqlite.Stmt) error {
		s.picture.park(row.ColumnInt64(0), row.ColumnInt64(1), row.ColumnText(2))
		return nil
	})
}

// Admit implements pipeline.Ledger. A delivery is known by its route and its place in the log; the embedded log holds
// one event ID once per topic, so the same event cannot come from another place. No query is made for a place that is
// new and whose key has nothing parked.
func (s *Store) Admit(ctx context.Context, d pipeline.Delivery) (pipeline.Standing, error) {
	n := s.names.Load()
	at := rangeID{n.routes[d.Route], n.partitions[partition{d.At.Topic, d.At.Partition}]}
	if at.route == 0 {
		return pipeline.Unknown, nil // nothing was ever written for this route
	}
	source := n.sources[d.Event.Source]
	known := at.partition != 0 && s.picture.maySettled(at, d.At.Offset)
	elders := source != 0 && d.Event.Key != "" && s.picture.mayParked(at.route, source, d.Event.Key)
	if !known && !elders {
		return pipeline.Unknown, nil
	}
	standing := pipeline.Unknown
	err := s.db.Read(ctx, func(conn *zsqlite.Conn) error {
		if known {
			state, err := stateOf(conn, at, d.At.Offset)
			switch {
			case err != nil:
				return err
			case state == stateParked:
				standing = pipeline.Held
				return nil
			case state != 0:
				standing = pipeline.Settled
				return nil
			}
		}
		if !elders {
			return nil
		}
		return query(conn, sqlHasElders, func(*zsqlite.Stmt) error {
			standing = pipeline.Behind
			return nil
		}, at.route, source, d.Event.Key)
	})
	if err != nil {
		return pipeline.Unknown, fmt.Errorf("look up event %s on route %s: %w", d.Event.ID, d.Route, err)
	}
	return standing, nil
}

// Nanos is t as rows have it, in nanoseconds since 1970: 0 for no time, and within what 64 bits can say.
func Nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() < 1678:
		return 1
	case t.Year() > 2261:
		return maxID
	}
	return t.UnixNano()
}

// Instant is the inverse of Nanos.
func Instant(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
