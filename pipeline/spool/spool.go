// Package spool keeps what the shared log cannot be given right now, on disk beside the hub, and gives it to the log in order as soon as
// the log takes records again. It stands in front of the log's Publish and nowhere else; webhooks, pulls and dead letters all come
// through it.
//
// # The rules
//
//  1. While nothing waits, a publish goes straight to the log and the file is not touched.
//  2. A publish that the log does not confirm within Config.Wait, or answers with an error that leaves open what became of it, is
//     appended to the spool, with fsync, and answered as stored. The log may have it too: that is a repeat with the same UUID,
//     which the ledger drops like any other. An answer that is final (Refused, Conflict) goes back to the caller and changes nothing.
//  3. From then on every publish of the hub, whatever its topic, goes into the spool behind it, until the log has all of it. Callers who were
//     waiting for the log when it was found to be down go to the spool at once, so that an outage costs only the first few of them the wait.
//  4. Draining is at least once. A record leaves the spool when the log has confirmed it, and not before; what a crash makes unsure is given
//     to the log again. Records with equal keys are given in order, none before its elders are confirmed or together with them in one
//     call; other keys go side by side, so that a partition without a leader holds up nobody else until some thousand of its records wait.
//  5. The way back: publishes go straight to the log again at an instant when nothing waits in the spool and nobody is about to append to it. So
//     whatever was answered before that instant is in the log before whatever begins after it. When a steady stream keeps the last few from
//     running out, new publishes wait for them, at most a second.
//  6. While the log is down, one key's records ask whether it is back, first after a probe (Config.Reachable), and less and less
//     often, at least every two seconds. When it is confirmed the rest follows.
//  7. What waits is bounded by Config.MaxBytes. Past it, and when the disk is full, Publish returns an error and the sender must come again;
//     what waits is safe, and appends go on by themselves when there is room.
//
// Order is what a sender can know: of two publishes with one key of which the second began after the first was answered, the
// log gets the first before the second, through the spool or not, and through any number of outages and crashes. A repeat may come after the
// second; the first of each ID is what counts.
//
// The spool does not compare identities, as Kafka does not: a sender's repeat during an outage is another record, and another payload under a
// known ID is found where it is found without an outage. So what a sender is answered does not depend on whether the log is up. (Open
// Config.Local without Unique. With it, a Conflict goes back to the caller.)
//
// A record that the log refuses for good while it is drained, because it is too large for it, is not lost: it goes to the topic Refused of the
// spool's own file, with the reason, is counted and logged as an error, and younger ones of its key go on. Every
// start offers it to the log once more.
//
// # A crash at any line
//
// Between the append and the answer: the sender was told nothing and comes again, the record is drained as well, a repeat. Between the answer and the drain: New
// finds it and publishes wait behind it. Between the log's confirmation and the place on disk: drained again, a repeat; its
// younger ones too, in order. Between appending to Refused and finishing the original: offered twice.
package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// Log is what the spool stands in front of. Publish returns nil only when every message is stored. An error with a method Refused() bool that
// returns true says that nothing is stored and never will be, one with Conflict() bool that an ID is taken; any other leaves it unknown. The
// messages of one call that have one key are stored in order, none without its elders. The messages' contexts bound
// the call; one that does not obey them is left behind, and Close waits for it.
type Log interface {
	Publish(topic string, messages ...*message.Message) error
}

// Config says what the spool stands in front of, and where it keeps things. Log, Local and Key are needed.
type Config struct {
	// Log is the shared log.
	Log Log
	// Local is the spool's own log, on a file that holds nothing else. It stays open when the spool is closed.
	Local *sqlitelog.Log
	// Key orders: records with equal non-empty keys are given to the shared log in the order of their appends. An empty key asks for no
	// order. It must tell apart what the shared log's own key tells apart.
	Key func(*message.Message) string
	// Reachable asks, without storing anything, whether the shared log answers; nil: it is taken to. Called by one goroutine, with five seconds.
	Reachable func(ctx context.Context) error
	// MaxBytes bounds the events that wait, with what SQLite needs to store them; its write-ahead log, at most a few hundred MiB, and
	// what was drained within the last second come on top. Default 1 GiB.
	MaxBytes int64
	// Wait bounds how long a publish waits for the shared log before it goes to the spool. Default 2 s.
	Wait time.Duration
	// Logger; nil: slog.Default().
	Logger *slog.Logger
	// Registerer receives the collectors tidewire_spool_*; nil: none. Close takes them back.
	Registerer prometheus.Registerer
}

const (
	// Refused is the topic of the spool's own file that holds what the shared log refused for good.
	Refused = "spool.refused"
	// group is the consumer group that drains.
	group = "drain"
	// inHand bounds the records of a topic that are in memory on their way to the shared log. The file's log bounds their bytes, to 8 MiB.
	inHand = 2048
	// fewLeft is how many may wait for new publishes to be held up until they are through, and lastWait how long that may last.
	fewLeft  = 512
	lastWait = time.Second
)

