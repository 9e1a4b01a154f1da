package pipeline

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// gate is what a delivery passes before each try: the route is not paused, its target is not resting, a slot is free, the rate limit
// agrees.
type gate struct {
	rest  *rest
	slots *slots
	limit *rate.Limiter // nil: none
	due   atomic.Int32  // parked deliveries that are under way

	mu     sync.Mutex
	paused string // why the route is paused, until the hub is started again; empty while it runs
}

// enter waits for everything and returns the function that reports how the try went (see rest.allow). A parked delivery
// gets the next slot that comes free: it is older than all that come fresh from the log.
func (g *gate) enter(ctx context.Context, parked bool) (leave func(verdict error), err error) {
	for {
		if err := g.ready(ctx); err != nil {
			return nil, err
		}
		if err := g.slots.take(ctx, parked); err != nil {
			return nil, err
		}
		if err := g.pace(ctx); err != nil {
			g.slots.give(false)
			return nil, err
		}
		done, ok := func() (func(error), bool) {
			// Both may have changed while we waited for the slot and the rate limit.
			if g.pausedFor() != "" {
				return nil, false
			}
			return g.rest.allow()
		}()
		if !ok {
			g.slots.give(false)
			continue
		}
		return func(verdict error) {
			done(verdict)
			g.slots.give(verdict == nil)
		}, nil
	}
}

// pace waits for the rate limit. Unlike the limiter's own Wait it does not fail ahead of time when ctx would end before the turn
// comes: whoever is sent back at once comes again at once.
func (g *gate) pace(ctx context.Context) error {
	if g.limit == nil {
		return nil
	}
	turn := g.limit.Reserve()
	if pause := turn.Delay(); pause > 0 && !sleep(ctx, pause) {
		turn.Cancel()
		return context.Cause(ctx)
	}
	return nil
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

// room is how many parked deliveries may be fetched for this route now: as many as there are free slots. A route that is
// always busy with fresh ones gives a quarter of its slots to those that come due.
func (g *gate) room() int {
	if g.pausedFor() != "" || g.rest.resting() {
		return 0
	}
	return max(g.slots.free(), g.slots.share()-int(g.due.Load()))
}
