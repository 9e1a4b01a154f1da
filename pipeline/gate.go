package pipeline

import (
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// gate is what a delivery passes before each try: the route is not paused, its target is not resting, a slot is free, the rate limit
// agrees.
type gate struct {
	rest  *rest
	slots *slots
	limit *rate.Limiter // nil: none

	mu     sync.Mutex
	paused string // why the route is paused, until the hub is started again; empty while it runs
}

// enter waits for everything and returns the function that reports how the try went (see rest.allow).
func (g *gate) enter(ctx context.Context) (leave func(verdict error), err error) {
	for {
		if err := g.ready(ctx); err != nil {
			return nil, err
		}
		if err := g.slots.take(ctx); err != nil {
			return nil, err
		}
		done, ok := func() (func(error), bool) {
			// Both may have changed while we waited for the slot.
			if g.pausedFor() != "" {
				return nil, false
			}
			return g.rest.allow()
		}()
		if !ok {
			g.slots.give(false)
			continue
		}
		if g.limit != nil {
			if err := g.limit.Wait(ctx); err != nil {
				done(errNoVerdict)
				g.slots.give(false)
				return nil, err
			}
		}
		return func(verdict error) {
			done(verdict)
			g.slots.give(verdict == nil)
		}, nil
	}
}

func (g *gate) ready(ctx context.Context) error {
	if g.pausedFor() != "" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return g.rest.ready(ctx)
}

// pause stops the route until the hub is started again. It reports whether the route was running.
func (g *gate) pause(reason string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused != "" {
		return false
	}
	g.paused = reason
	return true
}

// pausedFor returns why the route is paused; empty while it runs.
func (g *gate) pausedFor() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.paused
}

// room is how many parked deliveries may be fetched for this route now.
func (g *gate) room() int {
	if g.pausedFor() != "" || g.rest.resting() {
		return 0
	}
	return g.slots.free()
}
