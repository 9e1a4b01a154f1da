package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tidewire/tidewire/internal/admin"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/webhooks"
)

// ErrEnvironment marks what is wrong around the hub and not in its config: a port that is taken, a data_dir that cannot be written or that another hub holds.
var ErrEnvironment = errors.New("the environment")

// Options of Serve.
type Options struct {
	Version string
	Logger  *slog.Logger
	// Listening is called once, when both doors answer, with their addresses; may be nil. In cluster mode that may be before Ready: while Kafka or
	// PostgreSQL is waited for, webhooks go into the spool, or are answered 503 where there is none.
	Listening func(listen, admin net.Addr)
	// Ready is called once, when the hub takes webhooks and its routes run, with the same addresses; may be nil.
	Ready func(listen, admin net.Addr)
}

// Serve runs a hub on a plan until ctx ends, and stops it gracefully: no new webhooks, no new tries, what is under way gets
// server.shutdown_timeout, everything is written. It returns an error when the hub could not start (ErrEnvironment
// where the plan is not to blame), could not go on, or did not stop in time.
func Serve(ctx context.Context, plan *Plan, o Options) (err error) {
	h := newHub(plan, o)
	defer func() { err = errors.Join(err, h.close()) }()
	for _, step := range []func(context.Context) error{h.listen, h.openStorage, h.build} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return h.run(ctx)
}

// hub is one running hub: what lives as long as the process.
type hub struct {
	plan     *Plan
	options  Options
	logger   *slog.Logger
	registry *prometheus.Registry

	public, private net.Listener
	storage         storage
	pipeline        atomic.Pointer[pipeline.Pipeline] // nil until the storage is connected
	running         chan struct{}                     // closed when the routes run
	servers         []*http.Server

	closers []closer // run last in, first out
}

func newHub(plan *Plan, o Options) *hub {
	return &hub{plan: plan, options: o, logger: o.Logger, registry: prometheus.NewRegistry(), running: make(chan struct{})}
}

type closer struct {
	name  string
	close func() error
}

func (h *hub) onClose(name string, f func() error) { h.closers = append(h.closers, closer{name, f}) }

func (h *hub) close() error {
	var errs []error
	for _, c := range slices.Backward(h.closers) {
		if err := c.close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", c.name, err))
		}
	}
	h.closers = nil
	return errors.Join(errs...)
}

