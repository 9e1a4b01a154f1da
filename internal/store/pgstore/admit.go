package pgstore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// question is one call of Admit.
type question struct {
	route, source int32
	id            string
	key           pgtype.UUID
	standing      pipeline.Standing
}

// keyHash is what a key is known by; null for an empty key. Keys have no bound that an index could rely on.
func keyHash(source, key string) (u pgtype.UUID) {
	if key == "" {
		return u
	}
	text := strconv.AppendInt(make([]byte, 0, 256), int64(len(source)), 10)
	text = append(append(append(text, ' '), source...), key...)
	h := sha256.Sum256(text)
	copy(u.Bytes[:], h[:])
	u.Valid = true
	return u
}

// Admit implements pipeline.Ledger. A delivery is known by its route, source and event ID, wherever in the log it is.
func (s *Store) Admit(ctx context.Context, d pipeline.Delivery) (pipeline.Standing, error) {
	standing, err := s.admit(ctx, d)
	if err != nil {
		return pipeline.Unknown, fmt.Errorf("look up event %s on route %s: %w", d.Event.ID, d.Route, err)
	}
	return standing, nil
}

func (s *Store) admit(ctx context.Context, d pipeline.Delivery) (pipeline.Standing, error) {
	source := storable(d.Event.Source)
	n := s.names.Load()
	q := &question{route: n.routes[d.Route], source: n.sources[source]}
	if q.route == 0 || q.source == 0 {
		err := s.try(ctx, kindNames, func(ctx context.Context) (err error) {
			q.route, q.source, err = s.lookUp(ctx, d.Route, source)
			return err
		})
		if err != nil || q.route == 0 || q.source == 0 {
			return pipeline.Unknown, err // or nothing was ever written for this route or source
		}
	}
	q.id, q.key = eventID(d.Event.ID, d.At), keyHash(source, d.Event.Key)
	if err := s.admits.do(ctx, q); err != nil {
		return pipeline.Unknown, err
	}
	return q.standing, nil
}

// askAll answers a batch with one look-up.
func (s *Store) askAll(ctx context.Context, batch []*call[*question]) {
	s.metrics.batch(kindAdmit, len(batch))
	routes, sources := make([]int32, len(batch)), make([]int32, len(batch))
	ids, keys := make([]string, len(batch)), make([]pgtype.UUID, len(batch))
	for i, c := range batch {
		routes[i], sources[i], ids[i], keys[i] = c.v.route, c.v.source, c.v.id, c.v.key
	}
	err := s.try(ctx, kindAdmit, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, sqlAdmit, routes, sources, ids, keys)
		if err != nil {
			return err
		}
		var n int64
		var state *int16
		var behind bool
		_, err = pgx.ForEachRow(rows, []any{&n, &state, &behind}, func() error {
			batch[n-1].v.standing = standingOf(state, behind)
			return nil
		})
		return err
	})
	for _, c := range batch {
		c.err = err
	}
}

func standingOf(state *int16, behind bool) pipeline.Standing {
	switch {
	case state != nil && store.StateBy(int64(*state)) == pipeline.Parked:
		return pipeline.Held
	case state != nil:
		return pipeline.Settled
	case behind:
		return pipeline.Behind
	}
	return pipeline.Unknown
}
