// Package services starts the real servers that cluster mode stands on, Apache Kafka and PostgreSQL, for tests and contributors: on loopback, as ordinary processes,
// without containers and without changing the system. What is not installed is downloaded once into the user's cache, Kafka by Maven and PostgreSQL as Debian's package.
//
// Tests take a server with Shared, one for each test binary.
package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
)

// Missing says what the servers lack on this machine and how to get it, a sentence each; nothing when all is there. It downloads what can be.
func Missing(ctx context.Context) []string {
	var all []string
	for what, find := range map[string]func() error{
		"Kafka":                        func() error { _, _, err := kafkaFiles(ctx, NewestKafka); return err },
		"PostgreSQL":                   func() error { _, err := findPostgres(ctx); return err },
		"PostgreSQL " + OldestPostgres: func() error { _, err := archivedPostgres(ctx, OldestPostgres); return err },
	} {
		if err := find(); err != nil {
			all = append(all, fmt.Sprintf("tests with a real %s are left out: %v", what, err))
		}
	}
	return all
}

// Shared holds one server of each kind for a test binary: a variable of its tests, closed by its TestMain. Its zero value is ready; a server starts with the first test that
// asks for it.
type Shared struct {
	mu       sync.Mutex
	kafka    map[int]*Kafka
	postgres *Postgres
}

// Kafka is the cluster with so many brokers. Tests share it: each uses topics of its own, and none kills what others use.
func (s *Shared) Kafka(tb testing.TB, brokers int) *Kafka {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kafka[brokers] == nil {
		k := needed(tb, func() (*Kafka, error) { return StartKafka(tb.Context(), KafkaOptions{Brokers: brokers}) })
		if s.kafka == nil {
			s.kafka = make(map[int]*Kafka)
		}
		s.kafka[brokers] = k
	}
	return s.kafka[brokers]
}

// Postgres is the server. Tests share it: each takes a Database of its own, and none stops it.
func (s *Shared) Postgres(tb testing.TB) *Postgres {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.postgres == nil {
		s.postgres = needed(tb, func() (*Postgres, error) { return StartPostgres(tb.Context(), PostgresOptions{}) })
	}
	return s.postgres
}

// Close ends what was started. It may be called more than once.
func (s *Shared) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kafka {
		k.Close()
	}
	if s.postgres != nil {
		s.postgres.Close()
	}
	s.kafka, s.postgres = nil, nil
}

// NewKafka starts a cluster for one test, which may kill it, and closes it after the test.
func NewKafka(tb testing.TB, o KafkaOptions) *Kafka {
	tb.Helper()
	k := needed(tb, func() (*Kafka, error) { return StartKafka(tb.Context(), o) })
	tb.Cleanup(k.Close)
	return k
}

// NewPostgres starts a server for one test, which may stop it, and closes it after the test.
func NewPostgres(tb testing.TB, o PostgresOptions) *Postgres {
	tb.Helper()
	p := needed(tb, func() (*Postgres, error) { return StartPostgres(tb.Context(), o) })
	tb.Cleanup(p.Close)
	return p
}

// needed starts a server for a test. The test is left out by -short, and where something is missing on a person's machine; on CI, where the environment has CI set, that fails it:
// what is never run there is not tested.
func needed[T any](tb testing.TB, start func() (T, error)) T {
	tb.Helper()
	if testing.Short() {
		tb.Skip("left out by -short: it needs a real server")
	}
	server, err := start()
	switch {
	case errors.Is(err, ErrMissing) && os.Getenv("CI") == "":
		tb.Skipf("left out: %v", err)
	case err != nil:
		tb.Fatal(err)
	}
	return server
}
