// Package sqlitelog is a durable log as a Watermill Pub/Sub on one SQLite file: topics of records with contiguous
// offsets, consumer groups that keep their places, order by key. It passes Watermill's own suite with
// consumer groups, order and persistence declared.
//
// What is promised: Publish returns nil only when every message is on disk. A record is handed to a group again
// until it is acked (at least once). A group's place only ever covers the contiguous prefix of what is finished, and
// never falls. What is handed out is what was published, bit for bit: every record carries a CRC32C, and one that fails it is
// reported and left out.
package sqlitelog

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/semaphore"
	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config says which file the log lives in and what it asks of its user. Only DB is needed. The functions may be called from several
// goroutines at a time and must not call the Log.
type Config struct {
	// DB is the file; it stays open when the log is closed, and must be closed after it.
	DB *sqlite.DB
	// Logger; nil: slog.Default().
	Logger *slog.Logger
	// Unique says in which topics a UUID is stored once; nil: in none. It must always say the same of a topic. An
	// empty UUID is never compared.
	Unique func(topic string) bool
	// Same says whether a message whose UUID is known in a unique topic is the stored one again; otherwise it is a conflict. nil: when the
	// payloads are equal.
	Same func(stored, offered *message.Message) bool
	// Prepare is called once for each record that comes into memory, before any group sees it. What it puts into the message's
	// context, every group's copy sees. It must not change anything else. partition is always 0. When the record was appended
	// just now the message is still in the context it was published with, which the context it leaves should not be made of.
	Prepare func(m *message.Message, topic string, partition int32, offset int64)
	// OnDuplicate is told of each message that was not stored because its UUID is known with the same payload.
	OnDuplicate func(topic, uuid string)
	// OnDamage is told once of each record that cannot be read as it was written; such a record counts as finished for
	// every group. Offset -1 stands for the bookkeeping of a topic.
	OnDamage func(topic string, offset int64, err error)
	// MaxRecord bounds UUID, metadata and payload of a message together, in bytes. Default 8 MiB.
	MaxRecord int
	// QueueBytes bounds the messages that wait in Publish or are being written; more callers block. Default 64 MiB.
	QueueBytes int
	// TailRecords and TailBytes bound what of each topic's end is kept in memory for groups that are close to it; one that is
	// further behind reads the file. Defaults 4096 and 4 MiB.
	TailRecords int
	TailBytes   int
	// CommitEvery is how often the places of groups are written. After a crash a group sees again what it
	// finished since. Default 250 ms.
	CommitEvery time.Duration
	// NackDelay is how long a nacked message waits before it is handed out again; each further nack doubles it, up to
	// NackDelayMax. Defaults 50 ms and 5 s.
	NackDelay, NackDelayMax time.Duration
	// CloseTimeout bounds how long closing a subscription waits for messages in hand to be acked. Default 10 s.
	CloseTimeout time.Duration

	recent int // what the index of identities keeps in memory before it writes a set; see recentHashes
}

func (c Config) withDefaults() Config {
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.MaxRecord = cmp.Or(c.MaxRecord, 8<<20)
	c.QueueBytes = max(cmp.Or(c.QueueBytes, 64<<20), c.MaxRecord)
	c.TailRecords = cmp.Or(c.TailRecords, 4096)
	c.TailBytes = cmp.Or(c.TailBytes, 4<<20)
	c.CommitEvery = cmp.Or(c.CommitEvery, 250*time.Millisecond)
	c.NackDelay = cmp.Or(c.NackDelay, 50*time.Millisecond)
	c.NackDelayMax = max(cmp.Or(c.NackDelayMax, 5*time.Second), c.NackDelay)
	c.CloseTimeout = cmp.Or(c.CloseTimeout, 10*time.Second)
	c.recent = cmp.Or(c.recent, recentHashes)
	if c.Same == nil {
		c.Same = func(stored, offered *message.Message) bool { return string(stored.Payload) == string(offered.Payload) }
	}
	if c.Unique == nil {
		c.Unique = func(string) bool { return false }
	}
	if c.OnDuplicate == nil {
		c.OnDuplicate = func(string, string) {}
	}
	if c.OnDamage == nil {
		c.OnDamage = func(string, int64, error) {}
	}
	return c
}

