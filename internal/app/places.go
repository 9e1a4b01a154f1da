package app

import (
	"context"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline/kafkalog"
)

// The store keeps the places of groups, for when Kafka has lost them.
var _ kafkalog.Places = lateStore{}

// Keep implements kafkalog.Places.
func (s lateStore) Keep(ctx context.Context, places []kafkalog.KeptPlace) error {
	store, err := s.get()
	if err != nil {
		return err
	}
	rows := make([]pgstore.Place, len(places))
	for i, p := range places {
		rows[i] = pgstore.Place(p)
	}
	return store.KeepPlaces(ctx, rows)
}

// Kept implements kafkalog.Places.
func (s lateStore) Kept(ctx context.Context, group string) ([]kafkalog.KeptPlace, error) {
	store, err := s.get()
	if err != nil {
		return nil, err
	}
	rows, err := store.Places(ctx, group)
	places := make([]kafkalog.KeptPlace, len(rows))
	for i, r := range rows {
		places[i] = kafkalog.KeptPlace(r)
	}
	return places, err
}

// resumedFor is for how long readiness speaks of places that Kafka had lost: somebody should hear of it in the morning.
const resumedFor = 24 * time.Hour

// resumedNote says that Kafka had lost places of groups lately; empty when it had not.
func (c *cluster) resumedNote() string {
	kafka, _ := c.opened()
	if kafka == nil {
		return ""
	}
	var groups, partitions int
	var last kafkalog.Resumption
	for _, r := range kafka.Resumptions() {
		if time.Since(r.At) > resumedFor {
			continue
		}
		groups++
		partitions += r.Partitions
		if r.At.After(last.At) {
			last = r
		}
	}
	if groups == 0 {
		return ""
	}
	return fmt.Sprintf("Kafka had lost the places of groups (%d groups, %d partitions, the last at %s: %s); they went on from those kept in PostgreSQL",
		groups, partitions, last.At.UTC().Format(time.RFC3339), last.Group)
}