// listen takes the ports before anything is opened: a hub that cannot listen should not touch the data of one that does.
func (h *hub) listen(ctx context.Context) error {
	server := h.plan.Config.Server
	for _, l := range []struct {
		key, address string
		to           *net.Listener
	}{{"server.listen", server.Listen, &h.public}, {"server.admin", server.Admin, &h.private}} {
		var lc net.ListenConfig
		listener, err := lc.Listen(ctx, "tcp", l.address)
		if err != nil {
			return fmt.Errorf("%w: %s: cannot listen on %s: %w; stop what uses the port or choose another", ErrEnvironment, l.key, l.address, err)
		}
		*l.to = listener
		h.onClose(l.key, func() error {
			if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

// storage is what a hub keeps its log and its store in: one of the two modes.
type storage interface {
	// Log is the durable log. It may be published to at once.
	Log() pipeline.Log
	// Connect returns when events can be carried: what is beyond this machine is there and fits, and the topics exist. An error is final.
	Connect(ctx context.Context) error
	// Begun is closed when Connect has to wait for what is away. Missing says for what, nil when for nothing, and whether events are kept meanwhile.
	Begun() <-chan struct{}
	Missing() (why error, bridged bool)
	// Store is the ledger beside the log, once Connect has returned.
	Store() ledger
	// Checks are what must be well for the hub to be ready.
	Checks() []admin.Check
	// Holds says which partitions this hub reads, and how it stands in sharing them, by route; nil where it reads all.
	Holds() map[string]admin.Group
	// Cluster is who shares the work; nil where nobody does.
	Cluster(ctx context.Context) *admin.Cluster
	// Failed is closed when nothing can be written any more and the hub has to go at once; Err says why.
	Failed() <-chan struct{}
	Err() error
	// Run does until ctx ends what the mode does beside the routes, from before Connect on.
	Run(ctx context.Context) error
	// Retain removes what has outlived its retention, once Connect has returned.
	Retain(ctx context.Context) error
}

// damagedRecords counts what a log passes over.
func (h *hub) damagedRecords() prometheus.Counter {
	damaged := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "tidewire_log_damaged_records_total", Help: "Log records that are damaged and were passed over; the hub's log says where.",
	})
	h.registry.MustRegister(damaged)
	return damaged
}

// ledger is what the hub needs of the store.
type ledger interface {
	pipeline.Ledger
	pipeline.Census
}

func (h *hub) openStorage(ctx context.Context) (err error) {
	if h.plan.Config.Cluster != nil {
		h.storage, err = h.openCluster(ctx)
	} else {
		h.storage, err = h.openEmbedded(ctx)
	}
	return err
}

func (h *hub) build(ctx context.Context) error {
	h.onClose("connections", h.plan.Close)
	h.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	h.retentions(h.plan.Config.Retention)
	receivers := h.plan.receivers()
	server := h.plan.Config.Server
	ear, err := webhooks.New(webhooks.Config{
		Receivers: receivers, Intake: pipeline.NewIntake(h.storage.Log()), Logger: h.logger, Registerer: h.registry,
		TrustedProxies: server.TrustedProxies,
	})
	if err != nil {
		return err
	}
	if h.public, err = webhooks.NewListener(h.public, webhooks.ListenerConfig{
		MaxConnections: server.MaxConnections, TrustedProxies: server.TrustedProxies, Registerer: h.registry,
	}); err != nil {
		return err
	}
	secure, err := h.publicTLS()
	if err != nil {
		return err
	}
	if secure != nil {
		h.public = tls.NewListener(h.public, secure)
	}
	h.servers = []*http.Server{
		webhooks.NewServer(ear.Handler(), h.logger, secure),
		{
			Handler: admin.Handler(admin.Config{
				Checks: h.checks(), Routes: h.routeStates, Cluster: h.storage.Cluster, Gatherer: h.registry, Version: h.options.Version, Logger: h.logger,
			}),
			ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 32 << 10,
			ErrorLog: slog.NewLogLogger(h.logger.Handler(), slog.LevelDebug),
		},
	}
	return nil
}

// run starts everything, waits for the end, and stops in order: the ear first, so that what it answered is carried; then the routes.
func (h *hub) run(ctx context.Context) error {
	work, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	take, stopTaking := context.WithCancel(work)
	defer stopTaking()

	var parts sync.WaitGroup
	failed := make(chan error, 5)
	piped := make(chan struct{})
	parts.Go(func() {
		defer close(piped)
		if err := h.carry(take, work, &parts); err != nil {
			failed <- err
		}
	})
	parts.Go(func() {
		if err := h.storage.Run(take); err != nil {
			failed <- fmt.Errorf("storage: %w", err)
		}
	})
	defer parts.Wait()
	grace := h.plan.Config.Server.ShutdownTimeout.Std()
	select {
	case <-h.running:
	case <-h.storage.Begun():
	case <-piped:
		// Before parts.Wait, which what runs beside the routes would never let through otherwise.
		stopTaking()
		return <-failed
	case <-ctx.Done():
		// The routes may be waiting for a log that does not answer, for as long as that takes.
		h.logger.Info("hub is stopping before its routes run", "within", grace)
		defer time.AfterFunc(grace, func() { cut(errors.New("the hub has stopped waiting")) }).Stop()
		stopTaking()
		<-piped
		return late(failed)
	}
	h.serve(&parts, failed)
	err := h.last(ctx, failed)
	if errors.Is(err, errUntrusted) {
		grace = 0
	}
	// A caller that dawdles may not use up what the deliveries need.
	stopping, cancel := context.WithTimeout(work, grace/2)
	defer cancel()
	// What remains after the grace is cut off; a second more lets it come back.
	defer time.AfterFunc(grace, func() { cut(errors.New("the hub has stopped waiting")) }).Stop()
	h.stopServing(stopping, grace)
	stopTaking()
	<-piped
	return errors.Join(err, late(failed))
}

// late is what failed last; nil when nothing did.
func late(failed <-chan error) error {
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// carry connects to what is beyond this machine and carries events until take ends; see Pipeline.Run. What has to be done now and then beside it becomes one
// of parts.
func (h *hub) carry(take, work context.Context, parts *sync.WaitGroup) error {
	if err := h.storage.Connect(take); err != nil {
		if take.Err() != nil {
			return nil //nolint:nilerr // it was asked to end before it had begun
		}
		return err
	}
	ledger := h.storage.Store()
	p, err := pipeline.New(pipeline.Config{
		Log: h.storage.Log(), Ledger: ledger, Census: ledger, Routes: h.plan.Routes, Logger: h.logger, Registerer: h.registry,
	})
	if err != nil {
		return err
	}
	h.pipeline.Store(p)
	parts.Go(func() {
		select {
		case <-p.Running():
		case <-take.Done():
			return
		}
		close(h.running)
		h.tellForgotten(take)
		h.retain(take)
	})
	err = p.Run(take, work)
	select {
	case <-p.Running():
	default:
		if err != nil && take.Err() == nil {
			return fmt.Errorf("%w: routes: %w", ErrEnvironment, err) // the plan has been checked
		}
		if errors.Is(err, context.Canceled) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	return nil
}

// serve opens both doors.
func (h *hub) serve(parts *sync.WaitGroup, failed chan<- error) {
	for i, l := range []net.Listener{h.public, h.private} {
		parts.Go(func() {
			if err := h.servers[i].Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve on %s: %w", l.Addr(), err)
			}
		})
	}
	if h.options.Listening != nil {
		h.options.Listening(h.public.Addr(), h.private.Addr())
	}
	if why, bridged := h.storage.Missing(); why != nil {
		at := []any{"listen", h.public.Addr().String(), "admin", h.private.Addr().String(), "until", why}
		if bridged {
			h.logger.Warn("hub takes webhooks and delivers nothing yet", at...)
		} else {
			h.logger.Warn("hub delivers nothing yet, and answers webhooks 503 until Kafka takes them", at...)
		}
	}
}

// errUntrusted marks that nothing can be written any more.
var errUntrusted = errors.New("the store can no longer be trusted")

// last says when the routes run, and returns when the hub has to end, with the reason; nil when it was asked to.
func (h *hub) last(ctx context.Context, failed <-chan error) error {
	for running := h.running; ; {
		select {
		case <-running:
			running = nil
			h.logger.Info("hub is ready", "listen", h.public.Addr().String(), "admin", h.private.Addr().String(),
				"connections", len(h.plan.Connections), "routes", len(h.plan.Routes), "version", h.options.Version)
			if h.options.Ready != nil {
				h.options.Ready(h.public.Addr(), h.private.Addr())
			}
		case <-ctx.Done():
			h.logger.Info("hub is stopping", "within", h.plan.Config.Server.ShutdownTimeout.Std())
			return nil
		case <-h.storage.Failed():
			// What is not durable must not be answered, and nothing can be written down: be gone at once.
			err := fmt.Errorf("%w: %w", errUntrusted, h.storage.Err())
			h.logger.Error("hub stops at once", "error", err)
			return err
		case err := <-failed:
			h.logger.Error("hub stops", "error", err)
			return err
		}
	}
}

// tellForgotten warns of parked deliveries whose route is not in the config any more: renamed or removed, nobody carries them.
func (h *hub) tellForgotten(ctx context.Context) {
	counts, err := h.storage.Store().Count(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		h.logger.Error("what is parked cannot be counted", "error", err)
		return
	}
	for _, r := range h.plan.Routes {
		delete(counts, r.Name)
	}
	for route, n := range counts {
		if n.Parked > 0 {
			h.logger.Warn("deliveries are parked on a route that the config does not have; they are kept until it has one of that name again",
				"route", route, "parked", n.Parked, "since", n.OldestParked)
		}
	}
}

// stopServing lets calls that are being answered finish, within the context.
func (h *hub) stopServing(ctx context.Context, grace time.Duration) {
	for _, s := range h.servers {
		if grace == 0 || s.Shutdown(ctx) != nil {
			_ = s.Close() // connections that hang on are cut
		}
	}
}

// checks are what must be well for the hub to be ready.
func (h *hub) checks() []admin.Check {
	return append(h.storage.Checks(), admin.Check{Name: "routes", Probe: h.probeRoutes, Note: h.routesNote})
}

// probeRoutes says why the routes do not run yet. Where events are kept meanwhile that is no reason not to be given any, as it is none when the
// log goes away later; what else is missing is for the other checks to tell.
func (h *hub) probeRoutes(context.Context) error {
	select {
	case <-h.running:
		return nil
	default:
	}
	switch why, bridged := h.storage.Missing(); {
	case why == nil:
		return errors.New("the routes are starting")
	case !bridged:
		return fmt.Errorf("the routes wait: %w", why)
	}
	return nil
}

func (h *hub) routesNote() string {
	if why, _ := h.storage.Missing(); why != nil {
		return "the routes wait: " + why.Error()
	}
	return ""
}

// routeStates is how the routes are doing.
func (h *hub) routeStates(ctx context.Context) []admin.RouteState {
	states := []admin.RouteState{}
	p := h.pipeline.Load()
	if p == nil {
		for _, r := range h.plan.Routes {
			states = append(states, admin.RouteState{Route: r.Name, Target: r.To, State: "waiting", Reason: "the hub is starting; the checks say what it waits for"})
		}
		return states
	}
	holds := h.storage.Holds()
	for _, s := range p.Status(ctx) {
		state := admin.RouteState{Route: s.Route, Target: s.Target, State: "running", Group: holds[s.Route]}
		if s.Known {
			var seconds float64
			if !s.Oldest.IsZero() {
				seconds = max(0, time.Since(s.Oldest).Seconds())
			}
			state.LagEvents, state.LagSeconds = &s.Lag, &seconds
		}
		switch {
		case s.Paused != "":
			state.State, state.Reason = "paused", s.Paused
		case s.Resting:
			state.State, state.Reason = "resting", "the target does not answer; it is probed every few seconds"
		}
		states = append(states, state)
	}
	return states
}
