package app

import (
	"context"
	"errors"
	"time"

	"github.com/tidewire/tidewire/pipeline"
)

// retainEvery is how often what has outlived its retention is removed.
const retainEvery = 10 * time.Minute

// retain removes old records and rows until ctx ends. What a route has not finished is never removed; when that makes the log keep more than it should, it says so.
func (h *hub) retain(ctx context.Context) {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		if err := h.retainOnce(ctx); err != nil && ctx.Err() == nil {
			h.logger.Error("old records could not be removed; trying again later", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *hub) retainOnce(ctx context.Context) error {
	keep := h.plan.Config.Retention
	now := time.Now()
	var errs []error
	removed, held, err := h.retainEvents(ctx, now.Add(-keep.Events.Std()))
	if err != nil {
		errs = append(errs, err)
	}
	if removed > 0 {
		h.logger.Info("old events removed", "events", removed)
	}
	if held > 0 {
		h.logger.Warn("events older than retention.events are kept, because a route has not finished them: the log grows",
			"events", held, "retention", keep.Events.String())
	}
	if _, _, err := h.log.Retain(ctx, pipeline.HoldsDeadLetters, now.Add(-keep.DeadLetters.Std()), nil); err != nil {
		errs = append(errs, err)
	}
	// A record that is held back may be handed out again after a restart, and what was settled around it must not be forgotten before it.
	if held == 0 {
		if _, err := h.store.Retain(ctx, now.Add(-keep.Deliveries.Std())); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := h.store.RetainDead(ctx, now.Add(-keep.DeadLetters.Std())); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// retainEvents removes old events connection by connection: only the routes that read a connection now hold what they have not finished. One that
// read it under an earlier config has left its place there, which would never move on.
func (h *hub) retainEvents(ctx context.Context, before time.Time) (removed, held int64, err error) {
	readers := make(map[string][]string) // by topic
	for _, r := range h.plan.Routes {
		for _, source := range r.From {
			topic := pipeline.EventsTopic(source)
			readers[topic] = append(readers[topic], r.Name)
		}
	}
	var errs []error
	retain := func(which func(topic string) bool, routes []string) {
		n, kept, err := h.log.Retain(ctx, which, before, routes)
		removed, held, errs = removed+n, held+kept, append(errs, err)
	}
	for topic, routes := range readers {
		retain(func(t string) bool { return t == topic }, routes)
	}
	retain(func(t string) bool { return pipeline.HoldsEvents(t) && readers[t] == nil }, nil)
	return removed, held, errors.Join(errs...)
}
