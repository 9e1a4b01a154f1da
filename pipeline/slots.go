package pipeline

import (
	"context"
	"slices"
	"sync"
)

// slots bound how many deliveries of a route are being sent at once. After its target has rested they start again slowly:
// one slot, and one more for each success, until all are back.
type slots struct {
	mu      sync.Mutex
	all     int // the route's concurrency
	open    int // how many may be taken now
	taken   int
	waiting []chan struct{} // the first gets the next slot
}

func newSlots(n int) *slots { return &slots{all: n, open: n} }

// take waits for a slot until ctx ends, at the end of the line or before all others.
func (s *slots) take(ctx context.Context, first bool) error {
	s.mu.Lock()
	if s.taken < s.open && (first || len(s.waiting) == 0) {
		s.taken++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	if first {
		s.waiting = slices.Insert(s.waiting, 0, turn)
	} else {
		s.waiting = append(s.waiting, turn)
	}
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, w := range s.waiting {
			if w == turn {
				s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
				return context.Cause(ctx)
			}
		}
		// The turn came at the same moment: hand the slot on.
		s.taken--
		s.serve()
		return context.Cause(ctx)
	}
}

// give returns a slot. A success lets a slowly starting route have one more.
func (s *slots) give(success bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if success && s.open < s.all {
		s.open++
	}
	s.serve()
}

// restart goes back to a single slot.
func (s *slots) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = 1
}

// free is how many slots could be taken at once now.
func (s *slots) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.open-s.taken-len(s.waiting))
}

// share is a quarter of the slots that are open, and at least one.
func (s *slots) share() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(1, s.open/4)
}

func (s *slots) serve() {
	for s.taken < s.open && len(s.waiting) > 0 {
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
		s.taken++
	}
}
