// Package webhooks is the ear: the public HTTP face of a hub. It takes a provider's call at /in/{connection}, reads
// its bytes once under limits, has the connection verify exactly those bytes, hands the events it finds to the
// intake and answers only when they are durable. It knows no provider: what is peculiar to one (its
// signature, its words of thanks, its handshake) is behind the connectors' interfaces.
//
// The order of work is fixed, and each step costs more than the one before: route, method, rate, length,
// body, signature, handshake, events, intake. Nothing that remembers anything happens before the signature has been judged.
package webhooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
)

// Defaults of Config's fields.
const (
	DefaultMaxBody    = 1 << 20
	DefaultBodyMemory = 16 << 20
	DefaultRetryAfter = 5 * time.Second
)

// Intake is where events go.
type Intake interface {
	// Accept returns nil only when every event is durable, or was so before: the same ID with the same body. An error
	// with a method Conflict() bool that returns true says that an ID is known with another body, one with
	// Refused() bool that nothing was stored and never will be (too large). Any other error: the provider shall come again.
	// The intake keeps the events' bodies without copying them.
	Accept(ctx context.Context, events ...event.Event) error
}

// Config says what an Ear listens for.
type Config struct {
	// Receivers by the name of their connection: a call to /in/NAME is Receivers[NAME]'s.
	Receivers map[string]connectors.Receiver
	// Intake takes the events. Required.
	Intake Intake
	// Logger is told of refusals and of the hub's own failures. Required.
	Logger *slog.Logger
	// Registerer takes the metrics; nil registers them nowhere.
	Registerer prometheus.Registerer
	// TrustedProxies are the peers whose X-Forwarded-For is believed. Default: none, the peer is the caller.
	TrustedProxies []netip.Prefix
	// BodyMemory bounds, in bytes, what bodies of more than 64 KiB may hold at one time; further large ones wait, small
	// ones never do. Default 16 MiB.
	BodyMemory int64
	// RetryAfter is what a provider is told to wait when its events could not be made durable; whole seconds. Default 5 s.
	RetryAfter time.Duration
	// Now is the hub's clock, against which signatures' timestamps are judged. Default time.Now.
	Now func() time.Time
}

// Ear receives webhooks. Safe for concurrent use; it holds no goroutine of its own.
type Ear struct {
	doors   map[string]*door
	unknown counters
	intake  Intake
	logger  *slog.Logger
	proxies []netip.Prefix
	now     func() time.Time
	memory  *semaphore.Weighted
	// memorySize is memory's whole weight: nobody may ask for more.
	memorySize int64
	spare      sync.Pool // *[]byte: memory of large bodies that nobody holds any more

	unavailable, unready connectors.Reply
}

// New makes an Ear. It registers its metrics with c.Registerer; an Ear that follows another with the same registerer goes on counting where
// that one stopped.
func New(c Config) (*Ear, error) {
	switch {
	case c.Intake == nil:
		return nil, errors.New("webhooks: no intake")
	case c.Logger == nil:
		return nil, errors.New("webhooks: no logger")
	}
	if c.BodyMemory <= 0 {
		c.BodyMemory = DefaultBodyMemory
	}
	if c.RetryAfter <= 0 {
		c.RetryAfter = DefaultRetryAfter
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("webhooks: metrics: %w", err)
	}
	wait := strconv.Itoa(int(max(c.RetryAfter, time.Second).Round(time.Second) / time.Second))
	e := &Ear{
		doors:       make(map[string]*door, len(c.Receivers)),
		unknown:     m.counters(""),
		intake:      c.Intake,
		logger:      c.Logger,
		proxies:     c.TrustedProxies,
		now:         c.Now,
		memory:      semaphore.NewWeighted(c.BodyMemory),
		memorySize:  c.BodyMemory,
		unavailable: problem(http.StatusServiceUnavailable, "not stored: send it again", "Retry-After", wait),
		unready:     problem(http.StatusServiceUnavailable, "too many large calls at once: send it again", "Retry-After", wait),
	}
	for name, r := range c.Receivers {
		if r == nil || name == "" {
			return nil, fmt.Errorf("webhooks: connection %q has no receiver", name)
		}
		e.doors[name] = newDoor(name, r, m)
	}
	return e, nil
}

// Handler serves /in/{connection}: the methods that a connection's deliveries come by, mostly POST alone, and those of its handshake where it has
// one; and GET /healthz, which says no more than that the process answers. Every path is matched as it came: nothing is cleaned, nothing redirected.
func (e *Ear) Handler() http.Handler {
	r := mux.NewRouter().SkipClean(true)
	r.HandleFunc("/in/{connection}", e.receive)
	r.HandleFunc("/healthz", healthz).Methods(http.MethodGet, http.MethodHead)
	r.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.unknown[unsupported].Inc()
		write(w, noPath)
	})
	r.MethodNotAllowedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.unknown[unsupported].Inc()
		write(w, problem(http.StatusMethodNotAllowed, "method not allowed", "Allow", "GET, HEAD"))
	})
	return r
}

func healthz(w http.ResponseWriter, _ *http.Request) {
	write(w, connectors.Reply{Status: http.StatusOK, ContentType: "text/plain; charset=utf-8", Body: []byte("ok\n")})
}
