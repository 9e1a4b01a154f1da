package sqlitelog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"testing"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// A walk gives what is in the file and nothing else, whoever has finished it, and changes no place.
func TestRecordsAreWalked(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{})
	const total = 700 // more than one read takes
	for n := range total {
		publish(t, l, msg(fmt.Sprint("u", n), fmt.Sprint("payload ", n)))
	}
	out, sub := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g"})
	for range 3 {
		receive(t, out).Ack()
	}
	until(t, "three are finished", func() bool { return l.Places(topic)["g"] == 3 })
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Retain(t.Context(), all, time.Now(), []string{"g"}); err != nil {
		t.Fatal(err)
	}
	if first, next, ok := l.Bounds(topic); first != 3 || next != total || !ok {
		t.Errorf("the topic goes from %d to %d, %t", first, next, ok)
	}
	if _, _, ok := l.Bounds("nowhere"); ok {
		t.Error("there is a topic that nobody made")
	}
	for _, c := range []struct {
		from, to, first, last int64
		most                  int
	}{{0, total, 3, total - 1, 1000}, {300, 600, 300, 599, 7}, {690, 9999, 690, total - 1, 300}, {5, 5, 0, -1, 10}} {
		next := c.first
		for b, err := range l.Batches(t.Context(), topic, c.from, c.to, c.most) {
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range b.Messages {
				if string(m.Payload) != fmt.Sprint("payload ", next) || m.UUID != fmt.Sprint("u", next) || m.Metadata.Get("key") != "u" {
					t.Fatalf("from %d: at %d came %+v", c.from, next, m)
				}
				next++
			}
			if b.Next != next || len(b.Messages) > c.most || len(b.Messages) < c.most && next != c.last+1 {
				t.Errorf("from %d: %d records at once, up to %d, next %d", c.from, len(b.Messages), next, b.Next)
			}
		}
		if next != c.last+1 {
			t.Errorf("from %d to %d it ended before %d", c.from, c.to, next)
		}
	}
	for range l.Batches(t.Context(), topic, 0, total, 10) {
		break
	}
	for range l.Batches(t.Context(), "nowhere", 0, total, 10) {
		t.Error("a record of a topic that nobody made")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range l.Batches(ended, topic, 0, total, 10) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
	}
	if places := l.Places(topic); !maps.Equal(places, map[string]int64{"g": 3}) {
		t.Errorf("the places are %v", places)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, err := range l.Batches(t.Context(), topic, 0, total, 10) {
		if !errors.Is(err, sqlitelog.ErrClosed) {
			t.Errorf("of a closed log: %v", err)
		}
	}
}

// What the disk has changed is left out and reported; the offsets around it stay what they are.
func TestAWalkLeavesOutWhatIsDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Run("written", func(t *testing.T) {
		l := open(t, dir, sqlitelog.Config{})
		for n := range 10 {
			publish(t, l, msg(fmt.Sprint("u", n), "payload"))
		}
	})
	t.Run("changed", func(t *testing.T) {
		db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "tidewire.db"), Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		err = db.Write(t.Context(), func(conn *zsqlite.Conn) error {
			return sqlitex.ExecuteTransient(conn, "UPDATE log_records_1 SET payload = 'changed' WHERE offset = 4", nil)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	var damages []int64
	l := open(t, dir, sqlitelog.Config{OnDamage: func(_ string, offset int64, _ error) { damages = append(damages, offset) }})
	var ids []string
	next := int64(0)
	for b, err := range l.Batches(t.Context(), topic, 0, 10, 3) {
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range b.Messages {
			ids = append(ids, m.UUID)
		}
		next = b.Next
	}
	if fmt.Sprint(ids) != "[u0 u1 u2 u3 u5 u6 u7 u8 u9]" || next != 10 || fmt.Sprint(damages) != "[4]" {
		t.Errorf("walked %v up to %d, damaged %v", ids, next, damages)
	}
}
