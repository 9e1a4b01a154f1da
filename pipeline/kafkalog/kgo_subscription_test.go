package kafkalog

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kgoSubscription is one Subscribe.
type kgoSubscription struct {
	s      *kgoSubscriber
	topic  string
	ctx    context.Context // of the messages
	cancel context.CancelFunc
	client *kgo.Client
	out    chan *message.Message
	wake   chan struct{} // something may be handed out, or there is room to read on
	gone   chan struct{}
	work   sync.WaitGroup

	committing sync.Mutex // so that no place is written after a later one

	mu     sync.Mutex
	held   map[int32]*kgoPartition
	inHand map[string]*kgoItem // by UUID
}

// kgoPartition is one partition while it is held. Its items are those from the group's place on.
type kgoPartition struct {
	items     []*kgoItem
	place     int64
	committed int64
	stop      chan struct{} // closed when it is to be given back
	idle      chan struct{} // closed when nothing is in hand after that
	stopping  bool
	hand      int
}

type kgoItem struct {
	record
	of    *kgoPartition
	key   string
	done  bool
	nacks int
	after time.Time // not handed out before
}

func newKgoSubscription(ctx context.Context, s *kgoSubscriber, topic string) (*kgoSubscription, error) {
	sub := &kgoSubscription{
		s: s, topic: topic, out: make(chan *message.Message), wake: make(chan struct{}, 1), gone: make(chan struct{}),
		held: make(map[int32]*kgoPartition), inHand: make(map[string]*kgoItem),
	}
	sub.ctx, sub.cancel = context.WithCancel(ctx)
	c := s.l.c
	var err error
	sub.client, err = kgo.NewClient(
		kgo.SeedBrokers(c.Brokers...), kgo.ConsumerGroup(c.Prefix+s.c.Group), kgo.ConsumeTopics(c.Prefix+topic),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(c.SessionTimeout), kgo.HeartbeatInterval(c.HeartbeatInterval), kgo.RebalanceTimeout(c.RebalanceTimeout),
		kgo.FetchMaxWait(pollFor), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { sub.giveBack(lost, true) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { sub.giveBack(lost, false) }))
	if err != nil {
		sub.cancel()
		return nil, err
	}
	var both sync.WaitGroup
	both.Go(sub.read)
	both.Go(sub.handOut)
	go func() { // Close waits for it
		defer close(sub.gone)
		both.Wait()
		close(sub.out)
		sub.client.CloseAllowingRebalance() // which gives the partitions back
		sub.work.Wait()
	}()
	return sub, nil
}

// read reads as long as not too much waits, and commits now and then.
func (s *kgoSubscription) read() {
	for s.ctx.Err() == nil {
		if s.waiting() < 2000 {
			ctx, cancel := context.WithTimeout(s.ctx, s.s.l.c.CommitEvery)
			s.client.PollRecords(ctx, 500).EachRecord(s.take)
			cancel()
			s.client.AllowRebalance()
		} else {
			select {
			case <-s.ctx.Done():
			case <-time.After(s.s.l.c.CommitEvery):
			}
		}
		s.mu.Lock()
		all := slices.Collect(maps.Keys(s.held))
		s.mu.Unlock()
		s.commit(all)
	}
}

func (s *kgoSubscription) waiting() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.held {
		n += len(p.items)
	}
	return n
}

// take appends a record to its partition.
func (s *kgoSubscription) take(r *kgo.Record) {
	i := &kgoItem{record: decode(s.topic, r)}
	if i.fault != nil {
		s.s.l.c.OnDamage(s.topic, r.Partition, r.Offset, i.fault)
		i.done = true
	} else {
		m := i.message()
		i.done = s.s.c.Match != nil && !s.s.c.Match(m)
		if s.s.c.Key != nil {
			i.key = s.s.c.Key(m)
		}
	}
	s.mu.Lock()
	p := s.held[r.Partition]
	if p == nil {
		p = &kgoPartition{place: r.Offset, committed: -1, stop: make(chan struct{}), idle: make(chan struct{})}
		s.held[r.Partition] = p
	}
	i.of = p
	p.items = append(p.items, i)
	p.advance()
	s.mu.Unlock()
	s.stir()
}

// advance moves the place over what is finished without a gap.
func (p *kgoPartition) advance() {
	for len(p.items) > 0 && p.items[0].done {
		p.place = p.items[0].offset + 1
		p.items = p.items[1:]
	}
}

