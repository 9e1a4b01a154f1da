package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/tidewire/tidewire/pipeline"
)

// ServeWithoutLog runs a hub whose log is gone when the routes start.
func ServeWithoutLog(ctx context.Context, plan *Plan, logger *slog.Logger) (err error) {
	h := newHub(plan, Options{Logger: logger})
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
	h := newHub(plan, Options{Logger: logger})
	defer func() { err = errors.Join(err, h.close()) }()
	for _, step := range []func(context.Context) error{h.listen, h.openStorage, h.build} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	h.storage = unasked{h.storage, asked}
	return h.run(ctx)
}

// unasked is storage that is connected to, with a mute log.
type unasked struct {
	storage
	asked chan<- struct{}
}

func (u unasked) Connect(context.Context) error { return nil }
func (u unasked) Log() pipeline.Log             { return mute{u.storage.Log(), u.asked} }

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
