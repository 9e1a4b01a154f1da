package load

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Rule scripts how a sink answers on one path. The zero value answers 200 without a body at once.
//
// An event is concerned by the failing part of a rule when its ID hashes below Share, so the same events fail in each
// run. Requests beyond Fail of such an event, and all others, are answered 200.
type Rule struct {
	// Share of the events that fail, 0 to 1; 0 with Fail set means all.
	Share float64
	// Fail is how many first requests of a concerned event fail. 0: none.
	Fail int
	// Status is what a failing request is answered; default 500.
	Status int
	// RetryAfter is sent with failing answers, in whole seconds; 0: no header.
	RetryAfter time.Duration
	// Reset cuts the connection with a TCP reset in place of a failing answer, after the request was read.
	Reset bool
	// Delay is waited before each answer.
	Delay time.Duration
	// Tarpit reads requests and never answers.
	Tarpit bool
	// HugeBody is the size in bytes of the body of each 200; default 0.
	HugeBody int64
}

// Receipt is the record of one request that a sink read.
type Receipt struct {
	// Order numbers the requests of all connections in the order in which they were read in full, from 1.
	Order uint64
	// Path is the request's path.
	Path string
	// ID is read out of the body; its Source is empty when the body holds no generated event ID.
	ID ID
	// WebhookID is the header of that name; empty when there was none.
	WebhookID string
	// At is when the request had been read, in nanoseconds since 1970.
	At int64
	// Status is the answer given; 0 for a tarpit or a reset.
	Status int
	// Hash is the first 8 bytes of the body's SHA-256.
	Hash uint64
}

// Sink plays target systems: an HTTP server on loopback that records every request and answers by rule. Safe for
// concurrent use.
type Sink struct {
	listener net.Listener
	rules    map[string]*target
	journal  *os.File // nil: memory only
	order    atomic.Uint64

	mu     sync.Mutex
	conns  map[*sinkConn]struct{}
	gone   []Receipt // of connections that have ended
	closed bool
	broken error // the first journal error
	done   sync.WaitGroup
}

// target is one path: its rule and what it has to remember.
type target struct {
	path  string
	rule  Rule
	taken atomic.Int64 // requests answered 200
	seen  atomic.Int64 // requests read

	mu    sync.Mutex
	tries map[ID]int // of concerned events only
}

// SinkConfig sets up a sink.
type SinkConfig struct {
	// Address to listen on; default "127.0.0.1:0".
	Address string
	// Rules by path, such as "/orders". Other paths are answered 404 and recorded.
	Rules map[string]Rule
	// Journal names a file that each record is appended to, before the request is answered, as a line that
	// ReadJournal reads; it survives a kill of the sink's process. Empty: memory only.
	Journal string
}

// NewSink listens and answers until Close.
func NewSink(c SinkConfig) (*Sink, error) {
	if c.Address == "" {
		c.Address = "127.0.0.1:0"
	}
	s := &Sink{rules: make(map[string]*target), conns: make(map[*sinkConn]struct{})}
	for path, rule := range c.Rules {
		s.rules[path] = &target{path: path, rule: rule, tries: make(map[ID]int)}
	}
	var err error
	if c.Journal != "" {
		if s.journal, err = os.OpenFile(c.Journal, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
			return nil, fmt.Errorf("sink: open journal: %w", err)
		}
	}
	if s.listener, err = net.Listen("tcp", c.Address); err != nil {
		if s.journal != nil {
			_ = s.journal.Close()
		}
		return nil, fmt.Errorf("sink: %w", err)
	}
	s.done.Go(s.accept)
	return s, nil
}

// Address is the "host:port" the sink listens on.
func (s *Sink) Address() string { return s.listener.Addr().String() }

// URL is the address of one of its paths.
func (s *Sink) URL(path string) string { return "http://" + s.Address() + path }

// Taken is how many requests on a path were answered 200, repeats included.
func (s *Sink) Taken(path string) int64 {
	if t := s.rules[path]; t != nil {
		return t.taken.Load()
	}
	return 0
}

// Seen is how many requests on a path were read.
func (s *Sink) Seen(path string) int64 {
	if t := s.rules[path]; t != nil {
		return t.seen.Load()
	}
	return 0
}

