package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// Times that offsets may be asked for, instead of milliseconds since 1970.
const (
	atEnd   int64 = -1
	atStart int64 = -2
)

// unknowable is a topic name that no broker takes. See client.freshen.
const unknowable = "?"

// partition is one partition of a topic; topic is our name of it, without the prefix.
type partition struct {
	topic  string
	number int32
}

func (p partition) String() string { return p.topic + "/" + strconv.Itoa(int(p.number)) }

// client speaks to the cluster. It finds the brokers, keeps the connections, and knows who leads which partition as of the last look.
type client struct {
	c         *Config
	conns     *conns
	transport *kafka.Transport
	knowsIDs  bool // the brokers tell topics by ID; set by greet

	stale   atomic.Bool
	looking chan struct{} // has room for the one who looks at the cluster again
	looked  atomic.Int64
	vain    struct { // the last look that failed; used by the one who looks
		began time.Time
		err   error
	}
}

func newClient(c *Config) *client {
	registerWire()
	conns := newConns(c.RequestTimeout)
	return &client{c: c, conns: conns, looking: make(chan struct{}, 1), transport: &kafka.Transport{
		Dial:        conns.dial,
		DialTimeout: min(4*time.Second, c.RequestTimeout*2/5), // a request can look at the cluster, fail, and find out why
		IdleTimeout: time.Minute,
		ClientID:    c.ClientID,
		TLS:         c.TLS,
		SASL:        c.SASL,
	}}
}

// close ends every connection, also those that wait for an answer.
func (c *client) close() {
	c.transport.CloseIdleConnections()
	c.conns.close()
}

// wire is a topic's or group's name on the cluster.
func (c *client) wire(name string) string { return c.c.Prefix + name }

// roundTrip sends one request to where it belongs and waits for the answer, no longer than RequestTimeout. The partitions of a request must share
// a leader. Codes inside the answer are the caller's to read.
func (c *client) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, c.c.RequestTimeout)
	defer cancel()
	return c.transport.RoundTrip(ctx, kafka.TCP(c.c.Brokers...), req)
}

// refresh says that what is known of the cluster is stale: the next one to ask looks again.
func (c *client) refresh() { c.stale.Store(true) }

