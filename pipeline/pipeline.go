// Package pipeline is the heart of Tidewire: events go from the durable log along the routes into the target systems. A route is a
// consumer group on the log; what is tried, retried, parked and given up is decided in deliver.go, once.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is what a Pipeline is made of.
type Config struct {
	Log    Log
	Ledger Ledger
	Census Census
	Routes []Route
	Logger *slog.Logger
	// Registerer takes the metrics.
	Registerer prometheus.Registerer
	// CloseTimeout bounds how long Run waits for its parts once take has ended, whether work ends or not; default 1 minute.
	CloseTimeout time.Duration
}

// Pipeline carries events along routes while Run runs.
type Pipeline struct {
	log     Log
	ledger  Ledger
	logger  *slog.Logger
	within  time.Duration
	runners map[string]*runner
	rests   map[string]*rest // by target
	running chan struct{}
	freed   chan struct{} // a parked delivery has been carried: the next of its key may be due
	parked  hands
}

// New checks the config and prepares the routes. It does no I/O.
func New(c Config) (*Pipeline, error) {
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("pipeline metrics: %w", err)
	}
	if err := c.Registerer.Register(newBacklog(c.Log, c.Census, c.Routes)); err != nil {
		return nil, fmt.Errorf("pipeline metrics: %w", err)
	}
	p := &Pipeline{
		log: c.Log, ledger: c.Ledger, logger: c.Logger, within: c.CloseTimeout,
		runners: make(map[string]*runner, len(c.Routes)), rests: make(map[string]*rest), running: make(chan struct{}),
		freed: make(chan struct{}, 1),
	}
	if p.within <= 0 {
		p.within = time.Minute
	}
	longest := make(map[string]time.Duration)
	for _, r := range c.Routes {
		longest[r.To] = max(longest[r.To], r.Timeout)
	}
	for _, r := range c.Routes {
		if p.runners[r.Name] != nil {
			return nil, fmt.Errorf("two routes are named %s", r.Name)
		}
		if p.rests[r.To] == nil {
			p.rests[r.To] = newRest(r.To, longest[r.To], p.onRest(r.To, m.breaker.WithLabelValues(r.To)))
		}
		p.runners[r.Name] = p.newRunner(r, p.rests[r.To], m.route(r.Name))
	}
	return p, nil
}

// onRest makes what happens when a target goes to rest, is probed, or is well again.
func (p *Pipeline) onRest(target string, gauge prometheus.Gauge) func(string) {
	return func(state string) {
		switch state {
		case "open":
			gauge.Set(1)
			p.logger.Warn("target is resting: its routes hold what they have", "target", target)
			for _, r := range p.runners {
				if r.To == target {
					r.gate.slots.restart()
				}
			}
		case "half-open":
			gauge.Set(0.5)
		default:
			gauge.Set(0)
			p.logger.Info("target answers again: its routes start slowly", "target", target)
		}
	}
}

// Topics are all the topics the routes read and write.
func (p *Pipeline) Topics() []string {
	var topics []string
	for _, r := range p.runners {
		topics = append(topics, DeadTopic(r.Name))
		for _, source := range r.From {
			topics = append(topics, EventsTopic(source))
		}
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// Run carries events until take ends, then waits for the tries that are under way. When work ends, those are cut off too: what is not
// settled by then comes again at the next start. take must derive from work. It returns an error when the routes could not be started, or when
// something did not come to an end within CloseTimeout.
func (p *Pipeline) Run(take, work context.Context) error {
	if err := p.log.Ensure(take, p.Topics()...); err != nil {
		return fmt.Errorf("create the log's topics: %w", err)
	}
	in := reach{take: take, work: work}
	router, err := p.newRouter(in)
	if err != nil {
		return err
	}
	ended, retried := make(chan error, 1), make(chan struct{})
	// Not take: Watermill would cancel the messages in hand before they are drained.
	go func() { ended <- router.Run(work) }()
	select {
	case <-router.Running():
	case err := <-ended:
		return fmt.Errorf("start the routes: %w", err)
	}
	go func() {
		defer close(retried)
		p.retryParked(in)
	}()
	close(p.running)
	<-take.Done()
	late := time.After(p.within)
	err = errors.Join(router.Close(), <-ended)
	select {
	case <-retried:
	case <-late:
		err = errors.Join(err, fmt.Errorf("retries were still under way after %s", p.within))
	}
	return err
}

// Running is closed once every route takes events.
func (p *Pipeline) Running() <-chan struct{} { return p.running }

func (p *Pipeline) newRouter(in reach) (*message.Router, error) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: p.within}, newRouterLog(p.logger))
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	for _, r := range p.runners {
		sub, err := p.log.Subscriber(Subscription{
			Group: r.Name, InHand: r.inHand(), Key: r.key, Match: r.match, FromEnd: r.FromEnd,
		})
		if err != nil {
			return nil, fmt.Errorf("route %s: open its place in the log: %w", r.Name, err)
		}
		for _, source := range r.From {
			router.AddConsumerHandler(r.Name+" from "+source, EventsTopic(source), sub,
				func(m *message.Message) error { return r.handle(in, m) })
		}
	}
	return router, nil
}

// Status is what a route is doing, for readyz and people.
type Status struct {
	Route, Target string
	// Paused says why the route is paused; empty when it is not.
	Paused string
	// Resting: the target's breaker is open.
	Resting bool
	// Lag is how many records the route has not finished; Oldest is when the oldest of them was appended, zero when there are
	// none. They say nothing unless Known: the log could be asked.
	Known  bool
	Lag    int64
	Oldest time.Time
}

// Status lists the routes by name.
func (p *Pipeline) Status(ctx context.Context) []Status {
	all := make([]Status, 0, len(p.runners))
	for _, r := range p.runners {
		s := Status{Route: r.Name, Target: r.To, Paused: r.gate.pausedFor(), Resting: p.rests[r.To].resting()}
		if n, oldest, err := lagOf(ctx, p.log, r.Route); err == nil {
			s.Known, s.Lag, s.Oldest = true, n, oldest
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int {
		if a.Route < b.Route {
			return -1
		}
		return 1
	})
	return all
}
