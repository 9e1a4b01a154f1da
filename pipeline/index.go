package pipeline

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// Indexed says where an event is in the log, and enough of it to find it by.
type Indexed struct {
	At                             Position
	ID, Source, Type, Subject, Key string
	Time, Recorded                 time.Time
	// BodyHash is the SHA-256 of the body: it tells a repeat from a conflict.
	BodyHash []byte
}

// Repeat is an event that is in the log at two places.
type Repeat struct {
	// First was recorded earlier, Again later.
	First, Again Indexed
	// Conflict: their bodies differ.
	Conflict bool
}

// Index keeps where every event is, and says which are known at another place, too. Indexing the same record again changes nothing.
type Index interface {
	Index(ctx context.Context, events []Indexed) ([]Repeat, error)
}

// IndexGroup is the index's consumer group. No route can have its name: names of routes have no points.
const IndexGroup = "hub.index"

const (
	indexBatch  = 500                   // events that one call of Index takes
	indexInHand = 2 * indexBatch        // the next batch gathers while one is written
	indexPause  = 5 * time.Second       // longest wait after a failure
	indexGather = 25 * time.Millisecond // how long a batch that is not full waits for more: nobody waits for the index, and a statement costs more than a row
)

// Indexer reads every event of the log into an index. A log that stores an ID once needs none to find repeats; one that does not,
// counts them here.
type Indexer struct {
	log    Log
	index  Index
	topics []string
	logger *slog.Logger

	repeats, conflicts prometheus.Counter
}

// NewIndexer prepares an indexer of the events of connections.
func NewIndexer(log Log, index Index, connections []string, logger *slog.Logger, reg prometheus.Registerer) (*Indexer, error) {
	x := &Indexer{
		log: log, index: index, logger: logger.With("component", "index"),
		repeats: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidewire_log_duplicates_total", Help: "Events that came again and are in the log twice; routes carry the first. One that is read again after hubs have come or gone may count again.",
		}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidewire_log_conflicts_total", Help: "Those of them whose body was another than the first one's.",
		}),
	}
	for _, c := range connections {
		x.topics = append(x.topics, EventsTopic(c))
	}
	for _, c := range []prometheus.Collector{x.repeats, x.conflicts} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("index metrics: %w", err)
		}
	}
	return x, nil
}

// Run indexes until ctx ends. What was not indexed by then comes again.
func (x *Indexer) Run(ctx context.Context) (err error) {
	sub, err := x.log.Subscriber(Subscription{
		Group: IndexGroup, InHand: indexInHand,
		Key: func(*message.Message) string { return "" }, Match: func(*message.Message) bool { return true },
	})
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	var topics sync.WaitGroup
	defer func() {
		err = errors.Join(err, sub.Close())
		topics.Wait()
	}()
	for _, topic := range x.topics {
		ms, err := sub.Subscribe(ctx, topic)
		if err != nil {
			return fmt.Errorf("index %s: %w", topic, err)
		}
		topics.Go(func() { x.read(ctx, ms) })
	}
	<-ctx.Done()
	return nil
}

// read indexes one topic, batch by batch.
func (x *Indexer) read(ctx context.Context, ms <-chan *message.Message) {
	for m := range ms {
		batch := gather(m, ms)
		acked := x.write(ctx, batch)
		for _, m := range batch {
			if acked {
				m.Ack()
			} else {
				m.Nack()
			}
		}
	}
}

// gather takes what there is, up to a batch.
func gather(first *message.Message, ms <-chan *message.Message) []*message.Message {
	batch := []*message.Message{first}
	late := time.NewTimer(indexGather)
	defer late.Stop()
	for len(batch) < indexBatch {
		select {
		case m, ok := <-ms:
			if !ok {
				return batch
			}
			batch = append(batch, m)
		case <-late.C:
			return batch
		}
	}
	return batch
}

// write goes on trying until the batch is in the index or ctx ends.
func (x *Indexer) write(ctx context.Context, batch []*message.Message) bool {
	events := make([]Indexed, 0, len(batch))
	for _, m := range batch {
		rec := recordOf(m)
		e, err := rec.Event()
		if err != nil {
			continue // the routes make it a dead letter, by which it is found
		}
		hash := sha256.Sum256(e.Body)
		events = append(events, Indexed{
			At: rec.at, ID: e.ID, Source: e.Source, Type: e.Type, Subject: e.Subject, Key: e.Key,
			Time: e.Time, Recorded: e.Recorded, BodyHash: hash[:],
		})
	}
	pauses := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(indexPause), backoff.WithMaxElapsedTime(0))
	for said := ""; ; {
		repeats, err := x.index.Index(ctx, events)
		if err == nil {
			x.count(events, repeats)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if text := err.Error(); text != said {
			said = text
			x.logger.Error("events could not be indexed; trying on", "events", len(events), "error", err)
		}
		if !sleep(ctx, pauses.NextBackOff()) {
			return false
		}
	}
}

// count counts each record of a batch that is not the first with its ID, and those of them with another body than the first's. An index tells of pairs, and
// three records with one ID are three of those.
func (x *Indexer) count(batch []Indexed, repeats []Repeat) {
	if len(repeats) == 0 {
		return
	}
	here := make(map[Position]bool, len(batch))
	for _, e := range batch {
		here[e.At] = true
	}
	before := make(map[fact]bool)       // whether one of them was in the index before the batch
	eldest := make(map[Position]Repeat) // of the pairs in which a record of the batch is the later one, that with the earliest other
	for _, r := range repeats {
		f := fact{r.Again.Source, r.Again.ID}
		before[f] = before[f] || !here[r.First.At] || !here[r.Again.At]
		if known, ok := eldest[r.Again.At]; here[r.Again.At] && (!ok || r.First.Recorded.Before(known.First.Recorded)) {
			eldest[r.Again.At] = r
		}
	}
	for _, r := range eldest {
		if r.Conflict {
			x.conflicts.Inc()
			x.logger.Debug("an event came again with another body; the first stands", "event", r.Again.ID, "connection", r.Again.Source)
		}
	}
	first := make(map[fact]bool)
	for _, e := range batch {
		f := fact{e.Source, e.ID}
		known, repeated := before[f]
		if repeated && (known || first[f]) {
			x.repeats.Inc()
		}
		first[f] = true
	}
}