// freshen looks at the cluster again when what is known is stale. The transport answers questions about topics from what it saw at its last look, which
// may be seconds old, and offers one way to make it look now: to ask, as if to create it, for a topic that it does not know.
// A name that is not allowed makes that harmless.
func (c *client) freshen(ctx context.Context) error {
	if !c.stale.Load() {
		return nil
	}
	asked := time.Now()
	select {
	case c.looking <- struct{}{}:
		defer func() { <-c.looking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.looked.Load() > asked.UnixNano() {
		return nil // somebody else looked meanwhile
	}
	if c.vain.began.After(asked) {
		return c.vain.err // in vain: those who wait would only do so one after the other
	}
	var err error
	for range 2 { // the first may find a connection to a broker that is no more; the next asks all of them
		began := time.Now()
		c.stale.Store(false)
		_, err = c.roundTrip(ctx, &metadata.Request{TopicNames: []string{unknowable}, AllowAutoTopicCreation: true})
		if err == nil {
			c.looked.Store(began.UnixNano())
			return nil
		}
		c.stale.Store(true)
		if ctx.Err() != nil {
			return err // which says nothing to those who have more time
		}
		c.vain.began, c.vain.err = began, err
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	return err
}

// known returns what is known of topics, in the order asked for; without any, of the brokers only.
func (c *client) known(ctx context.Context, topics ...string) (*metadata.Response, error) {
	if err := c.freshen(ctx); err != nil {
		return nil, fmt.Errorf("look at the cluster: %w", err)
	}
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = c.wire(t)
	}
	r, err := c.roundTrip(ctx, &metadata.Request{TopicNames: names})
	if err != nil {
		return nil, fmt.Errorf("look at the cluster: %w", err)
	}
	return r.(*metadata.Response), nil
}

// layout returns the numbers of a topic's partitions in order.
func (c *client) layout(ctx context.Context, topic string) ([]int32, error) {
	for again := range 2 {
		m, err := c.known(ctx, topic)
		if err != nil {
			return nil, err
		}
		err = code(m.Topics[0].ErrorCode, "")
		if err == nil {
			numbers := make([]int32, 0, len(m.Topics[0].Partitions))
			for _, p := range m.Topics[0].Partitions {
				numbers = append(numbers, p.PartitionIndex)
			}
			slices.Sort(numbers)
			return numbers, nil
		}
		if again > 0 {
			return nil, fmt.Errorf("topic %s: %w", topic, err)
		}
		c.refresh()
	}
	panic("unreachable")
}

// byLeader sorts partitions by the broker that leads them. leaderless are those that nobody leads as far as is known.
func (c *client) byLeader(ctx context.Context, ps []partition) (groups map[int32][]partition, leaderless []partition, err error) {
	var topics []string
	for _, p := range ps {
		topics = append(topics, p.topic)
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)
	m, err := c.known(ctx, topics...)
	if err != nil {
		return nil, nil, err
	}
	alive := make(map[int32]bool, len(m.Brokers))
	for _, b := range m.Brokers {
		alive[b.NodeID] = true
	}
	leaders := make(map[partition]int32)
	for i, topic := range topics {
		for _, p := range m.Topics[i].Partitions {
			if alive[p.LeaderID] {
				leaders[partition{topic, p.PartitionIndex}] = p.LeaderID
			}
		}
	}
	groups = make(map[int32][]partition)
	for _, p := range ps {
		if leader, ok := leaders[p]; ok {
			groups[leader] = append(groups[leader], p)
		} else {
			leaderless = append(leaderless, p)
		}
	}
	return groups, leaderless, nil
}

// offsets asks the leaders for offsets of partitions: atEnd the next to be written, atStart the first that is still there, otherwise the first record that
// is not older than that many milliseconds since 1970, or -1 when there is none.
func (c *client) offsets(ctx context.Context, ps []partition, at int64) (map[partition]int64, error) {
	groups, leaderless, err := c.byLeader(ctx, ps)
	if err != nil {
		return nil, err
	}
	if len(leaderless) > 0 {
		c.refresh()
		return nil, fmt.Errorf("offsets of %s: %w", leaderless[0], kafka.LeaderNotAvailable)
	}
	var mu sync.Mutex
	found := make(map[partition]int64, len(ps))
	var errs []error
	var asking sync.WaitGroup
	for _, ps := range groups {
		asking.Go(func() {
			some, err := c.offsetsOf(ctx, ps, at)
			mu.Lock()
			defer mu.Unlock()
			for p, offset := range some {
				found[p] = offset
			}
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	asking.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return found, nil
}

// offsetsOf asks one broker.
func (c *client) offsetsOf(ctx context.Context, ps []partition, at int64) (map[partition]int64, error) {
	req := &listOffsets{ReplicaID: -1}
	for topic, ps := range byTopic(ps) {
		t := listoffsets.RequestTopic{Topic: c.wire(topic)}
		for _, p := range ps {
			t.Partitions = append(t.Partitions, listoffsets.RequestPartition{Partition: p.number, CurrentLeaderEpoch: -1, Timestamp: at})
		}
		req.Topics = append(req.Topics, t)
	}
	r, err := c.roundTrip(ctx, req)
	if err != nil {
		c.refresh()
		return nil, fmt.Errorf("offsets of %s: %w", ps[0], err)
	}
	found := make(map[partition]int64, len(ps))
	for _, t := range r.(*listoffsets.Response).Topics {
		for _, p := range t.Partitions {
			of := partition{t.Topic[min(len(c.c.Prefix), len(t.Topic)):], p.Partition}
			if err := code(p.ErrorCode, ""); err != nil {
				c.refresh()
				return nil, fmt.Errorf("offsets of %s: %w", of, err)
			}
			found[of] = p.Offset
		}
	}
	for _, p := range ps {
		if _, ok := found[p]; !ok {
			return nil, fmt.Errorf("offsets of %s: the answer does not hold it", p)
		}
	}
	return found, nil
}

// byTopic sorts partitions by topic.
func byTopic(ps []partition) map[string][]partition {
	topics := make(map[string][]partition)
	for _, p := range ps {
		topics[p.topic] = append(topics[p.topic], p)
	}
	return topics
}

// needed are the requests without which nothing works, and the version of each that has to be understood. Anything that calls itself Kafka 3.4 does.
var needed = map[protocol.ApiKey]int16{
	protocol.Produce: 7, protocol.Fetch: 11, protocol.ListOffsets: 5, protocol.Metadata: 8,
	protocol.CreateTopics: 5, protocol.DescribeConfigs: 1, protocol.FindCoordinator: 2, protocol.JoinGroup: 5,
	protocol.SyncGroup: 3, protocol.Heartbeat: 3, protocol.LeaveGroup: 3, protocol.OffsetCommit: 5, protocol.OffsetFetch: 5,
}

// greet makes sure that the cluster can be spoken to; the error says in a sentence why not.
func (c *client) greet(ctx context.Context) error {
	r, err := c.roundTrip(ctx, &apiversions.Request{})
	if err != nil {
		return diagnose(c.c, err)
	}
	can := r.(*apiversions.Response)
	c.knowsIDs = slices.ContainsFunc(can.ApiKeys, func(k apiversions.ApiKeyResponse) bool {
		return protocol.ApiKey(k.ApiKey) == protocol.Metadata && k.MaxVersion >= idsVersion
	})
	if err := understands(can); err != nil {
		return fmt.Errorf("the brokers at %v %w", c.c.Brokers, err)
	}
	m, err := c.known(ctx)
	if err != nil {
		return diagnose(c.c, err)
	}
	return c.reach(ctx, m.Brokers)
}

// reach makes sure that the brokers can be reached under the addresses that they announce, which need not be those that were configured. One that
// cannot is no reason to stop as long as another can.
func (c *client) reach(ctx context.Context, brokers []metadata.ResponseBroker) error {
	errs := make([]error, len(brokers))
	var asking sync.WaitGroup
	for i, b := range brokers {
		asking.Go(func() {
			_, errs[i] = c.roundTrip(ctx, &describeconfigs.Request{Resources: []describeconfigs.RequestResource{
				{ResourceType: int8(kafka.ResourceTypeBroker), ResourceName: strconv.Itoa(int(b.NodeID)), ConfigNames: []string{"min.insync.replicas"}},
			}})
		})
	}
	asking.Wait()
	var failed error
	reached := 0
	for i, err := range errs {
		if err == nil {
			reached++
			continue
		}
		failed = fmt.Errorf("broker %d, which announces itself as %s:%d, cannot be reached: %w", brokers[i].NodeID, brokers[i].Host, brokers[i].Port, err)
		c.c.Logger.Warn("a Kafka broker cannot be reached under the address that it announces",
			"broker", brokers[i].NodeID, "host", brokers[i].Host, "port", brokers[i].Port, "error", err)
	}
	if reached == 0 && failed != nil {
		return failed
	}
	if reached == 0 {
		return errors.New("the Kafka cluster names no brokers")
	}
	return nil
}

// understands compares what brokers can with what is needed of them.
func understands(r *apiversions.Response) error {
	if err := code(r.ErrorCode, ""); err != nil {
		return fmt.Errorf("do not say which requests they understand: %w", err)
	}
	ranges := make(map[protocol.ApiKey]apiversions.ApiKeyResponse, len(r.ApiKeys))
	for _, k := range r.ApiKeys {
		ranges[protocol.ApiKey(k.ApiKey)] = k
	}
	for _, key := range slices.Sorted(maps.Keys(needed)) {
		has, ok := ranges[key]
		if !ok || has.MaxVersion < needed[key] {
			return fmt.Errorf("do not understand %s requests of version %d; Apache Kafka 3.4 or newer is needed", key, needed[key])
		}
		if key.MaxVersion() < has.MinVersion && key.MaxVersion() != 0 {
			return fmt.Errorf("want %s requests of version %d at least, which is newer than what is known here (%d)", key, has.MinVersion, key.MaxVersion())
		}
	}
	return nil
}

// delay is how long to wait before trying again: 50 ms at first, doubled up to a second, and a quarter more or less by chance.
func delay(attempt int) time.Duration {
	d := 50 * time.Millisecond << min(attempt, 5)
	return min(d, time.Second)*3/4 + rand.N(min(d, time.Second)/2)
}

// pause waits for delay.
func pause(ctx context.Context, attempt int) error {
	t := time.NewTimer(delay(attempt))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