// ErrClosed is returned by everything that is called after Close.
var ErrClosed = errors.New("the log is closed")

// Log is the log. Its methods may be called from many goroutines.
type Log struct {
	c      Config
	db     *sqlite.DB
	ids    *ids
	queue  chan *publication
	bytes  *semaphore.Weighted
	enough chan struct{} // asks the committer to write before its time

	mu     sync.RWMutex // guards the following
	topics map[string]*topic
	places map[placeKey]*place
	subs   map[*Subscriber]struct{}
	closed bool

	entering sync.WaitGroup // publishers that are putting something into the queue
	quit     chan struct{}
	work     sync.WaitGroup
	once     sync.Once
	err      error
}

var _ message.Publisher = (*Log)(nil)

// Open brings the log's tables up to date and loads what it needs to know of them.
func Open(ctx context.Context, c Config) (*Log, error) {
	if c.DB == nil {
		return nil, errors.New("open the log: no DB")
	}
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := c.DB.Migrate(ctx, "log", sub); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	l := &Log{
		c: c.withDefaults(), db: c.DB,
		queue:  make(chan *publication, 1024),
		enough: make(chan struct{}, 1),
		topics: make(map[string]*topic),
		places: make(map[placeKey]*place),
		subs:   make(map[*Subscriber]struct{}),
		quit:   make(chan struct{}),
	}
	l.bytes = semaphore.NewWeighted(int64(l.c.QueueBytes))
	l.ids = newIDs(l)
	if err := l.db.Read(ctx, l.load); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	l.work.Go(l.append)
	l.work.Go(l.commitPlaces)
	l.work.Go(l.ids.run)
	return l, nil
}

// load reads topics, places and the index of identities.
func (l *Log) load(conn *zsqlite.Conn) error {
	byID := make(map[int64]*topic)
	err := sqlitex.ExecuteTransient(conn, "SELECT id, name, first, next, crc FROM log_topics", &sqlitex.ExecOptions{
		ResultFunc: func(s *zsqlite.Stmt) error {
			t := l.newTopic(s.ColumnInt64(0), s.ColumnText(1))
			t.first, t.next = s.ColumnInt64(2), s.ColumnInt64(3)
			if t.seed != uint32(s.ColumnInt64(4)) {
				l.damaged(t, -1, errors.New("the topic's name is not as it was written"))
			}
			l.topics[t.name], byID[t.id] = t, t
			return nil
		},
	})
	if err != nil {
		return err
	}
	if err := l.ids.load(conn, byID); err != nil {
		return err
	}
	for _, t := range byID {
		if err := l.loadEnd(conn, t); err != nil {
			return err
		}
	}
	return l.loadPlaces(conn, byID)
}

// loadEnd finds the topic's next offset. The bookkeeping of appends says it without a look at the records; the newest record
// is asked as well, but believed only when its checksum is right.
func (l *Log) loadEnd(conn *zsqlite.Conn, t *topic) error {
	err := sqlitex.ExecuteTransient(conn, "SELECT "+columns+" FROM "+t.table+" ORDER BY offset DESC LIMIT 1", &sqlitex.ExecOptions{
		ResultFunc: func(s *zsqlite.Stmt) error {
			if r, err := t.scan(s); err == nil {
				t.next = max(t.next, r.offset+1)
				t.lastAt = r.at
			}
			return nil
		},
	})
	if err != nil && !sqlite.IsDamage(err) {
		return err
	}
	t.first = min(t.first, t.next)
	t.tailFirst = t.next
	return nil
}

