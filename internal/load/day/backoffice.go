package day

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// BackOffice is the system that a hub delivers to: a small HTTP receiver that checks each request's Standard Webhooks
// signature (https://www.standardwebhooks.com), books each event once by its webhook-id, and fails when the story wants it to.
// Safe for concurrent use.
type BackOffice struct {
	key    []byte
	server *http.Server
	addr   string
	done   chan struct{}

	mu       sync.Mutex
	failNext int       // requests to answer 500
	away     time.Time // until then 503
	seen     map[string]*booking
	bad      int // requests with a signature that is not good
	repeats  int // requests for what was booked already
	failures int // requests answered 500 or 503
}

// booking is what the back office knows of one webhook-id.
type booking struct {
	event  string // the hub's event ID, out of the body
	kind   string // what the body says it is: which route's map made it
	tries  int
	last   int       // status of the last try
	booked time.Time // zero: not yet
}

// Records are a back office's own counts.
type Records struct {
	// Booked counts different webhook-ids that were answered 200.
	Booked int
	// Repeats counts requests for what was booked already, BadSignatures those refused, Failures those answered 500 or 503.
	Repeats, BadSignatures, Failures int
}

// OpenBackOffice listens on address ("127.0.0.1:9400"; port 0 picks one) and receives until Close. secret is the signing secret
// the hub was given for it: "whsec_" and base64.
func OpenBackOffice(address, secret string) (*BackOffice, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) == 0 {
		return nil, errors.New("back office: the signing secret is not whsec_ and base64")
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("back office: %w", err)
	}
	b := &BackOffice{key: key, addr: l.Addr().String(), done: make(chan struct{}), seen: make(map[string]*booking)}
	b.server = &http.Server{Handler: http.HandlerFunc(b.receive), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	go func() { // Close waits for it
		defer close(b.done)
		_ = b.server.Serve(l) // ends with ErrServerClosed
	}()
	return b, nil
}

// Address is the "host:port" it listens on.
func (b *BackOffice) Address() string { return b.addr }

// Close stops receiving; requests under way have two seconds. Safe to call twice.
func (b *BackOffice) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := b.server.Shutdown(ctx)
	if err != nil {
		err = b.server.Close()
	}
	<-b.done
	return err
}

// FailNext makes the next n requests fail with 500.
func (b *BackOffice) FailNext(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failNext = n
}

// GoAway answers 503 with Retry-After for some time.
func (b *BackOffice) GoAway(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = time.Now().Add(d)
}

// Records returns the counts so far.
func (b *BackOffice) Records() Records {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := Records{Repeats: b.repeats, BadSignatures: b.bad, Failures: b.failures}
	for _, k := range b.seen {
		if !k.booked.IsZero() {
			r.Booked++
		}
	}
	return r
}

// of returns what is known of an event as one kind of booking: the tries made and the last status; booked is zero until it was.
func (b *BackOffice) of(event, kind string) booking {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.seen {
		if k.event == event && k.kind == kind {
			return *k
		}
	}
	return booking{}
}

func (b *BackOffice) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	id := r.Header.Get("webhook-id")
	good := b.signed(id, r.Header.Get("webhook-timestamp"), r.Header.Get("webhook-signature"), body, time.Now())
	var fields struct {
		Event string `json:"event"`
		Kind  string `json:"kind"`
	}
	if good {
		_ = json.Unmarshal(body, &fields) // a body without an event is booked all the same: the id is what counts
	}
	status := b.book(id, booking{event: fields.Event, kind: fields.Kind}, good)
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
}

// book decides what to answer, and remembers it.
func (b *BackOffice) book(id string, fresh booking, good bool) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !good {
		b.bad++
		return http.StatusUnauthorized
	}
	k := b.seen[id]
	if k == nil {
		k = &fresh
		b.seen[id] = k
	}
	k.tries++
	switch {
	case time.Now().Before(b.away):
		b.failures++
		k.last = http.StatusServiceUnavailable
	case b.failNext > 0:
		b.failNext--
		b.failures++
		k.last = http.StatusInternalServerError
	default:
		k.last = http.StatusOK
		if !k.booked.IsZero() {
			b.repeats++ // once in effect: a repeat changes nothing
		} else {
			k.booked = time.Now()
		}
	}
	return k.last
}

// signed checks a Standard Webhooks signature: HMAC-SHA256 over "id.timestamp.body", five minutes either way.
func (b *BackOffice) signed(id, stamp, signatures string, body []byte, now time.Time) bool {
	unix, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || id == "" || now.Sub(time.Unix(unix, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, b.key)
	fmt.Fprintf(mac, "%s.%s.", id, stamp)
	mac.Write(body)
	want := mac.Sum(nil)
	for _, one := range strings.Fields(signatures) {
		version, text, _ := strings.Cut(one, ",")
		got, err := base64.StdEncoding.DecodeString(text)
		if version == "v1" && err == nil && hmac.Equal(got, want) {
			return true
		}
	}
	return false
}
