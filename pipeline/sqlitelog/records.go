package sqlitelog

import (
	"context"
	"fmt"
	"iter"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Bounds returns the offset of the oldest record that the topic keeps and that of the next one to come; ok is false when there is no such topic.
func (l *Log) Bounds(topic string) (first, next int64, ok bool) {
	l.mu.RLock()
	t := l.topics[topic]
	l.mu.RUnlock()
	if t == nil {
		return 0, 0, false
	}
	first, next = t.end()
	return first, next, true
}

// Places returns how far the groups that have a place in the topic have got: each has finished everything before its offset.
func (l *Log) Places(topic string) map[string]int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	places := make(map[string]int64)
	for key, p := range l.places {
		if key.t.name == topic {
			places[key.group] = p.finished.Load()
		}
	}
	return places
}

// Batch is some records of a topic that follow one another.
type Batch struct {
	// Next is the offset behind the last of them.
	Next int64
	// Messages are the caller's own. Those that are not as they were written are missing.
	Messages []*message.Message
}

// walkBytes bounds the payloads of a batch. It may be exceeded by one record.
const walkBytes = 1 << 20

// Batches walks the records of a topic in order, from one offset up to another, that one left out, whoever has finished them. A batch has at most so many records and about a
// megabyte, and so much is in memory at a time. Records that are not as they were written are left out and reported. An error ends the walk.
func (l *Log) Batches(ctx context.Context, topic string, from, to int64, most int) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		l.mu.RLock()
		t, closed := l.topics[topic], l.closed
		l.mu.RUnlock()
		if closed {
			yield(Batch{}, ErrClosed)
			return
		}
		if t == nil {
			return
		}
		first, next := t.end()
		from, to = max(from, first), min(to, next)
		for from < to {
			b := Batch{Next: from}
			for size := 0; b.Next < to && len(b.Messages) < most && size < walkBytes; {
				records, upTo, err := l.read(ctx, t, b.Next, min(to, b.Next+int64(most-len(b.Messages))))
				if err != nil {
					yield(Batch{}, fmt.Errorf("read %s from offset %d: %w", topic, upTo, err))
					return
				}
				for _, r := range records {
					b.Messages, size = append(b.Messages, r.msg), size+len(r.msg.Payload)
				}
				b.Next = upTo
			}
			if !yield(b, nil) {
				return
			}
			from = b.Next
		}
	}
}
