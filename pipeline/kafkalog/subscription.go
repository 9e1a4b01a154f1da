package kafkalog

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// subscription is one Subscribe: a topic that a subscriber of a group hands out, through any number of generations of the group.
//
// Whoever causes a change (an ack, a nack, the end of a delay, new records) takes the lock and hands out what that makes
// possible; there is no goroutine in between. Only the reader of the log does not hand out: it wakes the subscription's own goroutine.
type subscription struct {
	s     *Subscriber
	topic string
	ctx   context.Context // of the messages handed out
	out   chan *message.Message
	kick  chan struct{}
	quit  chan struct{}
	work  sync.WaitGroup
	once  sync.Once

	mu      sync.Mutex
	term    *term // nil while no partitions are held
	closing bool
}

// term is what a subscription holds in one generation of its group. What was handed out in a term that has ended no longer counts,
// whatever becomes of it.
type term struct {
	ctx    context.Context
	cancel context.CancelFunc
	live   func() bool   // nothing is handed out while it is false
	idle   chan struct{} // closed when stopping and nothing is in hand
	ended  chan struct{} // closed when acks no longer count

	// The following are guarded by subscription.mu.
	stopping bool
	holdings []*holding
	turn     int // holdings take turns
	rows     map[rowkey]*row
	twins    map[string]*row // by UUID
	due      []*item         // may be handed out as soon as there is room
	hand     map[*message.Message]*item
}

// holding is one partition that a subscription holds during a term.
type holding struct {
	partition
	place
	cursor *cursor
	woken  atomic.Bool // the cursor may have more

	// The following are guarded by subscription.mu.
	pos     int64     // the next record to look at
	fetched []*shared // the next records, from pos on
	upTo    int64     // what fetched covers
	taken   int       // of what was taken from the cursor, in bytes
}

// row is a key, or a UUID, one record of which is on its way: others wait behind it.
type row struct{ waiting []*item }

// rowkey is a key; without a function that tells keys each partition is one.
type rowkey struct {
	key       string
	partition int32
}

// item is a record that concerns the group and is not finished.
type item struct {
	r     *shared
	h     *holding
	row   rowkey
	keyed bool
	nacks int
	done  bool
	since time.Time // when it was handed out
	late  bool      // reported to be in hand for too long
	timer *time.Timer
}

// Bounds of what waits behind a busy key, for each partition: the group does not look further ahead until some of it is finished.
const (
	windowFactor = 8
	windowBytes  = 8 << 20
)

// wake lets the subscription's goroutine look for records.
func (s *subscription) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// follow hands out whenever there may be something new, until the subscription closes.
func (s *subscription) follow() {
	for {
		select {
		case <-s.kick:
			s.mu.Lock()
			s.handOut()
			s.mu.Unlock()
		case <-s.quit:
			return
		}
	}
}

// begin starts a term with some partitions; at is where the group goes on in each. It reports false when the subscription is closing.
func (s *subscription) begin(at map[int32]int64, live func() bool) *term {
	ctx, cancel := context.WithCancel(s.ctx)
	t := &term{
		ctx: ctx, cancel: cancel, live: live,
		idle: make(chan struct{}), ended: make(chan struct{}),
		rows: make(map[rowkey]*row), twins: make(map[string]*row), hand: make(map[*message.Message]*item),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		cancel()
		return nil
	}
	for _, number := range slices.Sorted(maps.Keys(at)) {
		h := &holding{partition: partition{s.topic, number}, pos: at[number], upTo: at[number]}
		h.start(at[number])
		h.woken.Store(true)
		h.cursor = s.s.l.reader.open(h.partition, h.pos, func() {
			h.woken.Store(true)
			s.wake()
		})
		t.holdings = append(t.holdings, h)
	}
	s.term = t
	s.wake()
	return t
}

// handOut hands out until nothing is left or enough is in hand. Under mu.
func (s *subscription) handOut() {
	t := s.term
	if t == nil || t.stopping || !t.live() {
		return
	}
	for len(t.hand) < s.s.c.InHand {
		it := s.pick(t)
		if it == nil {
			break
		}
		s.give(t, it)
	}
	for _, h := range t.holdings {
		h.settle(h.pos)
		if len(h.fetched) > 0 && s.s.l.reader.pressed() {
			s.letGo(h)
		}
	}
}

