package sqlitelog

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"sort"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/internal/sqlite"
)

const (
	entrySize = 14 // a hash in six bytes, a ref in eight
	// blockEntries is how many entries a block has on average: what fits into a page, with room for the blocks that chance makes larger.
	blockEntries = 240
	// maxFilters bounds the filters in memory, to 32 MiB: enough for 15 million identities. Blocks beyond are read instead.
	maxFilters = 1 << 16
	// likeSize is how many sets of one size are merged into one of the next.
	likeSize = 4
)

// idSet is one sorted set in log_ids. Set and blocks never change once the set is listed in log_sets.
type idSet struct {
	id, blocks, count int64
	filters           []*filter // by block; nil where it has not been read yet
	held              int       // filters that are not nil
}

func newIDSet(id, blocks, count int64) *idSet {
	return &idSet{id: id, blocks: blocks, count: count, filters: make([]*filter, blocks)}
}

// block is the place in the set of the block that holds a hash.
func (s *idSet) block(hash uint64) int64 { return int64(hash * uint64(s.blocks) >> 48) }

func (s *idSet) number(block int64) int64 { return s.id<<32 | block }

// filter is a Bloom filter of 4096 bits, four for each entry: with 240 entries one stranger in 500 passes.
type filter [64]uint64

func (f *filter) add(hash uint64) {
	x := hash * 0x9e3779b97f4a7c15 // the bits of the hash that chose the block say nothing here
	for range 4 {
		f[x>>58] |= 1 << (x >> 52 & 63)
		x <<= 12
	}
}

func (f *filter) has(hash uint64) bool {
	x := hash * 0x9e3779b97f4a7c15
	for range 4 {
		if f[x>>58]&(1<<(x>>52&63)) == 0 {
			return false
		}
		x <<= 12
	}
	return true
}

// find calls see for each entry with this hash.
func (s *idSet) find(i *ids, conn *zsqlite.Conn, hash uint64, see func(ref)) error {
	block := s.block(hash)
	if f := s.filters[block]; f != nil && !f.has(hash) {
		return nil
	}
	stmt, err := conn.Prepare("SELECT entries FROM log_ids WHERE block = ?")
	if err != nil {
		return err
	}
	stmt.BindInt64(1, s.number(block))
	more, err := stmt.Step()
	if err != nil && !sqlite.IsDamage(err) {
		return err
	}
	var entries []byte
	if more {
		n := stmt.ColumnLen(0)
		i.buf = append(i.buf[:0], make([]byte, n)...)
		stmt.ColumnBytes(0, i.buf)
		if entries, err = openBlock(s.number(block), i.buf); err == nil {
			err = stmt.Reset()
		}
	}
	if err != nil {
		i.l.c.Logger.Error("identities cannot be read; those in it may be stored twice", "error", err)
	}
	if s.filters[block] == nil && i.filters() < maxFilters {
		s.filters[block] = newFilter(entries)
		s.held++
	}
	n := len(entries) / entrySize
	at := sort.Search(n, func(k int) bool { return readHash(entries[k*entrySize:]) >= hash })
	for ; at < n && readHash(entries[at*entrySize:]) == hash; at++ {
		see(ref(binary.BigEndian.Uint64(entries[at*entrySize+6:])))
	}
	return nil
}

// filters is the number of filters in memory.
func (i *ids) filters() (n int) {
	for _, s := range i.sets {
		n += s.held
	}
	return n
}

func newFilter(entries []byte) *filter {
	f := new(filter)
	for k := 0; k < len(entries); k += entrySize {
		f.add(readHash(entries[k:]))
	}
	return f
}

// sealBlock appends the checksum that openBlock checks.
func sealBlock(number int64, b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, blockSum(number, b))
}

func openBlock(number int64, b []byte) ([]byte, error) {
	n := len(b) - 4
	if n < 0 || n%entrySize != 0 || binary.BigEndian.Uint32(b[n:]) != blockSum(number, b[:n]) {
		return nil, errBlock(number)
	}
	return b[:n], nil
}

func blockSum(number int64, b []byte) uint32 {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(number))
	return crc32.Update(crc32.Checksum(n[:], castagnoli), castagnoli, b)
}

// choose says which sets a flush of n entries takes along. Sets come in sizes, each four times the one before; when three of one
// size are there, the fourth that would join them is merged with them, and so on upwards. So each entry is
// written again about once for each size. When more than half of all entries are of records that are gone, everything is merged.
func choose(sets []*idSet, n, live, unit int64) []*idSet {
	total := n
	for _, s := range sets {
		total += s.count
	}
	if total > 2*live+4*unit {
		return sets
	}
	var merged []*idSet
	for {
		var like []*idSet
		for _, s := range sets {
			if tier(s.count, unit) == tier(n, unit) && !contains(merged, s) {
				like = append(like, s)
			}
		}
		if len(like) < likeSize-1 {
			return merged
		}
		for _, s := range like {
			merged = append(merged, s)
			n += s.count
		}
	}
}

func contains(sets []*idSet, s *idSet) bool {
	for _, x := range sets {
		if x == s {
			return true
		}
	}
	return false
}

