package torture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// TestTortureCutAtEachByte cuts the write-ahead log of a hub that was killed at each byte of what its last three records wrote. A log that
// ends early is what a crash leaves, so no cut is damage: what was whole before it is served, in order and unaltered, and nothing else. Every byte is
// tried on the file, and a share of them (all, in a full run) through the hub's own log as it opens and reads; TestTortureTruncation does it to the hub.
func TestTortureCutAtEachByte(t *testing.T) {
	t.Parallel()
	c := newCutter(t)
	whole := c.rows(c.size)
	from := c.region(t, len(whole)-3)
	stride := int64(rounds(997, 211, 1))
	seen := map[int]bool{}
	kept, boundary := whole, c.size
	tried, opened := 0, 0
	for at := c.size; at >= from; at-- {
		if at < boundary { // what is whole now ends with the commit before
			boundary = c.before(at)
			kept = c.rows(boundary)
			if len(kept) > len(whole) || !slices.Equal(kept, whole[:len(kept)]) {
				t.Fatalf("cut at the end of a commit, %d: %d records are no prefix of the %d", boundary, len(kept), len(whole))
			}
		}
		seen[len(kept)] = true
		tried++
		if got := c.rows(at); !slices.Equal(got, kept) {
			t.Fatalf("cut at %d of %d: %d records, or altered ones; %d were whole", at, c.size, len(got), len(kept))
		}
		if (c.size-at)%stride == 0 || at-boundary < 2 {
			opened++
			if err := c.open(t, at, kept); err != nil {
				t.Fatalf("cut at %d of %d: %v", at, c.size, err)
			}
		}
	}
	for n := range 4 {
		if !seen[len(whole)-n] {
			t.Errorf("no cut left %d of %d records", len(whole)-n, len(whole))
		}
	}
	tell(t, "write-ahead log cut at each byte of three records", tried, "altered or lost beyond the cut", 0)
	tell(t, "the same, opened as a hub does", opened, "altered or lost beyond the cut", 0)
}

// row is a record as it lies in the file; its hash is of all its columns.
type row struct {
	offset int64
	uuid   string
	hash   [sha256.Size]byte
}

// cutter has the files of a killed hub and cuts a copy of them shorter and shorter.
type cutter struct {
	t        *testing.T
	dir, raw string // the files as the hub left them, and the copy that is cut
	table    string
	wal      []byte
	size     int64   // of what of the write-ahead log counts
	commits  []int64 // where its transactions end
}

func newCutter(t *testing.T) *cutter {
	t.Helper()
	k := keepSome(t, hub, true, 10, 12) // few, so that each opening is quick
	c := &cutter{t: t, dir: k.dir, raw: t.TempDir()}
	var err error
	if c.wal, err = os.ReadFile(filepath.Join(k.dir, "tidewire.db-wal")); err != nil {
		t.Fatal(err)
	}
	// https://sqlite.org/fileformat.html, "WAL File Format": the page size at 8, the salts at 16; a frame is 24 bytes and a page, has the size of the
	// database at 4 when it ends a transaction, and the salts at 8.
	page := int64(binary.BigEndian.Uint32(c.wal[8:]))
	for at := int64(32); at+24+page <= int64(len(c.wal)) && string(c.wal[at+8:at+16]) == string(c.wal[16:24]); at += 24 + page {
		if binary.BigEndian.Uint32(c.wal[at+4:]) != 0 {
			c.commits = append(c.commits, at+24+page)
		}
	}
	if len(c.commits) < 10 {
		t.Fatalf("only %d transactions in the write-ahead log", len(c.commits))
	}
	c.size = c.commits[len(c.commits)-1]
	c.copy(c.raw, c.size)
	c.query("SELECT id FROM log_topics WHERE name = 'events.stripe'", func(s *zsqlite.Stmt) { c.table = "log_records_" + s.ColumnText(0) })
	return c
}

