package app

import (
	"context"
	"time"
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
