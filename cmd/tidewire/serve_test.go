package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
)

// patience is how long a test waits for what has to come; no measurement.
const patience = 30 * time.Second

// archive is a small config: signed webhooks into a file.
func archive(dir, listen string) string {
	return fmt.Sprintf(`
server: {listen: %q, admin: "127.0.0.1:0"}
data_dir: %q
connections:
  shop:
    connector: http
    webhook: {verify: {scheme: shopify, secret: secret_of_the_shop}}
  open:
    connector: http
    webhook: {verify: {scheme: none}}
  archive: {connector: file, path: %q}
routes:
  everything: {from: [shop, open], to: archive}
`, listen, dir, dir+"/events.jsonl")
}

// log is what a hub says while it runs.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// line waits for the line that holds what.
func (l *log) line(t *testing.T, what string) string {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		for line := range strings.Lines(l.String()) {
			if strings.Contains(line, what) && strings.HasSuffix(line, "\n") {
				return line
			}
		}
		select {
		case <-l.more:
		case <-limit.C:
			t.Fatalf("no %q in:\n%s", what, l)
		}
	}
}

// hub is "tidewire serve" at work.
type hub struct {
	listen, admin string
	log           *log
	stdout        *bytes.Buffer
	stop          func() int
}

func start(t *testing.T, args ...string) *hub {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	h := &hub{log: &log{more: make(chan struct{}, 1)}, stdout: new(bytes.Buffer)}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, append([]string{"serve"}, args...), strings.NewReader(""), h.stdout, h.log) }()
	h.stop = sync.OnceValue(func() int { cancel(); return <-ended })
	t.Cleanup(func() { h.stop() })
	ready := h.log.line(t, "hub is ready")
	h.listen, h.admin = value(ready, "listen"), value(ready, "admin")
	return h
}

// value is an attribute of a line of log text.
func value(line, name string) string {
	m := regexp.MustCompile(`\b` + name + `=("[^"]*"|\S+)`).FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	return strings.Trim(m[1], `"`)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestServe(t *testing.T) {
	t.Parallel()
	path := file(t, "tidewire.yaml", archive(t.TempDir(), "127.0.0.1:0"))
	h := start(t, "--config", path)
	ready := h.log.line(t, "hub is ready")
	if value(ready, "version") != version || value(ready, "routes") != "1" || value(ready, "connections") != "3" || value(ready, "level") != "INFO" {
		t.Errorf("it says %s", ready)
	}
	warning := h.log.line(t, "anybody who knows the address can post events here")
	if value(warning, "level") != "WARN" || value(warning, "fix") == "" || value(warning, "setting") != "connections.open.webhook.verify" ||
		!strings.HasPrefix(value(warning, "at"), path+":") {
		t.Errorf("it warns %s", warning)
	}
	if code, _ := get(t, "http://"+h.listen+"/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	if code, body := get(t, "http://"+h.admin+"/readyz"); code != http.StatusOK || !strings.Contains(body, fmt.Sprintf("%q", version)) {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code := h.stop(); code != exitOK {
		t.Errorf("exit %d", code)
	}
	if h.stdout.Len() > 0 {
		t.Errorf("on standard output: %s", h.stdout)
	}
	if !strings.Contains(h.log.String(), "hub is stopping") || strings.Contains(h.log.String(), "secret_of_the_shop") {
		t.Errorf("it logged\n%s", h.log)
	}
}

func TestServeLogsAsTheConfigSays(t *testing.T) {
	t.Parallel()
	path := file(t, "tidewire.yaml", archive(t.TempDir(), "127.0.0.1:0")+"log: {format: json, level: info}\n")
	var stdout bytes.Buffer
	out := &log{more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"serve", "-c", path}, strings.NewReader(""), &stdout, out) }()
	line := out.line(t, "hub is ready")
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit %d", code)
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["msg"] != "hub is ready" || fields["level"] != "INFO" {
		t.Errorf("%v: %s", err, line)
	}
	var quiet bytes.Buffer
	newLogger(config.Log{Level: "error"}, &quiet).Warn("a warning")
	newLogger(config.Log{}, &quiet).Debug("a detail")
	if quiet.Len() > 0 {
		t.Errorf("below the level: %s", quiet.String())
	}
}

func TestServeInABadEnvironment(t *testing.T) {
	t.Parallel()
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	got := call(t, "", "serve", "-c", file(t, "tidewire.yaml", archive(t.TempDir(), taken.Addr().String())))
	want := "tidewire: server.listen: cannot listen on " + taken.Addr().String()
	if got.code != exitEnvironment || !strings.HasPrefix(lastLine(got.err), want) || !strings.Contains(got.err, "stop what uses the port or choose another") {
		t.Errorf("a port that is taken: exit %d: %s", got.code, got.err)
	}
	dir := t.TempDir()
	path := file(t, "tidewire.yaml", archive(dir, "127.0.0.1:0"))
	h := start(t, "-c", path)
	got = call(t, "", "serve", "-c", path)
	if got.code != exitEnvironment || !strings.Contains(lastLine(got.err), "tidewire: open "+dir) || !strings.Contains(got.err, "in use by another process") {
		t.Errorf("data that another hub holds: exit %d: %s", got.code, got.err)
	}
	if code := h.stop(); code != exitOK {
		t.Errorf("the first hub: exit %d", code)
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// TestServeAsAProcess starts the program with its config on standard input and ends it by a signal, as an init system does.
func TestServeAsAProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var stdout bytes.Buffer
	stderr := &log{more: make(chan struct{}, 1)}
	cmd := exec.CommandContext(t.Context(), program(t, dir), "serve", "-c", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(archive(dir, "127.0.0.1:0")), &stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stderr.line(t, "hub is ready")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || stdout.Len() > 0 {
		t.Errorf("%v, on standard output %q, on standard error\n%s", err, stdout.String(), stderr)
	}
	if info, err := os.Stat(dir + "/tidewire.db"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its file: %v %v", info, err)
	}
}
