// Package admin is the hub's private face: health, readiness with reasons, and metrics. It listens apart from the webhooks and is not meant
// for the public.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what the admin face shows.
type Config struct {
	// Checks decide readiness: each must pass.
	Checks []Check
	// Routes tells how the routes are doing. A route that rests or is paused is listed and does not make the hub unready.
	Routes func(ctx context.Context) []RouteState
	// Cluster tells who shares the work; nil when this hub does all of it.
	Cluster func(ctx context.Context) *Cluster
	// Gatherer is where the metrics are.
	Gatherer prometheus.Gatherer
	// Version is shown in /readyz.
	Version string
	Logger  *slog.Logger
}

// Check is one thing that must be well for the hub to be ready.
type Check struct {
	Name string
	// Probe returns nil, or a sentence for the person on call. It must obey ctx.
	Probe func(ctx context.Context) error
	// Note, asked when Probe has passed, is a sentence on what works and deserves a look; empty when nothing does. May be nil.
	Note func() string
}

// RouteState is one route's line in /readyz.
type RouteState struct {
	Route  string `json:"route"`
	Target string `json:"target"`
	State  string `json:"state"` // waiting, running, resting, paused
	Reason string `json:"reason,omitempty"`
	// LagEvents is how many records the route has not finished, on all hubs together; LagSeconds how old the oldest of them is. nil (null) while the
	// log cannot be asked.
	LagEvents  *int64   `json:"lag_events"`
	LagSeconds *float64 `json:"lag_seconds"`
	// Group is how this hub shares in reading for the route; zero where it reads all of it.
	Group
}

// Group is how a hub stands in a consumer group, whose members share partitions.
type Group struct {
	// Membership is "member", or says what is waited for; MembershipSince is when that began.
	Membership      string    `json:"membership,omitempty"`
	MembershipSince time.Time `json:"membership_since,omitzero"`
	// Holds says which partitions this hub reads, as "events.shop 0-3, 7"; empty when none.
	Holds string `json:"holds,omitempty"`
}

// Cluster is who shares the work.
type Cluster struct {
	// Hub is this hub.
	Hub string `json:"hub"`
	// Hubs are all that have been seen of late, this one among them.
	Hubs []Hub `json:"hubs"`
	// Duties are what one hub at a time does.
	Duties []Duty `json:"duties"`
	// Index is how this hub shares in noting where events are; nil before it does.
	Index *Group `json:"index,omitempty"`
	// Unknown says why the rest could not be asked for.
	Unknown string `json:"unknown,omitempty"`
}

// Hub is one of the hubs that share the work.
type Hub struct {
	Name    string    `json:"name"`
	Started time.Time `json:"started"`
	Seen    time.Time `json:"seen"`
}

// Duty is what one hub at a time does, and which.
type Duty struct {
	Name   string    `json:"name"`
	Holder string    `json:"holder"`
	Until  time.Time `json:"until"`
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready   bool          `json:"ready"`
	Version string        `json:"version"`
	Checks  []CheckResult `json:"checks"`
	Routes  []RouteState  `json:"routes"`
	Cluster *Cluster      `json:"cluster,omitempty"`
}

// CheckResult is one check's line in /readyz.
type CheckResult struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
	Note   string `json:"note,omitempty"`
}

const (
	// probeWithin bounds each check; they are made side by side, so that one that hangs takes nothing from the others.
	probeWithin = 3 * time.Second
	// routesWithin bounds telling how the routes are doing, which is there to be read and decides nothing.
	routesWithin = time.Second
	// probeKept is how long an answer serves further calls: many probes must not become a load of their own.
	probeKept = time.Second
)

// Handler answers GET /healthz (the process lives), /readyz (200 or 503, with reasons) and /metrics.
func Handler(c Config) http.Handler {
	a := &answerer{Config: c}
	r := mux.NewRouter()
	r.HandleFunc("/healthz", Healthz).Methods(http.MethodGet, http.MethodHead)
	r.HandleFunc("/readyz", a.readyz).Methods(http.MethodGet, http.MethodHead)
	r.Handle("/metrics", promhttp.HandlerFor(c.Gatherer, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(c.Logger.Handler(), slog.LevelError), ErrorHandling: promhttp.ContinueOnError,
	})).Methods(http.MethodGet)
	r.HandleFunc("/", index).Methods(http.MethodGet, http.MethodHead)
	return r
}

// Healthz says that the process lives and answers.
func Healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
}

func index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, "Tidewire, admin side.\n\n  /healthz  the process lives\n  /readyz   whether the hub can do its work, with reasons\n  /metrics  Prometheus metrics\n")
}

type answerer struct {
	Config
	mu   sync.Mutex
	last Readiness
	at   time.Time
}

func (a *answerer) readyz(w http.ResponseWriter, r *http.Request) {
	now := a.readiness(r.Context())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !now.Ready {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(now); err != nil {
		a.Logger.Debug("readyz answer not written", "error", err)
	}
}

func (a *answerer) readiness(ctx context.Context) Readiness {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) < probeKept {
		return a.last
	}
	// The answer serves later callers too: it must not depend on this one hanging on.
	ctx = context.WithoutCancel(ctx)
	// Lists are lists also when they are empty: whoever reads the JSON need not know null.
	now := Readiness{Ready: true, Version: a.Version, Checks: make([]CheckResult, len(a.Checks)), Routes: []RouteState{}}
	var asking sync.WaitGroup
	ask := func(within time.Duration, f func(ctx context.Context)) {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			f(ctx)
		})
	}
	for i, c := range a.Checks {
		ask(probeWithin, func(ctx context.Context) { now.Checks[i] = c.result(ctx) })
	}
	ask(routesWithin, func(ctx context.Context) { now.Routes = append(now.Routes, a.Routes(ctx)...) })
	if a.Config.Cluster != nil {
		ask(probeWithin, func(ctx context.Context) { now.Cluster = a.Config.Cluster(ctx) })
	}
	asking.Wait()
	for _, c := range now.Checks {
		now.Ready = now.Ready && c.OK
	}
	a.last, a.at = now, time.Now()
	return now
}

func (c Check) result(ctx context.Context) CheckResult {
	if err := c.Probe(ctx); err != nil {
		return CheckResult{Name: c.Name, Reason: err.Error()}
	}
	r := CheckResult{Name: c.Name, OK: true}
	if c.Note != nil {
		r.Note = c.Note()
	}
	return r
}