// Wait returns nil as soon as want requests in all were answered 200 on the paths, or an error that says how many were
// when nothing more has come for the time quiet, or when ctx is done.
func (s *Sink) Wait(ctx context.Context, want int64, quiet time.Duration, paths ...string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var last int64
	changed := time.Now()
	for {
		var taken, seen int64
		for _, p := range paths {
			taken += s.Taken(p)
			seen += s.Seen(p)
		}
		if taken >= want {
			return nil
		}
		if seen != last {
			last, changed = seen, time.Now()
		}
		if time.Since(changed) > quiet {
			return fmt.Errorf("sink: %d of %d deliveries came, then nothing for %s", taken, want, quiet)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("sink: %d of %d deliveries came: %w", taken, want, context.Cause(ctx))
		}
	}
}

// Receipts returns the records of the given paths (none: all), in the order in which they were read.
func (s *Sink) Receipts(paths ...string) []Receipt {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Receipt
	add := func(rs []Receipt) {
		for _, r := range rs {
			if len(paths) == 0 || slices.Contains(paths, r.Path) {
				all = append(all, r)
			}
		}
	}
	add(s.gone)
	for c := range s.conns {
		c.mu.Lock()
		add(c.receipts)
		c.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Receipt) int {
		if a.Order < b.Order {
			return -1
		}
		return 1
	})
	return all
}

// Forget drops all records and counts; the rules' memory of which event failed how often stays.
func (s *Sink) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = nil
	for c := range s.conns {
		c.mu.Lock()
		c.receipts = nil
		c.mu.Unlock()
	}
	for _, t := range s.rules {
		t.taken.Store(0)
		t.seen.Store(0)
	}
}

// Close stops listening, cuts the open connections and waits for them. It returns the first error of the journal.
func (s *Sink) Close() error {
	s.mu.Lock()
	s.closed = true
	err := s.listener.Close()
	for c := range s.conns {
		_ = c.wire.conn.Close()
		c.cut()
	}
	s.mu.Unlock()
	s.done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
		s.journal = nil
	}
	if errors.Is(err, net.ErrClosed) { // closed before
		err = nil
	}
	return errors.Join(s.broken, err)
}

func (s *Sink) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		ctx, cut := context.WithCancel(context.Background())
		c := &sinkConn{sink: s, wire: newWire(conn), cut: cut}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			cut()
			_ = conn.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.done.Go(func() { c.serve(ctx) })
		s.mu.Unlock()
	}
}

// hash64 is the first 8 bytes of the SHA-256 of b.
func hash64(b []byte) uint64 {
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// concerned says whether a rule's failing part is about an event: a fixed share of all IDs.
func (r *Rule) concerned(id ID) bool {
	if r.Fail == 0 {
		return false
	}
	if r.Share == 0 {
		return true
	}
	x := uint64(id.Key)<<32 | uint64(id.Seq)
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11)/(1<<53) < r.Share
}

// appendJournal writes a receipt as a line: order, time, path, event ID, webhook ID, status and hash, by tabs.
func appendJournal(b []byte, r *Receipt) []byte {
	b = strconv.AppendUint(b, r.Order, 10)
	b = append(b, '\t')
	b = strconv.AppendInt(b, r.At, 10)
	b = append(b, '\t')
	b = append(b, r.Path...)
	b = append(b, '\t')
	if r.ID.Source != "" {
		b = append(b, r.ID.String()...)
	}
	b = append(b, '\t')
	b = append(b, r.WebhookID...)
	b = append(b, '\t')
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, '\t')
	b = strconv.AppendUint(b, r.Hash, 16)
	return append(b, '\n')
}

// ReadJournal reads the records of a sink's journal. A last line without its end, which a kill may leave, is left out.
func ReadJournal(file string) ([]Receipt, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var all []Receipt
	for n, line := range strings.SplitAfter(string(data), "\n") {
		line, whole := strings.CutSuffix(line, "\n")
		if !whole {
			break
		}
		r, err := parseJournal(line)
		if err != nil {
			return nil, fmt.Errorf("read journal: %s, line %d: %w", file, n+1, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func parseJournal(line string) (Receipt, error) {
	f := strings.Split(line, "\t")
	if len(f) != 7 {
		return Receipt{}, fmt.Errorf("%d fields, want 7", len(f))
	}
	r := Receipt{Path: f[2], WebhookID: f[4]}
	var errs [5]error
	r.Order, errs[0] = strconv.ParseUint(f[0], 10, 64)
	r.At, errs[1] = strconv.ParseInt(f[1], 10, 64)
	if f[3] != "" {
		r.ID, errs[2] = ParseID(f[3])
	}
	r.Status, errs[3] = strconv.Atoi(f[5])
	r.Hash, errs[4] = strconv.ParseUint(f[6], 16, 64)
	return r, errors.Join(errs[:]...)
}
