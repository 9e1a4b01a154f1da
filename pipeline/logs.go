package pipeline

import (
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// OnSQLite is the pipeline's log on the hub's SQLite file.
func OnSQLite(l *sqlitelog.Log) Log { return onSQLite{l} }

type onSQLite struct{ *sqlitelog.Log }

func (l onSQLite) Subscriber(s Subscription) (message.Subscriber, error) {
	return l.Log.Subscriber(sqlitelog.SubscriberConfig(s))
}
