// Package kafkalog is a durable log as a Watermill Pub/Sub on Apache Kafka: the contract of package sqlitelog, shared by
// any number of processes. It speaks to the brokers in whole requests, one to produce and one to fetch for all partitions that a
// broker leads, and sees the answer for each partition.
//
// What is promised: Publish returns nil only when every in-sync replica has every message. An error says whether a message
// is refused for good, or that its fate is not known. A record is handed to a group again until it is acked (at least once). A
// group's place only ever covers the contiguous prefix of what is finished, and never falls. What is handed out is what was published, bit
// for bit: every record carries a CRC32C, and one that fails it is reported and left out.
//
// On the wire a message is a CloudEvent in binary mode, so that any Kafka client can read the topics: the payload is the record's value, each pair of
// metadata is a header. Three headers more are the log's own; see encodeRecord.
package kafkalog

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go/sasl"
)

// Config says which cluster the log lives on and what it asks of its user. Only Brokers is needed. The functions may be called from several
// goroutines at a time and must not call the Log.
type Config struct {
	// Brokers are the addresses (host:port) through which the cluster is found. Name more than one, so that one may be down.
	Brokers []string
	// Prefix is put before the name of every topic and group on the cluster.
	Prefix string
	// Partitions and Replication are those of the topics the log creates. Defaults 12 and 3. A topic that exists must have as many partitions.
	Partitions, Replication int
	// TLS; nil: the connections are not encrypted.
	TLS *tls.Config
	// SASL; nil: no user name.
	SASL sasl.Mechanism
	// ClientID names the program to the brokers. Default "tidewire".
	ClientID string
	// Instance names this process among those that share groups, so that it gets back the partitions it had. Default: the host's name.
	Instance string
	// Logger; nil: slog.Default().
	Logger *slog.Logger
	// Registerer takes the metrics; nil: none are kept.
	Registerer prometheus.Registerer
	// Retention is how long the records of a topic that the log creates are kept; nil or 0: as the broker decides. A topic that exists is
	// left as it is, with a warning when it differs.
	Retention func(topic string) time.Duration
	// PartitionKey names what must stay in order: messages with equal non-empty keys share a partition, and bear the key as the record's key. nil or
	// "": the message's UUID decides, so that a message published again meets the first one, and the record has no key. It must always say
	// the same of a message.
	PartitionKey func(m *message.Message) string
	// Prepare is called once for each record that comes into memory, before any group sees it. What it puts into the message's
	// context, every group's copy sees. It must not change anything else.
	Prepare func(m *message.Message, topic string, partition int32, offset int64)
	// OnDamage is told once of each record that cannot be read as it was written; such a record counts as finished for every group.
	OnDamage func(topic string, partition int32, offset int64, err error)
	// OnGap is told when retention overtook a group: the records [from, to) of the partition were gone before the group read them.
	OnGap func(topic, group string, partition int32, from, to int64)
	// MaxRecord bounds what a message takes in the log, in bytes: UUID, metadata, payload and key with the names and lengths that Kafka adds. The topic's own
	// max.message.bytes bounds it too; topics the log creates get MaxRecord for it. Default 8 MiB.
	MaxRecord int
	// QueueBytes bounds the messages that wait in Publish or are under way; more callers block. Default 64 MiB.
	QueueBytes int
	// FetchBytes bounds one answer of a broker to a fetch; one batch of records may be larger. Default 4 MiB.
	FetchBytes int
	// WindowBytes bounds what is kept in memory of the newest records of all topics, for groups that are close to them. What groups have taken and not finished is
	// bounded by about as much again, over all groups. Default 64 MiB.
	WindowBytes int
	// RequestTimeout bounds one request. What became of a produce request that was not answered by then is unknown. Default 10 s.
	RequestTimeout time.Duration
	// PublishTimeout bounds a whole Publish, with its waiting and retries; the messages' contexts may end it sooner. Default 30 s.
	PublishTimeout time.Duration
	// CommitEvery is how often the places of groups are written. After a crash a group sees again what it
	// finished since. Default 250 ms.
	CommitEvery time.Duration
	// Places keeps the places of groups beside the cluster too, for when that has lost them: then a group goes on from the place kept, and
	// not where a new one begins. nil: nothing does.
	Places Places
	// KeepEvery is how often Places is given those that moved. Default 15 s.
	KeepEvery time.Duration
	// NackDelay is how long a nacked message waits before it is handed out again; each further nack doubles it, up to
	// NackDelayMax. Defaults 50 ms and 5 s.
	NackDelay, NackDelayMax time.Duration
	// CloseTimeout bounds how long closing a subscription waits for messages in hand to be acked, and how long closing the log waits for what
	// Publish has taken. Default 10 s.
	CloseTimeout time.Duration
	// SessionTimeout is after how long without a heartbeat the cluster takes a member's partitions away; HeartbeatInterval how often it is
	// sent; RebalanceTimeout how long members have to come back when partitions are given out anew: of the shorter of the two, half is for finishing what
	// is in hand. Defaults 10 s, 3 s and 30 s.
	SessionTimeout, HeartbeatInterval, RebalanceTimeout time.Duration
	// HandlingLimit is for how long a message may be in hand before that is reported, once, by a line and a metric. It stays in hand: to hand it
	// to another while the first may still be at work would put it out of order. Default 15 min.
	HandlingLimit time.Duration
}

