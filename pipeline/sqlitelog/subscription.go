package sqlitelog

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// subscription is one group reading one topic, or waiting to.
//
// Whoever causes a change (an ack, a nack, the end of a delay, new records) takes the lock and hands out what that makes
// possible; there is no goroutine in between. Only what has to be read from the file is left to the subscription's own.
type subscription struct {
	l     *Log
	c     SubscriberConfig
	t     *topic
	place *place
	ctx   context.Context // of the messages handed out
	out   chan *message.Message
	kick  chan struct{}
	ended chan struct{} // closed when acks no longer count
	work  sync.WaitGroup
	once  sync.Once
	err   error

	hungry bool         // guarded by topic.mu: wants to be woken by the next append
	seen   atomic.Int64 // pos, for the topic to know what no one needs any more

	mu      sync.Mutex
	active  bool
	closing bool
	pos     int64     // the next record to look at
	fetched []*record // the next records, from pos on
	upTo    int64     // what fetched covers: there may be damaged records at its end
	reading bool      // the next records have to be read from the file
	order   []*item   // what has been looked at and matched, from the oldest unfinished on
	done    int       // finished items in order, which are behind an unfinished one
	size    int       // of what is unfinished in order, in bytes
	lanes   map[string]*lane
	due     []*item // may be handed out as soon as there is room
	inHand  int
	idle    chan struct{} // closed when closing and nothing is in hand
}

// lane is a key one record of which is on its way: others wait behind it.
type lane struct{ waiting []*item }

// item is a record that concerns the group and is not finished.
type item struct {
	r     *record
	key   string
	keyed bool
	nacks int
	done  bool
	timer *time.Timer
}

// Bounds of what waits behind a busy key: the group does not look further ahead until some of it is finished.
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

// activate starts reading. It is called under topic.mu for the one subscription of a group that reads.
func (s *subscription) activate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	s.active = true
	s.pos = max(s.place.finished.Load(), s.t.first)
	s.upTo = s.pos
	s.seen.Store(s.pos)
	if len(s.t.readers) == 0 {
		s.t.dropTail()
	}
	s.t.readers = append(s.t.readers, s)
	s.work.Go(s.follow)
	s.wake()
}

// follow looks for records whenever there may be new ones, and reads the file where memory does not have them.
func (s *subscription) follow() {
	for {
		select {
		case <-s.kick:
		case <-s.ctx.Done():
			return
		}
		for s.advance() {
			if !s.fill() {
				return
			}
		}
	}
}

// advance hands out what can be handed out, and reports whether the next records have to be read from the file.
func (s *subscription) advance() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handOut()
	return s.reading && !s.closing
}

// fill reads the next records from the file. It reports false when the subscription ends.
func (s *subscription) fill() bool {
	s.mu.Lock()
	from := s.pos
	s.mu.Unlock()
	first, next := s.t.end()
	if from < first {
		s.l.c.Logger.Warn("retention removed records that a group had not finished", "topic", s.t.name, "group", s.c.Group, "records", first-from)
		from = first
	}
	records, upTo, err := s.l.read(s.ctx, s.t, from, next)
	if err != nil {
		if s.ctx.Err() != nil {
			return false
		}
		s.l.c.Logger.Warn("the log cannot be read; trying again in a second", "topic", s.t.name, "offset", from, "error", err)
		select {
		case <-time.After(time.Second):
			return true
		case <-s.ctx.Done():
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched, s.pos, s.upTo, s.reading = records, from, upTo, false
	return true
}

// handOut hands out until nothing is left or enough is in hand. Under mu.
func (s *subscription) handOut() {
	if !s.active || s.closing {
		return
	}
	for s.inHand < s.c.InHand {
		var it *item
		if len(s.due) > 0 {
			it = s.due[0]
			s.due = slices.Delete(s.due, 0, 1)
		} else if it = s.look(); it == nil {
			break
		}
		s.give(it)
	}
	s.settle()
}

// look goes through the next records and returns the first that may be handed out now; nil when there is none, or enough is waiting.
func (s *subscription) look() *item {
	for len(s.order)-s.done < windowFactor*s.c.InHand && s.size < windowBytes {
		r := s.next()
		if r == nil {
			return nil
		}
		r.ready(s.t, s.l.c.Prepare)
		if s.c.Match != nil && !s.c.Match(r.msg) {
			continue
		}
		it := &item{r: r, keyed: true}
		if s.c.Key != nil {
			it.key = s.c.Key(r.msg)
			it.keyed = it.key != ""
		}
		s.order = append(s.order, it)
		s.size += r.size()
		if !it.keyed {
			return it
		}
		if busy := s.lanes[it.key]; busy != nil {
			busy.waiting = append(busy.waiting, it)
			continue
		}
		s.lanes[it.key] = &lane{}
		return it
	}
	return nil
}

// next returns the next record; nil when there is none in memory. It takes many at a time from the topic's tail.
func (s *subscription) next() *record {
	if len(s.fetched) == 0 {
		s.pos = s.upTo
		if s.reading || !s.fetch() {
			return nil
		}
	}
	r := s.fetched[0]
	s.fetched = s.fetched[1:]
	s.pos = r.offset + 1
	return r
}

// fetch takes the next records from the topic's tail. When they are not there, it asks for them to be read from the file or, at
// the end of the topic, to be woken.
func (s *subscription) fetch() bool {
	const atOnce = 256
	s.seen.Store(s.pos)
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case s.pos >= t.next:
		s.hungry = true
		return false
	case s.pos < t.tailFirst:
		s.reading = true
		s.wake()
		return false
	}
	at := int(s.pos - t.tailFirst)
	n := min(len(t.tail)-at, atOnce)
	s.fetched = append(s.fetched[:0], t.tail[at:at+n]...)
	s.upTo = s.pos + int64(n)
	return true
}

// give hands out one item as a message of its own. There is always room in out: it holds as many as may be in hand.
func (s *subscription) give(it *item) {
	ctx, cancel := context.WithCancel(joined{s.ctx, it.r.msg.Context()})
	m := message.NewMessage(it.r.msg.UUID, it.r.msg.Payload)
	m.Metadata = maps.Clone(it.r.msg.Metadata)
	m.SetContext(ctx)
	s.inHand++
	s.work.Go(func() { s.await(it, m, cancel) })
	s.out <- m
}

// joined is a context that ends with the subscription and has its values, and those that Prepare put into the record's.
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
func (s *subscription) await(it *item, m *message.Message, cancel context.CancelFunc) {
	defer cancel()
	select {
	case <-m.Acked():
		s.finish(it)
	case <-m.Nacked():
		s.again(it)
	case <-s.ended:
	}
}

// finish takes an acked item out and hands out what waited behind it.
func (s *subscription) finish(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		return // too late: another subscription may have the record
	default:
	}
	it.done = true
	s.done++
	s.size -= it.r.size()
	if it.keyed {
		if l := s.lanes[it.key]; len(l.waiting) > 0 {
			s.due = append(s.due, l.waiting[0])
			l.waiting = l.waiting[1:]
		} else {
			delete(s.lanes, it.key)
		}
	}
	s.free()
}

