package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/kafkalog"
)

// moveRecords bounds what is published and noted at once.
const moveRecords = 1000

// stretch is the part of a topic that is carried, and how far that has got.
type stretch struct {
	topic string
	stops []stop

	// From and To are offsets in the file; To is left out. Everything before Next is in Kafka.
	From int64 `json:"from"`
	To   int64 `json:"to"`
	Next int64 `json:"next"`
	// Carried are the records in between that could be read.
	Carried int64 `json:"carried"`
	// Begun says for each route how many of those were carried when its place was set: it does not have them before it.
	Begun map[string]int64 `json:"begun"`
}

// stop is an offset in the file at which routes go on.
type stop struct {
	at     int64
	routes []string
}

// survey finds out what has to be carried, and what of it is.
func (m *move) survey(ctx context.Context) error {
	balance, err := m.from.store.Balance(ctx)
	if err != nil {
		return fmt.Errorf("%w: look at %s: %w", ErrEnvironment, m.from.path, err)
	}
	if !m.note.Imported {
		m.note.Counts = []Count{{What: countLedger}, {What: countParked}, {What: countDead}, {What: countEvents}, {What: countTopics}}
		for _, states := range balance {
			for state, n := range states {
				m.note.count(countOf(state)).Found += n
			}
		}
	}
	m.note.count(countEvents).Found, m.note.count(countTopics).Found = 0, 0
	m.stretches = m.eventStretches()
	for _, topic := range m.from.log.Topics() {
		if pipeline.HoldsDeadLetters(topic) {
			first, next, _ := m.from.log.Bounds(topic)
			m.stretches = append(m.stretches, &stretch{topic: topic, From: first, To: next})
		}
	}
	for _, s := range m.stretches {
		s.Next, s.Begun = s.From, make(map[string]int64)
		if err := m.recallTopic(ctx, s); err != nil {
			return err
		}
		m.note.count(s.what()).Found += s.To - s.From
	}
	m.total = 0
	for _, c := range m.note.Counts {
		m.total += c.Found
	}
	return nil
}

// eventStretches are the events that some route of the config has not finished, connection by connection, with the places at which routes go on. A route that is
// new to the file begins with the oldest event that is kept; one that is new and starts with what comes from now on has no place in the cluster either.
func (m *move) eventStretches() []*stretch {
	readers := make(map[string][]pipeline.Route)
	for _, r := range m.plan.Routes {
		for _, source := range r.From {
			topic := pipeline.EventsTopic(source)
			readers[topic] = append(readers[topic], r)
		}
	}
	var all []*stretch
	for _, topic := range slices.Sorted(maps.Keys(readers)) {
		first, next, ok := m.from.log.Bounds(topic)
		if !ok {
			continue
		}
		places := m.from.log.Places(topic)
		routes := make(map[int64][]string) // by place
		for _, r := range readers[topic] {
			at, known := places[r.Name]
			if !known && r.FromEnd {
				continue
			}
			at = min(max(at, first), next)
			routes[at] = append(routes[at], r.Name)
		}
		s := &stretch{topic: topic, From: next, To: next}
		for _, at := range slices.Sorted(maps.Keys(routes)) {
			s.stops = append(s.stops, stop{at, slices.Sorted(slices.Values(routes[at]))})
			s.From = min(s.From, at)
		}
		all = append(all, s)
	}
	return all
}

func (s *stretch) what() string {
	if pipeline.HoldsDeadLetters(s.topic) {
		return countTopics
	}
	return countEvents
}

func (s *stretch) key() string { return moveKey + ": " + s.topic }

// recallTopic reads how far an earlier try has got.
func (m *move) recallTopic(ctx context.Context, s *stretch) error {
	text, err := m.to.store.Note(ctx, s.key())
	if err != nil || text == "" {
		return err
	}
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return fmt.Errorf("the note on the migration of %s cannot be read: %w", s.topic, err)
	}
	return nil
}

func (m *move) writeTopic(ctx context.Context, s *stretch) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return m.to.store.WriteNote(ctx, s.key(), string(text))
}