// pick returns the next item to hand out, partition by partition in turn.
func (s *subscription) pick(t *term) *item {
	if len(t.due) > 0 {
		it := t.due[0]
		t.due = slices.Delete(t.due, 0, 1)
		return it
	}
	for range t.holdings {
		h := t.holdings[t.turn%len(t.holdings)]
		t.turn++
		if it := s.look(t, h); it != nil {
			return it
		}
	}
	return nil
}

// look goes through the next records of a partition and returns the first that may be handed out now; nil when there is none, or enough is waiting.
func (s *subscription) look(t *term, h *holding) *item {
	c, r := &s.s.c, s.s.l.reader
	for n := h.unfinished(); n == 0 || n < windowFactor*c.InHand && h.size < windowBytes && !r.pressed(); n = h.unfinished() {
		rec := s.next(h)
		if rec == nil {
			return nil
		}
		if rec.fault != nil {
			continue // reported when it was read
		}
		rec.ready(s.s.l.c.Prepare)
		if c.Match != nil && !c.Match(rec.msg) {
			continue
		}
		it := &item{r: rec, h: h, keyed: true, row: rowkey{partition: h.number}}
		if c.Key != nil {
			it.row = rowkey{key: c.Key(rec.msg)}
			it.keyed = it.row.key != ""
		}
		h.add(it)
		r.hold(rec.size)
		if t.enter(it) {
			return it
		}
	}
	return nil
}

// enter reports whether nothing is under way that the item has to wait for. Otherwise it waits: in the row of its key, or, because a repeat of
// an event has to find what became of the first one, in that of its UUID.
func (t *term) enter(it *item) bool {
	if it.keyed {
		if busy := t.rows[it.row]; busy != nil {
			busy.waiting = append(busy.waiting, it)
			return false
		}
		t.rows[it.row] = &row{}
	}
	return t.single(it)
}

// single is the second half of enter.
func (t *term) single(it *item) bool {
	uuid := it.r.uuid
	if uuid == "" {
		return true
	}
	if busy := t.twins[uuid]; busy != nil {
		busy.waiting = append(busy.waiting, it)
		return false
	}
	t.twins[uuid] = &row{}
	return true
}

// exit lets those go on that wait for a finished item.
func (t *term) exit(it *item) {
	if l := t.twins[it.r.uuid]; l != nil {
		if len(l.waiting) > 0 {
			t.due = append(t.due, l.waiting[0])
			l.waiting = l.waiting[1:]
		} else {
			delete(t.twins, it.r.uuid)
		}
	}
	if !it.keyed {
		return
	}
	if l := t.rows[it.row]; len(l.waiting) > 0 {
		next := l.waiting[0]
		l.waiting = l.waiting[1:]
		if t.single(next) {
			t.due = append(t.due, next)
		}
	} else {
		delete(t.rows, it.row)
	}
}

// next returns the next record of a partition; nil when there is none in memory.
func (s *subscription) next(h *holding) *shared {
	r := s.s.l.reader
	for len(h.fetched) == 0 {
		r.drop(h.taken)
		h.pos, h.taken = h.upTo, 0
		if !h.woken.Swap(false) {
			return nil
		}
		p := h.cursor.take()
		if p == nil {
			return nil
		}
		h.woken.Store(true)
		if p.from != h.pos {
			s.s.displaced(h, p.from)
		}
		h.pos, h.fetched, h.upTo, h.taken = p.from, p.records, p.upTo, p.size
	}
	rec := h.fetched[0]
	h.fetched = h.fetched[1:]
	h.pos = rec.offset + 1
	return rec
}

// letGo gives back what was taken and not looked at, because too much is in memory. It will be read again.
func (s *subscription) letGo(h *holding) {
	h.cursor.rewind(h.pos)
	s.s.l.reader.drop(h.taken)
	h.fetched, h.upTo, h.taken = nil, h.pos, 0
	h.woken.Store(true)
}

// give hands out one item as a message of its own. There is always room in out: it holds as many as may be in hand.
func (s *subscription) give(t *term, it *item) {
	ctx, cancel := context.WithCancel(joined{t.ctx, it.r.msg.Context()})
	m := message.NewMessage(it.r.msg.UUID, it.r.msg.Payload)
	m.Metadata = maps.Clone(it.r.msg.Metadata)
	m.SetContext(ctx)
	it.since, it.late = time.Now(), false
	t.hand[m] = it
	s.work.Go(func() { s.await(t, it, m, cancel) })
	s.out <- m
}

