package file_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/connectortest"
	"github.com/tidewire/tidewire/connectors/file"
	"github.com/tidewire/tidewire/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	connectortest.Run(t, connectortest.Suite{
		Connector: file.Connector,
		Send: &connectortest.Send{
			Settings: "path: '{{dir}}/out/events.jsonl'",
			Keys: func(t testing.TB, dir string) []string {
				var keys []string
				for _, l := range lines(t, filepath.Join(dir, "out", "events.jsonl")) {
					keys = append(keys, l.IdempotencyKey)
				}
				return keys
			},
		},
		Bad: []connectortest.Bad{
			{Name: "no path", Settings: "{}", Key: "path"},
			{Name: "a folder", Settings: "path: /tmp/", Key: "path"},
			{Name: "dots", Settings: "path: ..", Key: "path"},
			{Name: "a size that is none", Settings: "{path: a.jsonl, rotate_size: big}", Key: "rotate_size"},
			{Name: "keeping less than nothing", Settings: "{path: a.jsonl, keep: -1}", Key: "keep"},
		},
	})
}

// line is what this test reads; it names the fields as readers of the file do.
type line struct {
	ID             string          `json:"id"`
	Source         string          `json:"source"`
	Type           string          `json:"type"`
	Time           time.Time       `json:"time"`
	Key            string          `json:"key"`
	IdempotencyKey string          `json:"idempotency_key"`
	Body           json.RawMessage `json:"body"`
	BodyBase64     []byte          `json:"body_base64"`
}

func lines(t testing.TB, path string) []line {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []line
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatalf("line %d: %v: %s", len(out)+1, err, s.Text())
		}
		out = append(out, l)
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		t.Errorf("%s does not end in a line break", path)
	}
	return out
}

func open(t testing.TB, settings string) (connectors.Target, *bytes.Buffer) {
	t.Helper()
	n, err := config.ParseNode("test.yaml", []byte(settings), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	c, err := file.Connector.Open(n, connectors.Env{Name: "out", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(connectors.Target), &log
}

func delivery(key, body string) connectors.Delivery {
	return connectors.Delivery{
		Route: "r", Body: []byte(body), IdempotencyKey: key, Attempt: 1,
		Event: event.Event{ID: "evt_" + key, Source: "shop", Type: "order.paid", Key: "c1", Time: time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)},
	}
}

func send(t testing.TB, c connectors.Target, key string) {
	t.Helper()
	if _, err := c.Send(t.Context(), delivery(key, `{"a":1}`)); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
}

func keysOf(ls []line) []string {
	var keys []string
	for _, l := range ls {
		keys = append(keys, l.IdempotencyKey)
	}
	return keys
}

func TestBodiesStandInTheLineAsTheyCame(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "e.jsonl")
	c, _ := open(t, "path: "+path)
	for i, tt := range []struct{ body, json, raw string }{
		{body: "{\"b\": 9007199254740993,\r\n\t\"a\":1.50, \"a\":\"<&>\u2028\"}", json: "{\"b\":9007199254740993,\"a\":1.50,\"a\":\"<&>\\u2028\"}"},
		{body: `"text"`, json: `"text"`},
		{body: "null", json: "null"},
		{body: "not json\n", raw: "not json\n"},
		{body: "{\"a\":\"\xff\"}", raw: "{\"a\":\"\xff\"}"},
		{body: `{"a":1}{"b":2}`, raw: `{"a":1}{"b":2}`},
		{body: ""},
	} {
		if _, err := c.Send(t.Context(), delivery(fmt.Sprint(i), tt.body)); err != nil {
			t.Fatal(err)
		}
		all := lines(t, path)
		l := all[len(all)-1]
		if got := strings.ReplaceAll(string(l.Body), "\u2028", `\u2028`); got != tt.json || string(l.BodyBase64) != tt.raw {
			t.Errorf("%q: got body %s and %q", tt.body, l.Body, l.BodyBase64)
		}
		if l.ID != "evt_"+fmt.Sprint(i) || l.Source != "shop" || l.Type != "order.paid" || l.Key != "c1" || l.Time.Nanosecond() != 600 {
			t.Errorf("got %+v", l)
		}
	}
}

func TestFileIsOursAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "e.jsonl")
	c, _ := open(t, "path: "+path)
	send(t, c, "k")
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %s", name, info.Mode(), err, want)
		}
	}
	second, _ := open(t, "path: "+path)
	if _, err := second.Send(t.Context(), delivery("x", "{}")); err == nil || connectors.AsFailure(err).Final {
		t.Errorf("two connections write one file: %v", err)
	}
}

func TestWhatOnlyLooksLikeOurFileIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("untouched\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"symlink":  func(p string) error { return os.Symlink(other, p) },
		"dangling": func(p string) error { return os.Symlink(filepath.Join(dir, "nowhere"), p) },
		"hardlink": func(p string) error { return os.Link(other, p) },
		"folder":   func(p string) error { return os.Mkdir(p, 0o700) },
		"fifo":     func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"text":     func(p string) error { return os.WriteFile(p, []byte("somebody's\nnotes"), 0o600) },
	} {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		c, _ := open(t, "path: "+path)
		_, err := c.Send(t.Context(), delivery("k", "{}"))
		if err == nil || connectors.AsFailure(err).Final || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error to try again that names the file", name, err)
		}
		if check := c.(connectors.Connection).Check(t.Context()); name != "text" && check == nil {
			t.Errorf("%s: Check finds nothing wrong", name)
		}
		if name == "hardlink" {
			os.Remove(path)
		}
	}
	if b, err := os.ReadFile(other); err != nil || string(b) != "untouched\n" {
		t.Errorf("another file was written: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "text")); err != nil || string(b) != "somebody's\nnotes" {
		t.Errorf("a file that is not ours was cut: %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a symbolic link was followed")
	}
}

func TestUnfinishedLineIsCutOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.jsonl")
	c, _ := open(t, "path: "+whole)
	send(t, c, "one")
	send(t, c, "two")
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.IndexByte(content, '\n') + 1
	for cut := first; cut <= len(content); cut++ {
		path := filepath.Join(dir, fmt.Sprintf("cut-%d.jsonl", cut))
		if err := os.WriteFile(path, content[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		c, log := open(t, "path: "+path)
		send(t, c, "three")
		want := []string{"one", "three"}
		if cut == len(content) {
			want = []string{"one", "two", "three"}
		}
		if got := keysOf(lines(t, path)); !slices.Equal(got, want) {
			t.Errorf("cut at %d: got %q, want %q", cut, got, want)
		}
		if torn := cut > first && cut < len(content); torn != strings.Contains(log.String(), "unfinished line") {
			t.Errorf("cut at %d: the log says %q", cut, log)
		}
		c.(connectors.Connection).Close()
	}
	// Space that the file system had given and never filled; and a first line that is longer than a block.
	for name, torn := range map[string][]byte{"zeros": make([]byte, 5000), "long": append([]byte(`{"id":"`), bytes.Repeat([]byte("x"), 200<<10)...)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		c, _ := open(t, "path: "+path)
		send(t, c, "after")
		if got := keysOf(lines(t, path)); !slices.Equal(got, []string{"after"}) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestRotationBySize(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, stranger := range []string{"e-notes.jsonl", "e-2026.jsonl", "e.jsonl.bak"} {
		if err := os.WriteFile(filepath.Join(dir, stranger), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := open(t, "{path: "+dir+"/e.jsonl, rotate_size: 1KiB, keep: 3}")
	var want []string
	for i := range 60 {
		want = append(want, fmt.Sprintf("k%02d", i))
		send(t, c, want[i])
	}
	files, err := filepath.Glob(filepath.Join(dir, "e-*T*Z.jsonl"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%d rotated files are kept, want 3: %v", len(files), files)
	}
	var got []string
	for _, f := range append(files, filepath.Join(dir, "e.jsonl")) {
		if info, err := os.Stat(f); err != nil || info.Size() > 1500 {
			t.Errorf("%s: %d bytes", f, info.Size())
		}
		got = append(got, keysOf(lines(t, f))...)
	}
	if !slices.Equal(got, want[len(want)-len(got):]) || len(got) < 10 {
		t.Errorf("kept files hold %q", got)
	}
	for _, stranger := range []string{"e-notes.jsonl", "e-2026.jsonl", "e.jsonl.bak"} {
		if _, err := os.Stat(filepath.Join(dir, stranger)); err != nil {
			t.Errorf("a file that is not ours is gone: %v", err)
		}
	}
}

func TestRotationByTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { // its clock starts at midnight UTC
		c, _ := open(t, "{path: "+dir+"/e.jsonl, rotate_every: 24h}")
		for day := range 3 {
			send(t, c, fmt.Sprintf("morning %d", day))
			time.Sleep(23 * time.Hour)
			send(t, c, fmt.Sprintf("evening %d", day))
			time.Sleep(time.Hour)
		}
	})
	files, err := filepath.Glob(filepath.Join(dir, "e-*.jsonl"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v", files)
	}
	for i, f := range append(files, filepath.Join(dir, "e.jsonl")) {
		if got, want := keysOf(lines(t, f)), []string{fmt.Sprintf("morning %d", i), fmt.Sprintf("evening %d", i)}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", f, got, want)
		}
	}
}

func TestFileMovedByAnotherProgram(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "e.jsonl")
	c, _ := open(t, "path: "+path)
	send(t, c, "one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	send(t, c, "two")
	if got := keysOf(append(lines(t, path+".1"), lines(t, path)...)); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %q", got)
	}
}

func TestManySendersLoseNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, _ := open(t, "{path: "+dir+"/e.jsonl, rotate_size: 20KiB}")
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := map[string]bool{}
	for i := range 16 {
		wg.Go(func() {
			for n := range 25 {
				key := fmt.Sprintf("%d-%d", i, n)
				ctx, cancel := context.WithCancel(t.Context())
				if n%5 == 4 { // some give up while they wait
					go cancel()
				}
				if _, err := c.Send(ctx, delivery(key, `{"a":1}`)); err == nil {
					mu.Lock()
					taken[key] = true
					mu.Unlock()
				} else if !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", key, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	for _, f := range files {
		for _, k := range keysOf(lines(t, f)) {
			seen[k] = true
		}
	}
	for k := range taken {
		if !seen[k] {
			t.Errorf("%s was reported as written and is not there", k)
		}
	}
	if len(taken) < 16*20 {
		t.Errorf("only %d were taken", len(taken))
	}
}

// A file that may not grow stands in for a disk that is full: the write goes half way and fails. The limit is the process's, so the test runs in one of its own.
func TestFullDiskIsTriedAgain(t *testing.T) {
	t.Parallel()
	const alone = "TIDEWIRE_TEST_FULL_DISK"
	if os.Getenv(alone) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), self, "-test.run=^TestFullDiskIsTriedAgain$", "-test.v")
		c.Env = append(os.Environ(), alone+"=1")
		if out, err := c.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestFullDiskIsTriedAgain")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	path := filepath.Join(t.TempDir(), "e.jsonl")
	c, _ := open(t, "path: "+path)
	send(t, c, "one")
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Send(t.Context(), delivery("two", `{"a":"`+strings.Repeat("x", 1<<20)+`"}`))
	if err == nil || connectors.AsFailure(err).Final {
		t.Errorf("got %v, want an error to try again", err)
	}
	if got := keysOf(lines(t, path)); !slices.Equal(got, []string{"one"}) {
		t.Errorf("half a line was left: %q", got)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	send(t, c, "three")
	if got := keysOf(lines(t, path)); !slices.Equal(got, []string{"one", "three"}) {
		t.Errorf("got %q", got)
	}
}

// Whatever stands at the path: whole lines stay, and nothing is cut but the start of a line of ours.
func FuzzRepair(f *testing.F) {
	f.Add([]byte("{\"id\":\"a\"}\n{\"id\":\"b"))
	f.Add([]byte("notes\nmore notes"))
	f.Add([]byte("{\"i"))
	f.Add([]byte("x\n\x00\x00"))
	f.Fuzz(func(t *testing.T, before []byte) {
		path := filepath.Join(t.TempDir(), "e.jsonl")
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
		c, _ := open(t, "path: "+path)
		_, err := c.Send(t.Context(), delivery("k", "{}"))
		after, rerr := os.ReadFile(path)
		if rerr != nil {
			t.Fatal(rerr)
		}
		whole := bytes.LastIndexByte(before, '\n') + 1
		torn := before[whole:]
		if err != nil {
			if !bytes.Equal(before, after) {
				t.Errorf("refused (%v), and changed: %q", err, after)
			}
			return
		}
		if !bytes.HasPrefix(after, before[:whole]) || bytes.Count(after[whole:], []byte("\n")) != 1 {
			t.Errorf("%q became %q", before, after)
		}
		start := torn[:min(len(torn), 7)]
		if !bytes.HasPrefix([]byte(`{"id":"`), start) && len(bytes.Trim(start, "\x00")) > 0 {
			t.Errorf("%q was cut off", torn)
		}
	})
}