func (s *kgoSubscription) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// handOut sends what may be sent, one after the other.
func (s *kgoSubscription) handOut() {
	for s.ctx.Err() == nil {
		i, wait := s.next()
		if i == nil {
			timer := time.NewTimer(wait)
			select {
			case <-s.wake:
			case <-timer.C:
			case <-s.ctx.Done():
			}
			timer.Stop()
			continue
		}
		m := i.message()
		ctx, cancel := context.WithCancel(s.ctx)
		m.SetContext(ctx)
		select {
		case s.out <- m:
			s.work.Go(func() {
				defer cancel()
				s.watch(i, m, cancel)
			})
		case <-i.of.stop:
			cancel()
			s.finished(i, false)
		case <-s.ctx.Done():
			cancel()
			s.finished(i, false)
		}
	}
}

// next is the next item that may be handed out, which is in hand then; nil: none, for so long at most.
func (s *kgoSubscription) next() (*kgoItem, time.Duration) {
	wait := time.Minute
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inHand) >= s.s.c.InHand {
		return nil, wait
	}
	now := time.Now()
	for _, p := range s.held {
		if p.stopping {
			continue
		}
		passed := make(map[string]bool) // keys with an older item that is not finished
		for _, i := range p.items {
			if i.done {
				continue
			}
			_, twin := s.inHand[i.uuid]
			if free := !twin && !passed["u"+i.uuid] && (i.key == "" || !passed["k"+i.key]); free {
				if !i.after.After(now) {
					s.inHand[i.uuid] = i
					p.hand++
					return i, 0
				}
				wait = min(wait, i.after.Sub(now))
			}
			if s.s.c.Key == nil {
				break // all in order
			}
			passed["u"+i.uuid], passed["k"+i.key] = true, true
		}
	}
	return nil, wait
}

// watch waits for what becomes of a message.
func (s *kgoSubscription) watch(i *kgoItem, m *message.Message, cancel context.CancelFunc) {
	stop := i.of.stop
	for {
		select {
		case <-m.Acked():
			s.finished(i, true)
			return
		case <-m.Nacked():
			s.finished(i, false)
			return
		case <-stop:
			cancel() // who only waits with it gives it back
			stop = nil
		case <-i.of.idle: // given up
			return
		}
	}
}

// finished notes what became of an item in hand.
func (s *kgoSubscription) finished(i *kgoItem, ack bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := i.of
	select {
	case <-p.idle:
		return // too late: the partition is another's
	default:
	}
	delete(s.inHand, i.uuid)
	i.done = ack
	if !ack {
		i.after = time.Now().Add(min(s.s.l.c.NackDelay<<min(i.nacks, 20), s.s.l.c.NackDelayMax))
		i.nacks++
	}
	p.advance()
	if p.hand--; p.stopping && p.hand == 0 {
		close(p.idle)
	}
	s.stir()
}

// giveBack waits for what is in hand, for a while, and commits unless the partitions are lost already.
func (s *kgoSubscription) giveBack(lost map[string][]int32, commit bool) {
	numbers := lost[s.s.l.c.Prefix+s.topic]
	timer := time.NewTimer(s.s.l.c.CloseTimeout)
	defer timer.Stop()
	var ps []*kgoPartition
	s.mu.Lock()
	for _, n := range numbers {
		if p := s.held[n]; p != nil {
			p.stopping = true
			close(p.stop)
			if p.hand == 0 {
				close(p.idle)
			}
			ps = append(ps, p)
		}
	}
	s.mu.Unlock()
	late := false
	for _, p := range ps {
		if commit && !late {
			select {
			case <-p.idle:
			case <-timer.C:
				late = true
			}
		}
	}
	if commit {
		s.commit(numbers)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range numbers {
		if p := s.held[n]; p != nil && p.hand > 0 {
			for uuid, i := range s.inHand {
				if i.of == p {
					delete(s.inHand, uuid)
				}
			}
			close(p.idle)
		}
		delete(s.held, n)
	}
}

// commit writes the places of partitions that have moved.
func (s *kgoSubscription) commit(numbers []int32) {
	s.committing.Lock()
	defer s.committing.Unlock()
	moved := make(map[int32]kgo.EpochOffset)
	s.mu.Lock()
	for _, n := range numbers {
		if p := s.held[n]; p != nil && p.place != p.committed {
			moved[n] = kgo.EpochOffset{Epoch: -1, Offset: p.place}
		}
	}
	s.mu.Unlock()
	if len(moved) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitWithin)
	defer cancel()
	ok := false
	s.client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{s.s.l.c.Prefix + s.topic: moved},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, r *kmsg.OffsetCommitResponse, err error) {
			ok = err == nil && !slices.ContainsFunc(r.Topics, func(t kmsg.OffsetCommitResponseTopic) bool {
				return slices.ContainsFunc(t.Partitions, func(p kmsg.OffsetCommitResponseTopicPartition) bool { return p.ErrorCode != 0 })
			})
		})
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, at := range moved {
		if p := s.held[n]; ok && p != nil {
			p.committed = at.Offset
		}
	}
}
