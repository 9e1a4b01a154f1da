package pgstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/pipeline"
)

var _ pipeline.Memory = (*Store)(nil)

// recollection is one event that is asked for.
type recollection struct {
	source, id string
	hash       []byte // of the body that was recorded first; nil when none is in the index
}

// Recall implements pipeline.Memory from the index of events. It knows what Index was given.
func (s *Store) Recall(ctx context.Context, source string, ids []string) ([][]byte, error) {
	asked := make([]*recollection, len(ids))
	for i, id := range ids {
		asked[i] = &recollection{source: storable(source), id: storable(id)}
	}
	// A call of one event, as nearly all are, goes with others that wait.
	if len(asked) == 1 {
		if err := s.recalls.do(ctx, asked[0]); err != nil {
			return nil, fmt.Errorf("recall event %s of %s: %w", ids[0], source, err)
		}
		return [][]byte{asked[0].hash}, nil
	}
	if err := s.recall(ctx, asked); err != nil {
		return nil, fmt.Errorf("recall %d events of %s: %w", len(ids), source, err)
	}
	hashes := make([][]byte, len(asked))
	for i, r := range asked {
		hashes[i] = r.hash
	}
	return hashes, nil
}

func (s *Store) recallAll(ctx context.Context, batch []*call[*recollection]) {
	asked := make([]*recollection, len(batch))
	for i, c := range batch {
		asked[i] = c.v
	}
	err := s.recall(ctx, asked)
	for _, c := range batch {
		c.err = err
	}
}

func (s *Store) recall(ctx context.Context, asked []*recollection) error {
	s.metrics.batch(kindRecall, len(asked))
	return s.try(ctx, kindRecall, func(ctx context.Context) error {
		sources, ids := make([]int32, len(asked)), make([]string, len(asked))
		for i, r := range asked {
			var err error
			if sources[i], err = s.sourceOf(ctx, r.source); err != nil {
				return err
			}
			ids[i] = r.id
		}
		rows, err := s.pool.Query(ctx, sqlRecall, sources, ids)
		if err != nil {
			return err
		}
		var n int64
		var hash []byte
		_, err = pgx.ForEachRow(rows, []any{&n, &hash}, func() error {
			asked[n-1].hash = hash
			hash = nil
			return nil
		})
		return err
	})
}

// sourceOf returns the number of a source, as another hub may have written it down; 0 for one that nobody has.
func (s *Store) sourceOf(ctx context.Context, source string) (id int32, err error) {
	if id = s.names.Load().sources[source]; id != 0 {
		return id, nil
	}
	err = s.pool.QueryRow(ctx, sqlFindSource, source).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err == nil {
		_, err = s.reloadNames(ctx)
	}
	return id, err
}
