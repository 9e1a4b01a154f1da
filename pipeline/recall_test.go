package pipeline_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// recollections is a memory of first bodies that can be away, or slow.
type recollections struct {
	bodies map[string]string
	asked  int
	away   bool
	slow   bool
}

func (r *recollections) Recall(ctx context.Context, source string, ids []string) ([][]byte, error) {
	r.asked += len(ids)
	switch {
	case r.away:
		return nil, errors.New("the database is away")
	case r.slow:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	hashes := make([][]byte, len(ids))
	for i, id := range ids {
		if body, known := r.bodies[id]; known && source == "shop" {
			h := sha256.Sum256([]byte(body))
			hashes[i] = h[:]
		}
	}
	return hashes, nil
}

// fact is shopEvent with another body.
func fact(id, body string) event.Event {
	e := shopEvent(id)
	e.Body = []byte(body)
	return e
}

// kept opens a log that stores an ID as often as it comes.
func kept(t *testing.T) pipeline.Log {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "hub.db"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	log, err := sqlitelog.Open(t.Context(), sqlitelog.Config{DB: db, Logger: quiet, Prepare: pipeline.Prepare})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(log.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	return pipeline.OnSQLite(log)
}

// counting counts what it publishes.
type counting struct {
	pipeline.Log
	published int
}

func (c *counting) Publish(topic string, messages ...*message.Message) error {
	c.published += len(messages)
	return c.Log.Publish(topic, messages...)
}

func isConflict(err error) bool {
	c, ok := errors.AsType[interface {
		error
		Conflict() bool
	}](err)
	return ok && c.Conflict()
}

func TestAnotherBodyUnderAKnownIDIsAConflict(t *testing.T) {
	t.Parallel()
	memory := &recollections{bodies: map[string]string{"old": "{}"}}
	log := &counting{Log: kept(t)}
	intake := pipeline.NewIntake(pipeline.Recalling(log, memory, slog.New(slog.DiscardHandler)))
	restated := fact("old", "[]")
	restated.Restated = true
	for _, step := range []struct {
		what     string
		events   []event.Event
		conflict bool
		asked    int // of the memory
	}{
		{"an old event again", []event.Event{fact("old", "{}")}, false, 1},
		{"another body under an old id", []event.Event{fact("old", "[]")}, true, 0}, // it has just come
		{"a new event", []event.Event{fact("new", "{}")}, false, 1},
		{"a new event again", []event.Event{fact("new", "{}")}, false, 0},
		{"another body under a new id", []event.Event{fact("new", "[]")}, true, 0},
		{"one of several", []event.Event{fact("fine", "{}"), fact("new", "[]")}, true, 0},
		{"two bodies in one call", []event.Event{fact("two", "{}"), fact("two", "[]")}, true, 0},
		{"one event twice in one call", []event.Event{fact("two", "{}"), fact("two", "{}")}, false, 1},
		{"what the provider words anew", []event.Event{restated}, false, 0},
	} {
		memory.asked = 0
		err := intake.Accept(t.Context(), step.events...)
		if isConflict(err) != step.conflict || !step.conflict && err != nil || memory.asked != step.asked {
			t.Errorf("%s: %v; the memory was asked for %d", step.what, err, memory.asked)
		}
	}
	// Nothing of a refused call is stored: 1 old, 2 new, 2 at once, 1 restated.
	if log.published != 6 {
		t.Errorf("%d records are stored", log.published)
	}
	// After a restart the hub itself remembers nothing.
	memory.bodies["new"] = "{}"
	intake = pipeline.NewIntake(pipeline.Recalling(log, memory, slog.New(slog.DiscardHandler)))
	for _, id := range []string{"old", "new"} {
		if err := intake.Accept(t.Context(), fact(id, "[]")); !isConflict(err) {
			t.Errorf("after a restart another body under %s: %v", id, err)
		}
	}
}

// TestAMemoryThatIsAwayDelaysNobody: an event is worth more than knowing whether it conflicts.
func TestAMemoryThatIsAwayDelaysNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := kept(t)
		for _, memory := range []*recollections{{away: true}, {slow: true}} {
			intake := pipeline.NewIntake(pipeline.Recalling(log, memory, slog.New(slog.DiscardHandler)))
			began := time.Now()
			for i := range 1000 {
				if err := intake.Accept(t.Context(), fact(time.Duration(i).String(), "{}")); err != nil {
					t.Fatal(err)
				}
			}
			if waited := time.Since(began); waited > 2*time.Second || memory.asked > 2 {
				t.Errorf("a thousand events waited %s for a memory that was asked %d times", waited, memory.asked)
			}
			memory.away, memory.slow, memory.bodies = false, false, map[string]string{"back": "{}"}
			time.Sleep(5 * time.Second) // in the bubble
			if err := intake.Accept(t.Context(), fact("back", "[]")); !isConflict(err) {
				t.Errorf("once it is back, another body is answered %v", err)
			}
		}
	})
}
