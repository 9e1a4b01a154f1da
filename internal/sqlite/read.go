package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync"

	zsqlite "zombiezen.com/go/sqlite"
)

// readers are the read-only connections; a nil in slots is one that has not been opened yet.
type readers struct {
	slots chan *zsqlite.Conn
	in    sync.WaitGroup
}

// Read gives f a read-only connection. Every statement sees what was committed when it began; several that have to see the
// same state belong between sqlitex.Transaction and its end. f must not keep conn. ctx bounds the waiting for a
// connection and interrupts the query. An error from f comes back as it is; IsDamage tells
// whether a part of the file could not be read. Reading goes on when writing cannot.
func (db *DB) Read(ctx context.Context, f func(*zsqlite.Conn) error) error {
	db.taking.RLock()
	select {
	case <-db.closing:
		db.taking.RUnlock()
		return fmt.Errorf("read %s: %w", db.o.Path, ErrClosed)
	default:
	}
	db.readers.in.Add(1) // under taking, so that Close does not wait before this
	db.taking.RUnlock()
	defer db.readers.in.Done()

	var conn *zsqlite.Conn
	select {
	case conn = <-db.readers.slots:
	case <-ctx.Done():
		return fmt.Errorf("read %s: waiting for a connection: %w", db.o.Path, ctx.Err())
	}
	defer func() { db.readers.slots <- conn }()
	if conn == nil {
		var err error
		if conn, err = db.connect(zsqlite.OpenReadOnly, db.o.ReaderCache); err != nil {
			conn = nil
			return err
		}
	}
	conn.SetInterrupt(ctx.Done())
	err := f(conn)
	// Resets what f left open, and lets the connection serve the next caller.
	conn.SetInterrupt(nil)
	rollback(conn)
	if err != nil && ctx.Err() != nil && zsqlite.ErrCode(err) == zsqlite.ResultInterrupt {
		return fmt.Errorf("read %s: %w", db.o.Path, ctx.Err())
	}
	return err
}

// close waits for those who are reading and closes the connections.
func (r *readers) close() error {
	r.in.Wait()
	var errs []error
	for range cap(r.slots) {
		if conn := <-r.slots; conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	return errors.Join(errs...)
}
