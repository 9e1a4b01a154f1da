package services

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAProcessThatEndsIsTold has processes that end before they are ready.
func TestAProcessThatEndsIsTold(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	never := func(context.Context) error { return errors.New("not ready") }
	for _, c := range []struct {
		script string
		want   error
		text   string
	}{
		{"echo 'bind: Address already in use'; exit 1", errPortTaken, "taken"},
		{"echo 'no such setting'; exit 7", nil, "no such setting"}, // what an earlier process said is not its own
		{"exit 0", nil, "exit status 0"},
	} {
		p, err := start(command{args: []string{"/bin/sh", "-c", c.script}, log: log, orphaned: syscall.SIGKILL})
		if err != nil {
			t.Fatal(err)
		}
		err = p.await(t.Context(), "it", never)
		if err == nil || errors.Is(err, errPortTaken) != (c.want != nil) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.script, err)
		}
		if p.running() {
			t.Errorf("%s: it runs", c.script)
		}
	}
}

func TestAProcessThatDoesNotListenIsKilled(t *testing.T) {
	t.Parallel()
	p, err := start(command{
		args: []string{"/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"}, log: filepath.Join(t.TempDir(), "log"), orphaned: syscall.SIGKILL,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.await(t.Context(), "it", func(context.Context) error {
		if !p.said("deaf") {
			return errors.New("it may hear yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if p.end(syscall.SIGTERM, 1) || p.running() {
		t.Error("it ended by itself, or runs on")
	}
}
