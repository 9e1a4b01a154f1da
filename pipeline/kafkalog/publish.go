package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go/protocol"
)

// The states of a draft.
const (
	draftWaiting = iota // in its partition's queue
	draftTaken          // in a request
	draftSettled        // its result is final
)

// draft is one message on its way to its partition. The publisher's mutex guards it.
type draft struct {
	call   *call
	index  int // in the call
	record protocol.Record
	size   int
	state  int
	alone  bool // a batch it was in was refused: it goes by itself, so that the others do not pay for it
}

// call is one call of Publish. The publisher's mutex guards it until done is closed.
type call struct {
	topic  string
	drafts []*draft
	errs   []error
	left   int   // drafts that are not settled
	weight int64 // in the queue
	began  time.Time
	gone   error // why its drafts need not be sent any more: its caller waits no longer, or one of them failed
	done   chan struct{}
}

// Publish appends the messages to the topic and returns nil only when all in-sync replicas of the cluster have every one of them. Messages with equal
// keys (see Config.PartitionKey) go to the same partition, in the order of the call and of calls that follow one another. The log keeps
// metadata and payloads: they must not be changed afterwards, not even after an error.
//
// Each message comes to one of these ends. Stored. Refused, with an error that has Refused() bool true: it is too large, or the broker will not have
// it; it is not stored, and the messages it shared a request with do not suffer. A call of several of which one is too large is refused as a whole and nothing of it is stored. Unknown, with an
// error that has Unknown() bool true: a request was sent and not answered (or answered with doubt), so that the message is stored, or will be, or never; it is
// not sent again, because only the caller can say whether a second copy does harm. Any other error: it is not stored.
// What certainly was not stored because a partition had no leader, or another one, or too few replicas, is sent again until the message's context or
// PublishTimeout ends. The error of a call with several messages wraps those of each; it has Refused() bool true when one was refused and nothing of the
// call is stored or may be.
//
// The order of a partition: one request for it is under way at a time, and what waits behind messages that have to be sent again waits on. When a result is unknown, its callers are
// told at once, the connection is given up, and the partition's next messages wait until its leader, asked anew, has answered a question about
// it: what the lost request brought is then in the log before them, save for a broker that still had it unread. Such a
// record, late by a broken connection, can be told by its number (tidewire-seq), which is lower than that of records before it.
func (l *Log) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	began := time.Now()
	ctx, release := bound(messages)
	defer release()
	ctx, cancel := context.WithTimeout(ctx, l.c.PublishTimeout)
	defer cancel()
	d, err := l.topic(ctx, topic)
	if err != nil {
		return l.outcome(&unsentError{topic, err}, len(messages))
	}
	c := &call{topic: topic, drafts: make([]*draft, len(messages)), errs: make([]error, len(messages)), left: len(messages), began: began, done: make(chan struct{})}
	lines := make([]partition, len(messages))
	for i, m := range messages {
		key := l.c.PartitionKey(m)
		r, size, err := encodeRecord(m, key)
		most := min(l.c.MaxRecord, d.most) - batchOverhead
		if err == nil && size > most {
			err = fmt.Errorf("the message has %d bytes, more than %d", size, most)
		}
		if err != nil {
			return l.outcome(&refusedError{topic, err.Error()}, len(messages))
		}
		if key == "" {
			key = m.UUID
		}
		c.drafts[i] = &draft{call: c, index: i, record: r, size: size}
		c.weight += int64(size)
		lines[i] = partition{topic, spread(key, d.partitions)}
	}
	if err := l.publish.enqueue(ctx, c, lines); err != nil {
		return l.outcome(&unsentError{topic, err}, len(messages))
	}
	select {
	case <-c.done:
		return several(topic, c.errs)
	case <-ctx.Done():
		return several(topic, l.publish.leave(c, ctx.Err()))
	}
}