// tier is the size of a set: 0 for one flush of unit entries, 1 for four of them, 2 for sixteen, …
func tier(n, unit int64) (t int) {
	for n >= likeSize*unit/2 {
		n /= likeSize
		t++
	}
	return t
}

// setWriter writes one new set from what is in memory and older sets.
type setWriter struct {
	i       *ids
	id      int64
	live    live
	room    int // how many filters it may keep in memory
	set     *idSet
	at      int64 // the block being filled
	filling []byte
	filled  []block
}

type block struct {
	number  int64
	entries []byte
}

// writeBlocks is how many blocks one transaction writes: few enough that nobody waits long behind it.
const writeBlocks = 32

// write returns the new set; nil when nothing is left of it.
func (w *setWriter) write(ctx context.Context, memory []entry, merged []*idSet) (*idSet, error) {
	total := int64(len(memory))
	sources := []*source{{buf: memory}}
	for _, s := range merged {
		total += s.count
		sources = append(sources, &source{i: w.i, set: s})
	}
	if total == 0 {
		return nil, nil
	}
	w.set = newIDSet(w.id, total/blockEntries+1, 0)
	for {
		e, ok, err := smallest(ctx, sources)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if e.ref.offset() < w.live.first[e.ref.topic()] {
			continue // retention has removed the record
		}
		if err := w.add(ctx, e); err != nil {
			return nil, err
		}
	}
	w.close()
	return w.set, w.flush(ctx)
}

func (w *setWriter) add(ctx context.Context, e entry) error {
	if b := w.set.block(e.hash); b != w.at {
		w.close()
		w.at = b
		if len(w.filled) >= writeBlocks {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	w.filling = binary.BigEndian.AppendUint64(appendHash(w.filling, e.hash), uint64(e.ref))
	w.set.count++
	return nil
}

// close ends the block being filled.
func (w *setWriter) close() {
	if len(w.filling) == 0 {
		return
	}
	n := w.set.number(w.at)
	if w.set.held < w.room {
		w.set.filters[w.at] = newFilter(w.filling)
		w.set.held++
	}
	w.filled = append(w.filled, block{n, sealBlock(n, w.filling)})
	w.filling = make([]byte, 0, (blockEntries+60)*entrySize)
}

func (w *setWriter) flush(ctx context.Context) error {
	err := w.i.l.db.Write(ctx, func(conn *zsqlite.Conn) error {
		stmt, err := conn.Prepare("INSERT OR REPLACE INTO log_ids (block, entries) VALUES (?, ?)")
		if err != nil {
			return err
		}
		for _, b := range w.filled {
			stmt.BindInt64(1, b.number)
			stmt.BindBytes(2, b.entries)
			if _, err := stmt.Step(); err != nil {
				return err
			}
			if err := stmt.Reset(); err != nil {
				return err
			}
		}
		return nil
	})
	w.filled = w.filled[:0]
	return err
}

// source yields the entries of a set, or of memory, in order.
type source struct {
	i    *ids
	set  *idSet // nil: memory
	next int64  // the next block to read
	buf  []entry
}

// smallest takes the entry with the smallest hash off its source. Few sources: looking at each is the fastest.
func smallest(ctx context.Context, sources []*source) (e entry, ok bool, err error) {
	var best *source
	for _, s := range sources {
		if len(s.buf) == 0 && s.set != nil && s.next < s.set.blocks {
			if err := s.read(ctx); err != nil {
				return entry{}, false, err
			}
		}
		if len(s.buf) > 0 && (best == nil || s.buf[0].hash < best.buf[0].hash) {
			best = s
		}
	}
	if best == nil {
		return entry{}, false, nil
	}
	e, best.buf = best.buf[0], best.buf[1:]
	return e, true, nil
}

// read reads blocks until there is an entry or no block is left. A damaged one is left out and reported.
func (s *source) read(ctx context.Context) error {
	const atOnce = 64
	for len(s.buf) == 0 && s.next < s.set.blocks {
		from, to := s.set.number(s.next), s.set.number(min(s.next+atOnce, s.set.blocks))
		s.next += atOnce
		var found []entry
		err := s.i.l.db.Read(ctx, func(conn *zsqlite.Conn) error {
			stmt, err := conn.Prepare("SELECT block, entries FROM log_ids WHERE block >= ? AND block < ? ORDER BY block")
			if err != nil {
				return err
			}
			stmt.BindInt64(1, from)
			stmt.BindInt64(2, to)
			for {
				more, err := stmt.Step()
				if err != nil || !more {
					return err
				}
				b := make([]byte, stmt.ColumnLen(1))
				stmt.ColumnBytes(1, b)
				entries, err := openBlock(stmt.ColumnInt64(0), b)
				if err != nil {
					s.i.l.c.Logger.Error("identities are left out; those in it may be stored twice", "error", err)
					continue
				}
				for k := 0; k < len(entries); k += entrySize {
					found = append(found, entry{readHash(entries[k:]), ref(binary.BigEndian.Uint64(entries[k+6:]))})
				}
			}
		})
		if err != nil && !sqlite.IsDamage(err) {
			return err
		}
		s.buf = found
	}
	return nil
}
