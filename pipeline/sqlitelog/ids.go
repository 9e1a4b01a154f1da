package sqlitelog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/sqlite"
)

// ids knows where in the log each identity of a unique topic is.
//
// A B-tree over random hashes would dirty one page for each event, which costs more than the event itself. So new hashes
// are gathered in memory (and, six bytes each, in log_appends, from which they come back after a start) and written now
// and then as one sorted set that never changes. Sets of like size are merged, so there are few. A set is cut
// into blocks, each with a filter in memory that says "surely not here" for all but one in some hundred strangers: an
// event nobody has seen before costs a few memory accesses and no read.
//
// It is exact: a hash only says where to look, the record there is compared.
type ids struct {
	l      *Log
	secret []byte
	full   chan struct{} // asks for a flush

	mu       sync.Mutex // held by the appender for one transaction, by the flusher to exchange what follows
	recent   hashes
	flushing hashes // being written; nil when nothing is
	sets     []*idSet
	rows     int   // of log_appends since the last flush
	seq      int64 // the last row of log_appends that recent has
	buf      []byte
}

// recentHashes bounds what is in memory before it is flushed, and the rows of log_appends, which a start has to read.
const recentHashes = 1 << 16

// hashes maps a 48-bit hash to where it is. Two identities with one hash are so rare that the second costs a slice.
type hashes struct {
	one  map[uint64]ref
	more map[uint64][]ref
}

func newHashes() hashes { return hashes{one: make(map[uint64]ref)} }

func (h *hashes) put(hash uint64, r ref) {
	if _, taken := h.one[hash]; !taken {
		h.one[hash] = r
		return
	}
	if h.more == nil {
		h.more = make(map[uint64][]ref)
	}
	h.more[hash] = append(h.more[hash], r)
}

func (h *hashes) size() int { return len(h.one) + len(h.more) }

// sorted returns all, in order of their hashes.
func (h *hashes) sorted() []entry {
	all := make([]entry, 0, h.size())
	for hash, r := range h.one {
		all = append(all, entry{hash, r})
	}
	for hash, rs := range h.more {
		for _, r := range rs {
			all = append(all, entry{hash, r})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.hash, b.hash) })
	return all
}

// ref is a topic's number in 16 bits and an offset in 48: at 10,000 records a second that is enough for 890 years.
type ref uint64

func newRef(topic, offset int64) ref { return ref(topic)<<48 | ref(offset) }
func (r ref) topic() int64           { return int64(r >> 48) }
func (r ref) offset() int64          { return int64(r & (1<<48 - 1)) }

type entry struct {
	hash uint64
	ref  ref
}

func newIDs(l *Log) *ids {
	return &ids{l: l, full: make(chan struct{}, 1), recent: newHashes()}
}

// hash is the first 48 bits of SHA-256 over the secret, the topic and the UUID.
func (i *ids) hash(t *topic, uuid string) uint64 {
	var room [512]byte
	b := append(room[:0], i.secret...)
	b = append(b, t.name...)
	b = append(b, 0)
	b = append(b, uuid...)
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:]) >> 16
}

// encode appends what log_appends keeps of an extent.
func (i *ids) encode(b []byte, x *extent) []byte {
	if x.t.unique {
		for _, d := range x.drafts {
			b = appendHash(b, d.hash)
		}
	}
	return binary.BigEndian.AppendUint32(b, appendsSum(x.t.id, x.drafts[0].offset, int64(len(x.drafts)), b))
}

func appendsSum(topic, first, count int64, hashes []byte) uint32 {
	var b [24]byte
	binary.BigEndian.PutUint64(b[0:], uint64(topic))
	binary.BigEndian.PutUint64(b[8:], uint64(first))
	binary.BigEndian.PutUint64(b[16:], uint64(count))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, hashes)
}

func appendHash(b []byte, hash uint64) []byte {
	return append(b, byte(hash>>40), byte(hash>>32), byte(hash>>24), byte(hash>>16), byte(hash>>8), byte(hash))
}

func readHash(b []byte) uint64 {
	return uint64(b[0])<<40 | uint64(b[1])<<32 | uint64(b[2])<<24 | uint64(b[3])<<16 | uint64(b[4])<<8 | uint64(b[5])
}

