package main

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/services"
)

// TestMain has this binary be the keeper when it is started as one.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "keep") {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// somewhere is a place that PostgreSQL's own user can get into as well.
func somewhere(t *testing.T) place {
	t.Helper()
	dir, err := os.MkdirTemp("", "tidewire-dev-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return place{dir}
}

func TestUpAndDown(t *testing.T) {
	t.Parallel()
	services.NewPostgres(t, services.PostgresOptions{}) // says whether the servers are there at all
	p := somewhere(t)
	t.Cleanup(func() { _ = down(t.Context(), p, &bytes.Buffer{}) })
	var first, second, down1, down2 bytes.Buffer
	if err := up(t.Context(), p, 1, &first); err != nil {
		t.Fatal(err)
	}
	s, err := p.read()
	if err != nil || began(s.Process) == "" || !strings.Contains(first.String(), s.Kafka[0]) || !strings.Contains(first.String(), s.URL) {
		t.Fatalf("%+v, %v, it says:\n%s", s, err, &first)
	}
	if err := s.answers(t.Context()); err != nil {
		t.Error(err)
	}
	if err := up(t.Context(), p, 0, &second); err != nil || second.String() != first.String() {
		t.Errorf("the second time it says %v\n%s", err, &second)
	}
	if again, err := p.read(); err != nil || again.Process != s.Process {
		t.Errorf("the second time the keeper is %d, it was %d, %v", again.Process, s.Process, err)
	}
	if err := up(t.Context(), p, 3, &second); err == nil {
		t.Error("three brokers were given where one runs")
	}
	if err := down(t.Context(), p, &down1); err != nil || !strings.Contains(down1.String(), "stopped") {
		t.Errorf("down: %v, %s", err, &down1)
	}
	if err := s.answers(t.Context()); err == nil {
		t.Error("stopped, the servers answer")
	}
	if err := down(t.Context(), p, &down2); err != nil || !strings.Contains(down2.String(), "nothing runs") {
		t.Errorf("down again: %v, %s", err, &down2)
	}
}

// TestDownKillsNoStranger has a state whose process number is another's by now.
func TestDownKillsNoStranger(t *testing.T) {
	t.Parallel()
	stranger := exec.CommandContext(t.Context(), "sleep", "600")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = stranger.Wait(); close(ended) }()
	t.Cleanup(func() { _ = stranger.Process.Kill(); <-ended })
	for _, held := range []bool{false, true} {
		p := somewhere(t)
		s := state{Process: stranger.Process.Pid, Began: "1", Kafka: []string{"127.0.0.1:1"}}
		if err := p.write(s); err != nil {
			t.Fatal(err)
		}
		if held {
			lock := p.lock()
			if err := lock.Lock(); err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
		}
		if err := down(t.Context(), p, &bytes.Buffer{}); (err != nil) != held {
			t.Errorf("the lock is held: %t, down says %v", held, err)
		}
	}
	if began(stranger.Process.Pid) == "" || began(stranger.Process.Pid) == "1" {
		t.Errorf("the stranger began %q", began(stranger.Process.Pid))
	}
	select {
	case <-ended:
		t.Error("the stranger is gone")
	default:
	}
}

func TestADeadKeeperIsTold(t *testing.T) {
	t.Parallel()
	services.NewPostgres(t, services.PostgresOptions{}) // as above
	p := somewhere(t)
	// PostgreSQL's folder cannot be made where a file is.
	if err := os.WriteFile(p.file("postgres"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := up(t.Context(), p, 1, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "start PostgreSQL") {
		t.Errorf("want the reason from the keeper's log: %v", err)
	}
	if free, err := p.free(); err != nil || !free {
		t.Errorf("a keeper is left: %v", err)
	}
}
