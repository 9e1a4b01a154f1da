package sqlite_test

import (
	"os"
	"os/exec"
	"sync"
	"testing"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/sqlite"
)

// TestOthersMayRead has another process open the file, read it and close it, again and again, while there are writes and
// checkpoints: an operator with the sqlite3 shell, or a backup. Neither may notice the other.
func TestOthersMayRead(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Options{CheckpointPages: 8})
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestReadsForOthersMayRead$", "-test.count", "1")
	child.Env = append(os.Environ(), "TIDEWIRE_TEST_READ="+db.Path())
	child.Stdout, child.Stderr = os.Stderr, os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	var work sync.WaitGroup
	work.Go(func() { ended <- child.Wait() })
	defer work.Wait()
	for i := 1; ; i++ {
		select {
		case err := <-ended:
			if err != nil {
				t.Error("the other process:", err)
			}
			if n := len(ids(t, db)); n != i-1 {
				t.Errorf("%d rows are left of %d", n, i-1)
			}
			return
		default:
		}
		if err := db.Write(t.Context(), insert(i, make([]byte, 2000))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadsForOthersMayRead is the other process.
func TestReadsForOthersMayRead(t *testing.T) {
	t.Parallel()
	path := os.Getenv("TIDEWIRE_TEST_READ")
	if path == "" {
		return
	}
	for range 150 {
		conn, err := zsqlite.OpenConn(path, zsqlite.OpenReadOnly)
		if err != nil {
			t.Fatal(err)
		}
		if err := sqlitex.ExecuteTransient(conn, "SELECT count(*) FROM t", nil); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}
