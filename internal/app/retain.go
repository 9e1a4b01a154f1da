package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/pipeline"
)

// retainEvery is how often what has outlived its retention is removed.
const retainEvery = 10 * time.Minute

// retain removes old records and rows until ctx ends.
func (h *hub) retain(ctx context.Context) {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		if err := h.storage.Retain(ctx); err != nil && ctx.Err() == nil {
			h.logger.Error("old records could not be removed; trying again later", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// retentions shows how long things are kept, so that alerts need not guess.
func (h *hub) retentions(keep config.Retention) {
	seconds := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidewire_retention_seconds", Help: "How long things are kept, by what the config calls them: events, deliveries, dead_letters.",
	}, []string{"kind"})
	seconds.WithLabelValues("events").Set(keep.Events.Std().Seconds())
	seconds.WithLabelValues("deliveries").Set(keep.Deliveries.Std().Seconds())
	seconds.WithLabelValues("dead_letters").Set(keep.DeadLetters.Std().Seconds())
	h.registry.MustRegister(seconds)
}

// Retain implements storage: the hub that has the duty removes old rows. Kafka removes old records by itself, read or not, so a route that is about
// to lose some is told of ahead of time.
func (c *cluster) Retain(ctx context.Context) error {
	held, err := c.store.Lease(ctx, retentionDuty, 3*retainEvery/2)
	if err != nil || !held {
		return err
	}
	c.retaining.Store(true)
	now := time.Now()
	oldest, err := c.warnOfLag(ctx, now)
	errs := []error{err}
	before := now.Add(-c.keep.Deliveries.Std())
	// What may still be handed out must not be forgotten before it.
	if err == nil && (oldest.IsZero() || oldest.After(before)) {
		_, err := c.store.Retain(ctx, before)
		errs = append(errs, err)
	}
	_, indexErr := c.store.RetainIndex(ctx, before)
	_, deadErr := c.store.RetainDead(ctx, now.Add(-c.keep.DeadLetters.Std()))
	return errors.Join(append(errs, indexErr, deadErr)...)
}

// warnOfLag returns when the oldest record that a route has not finished was appended.
func (c *cluster) warnOfLag(ctx context.Context, now time.Time) (oldest time.Time, err error) {
	limit := now.Add(-c.keep.Events.Std() * 8 / 10)
	for _, r := range c.routes {
		for _, source := range r.From {
			n, at, err := c.log.Lag(ctx, pipeline.EventsTopic(source), r.Name)
			if err != nil {
				return oldest, fmt.Errorf("route %s: how far it is behind: %w", r.Name, err)
			}
			if at.IsZero() {
				continue
			}
			if at.Before(limit) {
				c.logger.Error("a route is so far behind that Kafka is about to remove what it has not read: mend its target, or lengthen retention.events and the topic's retention.ms",
					"route", r.Name, "connection", source, "events", n, "oldest", at, "retention", c.keep.Events.String())
			}
			if oldest.IsZero() || at.Before(oldest) {
				oldest = at
			}
		}
	}
	return oldest, nil
}
