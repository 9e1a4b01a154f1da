package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// source is an embedded hub's file without a hub.
type source struct {
	path  string
	log   *sqlitelog.Log
	store *store.Store
}

func (h *hub) openSource(ctx context.Context, dir string) (*source, error) {
	if dir == "" {
		dir = h.plan.Config.DataDir
	}
	path, err := filepath.Abs(filepath.Join(dir, File))
	if err != nil {
		return nil, err
	}
	if err := exists(path); err != nil {
		return nil, err
	}
	fail := func(err error) error { return fmt.Errorf("%w: open %s: %w", ErrEnvironment, path, err) }
	db, err := sqlite.Open(ctx, sqlite.Options{Path: path, Logger: h.logger})
	if err != nil {
		return nil, fail(err)
	}
	h.onClose("the embedded hub's file", db.Close)
	s := &source{path: path}
	if s.log, err = sqlitelog.Open(ctx, sqlitelog.Config{DB: db, Logger: h.logger, Unique: pipeline.Unique, Same: pipeline.Same}); err != nil {
		return nil, fail(err)
	}
	h.onClose("the embedded log", s.log.Close)
	if s.store, err = store.Open(ctx, store.Config{DB: db, Logger: h.logger}); err != nil {
		return nil, fail(err)
	}
	return s, nil
}

// fingerprint is of what a hub that runs on the file changes: where topics begin and end, how far routes have got, what became of deliveries.
func (s *source) fingerprint(ctx context.Context) (string, error) {
	balance, err := s.store.Balance(ctx)
	if err != nil {
		return "", err
	}
	type topic struct {
		Name        string
		First, Next int64
		Places      map[string]int64
	}
	state := struct {
		Topics  []topic
		Balance map[string]map[pipeline.State]int64
	}{Balance: balance}
	for _, name := range s.log.Topics() {
		first, next, _ := s.log.Bounds(name)
		state.Topics = append(state.Topics, topic{name, first, next, s.log.Places(name)})
	}
	return digest(state)
}

// routesFingerprint is of what decides where routes go on.
func routesFingerprint(routes []pipeline.Route) string {
	type reader struct {
		Name    string
		From    []string
		FromEnd bool
	}
	readers := make([]reader, len(routes))
	for i, r := range routes {
		readers[i] = reader{r.Name, slices.Sorted(slices.Values(r.From)), r.FromEnd}
	}
	slices.SortFunc(readers, func(a, b reader) int { return strings.Compare(a.Name, b.Name) })
	sum, err := digest(readers)
	if err != nil {
		panic(err) // names and booleans
	}
	return sum
}

// digest is short and the same for what is written the same as JSON, in which maps are in order.
func digest(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}
