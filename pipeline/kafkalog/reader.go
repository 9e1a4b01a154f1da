package kafkalog

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	// pollFor is how long a broker waits for records before it answers that there are none.
	pollFor = 500 * time.Millisecond
	// settled is how old a request has to be before it is given up for one that asks for more partitions.
	settled = 20 * time.Millisecond
	// ownBytes is how much of a partition a group that is behind the window reads at a time, at most: one batch of records may be larger.
	ownBytes = 256 << 10
	// lookAgain is when the reader looks whether there is something to do even if nobody told it.
	lookAgain = 5 * time.Second
)

// reader reads partitions for all groups of this process. For each partition that any of them reads it keeps a window of the latest
// records, which one request per broker fills for all partitions; the request waits at the broker until there is something. Groups
// that are behind the window share requests of their own, which do not wait.
//
// Memory is bounded for the whole process, however many groups there are: the windows by Config.WindowBytes, and what groups
// have taken and not finished by about as much again, beside one record for each group and partition.
type reader struct {
	c       *Config
	client  *client
	metrics *readMetrics
	windows atomic.Int64 // bytes in all windows
	held    atomic.Int64 // bytes that groups have taken and not let go of
	kicked  chan struct{}
	cancel  context.CancelFunc
	work    sync.WaitGroup

	mu       sync.Mutex // may be taken while holding a feed's; not the other way round
	feeds    map[partition]*feed
	asked    []*cursor         // behind the window, in the order they asked
	flights  map[int32]*flight // by broker
	own      map[int32]bool    // brokers that are being asked for groups behind the window
	troubles map[int32]*trouble
	turn     int               // partitions take turns in being the first of a request
	reported map[spot]struct{} // damaged records
}

// flight is a request for the windows of a broker's partitions that is under way.
type flight struct {
	at     map[partition]int64
	began  time.Time
	cancel context.CancelFunc
}

func newReader(l *Log) (*reader, error) {
	m, err := newReadMetrics(l.c.Registerer)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{
		c: &l.c, client: l.client, metrics: m,
		kicked:   make(chan struct{}, 1),
		cancel:   cancel,
		feeds:    make(map[partition]*feed),
		flights:  make(map[int32]*flight),
		own:      make(map[int32]bool),
		troubles: make(map[int32]*trouble),
		reported: make(map[spot]struct{}),
	}
	r.work.Go(func() { r.run(ctx) })
	return r, nil
}

// close ends all requests. There must be no cursors any more.
func (r *reader) close() {
	r.cancel()
	r.work.Wait()
	r.metrics.unregister()
}

// kick has the reader look for something to do.
func (r *reader) kick() {
	select {
	case r.kicked <- struct{}{}:
	default:
	}
}

// hold and drop count what groups have taken; pressed says that it is as much as may be.
func (r *reader) hold(bytes int) { r.held.Add(int64(bytes)) }
func (r *reader) drop(bytes int) { r.held.Add(-int64(bytes)) }
func (r *reader) pressed() bool  { return r.held.Load() >= int64(r.c.WindowBytes) }

// open puts a cursor into a partition. wake must not block.
func (r *reader) open(p partition, at int64, wake func()) *cursor {
	for {
		r.mu.Lock()
		f := r.feeds[p]
		if f == nil {
			f = &feed{partition: p, reader: r, first: at, next: at, cursors: make(map[*cursor]struct{})}
			r.feeds[p] = f
		}
		r.mu.Unlock()
		f.mu.Lock()
		if f.dead {
			f.mu.Unlock()
			continue
		}
		c := &cursor{feed: f, wake: wake, at: at}
		f.cursors[c] = struct{}{}
		f.far = max(f.far, at)
		f.mu.Unlock()
		return c
	}
}

// leave forgets a closed cursor, and the partition if it was the last.
func (r *reader) leave(c *cursor) {
	f := c.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.cursors, c)
	f.measure()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = slices.DeleteFunc(r.asked, func(o *cursor) bool { return o == c })
	if len(f.cursors) == 0 && !f.dead {
		f.dead = true
		f.grow(-f.bytes.Load())
		delete(r.feeds, f.partition)
	}
}

