package spool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

const (
	// probeWithin bounds one call of Config.Reachable.
	probeWithin = 5 * time.Second
	// tryWithin bounds one publish of a drained record, should the shared log have no bound of its own.
	tryWithin = 30 * time.Second
	// tidyEvery is how often what was drained is removed and the count of what waits compared with the file.
	tidyEvery = time.Second
	// batchRecords and batchBytes bound what of one key goes with one call; a single record may be larger.
	batchRecords = 64
	batchBytes   = 512 << 10
)

// Run drains until ctx ends, and returns when nothing is under way any more. What is not confirmed then is drained after the next start. Call it
// once. An error says that the spool's own log cannot be read at all.
func (s *Spool) Run(ctx context.Context) error {
	subscriber, err := s.c.Local.Subscriber(sqlitelog.SubscriberConfig{
		Group: group, InHand: inHand, Key: func(*message.Message) string { return "" }, // in the order of the log; the keys are looked after here
	})
	if err != nil {
		return fmt.Errorf("drain the spool: %w", err)
	}
	var work sync.WaitGroup
	work.Go(func() { s.gate.watch(ctx, s.c.Reachable, s.idle) })
	work.Go(func() { s.offerRefused(ctx) })
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		s.openLanes(ctx, subscriber, &work)
		select {
		case <-ctx.Done():
		case <-s.kick:
		case <-tick.C:
			s.tidy(ctx)
		}
	}
	err = subscriber.Close()
	work.Wait()
	if err != nil {
		return fmt.Errorf("drain the spool: %w", err)
	}
	return nil
}

// openLanes begins to drain topics that are not drained yet.
func (s *Spool) openLanes(ctx context.Context, subscriber *sqlitelog.Subscriber, work *sync.WaitGroup) {
	for _, l := range s.shutLanes() {
		// It is ended by Close alone, when the records in hand have been handed back.
		out, err := subscriber.Subscribe(context.WithoutCancel(ctx), l.topic)
		if err != nil {
			if ctx.Err() == nil {
				s.logger.Warn("a topic of the spool cannot be drained; trying again in a second", "topic", l.topic, "error", err)
			}
			continue
		}
		s.mu.Lock()
		l.open = true
		s.mu.Unlock()
		work.Go(func() { s.drain(ctx, l.topic, out) })
	}
}

func (s *Spool) shutLanes() []*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	var shut []*lane
	for _, l := range s.lanes {
		if !l.open {
			shut = append(shut, l)
		}
	}
	return shut
}

// idle is called when the shared log answers and no record waits to ask it.
func (s *Spool) idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == 0 {
		s.gate.pass()
		s.settle()
	}
}

// drain gives a topic's records to the shared log, each key's in order, until out is closed. A key has one call under way at a time; what gathers behind
// it goes with the next, so that one key alone is drained as fast as many.
func (s *Spool) drain(ctx context.Context, topic string, out <-chan *message.Message) {
	var work sync.WaitGroup
	defer work.Wait()
	keys := keys{waiting: make(map[string][]*message.Message)}
	for m := range out {
		key := s.c.Key(m)
		if key == "" {
			work.Go(func() { s.carry(ctx, topic, []*message.Message{m}) })
		} else if keys.begin(key, m) {
			work.Go(func() {
				for batch := []*message.Message{m}; len(batch) > 0; batch = keys.next(key) {
					s.carry(ctx, topic, batch)
				}
			})
		}
	}
}

// keys are the keys of a topic that have records under way, and what waits behind those.
type keys struct {
	mu      sync.Mutex
	waiting map[string][]*message.Message
}

// begin reports whether the record is the only one of its key; otherwise it waits.
func (k *keys) begin(key string, m *message.Message) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	behind, busy := k.waiting[key]
	if busy {
		k.waiting[key] = append(behind, m)
	} else {
		k.waiting[key] = nil
	}
	return !busy
}

// next returns the next records of a key, none when no more wait and the key is done.
func (k *keys) next(key string) []*message.Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	behind := k.waiting[key]
	n, size := 0, 0
	for n < len(behind) && n < batchRecords && (n == 0 || size+len(behind[n].Payload) <= batchBytes) {
		size += len(behind[n].Payload)
		n++
	}
	if n == 0 {
		delete(k.waiting, key)
		return nil
	}
	k.waiting[key] = behind[n:]
	return behind[:n]
}

// carry gives records of one key to the shared log in one call, however often that takes, and finishes them. They are handed
// back when ctx ends.
func (s *Spool) carry(ctx context.Context, topic string, batch []*message.Message) {
	failed := false
	for delay := soonest; ; delay = min(max(2*delay, soonest), latest) {
		err := s.try(ctx, topic, batch)
		switch {
		case err == nil:
			s.metrics.drained.Add(float64(len(batch)))
			s.finished(batch, failed)
			return
		case ctx.Err() != nil:
			handBack(batch)
			return
		case final(err) && len(batch) > 1: // of one of them
			for i := range batch {
				s.carry(ctx, topic, batch[i:i+1])
			}
			s.unstuck(failed)
			return
		case final(err):
			if err = s.putAway(ctx, topic, batch[0], err); err == nil {
				s.finished(batch, failed)
				return
			}
		}
		s.failed(err, !failed)
		failed = true
		if s.gate.isShut() {
			delay = 0 // it is the gate that says when
			continue
		}
		if !pause(ctx, delay*4/5+rand.N(delay*2/5)) {
			handBack(batch)
			return
		}
	}
}

func handBack(batch []*message.Message) {
	for _, m := range batch {
		m.Nack()
	}
}

