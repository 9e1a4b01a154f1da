package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// Settings of topics.
const (
	settingRetention = "retention.ms"
	settingCleanup   = "cleanup.policy"
	settingMost      = "max.message.bytes"
	settingInSync    = "min.insync.replicas"
)

// defaultMost is Kafka's own bound of a batch, in bytes.
const defaultMost = 1048588

// destination is a topic that exists on the cluster and was found to be as it has to be.
type destination struct {
	name       string
	partitions int32
	most       int // bound of a batch, in bytes
}

// all returns the topic's partitions.
func (d *destination) all() []partition {
	ps := make([]partition, d.partitions)
	for i := range ps {
		ps[i] = partition{d.name, int32(i)}
	}
	return ps
}

// Ensure creates the topics that do not exist yet, with the configured partitions, replication and retention, waits until each partition has a leader, and
// checks those that exist. A topic with another number of partitions, or that is compacted, is an error: the order of keys would break or records
// vanish. A topic is created and checked once.
func (l *Log) Ensure(ctx context.Context, topics ...string) error {
	missing := l.missing(topics)
	if len(missing) == 0 {
		return l.open()
	}
	l.ensuring.Lock()
	defer l.ensuring.Unlock()
	if err := l.open(); err != nil {
		return err
	}
	if missing = l.missing(missing); len(missing) == 0 {
		return nil // somebody else was first
	}
	for _, t := range missing {
		if err := nameable(l.client.wire(t)); err != nil {
			return fmt.Errorf("topic %s: %w", t, err)
		}
	}
	if err := l.create(ctx, missing); err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	if err := l.await(ctx, missing); err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	l.awaitNews(ctx, missing)
	ds, err := l.inspect(ctx, missing)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range ds {
		l.topics[d.name] = d
	}
	return nil
}

// open returns ErrClosed once the log is closed.
func (l *Log) open() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	return nil
}

// missing returns those topics that were not ensured yet, each once.
func (l *Log) missing(topics []string) []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var missing []string
	for _, t := range topics {
		if l.topics[t] == nil {
			missing = append(missing, t)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// topic returns a topic, creating it if need be.
func (l *Log) topic(ctx context.Context, name string) (*destination, error) {
	l.mu.RLock()
	d, closed := l.topics[name], l.closed
	l.mu.RUnlock()
	if closed {
		return nil, ErrClosed
	}
	if d != nil {
		return d, nil
	}
	if err := l.Ensure(ctx, name); err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.topics[name], nil
}

// nameable says whether Kafka takes a name for a topic.
func nameable(name string) error {
	legal := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
	}
	if len(name) == 0 || len(name) > 249 || name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool { return !legal(r) }) {
		return fmt.Errorf("Kafka takes no topic called %q: at most 249 letters, digits, dots, underscores and dashes", name) //nolint:staticcheck // it begins with a name
	}
	return nil
}

