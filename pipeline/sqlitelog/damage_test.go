package sqlitelog_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// files are a database and its write-ahead log as they lie on disk while a hub has them open.
type files struct {
	db, wal []byte
	content map[string]string
}

// written makes files with records in the database and, after those, in the write-ahead log.
func written(t *testing.T) files {
	t.Helper()
	f := files{content: make(map[string]string)}
	dir := t.TempDir()
	add := func(l *sqlitelog.Log, from, to int) {
		for n := from; n < to; n++ {
			m := message.NewMessage(fmt.Sprintf("uuid-%04d", n), fmt.Appendf(nil, "payload %04d.", n))
			if n%7 == 0 {
				m.Payload = bytes.Repeat(m.Payload, 600) // on overflow pages
			}
			f.content[m.UUID] = string(m.Payload)
			publish(t, l, m)
		}
	}
	t.Run("in the database", func(t *testing.T) { add(open(t, dir, sqlitelog.Config{Unique: all}), 0, 200) })
	t.Run("in the write-ahead log", func(t *testing.T) {
		add(open(t, dir, sqlitelog.Config{Unique: all}), 200, 260)
		var err error
		if f.db, err = os.ReadFile(filepath.Join(dir, "tidewire.db")); err != nil {
			t.Fatal(err)
		}
		if f.wal, err = os.ReadFile(filepath.Join(dir, "tidewire.db-wal")); err != nil {
			t.Fatal(err)
		}
	})
	return f
}

// check opens the files and reads everything. Nothing altered may come out. It returns how many records came.
func (f files) check(t *testing.T, what string, mayFail bool) (came int, reported int64) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tidewire.db")
	for name, b := range map[string][]byte{path: f.db, path + "-wal": f.wal} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Logger: quiet})
	if err != nil {
		if !mayFail || !errors.Is(err, sqlite.ErrDamaged) {
			t.Errorf("%s: open: %v", what, err)
		}
		return 0, 1
	}
	defer db.Close()
	var damages atomic.Int64
	l, err := sqlitelog.Open(t.Context(), sqlitelog.Config{DB: db, Logger: quiet, Unique: all, OnDamage: func(string, int64, error) { damages.Add(1) }})
	if err != nil {
		if !mayFail || !errors.Is(err, sqlite.ErrDamaged) {
			t.Errorf("%s: open the log: %v", what, err)
		}
		return 0, 1
	}
	defer l.Close()
	for uuid, payload := range contents(t, l, "check") {
		came++
		if f.content[uuid] != payload {
			t.Errorf("%s: %q came out altered", what, uuid)
		}
	}
	return came, damages.Load() + int64(len(db.Damage()))
}

func flipped(b []byte, at int, bit uint) []byte {
	c := bytes.Clone(b)
	c[at] ^= 1 << bit
	return c
}

func TestFlippedBitsAreNeverDelivered(t *testing.T) {
	t.Parallel()
	f := written(t)
	total := len(f.content)
	if came, reported := f.check(t, "nothing flipped", false); came != total || reported != 0 {
		t.Fatalf("%d of %d records came, %d damages", came, total, reported)
	}
	// Every byte of the last three records that are in the database. (Those in the write-ahead log hide the page they were added to.)
	for n := 190; n < 193; n++ {
		payload := fmt.Appendf(nil, "payload %04d.", n)
		at := bytes.LastIndex(f.db, payload)
		if at < 0 {
			t.Fatal("a record is not where it was expected")
		}
		for i := at - len("uuid-0000") - 12; i < at+len(payload); i++ {
			g := f
			g.db = flipped(f.db, i, rand.UintN(8))
			came, reported := g.check(t, fmt.Sprintf("database byte %d of record %d", i-at, n), false)
			if reported == 0 && came != total {
				t.Errorf("database byte %d of record %d: %d of %d came and nothing was reported", i-at, n, came, total)
			}
		}
	}
	for n := 256; n < 259; n++ {
		payload := fmt.Appendf(nil, "payload %04d.", n)
		at := bytes.LastIndex(f.wal, payload)
		for i := at - len("uuid-0000") - 12; i < at+len(payload); i += 2 {
			g := f
			g.wal = flipped(f.wal, i, rand.UintN(8))
			if came, _ := g.check(t, fmt.Sprintf("write-ahead log byte %d of record %d", i-at, n), false); came < n {
				t.Errorf("write-ahead log byte %d of record %d: only %d records came", i-at, n, came)
			}
		}
	}
	for range 200 {
		g := f
		var what string
		if i := rand.IntN(len(f.db) + len(f.wal)); i < len(f.db) {
			g.db, what = flipped(f.db, i, rand.UintN(8)), fmt.Sprintf("database byte %d", i)
		} else {
			g.wal, what = flipped(f.wal, i-len(f.db), rand.UintN(8)), fmt.Sprintf("write-ahead log byte %d", i-len(f.db))
		}
		g.check(t, what, true)
	}
}

// A cut at any place of the last records is what a crash leaves: everything before it is served.
func TestCutWriteAheadLogServesWhatIsWhole(t *testing.T) {
	t.Parallel()
	f := written(t)
	for cut := 1; cut < 3*4120; cut += 311 {
		g := f
		g.wal = f.wal[:len(f.wal)-cut]
		if came, reported := g.check(t, fmt.Sprintf("%d bytes cut", cut), false); came < len(f.content)-4 || reported != 0 {
			t.Errorf("%d bytes cut: %d of %d records came, %d damages", cut, came, len(f.content), reported)
		}
	}
}
