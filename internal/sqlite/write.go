package sqlite

import (
	"context"
	"fmt"
	"runtime"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/failpoint"
)

// batchTime ends a transaction that keeps finding new jobs, so that the first of them is answered.
const batchTime = 5 * time.Millisecond

// request is one job on its way.
type request struct {
	job     func(*zsqlite.Conn) error
	outside bool       // run alone, outside a transaction
	done    chan error // buffered: the writer never waits for the caller
}

// Write runs job in a transaction and returns nil only when that is on disk. Jobs of callers that come at the same
// time share the transaction and its fsync.
//
// A job that returns an error is undone alone and its error is returned; the others are run again without it. So a
// job may run more than once and must set, not add to, what it hands out through captured variables. It must not
// begin or end a transaction, keep conn, or call the DB. Prepare statements with conn.Prepare: it caches them.
//
// ctx bounds the waiting for the writer. Once the job is taken its result is awaited, so that an
// error means "not written", with one exception: an error that is ErrFailed leaves it unknown.
func (db *DB) Write(ctx context.Context, job func(*zsqlite.Conn) error) error {
	r := &request{job: job, done: make(chan error, 1)}
	if err := db.enqueue(ctx, r); err != nil {
		return err
	}
	return <-r.done
}

// exclusively runs f on the writer's goroutine while no transaction is open.
func (db *DB) exclusively(ctx context.Context, f func(*zsqlite.Conn) error) error {
	r := &request{job: f, outside: true, done: make(chan error, 1)}
	if err := db.enqueue(ctx, r); err != nil {
		return err
	}
	return <-r.done
}

func (db *DB) enqueue(ctx context.Context, r *request) error {
	db.taking.RLock()
	defer db.taking.RUnlock()
	select {
	case <-db.closing:
		return fmt.Errorf("write %s: %w", db.o.Path, ErrClosed)
	case <-db.failed:
		return db.Err()
	default:
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write %s: %w", db.o.Path, err)
	}
	select {
	case db.jobs <- r:
		return nil
	default:
	}
	select {
	case db.jobs <- r:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write %s: waiting for the writer: %w", db.o.Path, ctx.Err())
	case <-db.closing:
		return fmt.Errorf("write %s: %w", db.o.Path, ErrClosed)
	}
}

// write is the writer: the only goroutine that changes the file, until the queue is closed and empty.
func (db *DB) write(conn *zsqlite.Conn) {
	defer func() {
		if err := conn.Close(); err != nil {
			db.log.Warn("close the writer", "file", db.o.Path, "error", err)
		}
	}()
	batch := make([]*request, 0, db.o.BatchJobs)
	var next *request
	for {
		if next == nil {
			var open bool
			if next, open = <-db.jobs; !open {
				return
			}
		}
		if next.outside {
			next.done <- next.job(conn)
			next = nil
			continue
		}
		if err := db.Err(); err != nil {
			next.done <- err
			next = nil
			continue
		}
		// Whoever can run comes first: some of them are about to write too, and share this transaction instead of waiting for its end.
		// When nobody can, this takes no time.
		runtime.Gosched()
		batch, next = db.transact(conn, append(batch[:0], next))
		clear(batch)
		db.tide.wrote()
	}
}

// transact runs one transaction that begins with the jobs in batch and takes more from the queue while there are any. It
// returns the batch for reuse, and the request that ended it because it wants to be alone.
func (db *DB) transact(conn *zsqlite.Conn, batch []*request) (_ []*request, next *request) {
	start := time.Now()
	if err := run(conn, "BEGIN IMMEDIATE"); err != nil {
		db.refuse(conn, batch, err)
		return batch, nil
	}
	failpoint.Hit("before-append")
	for i := 0; ; i++ {
		if err := batch[i].job(conn); err != nil {
			if batch = db.rerun(conn, batch, i, err); len(batch) == 0 {
				return batch, nil
			}
			i = len(batch) - 1
		}
		if len(batch) >= db.o.BatchJobs || time.Since(start) > batchTime {
			break
		}
		var more bool
		if next, more = poll(db.jobs); !more {
			break
		}
		if next.outside {
			break
		}
		batch, next = append(batch, next), nil
	}
	failpoint.Hit("before-commit")
	committing := time.Now()
	if err := run(conn, "COMMIT"); err != nil {
		db.refuse(conn, batch, err)
		return batch, next
	}
	failpoint.Hit("after-commit")
	db.metrics.committed(time.Since(committing), len(batch))
	for _, r := range batch {
		r.done <- nil
	}
	return batch, next
}

// rerun is called when the job at index bad has failed with cause. It undoes the transaction, answers that job, and runs those before it
// again, each within a savepoint, so that another failure is undone alone. It returns the jobs that are now in the
// open transaction, or none when all have been answered and no transaction is open.
func (db *DB) rerun(conn *zsqlite.Conn, batch []*request, bad int, cause error) []*request {
	if isFull(cause) || isFatal(cause) || len(batch) == 1 {
		db.refuse(conn, batch, cause)
		return batch[:0]
	}
	batch[bad].done <- db.verdict(cause)
	batch = append(batch[:bad], batch[bad+1:]...)
	rollback(conn)
	if err := run(conn, "BEGIN IMMEDIATE"); err != nil {
		db.refuse(conn, batch, err)
		return batch[:0]
	}
	kept := batch[:0]
	for i, r := range batch {
		err := within(conn, r.job)
		if err == nil {
			kept = append(kept, r)
			continue
		}
		if isFull(err) || isFatal(err) || conn.AutocommitEnabled() {
			db.refuse(conn, append(kept, batch[i:]...), err)
			return batch[:0]
		}
		r.done <- db.verdict(err)
	}
	if len(kept) == 0 {
		rollback(conn)
	}
	return kept
}

// within runs one job inside a savepoint and undoes it when it fails.
func within(conn *zsqlite.Conn, job func(*zsqlite.Conn) error) (err error) {
	defer sqlitex.Save(conn)(&err)
	return job(conn)
}

// refuse undoes the transaction and answers every job in it with what cause means.
func (db *DB) refuse(conn *zsqlite.Conn, batch []*request, cause error) {
	rollback(conn)
	err := db.verdict(cause)
	if isFatal(cause) {
		err = db.fail(err)
	}
	for _, r := range batch {
		r.done <- err
	}
}

// verdict is what a caller gets to hear: its job's own error as it is, SQLite's explained.
func (db *DB) verdict(err error) error {
	if zsqlite.ErrCode(err) == zsqlite.ResultError && !isFull(err) {
		return err
	}
	return db.explain("write", err)
}

// rollback ends the transaction if SQLite has not done so itself, which it does on some errors.
func rollback(conn *zsqlite.Conn) {
	if conn.AutocommitEnabled() {
		return
	}
	// A failing ROLLBACK has nothing to undo it with; the BEGIN that follows will say so.
	_ = run(conn, "ROLLBACK")
}

// run executes a statement that has no parameters and returns no rows.
func run(conn *zsqlite.Conn, query string) error {
	stmt, err := conn.Prepare(query)
	if err != nil {
		return err
	}
	_, err = stmt.Step()
	if err != nil {
		return err
	}
	return stmt.Reset()
}

func poll(jobs <-chan *request) (*request, bool) {
	select {
	case r, open := <-jobs:
		return r, open
	default:
		return nil, false
	}
}
