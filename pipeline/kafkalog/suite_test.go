package kafkalog

import (
	"context"
	"io"
	"log"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
)

// unclosed is the log's publisher for tests that close it and go on.
type unclosed struct{ message.Publisher }

func (unclosed) Close() error { return nil }

var silence = sync.OnceFunc(func() { log.SetOutput(io.Discard) }) // the suite talks a lot

// hurried is a config for a suite that closes subscribers with messages in hand and nacks a lot.
func hurried(c Config) Config {
	c.CloseTimeout, c.NackDelay, c.NackDelayMax, c.CommitEvery = 200*time.Millisecond, time.Millisecond, 5*time.Millisecond, 50*time.Millisecond
	c.HeartbeatInterval = 100 * time.Millisecond
	return c
}

// watermillSuite runs Watermill's own tests on a log with a hurried config. restart stops the cluster and starts it again; nil: it is not tried.
func watermillSuite(t *testing.T, l neutral, restart []string) {
	silence()
	group := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		s, err := l.Subscriber(SubscriberConfig{Group: group})
		if err != nil {
			t.Fatal(err)
		}
		return unclosed{l}, s
	}
	features := tests.Features{
		ConsumerGroups:                      true,
		GuaranteedOrder:                     true,
		GuaranteedOrderWithSingleSubscriber: false, // ordered with many subscribers as well
		Persistent:                          true,
	}
	if restart != nil {
		t.Run("Reconnect", func(t *testing.T) {
			f := features
			f.RestartServiceCommand = restart
			tests.TestReconnect(t, tests.TestContext{TestID: tests.NewTestID(), Features: f}, func(t *testing.T) (message.Publisher, message.Subscriber) {
				return noted(group(t, "reconnect"))
			})
		})
	}
	tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, "suite") }, group)
}

// notes are when Publish returned, by UUID. Watermill's test of reconnecting compares what came with what its publishers have noted as published, and does not wait for
// them to note it: so nothing comes before they have had time to.
type notes struct {
	message.Publisher
	message.Subscriber
	handing sync.WaitGroup

	mu   sync.Mutex
	when map[string]time.Time
}

// noteWithin is the time they have.
const noteWithin = 300 * time.Millisecond

func noted(p message.Publisher, s message.Subscriber) (message.Publisher, message.Subscriber) {
	n := &notes{Publisher: p, Subscriber: s, when: make(map[string]time.Time)}
	return notesOfPublisher{n}, n
}

// notesOfPublisher leaves closing to the log.
type notesOfPublisher struct{ *notes }

func (n notesOfPublisher) Close() error { return n.Publisher.Close() }

func (n *notes) Publish(topic string, ms ...*message.Message) error {
	err := n.Publisher.Publish(topic, ms...)
	if err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, m := range ms {
			n.when[m.UUID] = time.Now()
		}
	}
	return err
}

func (n *notes) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := n.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	n.handing.Go(func() {
		defer close(out)
		for m := range in {
			if !n.due(m) {
				m.Nack()
				continue
			}
			select {
			case out <- m:
			case <-m.Context().Done():
				m.Nack()
			}
		}
	})
	return out, nil
}

// due waits until a message may come; false: it is given back.
func (n *notes) due(m *message.Message) bool {
	for {
		n.mu.Lock()
		at, ok := n.when[m.UUID]
		n.mu.Unlock()
		wait := noteWithin
		if ok {
			if wait -= time.Since(at); wait <= 0 {
				return true
			}
		}
		select {
		case <-time.After(wait):
		case <-m.Context().Done():
			return false
		}
	}
}

func (n *notes) Close() error {
	defer n.handing.Wait()
	return n.Subscriber.Close()
}

func slogQuiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
