package torture

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
	"github.com/tidewire/tidewire/internal/services"
)

// eater is a proxy between hubs and a broker that keeps back some of the broker's answers to produce requests: the records are stored, and the hub does not learn it.
type eater struct {
	listener net.Listener
	to       string
	work     sync.WaitGroup
	on       atomic.Bool
	silent   atomic.Int64 // answers kept back on connections that stay open
	cut      atomic.Int64 // those with which the connection was cut
	// seen, if it is set, is told the acknowledgements that each produce request asks for.
	seen atomic.Pointer[func(acks int16)]

	mu     sync.Mutex
	random *rand.Rand
	conns  map[net.Conn]bool
	closed bool
}

func newEater(t *testing.T, address string, random *rand.Rand) *eater {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p := &eater{listener: l, random: random, conns: make(map[net.Conn]bool)}
	p.work.Go(func() { p.accept(t) })
	t.Cleanup(p.close)
	return p
}

func (p *eater) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.work.Wait()
}

// keep notes a connection; false when it is too late.
func (p *eater) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return !p.closed
}

func (p *eater) drop(all ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
		delete(p.conns, c)
	}
}

func (p *eater) accept(t *testing.T) {
	for {
		hubs, err := p.listener.Accept()
		if err != nil {
			return
		}
		var dialer net.Dialer
		broker, err := dialer.DialContext(t.Context(), "tcp", p.to)
		if err != nil {
			_ = hubs.Close()
			continue
		}
		if !p.keep(hubs) || !p.keep(broker) {
			p.drop(hubs, broker)
			return
		}
		c := &eaten{p: p, hub: hubs, broker: broker, doomed: make(map[uint32]bool)}
		p.work.Go(c.requests)
		p.work.Go(c.answers)
	}
}

// eaten is one connection.
type eaten struct {
	p           *eater
	hub, broker net.Conn

	mu     sync.Mutex
	doomed map[uint32]bool // correlation ids of answers to be kept back; true: the connection is cut as well
}

// produce is the number of the produce request in Kafka's protocol.
const produce = 0

// frame reads a request or an answer: its length in four bytes, and what follows.
func frame(c net.Conn) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	all := append(head, make([]byte, binary.BigEndian.Uint32(head))...)
	_, err := io.ReadFull(c, all[4:])
	return all, err
}

func (c *eaten) requests() {
	defer c.p.drop(c.hub, c.broker)
	for {
		f, err := frame(c.hub)
		if err != nil || len(f) < 12 {
			return
		}
		if binary.BigEndian.Uint16(f[4:]) == produce && c.p.on.Load() {
			c.p.mu.Lock()
			doom, cut := c.p.random.IntN(10) == 0, c.p.random.IntN(8) > 0
			c.p.mu.Unlock()
			if doom {
				c.mu.Lock()
				c.doomed[binary.BigEndian.Uint32(f[8:])] = cut
				c.mu.Unlock()
			}
		}
		if seen := c.p.seen.Load(); seen != nil && binary.BigEndian.Uint16(f[4:]) == produce {
			if acks, ok := acksOf(f); ok {
				(*seen)(acks)
			}
		}
		if _, err := c.broker.Write(f); err != nil {
			return
		}
	}
}

func (c *eaten) answers() {
	defer c.p.drop(c.hub, c.broker)
	for {
		f, err := frame(c.broker)
		if err != nil || len(f) < 8 {
			return
		}
		c.mu.Lock()
		cut, doomed := c.doomed[binary.BigEndian.Uint32(f[4:])]
		c.mu.Unlock()
		switch {
		case cut:
			c.p.cut.Add(1)
			return
		case doomed:
			c.p.silent.Add(1)
			continue
		}
		if _, err := c.hub.Write(f); err != nil {
			return
		}
	}
}

// TestTortureClusterEatenAnswers keeps back one in ten of the broker's answers to produce requests: what was stored twice for that is delivered once, and the hub says
// how often it happened.
func TestTortureClusterEatenAnswers(t *testing.T) {
	must(t, eatenAnswers(t, hub, time.Duration(rounds(5, 6, 120))*time.Second, true))
	if long() {
		must(t, eatenAnswers(t, hub, 2*time.Minute, false))
	}
}

// eatenAnswers runs a hub without a spool, which goes on asking Kafka, or with one, which takes what comes until Kafka answers well.
func eatenAnswers(t *testing.T, bin string, span time.Duration, noSpool bool) []string {
	t.Helper()
	door := load.FreeAddress(t.Context())
	random := choices(t)
	p := newEater(t, door, random)
	kafka := services.NewKafka(t, services.KafkaOptions{Properties: map[string]string{"advertised.listeners": "PLAINTEXT://" + door}})
	p.to = kafka.Addresses()[0]
	r := newRack(t, plan{bin: bin, kafka: kafka, brokers: []string{door}, noSpool: noSpool})
	r.allUp()
	watched := r.watchPlaces()
	stop := r.background(clusterRate)
	pause(t, time.Second)
	p.on.Store(true)
	pause(t, span)
	p.on.Store(false)
	r.flowing("/steady")
	sent := stop()
	r.calm(3 * time.Minute)
	twice := 0
	for _, n := range r.topic("events.stripe") {
		twice += n - 1
	}
	var said float64
	ok := await(t, 30*time.Second, func() bool {
		m, err := r.hubs[0].metrics()
		said = m["tidewire_log_duplicates_total"]
		return err == nil && said >= float64(twice)
	})
	if !ok || said > float64(twice) {
		r.fault("the log holds %d records too many, the hub says %v", twice, said)
	}
	eaten := p.silent.Load() + p.cut.Load()
	if eaten == 0 || twice == 0 {
		r.fault("%d answers were kept back, %d records are in the log twice: nothing is proved", eaten, twice)
	}
	name := "cluster: produce answers kept back"
	if noSpool {
		name += ", no spool"
	}
	r.settled(name, int(eaten), func() []*load.Sent { return sent }, 0)
	watched()
	tell(t, name, int(eaten), "repeats in the log that the hub reports", said)
	return r.violations()
}
