package pipeline_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// sharedLog is a log that several hubs read, as one of them sees it: the test hands its records out.
type sharedLog struct {
	pipeline.Log
	out chan *message.Message
}

func (sharedLog) Ensure(context.Context, ...string) error { return nil }
func (sharedLog) Shared() bool                            { return true }

func (l sharedLog) Subscriber(pipeline.Subscription) (message.Subscriber, error) { return l, nil }

func (l sharedLog) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return l.out, nil
}

func (l sharedLog) Close() error {
	close(l.out)
	return nil
}

// hand hands out a record of the log, and returns what gives its partition back.
func (l sharedLog) hand(ctx context.Context, id string) (m *message.Message, giveBack func()) {
	at := time.Now().UTC()
	e := event.Event{ID: id, Source: "shop", Type: "order.paid", Time: at.Truncate(time.Hour), Recorded: at.Truncate(time.Hour), Body: []byte("{}")}
	uuid, attributes, payload := e.Encode()
	m = message.NewMessage(uuid, payload)
	m.Metadata = attributes
	pipeline.Prepare(m, "events.shop", 0, 7)
	ends, giveBack := context.WithCancel(m.Context())
	m.SetContext(ends)
	l.out <- m
	return m, giveBack
}

// TestARecordThatComesAgainIsNotSentBesideItself has a target that is slower than the partition may wait when it is given back: the record comes again, to the
// same hub, while the first try is under way.
func TestARecordThatComesAgainIsNotSentBesideItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		quiet := slog.New(slog.DiscardHandler)
		db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "hub.db"), Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		ledger, err := store.Open(t.Context(), store.Config{DB: db, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		var seen journal
		r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
			seen.add(d.Event.ID)
			time.Sleep(8 * time.Second) // the test's own clock
			return connectors.Receipt{Code: 200}, nil
		})
		log := sharedLog{out: make(chan *message.Message, 4)}
		p, err := pipeline.New(pipeline.Config{
			Log: log, Ledger: ledger, Census: ledger, Routes: []pipeline.Route{r}, Logger: quiet, Registerer: prometheus.NewRegistry(),
		})
		if err != nil {
			t.Fatal(err)
		}
		take, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := p.Run(take, t.Context()); err != nil {
				t.Error(err)
			}
		})
		<-p.Running()
		first, giveBack := log.hand(t.Context(), "a-1")
		eventually(t, "it is being sent", func() bool { return len(seen.all()) == 1 })
		giveBack()
		again, _ := log.hand(t.Context(), "a-1")
		third, giveBackToo := log.hand(t.Context(), "a-1")
		synctest.Wait()
		giveBackToo()
		select {
		case <-third.Nacked(): // it has not begun, and need not wait
		case <-third.Acked():
			t.Error("it was sent beside itself")
		}
		<-first.Acked()
		<-again.Acked()
		if got := seen.all(); len(got) != 1 {
			t.Errorf("the target saw %v", got)
		}
		stop()
		running.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}
