package store

import (
	"hash/maphash"
	"sync"
	"time"
)

// rangeID is one route's reading of one partition.
type rangeID struct{ route, partition int64 }

// picture is what the store remembers of its tables. It errs on one side only: what it calls new is new. So
// everything is marked before the write that makes it true, and taken back after the write that makes it
// untrue; a write that failed leaves a mark that costs a query and does no harm.
type picture struct {
	seed maphash.Seed

	mu     sync.Mutex
	ranges map[rangeID]*marks
	// parked counts rows, and rows on their way, by the hash of route, source and key: a collision costs a query.
	parked map[uint64]int32
	// leases says when the leases of this process end, by the monotonic clock where the caller's time has one.
	leases map[int64]time.Time
}

func newPicture() *picture {
	return &picture{
		seed:   maphash.MakeSeed(),
		ranges: make(map[rangeID]*marks),
		parked: make(map[uint64]int32),
		leases: make(map[int64]time.Time),
	}
}

const (
	pageBits = 12 // offsets per page, as a power of two
	maxPages = 64 // pages per range: the latest 262,144 offsets, in 32 KiB
)

// marks remembers which offsets of a range may have a row: all below floor, and those marked above it.
type marks struct {
	floor int64
	pages map[int64]*[1 << pageBits / 64]uint64
}

// startAfter says that rows up to offset may exist from before.
func (p *picture) startAfter(at rangeID, offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rangeOf(at).floor = offset + 1
}

// settle marks an offset.
func (p *picture) settle(at rangeID, offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rangeOf(at).mark(offset)
}

// maySettled is false for an offset that surely has no row.
func (p *picture) maySettled(at rangeID, offset int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.ranges[at]
	return m != nil && m.has(offset)
}

func (p *picture) rangeOf(at rangeID) *marks {
	m := p.ranges[at]
	if m == nil {
		m = &marks{pages: make(map[int64]*[1 << pageBits / 64]uint64)}
		p.ranges[at] = m
	}
	return m
}

func (m *marks) mark(offset int64) {
	if offset < m.floor {
		return
	}
	n := offset >> pageBits
	page := m.pages[n]
	if page == nil {
		page = new([1 << pageBits / 64]uint64)
		m.pages[n] = page
		if len(m.pages) > maxPages {
			m.dropLowest()
		}
	}
	bit := offset & (1<<pageBits - 1)
	page[bit>>6] |= 1 << (bit & 63)
}

// dropLowest raises the floor over the lowest page.
func (m *marks) dropLowest() {
	lowest := int64(maxID)
	for n := range m.pages {
		lowest = min(lowest, n)
	}
	delete(m.pages, lowest)
	m.floor = (lowest + 1) << pageBits
}

func (m *marks) has(offset int64) bool {
	if offset < m.floor {
		return true
	}
	page := m.pages[offset>>pageBits]
	bit := offset & (1<<pageBits - 1)
	return page != nil && page[bit>>6]&(1<<(bit&63)) != 0
}

// park counts one more parked row of a key that is not empty.
func (p *picture) park(route, source int64, key string) {
	h := p.hash(route, source, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parked[h]++
}

// unpark takes one park back.
func (p *picture) unpark(route, source int64, key string) {
	h := p.hash(route, source, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parked[h]--; p.parked[h] <= 0 {
		delete(p.parked, h)
	}
}

// mayParked is false for a key that surely has nothing parked.
func (p *picture) mayParked(route, source int64, key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.parked) > 0 && p.parked[p.hash(route, source, key)] > 0
}

func (p *picture) hash(route, source int64, key string) uint64 {
	return maphash.String(p.seed, key) ^ maphash.Comparable(p.seed, [2]int64{route, source})
}

// lease notes until when a parked delivery is out, which is now plus the lease.
func (p *picture) lease(number int64, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases[number] = until
}

// leased reports whether this process has handed the delivery out and the lease has not run out.
func (p *picture) leased(number int64, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leases[number].After(now)
}

// endLease forgets a lease that is over.
func (p *picture) endLease(number int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.leases, number)
}
