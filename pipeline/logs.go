package pipeline

import (
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/pipeline/kafkalog"
	"github.com/tidewire/tidewire/pipeline/spool"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// OnSQLite is the pipeline's log on the hub's SQLite file.
func OnSQLite(l *sqlitelog.Log) Log { return onSQLite{l} }

type onSQLite struct{ *sqlitelog.Log }

func (l onSQLite) Subscriber(s Subscription) (message.Subscriber, error) {
	return l.Log.Subscriber(sqlitelog.SubscriberConfig(s))
}

// Shared is false: one hub owns the file.
func (onSQLite) Shared() bool { return false }

// OnKafka is the pipeline's log on Kafka, which hubs share.
func OnKafka(l *kafkalog.Log) Log { return onKafka{l} }

type onKafka struct{ *kafkalog.Log }

func (l onKafka) Subscriber(s Subscription) (message.Subscriber, error) {
	return l.Log.Subscriber(kafkalog.SubscriberConfig(s))
}

// Shared is true: that is what Kafka is for.
func (onKafka) Shared() bool { return true }

// Spooled is a log whose records are published through a spool.
func Spooled(s *spool.Spool, l Log) Log { return spooled{Log: l, spool: s} }

type spooled struct {
	Log
	spool *spool.Spool
}

// Publish returns nil also when the messages are in the spool, which is durable and gives them to the log.
func (l spooled) Publish(topic string, messages ...*message.Message) error {
	return l.spool.Publish(topic, messages...)
}

// PartitionKey is what orders a record among its topic's: the event's key.
func PartitionKey(m *message.Message) string { return event.KeyOf(m.Metadata) }
