package sqlitelog

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	zsqlite "zombiezen.com/go/sqlite"
)

// Bounds of what one transaction appends.
const (
	batchRecords = 512
	batchBytes   = 4 << 20
)

// conflictError says that a UUID is stored with another payload.
type conflictError struct{ topic, uuid string }

func (e *conflictError) Error() string {
	return fmt.Sprintf("append to %s: %q is stored with another payload", e.topic, e.uuid)
}

// Conflict marks the error for those who do not know its type.
func (e *conflictError) Conflict() bool { return true }

// refusedError says that a message will never be stored.
type refusedError struct {
	topic      string
	size, most int
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("append to %s: the message has %d bytes, more than %d", e.topic, e.size, e.most)
}

// Refused marks the error for those who do not know its type.
func (e *refusedError) Refused() bool { return true }

// The states of a publication.
const (
	waiting int32 = iota
	taken
	withdrawn
)

// publication is one call of Publish on its way through the appender.
type publication struct {
	topic  *topic
	drafts []draft
	size   int
	state  atomic.Int32
	err    error
	done   chan struct{} // closed when err is final
}

// Publish appends the messages to the topic, all or none, in one transaction that other callers' messages share. It returns nil only when they
// are on disk. The messages' contexts bound the waiting for the writer; once taken the result is
// awaited. The log keeps metadata and payloads: they must not be changed afterwards.
//
// In a topic whose UUIDs are unique, a message whose UUID is known with the same payload counts as stored and is not stored again;
// with another payload nothing is stored and the error has a method Conflict() bool that returns true. A message that is too large is
// refused before it can hold up others, with an error that has Refused() bool. Any other error leaves unknown
// whether the messages are stored.
func (l *Log) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	ctx, release := bound(messages)
	defer release()
	t, err := l.topic(ctx, topic)
	if err != nil {
		return fmt.Errorf("append to %s: %w", topic, err)
	}
	p := &publication{topic: t, drafts: make([]draft, len(messages)), done: make(chan struct{})}
	for i, m := range messages {
		p.drafts[i] = newDraft(t, m)
		size := p.drafts[i].size()
		if size > l.c.MaxRecord {
			return &refusedError{topic, size, l.c.MaxRecord}
		}
		p.size += size
		if t.unique {
			p.drafts[i].hash = l.ids.hash(t, m.UUID)
		}
	}
	return l.publish(ctx, p)
}

func (l *Log) publish(ctx context.Context, p *publication) error {
	// A call that is larger than the whole queue may go when it is alone there.
	weight := int64(min(p.size, l.c.QueueBytes))
	if err := l.bytes.Acquire(ctx, weight); err != nil {
		return fmt.Errorf("append to %s: waiting for the writer: %w", p.topic.name, err)
	}
	defer l.bytes.Release(weight)
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return fmt.Errorf("append to %s: %w", p.topic.name, ErrClosed)
	}
	l.entering.Add(1)
	l.mu.RUnlock()
	select {
	case l.queue <- p:
		l.entering.Done()
	case <-ctx.Done():
		l.entering.Done()
		return fmt.Errorf("append to %s: waiting for the writer: %w", p.topic.name, ctx.Err())
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
	}
	if p.state.CompareAndSwap(waiting, withdrawn) {
		return fmt.Errorf("append to %s: waiting for the writer: %w", p.topic.name, ctx.Err())
	}
	<-p.done
	return p.err
}

