// Package pgstore keeps what several hubs have to remember together outside the log, on PostgreSQL 14 or newer: what became of every
// delivery, the parked deliveries with their events, the dead letters, where each event is in the log, and who is running and holds
// what. It fulfils pipeline.Ledger and pipeline.Census and the same contract suite as the store on SQLite.
//
// Nothing is remembered in the process but the short numbers of names and the bounds of partitions: what another hub wrote a
// moment ago counts. Many callers share a statement: while one is under way the next callers gather, and all of them go with the one
// after it.
//
// # Identity
//
// A delivery is known by route, source and event ID, wherever in the log it comes from. Its row is keyed by these and by when the event
// was recorded, which is in the log's record and so the same for every hub that handles it. Two hubs that settle the same record, one of them not knowing that
// it has lost its partition, meet in that key, and the first decision stands. A provider's repeat is another record, recorded later:
// Admit finds the first one by route, source and ID, and the repeat is not sent.
//
// # Partitions of time
//
// Deliveries and the index of events are partitioned by the time of recording, so that old ones are forgotten by dropping a table and not row by row. Admit
// has to look into every partition, so there are few: each is an eighth of the retention wide, and at least a day. They are made ahead of
// time by whoever comes first, and on demand within the retention. One more takes what has no partition: events recorded
// far from now, and the rows of a dropped partition that are still wanted (dead, parked, or decided late).
//
// # Clocks
//
// Due counts leases of deliveries by the time its caller gives, so all hubs' clocks and the database's must be less than five seconds apart, which Open and Probe
// check; a lease lasts at least a minute. Named leases (Lease) and the hubs' signs of life (Beat) go by the
// database's clock alone. Nothing ends when a Store is opened: what a hub that died had in hand is due again when its leases have run out.
//
// # Connections
//
// The store sets parameters on its connections and prepares statements, so a pooler between it and PostgreSQL must keep sessions (PgBouncer: pool_mode=session).
package pgstore

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/pipeline"
)

//go:embed migrations/*.sql
var migrations embed.FS

var (
	_ pipeline.Ledger = (*Store)(nil)
	_ pipeline.Census = (*Store)(nil)
)

// Config is what a Store stands on.
type Config struct {
	// URL is a connection string as libpq has it: postgres://user:password@host:port/database?sslmode=verify-full. Required. Without sslmode a server on
	// another machine has to prove who it is, as with verify-full. Errors and logs never show its password.
	URL string
	// Schema holds the tables; it is created when it does not exist. Lower-case letters, digits and underscores, at most 40. Default "tidewire".
	Schema string
	// Instance names this hub to the others; no two running hubs may share one. Default: the host's name and a random part.
	Instance string
	// Logger is told of damaged rows and of partitions. Default: slog.Default().
	Logger *slog.Logger
	// Registerer gets the metrics tidewire_store_…; nil: none are registered.
	Registerer prometheus.Registerer
	// Retention is how long deliveries and the index of events are kept; an eighth of it, and at least a day, is the width of a partition. It does not
	// remove anything: Retain, RetainDead and RetainIndex do. Default: 7 days.
	Retention time.Duration
	// MaxConnections bounds the connections to the database. Default 10, at least 4.
	MaxConnections int

	now func() time.Time // the hub's clock; nil: time.Now
}

// The hands of each gatherer: how many statements of a kind may be under way at once. The others are taken into use only when a batch's worth is waiting.
const (
	admitHands  = 2
	settleHands = 2
	parkHands   = 2
	recallHands = 1

	// mostRows bounds a batch, and so the memory and the time of one statement.
	mostRows = 512
	// mostParked is the same for batches that hold an advisory lock and an event for each row.
	mostParked = 64
)

// Store is the ledger on PostgreSQL. Its methods may be called from many goroutines at once.
type Store struct {
	pool     *pgxpool.Pool
	log      *slog.Logger
	metrics  *metrics
	now      func() time.Time
	instance string
	schema   string

	names  atomic.Pointer[names] // replaced, never changed
	naming sync.Mutex            // one replaces at a time

	deliveries, events *spans

	admits  *gatherer[*question]
	settles *gatherer[*decision]
	parks   *gatherer[*decision]
	recalls *gatherer[*recollection]

	membership sync.Mutex
	run        [16]byte // tells this Store from another that uses the same instance name
	joined     string   // the instance that Join was called with; empty before
	config     string   // the fingerprint that Join was called with

	closing sync.Once
}

