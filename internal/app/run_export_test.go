package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
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
	if err := h.log.Close(); err != nil {
		return err
	}
	return h.run(ctx)
}
