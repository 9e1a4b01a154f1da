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
	"strings"
	"sync"
	"time"
)

// LimitConfig sets up the bare durable limit, on a file or on Kafka.
type LimitConfig struct {
	// Listen is the "host:port" for posts (any path) and for GET /readyz.
	Listen string
	// Target is the URL that every body is posted on to.
	Target string
	// File is appended to; it is created when it does not exist.
	File string
	// Brokers and Topic are given in place of File: what is posted goes into the topic, which is created with 12 partitions when it does not exist,
	// one copy each.
	Brokers []string
	Topic   string
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
		"--listen", c.Listen, "--target", c.Target, "--file", c.File, "--brokers", strings.Join(c.Brokers, ","), "--topic", c.Topic,
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
	brokers := f.String("brokers", "", "Kafka brokers to append to in place of a file")
	f.StringVar(&c.Topic, "topic", "", "topic there")
	f.IntVar(&c.Clients, "clients", 0, "posts under way at once")
	f.IntVar(&c.Queue, "queue", 0, "bodies that may wait")
	if err := f.Parse(args); err != nil {
		return c, fmt.Errorf("limit: %w", err)
	}
	if *brokers != "" {
		c.Brokers = strings.Split(*brokers, ",")
	}
	if c.Target == "" || (c.File == "") == (c.Topic == "") || (c.Topic == "") != (len(c.Brokers) == 0) {
		return c, errors.New("limit: --target and --file, or --target, --brokers and --topic must be given")
	}
	return c, nil
}

// RunLimit is the bare durable limit: the least that any durable relay has to do, as the yardstick for what the hub does
// beyond it. It takes posts with net/http, appends each body to a file, makes a group of them durable with one fsync, only
// then answers 200, and posts each body on to the target with net/http's client. It checks no signature, keeps no
// order and no ledger, and after a crash it would not know what was posted on.
//
// On Kafka it is the bare loop around it: one produce request for what waits, confirmed by all in-sync replicas before the answers, one long
// fetch for all partitions, and the offsets of what was posted on committed four times a second; each of them one request for all partitions of a broker.
//
// It runs until ctx is done, then posts on what it has taken, for at most ten seconds.
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
	l := &limit{
		config: c, appends: make(chan *appending, 4*c.Clients), posts: make(chan posting, c.Queue),
		quit: make(chan struct{}), stopped: make(chan struct{}),
	}
	var carry func(context.Context)
	if len(c.Brokers) > 0 {
		k, err := newKafkaLimit(ctx, l)
		if err != nil {
			return fmt.Errorf("limit: %w", err)
		}
		defer k.transport.CloseIdleConnections()
		carry = k.carry
	} else {
		file, err := os.OpenFile(c.File, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("limit: %w", err)
		}
		defer func() { _ = file.Close() }()
		carry = func(context.Context) { l.commit(file) }
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	return l.run(ctx, listener, carry)
}

type limit struct {
	config  LimitConfig
	appends chan *appending
	posts   chan posting
	client  *http.Client
	quit    chan struct{} // closed: the carrier takes no more
	stopped chan struct{} // closed: the carrier has ended, and will answer nobody
}

var errStopping = errors.New("limit: stopping")

// appending is one body that waits to be durable.
type appending struct {
	body []byte
	done chan error
}

// posting is one body that is to be posted on; done is called when it was.
type posting struct {
	body []byte
	done func()
}

// run serves. carry makes what is in appends durable and brings it to posts, until quit is closed and all of it is there; then it closes posts.
func (l *limit) run(ctx context.Context, listener net.Listener, carry func(context.Context)) error {
	transport := &http.Transport{MaxIdleConns: l.config.Clients, MaxIdleConnsPerHost: l.config.Clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	l.client = &http.Client{Transport: transport, Timeout: 10 * time.Second}
	bounded, stopPosting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPosting()

	var carrier, posters sync.WaitGroup
	carrier.Go(func() { carry(bounded) })
	for range l.config.Clients {
		posters.Go(func() { l.postOn(bounded) })
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
	carrier.Wait()
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
func (l *limit) commit(file *os.File) {
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
		_, err := file.Write(buf)
		if err == nil {
			err = l.config.sync(file)
		}
		for _, a := range group {
			a.done <- err
		}
		if err != nil {
			continue
		}
		for _, a := range group {
			l.posts <- posting{body: a.body}
		}
	}
}

func frameRecord(buf, body []byte) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(body)))
	return append(buf, body...)
}

// postOn posts bodies until there are no more; one that fails is tried again every 100 ms until ctx is done.
func (l *limit) postOn(ctx context.Context) {
	for p := range l.posts {
		for l.post(ctx, p.body) != nil {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
				continue
			}
			break
		}
		if p.done != nil && ctx.Err() == nil {
			p.done()
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
