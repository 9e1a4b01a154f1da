package sqlite_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidewire/tidewire/internal/sqlite"
)

// A write-ahead log of several transactions, copied while the file is open.
func copied(t *testing.T) (db, wal []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	d := open(t, sqlite.Options{Path: path})
	for i := range 10 {
		if err := d.Write(t.Context(), insert(i, make([]byte, 3000))); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if db, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if wal, err = os.ReadFile(path + "-wal"); err != nil {
		t.Fatal(err)
	}
	return db, wal
}

func damageOf(t *testing.T, db, wal []byte) []sqlite.Damage {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, db, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"-wal", wal, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return d.Damage()
}

func TestDamageInTheWriteAheadLogIsTold(t *testing.T) {
	t.Parallel()
	db, wal := copied(t)
	const header, frame = 32, 24 + 4096
	frames := (len(wal) - header) / frame
	alter := func(at int) []byte {
		c := bytes.Clone(wal)
		c[at] ^= 0x10
		return c
	}
	stale := bytes.Clone(wal) // the last frame belongs to an older generation
	for i := range 8 {
		stale[header+(frames-1)*frame+8+i] ^= 0xff
	}
	for _, c := range []struct {
		name    string
		wal     []byte
		damages int
		certain bool
		offset  int64
	}{
		{"whole", wal, 0, false, 0},
		{"empty", nil, 0, false, 0},
		{"cut inside the header", wal[:20], 0, false, 0},
		{"cut between frames", wal[:header+3*frame], 0, false, 0},
		{"cut inside a frame", wal[:header+3*frame+100], 0, false, 0},
		{"older frames behind the end", stale, 0, false, 0},
		{"last frame altered", alter(header + (frames-1)*frame + 200), 0, false, 0},
		{"page altered", alter(header + 2*frame + 1000), 1, true, header + 2*frame},
		{"page number altered", alter(header + 1*frame), 1, true, header + 1*frame},
		{"salt altered", alter(header + 2*frame + 9), 1, true, header + 2*frame},
		{"checksum altered", alter(header + 2*frame + 17), 1, true, header + 2*frame},
		{"header altered", alter(17), 1, true, 0},
	} {
		got := damageOf(t, db, c.wal)
		if len(got) != c.damages {
			t.Errorf("%s: %d damages, want %d: %+v", c.name, len(got), c.damages, got)
			continue
		}
		if c.damages > 0 && (got[0].Certain != c.certain || got[0].Offset != c.offset) {
			t.Errorf("%s: %+v, want certain %v at %d", c.name, got[0], c.certain, c.offset)
		}
	}
}

func FuzzOpenWithAnyWriteAheadLog(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x37\x7f\x06\x82\x00\x2d\xe2\x18\x00\x00\x10\x00"))
	f.Fuzz(func(t *testing.T, wal []byte) {
		damageOf(t, nil, wal)
	})
}