// outcome counts a call of which nothing went into the queue, and returns its error.
func (l *Log) outcome(err error, messages int) error {
	l.metrics.published.WithLabelValues(result(err)).Add(float64(messages))
	return err
}

// result is an error's word in the metrics.
func result(err error) string {
	if err == nil {
		return resultStored
	}
	switch err.(type) { //nolint:errorlint // they are made here and not wrapped
	case *refusedError:
		return resultRefused
	case *unknownError:
		return resultUnknown
	}
	return resultUnsent
}

// several makes one error of those of a call's messages.
func several(topic string, errs []error) error {
	var failed []error
	for _, err := range errs {
		if err != nil {
			failed = append(failed, err)
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(errs) == 1:
		return failed[0]
	}
	return &severalError{topic: topic, of: len(errs), failed: failed}
}

// bound returns a context that ends with the first of the messages' contexts.
func bound(messages []*message.Message) (context.Context, func()) {
	ctx := messages[0].Context()
	var stops []func() bool
	cancel := context.CancelFunc(func() {})
	for _, m := range messages[1:] {
		other := m.Context()
		if other == messages[0].Context() || other.Done() == nil {
			continue
		}
		if stops == nil {
			ctx, cancel = context.WithCancel(ctx)
		}
		stops = append(stops, context.AfterFunc(other, cancel))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// enqueue puts a call's drafts into the queues of their partitions, when there is room.
func (p *publisher) enqueue(ctx context.Context, c *call, ps []partition) error {
	// A call that is larger than the whole queue may go when it is alone there.
	c.weight = min(c.weight, int64(p.l.c.QueueBytes))
	if err := p.room.Acquire(ctx, c.weight); err != nil {
		return fmt.Errorf("no room in the queue: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.room.Release(c.weight)
		return ErrClosed
	}
	p.open += len(c.drafts)
	p.l.metrics.queue.Add(float64(c.weight))
	for i, d := range c.drafts {
		ln := p.lines[ps[i]]
		if ln == nil {
			ln = &line{p: ps[i], broker: homeless}
			p.lines[ps[i]] = ln
		}
		ln.seq++
		seq := append(append(make([]byte, 0, seqLength), p.name...), '-')
		d.record.Headers = append(d.record.Headers, protocol.Header{Key: headerSeq, Value: strconv.AppendUint(seq, ln.seq, 10)})
		ln.queue = append(ln.queue, d)
		p.list(ln)
	}
	return nil
}

// leave withdraws what was not sent of a call whose caller waits no longer, and returns the errors it is told: of what is in a request
// that it is unknown. The requests go on.
func (p *publisher) leave(c *call, why error) []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.gone = why
	for _, d := range c.drafts {
		if d.state == draftWaiting {
			p.settle(d, &unsentError{c.topic, why})
		}
	}
	errs := slices.Clone(c.errs)
	for _, d := range c.drafts {
		if d.state == draftTaken {
			errs[d.index] = &unknownError{c.topic, why}
		}
	}
	return errs
}

// settle makes a draft's result final.
func (p *publisher) settle(d *draft, err error) {
	if d.state == draftSettled {
		return
	}
	d.state = draftSettled
	c := d.call
	c.errs[d.index] = err
	p.l.metrics.published.WithLabelValues(result(err)).Inc()
	p.l.metrics.seconds.Observe(time.Since(c.began).Seconds())
	p.open--
	d.record = protocol.Record{}
	if c.left--; c.left == 0 {
		p.room.Release(c.weight)
		p.l.metrics.queue.Sub(float64(c.weight))
		close(c.done)
	}
	if p.open == 0 && p.closed {
		p.drained.Do(func() { close(p.empty) })
	}
}

// fail withdraws everything of a call that is not in a request: its caller has an error to deal with and would publish that again anyway.
func (p *publisher) fail(c *call) {
	c.gone = errors.New("another message of the same call failed")
	for _, d := range c.drafts {
		if d.state == draftWaiting {
			p.settle(d, &unsentError{c.topic, c.gone})
		}
	}
}
