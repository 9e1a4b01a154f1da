package file

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tidewire/tidewire/connectors"
)

// target appends deliveries to a file. Senders that come while a write is under way share the next one, and its fsync: one of
// them does it for all, so no goroutine of our own is needed.
type target struct {
	journal journal // used by who holds turn
	turn    chan struct{}

	mu   sync.Mutex
	next *batch
}

// batch is what the next write will carry.
type batch struct {
	lines []byte
	done  chan struct{} // closed when err is final
	err   error
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

func newTarget(s Settings, log *slog.Logger) *target {
	return &target{
		journal: journal{path: s.Path, rotateSize: int64(s.RotateSize), rotateEvery: s.RotateEvery.Std(), keep: s.Keep, log: log},
		turn:    make(chan struct{}, 1),
		next:    newBatch(),
	}
}

// Send appends one line and returns when it is on the disk. Its errors are plain: a full disk or a missing right is nothing that the delivery could
// help. When ctx ends first, the line may be written all the same; it bears the idempotency key for whoever reads it twice.
func (t *target) Send(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return connectors.Receipt{}, fmt.Errorf("append to %s: %w", t.journal.path, err)
	}
	line, err := encode(d)
	if err != nil {
		return connectors.Receipt{}, connectors.Permanent(fmt.Errorf("append to %s: %w", t.journal.path, err))
	}
	t.mu.Lock()
	b := t.next
	b.lines = append(b.lines, line...)
	t.mu.Unlock()
	select {
	case <-b.done:
	case t.turn <- struct{}{}:
		t.flush(b)
		<-t.turn
	case <-ctx.Done():
		return connectors.Receipt{}, fmt.Errorf("append to %s: %w", t.journal.path, ctx.Err())
	}
	return connectors.Receipt{TargetID: d.IdempotencyKey}, b.err
}

// flush writes b, unless the one who had the turn before has done so already. The caller holds the turn.
func (t *target) flush(b *batch) {
	t.mu.Lock()
	if t.next != b {
		t.mu.Unlock()
		return
	}
	t.next = newBatch()
	t.mu.Unlock()
	b.err = t.journal.append(b.lines, time.Now())
	close(b.done)
}

// line is one line of the file. id comes first: repair knows our lines by it.
type line struct {
	ID             string          `json:"id"`
	Source         string          `json:"source"`
	Type           string          `json:"type"`
	Subject        string          `json:"subject,omitempty"`
	Time           time.Time       `json:"time"`
	Key            string          `json:"key,omitempty"`
	Route          string          `json:"route"`
	IdempotencyKey string          `json:"idempotency_key"`
	ContentType    string          `json:"content_type,omitempty"`
	Body           json.RawMessage `json:"body,omitempty"`
	BodyBase64     []byte          `json:"body_base64,omitempty"`
}

// encode writes a delivery as a line. A body that is JSON stands in it as JSON, with its numbers and its order as they came and without its line breaks; any
// other body as base64 under another name, so that nobody has to guess.
func encode(d connectors.Delivery) ([]byte, error) {
	l := line{
		ID: d.Event.ID, Source: d.Event.Source, Type: d.Event.Type, Subject: d.Event.Subject, Time: d.Event.Time.UTC(), Key: d.Event.Key,
		Route: d.Route, IdempotencyKey: d.IdempotencyKey, ContentType: d.ContentType,
	}
	if json.Valid(d.Body) && utf8.Valid(d.Body) {
		l.Body = d.Body
	} else {
		l.BodyBase64 = d.Body
	}
	var b bytes.Buffer
	b.Grow(len(d.Body) + 512)
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return nil, errors.New("the event cannot be written as JSON") // a year beyond 9999
	}
	return b.Bytes(), nil
}

// Check asks whether the file could be written. It makes nothing.
func (t *target) Check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.journal.writable()
}

// Close closes the file once the write in hand is done.
func (t *target) Close() error {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	return t.journal.close()
}

// gone reports whether err says that there is no such file.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) }
