package kafkalog

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// shared is one record in memory, the same for all groups: nobody acks or changes its message.
type shared struct {
	record
	msg  *message.Message
	once sync.Once
}

func newShared(r record) *shared { return &shared{record: r, msg: r.message()} }

// ready calls prepare before the first use by any group.
func (r *shared) ready(prepare func(*message.Message, string, int32, int64)) {
	r.once.Do(func() { prepare(r.msg, r.topic, r.partition, r.offset) })
}

// feed is a partition that groups of this process read: a window of its records, as many as the groups that are closest to its end
// have yet to pass, and where each group is.
type feed struct {
	partition
	reader *reader
	bytes  atomic.Int64 // of the window

	mu      sync.Mutex
	records []*shared // the window; first and next are its bounds, there may be no records at some offsets between
	first   int64
	next    int64
	end     int64 // where the partition ended when last heard of
	cursors map[*cursor]struct{}
	dead    bool    // nobody reads it any more, and it has been forgotten
	far     int64   // where the farthest cursor is
	flying  int     // requests that are under way for what comes after next
	trouble trouble // with what comes after next, since the last answer that was of use
	early   trouble // the same with what is before the window
}

// cursor is where one group is in a partition. Its methods may be called from several goroutines.
type cursor struct {
	feed *feed
	wake func() // called when take may give more; must not block

	// The following are guarded by feed.mu.
	at     int64
	hungry bool        // wants to be woken when the window grows
	asked  atomic.Bool // waits for records from before the window
	came   *portion    // those records
	closed bool

	queued bool // is in the reader's queue; guarded by its lock
}

// portion is some records of a partition, one after the other.
type portion struct {
	// from is where the portion begins: later than the cursor was when retention has removed what was there, earlier when
	// the partition does not reach as far as the cursor.
	from int64
	// upTo is the offset up to which it reaches. What lies between and is not among the records is damaged, and has been reported, or never was a record.
	upTo    int64
	records []*shared
	size    int // of the records
}

func newPortion(from, upTo int64, records []*shared) *portion {
	p := &portion{from: from, upTo: upTo, records: records}
	for _, r := range records {
		p.size += r.size
	}
	return p
}

// bounded is a portion of as many of some records as may be taken at a time: one only, when too much is held already.
func (r *reader) bounded(from, upTo int64, records []*shared) *portion {
	n, size, most := 0, 0, takeBytes
	if r.pressed() {
		most = 1
	}
	for n < len(records) && n < takeRecords && size < most {
		size += records[n].size
		n++
	}
	if n < len(records) {
		upTo = records[n].offset
	}
	return &portion{from: from, upTo: upTo, records: slices.Clone(records[:n]), size: size}
}

// Bounds of one take. The bytes may be exceeded by one record.
const (
	takeRecords = 256
	takeBytes   = 128 << 10
)

// take returns the next records; nil when there are none in memory. Then wake will be called when it is worth asking again. What is returned counts as
// held, see reader.hold, until the caller lets go of it.
func (c *cursor) take() *portion {
	f := c.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.closed {
		return nil
	}
	if p := c.came; p != nil {
		c.came = nil
		c.move(p.upTo)
		return p
	}
	switch {
	case c.asked.Load():
		return nil
	case c.at < f.first:
		c.asked.Store(true)
		f.reader.ask(c)
		return nil
	case c.at > f.next:
		// The window follows the group that is farthest; the others can catch up on their own.
		f.reset(c.at)
	}
	if c.at == f.next {
		c.hungry = true
		f.want()
		return nil
	}
	p := f.reader.bounded(c.at, f.next, f.records[f.search(c.at):])
	c.move(p.upTo)
	f.want()
	f.reader.hold(p.size)
	return p
}

// move puts the cursor somewhere else. Under feed.mu.
func (c *cursor) move(at int64) {
	back := at < c.at
	c.at = at
	c.feed.far = max(c.feed.far, at)
	if back {
		c.feed.measure()
	}
}

// rewind puts the cursor back to an offset that it has passed and that is to be read once more.
func (c *cursor) rewind(at int64) {
	c.feed.mu.Lock()
	defer c.feed.mu.Unlock()
	c.move(at)
}

// close ends the cursor.
func (c *cursor) close() {
	f := c.feed
	f.mu.Lock()
	c.closed = true
	if c.came != nil {
		f.reader.drop(c.came.size)
		c.came = nil
	}
	f.mu.Unlock()
	f.reader.leave(c)
}