// create asks for those of the topics that the cluster does not have.
func (l *Log) create(ctx context.Context, topics []string) error {
	for attempt := 0; ; attempt++ {
		l.client.refresh()
		m, err := l.client.known(ctx, topics...)
		if err != nil {
			return err
		}
		req := &createtopics.Request{TimeoutMs: int32(l.c.RequestTimeout.Milliseconds())}
		for i, t := range topics {
			if kafka.Error(m.Topics[i].ErrorCode) == kafka.UnknownTopicOrPartition {
				req.Topics = append(req.Topics, l.order(t))
			}
		}
		if len(req.Topics) == 0 {
			return nil
		}
		again, err := l.ask(ctx, req)
		if err != nil {
			return err
		}
		if !again {
			return nil
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// order is how a topic is asked for.
func (l *Log) order(topic string) createtopics.RequestTopic {
	t := createtopics.RequestTopic{
		Name: l.client.wire(topic), NumPartitions: int32(l.c.Partitions), ReplicationFactor: int16(l.c.Replication),
		Configs: []createtopics.RequestConfig{
			{Name: settingCleanup, Value: "delete"},
			{Name: settingMost, Value: strconv.Itoa(max(l.c.MaxRecord, defaultMost))},
		},
	}
	if l.c.Replication >= 3 {
		t.Configs = append(t.Configs, createtopics.RequestConfig{Name: settingInSync, Value: "2"})
	}
	if keep := l.c.Retention(topic); keep > 0 {
		t.Configs = append(t.Configs, createtopics.RequestConfig{Name: settingRetention, Value: strconv.FormatInt(keep.Milliseconds(), 10)})
	}
	return t
}

// ask sends the request; again when the cluster was not ready for it.
func (l *Log) ask(ctx context.Context, req *createtopics.Request) (again bool, err error) {
	r, err := l.client.roundTrip(ctx, req)
	if err != nil {
		// Created or not: the next look tells.
		return ctx.Err() == nil, ctx.Err()
	}
	for _, t := range r.(*createtopics.Response).Topics {
		err := code(t.ErrorCode, t.ErrorMessage)
		switch {
		case err == nil, errors.Is(err, kafka.TopicAlreadyExists):
		case errors.Is(err, kafka.NotController), errors.Is(err, kafka.RequestTimedOut), errors.Is(err, kafka.LeaderNotAvailable), errors.Is(err, kafka.NetworkException):
			again = true
		case errors.Is(err, kafka.InvalidReplicationFactor):
			return false, fmt.Errorf("%s with %d replicas: the cluster has fewer brokers; lower the replication: %w", t.Name, l.c.Replication, err)
		case errors.Is(err, kafka.TopicAuthorizationFailed), errors.Is(err, kafka.ClusterAuthorizationFailed):
			return false, fmt.Errorf("%s: the user may not create it; allow it or create the topic with %d partitions: %w", t.Name, l.c.Partitions, err)
		default:
			return false, fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return again, nil
}

// await waits until every partition of the topics has a leader.
func (l *Log) await(ctx context.Context, topics []string) error {
	var waitFor []string
	late := func(err error) error {
		if len(waitFor) == 0 || ctx.Err() == nil {
			return err
		}
		return fmt.Errorf("%d partitions have no leader, %s among them: see to the brokers that have their replicas: %w", len(waitFor), waitFor[0], err)
	}
	for attempt := 0; ; attempt++ {
		m, err := l.client.known(ctx, topics...)
		if err != nil {
			return late(err)
		}
		waitFor = nil
		for i, t := range topics {
			if m.Topics[i].ErrorCode != 0 || len(m.Topics[i].Partitions) == 0 {
				waitFor = append(waitFor, t)
			}
			for _, p := range m.Topics[i].Partitions {
				if leaderless(p) {
					waitFor = append(waitFor, partition{t, p.PartitionIndex}.String())
				}
			}
		}
		if len(waitFor) == 0 {
			return nil
		}
		if err := pause(ctx, attempt); err != nil {
			return late(err)
		}
		l.client.refresh()
	}
}

// newsTries is how often the leaders of topics are asked whether they know it.
const newsTries = 20

// awaitNews waits until the leaders of topics know that they are: the one who made a topic is told before they are, and whoever speaks to them meanwhile
// hears that they are not. It is a courtesy to those; anything else that is wrong is for them to meet.
func (l *Log) awaitNews(ctx context.Context, topics []string) {
	var ps []partition
	for _, t := range topics {
		numbers, err := l.client.layout(ctx, t)
		if err != nil {
			return
		}
		for _, n := range numbers {
			ps = append(ps, partition{t, n})
		}
	}
	for attempt := range newsTries {
		if _, err := l.client.offsets(ctx, ps, atEnd); !displaced(err) || pause(ctx, attempt) != nil {
			return
		}
	}
}

func leaderless(p metadata.ResponsePartition) bool { return p.LeaderID < 0 }

// inspect checks topics that exist.
func (l *Log) inspect(ctx context.Context, topics []string) ([]*destination, error) {
	m, err := l.client.known(ctx, topics...)
	if err != nil {
		return nil, err
	}
	req := &describeconfigs.Request{}
	for _, t := range topics {
		req.Resources = append(req.Resources, describeconfigs.RequestResource{
			ResourceType: int8(kafka.ResourceTypeTopic), ResourceName: l.client.wire(t),
			ConfigNames: []string{settingCleanup, settingRetention, settingMost, settingInSync},
		})
	}
	r, err := l.client.roundTrip(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("read the settings of topics: %w", err)
	}
	settings := make(map[string]describeconfigs.ResponseResource)
	for _, s := range r.(*describeconfigs.Response).Resources {
		settings[s.ResourceName] = s
	}
	ds := make([]*destination, len(topics))
	for i, t := range topics {
		s, ok := settings[l.client.wire(t)]
		if !ok {
			return nil, fmt.Errorf("topic %s: the cluster does not tell its settings", t)
		}
		if ds[i], err = l.check(t, m.Topics[i], s); err != nil {
			return nil, fmt.Errorf("topic %s: %w", t, err)
		}
	}
	return ds, nil
}

// check compares a topic with what it has to be.
func (l *Log) check(topic string, m metadata.ResponseTopic, s describeconfigs.ResponseResource) (*destination, error) {
	if has := len(m.Partitions); has != l.c.Partitions {
		return nil, fmt.Errorf("it has %d partitions and %d are configured; configure as many as it has, or give it another name", has, l.c.Partitions)
	}
	d := &destination{name: topic, partitions: int32(len(m.Partitions)), most: defaultMost}
	log := l.c.Logger.With("topic", l.client.wire(topic))
	if replicas := len(m.Partitions[0].ReplicaNodes); replicas < l.c.Replication {
		log.Warn("a topic has fewer replicas than are configured", "replicas", replicas, "configured", l.c.Replication)
	}
	if err := code(s.ErrorCode, s.ErrorMessage); err != nil {
		log.Warn("the settings of a topic cannot be read; whether it is compacted is not known", "error", err)
		return d, nil
	}
	values := make(map[string]string)
	for _, e := range s.ConfigEntries {
		values[e.ConfigName] = e.ConfigValue
	}
	if policy := values[settingCleanup]; strings.Contains(policy, "compact") {
		return nil, fmt.Errorf("its %s is %q, which removes records before their time; set it to delete", settingCleanup, policy)
	}
	if most, err := strconv.Atoi(values[settingMost]); err == nil {
		d.most = most
	}
	if l.c.Replication >= 3 && values[settingInSync] == "1" {
		log.Warn("a topic takes records when a single replica has them; its min.insync.replicas should be 2")
	}
	if want := l.c.Retention(topic).Milliseconds(); want > 0 && values[settingRetention] != strconv.FormatInt(want, 10) {
		log.Warn("a topic keeps its records for another time than is configured",
			"has", retention(values[settingRetention]), "configured", time.Duration(want)*time.Millisecond)
	}
	return d, nil
}

// retention makes a setting legible.
func retention(ms string) string {
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || n < 0 {
		return "for ever"
	}
	return (time.Duration(n) * time.Millisecond).String()
}
