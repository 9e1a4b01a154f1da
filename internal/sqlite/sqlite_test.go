package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var tables = fstest.MapFS{"0001_t.sql": {Data: []byte("-- +goose Up\nCREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB NOT NULL);\n")}}

func open(t testing.TB, o sqlite.Options) *sqlite.DB {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "data", "x.db")
	}
	o.Logger = slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil && db.Err() == nil {
			t.Error(err)
		}
	})
	if err := db.Migrate(t.Context(), "t", tables); err != nil {
		t.Fatal(err)
	}
	return db
}

// insert is a job that adds one row.
func insert(id int, body []byte) func(*zsqlite.Conn) error {
	return func(c *zsqlite.Conn) error {
		s, err := c.Prepare("INSERT INTO t (id, body) VALUES (?, ?)")
		if err != nil {
			return err
		}
		s.BindInt64(1, int64(id))
		s.BindBytes(2, body)
		_, err = s.Step()
		return err
	}
}

// ids returns the rows' keys.
func ids(t testing.TB, db *sqlite.DB) map[int]bool {
	t.Helper()
	got := make(map[int]bool)
	if err := db.Read(t.Context(), func(c *zsqlite.Conn) error {
		return sqlitex.Execute(c, "SELECT id FROM t", &sqlitex.ExecOptions{ResultFunc: func(s *zsqlite.Stmt) error {
			got[s.ColumnInt(0)] = true
			return nil
		}})
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new dir?%#", "x.db")
	db := open(t, sqlite.Options{Path: path})
	if err := db.Write(t.Context(), insert(1, nil)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{filepath.Dir(path): 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600, path + ".lock": 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
}

func TestFailingJobIsUndoneAlone(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Options{})
	bad := errors.New("bad")
	// The first job holds the writer until all others are queued, so that they share its transaction.
	gate := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.Write(t.Context(), func(c *zsqlite.Conn) error { <-gate; return insert(1000, nil)(c) }); err != nil {
			t.Error(err)
		}
	})
	var runs, queued atomic.Int64
	for i := range 100 {
		wg.Go(func() {
			queued.Add(1)
			err := db.Write(t.Context(), func(c *zsqlite.Conn) error {
				runs.Add(1)
				if err := insert(i, nil)(c); err != nil {
					return err
				}
				switch {
				case i%10 == 3:
					return bad
				case i%10 == 7:
					return insert(i, nil)(c) // twice: a constraint fails
				}
				return nil
			})
			switch {
			case i%10 == 3 && !errors.Is(err, bad):
				t.Errorf("job %d: %v, want its own error", i, err)
			case i%10 == 7 && zsqlite.ErrCode(err) != zsqlite.ResultConstraintPrimaryKey:
				t.Errorf("job %d: %v, want a constraint", i, err)
			case i%10 != 3 && i%10 != 7 && err != nil:
				t.Errorf("job %d: %v", i, err)
			}
		})
	}
	for queued.Load() < 100 {
		runtime.Gosched()
	}
	close(gate)
	wg.Wait()
	got := ids(t, db)
	for i := range 100 {
		if want := i%10 != 3 && i%10 != 7; got[i] != want {
			t.Errorf("row %d is there: %v, want %v", i, got[i], want)
		}
	}
	if !got[1000] {
		t.Error("the row of the job that shared the transaction is gone")
	}
}

func TestJobsShareCommits(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	db := open(t, sqlite.Options{Metrics: registry})
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := range 20 {
				if err := db.Write(t.Context(), insert(w*1000+i, nil)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, f := range families {
		seen[f.GetName()] = true
		if f.GetName() == "tidewire_store_commit_jobs" {
			h := f.GetMetric()[0].GetHistogram()
			if h.GetSampleSum() < 1280 || h.GetSampleCount() > 640 {
				t.Errorf("%v jobs in %d commits", h.GetSampleSum(), h.GetSampleCount())
			}
		}
	}
	for _, name := range []string{"commit_seconds", "commit_jobs", "wal_bytes", "file_bytes", "queue_jobs"} {
		if !seen["tidewire_store_"+name] {
			t.Errorf("no metric %s", name)
		}
	}
}

func TestWriteEndsWaitingWithItsContext(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Options{QueueJobs: 1, BatchJobs: 1})
	gate, entered := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.Write(t.Context(), func(*zsqlite.Conn) error { close(entered); <-gate; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-entered
	wg.Go(func() { // fills the queue
		if err := db.Write(t.Context(), insert(1, nil)); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	for range 2 { // one of them may still have found room
		go func() { result <- db.Write(ctx, insert(2, nil)) }()
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context canceled", err)
	}
	close(gate)
	<-result
	wg.Wait()
}

func TestSecondOpenIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, sqlite.Options{Path: path})
	_, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if !errors.Is(err, sqlite.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("got %v, want ErrInUse and the process", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, sqlite.Options{Path: path})
}

func TestNewerFileIsRefused(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Options{})
	newer := fstest.MapFS{"0001_t.sql": tables["0001_t.sql"], "0002_u.sql": {Data: []byte("-- +goose Up\nCREATE TABLE u (id INTEGER PRIMARY KEY);\n")}}
	if err := db.Migrate(t.Context(), "t", newer); err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), "t", newer); err != nil {
		t.Errorf("migrating again: %v", err)
	}
	if err := db.Migrate(t.Context(), "t", tables); !errors.Is(err, sqlite.ErrNewer) {
		t.Errorf("got %v, want ErrNewer", err)
	}
	if err := db.Migrate(t.Context(), "other", tables); err == nil {
		t.Error("two rooms made the same table")
	}
	if err := db.Migrate(t.Context(), "x; DROP", tables); err == nil {
		t.Error("a name that is none was taken")
	}
	if err := db.Write(t.Context(), insert(1, nil)); err != nil {
		t.Errorf("after a refused migration: %v", err)
	}
}

func TestFullDiskUndoesAndGoesOn(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Options{})
	limit := func(pages int) {
		t.Helper()
		if err := db.Write(t.Context(), func(c *zsqlite.Conn) error {
			return sqlitex.ExecuteTransient(c, fmt.Sprintf("PRAGMA max_page_count=%d", pages), nil)
		}); err != nil {
			t.Fatal(err)
		}
	}
	limit(20)
	body := make([]byte, 4000)
	n := 0
	var err error
	for ; err == nil; n++ {
		err = db.Write(t.Context(), insert(n, body))
	}
	if !errors.Is(err, sqlite.ErrFull) || db.Err() != nil {
		t.Fatalf("got %v, want ErrFull", err)
	}
	if got := len(ids(t, db)); got != n-1 {
		t.Errorf("%d rows can be read, want %d", got, n-1)
	}
	limit(1000)
	if err := db.Write(t.Context(), insert(n, body)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestCloseFinishesWhatWasTaken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, sqlite.Options{Path: path})
	var wg sync.WaitGroup
	var written atomic.Int64
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				err := db.Write(t.Context(), insert(w*100_000+i, nil))
				if errors.Is(err, sqlite.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				written.Add(1)
			}
		})
	}
	for written.Load() < 500 {
		runtime.Gosched()
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := db.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if err := db.Read(t.Context(), func(*zsqlite.Conn) error { return nil }); !errors.Is(err, sqlite.ErrClosed) {
		t.Errorf("reading a closed file: %v", err)
	}
	if _, err := os.Stat(path + "-wal"); err == nil {
		t.Error("the write-ahead log is still there")
	}
	if got := len(ids(t, open(t, sqlite.Options{Path: path}))); int64(got) != written.Load() {
		t.Errorf("%d rows, %d were answered", got, written.Load())
	}
}