// bound returns a context that ends with the first of the messages' contexts.
func bound(messages []*message.Message) (context.Context, func()) {
	ctx := messages[0].Context()
	var stops []func() bool
	cancel := context.CancelFunc(func() {})
	for _, m := range messages[1:] {
		other := m.Context()
		if other == messages[0].Context() || other.Done() == nil {
			continue
		}
		if stops == nil {
			ctx, cancel = context.WithCancel(ctx)
		}
		stops = append(stops, context.AfterFunc(other, cancel))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// append is the appender: the only goroutine that gives out offsets, until the queue is closed and empty.
func (l *Log) append() {
	a := &appender{l: l, latest: make(map[uint64]*draft)}
	for p := range l.queue {
		a.begin(p)
		err := l.db.Write(context.Background(), a.run)
		a.answer(err)
		if err == nil {
			a.show()
		}
	}
}

// appender holds one transaction's publications. Their number is settled when the transaction begins, so that whatever
// came while the one before was syncing shares it.
type appender struct {
	l       *Log
	ps      []*publication
	size    int
	records int
	sealed  bool

	// What the latest run of the transaction came to.
	topics []*extent         // one for each topic in it
	latest map[uint64]*draft // identities in this transaction
	blob   []byte
	seq    int64 // of the last row of log_appends
}

// extent is the part of a transaction that belongs to one topic.
type extent struct {
	t      *topic
	drafts []*draft
}

func (a *appender) begin(p *publication) {
	clear(a.ps)
	a.ps, a.size, a.records, a.sealed = a.ps[:0], 0, 0, false
	a.topics = a.topics[:0]
	a.take(p)
}

func (a *appender) take(p *publication) {
	if !p.state.CompareAndSwap(waiting, taken) {
		close(p.done) // withdrawn: nobody waits
		return
	}
	a.ps = append(a.ps, p)
	a.size += p.size
	a.records += len(p.drafts)
}

// run is the job. It may run more than once.
func (a *appender) run(conn *zsqlite.Conn) error {
	for !a.sealed && a.records < batchRecords && a.size < batchBytes {
		select {
		case p, open := <-a.l.queue:
			if open {
				a.take(p)
			}
			a.sealed = !open
		default:
			a.sealed = true
		}
	}
	a.sealed = true
	a.topics = a.topics[:0]
	clear(a.latest)
	known := a.l.ids.open(conn)
	defer known.close()
	for _, p := range a.ps {
		p.err = nil
		if p.topic.unique {
			if err := a.compare(conn, known, p); err != nil {
				return err
			}
		}
		if p.err != nil {
			continue
		}
		if err := a.store(conn, p); err != nil {
			return err
		}
	}
	return a.book(conn)
}

// compare finds which drafts of p are stored already, and sets p.err when one is stored with another payload. An error
// returned is the transaction's.
func (a *appender) compare(conn *zsqlite.Conn, known lookup, p *publication) error {
	t := p.topic
	for i := range p.drafts {
		d := &p.drafts[i]
		d.known, d.same = false, nil
		if d.msg.UUID == "" {
			continue
		}
		stored, err := a.find(conn, known, t, d)
		if err != nil {
			return err
		}
		if stored == nil {
			d.topic, d.same = t, a.latest[d.hash]
			a.latest[d.hash] = d
			continue
		}
		if a.l.c.Same(stored, d.msg) {
			d.known = true
			continue
		}
		p.err = &conflictError{t.name, d.msg.UUID}
		for j := i - 1; j >= 0; j-- {
			// None of this call is stored, so nobody may be told it is.
			if e := &p.drafts[j]; a.latest[e.hash] == e {
				a.latest[e.hash] = e.same
			}
		}
		return nil
	}
	return nil
}

// find returns the message that is stored, or about to be in this transaction, under the draft's UUID; nil when there is none.
func (a *appender) find(conn *zsqlite.Conn, known lookup, t *topic, d *draft) (*message.Message, error) {
	for e := a.latest[d.hash]; e != nil; e = e.same {
		if e.topic == t && e.msg.UUID == d.msg.UUID {
			return e.msg, nil
		}
	}
	offsets, err := known.find(t, d.hash)
	if err != nil {
		return nil, err
	}
	for _, offset := range offsets {
		r, err := t.pointOn(conn, offset)
		if err == nil && r != nil && r.msg.UUID == d.msg.UUID {
			return r.msg, nil
		}
		// A record that retention has removed, or that cannot be read, is no reason to refuse its like.
	}
	return nil, nil
}

// store inserts the drafts of p that are not known.
func (a *appender) store(conn *zsqlite.Conn, p *publication) error {
	x := a.extent(p.topic)
	stmt, err := conn.Prepare(p.topic.insert)
	if err != nil {
		return err
	}
	now := max(time.Now().UnixNano(), p.topic.lastAt) // never back, so that age can be searched for by offset
	for i := range p.drafts {
		d := &p.drafts[i]
		if d.known {
			continue
		}
		d.offset, d.at = p.topic.next+int64(len(x.drafts)), now
		stmt.BindInt64(1, d.offset)
		stmt.BindInt64(2, d.at)
		stmt.BindInt64(3, int64(placeSum(d.crc, d.offset, d.at)))
		stmt.BindText(4, d.msg.UUID)
		stmt.BindBytes(5, d.metadata)
		stmt.BindBytes(6, d.msg.Payload)
		if _, err := stmt.Step(); err != nil {
			return err
		}
		if err := stmt.Reset(); err != nil {
			return err
		}
		x.drafts = append(x.drafts, d)
	}
	return stmt.ClearBindings() // lets the last payload's copy go
}

// extent returns the transaction's part for t. There are few topics in one transaction.
func (a *appender) extent(t *topic) *extent {
	for _, x := range a.topics {
		if x.t == t {
			return x
		}
	}
	x := &extent{t: t}
	a.topics = append(a.topics, x)
	return x
}

// book notes for each topic what was appended, from which the end and the identities are known again at the next start.
func (a *appender) book(conn *zsqlite.Conn) error {
	for _, x := range a.topics {
		if len(x.drafts) == 0 {
			continue
		}
		a.blob = a.l.ids.encode(a.blob[:0], x)
		stmt, err := conn.Prepare("INSERT INTO log_appends (topic, first, count, hashes) VALUES (?, ?, ?, ?)")
		if err != nil {
			return err
		}
		stmt.BindInt64(1, x.t.id)
		stmt.BindInt64(2, x.drafts[0].offset)
		stmt.BindInt64(3, int64(len(x.drafts)))
		stmt.BindBytes(4, a.blob)
		if _, err := stmt.Step(); err != nil {
			return err
		}
		a.seq = conn.LastInsertRowID()
	}
	return nil
}

// answer tells every publisher.
func (a *appender) answer(err error) {
	for _, p := range a.ps {
		if err != nil {
			p.err = fmt.Errorf("append to %s: %w", p.topic.name, err)
		}
		close(p.done)
	}
}

// show makes what is durable now known to the index of identities and to the readers.
func (a *appender) show() {
	a.l.ids.add(a.topics, a.seq)
	for _, x := range a.topics {
		if len(x.drafts) > 0 {
			x.t.lastAt = x.drafts[len(x.drafts)-1].at
			x.t.extend(a.l, x.drafts)
		}
	}
	for _, p := range a.ps {
		for i := range p.drafts {
			if d := &p.drafts[i]; d.known && p.err == nil {
				a.l.c.OnDuplicate(p.topic.name, d.msg.UUID)
			}
		}
	}
}