// topics are all that a hub on the plan uses, and those that are carried.
func (m *move) topics() []string {
	var topics []string
	for _, source := range m.plan.sources() {
		topics = append(topics, pipeline.EventsTopic(source))
	}
	for _, r := range m.plan.Routes {
		topics = append(topics, pipeline.DeadTopic(r.Name))
	}
	for _, s := range m.stretches {
		topics = append(topics, s.topic)
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

func (m *move) ensure(ctx context.Context) error {
	if err := m.to.kafka.Ensure(ctx, m.topics()...); err != nil {
		return fmt.Errorf("%w: cluster.kafka: %w", ErrEnvironment, err)
	}
	return nil
}

func (m *move) carryTopics(ctx context.Context) error {
	for _, s := range m.stretches {
		m.done += s.Next - s.From
		if err := m.carryTopic(ctx, s); err != nil {
			return fmt.Errorf("carry %s: %w", s.topic, err)
		}
	}
	return nil
}

// carryTopic publishes a stretch in order. Where a route goes on, its place is set to the topic's end of that moment: before any record that it has yet to see is
// published, and after it has been written down that all before are. So a route's place is right whatever is interrupted, and holds also for what the
// ledger does not know: events that its filter let pass by, or that came before the route was there.
func (m *move) carryTopic(ctx context.Context, s *stretch) error {
	for _, stop := range s.stops {
		if stop.at < s.Next {
			continue // set before what follows was published
		}
		if err := m.publishTo(ctx, s, stop.at); err != nil {
			return err
		}
		for _, route := range stop.routes {
			m.o.Progress(s.topic, m.done, m.total)
			if err := m.persist(ctx, s.topic, func() error { return m.startRoute(s.topic, route) }); err != nil {
				return err
			}
			s.Begun[route] = s.Carried
		}
		if err := m.writeTopic(ctx, s); err != nil {
			return err
		}
	}
	return m.publishTo(ctx, s, s.To)
}

// startRoute sets a route's place to where the topic ends now, unless it has one.
func (m *move) startRoute(topic, route string) error {
	sub, err := m.to.kafka.Subscriber(kafkalog.SubscriberConfig{Group: route, FromEnd: true})
	if err != nil {
		return err
	}
	return errors.Join(sub.SubscribeInitialize(topic), sub.Close())
}

// publishTo brings a stretch on to an offset, batch by batch; each is written down when all in-sync replicas have it.
func (m *move) publishTo(ctx context.Context, s *stretch, to int64) error {
	for b, err := range m.from.log.Batches(ctx, s.topic, s.Next, to, m.o.batch) {
		if err != nil {
			return err
		}
		for _, msg := range b.Messages {
			msg.SetContext(ctx)
		}
		// A batch whose fate is not known is published again: a second copy does no harm, a missing one would.
		if err := m.persist(ctx, s.topic, func() error { return m.to.kafka.Publish(s.topic, b.Messages...) }); err != nil {
			return fmt.Errorf("records %d to %d: %w", s.Next, b.Next-1, err)
		}
		m.done += b.Next - s.Next
		s.Next, s.Carried = b.Next, s.Carried+int64(len(b.Messages))
		m.o.Progress(s.topic, m.done, m.total)
		if err := m.writeTopic(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// moveTries is how often is tried what may fail for reasons that pass by themselves: a partition that has no leader for a moment, an answer that is lost.
const moveTries = 6

// persist does something, and again what fails, a few times, in some eight seconds.
func (m *move) persist(ctx context.Context, topic string, do func() error) error {
	var err error
	for try := range moveTries {
		if err = do(); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		if refused, ok := errors.AsType[interface {
			error
			Refused() bool
		}](err); ok && refused.Refused() {
			return fmt.Errorf("%w; let the topic take larger records (max.message.bytes) and run the command again", err)
		}
		m.o.Logger.Info("Kafka did not do what was asked; trying again", "topic", topic, "try", try+1, "error", err)
		select {
		case <-time.After(firstPause << try):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// firstPause is how long persist waits after the first failure; each further pause is twice as long.
const firstPause = 250 * time.Millisecond

// nobody is a group without a place: all of a topic is before it.
const nobody = "hub.migrate"

// held is how many records a topic holds in Kafka; none when it does not exist.
func (m *move) held(ctx context.Context, topic string) (int64, error) {
	n, _, err := m.to.kafka.Lag(ctx, topic, nobody)
	return n, err
}

// settling bounds how long is waited for counts to be as they should: what Kafka's ends are said to be may be a second old.
const settling = 5 * time.Second

// compareTopic counts what is in the topic, and what each route has before it.
func (m *move) compareTopic(ctx context.Context, s *stretch) error {
	n, err := m.atLeast(ctx, s.topic, nobody, s.Carried)
	if err != nil {
		return err
	}
	c := m.note.count(s.what())
	c.Carried += min(n, s.Carried)
	c.Repeated += max(0, n-s.Carried)
	c.Damaged += s.To - s.From - s.Carried
	for _, stop := range s.stops {
		for _, route := range stop.routes {
			want := s.Carried - s.Begun[route]
			if n, err = m.atLeast(ctx, s.topic, route, want); err != nil {
				return err
			}
			if n < want {
				return fmt.Errorf("%w: route %s has %d events of %s before it in Kafka, and %d in the file: its consumer group had a place there before; delete the group, or name another topic_prefix",
					ErrDiffers, route, n, s.topic, want)
			}
		}
	}
	return nil
}

// atLeast is how many records a group has before it, when that is as many as they should be or does not become so.
func (m *move) atLeast(ctx context.Context, topic, group string, want int64) (n int64, err error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(settling); ; {
		if n, _, err = m.to.kafka.Lag(ctx, topic, group); err != nil || n >= want || time.Now().After(until) {
			return n, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
}
