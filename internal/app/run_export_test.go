package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/pipeline"
)

// ServeWithoutLog runs a hub whose log is gone when the routes start.
func ServeWithoutLog(ctx context.Context, plan *Plan, logger *slog.Logger) (err error) {
	h := &hub{plan: plan, logger: logger, registry: prometheus.NewRegistry()}
	defer func() { err = errors.Join(err, h.close()) }()
	for _, step := range []func(context.Context) error{h.listen, h.openStorage, h.build} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := h.storage.(*embedded).log.Close(); err != nil {
		return err
	}
	return h.run(ctx)
}

// ServeBeforeLog runs a hub whose log does not answer when the routes start; asked is closed then.
func ServeBeforeLog(ctx context.Context, plan *Plan, logger *slog.Logger, asked chan<- struct{}) (err error) {
	h := &hub{plan: plan, logger: logger, registry: prometheus.NewRegistry()}
	defer func() { err = errors.Join(err, h.close()) }()
	for _, step := range []func(context.Context) error{h.listen, h.openStorage, h.build} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	store := h.storage.Store()
	h.pipeline, err = pipeline.New(pipeline.Config{
		Log: mute{h.storage.Log(), asked}, Ledger: store, Census: store, Routes: plan.Routes, Logger: logger, Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		return err
	}
	return h.run(ctx)
}

// mute is a log that creates no topics, and says nothing about it either.
type mute struct {
	pipeline.Log
	asked chan<- struct{}
}

func (m mute) Ensure(ctx context.Context, _ ...string) error {
	close(m.asked)
	<-ctx.Done()
	return ctx.Err()
}