// ErrClosed is returned by Publish after Close.
var ErrClosed = errors.New("the spool is closed")

// The ways a publish may go.
const (
	straight int32 = iota // to the shared log
	aside                 // into the spool
	held                  // nowhere until the last few are drained
)

// Spool is the front of the shared log. Its methods may be called from many goroutines.
type Spool struct {
	c       Config
	logger  *slog.Logger
	metrics *metrics
	gate    *gate
	kick    chan struct{} // Run shall look for new topics

	attempts sync.WaitGroup // publishes to the shared log, also those nobody waits for any more

	mu        sync.Mutex // guards the following
	closed    bool
	way       int32
	settled   chan struct{} // while held: closed when it is over
	notBefore time.Time     // the next time publishes may be held
	lanes     map[string]*lane
	waiting   int64 // records that are in the spool, or about to be, and not confirmed
	bytes     int64 // what they take
	appending int64 // of them, those about to be
	appends   int64 // so far, to see whether there was one
	stuck     int   // of them, those that were tried in vain
	refused   int64 // records in Refused
	since     time.Time
	cause     error // why publishes go aside
	full      bool  // a publish was not taken for lack of room, and there is little still
	broken    error // why the last append failed; nil when it did not

	sweep atomic.Bool // there may be drained records to remove
}

// lane is a topic with records in the spool.
type lane struct {
	topic string
	open  bool // its records are being drained, and its group has a place; used by Run alone
}

var _ message.Publisher = (*Spool)(nil)

// New finds what waits in the spool. Nothing is drained before Run.
func New(ctx context.Context, c Config) (*Spool, error) {
	if c.Log == nil || c.Local == nil || c.Key == nil {
		return nil, errors.New("open the spool: Log, Local and Key are needed")
	}
	c.MaxBytes = cmp.Or(c.MaxBytes, 1<<30)
	c.Wait = cmp.Or(c.Wait, 2*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Reachable == nil {
		c.Reachable = func(context.Context) error { return nil }
	}
	s := &Spool{c: c, logger: c.Logger, gate: newGate(), kick: make(chan struct{}, 1), lanes: make(map[string]*lane)}
	s.sweep.Store(true)
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	var err error
	if s.metrics, err = newMetrics(s, c.Registerer); err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	return s, nil
}

// load counts what waits.
func (s *Spool) load(ctx context.Context) error {
	for _, topic := range s.c.Local.Topics() {
		n, _, err := s.c.Local.Lag(ctx, topic, group)
		if err != nil {
			return err
		}
		err = s.c.Local.Backlog(ctx, topic, group, func(bytes int) { s.bytes += charge(bytes) })
		if err != nil && !sqlite.IsDamage(err) { // what is intact shall be drained all the same
			return err
		}
		if topic == Refused {
			s.refused = n
			continue
		}
		s.lanes[topic] = &lane{topic: topic}
		s.waiting += n
	}
	if s.waiting > 0 {
		s.way, s.since, s.cause = aside, time.Now(), errors.New("they were waiting when the hub stopped")
		s.gate.fail() // the first of them asks
		s.logger.Info("events wait in the spool; newer ones go behind them", "events", s.waiting, "bytes", s.bytes)
	}
	return nil
}

// Publish returns nil only when every message is stored, in the shared log or in the spool. The first message's context bounds the
// waiting. An error with Refused() or Conflict() bool is the shared log's, or the spool's where the message is too
// large for it; after any other the sender must come again. The messages must not be changed afterwards.
func (s *Spool) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	for {
		err, asked := s.ask(topic, messages)
		if asked && (err == nil || final(err) || messages[0].Context().Err() != nil || errors.Is(err, ErrClosed)) {
			return err
		}
		stored, err := s.keep(topic, messages, err)
		if stored || err != nil {
			return err
		}
	}
}

// ask publishes to the shared log if that is the way to go. A call that takes too long is left behind.
func (s *Spool) ask(topic string, messages []*message.Message) (err error, asked bool) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("publish to %s: %w", topic, ErrClosed), true
	}
	if s.way != straight {
		s.mu.Unlock()
		return nil, false
	}
	s.attempts.Add(1)
	s.mu.Unlock()
	answer := make(chan error, 1)
	go func() {
		defer s.attempts.Done()
		err := s.c.Log.Publish(topic, messages...)
		if err == nil || final(err) {
			s.gate.pass()
		}
		answer <- err
	}()
	ctx := messages[0].Context()
	late := time.NewTimer(s.c.Wait)
	defer late.Stop()
	select {
	case err := <-answer:
		return err, true
	case <-late.C:
		return fmt.Errorf("publish to %s: no answer within %s", topic, s.c.Wait), true
	case <-s.gate.shut():
		return errors.New("it was found to be down by another publish"), true
	case <-ctx.Done():
		return fmt.Errorf("publish to %s: %w", topic, ctx.Err()), true
	}
}

