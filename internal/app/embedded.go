package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/admin"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// File is the name of the hub's one file within data_dir.
const File = "tidewire.db"

// embedded is embedded mode: log and store share one SQLite file, which this process owns.
type embedded struct {
	plan   *Plan
	keep   config.Retention
	routes []pipeline.Route
	logger *slog.Logger

	db    *sqlite.DB
	log   *sqlitelog.Log
	store *store.Store
}

func (h *hub) openEmbedded(ctx context.Context) (storage, error) {
	path := filepath.Join(h.plan.Config.DataDir, File)
	e := &embedded{plan: h.plan, keep: h.plan.Config.Retention, routes: h.plan.Routes, logger: h.logger}
	var err error
	if e.db, err = sqlite.Open(ctx, sqlite.Options{Path: path, Logger: h.logger, Metrics: h.registry}); err != nil {
		return nil, fmt.Errorf("%w: open %s: %w", ErrEnvironment, path, err)
	}
	h.onClose("store file", e.db.Close)
	duplicates := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "tidewire_log_duplicates_total", Help: "Events that came again and were in the log already.",
	})
	h.registry.MustRegister(duplicates)
	damaged := h.damagedRecords()
	e.log, err = sqlitelog.Open(ctx, sqlitelog.Config{
		DB: e.db, Logger: h.logger, CloseTimeout: h.plan.Config.Server.ShutdownTimeout.Std(), Unique: pipeline.Unique, Same: pipeline.Same, Prepare: pipeline.Prepare,
		OnDuplicate: func(string, string) { duplicates.Inc() },
		OnDamage: func(topic string, offset int64, err error) {
			damaged.Inc()
			h.logger.Error("a log record is damaged and is passed over; restore it from a backup if you can",
				"topic", topic, "offset", offset, "file", path, "error", err)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: open the log in %s: %w", ErrEnvironment, path, err)
	}
	h.onClose("log", e.log.Close)
	if e.store, err = store.Open(ctx, store.Config{DB: e.db, Logger: h.logger}); err != nil {
		return nil, fmt.Errorf("%w: open the store in %s: %w", ErrEnvironment, path, err)
	}
	return e, nil
}

func (e *embedded) Log() pipeline.Log       { return pipeline.OnSQLite(e.log) }
func (e *embedded) Store() ledger           { return e.store }
func (e *embedded) Failed() <-chan struct{} { return e.db.Failed() }
func (e *embedded) Err() error              { return e.db.Err() }

// Connect makes the topics that webhooks go to, which have the first numbers in the file so; the file is open already, and the routes make the others.
func (e *embedded) Connect(ctx context.Context) error {
	if err := e.log.Ensure(ctx, e.plan.received()...); err != nil {
		return fmt.Errorf("%w: create the log's topics: %w", ErrEnvironment, err)
	}
	return nil
}

// Begun is never closed, and Missing is nothing: there is nothing to wait for.
func (e *embedded) Begun() <-chan struct{}             { return nil }
func (e *embedded) Missing() (why error, bridged bool) { return nil, false }

// Holds is nil: one hub reads everything.
func (e *embedded) Holds() map[string]admin.Group { return nil }

// Cluster is nil: one hub does everything.
func (e *embedded) Cluster(context.Context) *admin.Cluster { return nil }

func (e *embedded) Checks() []admin.Check {
	return []admin.Check{{Name: "store", Probe: e.db.Probe}}
}

// Run has nothing to do: the file's own parts run since it was opened.
func (e *embedded) Run(context.Context) error { return nil }

// Retain implements storage. What a route has not finished is never removed; when that makes the log keep more than it should, it says so.
func (e *embedded) Retain(ctx context.Context) error {
	keep := e.keep
	now := time.Now()
	var errs []error
	removed, held, err := e.retainEvents(ctx, now.Add(-keep.Events.Std()))
	if err != nil {
		errs = append(errs, err)
	}
	if removed > 0 {
		e.logger.Info("old events removed", "events", removed)
	}
	if held > 0 {
		e.logger.Warn("events older than retention.events are kept, because a route has not finished them: the log grows",
			"events", held, "retention", keep.Events.String())
	}
	if _, _, err := e.log.Retain(ctx, pipeline.HoldsDeadLetters, now.Add(-keep.DeadLetters.Std()), nil); err != nil {
		errs = append(errs, err)
	}
	// A record that is held back may be handed out again after a restart, and what was settled around it must not be forgotten before it.
	if held == 0 {
		if _, err := e.store.Retain(ctx, now.Add(-keep.Deliveries.Std())); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := e.store.RetainDead(ctx, now.Add(-keep.DeadLetters.Std())); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// retainEvents removes old events connection by connection: only the routes that read a connection now hold what they have not finished. One that
// read it under an earlier config has left its place there, which would never move on.
func (e *embedded) retainEvents(ctx context.Context, before time.Time) (removed, held int64, err error) {
	readers := make(map[string][]string) // by topic
	for _, r := range e.routes {
		for _, source := range r.From {
			topic := pipeline.EventsTopic(source)
			readers[topic] = append(readers[topic], r.Name)
		}
	}
	var errs []error
	retain := func(which func(topic string) bool, routes []string) {
		n, kept, err := e.log.Retain(ctx, which, before, routes)
		removed, held, errs = removed+n, held+kept, append(errs, err)
	}
	for topic, routes := range readers {
		retain(func(t string) bool { return t == topic }, routes)
	}
	retain(func(t string) bool { return pipeline.HoldsEvents(t) && readers[t] == nil }, nil)
	return removed, held, errors.Join(errs...)
}