// again has a nacked item handed out once more after a while. Its key stays busy, its place in hand is free meanwhile.
func (s *subscription) again(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it.nacks++
	delay := min(s.l.c.NackDelay<<min(it.nacks-1, 20), s.l.c.NackDelayMax)
	if !s.closing {
		it.timer = time.AfterFunc(delay, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			it.timer = nil
			s.due = slices.Insert(s.due, 0, it)
			s.handOut()
		})
	}
	s.free()
}

// free ends a message's time in hand. Under mu.
func (s *subscription) free() {
	s.inHand--
	if s.closing {
		s.settle()
		if s.inHand == 0 {
			close(s.idle)
		}
		return
	}
	s.handOut()
}

// settle moves the group's place over the finished prefix. Under mu.
func (s *subscription) settle() {
	n := 0
	for n < len(s.order) && s.order[n].done {
		n++
	}
	if n > 0 {
		s.done -= n
		s.order = slices.Delete(s.order, 0, n)
	}
	if len(s.order) > 0 {
		s.place.advance(s.l, s.order[0].r.offset)
	} else {
		s.place.advance(s.l, s.pos)
	}
}

// finishedBeyond is how many records after the group's place are finished all the same.
func (s *subscription) finishedBeyond() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.pos-s.place.finished.Load()-int64(len(s.order)-s.done))
}

// close stops handing out, takes back what nobody has received, waits for what is in hand, writes the group's place and lets the next
// subscription of the group read. The messages' contexts end with it.
func (s *subscription) close(cancel context.CancelFunc) error {
	s.once.Do(func() {
		s.stop()
		select {
		case <-s.idle:
		case <-time.After(s.l.c.CloseTimeout):
			s.l.c.Logger.Warn("closing a subscription with messages in hand; they will be handed out again", "topic", s.t.name, "group", s.c.Group)
		}
		s.mu.Lock()
		close(s.ended)
		wrote := s.active
		s.mu.Unlock()
		cancel()
		s.work.Wait()
		if wrote {
			if err := s.l.writePlaces(context.WithoutCancel(s.ctx)); err != nil {
				s.err = fmt.Errorf("close group %s on %s: %w", s.c.Group, s.t.name, err)
			}
		}
		s.leave()
	})
	return s.err
}

// stop is the first half of close: nothing is handed out any more.
func (s *subscription) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for _, it := range s.order {
		if it.timer != nil {
			it.timer.Stop()
		}
	}
	for {
		select {
		case <-s.out:
			s.inHand-- // nobody has it; its goroutine ends with the subscription
			continue
		default:
		}
		break
	}
	close(s.out)
	if s.inHand == 0 {
		close(s.idle)
	}
}

// leave is the last of close: the group's next subscription may read.
func (s *subscription) leave() {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readers = slices.DeleteFunc(t.readers, func(o *subscription) bool { return o == s })
	if len(t.readers) == 0 {
		t.dropTail()
	}
	m := t.groups[s.c.Group]
	if m.active != s {
		m.waiting = slices.DeleteFunc(m.waiting, func(o *subscription) bool { return o == s })
		return
	}
	m.active = nil
	for m.active == nil && len(m.waiting) > 0 {
		m.active, m.waiting = m.waiting[0], m.waiting[1:]
		m.active.activate()
	}
	if m.active == nil {
		delete(t.groups, s.c.Group)
	}
}