func (c Config) withDefaults() Config {
	c.Partitions = cmp.Or(c.Partitions, 12)
	c.Replication = cmp.Or(c.Replication, 3)
	c.ClientID = cmp.Or(c.ClientID, "tidewire")
	if c.Instance == "" {
		c.Instance, _ = os.Hostname()
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.MaxRecord = cmp.Or(c.MaxRecord, 8<<20)
	c.QueueBytes = max(cmp.Or(c.QueueBytes, 64<<20), c.MaxRecord)
	c.FetchBytes = cmp.Or(c.FetchBytes, 4<<20)
	c.WindowBytes = cmp.Or(c.WindowBytes, 64<<20)
	c.RequestTimeout = cmp.Or(c.RequestTimeout, 10*time.Second)
	c.PublishTimeout = cmp.Or(c.PublishTimeout, 30*time.Second)
	c.CommitEvery = cmp.Or(c.CommitEvery, 250*time.Millisecond)
	c.KeepEvery = cmp.Or(c.KeepEvery, 15*time.Second)
	c.NackDelay = cmp.Or(c.NackDelay, 50*time.Millisecond)
	c.NackDelayMax = max(cmp.Or(c.NackDelayMax, 5*time.Second), c.NackDelay)
	c.CloseTimeout = cmp.Or(c.CloseTimeout, 10*time.Second)
	c.SessionTimeout = cmp.Or(c.SessionTimeout, 10*time.Second)
	c.HeartbeatInterval = cmp.Or(c.HeartbeatInterval, 3*time.Second)
	c.RebalanceTimeout = cmp.Or(c.RebalanceTimeout, 30*time.Second)
	c.HandlingLimit = cmp.Or(c.HandlingLimit, 15*time.Minute)
	if c.Retention == nil {
		c.Retention = func(string) time.Duration { return 0 }
	}
	if c.PartitionKey == nil {
		c.PartitionKey = func(*message.Message) string { return "" }
	}
	if c.Prepare == nil {
		c.Prepare = func(*message.Message, string, int32, int64) {}
	}
	if c.OnDamage == nil {
		c.OnDamage = func(string, int32, int64, error) {}
	}
	if c.OnGap == nil {
		c.OnGap = func(string, string, int32, int64, int64) {}
	}
	return c
}

// Log is the log. Its methods may be called from many goroutines.
type Log struct {
	c       Config
	client  *client
	publish *publisher
	reader  *reader
	ends    *ends // for Lag
	keeper  *keeper
	resumed resumptions
	metrics *metrics

	ensuring sync.Mutex // held by the one who creates and checks topics

	mu     sync.RWMutex // guards the following
	topics map[string]*destination
	parts  map[io.Closer]struct{} // what Close closes first: subscribers
	closed bool

	once sync.Once
	err  error
}

var _ message.Publisher = (*Log)(nil)

// Open finds the cluster and makes sure that it can be spoken to: reachable, credentials right, versions known. It creates nothing.
func Open(ctx context.Context, c Config) (*Log, error) {
	if len(c.Brokers) == 0 {
		return nil, errors.New("open the log: no Kafka brokers are named")
	}
	c = c.withDefaults()
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	l := &Log{
		c: c, client: newClient(&c), metrics: m, ends: newEnds(),
		topics: make(map[string]*destination),
		parts:  make(map[io.Closer]struct{}),
	}
	if err := l.client.greet(ctx); err != nil {
		l.client.close()
		m.unregister()
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if l.reader, err = newReader(l); err != nil {
		l.client.close()
		m.unregister()
		return nil, fmt.Errorf("open the log: %w", err)
	}
	l.publish = newPublisher(l)
	l.keeper = newKeeper(l)
	return l, nil
}

// ClusterID is the name that the cluster has given itself, which tells it from every other; empty when it has none.
func (l *Log) ClusterID(ctx context.Context) (string, error) {
	m, err := l.client.known(ctx)
	if err != nil {
		return "", diagnose(&l.c, err)
	}
	return m.ClusterID, nil
}

// attach hands over what Close has to close before the rest; ErrClosed when it is too late.
func (l *Log) attach(part io.Closer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.parts[part] = struct{}{}
	return nil
}

// detach takes back what was attached and is closed.
func (l *Log) detach(part io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.parts, part)
}

// Probe asks the cluster whether it can be reached and whether each partition of each topic that the log uses has a leader. The error says what is
// wrong.
func (l *Log) Probe(ctx context.Context) error {
	l.mu.RLock()
	closed := l.closed
	var ps []partition
	for _, t := range l.topics {
		ps = append(ps, t.all()...)
	}
	l.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	l.client.refresh()
	_, leaderless, err := l.client.byLeader(ctx, ps)
	if err != nil {
		return diagnose(&l.c, err)
	}
	if len(leaderless) > 0 {
		return fmt.Errorf("%d of %d partitions have no leader, %s among them", len(leaderless), len(ps), leaderless[0])
	}
	return nil
}

// Close stops taking messages, closes every subscriber and sends what was taken, for at most CloseTimeout; what is not sent by then is given up
// and its callers are told. Calling it again returns the same.
func (l *Log) Close() error {
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		parts := make([]io.Closer, 0, len(l.parts))
		for p := range l.parts {
			parts = append(parts, p)
		}
		l.mu.Unlock()
		errs := make([]error, len(parts))
		var closing sync.WaitGroup
		for i, p := range parts {
			closing.Go(func() { errs[i] = p.Close() })
		}
		closing.Wait()
		l.keeper.close()
		l.publish.close()
		l.reader.close()
		l.client.close()
		l.metrics.unregister()
		l.err = errors.Join(errs...)
	})
	return l.err
}
