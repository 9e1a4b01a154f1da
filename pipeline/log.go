package pipeline

import (
	"context"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Names of the log's topics.
const (
	eventsTopic = "events."
	deadTopic   = "dead."
)

// EventsTopic is the topic that holds the events of a connection.
func EventsTopic(connection string) string { return eventsTopic + connection }

// DeadTopic is the topic that holds the dead letters of a route.
func DeadTopic(route string) string { return deadTopic + route }

// Position is a record's place in the log.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Log is what the pipeline needs of the durable log. Publish returns nil only when every message is durable; the
// contexts of the messages bound it. An error that has a method Conflict() bool returning true says that a
// message's UUID is known with another payload; Refused() bool, that nothing was stored and that trying again
// is useless (too large). Any other error: stored or not is unknown, and the sender must come again.
type Log interface {
	message.Publisher
	// Ensure creates topics that do not exist yet.
	Ensure(ctx context.Context, topics ...string) error
	// Subscriber opens a consumer group's subscriber. Its place survives restarts.
	Subscriber(s Subscription) (message.Subscriber, error)
	// Lag says how many records of a topic a group has not finished, and when the oldest of them was
	// appended (zero when there are none).
	Lag(ctx context.Context, topic, group string) (records int64, oldest time.Time, err error)
	// Shared says whether other hubs read for the same groups. Then a record in hand may pass to one of them: its message's context ends,
	// no try may begin any more, and an ack counts only if it comes soon.
	Shared() bool
}

// Subscription is one consumer group's way of reading.
type Subscription struct {
	Group string
	// InHand bounds the messages handed out and not yet acked, per topic.
	InHand int
	// Key orders: messages with equal non-empty keys are handed out one at a time, in log order; an empty key
	// asks for no order. Called once for each record that Match lets through.
	Key func(*message.Message) string
	// Match says whether a record concerns the group. One that does not is finished at once and never handed
	// out. It is given the record that all groups share: it must not ack, nack or change it.
	Match func(*message.Message) bool
	// FromEnd starts a group that has no place yet after the last record instead of before the first.
	FromEnd bool
}

// Unique says in which topics the log stores an ID once: events, because the same fact has the same ID through whichever door it comes,
// and dead letters, because a delivery that dies again after a crash is the same dead letter.
func Unique(topic string) bool {
	return HoldsEvents(topic) || HoldsDeadLetters(topic)
}

// HoldsEvents reports whether a topic is one of EventsTopic's.
func HoldsEvents(topic string) bool { return strings.HasPrefix(topic, eventsTopic) }

// HoldsDeadLetters reports whether a topic is one of DeadTopic's.
func HoldsDeadLetters(topic string) bool { return strings.HasPrefix(topic, deadTopic) }
