package kafkalog

import (
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

// watermillSuite runs Watermill's own tests on a cluster. restart stops the cluster and starts it again; nil: it is not tried.
func watermillSuite(t *testing.T, c Config, restart []string) {
	silence()
	l := opened(t, hurried(c))
	group := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		s, err := l.Subscriber(SubscriberConfig{Group: group})
		if err != nil {
			t.Fatal(err)
		}
		return unclosed{l}, s
	}
	tests.TestPubSub(t, tests.Features{
		ConsumerGroups:                      true,
		GuaranteedOrder:                     true,
		GuaranteedOrderWithSingleSubscriber: false, // ordered with many subscribers as well
		Persistent:                          true,
		RestartServiceCommand:               restart,
	}, func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, "suite") }, group)
}

func TestWatermillSuite(t *testing.T) {
	c := at(cluster(t, 2))
	c.Partitions = 1 // the suite asks for the order of all messages
	watermillSuite(t, c, nil)
}

func slogQuiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
