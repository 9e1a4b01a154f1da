package pipeline

import (
	"context"
	"sync"
)

// flights are the records that a route has in hand on this hub. Where hubs share a log, a record whose partition was given back may come again, often to the
// same hub, while a slow target still has the first try: the second waits for what becomes of the first, instead of being sent beside it.
type flights struct {
	mu    sync.Mutex
	under map[flight]chan struct{} // closed when it has landed
}

// flight is what a delivery of a route is known by.
type flight struct{ source, id string }

// enter waits until nobody else has the record. leave must be called.
func (f *flights) enter(ctx context.Context, which flight) (leave func(), err error) {
	for {
		f.mu.Lock()
		if f.under == nil {
			f.under = make(map[flight]chan struct{})
		}
		other, busy := f.under[which]
		if !busy {
			landed := make(chan struct{})
			f.under[which] = landed
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				delete(f.under, which)
				close(landed)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, errHandedBack
		}
	}
}
