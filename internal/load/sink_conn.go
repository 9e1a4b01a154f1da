package load

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// sinkConn answers the requests of one connection, one after the other.
type sinkConn struct {
	sink *Sink
	wire *wire
	cut  context.CancelFunc // ends waits when the sink closes

	mu       sync.Mutex
	receipts []Receipt

	source string // the last event's, so that equal ones share memory
	line   []byte // the last journal line's memory
}

var answer200 = []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

func (c *sinkConn) serve(ctx context.Context) {
	defer func() {
		c.cut()
		_ = c.wire.conn.Close()
		s := c.sink
		s.mu.Lock()
		s.gone = append(s.gone, c.receipts...)
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	for ctx.Err() == nil {
		if again := c.one(ctx); !again {
			return
		}
	}
}

// one reads a request, records and answers it; false ends the connection.
func (c *sinkConn) one(ctx context.Context) bool {
	head, err := c.wire.head()
	if err != nil {
		return false
	}
	var r Receipt
	t, path := c.target(head)
	f, err := frame(head, func(name string, value []byte) {
		if name == "webhook-id" {
			r.WebhookID = string(value)
		}
	})
	if err != nil {
		return false
	}
	r.Path = path
	var body []byte
	if f.chunked {
		body, err = c.wire.chunked()
	} else {
		body, err = c.wire.body(max(f.length, 0))
	}
	if err != nil {
		return false
	}
	now := time.Now()
	r.At = now.UnixNano()
	r.Hash = hash64(body)
	if source, key, seq, ok := findID(body); ok {
		if string(source) != c.source {
			c.source = string(source)
		}
		r.ID = ID{Source: c.source, Key: key, Seq: seq}
	}
	return c.answer(ctx, t, &r) && !f.close
}

// target finds the path of a request line among the rules; a path without a rule is copied and has no target.
func (c *sinkConn) target(head []byte) (*target, string) {
	_, rest, _ := bytes.Cut(head, []byte(" "))
	path, _, _ := bytes.Cut(rest, []byte(" "))
	path, _, _ = bytes.Cut(path, []byte("?"))
	if t := c.sink.rules[string(path)]; t != nil {
		return t, t.path
	}
	return nil, string(path)
}

// answer decides by the path's rule, records, and only then writes.
func (c *sinkConn) answer(ctx context.Context, t *target, r *Receipt) bool {
	if t == nil {
		r.Status = 404
		return c.record(r) && c.write([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
	}
	rule := &t.rule
	fails := t.fails(r.ID)
	switch {
	case rule.Tarpit, fails && rule.Reset:
	case fails:
		r.Status = max(rule.Status, 0)
		if r.Status == 0 {
			r.Status = 500
		}
	default:
		r.Status = 200
	}
	if !c.record(r) {
		return false
	}
	t.seen.Add(1)
	switch {
	case rule.Tarpit:
		return c.swallow(ctx)
	case rule.Delay > 0:
		pause := time.NewTimer(rule.Delay)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
			return false
		}
	}
	if r.Status == 0 {
		if tcp, ok := c.wire.conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // Close then sends a reset
		}
		return false
	}
	if r.Status != 200 {
		return c.write(failure(r.Status, rule.RetryAfter))
	}
	t.taken.Add(1)
	if rule.HugeBody > 0 {
		return c.huge(rule.HugeBody)
	}
	return c.write(answer200)
}

// fails counts a request of a concerned event and says whether it is one of those that fail.
func (t *target) fails(id ID) bool {
	if !t.rule.concerned(id) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tries[id]++
	return t.tries[id] <= t.rule.Fail
}

// record appends to memory and journal; false when the journal cannot be written: then nothing may be answered.
func (c *sinkConn) record(r *Receipt) bool {
	s := c.sink
	r.Order = s.order.Add(1)
	if s.journal != nil {
		c.line = appendJournal(c.line[:0], r)
		if _, err := s.journal.Write(c.line); err != nil {
			s.mu.Lock()
			if s.broken == nil {
				s.broken = fmt.Errorf("sink: write journal: %w", err)
			}
			s.mu.Unlock()
			return false
		}
	}
	c.mu.Lock()
	c.receipts = append(c.receipts, *r)
	c.mu.Unlock()
	return true
}

func (c *sinkConn) write(b []byte) bool {
	_, err := c.wire.conn.Write(b)
	return err == nil
}

// swallow reads on until the peer gives up.
func (c *sinkConn) swallow(ctx context.Context) bool {
	for ctx.Err() == nil {
		c.wire.r, c.wire.w = 0, 0
		if err := c.wire.fill(); err != nil {
			break
		}
	}
	return false
}

func (c *sinkConn) huge(size int64) bool {
	if !c.write([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.FormatInt(size, 10) + "\r\n\r\n")) {
		return false
	}
	block := bytes.Repeat([]byte("x"), 64<<10)
	for size > 0 {
		n := min(size, int64(len(block)))
		if !c.write(block[:n]) {
			return false
		}
		size -= n
	}
	return true
}

func failure(status int, retryAfter time.Duration) []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 %d Scripted\r\nContent-Length: 0\r\n", status)
	if retryAfter > 0 {
		b = fmt.Appendf(b, "Retry-After: %d\r\n", int64((retryAfter+time.Second-1)/time.Second))
	}
	return append(b, "\r\n"...)
}