// ask queues a cursor that is behind the window.
func (r *reader) ask(c *cursor) {
	r.mu.Lock()
	if !c.queued {
		c.queued = true
		r.asked = append(r.asked, c)
	}
	r.mu.Unlock()
	r.kick()
}

// all returns the partitions that are read now.
func (r *reader) all() []*feed {
	r.mu.Lock()
	defer r.mu.Unlock()
	fs := make([]*feed, 0, len(r.feeds))
	for _, f := range r.feeds {
		fs = append(fs, f)
	}
	return fs
}

// run sends requests until ctx ends.
func (r *reader) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var cluster trouble
	for {
		select {
		case <-r.kicked:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		again, err := r.dispatch(ctx)
		if err != nil && ctx.Err() == nil {
			again = cluster.note()
			if cluster.tell() {
				r.c.Logger.Warn("the cluster cannot be looked at; trying again", "error", err)
			}
			r.client.refresh()
			wait(ctx, again)
		} else {
			cluster = trouble{}
		}
		timer.Reset(again)
	}
}

// dispatch sends the requests that are due and not under way. It returns when to look again.
func (r *reader) dispatch(ctx context.Context) (time.Duration, error) {
	head := make(map[partition]int64)
	feeds := r.all()
	again := lookAgain
	for _, f := range feeds {
		if at, ok := f.wants(); ok {
			head[f.partition] = at
		}
		if d := f.rests(); d > 0 {
			again = min(again, d)
		}
	}
	behind := r.queued()
	for p, c := range behind {
		if c.feed.waits() {
			delete(behind, p)
		}
	}
	var ps []partition
	for p := range head {
		ps = append(ps, p)
	}
	for p := range behind {
		if _, ok := head[p]; !ok {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 {
		return again, nil
	}
	groups, leaderless, err := r.client.byLeader(ctx, ps)
	if err != nil {
		return 0, err
	}
	for _, p := range leaderless {
		if f := r.feed(p); f != nil {
			again = min(again, r.failed(f, &f.trouble, kafka.LeaderNotAvailable), r.failed(f, &f.early, kafka.LeaderNotAvailable))
		}
	}
	for leader, ps := range groups {
		again = min(again, r.toBroker(ctx, leader, ps, head, behind))
	}
	return again, nil
}

// toBroker sends what is due to one broker.
func (r *reader) toBroker(ctx context.Context, leader int32, ps []partition, head map[partition]int64, behind map[partition]*cursor) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.troubles[leader]; t != nil && t.resting() {
		return max(time.Until(t.until), time.Millisecond)
	}
	slices.SortFunc(ps, func(a, b partition) int { return compare(a, b) })
	at, own := make(map[partition]int64), make(map[partition]*cursor)
	for _, p := range ps {
		if offset, ok := head[p]; ok {
			at[p] = offset
		}
		if c := behind[p]; c != nil && (len(own) == 0 || !r.pressed()) {
			own[p] = c
		}
	}
	if len(own) > 0 && !r.own[leader] {
		r.own[leader] = true
		r.work.Go(func() { r.readOwn(ctx, leader, own) })
	}
	if len(at) == 0 {
		return lookAgain
	}
	if f := r.flights[leader]; f != nil {
		if f.covers(at) {
			return lookAgain
		}
		if age := time.Since(f.began); age < settled {
			return settled - age
		}
		f.cancel() // it comes back at once, and what it asked for is asked for again
		return lookAgain
	}
	flying, cancel := context.WithCancel(ctx)
	f := &flight{at: at, began: time.Now(), cancel: cancel}
	r.flights[leader] = f
	r.turn++
	turn := r.turn
	r.work.Go(func() { r.poll(flying, leader, f, turn) })
	return lookAgain
}

// covers reports whether the request asks for all of these.
func (f *flight) covers(at map[partition]int64) bool {
	for p, offset := range at {
		if asked, ok := f.at[p]; !ok || asked != offset {
			return false
		}
	}
	return true
}

func (r *reader) feed(p partition) *feed {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.feeds[p]
}

// queued returns, for each partition that cursors ask for from behind the window, the one that has waited longest.
func (r *reader) queued() map[partition]*cursor {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = slices.DeleteFunc(r.asked, func(c *cursor) bool {
		c.queued = c.asked.Load()
		return !c.queued
	})
	first := make(map[partition]*cursor)
	for _, c := range r.asked {
		if first[c.feed.partition] == nil {
			first[c.feed.partition] = c
		}
	}
	return first
}

// poll fills the windows of one broker's partitions with one request.
func (r *reader) poll(ctx context.Context, leader int32, f *flight, turn int) {
	defer f.cancel()
	feeds := make(map[partition]*feed, len(f.at))
	for p := range f.at {
		if feed := r.feed(p); feed != nil {
			feed.fly(1)
			feeds[p] = feed
		}
	}
	answer, err := r.fetch(ctx, f.at, turn, r.c.FetchBytes, r.c.FetchBytes, min(pollFor, r.c.RequestTimeout/2))
	if err == nil {
		r.heard(leader)
		records := 0
		for p, feed := range feeds {
			r.take(ctx, feed, &feed.trouble, f.at[p], answer, func(got *portion) {
				records += len(got.records)
				feed.extend(got, answer.parts[p].end)
			})
		}
		r.evict()
		breathe(ctx, f.began, records)
	} else if ctx.Err() == nil {
		r.unheard(ctx, leader, f.at, err)
	}
	for _, feed := range feeds {
		feed.fly(-1)
	}
	r.mu.Lock()
	delete(r.flights, leader)
	r.mu.Unlock()
	r.kick()
}

// readOwn reads for groups that are behind the window, one portion of each partition; those who are in the middle of it share it.
func (r *reader) readOwn(ctx context.Context, leader int32, cursors map[partition]*cursor) {
	at := make(map[partition]int64, len(cursors))
	for p, c := range cursors {
		c.feed.mu.Lock()
		if !c.closed && c.asked.Load() {
			at[p] = c.at
		}
		c.feed.mu.Unlock()
	}
	most := max(ownBytes, min(int64(r.c.FetchBytes), int64(r.c.WindowBytes)-r.held.Load()))
	answer, err := r.fetch(ctx, at, 0, ownBytes, int(most), 0)
	if err == nil {
		r.heard(leader)
		for p, offset := range at {
			f := cursors[p].feed
			r.take(ctx, f, &f.early, offset, answer, func(got *portion) { r.give(f, got) })
		}
	} else if ctx.Err() == nil {
		r.unheard(ctx, leader, at, err)
	}
	r.mu.Lock()
	delete(r.own, leader)
	r.mu.Unlock()
	r.kick()
}

// give hands a portion to all who are behind the window and in the middle of it.
func (r *reader) give(f *feed, p *portion) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.cursors {
		c.give(p)
	}
}