// keep appends to the spool if that is the way to go; cause, when there is one, makes it so. It reports false without an
// error when the way has changed meanwhile.
func (s *Spool) keep(topic string, messages []*message.Message, cause error) (stored bool, err error) {
	size := chargeAll(messages)
	reserved, settled, err := s.reserve(topic, len(messages), size, cause)
	switch {
	case err != nil:
		return false, err
	case settled != nil:
		return false, s.await(messages[0].Context(), topic, settled)
	case !reserved:
		return false, nil
	}
	err = s.c.Local.Publish(topic, messages...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.appending -= int64(len(messages))
	if err != nil {
		s.waiting -= int64(len(messages))
		s.bytes -= size
		if !final(err) && messages[0].Context().Err() == nil {
			s.broken = err
		}
		s.settle()
		return false, errors.Join(fmt.Errorf("spool: %w", err), cause)
	}
	s.broken = nil
	s.metrics.spooled.Add(float64(len(messages)))
	return true, nil
}

// reserve makes room in the spool. When the way is another one it reports false, with what to wait for before looking again, if anything.
func (s *Spool) reserve(topic string, n int, size int64, cause error) (reserved bool, settled <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause != nil {
		s.divert(cause)
	}
	switch {
	case s.closed:
		return false, nil, fmt.Errorf("publish to %s: %w", topic, ErrClosed)
	case s.way == straight:
		return false, nil, nil
	case s.way == held:
		return false, s.settled, nil
	case s.bytes+size > s.c.MaxBytes:
		if !s.full {
			s.full = true
			s.logger.Error("the spool is full; senders are told to come again", "events", s.waiting, "bytes", s.bytes, "cause", s.cause)
		}
		s.settle() // it may be that nothing waits
		return false, nil, errors.Join(fmt.Errorf("publish to %s: %w", topic, s.fullError()), cause)
	}
	s.waiting += int64(n)
	s.bytes += size
	s.appending += int64(n)
	s.appends++
	if s.lanes[topic] == nil {
		s.lanes[topic] = &lane{topic: topic}
		s.wake()
	}
	return true, nil, nil
}

// fullError says that the spool is full. Under mu.
func (s *Spool) fullError() error {
	return fmt.Errorf("the spool is full: %d bytes of at most %d are taken by events that wait for the shared log", s.bytes, s.c.MaxBytes)
}

// await waits until publishes are no longer held, for a while. Then it is given up that they are.
func (s *Spool) await(ctx context.Context, topic string, settled <-chan struct{}) error {
	late := time.NewTimer(lastWait)
	defer late.Stop()
	select {
	case <-settled:
	case <-late.C:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.way == held && s.settled == settled {
			s.release(aside)
		}
	case <-ctx.Done():
		return fmt.Errorf("publish to %s: waiting for the spool: %w", topic, ctx.Err())
	}
	return nil
}

// divert sends publishes into the spool. Under mu.
func (s *Spool) divert(cause error) {
	if s.way == held {
		s.release(aside)
	}
	s.gate.fail()
	if s.way == aside {
		return
	}
	s.way, s.since, s.cause = aside, time.Now(), cause
	s.logger.Warn("the shared log does not take events; they are kept in the spool until it does", "cause", cause)
}

// release ends the time in which publishes are held. Under mu.
func (s *Spool) release(way int32) {
	s.way = way
	s.notBefore = time.Now().Add(lastWait)
	close(s.settled)
	s.settled = nil
}

// settle sends publishes straight to the log again when nothing waits any more, and holds them when little does. Under mu.
func (s *Spool) settle() {
	if s.bytes < s.c.MaxBytes/10*9 {
		s.full = false
	}
	switch {
	case s.way == straight || s.gate.isShut():
	case s.waiting == 0:
		if s.way == held {
			s.release(straight)
		}
		s.way, s.broken = straight, nil
		s.logger.Info("the spool is drained; events go straight to the shared log again", "after", time.Since(s.since).Round(time.Millisecond))
	case s.way == aside && s.waiting <= fewLeft && s.stuck == 0 && time.Now().After(s.notBefore):
		s.way, s.settled = held, make(chan struct{})
	}
}

func (s *Spool) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Close takes no more messages and waits for publishes to the shared log that are under way, also those that were left behind. Call it when Run
// has returned and the publishers have; it closes neither log. Calling it again does the same.
func (s *Spool) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.attempts.Wait()
	s.metrics.unregister()
	return nil
}

// final reports whether an error says that trying again is useless.
func final(err error) bool {
	if e, ok := errors.AsType[interface {
		error
		Refused() bool
	}](err); ok && e.Refused() {
		return true
	}
	e, ok := errors.AsType[interface {
		error
		Conflict() bool
	}](err)
	return ok && e.Conflict()
}
