package sqlite

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/failpoint"
)

// checkpointTick is how often the length of the write-ahead log is looked at while there are writes.
const checkpointTick = 25 * time.Millisecond

// checkpointer copies pages from the write-ahead log into the file.
//
// It has its own connection and copies beside the writer (PASSIVE), so a commit does not wait for it. When a pass
// leaves nothing, the next commit begins at the front of the log again. A log that is written without a pause
// never gets there: what was committed during the copying is left. So when it has grown to several times its
// size, the writer itself copies the little that is left, between two transactions.
type checkpointer struct {
	db   *DB
	conn *zsqlite.Conn
	// index is the write-ahead log's index, open for reading as long as any connection of this process is. It must not be closed
	// before: closing a file lets go of all locks that the process has on it (POSIX), and without SQLite's own locks on the
	// index another process that merely reads would take the hub for dead and cut the index off under it.
	index *os.File
	dirty atomic.Bool
	// copied is how many frames of the log the last pass found copied. The next pass waits until there are enough new ones, so
	// that the file is not synced again and again for a few.
	copied  int
	copying sync.Mutex // held while copying beside the writer
	commits int        // counted by the writer
	quit    chan struct{}
	done    sync.WaitGroup
}

func newCheckpointer(db *DB) (*checkpointer, error) {
	conn, err := db.connect(zsqlite.OpenReadWrite, 256<<10)
	if err != nil {
		return nil, err
	}
	// The index is there once a connection has read something.
	if err := sqlitex.ExecuteTransient(conn, "SELECT 1 FROM sqlite_master LIMIT 1", nil); err != nil {
		return nil, errors.Join(db.explain("open", err), conn.Close())
	}
	index, err := os.Open(db.o.Path + "-shm")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", db.o.Path, err), conn.Close())
	}
	return &checkpointer{db: db, conn: conn, index: index, quit: make(chan struct{})}, nil
}

// wrote is called by the writer after each transaction. When the disk is so slow that the log outgrows the copying, the
// writer waits for it.
func (c *checkpointer) wrote() {
	if !c.dirty.Load() {
		c.dirty.Store(true)
	}
	if c.commits++; c.commits%32 == 0 && c.frames() > 2*largest*c.db.o.CheckpointPages {
		c.copying.Lock()
		c.copying.Unlock() //nolint:staticcheck // waiting is all that is wanted
	}
}

func (c *checkpointer) run() {
	c.done.Go(func() {
		tick := time.NewTicker(checkpointTick)
		defer tick.Stop()
		for {
			select {
			case <-c.quit:
				return
			case <-tick.C:
			}
			if !c.dirty.CompareAndSwap(true, false) {
				continue
			}
			frames := c.frames()
			if frames < c.copied {
				c.copied = 0 // it has begun at the front again
			}
			if frames-c.copied >= c.db.o.CheckpointPages {
				c.pass()
			}
		}
	})
}

// largest is how many times CheckpointPages the log may grow before the writer has to stop for it.
const largest = 4

// pass copies beside the writer, and has the writer copy the rest when that does not get to the end.
func (c *checkpointer) pass() {
	frames, left, err := c.copy()
	if err != nil {
		c.report(err)
		return
	}
	c.copied = frames - left
	if left == 0 || frames < largest*c.db.o.CheckpointPages {
		return
	}
	err = c.db.exclusively(context.Background(), func(conn *zsqlite.Conn) error {
		_, _, err := checkpoint(conn)
		return err
	})
	if err != nil && !errors.Is(err, ErrClosed) {
		c.report(err)
	}
}

// copy copies until nothing is left, or the log is so large that only the writer can help.
func (c *checkpointer) copy() (frames, left int, err error) {
	c.copying.Lock()
	defer c.copying.Unlock()
	for range 3 {
		frames, left, err = checkpoint(c.conn)
		// What SQLite says is of the moment it began; what matters is whether the log is empty now.
		if now := c.frames(); err == nil && now > frames {
			frames, left = now, left+now-frames
		}
		if err != nil || left == 0 || frames >= largest*c.db.o.CheckpointPages {
			break
		}
	}
	return frames, left, err
}

// report says that copying failed. A full disk is no harm, the log keeps what it has; an I/O error is.
func (c *checkpointer) report(err error) {
	explained := c.db.explain("checkpoint", err)
	if isFatal(err) {
		_ = c.db.fail(explained)
		return
	}
	c.db.log.Warn("the write-ahead log could not be copied into the file and keeps growing", "error", explained)
}

// frames is the number of frames in the log that the next commit would be added to: the field mxFrame of the index's
// header (https://sqlite.org/walformat.html, part 2), which costs one small read instead of a query.
func (c *checkpointer) frames() int {
	var b [4]byte
	if _, err := c.index.ReadAt(b[:], 16); err != nil {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b[:]))
}

func (c *checkpointer) stop() {
	close(c.quit)
	c.done.Wait()
}

// finish makes the last copy, after the writer has gone, and closes the connection, which removes the log.
func (c *checkpointer) finish() error {
	_, _, err := checkpoint(c.conn)
	if err != nil && (isFull(err) || c.db.Err() != nil) {
		err = nil // nothing is lost: the log stays, and the next start reads it
	}
	return errors.Join(err, c.conn.Close(), c.index.Close())
}

// checkpoint copies what it can without making anyone wait, and returns the number of frames in the log and of those that
// are not copied.
func checkpoint(conn *zsqlite.Conn) (frames, left int, err error) {
	stmt, err := conn.Prepare("PRAGMA wal_checkpoint(PASSIVE)")
	if err != nil {
		return 0, 0, err
	}
	failpoint.Hit("before-checkpoint")
	if _, err := stmt.Step(); err != nil {
		return 0, 0, err
	}
	failpoint.Hit("after-checkpoint")
	frames = max(0, stmt.ColumnInt(1))
	left = max(0, frames-stmt.ColumnInt(2))
	return frames, left, stmt.Reset()
}
