package sqlite_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/internal/sqlite"
)

// childVar makes the test binary a process whose files cannot grow: a write error that is not a full disk.
const childVar = "TIDEWIRE_SQLITE_CHILD"

// child writes until the operating system refuses, and says "as it should" when everything is.
func child(t *testing.T, path string) {
	signal.Ignore(syscall.SIGXFSZ)
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), "t", tables); err != nil {
		t.Fatal(err)
	}
	limit := syscall.Rlimit{Cur: 400_000, Max: 400_000}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; err == nil; n++ {
		err = db.Write(t.Context(), insert(n, make([]byte, 10_000)))
	}
	if !errors.Is(err, sqlite.ErrFailed) {
		t.Fatalf("the write error came back as %v", err)
	}
	<-db.Failed()
	ran := false
	if err := db.Write(t.Context(), func(*zsqlite.Conn) error { ran = true; return nil }); !errors.Is(err, sqlite.ErrFailed) || ran {
		t.Fatalf("writing after it: %v", err)
	}
	if err := db.Err(); !errors.Is(err, sqlite.ErrFailed) {
		t.Fatalf("Err is %v", err)
	}
	if got := len(ids(t, db)); got != n-1 {
		t.Fatalf("%d rows can be read, %d were answered", got, n-1)
	}
	_ = db.Close()
	fmt.Println("as it should:", n-1)
}

func TestWriteErrorEndsAllWriting(t *testing.T) {
	if path := os.Getenv(childVar); path != "" {
		child(t, path)
		return
	}
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriteErrorEndsAllWriting$", "-test.v")
	cmd.Env = append(os.Environ(), childVar+"="+path)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "as it should") {
		t.Fatalf("%v: %s", err, out)
	}
	var answered int
	if _, err := fmt.Sscanf(string(out[strings.Index(string(out), "as it should"):]), "as it should: %d", &answered); err != nil {
		t.Fatal(err)
	}
	if got := len(ids(t, open(t, sqlite.Options{Path: path}))); got != answered {
		t.Errorf("%d rows after a new start, %d were answered", got, answered)
	}
}
