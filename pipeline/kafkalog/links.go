package kafkalog

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// links are the connections of a member to the coordinator of its group. kafka-go lets nobody end a request that waits there, and does not
// say when the coordinator last answered: here both can be done.
type links struct {
	s      *Subscriber
	ctx    context.Context
	cancel context.CancelFunc
	timer  *time.Timer

	mu   sync.Mutex
	open map[*link]struct{}
}

// link is one connection.
type link struct {
	net.Conn
	ls    *links
	asked atomic.Int64 // when something was last sent
}

func newLinks(s *Subscriber) *links {
	ctx, cancel := context.WithCancel(context.Background())
	return &links{s: s, ctx: ctx, cancel: cancel, open: make(map[*link]struct{})}
}

func (ls *links) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ls.ctx, cancel)()
	raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.ctx.Err() != nil {
		raw.Close()
		return nil, net.ErrClosed
	}
	l := &link{Conn: raw, ls: ls}
	ls.open[l] = struct{}{}
	return l, nil
}

// within cuts what is open after half of some time, which ends requests that wait, and lets nothing be opened after all of it.
func (ls *links) within(d time.Duration) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.timer = time.AfterFunc(d/2, func() {
		ls.cut()
		ls.mu.Lock()
		defer ls.mu.Unlock()
		if ls.ctx.Err() == nil {
			ls.timer = time.AfterFunc(d/2, ls.end)
		}
	})
}

func (ls *links) cut() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := range ls.open {
		l.Conn.Close()
	}
}

// end cuts what is open and lets nothing be opened any more.
func (ls *links) end() {
	ls.cancel()
	ls.cut()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.timer != nil {
		ls.timer.Stop()
	}
}

func (l *link) Close() error {
	l.ls.mu.Lock()
	defer l.ls.mu.Unlock()
	delete(l.ls.open, l)
	return l.Conn.Close()
}

func (l *link) Write(b []byte) (int, error) {
	l.asked.Store(int64(time.Since(epoch)))
	return l.Conn.Write(b)
}

// Read notes an answer as of when it was asked for: one that waited here while the process was stopped is as old as that.
func (l *link) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.ls.s.hear(epoch.Add(time.Duration(l.asked.Load())))
	}
	return n, err
}

// epoch is what times are counted from: only a difference of times is not changed by setting the clock.
var epoch = time.Now()

// hear notes that the coordinator answered to what was asked at a time.
func (s *Subscriber) hear(at time.Time) { s.heard.Store(int64(at.Sub(epoch))) }

// silence is how long ago the coordinator was asked something to which it answered.
func (s *Subscriber) silence() time.Duration {
	return time.Since(epoch) - time.Duration(s.heard.Load())
}

// live reports whether the coordinator cannot have given the partitions to others yet, as far as this process knows.
func (s *Subscriber) live() bool {
	if s.silence() < s.l.c.SessionTimeout {
		return true
	}
	s.stalled.Store(true)
	return false
}
