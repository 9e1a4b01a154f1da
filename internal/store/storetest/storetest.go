// Package storetest is the contract of the hub's store as a suite that every implementation runs. An implementation declares
// in Features what it promises beyond the common part, and the suite tests exactly that.
package storetest

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// Ledger is what the suite runs: the pipeline's contracts, and what people and audits see.
type Ledger interface {
	pipeline.Ledger
	pipeline.Census
	Dead(ctx context.Context, route string, limit int) ([]store.DeadLetter, error)
	Deliveries(ctx context.Context, f store.Filter) ([]store.Entry, error)
	Balance(ctx context.Context) (map[string]map[pipeline.State]int64, error)
	Retain(ctx context.Context, before time.Time) (removed int64, err error)
	RetainDead(ctx context.Context, before time.Time) (removed int64, err error)
}

// Features are what implementations differ in.
type Features struct {
	// MatchesByID: the same event ID of the same source at another place in the log is known, too. An implementation leaves it
	// out when its log holds an event ID once.
	MatchesByID bool
	// LeasesEndOnOpen: opening ends all leases, because whoever had them is gone: one process owns the store.
	LeasesEndOnOpen bool
}

// Opener opens the ledger whose state is kept under dir, an empty directory at first, and returns what closes it.
// The suite opens a directory again after closing it, and finds there what was written.
type Opener func(tb testing.TB, dir string) (ledger Ledger, closeIt func())

// promise is one thing the contract says, and the test of it.
type promise struct {
	name string
	keep func(s *stage)
}

func promises() []promise {
	return slices.Concat(admitPromises, settlePromises, duePromises, leasePromises, recordPromises, historyPromises)
}

// Run tests every promise, each as a subtest.
func Run(t *testing.T, f Features, open Opener) {
	t.Helper()
	for _, p := range promises() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.keep(newStage(t, f, open))
		})
	}
}

// Broken runs the promises whose names begin so (all for "") and returns the names of those that the ledger does not keep,
// without failing tb: the suite's own test, for ledgers that are wrong on purpose.
func Broken(tb testing.TB, f Features, open Opener, begin string) []string {
	tb.Helper()
	var names []string
	for _, p := range promises() {
		if !strings.HasPrefix(p.name, begin) {
			continue
		}
		if r := judge(tb, func(r testing.TB) { p.keep(newStage(r, f, open)) }); r.Failed() {
			names = append(names, p.name)
		}
	}
	return names
}

// judge runs a test on its own goroutine, because FailNow ends the goroutine it is called on.
func judge(tb testing.TB, test func(testing.TB)) *recorder {
	r := &recorder{TB: tb}
	var done sync.WaitGroup
	done.Go(func() {
		defer r.cleanup()
		test(r)
	})
	done.Wait()
	return r
}

// recorder is a testing.TB that remembers a failure instead of passing it on.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

func (r *recorder) cleanup() {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
}

// Cleanup keeps f until the promise's test is over, instead of the whole test's end.
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

// Fail remembers.
func (r *recorder) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

// Failed tells.
func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// FailNow remembers and ends the test's goroutine.
func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

// Error and its like remember and say nothing.
func (r *recorder) Error(...any)          { r.Fail() }
func (r *recorder) Errorf(string, ...any) { r.Fail() }
func (r *recorder) Fatal(...any)          { r.FailNow() }
func (r *recorder) Fatalf(string, ...any) { r.FailNow() }
func (r *recorder) Log(...any)            {}
func (r *recorder) Logf(string, ...any)   {}
