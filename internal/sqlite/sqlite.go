// Package sqlite keeps one SQLite file with one writer, many readers and group commit: whoever calls Write at the
// same time shares a transaction and one fsync. The log and the ledger live in the same file, so that an
// append and a settle that meet cost one sync together.
//
// What is promised: Write returns nil only when its job is on disk (WAL, synchronous=FULL); one process has the file
// at a time; a full disk undoes what was being written and nothing else; after an I/O error nothing is called
// written any more.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	"github.com/prometheus/client_golang/prometheus"
	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// The errors a caller may want to tell apart, with errors.Is.
var (
	// ErrInUse: another process holds the file.
	ErrInUse = errors.New("in use by another process")
	// ErrNewer: the file was written by a newer version of this program.
	ErrNewer = errors.New("written by a newer version")
	// ErrFull: the disk is full. The transaction is undone, the file is as it was, and the next Write tries again.
	ErrFull = errors.New("disk full")
	// ErrFailed: an I/O error made it unknown what is on disk. Every Write fails from then on; end the process and start again.
	ErrFailed = errors.New("failed")
	// ErrDamaged: what is stored is not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrClosed: Close has been called.
	ErrClosed = errors.New("closed")
)

// Options say which file to open and how. Only Path is needed.
type Options struct {
	// Path of the file. Its directory is created with mode 0700, the file with 0600; beside it appear Path-wal,
	// Path-shm and Path.lock.
	Path string
	// Logger; nil: slog.Default().
	Logger *slog.Logger
	// Metrics receives the collectors tidewire_store_*; nil: none. Close takes them back.
	Metrics prometheus.Registerer
	// QueueJobs bounds the jobs that wait for the writer; more callers block in Write. Default 1024.
	QueueJobs int
	// BatchJobs bounds the jobs of one transaction. Default 256.
	BatchJobs int
	// CheckpointPages is the number of new pages in the write-ahead log from which on they are copied into the
	// file. The log may grow to some eight times that while writers are busy, then they wait. Default 4000 (16 MiB).
	CheckpointPages int
	// WriterCache bounds the writer's page cache in bytes. Default 4 MiB: what is written goes to the ends of its tables, and the system
	// caches the file as well.
	WriterCache int
	// Readers bounds the connections that Read uses at a time, each opened when first needed. Default 4.
	Readers int
	// ReaderCache bounds each reader's page cache in bytes. Default 1 MiB.
	ReaderCache int
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	for _, d := range [...]struct {
		field *int
		value int
	}{
		{&o.QueueJobs, 1024}, {&o.BatchJobs, 256}, {&o.CheckpointPages, 4000},
		{&o.WriterCache, 4 << 20}, {&o.Readers, 4}, {&o.ReaderCache, 1 << 20},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return o
}

// pageSize is chosen for rows of one to two KiB written in small groups: larger pages make every commit of a
// single row write more, smaller ones leave more of each page empty.
const pageSize = 4096

// DB is one open file. Its methods may be called from many goroutines.
type DB struct {
	o       Options
	log     *slog.Logger
	lock    *flock.Flock
	damage  []Damage
	metrics *metrics

	jobs    chan *request
	closing chan struct{} // closed by Close: no more jobs are taken
	taking  sync.RWMutex  // held for reading while a job enters the queue, so that Close knows when none can
	writer  sync.WaitGroup
	tide    *checkpointer

	failed  chan struct{}
	failure struct {
		sync.Mutex
		err error
	}
	readers readers

	closeOnce sync.Once
	closeErr  error
}

// Open opens the file, creating it and its directory if need be. It fails at once with ErrInUse, naming the process,
// when another one has it, and with ErrDamaged when SQLite cannot make sense of it. ctx bounds the opening.
func Open(ctx context.Context, o Options) (*DB, error) {
	o = o.withDefaults()
	if o.Path == "" {
		return nil, errors.New("open sqlite: no path")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Path, err)
	}
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Path, err)
	}
	lock, err := lockFile(o.Path + ".lock")
	if err != nil {
		return nil, err
	}
	db := &DB{
		o: o, log: o.Logger, lock: lock,
		jobs:    make(chan *request, o.QueueJobs),
		closing: make(chan struct{}),
		failed:  make(chan struct{}),
	}
	if err := db.open(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return db, nil
}

