package spool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline/spool"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

const events = "events.shop"

// msg is a message whose key is what comes before the dash.
func msg(uuid string) *message.Message {
	m := message.NewMessage(uuid, []byte("payload of "+uuid))
	m.Metadata.Set("key", keyOf(uuid))
	m.Metadata.Set("ce_id", uuid)
	return m
}

func keyOf(uuid string) string {
	key, _, _ := strings.Cut(uuid, "-")
	return key
}

func metadataKey(m *message.Message) string { return m.Metadata["key"] }

var errDown = errors.New("connection refused")

// answer is what the shared log makes of one message.
type answer int

const (
	store       answer = iota
	down               // not stored, an error at once
	lost               // stored, and an error all the same
	hang               // not stored, an error when the message's context ends or after ten seconds
	refuse             // never to be stored
	conflict           // the ID is taken
	deafAndMute        // as hang, whatever the context says
)

// verdict is a final answer.
type verdict struct{ refused, conflict bool }

func (v verdict) Error() string {
	return fmt.Sprintf("final: %+v", struct{ r, c bool }{v.refused, v.conflict})
}
func (v verdict) Refused() bool  { return v.refused }
func (v verdict) Conflict() bool { return v.conflict }

// shared stands in for a log that other machines keep. How it answers is decided by script; nil: it stores.
type shared struct {
	mu      sync.Mutex
	script  func(topic string, m *message.Message) answer
	records []record
	calls   int
	under   int // calls under way
	takes   time.Duration
}

type record struct {
	topic, uuid, payload string
	metadata             message.Metadata
}

func (l *shared) Publish(topic string, ms ...*message.Message) error {
	l.mu.Lock()
	l.calls++
	l.under++
	takes := l.takes
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.under--
		l.mu.Unlock()
	}()
	if takes > 0 {
		time.Sleep(takes)
	}
	var errs []error
	for _, m := range ms {
		errs = append(errs, l.one(topic, m))
		if errs[len(errs)-1] != nil {
			break // none without its elders
		}
	}
	return errors.Join(errs...)
}

func (l *shared) one(topic string, m *message.Message) error {
	l.mu.Lock()
	a := store
	if l.script != nil {
		a = l.script(topic, m)
	}
	if a == store || a == lost {
		l.records = append(l.records, record{topic, m.UUID, string(m.Payload), m.Metadata})
	}
	l.mu.Unlock()
	bound := time.NewTimer(10 * time.Second)
	defer bound.Stop()
	switch a {
	case down, lost:
		return errDown
	case hang:
		select {
		case <-m.Context().Done():
		case <-bound.C:
		}
		return errDown
	case deafAndMute:
		<-bound.C
		return errDown
	case refuse:
		return verdict{refused: true}
	case conflict:
		return verdict{conflict: true}
	}
	return nil
}

func (l *shared) Close() error { return nil }

// set changes how it answers from now on.
func (l *shared) set(script func(string, *message.Message) answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.script = script
}

func (l *shared) always(a answer) { l.set(func(string, *message.Message) answer { return a }) }

// ids returns what is stored of a topic, in order; with first only the first of each.
func (l *shared) ids(topic string, first bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	seen := make(map[string]bool)
	for _, r := range l.records {
		if r.topic == topic && (!first || !seen[r.uuid]) {
			seen[r.uuid] = true
			ids = append(ids, r.uuid)
		}
	}
	return ids
}

func (l *shared) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// stage is a spool on a real file in front of a scripted log.
type stage struct {
	t        testing.TB
	dir      string
	log      *shared
	config   spool.Config
	front    spool.Log // nil: log
	registry *prometheus.Registry

	db      *sqlite.DB
	file    *sqlitelog.Log
	spool   *spool.Spool
	endRun  context.CancelFunc
	running sync.WaitGroup
}

// start opens the file and the spool, without Run.
func (s *stage) start() {
	s.t.Helper()
	var err error
	if s.db, err = sqlite.Open(context.Background(), sqlite.Options{Path: filepath.Join(s.dir, "spool.db"), Logger: quiet}); err != nil {
		s.t.Fatal(err)
	}
	if s.file, err = sqlitelog.Open(context.Background(), sqlitelog.Config{DB: s.db, Logger: quiet}); err != nil {
		s.t.Fatal(err)
	}
	if s.log == nil {
		s.log = &shared{}
	}
	s.registry = prometheus.NewRegistry()
	c := s.config
	c.Log, c.Local, c.Key, c.Logger, c.Registerer = s.log, s.file, metadataKey, quiet, s.registry
	if s.front != nil {
		c.Log = s.front
	}
	if s.spool, err = spool.New(context.Background(), c); err != nil {
		s.t.Fatal(err)
	}
	s.endRun = func() {}
}

// run drains until stop.
func (s *stage) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.endRun = cancel
	s.running.Go(func() {
		if err := s.spool.Run(ctx); err != nil {
			s.t.Error(err)
		}
	})
}

func (s *stage) stop() {
	s.t.Helper()
	s.endRun()
	s.running.Wait()
	for _, c := range []interface{ Close() error }{s.spool, s.file, s.db} {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// inBubble runs a test on a spool that drains; time stands still while anybody works.
func inBubble(t *testing.T, c spool.Config, test func(t *testing.T, s *stage)) {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, dir: dir, config: c}
		s.start()
		defer func() { s.stop() }()
		s.run()
		synctest.Wait()
		test(t, s)
	})
}

func (s *stage) publish(topic string, uuids ...string) {
	s.t.Helper()
	ms := make([]*message.Message, len(uuids))
	for i, uuid := range uuids {
		ms[i] = msg(uuid)
	}
	if err := s.spool.Publish(topic, ms...); err != nil {
		s.t.Fatalf("publish %v: %v", uuids, err)
	}
}

func (s *stage) state() spool.State { return s.spool.State(s.t.Context()) }

// drained waits until events go straight again.
func (s *stage) drained() {
	s.t.Helper()
	until(s.t, "the spool to be drained", func() bool { return !s.state().Spooling })
}

// until waits for a condition that other goroutines bring about; an hour of a bubble's time.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Hour)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		pause(10 * time.Millisecond)
	}
}

func pause(d time.Duration) { <-time.After(d) }

// metric reads one of the spool's metrics.
func (s *stage) metric(name string) float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	s.t.Fatalf("no metric %s", name)
	return 0
}