// joined is a context that ends with the term and has the subscription's values, and those that Prepare put into the record's.
type joined struct {
	context.Context
	record context.Context
}

// Value looks at the subscription first: that is where the context package looks for its own.
func (j joined) Value(key any) any {
	if v := j.Context.Value(key); v != nil {
		return v
	}
	return j.record.Value(key)
}

// await waits for the answer to one message.
func (s *subscription) await(t *term, it *item, m *message.Message, cancel context.CancelFunc) {
	defer cancel()
	select {
	case <-m.Acked():
		s.finish(t, it, m)
	case <-m.Nacked():
		s.again(t, it, m)
	case <-t.ended:
	}
}

// finish takes an acked item out and hands out what waited behind it.
func (s *subscription) finish(t *term, it *item, m *message.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term != t {
		return // too late: another process may have the record
	}
	it.h.finish(it)
	s.s.l.reader.drop(it.r.size)
	t.exit(it)
	s.free(t, it, m)
}

// again has a nacked item handed out once more after a while. Its key stays busy, its place in hand is free meanwhile.
func (s *subscription) again(t *term, it *item, m *message.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term != t {
		return
	}
	it.nacks++
	c := &s.s.l.c
	delay := min(c.NackDelay<<min(it.nacks-1, 20), c.NackDelayMax)
	if !t.stopping {
		it.timer = time.AfterFunc(delay, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.term != t {
				return
			}
			it.timer = nil
			t.due = slices.Insert(t.due, 0, it)
			s.handOut()
		})
	}
	s.free(t, it, m)
}

// free ends a message's time in hand. Under mu.
func (s *subscription) free(t *term, it *item, m *message.Message) {
	delete(t.hand, m)
	if !t.stopping {
		s.handOut()
		return
	}
	it.h.settle(it.h.pos)
	if len(t.hand) == 0 {
		close(t.idle)
	}
}

// stop ends the handing out in a term and takes back what nobody has received. t.idle is closed once nothing is in hand any more.
func (s *subscription) stop(t *term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halt(t)
}

// halt is stop, under mu.
func (s *subscription) halt(t *term) {
	if s.term != t || t.stopping {
		return
	}
	t.stopping = true
	t.cancel() // whoever has only waited with a message gives it back instead of holding up the others of the group
	for _, h := range t.holdings {
		for _, it := range h.order {
			if it.timer != nil {
				it.timer.Stop()
			}
		}
	}
	for {
		select {
		case m := <-s.out:
			delete(t.hand, m) // nobody has it; its goroutine ends with the term
			continue
		default:
		}
		break
	}
	if len(t.hand) == 0 {
		close(t.idle)
	}
}

// end ends a term: from now on acks do not count.
func (s *subscription) end(t *term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term != t {
		return
	}
	s.halt(t)
	s.term = nil
	close(t.ended)
	for _, h := range t.holdings {
		h.cursor.close()
		s.s.l.reader.drop(h.taken + h.size)
	}
}

// late reports each message that has been in hand for longer than a limit, once.
func (s *subscription) late(limit time.Duration, report func(it *item)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term == nil {
		return
	}
	for _, it := range s.term.hand {
		if !it.late && time.Since(it.since) > limit {
			it.late = true
			report(it)
		}
	}
}

// close ends the subscription: its channel at once, then it waits for what is in hand up to Config.CloseTimeout.
func (s *subscription) close(cancel context.CancelFunc) {
	s.once.Do(func() {
		s.mu.Lock()
		s.closing = true
		t := s.term
		if t != nil {
			s.halt(t)
		}
		close(s.out)
		s.mu.Unlock()
		if t != nil {
			timeout := time.NewTimer(s.s.l.c.CloseTimeout)
			defer timeout.Stop()
			select {
			case <-t.idle:
			case <-t.ended:
			case <-timeout.C:
				s.s.l.c.Logger.Warn("closing a subscription with messages in hand; they will be handed out again", "topic", s.topic, "group", s.s.c.Group)
			}
			s.end(t)
		}
		close(s.quit)
		cancel()
		s.work.Wait()
	})
}