func (db *DB) open() error {
	// SQLite drops a write-ahead log's tail from the first bad frame on without a word, so it is looked at before.
	damage, err := inspectWAL(db.o.Path)
	if err != nil {
		return err
	}
	db.damage = damage
	for _, d := range damage {
		db.log.Error("the write-ahead log is damaged", "file", d.File, "offset", d.Offset, "detail", d.Detail)
	}
	f, err := os.OpenFile(db.o.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", db.o.Path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("open %s: %w", db.o.Path, err)
	}
	conn, err := db.connect(zsqlite.OpenReadWrite|zsqlite.OpenCreate, db.o.WriterCache)
	if err != nil {
		return err
	}
	if db.tide, err = newCheckpointer(db); err != nil {
		return errors.Join(err, conn.Close())
	}
	if db.metrics, err = newMetrics(db, db.o.Metrics); err != nil {
		return errors.Join(err, db.tide.conn.Close(), db.tide.index.Close(), conn.Close())
	}
	db.readers.slots = make(chan *zsqlite.Conn, db.o.Readers)
	for range db.o.Readers {
		db.readers.slots <- nil
	}
	db.writer.Go(func() { db.write(conn) })
	db.tide.run()
	return nil
}

// connect opens one connection with the settings every connection has.
func (db *DB) connect(flags zsqlite.OpenFlags, cache int) (*zsqlite.Conn, error) {
	conn, err := zsqlite.OpenConn(db.o.Path, flags)
	if err != nil {
		return nil, db.explain("open", err)
	}
	pragmas := []string{"PRAGMA cache_size=-" + strconv.Itoa(max(cache>>10, 64))}
	if flags&zsqlite.OpenReadWrite != 0 {
		pragmas = append([]string{
			"PRAGMA page_size=" + strconv.Itoa(pageSize),
			"PRAGMA journal_mode=WAL",
			"PRAGMA synchronous=FULL",
			"PRAGMA wal_autocheckpoint=0", // the checkpointer does it
			// A log that grew in a storm is cut back to a size that is never reached otherwise.
			"PRAGMA journal_size_limit=" + strconv.Itoa(2*largest*db.o.CheckpointPages*pageSize),
			"PRAGMA temp_store=MEMORY",
		}, pragmas...)
	}
	for _, p := range pragmas {
		if err := sqlitex.ExecuteTransient(conn, p, nil); err != nil {
			return nil, errors.Join(db.explain("open", err), conn.Close())
		}
	}
	return conn, nil
}

// Path is the file's path.
func (db *DB) Path() string { return db.o.Path }

// Damage says what was found broken when the file was opened; nil when nothing was.
func (db *DB) Damage() []Damage { return db.damage }

// Failed is closed when an I/O error has made the file unusable for writing. See Err.
func (db *DB) Failed() <-chan struct{} { return db.failed }

// Err is the error that closed Failed; nil before.
func (db *DB) Err() error {
	db.failure.Lock()
	defer db.failure.Unlock()
	return db.failure.err
}

// fail notes the first I/O error and closes Failed.
func (db *DB) fail(err error) error {
	db.failure.Lock()
	defer db.failure.Unlock()
	if db.failure.err == nil {
		db.failure.err = err
		db.log.Error("the store can no longer be written; the process must end", "file", db.o.Path, "error", err)
		close(db.failed)
	}
	return db.failure.err
}

// Close takes no more jobs, finishes those that were taken, waits for readers, copies the write-ahead log into the
// file, and unlocks. Calling it again returns the same.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		close(db.closing)
		db.taking.Lock() // whoever was entering the queue is in it now, or has seen closing
		close(db.jobs)
		db.taking.Unlock()
		db.tide.stop()
		db.writer.Wait()
		db.closeErr = errors.Join(db.readers.close(), db.tide.finish(), db.lock.Close())
		db.metrics.unregister()
	})
	return db.closeErr
}

// lockFile takes the lock and writes this process's id into it.
func lockFile(path string) (*flock.Flock, error) {
	lock := flock.New(path, flock.SetPermissions(0o600))
	got, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !got {
		holder := "an unknown process"
		if b, err := os.ReadFile(path); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				holder = "process " + strconv.Itoa(pid)
			}
		}
		return nil, fmt.Errorf("%s is %w: %s holds %s; stop it, or use another data_dir",
			strings.TrimSuffix(path, ".lock"), ErrInUse, holder, path)
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil && !isFull(err) {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), lock.Close())
	}
	return lock, nil
}