func TestReadersAreInterruptedAndCannotWrite(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Options{Readers: 1})
	ctx, cancel := context.WithCancel(t.Context())
	err := db.Read(ctx, func(c *zsqlite.Conn) error {
		cancel()
		return sqlitex.Execute(c, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n", nil)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("endless query: %v", err)
	}
	if err := db.Read(t.Context(), insert(1, nil)); zsqlite.ErrCode(err).ToPrimary() != zsqlite.ResultReadOnly {
		t.Errorf("writing while reading: %v", err)
	}
	if err := db.Read(t.Context(), func(c *zsqlite.Conn) error { return sqlitex.Execute(c, "BEGIN", nil) }); err != nil {
		t.Error(err)
	}
	if err := db.Read(t.Context(), func(c *zsqlite.Conn) error { return sqlitex.Execute(c, "BEGIN", nil) }); err != nil {
		t.Errorf("an open transaction was left to the next: %v", err)
	}
}

// Written without a pause, the write-ahead log starts over from time to time.
func TestWriteAheadLogStaysBounded(t *testing.T) {
	t.Parallel()
	const pages = 200
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, sqlite.Options{Path: path, CheckpointPages: pages})
	body := make([]byte, 16_000)
	var wg sync.WaitGroup
	var largest atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				if err := db.Write(t.Context(), insert(w*100_000+i, body)); err != nil {
					t.Error(err)
					return
				}
				if info, err := os.Stat(path + "-wal"); err == nil {
					largest.Store(max(largest.Load(), info.Size()))
				}
			}
		})
	}
	wg.Wait()
	if largest.Load() > 40<<20 {
		t.Errorf("64 MB were written and the write-ahead log grew to %d MB", largest.Load()>>20)
	}
}
