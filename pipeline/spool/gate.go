package spool

import (
	"context"
	"sync"
	"time"
)

// calm is how long after a confirmed record a failure is that record's own trouble, such as a partition without a leader, and not taken for the
// log's.
const calm = time.Second

// gate lets drained records through while the shared log confirms any, and one call at a time, its scout, while it does not.
type gate struct {
	turn    chan struct{} // hands a turn to one scout
	verdict chan struct{} // the scout's record failed

	mu     sync.Mutex
	passed time.Time     // the last confirmation
	open   chan struct{} // closed while the gate is open
	closed chan struct{} // closed while it is shut
}

func newGate() *gate {
	g := &gate{turn: make(chan struct{}), verdict: make(chan struct{}, 1), open: make(chan struct{}), closed: make(chan struct{})}
	close(g.open)
	return g
}

// shut returns a channel that is closed when the gate is.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// opened returns a channel that is closed when the gate is open.
func (g *gate) opened() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *gate) isShut() bool {
	select {
	case <-g.shut():
		return true
	default:
		return false
	}
}

// pass notes that the log has answered for a record, which opens the gate.
func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passed = time.Now()
	select {
	case <-g.open:
	default:
		close(g.open)
		g.closed = make(chan struct{})
	}
}

// fail notes that a record was not confirmed, which shuts the gate unless others have been confirmed just now.
func (g *gate) fail() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		return
	}
	if g.passed.IsZero() || time.Since(g.passed) > calm {
		close(g.closed)
		g.open = make(chan struct{})
	}
}

// enter waits until the gate is open, or for a turn as its scout, who must tell.
func (g *gate) enter(ctx context.Context) (scout bool, err error) {
	select {
	case <-g.opened():
		return false, nil
	case <-g.turn:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// tell is the end of a scout's turn that did not open the gate.
func (g *gate) tell() {
	select {
	case g.verdict <- struct{}{}:
	default:
	}
}

// Delays between one scout and the next, and of a record that failed alone.
const (
	soonest = 100 * time.Millisecond
	latest  = 2 * time.Second
)

// watch sends a scout now and then while the gate is shut, until ctx ends. idle is called when the log answers and nobody
// wants to be the scout.
func (g *gate) watch(ctx context.Context, reachable func(context.Context) error, idle func()) {
	for {
		select {
		case <-g.shut():
		case <-ctx.Done():
			return
		}
		for delay := time.Duration(0); g.isShut(); delay = min(max(2*delay, soonest), latest) {
			if !pause(ctx, delay) {
				return
			}
			g.scout(ctx, reachable, idle)
		}
	}
}

// scout is one try. It returns when its outcome is known.
func (g *gate) scout(ctx context.Context, reachable func(context.Context) error, idle func()) {
	asking, cancel := context.WithTimeout(ctx, probeWithin)
	err := reachable(asking)
	cancel()
	if err != nil {
		return
	}
	nobody := time.NewTimer(soonest)
	defer nobody.Stop()
	opened := g.opened()
	select {
	case <-g.verdict: // of a turn that was given up
	default:
	}
	select {
	case g.turn <- struct{}{}:
	case <-nobody.C:
		idle()
		return
	case <-opened:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-g.verdict:
	case <-opened:
	case <-ctx.Done():
	}
}

// pause waits, and reports false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