// give hands the cursor what it asked for, as far as it begins where the cursor is; it reports whether there was anything. Under feed.mu.
func (c *cursor) give(p *portion) bool {
	if c.closed || !c.asked.Load() || c.at < p.from || c.at >= p.upTo {
		return false
	}
	i := sort.Search(len(p.records), func(i int) bool { return p.records[i].offset >= c.at })
	c.answer(c.feed.reader.bounded(c.at, p.upTo, p.records[i:]))
	return true
}

// answer gives the cursor a portion, whatever it begins with. Under feed.mu.
func (c *cursor) answer(p *portion) {
	if c.came != nil {
		c.feed.reader.drop(c.came.size)
	}
	c.feed.reader.hold(p.size)
	c.came, c.hungry = p, false
	c.asked.Store(false)
	c.wake()
}

// search finds the first record of the window at or after an offset. Under mu.
func (f *feed) search(offset int64) int {
	return sort.Search(len(f.records), func(i int) bool { return f.records[i].offset >= offset })
}

// reset empties the window and lets it begin at an offset. Those who waited for it to grow have to see where they are now. Under mu.
func (f *feed) reset(at int64) {
	f.grow(-f.bytes.Load())
	f.records, f.first, f.next = nil, at, at
	for c := range f.cursors {
		if c.at >= at && c.asked.Swap(false) {
			c.wake()
		}
	}
	f.rouse()
}

// rouse wakes those who wait for the window to grow. Under mu.
func (f *feed) rouse() {
	for c := range f.cursors {
		if c.hungry {
			c.hungry = false
			c.wake()
		}
	}
}

// measure finds the farthest cursor. Under mu.
func (f *feed) measure() {
	f.far = 0
	for c := range f.cursors {
		f.far = max(f.far, c.at)
	}
}

// want asks for a request when the window should grow and none is under way. Under mu.
func (f *feed) want() {
	if f.flying == 0 && f.far >= f.first && f.ahead() < aheadBytes {
		f.reader.kick()
	}
}

func (f *feed) grow(by int64) {
	f.bytes.Add(by)
	f.reader.windows.Add(by)
}

// aheadBytes is how far the window runs ahead of the group that is farthest, so that it need not wait for each answer.
const aheadBytes = 512 << 10

// ahead is how much of the window the farthest group has yet to take; up to about aheadBytes. Under mu.
func (f *feed) ahead() (size int) {
	for i := len(f.records) - 1; i >= 0 && f.records[i].offset >= f.far && size < aheadBytes; i-- {
		size += f.records[i].size
	}
	return size
}

// wants returns where the window should go on; ok is false when no group has come so far that it should.
func (f *feed) wants() (at int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next, len(f.cursors) > 0 && f.far >= f.first && f.ahead() < aheadBytes && !f.trouble.resting()
}

// rests returns how long the partition is left alone after a failure.
func (f *feed) rests() (d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range []*trouble{&f.trouble, &f.early} {
		if t.resting() && (d == 0 || time.Until(t.until) < d) {
			d = max(time.Until(t.until), time.Millisecond)
		}
	}
	return d
}

// waits reports whether what is before the window is left alone after a failure.
func (f *feed) waits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.early.resting()
}

// fly notes that one more request for what comes after next is under way, or one less.
func (f *feed) fly(by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flying += by
}

// extend adds records to the window, unless it has gone elsewhere since they were asked for, and wakes those who wait.
func (f *feed) extend(p *portion, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end = max(end, p.upTo)
	if p.from != f.next || p.upTo == f.next {
		return
	}
	f.records = append(f.records, p.records...)
	f.next = p.upTo
	f.grow(int64(p.size))
	f.trim()
	f.rouse()
}

// trim drops what every group in the window has passed. Under mu.
func (f *feed) trim() {
	floor := f.next
	for c := range f.cursors {
		if c.at >= f.first {
			floor = min(floor, c.at)
		}
	}
	f.cut(f.search(floor))
	f.first = max(f.first, floor)
}

// cut drops the n oldest records. Under mu.
func (f *feed) cut(n int) {
	if n == 0 {
		return
	}
	size := 0
	for _, r := range f.records[:n] {
		size += r.size
	}
	f.first = f.records[n-1].offset + 1
	// Moving the rest down lets the dropped records go without a new array each time.
	left := copy(f.records, f.records[n:])
	clear(f.records[left:])
	f.records = f.records[:left]
	f.grow(-int64(size))
}

// shrink drops the older half of the window, though not the newest record; groups that have not passed it have to read it on their own.
func (f *feed) shrink() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trim()
	f.cut(len(f.records) / 2)
}

// relocate puts the cursors that are at an offset the partition does not hold to where it begins or ends.
func (f *feed) relocate(from, to int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.cursors {
		if c.at == from && !c.closed {
			c.answer(&portion{from: to, upTo: to})
		}
	}
	if f.next == from {
		f.reset(to)
	}
}
