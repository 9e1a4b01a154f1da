package kafkalog

import "sync/atomic"

// place is how far a group has got in a partition during one generation: everything before finished is finished, everything before
// written is known to be so on the cluster. Both only grow.
type place struct {
	finished atomic.Int64
	written  atomic.Int64

	// The rest is guarded by the lock of the subscription.
	order []*item // what has been looked at and matched, from the oldest unfinished on
	done  int     // finished items in order, which are behind an unfinished one
	size  int     // of what is unfinished in order, in bytes
	mixed bool    // order is not in order: the place was put back while something was under way
}

// start sets where the group goes on.
func (p *place) start(at int64) {
	p.finished.Store(at)
	p.written.Store(at)
}

// add puts an item behind those that are under way.
func (p *place) add(it *item) {
	p.order = append(p.order, it)
	p.size += it.r.size
}

// finish notes that an item is finished.
func (p *place) finish(it *item) {
	it.done = true
	p.done++
	p.size -= it.r.size
}

// unfinished is how many items are under way.
func (p *place) unfinished() int { return len(p.order) - p.done }

// settle moves finished over the finished prefix; looked is the offset up to which the group has looked.
func (p *place) settle(looked int64) {
	n := 0
	for n < len(p.order) && p.order[n].done {
		n++
	}
	if n > 0 {
		p.done -= n
		// Moving the rest down lets the finished items go without a new array each time.
		left := copy(p.order, p.order[n:])
		clear(p.order[left:])
		p.order = p.order[:left]
	}
	at := looked
	if len(p.order) > 0 {
		at = p.order[0].r.offset
	}
	if p.mixed = p.mixed && len(p.order) > 0; p.mixed {
		at = p.lowest(looked)
	}
	if at > p.finished.Load() {
		p.finished.Store(at)
	}
}

// lowest is the lowest offset that is unfinished, or has not been looked at.
func (p *place) lowest(looked int64) int64 {
	at := looked
	for _, it := range p.order {
		if !it.done {
			at = min(at, it.r.offset)
		}
	}
	return at
}

// due returns the place to write; ok is false when it is written already.
func (p *place) due() (at int64, ok bool) {
	at = p.finished.Load()
	return at, at > p.written.Load()
}

// wrote notes that a place is on the cluster.
func (p *place) wrote(at int64) {
	for {
		old := p.written.Load()
		if at <= old || p.written.CompareAndSwap(old, at) {
			return
		}
	}
}

// restart sets the place to an offset that may be before the one that is written, and has it written. What is under way has higher offsets then than
// what comes, and must not carry the place past it.
func (p *place) restart(at int64) {
	p.mixed = len(p.order) > 0
	p.finished.Store(at)
	p.written.Store(at - 1)
}
