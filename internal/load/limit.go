package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// LimitConfig sets up the bare durable limit.
type LimitConfig struct {
	// Listen is the "host:port" for posts (any path) and for GET /readyz.
	Listen string
	// Target is the URL that every body is posted on to.
	Target string
	// File is appended to; it is created when it does not exist.
	File string
	// Clients is how many posts are under way at once; default 32, as a route's concurrency.
	Clients int
	// Queue is how many bodies may wait to be posted on before posts are answered more slowly; default 1024.
	Queue int

	// sync makes what was written durable; nil is File.Sync. A test puts its own in.
	sync func(*os.File) error
}

// Args is the config as command line arguments, such as ParseLimit reads.
func (c LimitConfig) Args() []string {
	return []string{
		"--listen", c.Listen, "--target", c.Target, "--file", c.File,
		"--clients", strconv.Itoa(c.Clients), "--queue", strconv.Itoa(c.Queue),
	}
}

// ParseLimit reads the arguments of the subcommand that calls RunLimit.
func ParseLimit(args []string) (LimitConfig, error) {
	var c LimitConfig
	f := flag.NewFlagSet("limit", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.Listen, "listen", "127.0.0.1:0", "address to listen on")
	f.StringVar(&c.Target, "target", "", "URL to post on to")
	f.StringVar(&c.File, "file", "", "file to append to")
	f.IntVar(&c.Clients, "clients", 0, "posts under way at once")
	f.IntVar(&c.Queue, "queue", 0, "bodies that may wait")
	if err := f.Parse(args); err != nil {
		return c, fmt.Errorf("limit: %w", err)
	}
	if c.Target == "" || c.File == "" {
		return c, errors.New("limit: --target and --file must be given")
	}
	return c, nil
}

// RunLimit is the bare durable limit: the least that any durable relay has to do, as the yardstick for what the hub does
// beyond it. It takes posts with net/http, appends each body to a file, makes a group of them durable with one fsync, only
// then answers 200, and posts each body on to the target with net/http's client. It checks no signature, keeps no
// order and no ledger, and after a crash it would not know what was posted on. It runs until ctx is done, then
// posts on what it has taken, for at most ten seconds.
func RunLimit(ctx context.Context, c LimitConfig) error {
	if c.Clients == 0 {
		c.Clients = 32
	}
	if c.Queue == 0 {
		c.Queue = 1024
	}
	if c.sync == nil {
		c.sync = (*os.File).Sync
	}
	file, err := os.OpenFile(c.File, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	defer func() { _ = file.Close() }()
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	l := &limit{
		config: c, file: file,
		appends: make(chan *appending, 4*c.Clients),
		posts:   make(chan []byte, c.Queue),
		quit:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	return l.run(ctx, listener)
}

type limit struct {
	config  LimitConfig
	file    *os.File
	appends chan *appending
	posts   chan []byte
	client  *http.Client
	quit    chan struct{} // closed: the committer takes no more
	stopped chan struct{} // closed: it has ended, and will answer nobody
}

var errStopping = errors.New("limit: stopping")

// appending is one body that waits to be durable.
type appending struct {
	body []byte
	done chan error
}

func (l *limit) run(ctx context.Context, listener net.Listener) error {
	transport := &http.Transport{MaxIdleConns: l.config.Clients, MaxIdleConnsPerHost: l.config.Clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	l.client = &http.Client{Transport: transport, Timeout: 10 * time.Second}
	posting, stopPosting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPosting()

	var committer, posters sync.WaitGroup
	committer.Go(l.commit)
	for range l.config.Clients {
		posters.Go(func() { l.postOn(posting) })
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", l.take)
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	var serving sync.WaitGroup
	serving.Go(func() { served <- server.Serve(listener) })

	var failed error
	select {
	case <-ctx.Done():
	case failed = <-served:
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	context.AfterFunc(bound, stopPosting)
	if err := server.Shutdown(bound); err != nil {
		_ = server.Close()
	}
	serving.Wait()
	close(l.quit)
	committer.Wait()
	close(l.stopped)
	posters.Wait()
	if errors.Is(failed, http.ErrServerClosed) {
		failed = nil
	}
	return failed
}

// take answers 200 when the body is durable.
func (l *limit) take(w http.ResponseWriter, r *http.Request) {
	body := make([]byte, max(r.ContentLength, 0))
	if _, err := io.ReadFull(r.Body, body); err != nil || r.ContentLength < 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a := &appending{body: body, done: make(chan error, 1)}
	err := errStopping
	select {
	case l.appends <- a:
		select {
		case err = <-a.done:
		case <-l.stopped:
		}
	case <-l.quit:
	}
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// commit writes what waits with one write and one fsync, again and again.
func (l *limit) commit() {
	defer close(l.posts)
	var buf []byte
	var group []*appending
	for {
		select {
		case first := <-l.appends:
			group, buf = append(group[:0], first), frameRecord(buf[:0], first.body)
		case <-l.quit:
			return
		}
		for range len(l.appends) {
			a := <-l.appends
			group, buf = append(group, a), frameRecord(buf, a.body)
		}
		_, err := l.file.Write(buf)
		if err == nil {
			err = l.config.sync(l.file)
		}
		for _, a := range group {
			a.done <- err
		}
		if err != nil {
			continue
		}
		for _, a := range group {
			l.posts <- a.body
		}
	}
}

func frameRecord(buf, body []byte) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(body)))
	return append(buf, body...)
}

// postOn posts bodies until there are no more; one that fails is tried again every 100 ms until ctx is done.
func (l *limit) postOn(ctx context.Context) {
	for body := range l.posts {
		for l.post(ctx, body) != nil {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
				continue
			}
			break
		}
	}
}

func (l *limit) post(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.config.Target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := l.client.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	if err == nil && answer.StatusCode > 299 {
		err = fmt.Errorf("target answered %d", answer.StatusCode)
	}
	return err
}