func (l *Log) loadPlaces(conn *zsqlite.Conn, byID map[int64]*topic) error {
	err := sqlitex.ExecuteTransient(conn, "SELECT topic, name, next, crc FROM log_groups", &sqlitex.ExecOptions{
		ResultFunc: func(s *zsqlite.Stmt) error {
			t, group, next := byID[s.ColumnInt64(0)], s.ColumnText(1), s.ColumnInt64(2)
			if t == nil {
				return nil
			}
			p := newPlace(t, group, next)
			if p.sum(next) != uint32(s.ColumnInt64(3)) || next > t.next {
				// From the start again is safe; from a wrong place on is not.
				l.damaged(t, -1, fmt.Errorf("the place of group %s is not as it was written; it starts over", group))
				p = newPlace(t, group, t.first)
			}
			l.places[placeKey{t, group}] = p
			return nil
		},
	})
	if sqlite.IsDamage(err) {
		l.c.Logger.Error("places of groups cannot be read; those groups start over", "error", err)
		return nil
	}
	return err
}

// Ensure creates the topics that do not exist yet.
func (l *Log) Ensure(ctx context.Context, topics ...string) error {
	var missing []string
	l.mu.RLock()
	closed := l.closed
	for _, name := range topics {
		if l.topics[name] == nil {
			missing = append(missing, name)
		}
	}
	l.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	if len(missing) == 0 {
		return nil
	}
	var created []*topic
	err := l.db.Write(ctx, func(conn *zsqlite.Conn) error {
		created = created[:0]
		for _, name := range slices.Compact(slices.Sorted(slices.Values(missing))) {
			t, err := l.create(conn, name)
			if err != nil {
				return err
			}
			created = append(created, t)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range created {
		if l.topics[t.name] == nil { // another call may have been first
			l.topics[t.name] = t
		}
	}
	return nil
}

// create makes the topic's row and table, unless they are there.
func (l *Log) create(conn *zsqlite.Conn, name string) (*topic, error) {
	if name == "" {
		return nil, errors.New("a topic has no name")
	}
	var id int64
	err := sqlitex.ExecuteTransient(conn,
		"INSERT INTO log_topics (name, first, next, crc) VALUES (?, 0, 0, ?) ON CONFLICT (name) DO UPDATE SET name = name RETURNING id",
		&sqlitex.ExecOptions{
			Args:       []any{name, int64(crc32.Checksum([]byte(name), castagnoli))},
			ResultFunc: func(s *zsqlite.Stmt) error { id = s.ColumnInt64(0); return nil },
		})
	if err != nil {
		return nil, err
	}
	if id > maxTopics {
		return nil, fmt.Errorf("topic %s would be number %d; the log holds %d", name, id, maxTopics)
	}
	t := l.newTopic(id, name)
	return t, sqlitex.ExecuteTransient(conn, "CREATE TABLE IF NOT EXISTS "+t.table+
		" (offset INTEGER PRIMARY KEY, at INTEGER NOT NULL, crc INTEGER NOT NULL, uuid TEXT NOT NULL, metadata BLOB NOT NULL, payload BLOB NOT NULL)", nil)
}

// topic returns the topic, creating it if need be.
func (l *Log) topic(ctx context.Context, name string) (*topic, error) {
	l.mu.RLock()
	t, closed := l.topics[name], l.closed
	l.mu.RUnlock()
	if closed {
		return nil, ErrClosed
	}
	if t != nil {
		return t, nil
	}
	if err := l.Ensure(ctx, name); err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.topics[name], nil
}

// Close stops taking messages, closes every subscriber, finishes what was taken and writes the places of all
// groups. Calling it again returns the same.
func (l *Log) Close() error {
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		subs := make([]*Subscriber, 0, len(l.subs))
		for s := range l.subs {
			subs = append(subs, s)
		}
		l.mu.Unlock()
		l.entering.Wait()
		close(l.queue)
		errs := make([]error, len(subs))
		var closing sync.WaitGroup
		for i, s := range subs {
			closing.Go(func() { errs[i] = s.Close() })
		}
		closing.Wait()
		close(l.quit)
		l.work.Wait()
		l.err = errors.Join(append(errs, l.writePlaces(context.Background()))...)
	})
	return l.err
}
