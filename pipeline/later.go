package pipeline

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Later is a log on Kafka that can be named before it is there, so that webhooks can be taken meanwhile (see Spooled). Until Open every call fails
// at once, with the reason; nothing is kept here.
type Later struct {
	why func() error
	log atomic.Pointer[Log]
}

// NewLater returns a log that is opened later. why says, never with nil, why it is not yet; it is called from many goroutines.
func NewLater(why func() error) *Later { return &Later{why: why} }

// Open says that the log is there: all calls go to it from now on.
func (l *Later) Open(log Log) { l.log.Store(&log) }

// Opened reports whether the log is there.
func (l *Later) Opened() bool { return l.log.Load() != nil }

// get returns the log, or why there is none.
func (l *Later) get() (Log, error) {
	if log := l.log.Load(); log != nil {
		return *log, nil
	}
	return nil, l.why()
}

// Publish implements Log.
func (l *Later) Publish(topic string, messages ...*message.Message) error {
	log, err := l.get()
	if err != nil {
		return fmt.Errorf("publish to %s: %w", topic, err)
	}
	return log.Publish(topic, messages...)
}

// Close does nothing: whoever has opened the log closes it.
func (l *Later) Close() error { return nil }

// Ensure implements Log.
func (l *Later) Ensure(ctx context.Context, topics ...string) error {
	log, err := l.get()
	if err != nil {
		return err
	}
	return log.Ensure(ctx, topics...)
}

// Subscriber implements Log.
func (l *Later) Subscriber(s Subscription) (message.Subscriber, error) {
	log, err := l.get()
	if err != nil {
		return nil, err
	}
	return log.Subscriber(s)
}

// Lag implements Log.
func (l *Later) Lag(ctx context.Context, topic, group string) (records int64, oldest time.Time, err error) {
	log, err := l.get()
	if err != nil {
		return 0, time.Time{}, err
	}
	return log.Lag(ctx, topic, group)
}

// Shared is true, as of every log on Kafka.
func (l *Later) Shared() bool { return true }
