package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
	"golang.org/x/sync/semaphore"
)

// Bounds of one request. A batch is a partition's part of it, bounded by the topic as well.
const (
	requestBytes = 8 << 20
	batchBytes   = 1 << 20
)

// homeless is the broker of a line whose leader is not known.
const homeless int32 = -1

// line is the queue of one partition. It is in exactly one place: listed with its sender, in its sender's request, with the router, or, when it
// is empty, nowhere.
type line struct {
	p      partition
	broker int32 // whose sender it belongs to; homeless: the router's
	busy   bool  // listed or in a request or being looked for
	fence  bool  // a result is unknown: the leader must answer before the next request
	tries  int   // in a row that did not store anything
	after  time.Time
	queue  []*draft
	seq    uint64
}

// publisher brings drafts to the brokers: one sender for each broker, with one request under way that carries what had come together for all its partitions, and a
// router that finds the leaders of partitions which have none.
type publisher struct {
	l     *Log
	name  string // of this publisher, in headerSeq
	room  *semaphore.Weighted
	ctx   context.Context // ends when what is still under way is given up
	stop  context.CancelFunc
	work  sync.WaitGroup
	quit  chan struct{}
	empty chan struct{} // closed when closed and nothing is open

	mu      sync.Mutex // guards the following and lines, drafts and calls
	lines   map[partition]*line
	senders map[int32]*sender
	lost    []*line       // with the router
	search  chan struct{} // wakes the router
	open    int           // drafts that are not settled
	closed  bool
	drained sync.Once
}

// sender is what one broker is sent.
type sender struct {
	broker int32
	ready  []*line // that have drafts
	wake   chan struct{}
}

func newPublisher(l *Log) *publisher {
	ctx, stop := context.WithCancel(context.Background())
	p := &publisher{
		l: l, name: fmt.Sprintf("%08x", rand.Uint32()), room: semaphore.NewWeighted(int64(l.c.QueueBytes)),
		ctx: ctx, stop: stop, quit: make(chan struct{}), empty: make(chan struct{}),
		lines: make(map[partition]*line), senders: make(map[int32]*sender), search: make(chan struct{}, 1),
	}
	p.work.Go(p.route)
	return p
}

// close waits for what was taken, for CloseTimeout, then gives it up.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	if p.open == 0 {
		p.drained.Do(func() { close(p.empty) })
	}
	p.mu.Unlock()
	patience := time.NewTimer(p.l.c.CloseTimeout)
	defer patience.Stop()
	select {
	case <-p.empty:
	case <-patience.C:
	}
	p.stop()
	close(p.quit)
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ln := range p.lines {
		for _, d := range ln.queue {
			p.settle(d, &unsentError{d.call.topic, ErrClosed})
		}
		ln.queue = nil
	}
}

// list puts a line with drafts where it is seen to.
func (p *publisher) list(ln *line) {
	if ln.busy || len(ln.queue) == 0 {
		return
	}
	ln.busy = true
	if ln.broker == homeless {
		p.lost = append(p.lost, ln)
		wake(p.search)
		return
	}
	s := p.senders[ln.broker]
	if s == nil {
		s = &sender{broker: ln.broker, wake: make(chan struct{}, 1)}
		p.senders[ln.broker] = s
		p.work.Go(func() { p.send(s) })
	}
	s.ready = append(s.ready, ln)
	wake(s.wake)
}

