package pipeline

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/sony/gobreaker/v2"
)

// Memory knows which events are in the log.
type Memory interface {
	// Recall returns the SHA-256 of the first body of each event of a connection, in the order of ids; nil for one that is not known.
	Recall(ctx context.Context, source string, ids []string) ([][]byte, error)
}

const (
	// recallWithin bounds how long a webhook waits for the memory, recallRest how long nobody asks one that did not answer.
	recallWithin = 500 * time.Millisecond
	recallRest   = 2 * time.Second
	// recentFacts is how many events a hub itself remembers, at least: the memory hears of an event a moment after it is stored.
	recentFacts = 4096
)

// Recalling is a log that may store an ID twice, with a memory by which another body under a known ID is a conflict, as it is in a log that stores an
// ID once. Events that are Restated are not asked for: their first body stands. A memory that is away disturbs nobody: then, and when hubs are given
// two bodies within the same moment, both are stored, the ledger lets the first one through, and the Indexer counts the conflict.
func Recalling(l Log, m Memory, logger *slog.Logger) Log {
	r := &recalling{Log: l, memory: m}
	logger = logger.With("component", "recall")
	r.breaker = gobreaker.NewCircuitBreaker[[][]byte](gobreaker.Settings{
		Name: "recall", Timeout: recallRest, MaxRequests: 1,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 2 },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				logger.Warn("the index of events does not answer: other bodies under known ids are stored and counted instead of being refused", "again", recallRest)
			}
		},
	})
	return r
}

type recalling struct {
	Log
	memory  Memory
	breaker *gobreaker.CircuitBreaker[[][]byte]
	recent  recent
}

// fact is an event's identity.
type fact struct{ source, id string }

// conflictError says that an event's ID is known with another body. Nothing of the call is stored.
type conflictError struct{ fact }

func (e *conflictError) Error() string {
	return fmt.Sprintf("event %s of %s is known with another body", e.id, e.source)
}

// Conflict marks the error for those who do not know its type.
func (e *conflictError) Conflict() bool { return true }

// Publish implements Log.
func (l *recalling) Publish(topic string, messages ...*message.Message) error {
	source, events := strings.CutPrefix(topic, eventsTopic)
	var asked map[string][sha256.Size]byte
	for _, m := range messages {
		if r, ok := m.Context().Value(recordKey{}).(*record); !events || ok && r.restated {
			continue
		}
		hash := sha256.Sum256(m.Payload)
		if other, twice := asked[m.UUID]; twice && other != hash {
			return &conflictError{fact{source, m.UUID}}
		}
		if asked == nil {
			asked = make(map[string][sha256.Size]byte, len(messages))
		}
		asked[m.UUID] = hash
	}
	if len(asked) == 0 {
		return l.Log.Publish(topic, messages...)
	}
	if err := l.compare(messages[0].Context(), source, asked); err != nil {
		return err
	}
	if err := l.Log.Publish(topic, messages...); err != nil {
		return err
	}
	for id, hash := range asked {
		l.recent.add(fact{source, id}, hash)
	}
	return nil
}

// compare returns a conflict where one is known.
func (l *recalling) compare(ctx context.Context, source string, asked map[string][sha256.Size]byte) error {
	ids := make([]string, 0, len(asked))
	for id, hash := range asked {
		first, known := l.recent.find(fact{source, id})
		switch {
		case !known:
			ids = append(ids, id)
		case first != hash:
			return &conflictError{fact{source, id}}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	first, err := l.breaker.Execute(func() ([][]byte, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recallWithin) // a caller that hangs up says nothing about the memory
		defer cancel()
		return l.memory.Recall(ctx, source, ids)
	})
	if err != nil {
		return nil //nolint:nilerr // the event is worth more than knowing this
	}
	for i, id := range ids {
		if hash := asked[id]; first[i] != nil && !bytes.Equal(first[i], hash[:]) {
			return &conflictError{fact{source, id}}
		}
	}
	return nil
}

// recent remembers the last facts, recentFacts to twice as many.
type recent struct {
	mu       sync.Mutex
	now, was map[fact][sha256.Size]byte
}

func (r *recent) find(f fact) (hash [sha256.Size]byte, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if hash, known = r.now[f]; !known {
		hash, known = r.was[f]
	}
	return hash, known
}

// add keeps the first hash of a fact.
func (r *recent) add(f fact, hash [sha256.Size]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.now[f]; known {
		return
	}
	if first, known := r.was[f]; known {
		hash = first
	}
	if r.now == nil || len(r.now) >= recentFacts {
		r.was, r.now = r.now, make(map[fact][sha256.Size]byte)
	}
	r.now[f] = hash
}
