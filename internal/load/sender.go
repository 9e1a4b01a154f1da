package load

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"math/rand/v2"
	"net"
	"strconv"
	"time"
)

// stale is how old a stale signature is: twice the five minutes that Stripe's scheme allows.
const stale = 10 * time.Minute

// sender posts the events of its own customers over its own connection.
type sender struct {
	g         Generator
	number    int
	wire      *wire // nil: to be dialled
	rand      *rand.Rand
	sign, bad hash.Hash
	requests  []request
	next      []uint32 // the next sequence number of each of its customers

	posts                              []Post
	ack                                Histogram
	resent, reconnects, repeatsRefused int
}

// request is one type's whole HTTP request, rendered once and patched for each event.
type request struct {
	template template
	buf      []byte
	body     []byte // the tail of buf
	time     int    // offset in buf of the signature's time; -1: unsigned
	mac      int    // offset in buf of the signature
}

func newSender(g Generator, number int) *sender {
	s := &sender{
		g: g, number: number, rand: random(g.Seed, number),
		sign: hmac.New(sha256.New, []byte(g.Secret)),
		bad:  hmac.New(sha256.New, []byte("not "+g.Secret)),
		next: make([]uint32, g.KeysPerConnection),
	}
	for _, typ := range g.Types {
		s.requests = append(s.requests, newRequest(g, typ))
	}
	return s
}

func newRequest(g Generator, typ string) request {
	r := request{template: newTemplate(g.Source, typ, g.BodySize), time: -1}
	b := []byte("POST " + g.Path + " HTTP/1.1\r\nHost: " + g.Address + "\r\n" +
		"User-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\nAccept: */*\r\nContent-Type: application/json; charset=utf-8\r\n" +
		"Content-Length: " + strconv.Itoa(len(r.template.body)) + "\r\n")
	if g.Secret != "" {
		b = append(b, "Stripe-Signature: t="...)
		r.time = len(b)
		b = append(b, "0000000000,v1="...)
		r.mac = len(b)
		b = append(b, make([]byte, 2*sha256.Size)...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	r.buf = append(b, r.template.body...)
	r.body = r.buf[len(b):]
	return r
}

func (s *sender) close() {
	if s != nil && s.wire != nil {
		_ = s.wire.conn.Close()
		s.wire = nil
	}
}

// run sends every event that is this sender's until end (zero: no end), the number of events or ctx is over.
func (s *sender) run(ctx context.Context, start, end time.Time) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		n := i*s.g.Connections + s.number // the event's number in the whole run
		if s.g.Events > 0 && n >= s.g.Events {
			return
		}
		due := time.Now()
		if s.g.Rate > 0 {
			due = start.Add(time.Duration(float64(n) / s.g.Rate * float64(time.Second)))
		}
		if !end.IsZero() && !due.Before(end) {
			return
		}
		if wait := time.Until(due); wait > 0 {
			pause.Reset(wait)
			select {
			case <-pause.C:
			case <-ctx.Done():
				return
			}
		}
		s.post(ctx, n, i%s.g.KeysPerConnection, due, end, pause)
	}
}

// post sends one event until its state is known, or the tries, the grace or ctx are over.
func (s *sender) post(ctx context.Context, n, slot int, due, end time.Time, pause *time.Timer) {
	typ := n % len(s.requests)
	r := &s.requests[typ]
	s.next[slot]++
	p := Post{
		Key: uint32(s.number*s.g.KeysPerConnection + slot), Seq: s.next[slot], Type: uint16(typ),
		Kind: s.kind(), Due: due.UnixNano(),
	}
	r.template.render(r.body, s.g.Source, p.Key, p.Seq, due.Unix())
	sum := sha256.Sum256(r.body)
	p.Hash = binary.BigEndian.Uint64(sum[:8])

	giveUp := time.Now().Add(s.g.Grace)
	if !end.IsZero() {
		giveUp = end.Add(s.g.Grace)
	}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		p.Tries++
		answer, err := s.try(ctx, r, p.Kind)
		p.Status = uint16(answer.status)
		switch {
		case err != nil || answer.status == 429 || answer.status == 408 || answer.status >= 500:
			p.State = Unknown
		case answer.status < 300:
			p.State = Accepted
		default:
			p.State = Refused
		}
		if p.State != Unknown || int(p.Tries) >= s.g.Tries || ctx.Err() != nil {
			break
		}
		if answer.retryAfter >= 0 {
			wait = max(wait, time.Duration(answer.retryAfter)*time.Second)
		}
		if time.Now().Add(wait).After(giveUp) {
			break
		}
		s.resent++
		pause.Reset(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	now := time.Now()
	p.Done = now.UnixNano()
	if p.State == Accepted {
		s.ack.Record(now.Sub(due))
		if p.Kind == Genuine && s.g.Duplicates > 0 && s.rand.Float64() < s.g.Duplicates {
			p.Repeats++
			if answer, err := s.try(ctx, r, Genuine); err != nil || answer.status < 200 || answer.status > 299 {
				s.repeatsRefused++
			}
		}
	}
	s.posts = append(s.posts, p)
}

func (s *sender) kind() Kind {
	if s.g.Forged <= 0 && s.g.Stale <= 0 {
		return Genuine
	}
	switch v := s.rand.Float64(); {
	case v < s.g.Forged:
		return Forged
	case v < s.g.Forged+s.g.Stale:
		return Stale
	}
	return Genuine
}

// try signs and sends one request and reads its answer in full. After an error the connection is dropped: what
// the hub made of the request is unknown.
func (s *sender) try(ctx context.Context, r *request, kind Kind) (response, error) {
	now := time.Now()
	deadline := now.Add(s.g.Timeout)
	if s.wire == nil {
		d := net.Dialer{Deadline: deadline}
		conn, err := d.DialContext(ctx, "tcp", s.g.Address)
		if err != nil {
			return response{}, err
		}
		s.reconnects++
		s.wire = newWire(conn)
	}
	if r.time >= 0 {
		s.seal(r, kind, now)
	}
	if err := s.wire.conn.SetDeadline(deadline); err != nil {
		s.close()
		return response{}, err
	}
	_, err := s.wire.conn.Write(r.buf)
	var answer response
	if err == nil {
		answer, err = s.wire.response()
	}
	if err != nil || answer.close {
		s.close()
	}
	return answer, err
}

// seal writes the signature for the body that stands in r.
func (s *sender) seal(r *request, kind Kind, now time.Time) {
	h := s.sign
	switch kind {
	case Forged:
		h = s.bad
	case Stale:
		now = now.Add(-stale)
	case Genuine:
	}
	stamp := r.buf[r.time : r.time+10]
	digits(stamp, uint64(now.Unix()))
	h.Reset()
	h.Write(stamp)
	h.Write([]byte{'.'})
	h.Write(r.body)
	var sum [sha256.Size]byte
	hex.Encode(r.buf[r.mac:], h.Sum(sum[:0]))
}
