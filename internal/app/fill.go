package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// How Fill works: batches large enough to be fast, many at once so that they share transactions.
const (
	fillBatch   = 500
	fillWorkers = 500
)

// Fill makes dir a data_dir that holds n events of a connection, each delivered on a route: for benchmarks that ask what a full
// store costs. body is the events' body.
func Fill(ctx context.Context, dir, connection, route string, body []byte, n int) (err error) {
	quiet := slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(ctx, sqlite.Options{Path: filepath.Join(dir, File), Logger: quiet})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	log, err := sqlitelog.Open(ctx, sqlitelog.Config{DB: db, Logger: quiet, Unique: pipeline.Unique, Same: pipeline.Same, Prepare: pipeline.Prepare})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	ledger, err := store.Open(ctx, store.Config{DB: db, Logger: quiet})
	if err != nil {
		return err
	}
	intake := pipeline.NewIntake(pipeline.OnSQLite(log))
	for from := 0; from < n; from += fillBatch {
		events := make([]event.Event, 0, fillBatch)
		now := time.Now().UTC()
		for i := from; i < min(from+fillBatch, n); i++ {
			id := fmt.Sprintf("evt_stored_%d", i)
			events = append(events, event.Event{
				ID: id, Source: connection, Type: "stored", Key: fmt.Sprint("key_", i%1000), Time: now, Recorded: now,
				ContentType: "application/json", Body: body,
			})
		}
		if err := intake.Accept(ctx, events...); err != nil {
			return err
		}
		if err := settleAll(ctx, ledger, route, pipeline.EventsTopic(connection), int64(from), events); err != nil {
			return err
		}
	}
	return nil
}

func settleAll(ctx context.Context, ledger pipeline.Ledger, route, topic string, from int64, events []event.Event) error {
	var g errgroup.Group
	g.SetLimit(fillWorkers)
	for i, e := range events {
		g.Go(func() error {
			return ledger.Settle(ctx,
				pipeline.Delivery{Route: route, Event: e, At: pipeline.Position{Topic: topic, Offset: from + int64(i)}, Attempts: 1, First: e.Recorded},
				pipeline.Outcome{State: pipeline.Delivered, Code: 200, At: e.Recorded, Duration: time.Millisecond})
		})
	}
	return g.Wait()
}
