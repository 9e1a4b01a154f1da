package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Defaults of Generator.
const (
	defaultConnections = 64
	defaultKeys        = 16
	defaultBody        = 1024
	defaultTimeout     = 10 * time.Second
	defaultTries       = 50
	defaultGrace       = 30 * time.Second
)

// Generator posts signed Stripe events and records what became of each. Every event of a customer goes over the same
// connection, one after the other, so that the order in which a customer's events were accepted is known.
type Generator struct {
	// Address is the hub's "host:port" and Path the connection's, such as "/in/stripe".
	Address, Path string
	// Secret signs each request (Stripe-Signature, v1) at the time it is sent. Empty: requests carry no signature.
	Secret string
	// Source names the run in event IDs, 1 to 16 lower-case letters and digits. It must differ between runs at one hub.
	Source string
	// Connections is how many TCP connections post side by side; default 64.
	Connections int
	// KeysPerConnection is how many customers each connection posts for; default 16.
	KeysPerConnection int
	// Rate is the events to be sent a second, at fixed times (open loop): latency counts from the time an event was
	// meant to be sent, so that a slow hub cannot hide by slowing the generator. 0: saturation, each connection
	// sends its next event as soon as the last was answered, and latency counts from sending.
	Rate float64
	// Connected is called when all connections are made, before anything is sent. Default: nobody is told.
	Connected func()
	// Duration is how long new events are sent, Events how many at most. At least one must be set.
	Duration time.Duration
	Events   int
	// Types are sent in turn; default only "invoice.paid".
	Types []string
	// BodySize in bytes, about; default 1024.
	BodySize int
	// Duplicates is the share of accepted events sent a second time, unchanged but freshly signed. Forged and Stale are
	// the shares signed with a wrong secret, and with the right one ten minutes ago.
	Duplicates, Forged, Stale float64
	// Seed decides which; equal seeds choose alike.
	Seed uint64
	// Timeout bounds one try; default 10 s. Tries bounds the tries of one event; default 50. Grace bounds what is sent
	// again after Duration is over; default 30 s.
	Timeout time.Duration
	Tries   int
	Grace   time.Duration
}

// State is what the generator knows of an event.
type State uint8

// The states.
const (
	Unknown  State = iota // no answer was ever read in full, or only 429 and 5xx
	Accepted              // a full 2xx answer was read
	Refused               // a full 3xx or 4xx answer other than 408 and 429 was read
)

// Kind is what was right or wrong with an event.
type Kind uint8

// The kinds.
const (
	Genuine Kind = iota
	Forged       // signed with a wrong secret
	Stale        // signed ten minutes ago
)

// Post is the record of one event.
type Post struct {
	Key, Seq uint32
	// Type is an index into Sent.Types.
	Type  uint16
	Kind  Kind
	State State
	// Tries counts the requests until State was known, Repeats the requests sent on purpose after that.
	Tries, Repeats uint16
	// Status is the last answer's.
	Status uint16
	// Hash is the first 8 bytes of the body's SHA-256.
	Hash uint64
	// Due is when the event was meant to be sent and Done when its state was known, in nanoseconds since 1970.
	Due, Done int64
}

// Sent is the record of one run of a Generator.
type Sent struct {
	Source string
	Types  []string
	Posts  []Post
	// Ack is the time from Due to Done of the accepted events.
	Ack Histogram
	// Start and End span the run, grace included.
	Start, End time.Time
	// Resent counts requests beyond the first of their event, without the repeats on purpose; Reconnects the
	// connections that had to be opened anew.
	Resent, Reconnects int
	// RepeatsRefused counts the duplicates on purpose that were not answered 2xx.
	RepeatsRefused int
}

// ID is the identity of one of s.Posts.
func (s *Sent) ID(p Post) ID { return ID{Source: s.Source, Key: p.Key, Seq: p.Seq} }

// Count returns how many posts are in a state.
func (s *Sent) Count(state State) int {
	n := 0
	for i := range s.Posts {
		if s.Posts[i].State == state {
			n++
		}
	}
	return n
}

// WithDefaults returns g with its defaults filled in.
func (g Generator) WithDefaults() Generator {
	or := func(v, def int) int {
		if v == 0 {
			return def
		}
		return v
	}
	g.Connections = or(g.Connections, defaultConnections)
	g.KeysPerConnection = or(g.KeysPerConnection, defaultKeys)
	g.BodySize = or(g.BodySize, defaultBody)
	g.Tries = or(g.Tries, defaultTries)
	g.Timeout = time.Duration(or(int(g.Timeout), int(defaultTimeout)))
	g.Grace = time.Duration(or(int(g.Grace), int(defaultGrace)))
	if len(g.Types) == 0 {
		g.Types = []string{"invoice.paid"}
	}
	return g
}

func (g Generator) validate() error {
	switch {
	case !validSource(g.Source):
		return fmt.Errorf("generator: source %q is not 1 to 16 lower-case letters and digits", g.Source)
	case g.Duration <= 0 && g.Events <= 0:
		return errors.New("generator: neither a duration nor a number of events is set")
	case g.Connections < 1 || g.KeysPerConnection < 1 || g.Connections*g.KeysPerConnection > 999_999:
		return fmt.Errorf("generator: %d connections of %d keys are not 1 to 999999 keys", g.Connections, g.KeysPerConnection)
	case len(g.Types) > 1<<16-1:
		return fmt.Errorf("generator: %d types are more than 65535", len(g.Types))
	}
	return nil
}

// Run posts until Duration or Events is over, or ctx is done, and returns the record. An error means that nothing
// could be measured (bad settings, no connection at the start); a hub that fails later shows in the record.
func (g Generator) Run(ctx context.Context) (*Sent, error) {
	g = g.WithDefaults()
	if err := g.validate(); err != nil {
		return nil, err
	}
	senders := make([]*sender, g.Connections)
	for i := range senders {
		s := newSender(g, i)
		conn, err := net.DialTimeout("tcp", g.Address, g.Timeout)
		if err != nil {
			for _, open := range senders[:i] {
				open.close()
			}
			return nil, fmt.Errorf("generator: connect to the hub: %w", err)
		}
		s.wire = newWire(conn)
		senders[i] = s
	}
	if g.Connected != nil {
		g.Connected()
	}
	start := time.Now()
	var end time.Time
	if g.Duration > 0 {
		end = start.Add(g.Duration)
	}
	var all sync.WaitGroup
	for _, s := range senders {
		all.Go(func() { s.run(ctx, start, end) })
	}
	all.Wait()
	return gather(g, senders, start), nil
}

func gather(g Generator, senders []*sender, start time.Time) *Sent {
	sent := &Sent{Source: g.Source, Types: g.Types, Start: start, End: time.Now()}
	n := 0
	for _, s := range senders {
		n += len(s.posts)
	}
	sent.Posts = make([]Post, 0, n)
	for _, s := range senders {
		s.close()
		sent.Posts = append(sent.Posts, s.posts...)
		sent.Ack.Merge(&s.ack)
		sent.Resent += s.resent
		sent.Reconnects += s.reconnects
		sent.RepeatsRefused += s.repeatsRefused
	}
	return sent
}

// random is a sender's own source: equal seeds make equal choices, whatever the other senders do.
func random(seed uint64, sender int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(sender)))
}
