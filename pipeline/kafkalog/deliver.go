package kafkalog

import (
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/produce"

	"github.com/tidewire/tidewire/internal/failpoint"
)

// deliver sends a request, reads the answer and does with each batch what it calls for.
func (p *publisher) deliver(r *request) {
	req, err := r.encode(p.l.client.wire, p.l.c.RequestTimeout*9/10)
	if err == nil {
		failpoint.Hit("kafka-before-produce")
		p.l.metrics.requests.Inc()
		var answer any
		if answer, err = p.l.client.roundTrip(p.ctx, req); err == nil {
			failpoint.Hit("kafka-after-produce")
			p.apply(r, p.verdicts(answer.(*produce.Response)))
			return
		}
	}
	unsent := r.state.CompareAndSwap(unwritten, cancelled)
	verdicts := make(map[partition]error, len(r.batches))
	for _, b := range r.batches {
		if unsent {
			verdicts[b.line.p] = &verdict{again, err}
		} else {
			verdicts[b.line.p] = &verdict{doubt, err}
		}
	}
	p.apply(r, verdicts)
}

// What an answer means for a batch that is not stored.
const (
	again  = iota // not stored, and may be later
	denied        // not stored, and will be when somebody has put something right
	refuse        // not stored, and never will be
	doubt         // stored or not, now or later
)

// verdict is the answer for one batch.
type verdict struct {
	means int
	err   error
}

func (v *verdict) Error() string { return v.err.Error() }

// verdicts reads an answer: nil for what is stored.
func (p *publisher) verdicts(r *produce.Response) map[partition]error {
	vs := make(map[partition]error)
	for _, t := range r.Topics {
		topic := t.Topic[min(len(p.l.c.Prefix), len(t.Topic)):]
		for _, part := range t.Partitions {
			of := partition{topic, part.Partition}
			vs[of] = nil
			if err := code(part.ErrorCode, part.ErrorMessage); err != nil {
				vs[of] = &verdict{meaning(kafka.Error(part.ErrorCode), part.BaseOffset), fmt.Errorf("%s: %w", of, err)}
			}
		}
	}
	return vs
}

// meaning says what a code in the answer to a produce request tells of the batch. Only those are certain that the broker gives
// before it writes; any other leaves doubt. Some it gives before or after: a leader that lost its partition while it waited for the replicas says so with the
// same code as one that never had it, but names the offset at which it wrote.
func meaning(e kafka.Error, offset int64) int {
	switch e {
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.InvalidRecord, kafka.InvalidTimestamp, kafka.InvalidMessageSize, kafka.UnsupportedForMessageFormat:
		return refuse
	case kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed, kafka.PolicyViolation, kafka.InvalidTopic:
		return denied
	case kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.NotEnoughReplicas, kafka.UnknownTopicOrPartition, kafka.InvalidMessage,
		kafka.FencedLeaderEpoch, kafka.UnknownLeaderEpoch, kafka.ReplicaNotAvailable:
		if offset < 0 {
			return again
		}
		return doubt
	default:
		return doubt
	}
}

var errUnanswered = errors.New("the answer does not name the partition")

// apply does what the verdicts call for and lists the lines again.
func (p *publisher) apply(r *request, verdicts map[partition]error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range r.batches {
		err, named := verdicts[b.line.p]
		if !named {
			err = &verdict{doubt, errUnanswered}
		}
		ln := b.line
		ln.busy = false
		if err == nil {
			for _, d := range b.drafts {
				p.settle(d, nil)
			}
			ln.tries = 0
			p.list(ln)
			continue
		}
		v := err.(*verdict) //nolint:errorlint // it is made above
		p.judge(b, v)
		if v.means == again || v.means == doubt {
			p.l.client.refresh()
			ln.fence = ln.fence || v.means == doubt
			p.lose(ln)
		} else {
			p.list(ln)
		}
	}
}

// judge settles a batch that is not stored, or puts it back in front of its queue.
func (p *publisher) judge(b *batch, v *verdict) {
	var back []*draft
	for _, d := range b.drafts {
		c := d.call
		switch {
		case v.means == doubt:
			p.settle(d, &unknownError{c.topic, v.err})
			p.fail(c)
		case v.means == refuse && len(b.drafts) == 1:
			p.settle(d, &refusedError{c.topic, v.err.Error()})
			p.fail(c)
		case v.means == denied:
			p.settle(d, &unsentError{c.topic, v.err})
			p.fail(c)
		case c.gone != nil:
			p.settle(d, &unsentError{c.topic, c.gone})
		case p.ctx.Err() != nil:
			p.settle(d, &unsentError{c.topic, ErrClosed})
		default:
			d.state = draftWaiting
			d.alone = d.alone || v.means == refuse
			back = append(back, d)
		}
	}
	b.line.queue = append(back, b.line.queue...)
}