// load reads the secret, the list of sets and what was appended since the last flush; it also moves each topic's next offset on.
func (i *ids) load(conn *zsqlite.Conn, topics map[int64]*topic) error {
	err := sqlitex.ExecuteTransient(conn, "SELECT secret FROM log_secret", &sqlitex.ExecOptions{
		ResultFunc: func(s *zsqlite.Stmt) error {
			i.secret = make([]byte, s.ColumnLen(0))
			s.ColumnBytes(0, i.secret)
			return nil
		},
	})
	if err != nil {
		return err
	}
	err = sqlitex.ExecuteTransient(conn, "SELECT id, blocks, count FROM log_sets ORDER BY id", &sqlitex.ExecOptions{
		ResultFunc: func(s *zsqlite.Stmt) error {
			i.sets = append(i.sets, newIDSet(s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2)))
			return nil
		},
	})
	if err != nil {
		return err
	}
	err = sqlitex.ExecuteTransient(conn, "SELECT seq, topic, first, count, hashes FROM log_appends ORDER BY seq", &sqlitex.ExecOptions{
		ResultFunc: func(s *zsqlite.Stmt) error {
			i.rows++
			i.seq = s.ColumnInt64(0)
			t, first, count := topics[s.ColumnInt64(1)], s.ColumnInt64(2), s.ColumnInt64(3)
			n := s.ColumnLen(4)
			i.buf = slices.Grow(i.buf[:0], n)[:n]
			s.ColumnBytes(4, i.buf)
			if t == nil || n < 4 || binary.BigEndian.Uint32(i.buf[n-4:]) != appendsSum(t.id, first, count, i.buf[:n-4]) ||
				(t.unique && int64(n-4) != 6*count) {
				i.l.c.Logger.Error("a row of log_appends is not as it was written; what it lists may be stored twice", "seq", i.seq)
				return nil
			}
			t.next = max(t.next, first+count)
			if t.unique {
				for k := range count {
					i.recent.put(readHash(i.buf[6*k:]), newRef(t.id, first+k))
				}
			}
			return nil
		},
	})
	if sqlite.IsDamage(err) {
		i.l.c.Logger.Error("log_appends cannot be read to its end; what it lists may be stored twice", "error", err)
		return nil
	}
	return err
}

// lookup is the index during one transaction of the appender.
type lookup struct {
	i    *ids
	conn *zsqlite.Conn
}

func (i *ids) open(conn *zsqlite.Conn) lookup {
	i.mu.Lock()
	return lookup{i, conn}
}

func (k lookup) close() { k.i.mu.Unlock() }

// find returns the offsets at which a record with this hash may be.
func (k lookup) find(t *topic, hash uint64) (offsets []int64, err error) {
	see := func(r ref) {
		if r.topic() == t.id {
			offsets = append(offsets, r.offset())
		}
	}
	for _, h := range [...]*hashes{&k.i.recent, &k.i.flushing} {
		if r, ok := h.one[hash]; ok {
			see(r)
			for _, r := range h.more[hash] {
				see(r)
			}
		}
	}
	for _, s := range slices.Backward(k.i.sets) {
		if err := s.find(k.i, k.conn, hash, see); err != nil {
			return nil, err
		}
	}
	return offsets, nil
}

// add takes in what has become durable.
func (i *ids) add(extents []*extent, seq int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, x := range extents {
		if len(x.drafts) == 0 {
			continue
		}
		i.rows++
		i.seq = seq
		if !x.t.unique {
			continue
		}
		for _, d := range x.drafts {
			i.recent.put(d.hash, newRef(x.t.id, d.offset))
		}
	}
	if i.flushing.one == nil && i.isFull() {
		i.ask()
	}
}

func (i *ids) isFull() bool { return i.recent.size() >= i.l.c.recent || i.rows >= i.l.c.recent }

func (i *ids) ask() {
	select {
	case i.full <- struct{}{}:
	default:
	}
}

// run flushes whenever enough has gathered, until the log closes.
func (i *ids) run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	i.l.work.Go(func() {
		select {
		case <-i.l.quit:
			cancel() // a flush that is cut short is thrown away and made again
		case <-stop:
		}
	})
	if err := i.sweep(ctx); err != nil && ctx.Err() == nil {
		i.l.c.Logger.Warn("what an interrupted flush left could not be removed", "error", err)
	}
	i.mu.Lock()
	if i.isFull() {
		i.ask()
	}
	i.mu.Unlock()
	for {
		select {
		case <-i.l.quit:
			return
		case <-i.full:
		}
		if err := i.flush(ctx); err != nil && ctx.Err() == nil {
			i.l.c.Logger.Warn("identities could not be flushed and stay in memory", "error", err)
		}
	}
}