// copy puts the files into dir, with so much of the write-ahead log.
func (c *cutter) copy(dir string, wal int64) {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, "tidewire.db"))
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "tidewire.db"), data, 0o600),
		os.WriteFile(filepath.Join(dir, "tidewire.db-wal"), c.wal[:wal], 0o600)); err != nil {
		c.t.Fatal(err)
	}
}

// query reads the copy without changing it.
func (c *cutter) query(q string, f func(*zsqlite.Stmt)) {
	c.t.Helper()
	conn, err := zsqlite.OpenConn(filepath.Join(c.raw, "tidewire.db"), zsqlite.OpenReadOnly)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.ExecuteTransient(conn, q, &sqlitex.ExecOptions{ResultFunc: func(s *zsqlite.Stmt) error { f(s); return nil }}); err != nil {
		c.t.Fatal(err)
	}
}

// rows cuts the copy at a byte, which must not lie behind the one before, and reads its records.
func (c *cutter) rows(at int64) []row {
	c.t.Helper()
	name := filepath.Join(c.raw, "tidewire.db-wal")
	if info, err := os.Stat(name); err != nil || info.Size() < at {
		c.copy(c.raw, at)
	} else if err := os.Truncate(name, at); err != nil {
		c.t.Fatal(err)
	}
	all := make([]row, 0, 16)
	var h bytes.Buffer
	c.query("SELECT offset, uuid, at, crc, metadata, payload FROM "+c.table+" ORDER BY offset", func(s *zsqlite.Stmt) {
		h.Reset()
		for i := range s.ColumnCount() {
			h.WriteString(strconv.Itoa(s.ColumnLen(i)))
			h.WriteString(s.ColumnText(i))
		}
		all = append(all, row{s.ColumnInt64(0), s.ColumnText(1), sha256.Sum256(h.Bytes())})
	})
	return all
}

// before is where the last transaction ends that a cut leaves whole.
func (c *cutter) before(at int64) int64 {
	for _, end := range slices.Backward(c.commits) {
		if end <= at {
			return end
		}
	}
	return 0
}

// region is where the transaction ends that wrote record n.
func (c *cutter) region(t *testing.T, n int) int64 {
	t.Helper()
	for _, end := range slices.Backward(c.commits) {
		if len(c.rows(end)) <= n {
			return end
		}
	}
	t.Fatal("the last records are not in the write-ahead log")
	return 0
}

// open opens a copy that was cut as a hub does, and reads it through the log.
func (c *cutter) open(t *testing.T, at int64, want []row) (err error) {
	dir, err := os.MkdirTemp(c.raw, "opened-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c.copy(dir, at)
	quiet := slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "tidewire.db"), Logger: quiet})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, d := range db.Damage() {
		if d.Certain {
			return fmt.Errorf("it is taken for damage: %+v", d)
		}
	}
	l, err := sqlitelog.Open(t.Context(), sqlitelog.Config{
		DB: db, Logger: quiet, Unique: pipeline.Unique, Same: pipeline.Same,
		OnDamage: func(topic string, offset int64, err error) { t.Errorf("%s at %d: %v", topic, offset, err) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	got, err := readAll(t.Context(), l, len(want))
	if err != nil {
		return err
	}
	for i, r := range want {
		if got[i] != r.uuid {
			return fmt.Errorf("record %d is %s, want %s", i, got[i], r.uuid)
		}
	}
	return nil
}

// readAll reads the records of the stripe connection to the end, of which there must be n.
func readAll(ctx context.Context, l *sqlitelog.Log, n int) (ids []string, err error) {
	s, err := l.Subscriber(sqlitelog.SubscriberConfig{Group: "reader"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	out, err := s.Subscribe(ctx, "events.stripe")
	if err != nil {
		return nil, err
	}
	patience := time.After(10 * time.Second)
	for len(ids) < n {
		select {
		case m := <-out:
			ids = append(ids, m.UUID)
			m.Ack()
		case <-patience:
			return nil, fmt.Errorf("only %d of %d records came", len(ids), n)
		}
	}
	select {
	case m := <-out:
		m.Ack()
		return nil, fmt.Errorf("%s came after the last", m.UUID)
	default:
	}
	return ids, nil
}
