package bench_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidewire/tidewire/internal/load"
)

// standIn plays "tidewire bench limit …" and "tidewire serve --config FILE", the latter well or badly by mode.
func standIn(mode string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	if args[0] == "bench" {
		var c load.LimitConfig
		if c, err = load.ParseLimit(args[2:]); err == nil {
			err = load.RunLimit(ctx, c)
		}
	} else {
		err = serve(ctx, mode, args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// hub is the least that behaves like one for the length of a leg: in order per customer, tried again, kept in memory.
type hub struct {
	mode   string
	client *http.Client
	routes []*standInRoute
}

type standInRoute struct {
	only, url string
	queues    [4]chan []byte // by customer, so that order holds
	count     atomic.Int64
}

func serve(ctx context.Context, mode, file string) error {
	if mode == "broken" {
		return errors.New("cannot start today")
	}
	var c struct {
		Server      struct{ Listen, Admin string }
		Connections map[string]struct{ URL string }
		Routes      map[string]struct{ When, To string }
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		return err
	}
	h := &hub{mode: mode, client: &http.Client{Timeout: time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	for _, r := range c.Routes {
		route := &standInRoute{only: strings.Trim(strings.TrimPrefix(r.When, "type == "), `"`), url: c.Connections[r.To].URL}
		for i := range route.queues {
			route.queues[i] = make(chan []byte, 10_000)
			go h.carry(route, route.queues[i]) // ends with the process
		}
		h.routes = append(h.routes, route)
	}
	public, err := net.Listen("tcp", c.Server.Listen)
	if err != nil {
		return err
	}
	private, err := net.Listen("tcp", c.Server.Admin)
	if err != nil {
		return err
	}
	ear := &http.Server{Handler: h}
	admin := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"routes": [{"holds": "events 0-5"}]}`)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = ear.Serve(public) })
	serving.Go(func() { _ = admin.Serve(private) })
	<-ctx.Done()
	_ = ear.Close()
	_ = admin.Close()
	serving.Wait()
	return nil
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	i := bytes.Index(body, []byte(`"evt_`))
	if err != nil || i < 0 || r.Header.Get("Stripe-Signature") == "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	id, err := load.ParseID(string(body[i+1 : i+1+bytes.IndexByte(body[i+1:], '"')]))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, r := range h.routes {
		if r.only == "" || bytes.Contains(body, []byte(`"`+r.only+`"`)) {
			r.queues[id.Key%uint32(len(r.queues))] <- body
		}
	}
}

func (h *hub) carry(r *standInRoute, queue chan []byte) {
	var kept []byte
	for {
		var body []byte
		select {
		case body = <-queue:
		case <-time.After(100 * time.Millisecond):
			if kept != nil {
				h.deliver(r.url, kept)
				kept = nil
			}
			continue
		}
		n := r.count.Add(1)
		switch {
		case h.mode == "swaps" && n%20 == 1 && kept == nil: // younger ones overtake it
			kept = body
			continue
		case h.mode == "alters" && n%20 == 1:
			body = bytes.Replace(body, []byte("4900"), []byte("4901"), 1)
		case h.mode == "repeats" && n%20 == 1:
			h.deliver(r.url, body)
		}
		h.deliver(r.url, body)
	}
}

func (h *hub) deliver(url string, body []byte) {
	for range 5 {
		answer, err := h.client.Post(url, "application/json", bytes.NewReader(body))
		if err != nil {
			continue
		}
		_ = answer.Body.Close()
		if answer.StatusCode == 200 {
			return
		}
	}
}
