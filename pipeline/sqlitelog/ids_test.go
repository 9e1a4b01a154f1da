package sqlitelog_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// So many identities that sets are written, merged and read again, over several starts: every one is still known, and none is taken for
// another.
func TestIdentitiesAreKnownThroughFlushesMergesAndRestarts(t *testing.T) {
	t.Parallel()
	const perRound, rounds = 3000, 4
	dir := t.TempDir()
	var duplicates atomic.Int64
	config := sqlitelog.Recent(sqlitelog.Config{Unique: all, OnDuplicate: func(string, string) { duplicates.Add(1) }}, 200)
	identity := func(n int) *message.Message {
		return message.NewMessage(fmt.Sprintf("evt_%d", n), fmt.Append(nil, n))
	}
	for round := range rounds {
		t.Run("", func(t *testing.T) {
			l := open(t, dir, config)
			each := func(from, to int, publish func(n int) error) {
				var wg sync.WaitGroup
				for w := range 8 {
					wg.Go(func() {
						for n := from + w; n < to; n += 8 {
							if err := publish(n); err != nil {
								t.Error(err)
							}
						}
					})
				}
				wg.Wait()
			}
			known := round * perRound
			each(known, known+perRound, func(n int) error { return l.Publish(topic, identity(n)) })
			duplicates.Store(0)
			each(0, known+perRound, func(n int) error { return l.Publish(topic, identity(n)) })
			until(t, "duplicates", func() bool { return duplicates.Load() >= int64(known+perRound) })
			each(0, known+perRound, func(n int) error {
				m := identity(n)
				m.Payload = []byte("other")
				if err := l.Publish(topic, m); !isConflict(err) {
					return fmt.Errorf("identity %d with another payload: %w", n, err)
				}
				return nil
			})
			if n := lag(t, l, "nobody"); n != int64(known+perRound) {
				t.Errorf("%d records, want %d", n, known+perRound)
			}
			until(t, "a flush", func() bool {
				sets, memory := l.Sets()
				return sets > 0 && memory < 400
			})
			if sets, _ := l.Sets(); sets > 12 {
				t.Errorf("%d sets: they are not merged", sets)
			}
		})
	}
}

func TestIdentitiesOfRemovedRecordsAreForgotten(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Recent(sqlitelog.Config{Unique: all}, 100))
	for round := range 30 {
		var ms []*message.Message
		for n := range 100 {
			ms = append(ms, message.NewMessage(fmt.Sprintf("%d-%d", round, n), nil))
		}
		publish(t, l, ms...)
		if _, _, err := l.Retain(t.Context(), nil, time.Now().Add(time.Hour), nil); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "few entries", func() bool { return l.Entries() <= 600 })
	publish(t, l, message.NewMessage("3-4", []byte("new again")))
}

func TestIdentitiesAreKnownWhileTheyAreFlushed(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), sqlitelog.Config{Unique: all})
	publish(t, l, msg("a", "1"))
	l.Hold()
	if err := l.Publish(topic, msg("a", "2")); !isConflict(err) {
		t.Errorf("got %v, want a conflict", err)
	}
}
