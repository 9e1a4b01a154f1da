package pipeline_test

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

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hub is the heart on a real log and store, with targets made of functions. It lives in a bubble, so that hours of retries pass at once.
type hub struct {
	t        *testing.T
	dir      string
	routes   []pipeline.Route
	ledger   func(pipeline.Ledger) pipeline.Ledger // wraps the store; nil: the store itself
	db       *sqlite.DB
	log      *sqlitelog.Log
	store    *store.Store
	registry *prometheus.Registry
	pipeline *pipeline.Pipeline
	intake   *pipeline.Intake
	stop     func() error // gracefully: what is under way comes to its end
	cut      func()       // cuts off what is under way
}

// start opens everything in h.dir and runs the routes.
func (h *hub) start() {
	h.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	var err error
	if h.db, err = sqlite.Open(h.t.Context(), sqlite.Options{Path: filepath.Join(h.dir, "hub.db"), Logger: quiet}); err != nil {
		h.t.Fatal(err)
	}
	if h.log, err = sqlitelog.Open(h.t.Context(), sqlitelog.Config{
		DB: h.db, Logger: quiet, Unique: pipeline.Unique, Same: pipeline.Same, Prepare: pipeline.Prepare,
	}); err != nil {
		h.t.Fatal(err)
	}
	if h.store, err = store.Open(h.t.Context(), store.Config{DB: h.db, Logger: quiet}); err != nil {
		h.t.Fatal(err)
	}
	var ledger pipeline.Ledger = h.store
	if h.ledger != nil {
		ledger = h.ledger(h.store)
	}
	log := pipeline.OnSQLite(h.log)
	h.registry = prometheus.NewRegistry()
	p, err := pipeline.New(pipeline.Config{
		Log: log, Ledger: ledger, Census: h.store, Routes: h.routes, Logger: quiet, Registerer: h.registry,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.pipeline, h.intake = p, pipeline.NewIntake(log)
	work, cut := context.WithCancel(context.Background())
	take, stopTaking := context.WithCancel(work)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(take, work) }()
	<-p.Running()
	h.cut = cut
	h.stop = sync.OnceValue(func() error {
		stopTaking()
		err := <-ended
		cut()
		return errors.Join(err, h.log.Close(), h.db.Close())
	})
}

// inBubble runs a test on a hub with these routes.
func inBubble(t *testing.T, routes []pipeline.Route, test func(t *testing.T, h *hub)) {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &hub{t: t, dir: dir, routes: routes}
		h.start()
		defer func() {
			if t.Failed() {
				h.cut() // what failed may never come to its end
			}
			if err := h.stop(); err != nil {
				t.Error(err)
			}
		}()
		test(t, h)
	})
}

// route is a route from "shop" to a function, with a schedule that is easy to reckon with.
func route(send func(context.Context, connectors.Delivery) (connectors.Receipt, error)) pipeline.Route {
	return pipeline.Route{
		Name: "orders", From: []string{"shop"}, To: "erp", Target: target(send),
		Retry:   pipeline.Retry{Schedule: []time.Duration{time.Minute, 10 * time.Minute, time.Hour}, MaxAge: 72 * time.Hour, MaxRetryAfter: 24 * time.Hour},
		Timeout: 10 * time.Second, Concurrency: 8,
	}
}

type target func(context.Context, connectors.Delivery) (connectors.Receipt, error)

func (f target) Send(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
	return f(ctx, d)
}

// accept puts events "key-n" with these keys through the door, in order; one key for each event.
func (h *hub) accept(ids ...string) {
	h.t.Helper()
	for _, id := range ids {
		if err := h.intake.Accept(h.t.Context(), shopEvent(id)); err != nil {
			h.t.Fatal(err)
		}
	}
}

// shopEvent makes an event whose key is what comes before the dash in its ID.
func shopEvent(id string) event.Event {
	key, _, _ := strings.Cut(id, "-")
	return event.Event{
		ID: id, Source: "shop", Type: "order.paid", Key: key, Time: time.Now(), Recorded: time.Now(),
		ContentType: "application/json", Body: fmt.Appendf(nil, `{"id": %q, "total": 1250}`, id),
	}
}

// journal is what a target saw, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
	at    []time.Time
}

func (j *journal) add(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, id)
	j.at = append(j.at, time.Now())
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.lines...)
}

// of are the lines of one key.
func (j *journal) of(key string) []string {
	var lines []string
	for _, l := range j.all() {
		if strings.HasPrefix(l, key+"-") {
			lines = append(lines, l)
		}
	}
	return lines
}

func (j *journal) times() []time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]time.Time(nil), j.at...)
}

// eventually waits in the bubble's time until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for i := range 20_000 {
		if holds() {
			return
		}
		// The bubble's time, which passes at once when nothing else is to be done.
		time.Sleep(time.Duration(min(i+1, 20)) * 50 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func (h *hub) balance() map[pipeline.State]int64 {
	h.t.Helper()
	all, err := h.store.Balance(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return all["orders"]
}

func (h *hub) parked() int64 {
	h.t.Helper()
	n, err := h.store.Count(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return n["orders"].Parked
}
