package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// quietFor is how long what a hub waits for at its start may take before that is told.
	quietFor = 5 * time.Second
	// tellEvery is how often at most a hub says in its log what it waits for, and repeatEvery how often at least.
	tellEvery   = 10 * time.Second
	repeatEvery = time.Minute
	// Pauses between two tries.
	shortPause = 100 * time.Millisecond
	longPause  = 2 * time.Second
)

// waits are what a hub in cluster mode waits for at its start.
type waits struct {
	kafka, store *wait
	begun        chan struct{} // closed when either is found to be away
}

func newWaits(logger *slog.Logger) waits {
	begun := make(chan struct{})
	begin := sync.OnceFunc(func() { close(begun) })
	return waits{
		kafka: &wait{name: "Kafka", logger: logger, begin: begin},
		store: &wait{name: "PostgreSQL", logger: logger, begin: begin},
		begun: begun,
	}
}

// wait is one thing that is waited for.
type wait struct {
	name   string
	logger *slog.Logger
	begin  func() // called when there is something to wait for

	mu    sync.Mutex // guards the following
	err   error      // why it is waited for; nil: it is not, as far as is known
	since time.Time
	told  time.Time
	said  string
}

// until makes a step, again and again while what it fails for is away. It returns the step's error when that is of another kind, and ctx's when
// ctx has ended. While it waits, why says for what.
func (w *wait) until(ctx context.Context, away func(error) bool, step func(context.Context) error) error {
	for d := shortPause; ; d = min(2*d, longPause) {
		err := w.try(ctx, step)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			w.over()
			return nil
		case !away(err):
			return err
		}
		w.note(err)
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// try makes a step, and notes it when that takes long.
func (w *wait) try(ctx context.Context, step func(context.Context) error) error {
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		late := time.NewTimer(quietFor)
		defer late.Stop()
		select {
		case <-late.C:
			if w.why() == nil {
				w.note(fmt.Errorf("%s has not answered for %s", w.name, quietFor))
			}
		case <-done:
		}
	})
	defer watch.Wait()
	defer close(done)
	return step(ctx)
}

// why is what is waited for; nil when nothing is.
func (w *wait) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// note says that it is waited for, and tells so now and then.
func (w *wait) note(err error) {
	// Whose fault it is matters when a hub gives up; this one does not.
	if text, cut := strings.CutPrefix(err.Error(), ErrEnvironment.Error()+": "); cut {
		err = errors.New(text)
	}
	w.mu.Lock()
	now := time.Now()
	if w.err == nil {
		w.since = now
	}
	w.err = err
	text := err.Error()
	tell := w.told.IsZero() || text != w.said && now.Sub(w.told) >= tellEvery || now.Sub(w.told) >= repeatEvery
	if tell {
		w.told, w.said = now, text
	}
	since := w.since
	w.mu.Unlock()
	if tell {
		w.logger.Warn("the hub waits; it goes on by itself", "for", w.name, "since", since.UTC().Format(time.RFC3339), "error", text)
	}
	w.begin()
}

// over says that it is not waited for any more.
func (w *wait) over() {
	w.mu.Lock()
	since, waited := w.since, w.err != nil
	w.err, w.told = nil, time.Time{}
	w.mu.Unlock()
	if waited {
		w.logger.Info("what the hub waited for answers; it goes on", "for", w.name, "after", time.Since(since).Round(time.Millisecond))
	}
}
