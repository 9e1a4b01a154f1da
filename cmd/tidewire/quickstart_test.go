package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestQuickstart plays the whole day, faster than for people: every book has to close, and the hub goes on until it is told to stop.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(deploy, "quickstart", "tidewire.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	moved := string(text)
	for old, replacement := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:0", "127.0.0.1:8081": "127.0.0.1:0", "127.0.0.1:9400": free(t), "./data/quickstart": dir,
	} {
		if !strings.Contains(moved, old) {
			t.Fatalf("the quickstart has no %s", old)
		}
		moved = strings.ReplaceAll(moved, old, replacement)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stdout, stderr := &log{more: make(chan struct{}, 1)}, &log{more: make(chan struct{}, 1)}
	ended := make(chan int, 1)
	go func() {
		defer func() { stdout.Write([]byte("the program has ended: Ctrl-C\n")) }()
		ended <- run(ctx, []string{"quickstart", "-c", file(t, "tidewire.yaml", moved), "--pace", "1ms"}, strings.NewReader(""), stdout, stderr)
	}()
	stdout.line(t, "Ctrl-C")
	cancel()
	if code := <-ended; code != exitOK || stderr.String() != "" {
		t.Errorf("exit %d: %s\n%s", code, stderr, stdout)
	}
	for _, want := range []string{"A hub runs on ", "dead letter: ", "recovered: ", "1 refused", "It adds up."} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if log, err := os.ReadFile(filepath.Join(dir, "hub.log")); err != nil || !strings.Contains(string(log), "hub is ready") {
		t.Errorf("its log: %v\n%s", err, log)
	}
}

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