// evict makes room when the windows are too large together: the largest gives up half, until it is enough.
func (r *reader) evict() {
	for range 64 {
		if r.windows.Load() <= int64(r.c.WindowBytes) {
			return
		}
		var largest *feed
		for _, f := range r.all() {
			if largest == nil || f.bytes.Load() > largest.bytes.Load() {
				largest = f
			}
		}
		if largest == nil {
			return
		}
		before := largest.bytes.Load()
		largest.shrink()
		if largest.bytes.Load() == before {
			return // only one record each
		}
	}
}

// trouble counts failures in a row, and says when to try again.
type trouble struct {
	count int
	until time.Time
	told  time.Time
}

// Bounds of the time between tries.
const (
	backoffFirst = 50 * time.Millisecond
	backoffMost  = time.Second
)

// note counts one more failure and returns for how long to leave it: twice as long each time, half of it by chance.
func (t *trouble) note() time.Duration {
	d := min(backoffFirst<<min(t.count, 10), backoffMost)
	d = d/2 + rand.N(d/2)
	t.count++
	t.until = time.Now().Add(d)
	return d
}

func (t *trouble) resting() bool { return t.count > 0 && time.Now().Before(t.until) }

// tell says whether to write a line: when it has failed three times, and every minute from then on.
func (t *trouble) tell() bool {
	if t.count < 3 || time.Since(t.told) < time.Minute {
		return false
	}
	t.told = time.Now()
	return true
}

// wait waits, unless ctx ends first.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
