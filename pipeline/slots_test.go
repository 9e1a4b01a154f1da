package pipeline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlotsBoundWhatIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(3)
		var now, most atomic.Int32
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := s.take(t.Context(), false); err != nil {
					t.Error(err)
					return
				}
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(time.Second) // in a bubble: the bubble's time
				now.Add(-1)
				s.give(true)
			})
		}
		wg.Wait()
		if most.Load() != 3 {
			t.Errorf("at most %d were taken at once, want 3", most.Load())
		}
		if s.free() != 3 {
			t.Errorf("%d slots are free at the end, want 3", s.free())
		}
	})
}

func TestSlotsStartSlowlyAfterRestart(t *testing.T) {
	t.Parallel()
	s := newSlots(4)
	s.restart()
	for want := 1; want <= 4; want++ {
		if got := s.free(); got != want {
			t.Fatalf("%d slots are free, want %d", got, want)
		}
		if err := s.take(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		s.give(true)
	}
	if err := s.take(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	s.give(true)
	if s.free() != 4 {
		t.Errorf("%d slots are free, more than the route's concurrency", s.free())
	}
}

func TestSlotsDoNotGrowOnFailure(t *testing.T) {
	t.Parallel()
	s := newSlots(4)
	s.restart()
	if err := s.take(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	s.give(false)
	if s.free() != 1 {
		t.Errorf("%d slots are free after a failure, want 1", s.free())
	}
}

func TestSlotsLoseNothingToThoseWhoLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		if err := s.take(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := s.take(ctx, false); err == nil {
					s.give(true)
				} else if !errors.Is(err, gone) {
					t.Errorf("got %v, want the context's cause", err)
				}
			})
		}
		synctest.Wait()
		// Both at the same moment: some may get the slot and must hand it on.
		go s.give(true)
		cancel(gone)
		wg.Wait()
		synctest.Wait()
		if s.free() != 1 {
			t.Errorf("%d slots are free, want 1", s.free())
		}
	})
}
