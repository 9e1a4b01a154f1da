package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// startLimit runs a limit until stop is called or the test ends, and returns its address when it is ready.
func startLimit(t *testing.T, c LimitConfig) (address string, stop func()) {
	t.Helper()
	c.Listen = FreeAddress(t.Context())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- RunLimit(ctx, c) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("limit ended with %v", err)
		}
	})
	t.Cleanup(stop)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for begin := time.Now(); time.Since(begin) < 10*time.Second; {
		if answer, err := client.Get("http://" + c.Listen + "/readyz"); err == nil {
			_ = answer.Body.Close()
			return c.Listen, stop
		}
	}
	t.Fatal("the limit is not ready")
	return "", stop
}

func TestLimitAcceptsPostsOnAndKeeps(t *testing.T) {
	t.Parallel()
	s, err := NewSink(SinkConfig{Rules: map[string]Rule{"/t": {Share: 0.1, Fail: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	file := filepath.Join(t.TempDir(), "log")
	address, _ := startLimit(t, LimitConfig{Target: s.URL("/t"), File: file, Clients: 4, Queue: 8})
	sent, err := Generator{Address: address, Path: "/in/x", Source: "l", Connections: 8, Events: 300}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context(), 300, 5*time.Second, "/t"); err != nil {
		t.Error(err)
	}
	v := Check(sent, s.Receipts("/t"), Expect{})
	v.Inversions = 0 // the limit keeps no order
	if !v.Clean(0) || v.Delivered != 300 {
		t.Errorf("verdict: %s", v)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	kept := make(map[uint64]bool)
	for len(data) > 0 {
		n := binary.BigEndian.Uint32(data)
		kept[hash64(data[4:4+n])] = true
		data = data[4+n:]
	}
	for _, p := range sent.Posts {
		if !kept[p.Hash] {
			t.Errorf("%s is not in the file", sent.ID(p))
		}
	}
}

// Every answer must come after a sync that began after the body had been written.
func TestLimitNeverAcksBeforeSync(t *testing.T) {
	t.Parallel()
	s, err := NewSink(SinkConfig{Rules: map[string]Rule{"/t": {}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	file := filepath.Join(t.TempDir(), "log")
	var mu sync.Mutex
	var durable []byte // what the file held when a sync was done
	held := make(chan struct{})
	syncing := make(chan struct{}, 1000)
	c := LimitConfig{Target: s.URL("/t"), File: file, sync: func(f *os.File) error {
		syncing <- struct{}{}
		<-held
		data, err := os.ReadFile(f.Name())
		mu.Lock()
		durable = data
		mu.Unlock()
		return err
	}}
	address, _ := startLimit(t, c)
	answered := make(chan string, 8)
	var posting sync.WaitGroup
	for _, body := range []string{"one", "two", "three", "four"} {
		posting.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			answer, err := client.Post("http://"+address, "text/plain", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			_ = answer.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			if answer.StatusCode != 200 || !bytes.Contains(durable, []byte(body)) {
				t.Errorf("%q was answered %d while only %q was durable", body, answer.StatusCode, durable)
			}
			answered <- body
		})
	}
	<-syncing
	select {
	case body := <-answered:
		t.Errorf("%q was answered before the first sync was done", body)
	case <-time.After(50 * time.Millisecond): // give a wrong answer the time to come; a right one cannot
	}
	if got := s.Seen("/t"); got != 0 {
		t.Errorf("%d bodies were posted on before they were durable", got)
	}
	close(held)
	posting.Wait()
	close(answered)
	if got := slices.Collect(chanValues(answered)); len(got) != 4 {
		t.Errorf("answered %q", got)
	}
	if err := s.Wait(t.Context(), 4, 5*time.Second, "/t"); err != nil {
		t.Error(err)
	}
}

func TestLimitRefusesWhatItCannotSync(t *testing.T) {
	t.Parallel()
	s, err := NewSink(SinkConfig{Rules: map[string]Rule{"/t": {}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var calls atomic.Int64
	address, stop := startLimit(t, LimitConfig{
		Target: s.URL("/t"), File: filepath.Join(t.TempDir(), "log"),
		sync: func(*os.File) error { calls.Add(1); return errors.New("no space") },
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Post("http://"+address, "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusServiceUnavailable || calls.Load() != 1 {
		t.Errorf("answered %d after %d syncs", answer.StatusCode, calls.Load())
	}
	stop() // posts on what it has taken
	if got := s.Seen("/t"); got != 0 {
		t.Errorf("%d bodies were posted on that are not durable", got)
	}
}

func TestLimitArgsReadBack(t *testing.T) {
	t.Parallel()
	c := LimitConfig{Listen: "127.0.0.1:9", Target: "http://127.0.0.1:8/t", File: "f", Clients: 3, Queue: 4}
	got, err := ParseLimit(c.Args())
	if err != nil || got.Listen != c.Listen || got.Target != c.Target || got.File != c.File || got.Clients != 3 || got.Queue != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]string{{}, {"--target", "x"}, {"--nonsense"}} {
		if _, err := ParseLimit(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func chanValues(c <-chan string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for v := range c {
			if !yield(v) {
				return
			}
		}
	}
}
