package kafkalog

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
)

// listOffsets is a ListOffsets request for all partitions that a broker leads. That of kafka-go is sent once for each partition.
type listOffsets struct {
	ReplicaID      int32                      `kafka:"min=v1,max=v5"`
	IsolationLevel int8                       `kafka:"min=v2,max=v5"`
	Topics         []listoffsets.RequestTopic `kafka:"min=v1,max=v5"`
}

// registerWire makes the request types of this package known to kafka-go, which looks them up when it writes one.
var registerWire = sync.OnceFunc(func() {
	protocol.RegisterOverride(&listOffsets{}, &listoffsets.Response{}, (&listOffsets{}).TypeKey())
	protocol.RegisterOverride(&commitRequest{}, &offsetcommit.Response{}, (&commitRequest{}).TypeKey())
})

func (*listOffsets) ApiKey() protocol.ApiKey { return protocol.ListOffsets }

func (*listOffsets) TypeKey() protocol.OverrideTypeKey { return 1 }

// Broker names the leader of the first partition; the others must have the same.
func (r *listOffsets) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	topic, number := r.Topics[0].Topic, r.Topics[0].Partitions[0].Partition
	if b, ok := cluster.Brokers[cluster.Topics[topic].Partitions[number].Leader]; ok {
		return b, nil
	}
	return protocol.Broker{ID: -1}, kafka.LeaderNotAvailable
}

// conns are the open connections. kafka-go lets a request that nobody waits for any more keep its connection until the deadline; here all of
// them can be ended at once.
type conns struct {
	patience time.Duration
	mu       sync.Mutex
	open     map[*conn]struct{}
	closed   bool
	none     chan struct{} // closed when closed and none is open
}

func newConns(patience time.Duration) *conns {
	return &conns{patience: patience, open: make(map[*conn]struct{}), none: make(chan struct{})}
}

func (cs *conns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, conns: cs}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		raw.Close()
		return nil, net.ErrClosed
	}
	cs.open[c] = struct{}{}
	return c, nil
}

// close ends the connections and waits, though not for long, until nobody uses them.
func (cs *conns) close() {
	cs.mu.Lock()
	if !cs.closed {
		cs.closed = true
		if len(cs.open) == 0 {
			close(cs.none)
		}
	}
	for c := range cs.open {
		c.Conn.Close()
	}
	cs.mu.Unlock()
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	select {
	case <-cs.none:
	case <-wait.C:
	}
}

// conn is a connection on which no read waits for ever: kafka-go waits without end for the answers to its SASL requests.
type conn struct {
	net.Conn
	conns   *conns
	bounded atomic.Bool
}

func (c *conn) SetDeadline(t time.Time) error {
	c.bounded.Store(!t.IsZero())
	return c.Conn.SetDeadline(t)
}

func (c *conn) Read(b []byte) (int, error) {
	if !c.bounded.Load() {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.conns.patience)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

func (c *conn) Close() error {
	cs := c.conns
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, ok := cs.open[c]; ok {
		delete(cs.open, c)
		if cs.closed && len(cs.open) == 0 {
			close(cs.none)
		}
	}
	return c.Conn.Close()
}
