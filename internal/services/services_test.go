package services_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/tidewire/tidewire/internal/services"
)

// TestServersDieWithTheirParent kills a process that has servers, with a signal that it cannot clean up after.
func TestServersDieWithTheirParent(t *testing.T) {
	t.Parallel()
	services.NewPostgres(t, services.PostgresOptions{}) // says whether the servers are there at all
	dir, err := os.MkdirTemp("", "tidewire-orphans-")   // a test's own folder is closed to the user that root's PostgreSQL runs as
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), orphanage+"="+dir)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	var broker, database int
	if _, err2 := fmt.Sscan(said, &broker, &database); err != nil || err2 != nil {
		_ = parent.Process.Kill()
		t.Fatalf("the parent said %q: %v", said, errors.Join(err, err2, parent.Wait()))
	}
	for _, pid := range []int{broker, database} {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("process %d does not run: %v", pid, err)
		}
		t.Cleanup(func() {
			if alive(pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	eventually(t, "processes that outlive the one that started them", func(context.Context) error {
		if alive(broker) || alive(database) {
			return fmt.Errorf("broker %d runs: %t, database %d: %t", broker, alive(broker), database, alive(database))
		}
		return nil
	})
}

// alive reports whether a process runs; one that has ended and is not waited for by anybody does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	var id int
	var name, state string
	_, err = fmt.Sscan(string(stat), &id, &name, &state)
	return err != nil || state != "Z"
}

func TestATestBinaryHasOneServerOfAKind(t *testing.T) {
	t.Parallel()
	var s services.Shared
	t.Cleanup(s.Close)
	p, k := s.Postgres(t), s.Kafka(t, 1)
	if s.Postgres(t) != p || s.Kafka(t, 1) != k {
		t.Error("a second one")
	}
	s.Close()
	if p.Process() != 0 || k.Process(0) != 0 {
		t.Error("closed, they run")
	}
	s.Close()
}
