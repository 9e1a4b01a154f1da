package sqlitelog_test

import (
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		child()
		return
	}
	log.SetOutput(io.Discard) // the suite talks a lot
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.DiscardHandler)

// open opens a log in dir. What it opened is closed at the end of the test.
func open(t testing.TB, dir string, c sqlitelog.Config) *sqlitelog.Log {
	t.Helper()
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "tidewire.db"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	c.DB = db
	if c.Logger == nil {
		c.Logger = quiet
	}
	l, err := sqlitelog.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// unclosed is the log's publisher for tests that close it and go on.
type unclosed struct{ message.Publisher }

func (unclosed) Close() error { return nil }

func TestWatermillSuite(t *testing.T) {
	l := open(t, t.TempDir(), sqlitelog.Config{
		CloseTimeout: 200 * time.Millisecond, NackDelay: time.Millisecond, NackDelayMax: 5 * time.Millisecond,
	})
	group := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		s, err := l.Subscriber(sqlitelog.SubscriberConfig{Group: group})
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
	}, func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, "suite") }, group)
}