// lose gives a line to the router, for not before a pause.
func (p *publisher) lose(ln *line) {
	ln.broker, ln.busy = homeless, false
	ln.after = time.Now().Add(delay(ln.tries))
	ln.tries++
	p.list(ln)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// send is a sender's goroutine.
func (p *publisher) send(s *sender) {
	for {
		select {
		case <-s.wake:
		case <-p.quit:
			return
		}
		for p.ctx.Err() == nil {
			r := p.take(s)
			if r == nil {
				break
			}
			began := time.Now()
			p.deliver(r)
			breathe(p.ctx, began, r.count())
		}
	}
}

// take makes a request of what waits for the broker; nil when nothing does. A line of which not all fits is last in the line afterwards.
func (p *publisher) take(s *sender) *request {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &request{}
	left := requestBytes
	for len(s.ready) > 0 && left > 0 {
		ln := s.ready[0]
		s.ready = s.ready[1:]
		b := ln.take(r, min(left, batchBytes, p.l.most(ln.p.topic)-batchOverhead))
		if b == nil {
			ln.busy = false // all of it was withdrawn
			continue
		}
		left -= b.size
		r.batches = append(r.batches, b)
	}
	if len(r.batches) == 0 {
		return nil
	}
	return r
}

// most is the bound of a batch in a topic.
func (l *Log) most(topic string) int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.topics[topic].most
}

// take makes a batch of the first drafts of the queue, of at least one; nil when there is none.
func (ln *line) take(r *request, most int) *batch {
	b := &batch{request: r, line: ln}
	n := 0
	for _, d := range ln.queue {
		if d.state == draftSettled {
			n++
			continue
		}
		if len(b.drafts) > 0 && (d.alone || b.drafts[0].alone || b.size+d.size > most) {
			break
		}
		d.state = draftTaken
		b.drafts = append(b.drafts, d)
		b.size += d.size
		n++
	}
	ln.queue = slices.Delete(ln.queue, 0, n)
	if len(b.drafts) == 0 {
		return nil
	}
	return b
}

// The states of a request.
const (
	unwritten int32 = iota
	written         // its bytes may have left
	cancelled       // it will not be written any more
)

// request is one produce request.
type request struct {
	batches []*batch
	state   atomic.Int32
}

// count is how many records there are in the request.
func (r *request) count() (n int) {
	for _, b := range r.batches {
		n += len(b.drafts)
	}
	return n
}

// batch is one partition's part of a request. It is read when the request is written, which is how it is known whether it ever was.
type batch struct {
	request *request
	line    *line
	drafts  []*draft
	size    int
	records []protocol.Record
	next    int
}

var errCancelled = errors.New("the request was cancelled before it was sent")

// ReadRecord returns the next record.
func (b *batch) ReadRecord() (*protocol.Record, error) {
	if !b.request.state.CompareAndSwap(unwritten, written) && b.request.state.Load() == cancelled {
		return nil, errCancelled
	}
	if b.next == len(b.records) {
		return nil, io.EOF
	}
	b.next++
	return &b.records[b.next-1], nil
}

// newProduceRequest is the only place that makes produce requests: every one asks for the acknowledgement of all in-sync replicas.
func newProduceRequest(patience time.Duration) *produce.Request {
	return &produce.Request{Acks: int16(kafka.RequireAll), Timeout: int32(patience.Milliseconds())}
}

// encode makes the request of kafka-go. The records are copied, since reading them uses them up and they may have to be sent again.
func (r *request) encode(wire func(string) string, patience time.Duration) (*produce.Request, error) {
	req := newProduceRequest(patience)
	index := make(map[string]int)
	for _, b := range r.batches {
		b.records, b.next = make([]protocol.Record, len(b.drafts)), 0
		for i, d := range b.drafts {
			b.records[i] = d.record
			for _, part := range []protocol.Bytes{d.record.Key, d.record.Value} {
				if part == nil {
					continue
				}
				if _, err := part.(io.Seeker).Seek(0, io.SeekStart); err != nil {
					return nil, err
				}
			}
		}
		i, ok := index[b.line.p.topic]
		if !ok {
			i = len(req.Topics)
			index[b.line.p.topic] = i
			req.Topics = append(req.Topics, produce.RequestTopic{Topic: wire(b.line.p.topic)})
		}
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, produce.RequestPartition{
			Partition: b.line.p.number, RecordSet: protocol.RecordSet{Version: 2, Records: b},
		})
	}
	return req, nil
}