// try gives records to the shared log once, when it is their turn.
func (s *Spool) try(ctx context.Context, topic string, batch []*message.Message) error {
	scout, err := s.gate.enter(ctx)
	if err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	for _, m := range batch {
		m.SetContext(bound)
	}
	err = s.c.Log.Publish(topic, batch...)
	if err == nil || final(err) {
		s.gate.pass()
		return err
	}
	s.gate.fail()
	if scout {
		s.gate.tell()
	}
	return err
}

// finished takes records out of the count, then acks them: when the file says that all are finished, all are counted.
func (s *Spool) finished(batch []*message.Message, failed bool) {
	s.unstuck(failed)
	s.mu.Lock()
	s.waiting -= int64(len(batch))
	s.bytes -= chargeAll(batch)
	s.sweep.Store(true)
	s.settle()
	s.mu.Unlock()
	for _, m := range batch {
		m.Ack()
	}
}

// unstuck ends a time of trying in vain, if there was one.
func (s *Spool) unstuck(failed bool) {
	if !failed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck--
}

// failed notes that records were tried in vain.
func (s *Spool) failed(err error, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cause = err
	if first {
		s.stuck++
	}
	if s.way == held {
		s.release(aside)
	}
}

// tidy removes what was drained, and makes sure that what cannot be read is not waited for.
func (s *Spool) tidy(ctx context.Context) {
	s.reconcile(ctx)
	if !s.sweep.Swap(false) {
		return
	}
	s.mu.Lock()
	open := make(map[string]bool, len(s.lanes)) // one without a place would lose what waits
	for _, l := range s.lanes {
		open[l.topic] = l.open
	}
	s.mu.Unlock()
	ever := time.Unix(0, math.MaxInt64)
	_, held, err := s.c.Local.Retain(ctx, func(topic string) bool { return open[topic] }, ever, []string{group})
	if err != nil && ctx.Err() == nil {
		s.logger.Warn("what was drained could not be removed from the spool; trying again in a second", "error", err)
	}
	if held > 0 || err != nil { // not confirmed yet, or the group's place is not yet on disk
		s.sweep.Store(true)
	}
}

// reconcile believes the file when it says that nothing waits: a damaged record is never handed out.
func (s *Spool) reconcile(ctx context.Context) {
	s.mu.Lock()
	s.settle()
	appends, busy := s.appends, s.appending > 0 || s.waiting == 0
	lanes := make([]string, 0, len(s.lanes))
	for topic := range s.lanes {
		lanes = append(lanes, topic)
	}
	s.mu.Unlock()
	if busy {
		return
	}
	for _, topic := range lanes {
		if n, _, err := s.c.Local.Lag(ctx, topic, group); err != nil || n > 0 {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.appends != appends || s.appending > 0 || s.waiting == 0 {
		return
	}
	s.logger.Error("events in the spool are damaged and were passed over; the lines before this one say which", "events", s.waiting)
	s.waiting, s.bytes = 0, 0
	s.settle()
}

// What a refused record says of itself, beside its own metadata.
const (
	refusedTopic  = "tidewire_spool_topic"
	refusedReason = "tidewire_spool_reason"
)

// putAway keeps what the shared log refused. nil: it is on disk.
func (s *Spool) putAway(ctx context.Context, topic string, m *message.Message, cause error) error {
	kept := message.NewMessageWithContext(ctx, m.UUID, m.Payload)
	for k, v := range m.Metadata {
		kept.Metadata[k] = v
	}
	kept.Metadata[refusedTopic], kept.Metadata[refusedReason] = topic, cause.Error()
	if err := s.c.Local.Publish(Refused, kept); err != nil {
		return fmt.Errorf("keep what the shared log refused: %w", err)
	}
	s.metrics.refused.Inc()
	s.mu.Lock()
	s.refused++
	s.bytes += chargeOf(kept)
	s.mu.Unlock()
	s.logger.Error("the shared log refuses an event for good; it is kept in the spool and offered again at each start",
		"topic", topic, "id", m.UUID, "bytes", len(m.Payload), "error", cause)
	return nil
}

// offerRefused gives the shared log what it refused in the past once more.
func (s *Spool) offerRefused(ctx context.Context) {
	n, _, err := s.c.Local.Lag(ctx, Refused, group)
	if err == nil && n == 0 {
		return
	}
	if err == nil {
		err = s.offer(ctx, n)
	}
	if err != nil && ctx.Err() == nil {
		s.logger.Warn("what the shared log refused could not be offered again", "error", err)
	}
}

func (s *Spool) offer(ctx context.Context, n int64) (err error) {
	subscriber, err := s.c.Local.Subscriber(sqlitelog.SubscriberConfig{Group: group})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	out, err := subscriber.Subscribe(context.WithoutCancel(ctx), Refused)
	if err != nil {
		return err
	}
	// Only those that are there now: one that is refused again comes behind them.
	for range n {
		select {
		case m, more := <-out:
			if !more {
				return nil
			}
			s.offerOne(ctx, m)
		case <-ctx.Done():
			return nil
		}
	}
	_, _, err = s.c.Local.Retain(ctx, func(topic string) bool { return topic == Refused }, time.Unix(0, math.MaxInt64), []string{group})
	return err
}

func (s *Spool) offerOne(ctx context.Context, m *message.Message) {
	size, topic := chargeOf(m), m.Metadata[refusedTopic]
	delete(m.Metadata, refusedTopic)
	delete(m.Metadata, refusedReason)
	for {
		err := s.try(ctx, topic, []*message.Message{m})
		if final(err) {
			err = s.putAway(ctx, topic, m, err)
		}
		if err == nil {
			s.mu.Lock()
			s.refused--
			s.bytes -= size
			s.mu.Unlock()
			m.Ack()
			return
		}
		if !pause(ctx, latest) {
			m.Nack()
			return
		}
	}
}
