package pgstore

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// A statement costs hub and database as much as some dozens of its rows. While batches are of crowd rows or more, which they are only when much
// is going on, a hand begins the next one no sooner than pace after the last one began, and what comes meanwhile shares it.
const (
	crowd = 8
	pace  = 4 * time.Millisecond
)

// gatherer makes batches of what waits while a statement is under way. A caller that finds a hand free goes at once, alone; only when much is
// going on does a hand wait for company.
type gatherer[T any] struct {
	most  int
	hands int
	run   func(ctx context.Context, batch []*call[T])
	under context.Context // what is under way; ends with abandon
	// abandon gives up what is under way and what waits.
	abandon context.CancelFunc

	mu      sync.Mutex
	waiting []*call[T]
	working int // hands that are awake
	closed  bool
	wake    chan struct{}
	done    sync.WaitGroup
}

// call is one caller's part of a batch. run fills in err and what v points to of results.
type call[T any] struct {
	v    T
	err  error
	done chan struct{}
}

// gather starts the hands of a gatherer. run is called with 1 to most calls at a time, from that many goroutines.
func gather[T any](hands, most int, run func(ctx context.Context, batch []*call[T])) *gatherer[T] {
	g := &gatherer[T]{most: most, hands: hands, run: run, wake: make(chan struct{}, hands)}
	g.under, g.abandon = context.WithCancel(context.Background()) //nolint:gosec // close calls it
	for range hands {
		g.done.Go(g.work)
	}
	return g
}

// do hands v in and waits for its batch. When ctx ends first, whether v was done is unknown, and a hand may still write to it.
func (g *gatherer[T]) do(ctx context.Context, v T) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &call[T]{v: v, done: make(chan struct{})}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return errClosed
	}
	g.waiting = append(g.waiting, c)
	// A second hand is worth its connection, and its smaller batches, only when the first has a full one to come.
	if g.working == 0 || g.working < g.hands && len(g.waiting) >= g.most/4*g.working {
		g.working++
		g.wake <- struct{}{}
	}
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gatherer[T]) work() {
	for range g.wake {
		runtime.Gosched() // whoever is ready to call as well comes along
		for batch := g.take(); len(batch) > 0; batch = g.take() {
			began := time.Now()
			g.run(g.under, batch) // the callers' contexts end their waiting alone
			for _, c := range batch {
				close(c.done)
			}
			if left := time.Until(began.Add(pace)); len(batch) >= crowd && left > 0 {
				select {
				case <-time.After(left):
				case <-g.under.Done():
				}
			}
		}
	}
}

// take removes a batch from what waits; none means that the hand may rest.
func (g *gatherer[T]) take() []*call[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), g.most)
	if n == 0 {
		g.working--
		g.waiting = nil
		return nil
	}
	batch := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	return batch
}

// close lets what waits be done, and refuses what comes.
func (g *gatherer[T]) close() {
	g.mu.Lock()
	closed := g.closed
	g.closed = true
	g.mu.Unlock()
	if !closed {
		close(g.wake)
	}
	g.done.Wait()
	g.abandon() // nothing is left of it
}
