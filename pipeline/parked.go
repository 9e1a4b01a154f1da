package pipeline

import (
	"context"
	"sync"
	"time"
)

const (
	// dueEvery is how often the store is asked for parked deliveries whose time has come.
	dueEvery = 200 * time.Millisecond
	// leaseSpare is how much longer than the longest timeout a lease lasts: the time to get a slot and to write the outcome.
	leaseSpare = time.Minute
)

// retryParked fetches parked deliveries as they come due and carries them, until in.take ends; then it waits for those under way.
func (p *Pipeline) retryParked(in reach) {
	var under sync.WaitGroup
	defer under.Wait()
	lease := leaseSpare
	for _, r := range p.runners {
		lease = max(lease, r.Timeout+leaseSpare)
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
		if !sleep(in.take, dueEvery) {
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
		under.Go(func() {
			// A try must not begin when the lease might end before its outcome is written.
			take, cancel := context.WithDeadline(in.take, at.Add(lease-r.Timeout-leaseSpare/2))
			defer cancel()
			if err := r.carry(reach{take: take, work: in.work}, d, recordFor(d)); err != nil {
				p.giveBack(in.work, d)
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