// Open connects, brings the tables up to date (one hub at a time, the others wait) and makes the partitions of today and tomorrow. It fails with one sentence
// that says what to do when the server cannot be reached, refuses the user or the password, has no such database, is older than 14, does not
// store UTF-8, has tables of a newer version of this program, or has a clock that is more than five seconds from this machine's.
func Open(ctx context.Context, c Config) (*Store, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	pc, err := poolConfig(c)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if !local(pc.ConnConfig) && !proven(pc.ConnConfig) {
		c.Logger.Warn("the connection to PostgreSQL is not protected: others on the network may read it or pretend to be the server; sslmode=verify-full protects it",
			"address", address(pc.ConnConfig))
	}
	if err := prepare(ctx, c, pc.ConnConfig); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", explain(pc.ConnConfig, err))
	}
	s := &Store{
		pool: pool, log: c.Logger.With("component", "store"), now: c.now,
		instance: c.Instance, schema: c.Schema,
	}
	rand.Read(s.run[:])
	width := max(24*time.Hour, c.Retention/8)
	s.deliveries = newSpans("deliveries", width, c.Retention)
	s.events = newSpans("event_index", width, c.Retention)
	s.metrics, err = newMetrics(pool, c.Registerer)
	if err == nil {
		err = s.load(ctx)
	}
	if err != nil {
		s.metrics.unregister()
		pool.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.admits = gather(admitHands, mostRows, s.askAll)
	s.settles = gather(settleHands, mostRows, s.settleAll)
	s.parks = gather(parkHands, mostParked, s.parkAll)
	s.recalls = gather(recallHands, mostRows, s.recallAll)
	return s, nil
}

func (c Config) withDefaults() (Config, error) {
	if c.Schema == "" {
		c.Schema = "tidewire"
	}
	for _, r := range c.Schema {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' || len(c.Schema) > 40 {
			return c, fmt.Errorf("the schema %q is not made of at most 40 lower-case letters, digits and underscores", c.Schema)
		}
	}
	if c.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "hub"
		}
		c.Instance = host + "-" + rand.Text()[:8]
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Retention <= 0 {
		c.Retention = 7 * 24 * time.Hour
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 10
	}
	if c.MaxConnections < 4 {
		return c, fmt.Errorf("%d connections are too few, at least 4 are needed", c.MaxConnections)
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

// load reads what the process keeps, and makes the partitions that will be needed first.
func (s *Store) load(ctx context.Context) error {
	if _, err := s.reloadNames(ctx); err != nil {
		return err
	}
	for _, p := range []*spans{s.deliveries, s.events} {
		if err := s.reloadSpans(ctx, p); err != nil {
			return err
		}
		s.ahead(ctx, p, s.now().UnixNano())
	}
	return nil
}

// errClosed: the Store has been closed.
var errClosed = errors.New("the store is closed")

// closeWithin bounds how long Close waits for statements. Whoever had to know what became of them has been told, or waits no longer.
const closeWithin = 3 * time.Second

// Close waits for the statements under way, though not for long, takes this hub off the list of hubs and closes the connections. Calls that come later fail.
// It is safe to call twice.
func (s *Store) Close() error {
	s.closing.Do(func() {
		late := time.AfterFunc(closeWithin, func() {
			s.admits.abandon()
			s.settles.abandon()
			s.parks.abandon()
			s.recalls.abandon()
		})
		defer late.Stop()
		s.admits.close()
		s.settles.close()
		s.parks.close()
		s.recalls.close()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s.leave(ctx) // when this fails, the row expires
		_, _ = s.pool.Exec(ctx, sqlRelease, probeName(s.instance), s.instance)
		s.pool.Close()
		s.metrics.unregister()
	})
	return nil
}
