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
	// Ready is called once, when the hub takes webhooks and its routes run, with the two addresses in use; may be nil.
	Ready func(listen, admin net.Addr)
}

// Serve runs a hub on a plan until ctx ends, and stops it gracefully: no new webhooks, no new tries, what is under way gets
// server.shutdown_timeout, everything is written. It returns an error when the hub could not start (ErrEnvironment
// where the plan is not to blame), could not go on, or did not stop in time.
func Serve(ctx context.Context, plan *Plan, o Options) (err error) {
	h := &hub{plan: plan, options: o, logger: o.Logger, registry: prometheus.NewRegistry()}
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
	pipeline        *pipeline.Pipeline
	servers         []*http.Server

	closers []closer // run last in, first out
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
	// Log is the durable log, and Store the ledger beside it.
	Log() pipeline.Log
	Store() ledger
	// Checks are what must be well for the hub to be ready.
	Checks() []admin.Check
	// Holds says which partitions this hub reads, by route; nil where it reads all.
	Holds() map[string]string
	// Cluster is who shares the work; nil where nobody does.
	Cluster(ctx context.Context) *admin.Cluster
	// Failed is closed when nothing can be written any more and the hub has to go at once; Err says why.
	Failed() <-chan struct{}
	Err() error
	// Run does until ctx ends what the mode does beside the routes.
	Run(ctx context.Context) error
	// Retain removes what has outlived its retention.
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
	log, ledger := h.storage.Log(), h.storage.Store()
	receivers := h.plan.receivers()
	topics := make([]string, 0, len(receivers))
	for name := range receivers {
		topics = append(topics, pipeline.EventsTopic(name))
	}
	if err := log.Ensure(ctx, topics...); err != nil {
		return fmt.Errorf("%w: create the log's topics: %w", ErrEnvironment, err)
	}
	var err error
	h.pipeline, err = pipeline.New(pipeline.Config{
		Log: log, Ledger: ledger, Census: ledger, Routes: h.plan.Routes, Logger: h.logger, Registerer: h.registry,
	})
	if err != nil {
		return err
	}
	server := h.plan.Config.Server
	ear, err := webhooks.New(webhooks.Config{
		Receivers: receivers, Intake: pipeline.NewIntake(log), Logger: h.logger, Registerer: h.registry,
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
	failed := make(chan error, 4)
	piped := make(chan struct{})
	parts.Go(func() {
		defer close(piped)
		if err := h.pipeline.Run(take, work); err != nil {
			failed <- fmt.Errorf("routes: %w", err)
		}
	})
	parts.Go(func() { h.retain(take) })
	parts.Go(func() {
		if err := h.storage.Run(take); err != nil {
			failed <- fmt.Errorf("storage: %w", err)
		}
	})
	defer parts.Wait()
	grace := h.plan.Config.Server.ShutdownTimeout.Std()
	select {
	case <-h.pipeline.Running():
	case <-piped:
		// Before parts.Wait, which the retention would never let through otherwise.
		stopTaking()
		return fmt.Errorf("%w: %w", ErrEnvironment, <-failed) // the plan has been checked
	case <-ctx.Done():
		// The routes may be waiting for a log that does not answer, for as long as that takes.
		h.logger.Info("hub is stopping before its routes run", "within", grace)
		defer time.AfterFunc(grace, func() { cut(errors.New("the hub has stopped waiting")) }).Stop()
		stopTaking()
		<-piped
		select {
		case err := <-failed:
			if !errors.Is(err, context.Canceled) {
				return err
			}
		default:
		}
		return nil
	}
	h.tellForgotten(work)
	for i, l := range []net.Listener{h.public, h.private} {
		parts.Go(func() {
			if err := h.servers[i].Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve on %s: %w", l.Addr(), err)
			}
		})
	}
	h.logger.Info("hub is ready", "listen", h.public.Addr().String(), "admin", h.private.Addr().String(),
		"connections", len(h.plan.Connections), "routes", len(h.plan.Routes), "version", h.options.Version)
	if h.options.Ready != nil {
		h.options.Ready(h.public.Addr(), h.private.Addr())
	}

	var err error
	select {
	case <-ctx.Done():
		h.logger.Info("hub is stopping", "within", grace)
	case <-h.storage.Failed():
		// What is not durable must not be answered, and nothing can be written down: be gone at once.
		err = fmt.Errorf("the store can no longer be trusted: %w", h.storage.Err())
		h.logger.Error("hub stops at once", "error", err)
		grace = 0
	case err = <-failed:
		h.logger.Error("hub stops", "error", err)
	}
	// A caller that dawdles may not use up what the deliveries need.
	stopping, cancel := context.WithTimeout(work, grace/2)
	defer cancel()
	// What remains after the grace is cut off; a second more lets it come back.
	late := time.AfterFunc(grace, func() { cut(errors.New("the hub has stopped waiting")) })
	defer late.Stop()
	h.stopServing(stopping, grace)
	stopTaking()
	<-piped
	select {
	case late := <-failed:
		err = errors.Join(err, late)
	default:
	}
	return err
}

// tellForgotten warns of parked deliveries whose route is not in the config any more: renamed or removed, nobody carries them.
func (h *hub) tellForgotten(ctx context.Context) {
	counts, err := h.storage.Store().Count(ctx)
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
	return append(h.storage.Checks(), admin.Check{Name: "routes", Probe: func(context.Context) error {
		select {
		case <-h.pipeline.Running():
			return nil
		default:
			return errors.New("the routes are starting")
		}
	}})
}

// routeStates is how the routes are doing. A lag that cannot be read is left at 0: the check of the log says why.
func (h *hub) routeStates(ctx context.Context) []admin.RouteState {
	var states []admin.RouteState
	holds := h.storage.Holds()
	for _, s := range h.pipeline.Status(ctx) {
		state := admin.RouteState{Route: s.Route, Target: s.Target, State: "running", LagEvents: s.Lag, Holds: holds[s.Route]}
		if !s.Oldest.IsZero() {
			state.LagSeconds = max(0, time.Since(s.Oldest).Seconds())
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