// flush writes what is in memory as a set, together with sets of like size.
func (i *ids) flush(ctx context.Context) error {
	i.mu.Lock()
	if i.flushing.one == nil {
		i.flushing, i.recent = i.recent, newHashes()
		i.rows = 0
	} // else the last flush failed and is made again; what came since waits for the next
	upTo, sets := i.seq, slices.Clone(i.sets)
	if i.rows > 0 {
		upTo = 0 // what came since must not be forgotten
	}
	i.mu.Unlock()

	memory := i.flushing.sorted()
	live := i.live()
	var merged []*idSet
	if len(memory) > 0 {
		merged = choose(sets, int64(len(memory)), live.count, int64(i.l.c.recent))
	}
	next := int64(1)
	for _, s := range sets {
		next = max(next, s.id+1)
	}
	w := &setWriter{i: i, id: next, live: live, room: maxFilters}
	for _, s := range sets {
		if !slices.Contains(merged, s) {
			w.room -= s.held
		}
	}
	set, err := w.write(ctx, memory, merged)
	if err != nil {
		return err
	}
	if err := i.exchange(ctx, set, merged, live, upTo); err != nil {
		return err
	}
	i.mu.Lock()
	i.sets = slices.DeleteFunc(i.sets, func(s *idSet) bool { return slices.Contains(merged, s) })
	if set != nil {
		i.sets = append(i.sets, set)
	}
	i.flushing = hashes{}
	if i.isFull() {
		i.ask()
	}
	i.mu.Unlock()
	return errors.Join(i.forget(ctx, upTo), i.sweep(ctx))
}

// exchange makes the new set count instead of the merged ones and of log_appends up to a row.
func (i *ids) exchange(ctx context.Context, set *idSet, merged []*idSet, live live, upTo int64) error {
	return i.l.db.Write(ctx, func(conn *zsqlite.Conn) error {
		for _, s := range merged {
			if err := sqlitex.Execute(conn, "DELETE FROM log_sets WHERE id = ?", &sqlitex.ExecOptions{Args: []any{s.id}}); err != nil {
				return err
			}
		}
		if set != nil {
			if err := sqlitex.Execute(conn, "INSERT INTO log_sets (id, blocks, count) VALUES (?, ?, ?)",
				&sqlitex.ExecOptions{Args: []any{set.id, set.blocks, set.count}}); err != nil {
				return err
			}
		}
		if upTo == 0 {
			return nil
		}
		for id, next := range live.next {
			if err := sqlitex.Execute(conn, "UPDATE log_topics SET next = max(next, ?) WHERE id = ?",
				&sqlitex.ExecOptions{Args: []any{next, id}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// forget removes the rows of log_appends that are no longer needed, a few at a time. It leaves the last, so that numbers are
// not given out twice.
func (i *ids) forget(ctx context.Context, upTo int64) error {
	return i.few(ctx, "DELETE FROM log_appends WHERE seq IN (SELECT seq FROM log_appends WHERE seq >= ? AND seq < ? LIMIT 500)", 0, upTo)
}

// sweep removes blocks that belong to no set.
func (i *ids) sweep(ctx context.Context) error {
	i.mu.Lock()
	from := int64(0)
	var gaps [][2]int64
	for _, s := range slices.SortedFunc(slices.Values(i.sets), func(a, b *idSet) int { return cmp.Compare(a.id, b.id) }) {
		gaps = append(gaps, [2]int64{from << 32, s.id << 32})
		from = s.id + 1
	}
	gaps = append(gaps, [2]int64{from << 32, 1<<63 - 1})
	i.mu.Unlock()
	for _, g := range gaps {
		if err := i.few(ctx, "DELETE FROM log_ids WHERE block IN (SELECT block FROM log_ids WHERE block >= ? AND block < ? LIMIT 100)", g[0], g[1]); err != nil {
			return err
		}
	}
	return nil
}

// few runs a deletion between two keys until it finds nothing more, each time in a transaction of its own.
func (i *ids) few(ctx context.Context, query string, from, to int64) error {
	for {
		var n int
		err := i.l.db.Write(ctx, func(conn *zsqlite.Conn) error {
			err := sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: []any{from, to}})
			n = conn.Changes()
			return err
		})
		if err != nil || n == 0 {
			return err
		}
	}
}

// live says which records there are.
type live struct {
	first, next map[int64]int64 // by topic
	count       int64           // of records in unique topics
}

func (i *ids) live() live {
	i.l.mu.RLock()
	defer i.l.mu.RUnlock()
	v := live{first: make(map[int64]int64), next: make(map[int64]int64)}
	for _, t := range i.l.topics {
		v.first[t.id], v.next[t.id] = t.end()
		if t.unique {
			v.count += v.next[t.id] - v.first[t.id]
		}
	}
	return v
}

// errBlock says that a block is not as it was written.
func errBlock(number int64) error {
	return fmt.Errorf("block %d of the identities is %w", number, sqlite.ErrDamaged)
}
