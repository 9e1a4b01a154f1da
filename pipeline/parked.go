package pipeline

import (
	"context"
	"sync"
	"time"
)

// hands are the parked deliveries that this hub has in hand, and their leases as they stand.
type hands struct {
	mu     sync.Mutex
	leases map[int64]time.Time
}

// take notes a delivery that Due has returned. It reports false when the delivery is in hand already: its lease had run out, because its
// outcome cannot be written, and it must not be sent again beside that.
func (h *hands) take(d Delivery) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leases == nil {
		h.leases = make(map[int64]time.Time)
	}
	_, known := h.leases[d.Number]
	h.leases[d.Number] = d.Lease
	return !known
}

// lease is a delivery's lease as it stands.
func (h *hands) lease(number int64) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leases[number]
}

func (h *hands) leave(number int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.leases, number)
}

const (
	// dueEvery is how often the store is asked for parked deliveries whose time has come.
	dueEvery = 200 * time.Millisecond
	// leaseSpare is how much longer than the waiting and the trying a lease lasts: half of it to write the outcome.
	leaseSpare = 30 * time.Second
	// longestLease bounds the leases of routes that may hardly ever try.
	longestLease = 24 * time.Hour
)

// lease is how long a parked delivery of the route may be out: until a slot is free, the rate limit agrees and the target has answered.
func (r *runner) lease() time.Duration {
	d := leaseSpare + 2*r.Timeout
	if r.PerSecond > 0 {
		d += time.Duration(min(6/r.PerSecond, longestLease.Seconds()) * float64(time.Second))
	}
	return min(d, longestLease)
}

// retryParked fetches parked deliveries as they come due and carries them, until in.take ends; then it waits for those under way.
func (p *Pipeline) retryParked(in reach) {
	var under sync.WaitGroup
	defer under.Wait()
	tick := time.NewTicker(dueEvery)
	defer tick.Stop()
	lease := leaseSpare
	for _, r := range p.runners {
		lease = max(lease, r.lease())
	}
	var said string
	for {
		more, err := p.fetchDue(in, &under, lease)
		switch {
		case err == nil:
			said = ""
		case in.take.Err() != nil:
			return
		case err.Error() != said:
			said = err.Error()
			p.logger.Error("parked deliveries could not be fetched; trying on", "error", err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-p.freed:
		case <-tick.C:
		case <-in.take.Done():
			return
		}
	}
}

// fetchDue leases what the routes have room for and sets it going. It reports whether a route got all it had room for: then
// more may be due.
func (p *Pipeline) fetchDue(in reach, under *sync.WaitGroup, lease time.Duration) (more bool, err error) {
	room := make(map[string]int, len(p.runners))
	for name, r := range p.runners {
		if n := r.gate.room(); n > 0 {
			room[name] = n
		}
	}
	if len(room) == 0 {
		return false, nil
	}
	at := now()
	due, err := p.ledger.Due(in.take, at, room, lease)
	if err != nil {
		return false, err
	}
	for _, d := range due {
		r := p.runners[d.Route]
		room[d.Route]--
		more = more || room[d.Route] == 0
		if !p.parked.take(d) {
			continue
		}
		r.gate.due.Add(1)
		under.Go(func() {
			left := sync.OnceFunc(func() {
				p.parked.leave(d.Number)
				r.gate.due.Add(-1)
			})
			defer left()
			// A try must not begin when the lease might end before its outcome is written.
			take, cancel := context.WithDeadline(in.take, at.Add(lease-r.Timeout-leaseSpare/2))
			defer cancel()
			current := func() time.Time { return p.parked.lease(d.Number) }
			if err := r.carry(reach{take: take, work: in.work, lease: current}, d, recordFor(d)); err != nil {
				d.Lease = current()
				p.giveBack(in.work, d)
				return
			}
			left()
			// The next of its key may be due now, and a key that has fallen behind must not catch up at the pace of a clock.
			if d.Event.Key != "" {
				select {
				case p.freed <- struct{}{}:
				default:
				}
			}
		})
	}
	return more, nil
}

// giveBack ends a lease early. When it fails the lease runs out by itself.
func (p *Pipeline) giveBack(ctx context.Context, d Delivery) {
	if err := p.ledger.GiveBack(ctx, []Delivery{d}); err != nil && ctx.Err() == nil {
		p.logger.Warn("a lease could not be given back; it runs out by itself", "event", d.Event.ID, "error", err)
	}
}
