package pipeline_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// shelf is an index in memory, which fails as often as it is told to. It tells of every pair of records with one ID, as an index in SQL does.
type shelf struct {
	mu      sync.Mutex
	failing int
	places  map[string]pipeline.Indexed
	again   map[string][]pipeline.Indexed // with the ID of one in places
	repeats int
}

func (s *shelf) Index(_ context.Context, events []pipeline.Indexed) (repeats []pipeline.Repeat, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing > 0 {
		s.failing--
		return nil, errors.New("the database is away")
	}
	for _, e := range events {
		first, known := s.places[e.ID]
		if !known {
			s.places[e.ID] = e
			continue
		}
		if first.At == e.At {
			continue
		}
		for _, other := range append([]pipeline.Indexed{first}, s.again[e.ID]...) {
			if other.At != e.At {
				repeats = append(repeats, pipeline.Repeat{First: other, Again: e, Conflict: !bytes.Equal(other.BodyHash, e.BodyHash)})
			}
		}
		s.again[e.ID] = append(s.again[e.ID], e)
	}
	s.repeats += len(repeats)
	return repeats, nil
}

// fail makes so many more calls fail and returns how many will.
func (s *shelf) fail(more int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = max(0, s.failing+more)
	return s.failing
}

func (s *shelf) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.places)
}

// TestEveryEventIsIndexedOnceItsRepeatsAreCounted reads a log that keeps repeats, through failures of the index and a restart.
func TestEveryEventIsIndexedOnceItsRepeatsAreCounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		index := &shelf{failing: 3, places: make(map[string]pipeline.Indexed), again: make(map[string][]pipeline.Indexed)}
		reg := prometheus.NewRegistry()
		stop := runIndexer(t, dir, index, reg, "a-1", "b-1", "a-2", "a-1", "a-1")
		eventually(t, "all are indexed", func() bool { return index.size() == 3 })
		eventually(t, "the repeats are counted", func() bool {
			families, err := reg.Gather()
			return err == nil && len(families) == 2 && families[0].GetMetric()[0].GetCounter().GetValue() == 0 &&
				families[1].GetMetric()[0].GetCounter().GetValue() == 2
		})
		stop()
		hash := sha256.Sum256(shopEvent("a-2").Body)
		if got := index.places["a-2"]; got.At.Offset != 2 || !bytes.Equal(got.BodyHash, hash[:]) || got.Key != "a" || got.Type != "order.paid" {
			t.Errorf("a-2 is indexed as %+v", got)
		}
		before := index.repeats
		reg = prometheus.NewRegistry()
		stop = runIndexer(t, dir, index, reg, "c-1", "a-1")
		eventually(t, "the index goes on after a restart", func() bool { return index.size() == 4 })
		eventually(t, "a repeat of what was indexed earlier is counted", func() bool {
			families, err := reg.Gather()
			return err == nil && families[1].GetMetric()[0].GetCounter().GetValue() == 1
		})
		stop()
		if index.repeats != before+3 { // the fourth a-1 and each of the others
			t.Errorf("a restart made %d repeats of events that had been indexed", index.repeats-before-3)
		}
		reg = prometheus.NewRegistry()
		stop = runIndexer(t, dir, index, reg, "a-1!", "a-1")
		eventually(t, "a conflict is one, however many repeats there were, and the first body's next is none", func() bool {
			families, err := reg.Gather()
			return err == nil && families[0].GetMetric()[0].GetCounter().GetValue() == 1 && families[1].GetMetric()[0].GetCounter().GetValue() == 2
		})
		stop()
		// What could not be indexed before a stop is indexed after it.
		index.fail(1 << 30)
		stop = runIndexer(t, dir, index, prometheus.NewRegistry(), "d-1")
		eventually(t, "it was tried", func() bool { return index.fail(0) < 1<<30 })
		stop()
		index.fail(-1 << 30)
		stop = runIndexer(t, dir, index, prometheus.NewRegistry(), "e-1")
		eventually(t, "both are indexed", func() bool { return index.size() == 6 })
		stop()
	})
}

// runIndexer publishes events, those with a mark of exclamation with another body, and indexes them.
func runIndexer(t *testing.T, dir string, index pipeline.Index, reg prometheus.Registerer, ids ...string) (stop func()) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "hub.db"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := sqlitelog.Open(t.Context(), sqlitelog.Config{DB: db, Logger: quiet, Prepare: pipeline.Prepare})
	if err != nil {
		t.Fatal(err)
	}
	log := pipeline.OnSQLite(kept)
	events := make([]event.Event, 0, len(ids))
	for _, id := range ids {
		e := shopEvent(strings.TrimSuffix(id, "!"))
		if e.ID != id {
			e.Body = []byte("another")
		}
		events = append(events, e)
	}
	if err := pipeline.NewIntake(log).Accept(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	x, err := pipeline.NewIndexer(log, index, []string{"shop"}, quiet, reg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	return func() {
		cancel()
		if err := errors.Join(<-ended, kept.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	}
}
