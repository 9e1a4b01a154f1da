package sqlitelog_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// childVar makes the test binary a process that publishes until it is killed; its value is the directory and a prefix of its UUIDs.
const childVar = "TIDEWIRE_LOG_CHILD"

func child() {
	dir, prefix, _ := strings.Cut(os.Getenv(childVar), "|")
	db, err := sqlite.Open(context.Background(), sqlite.Options{Path: filepath.Join(dir, "tidewire.db"), Logger: quiet})
	if err != nil {
		panic(err)
	}
	l, err := sqlitelog.Open(context.Background(), sqlitelog.Recent(sqlitelog.Config{DB: db, Logger: quiet, Unique: all}, 100))
	if err != nil {
		panic(err)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				uuid := fmt.Sprintf("%s-%d-%d", prefix, w, n)
				if err := l.Publish(topic, message.NewMessage(uuid, []byte("payload of "+uuid))); err != nil {
					panic(err)
				}
				if _, err := os.Stdout.WriteString(uuid + ".\n"); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// Killed again and again while it publishes: what was answered is there, once, as it was published.
func TestKillLosesNothingThatWasAnswered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	answered := make(map[string]bool)
	for round := range 8 {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, os.Args[0]) // cancelling kills
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d", childVar, dir, round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if n == 150+round*77 {
				cancel()
			}
			if uuid, whole := strings.CutSuffix(lines.Text(), "."); whole { // the last line may be cut
				answered[uuid] = true
			}
		}
		cancel()
		if err := cmd.Wait(); err == nil {
			t.Fatal("the process ended by itself")
		}
		t.Run("", func(t *testing.T) {
			began := time.Now()
			l := open(t, dir, sqlitelog.Config{Unique: all})
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("opening took %v", took)
			}
			seen := make(map[string]bool)
			for uuid, payload := range contents(t, l, fmt.Sprint("check", round)) {
				if payload != "payload of "+uuid || seen[uuid] {
					t.Errorf("%q was stored twice or altered", uuid)
				}
				seen[uuid] = true
			}
			asked := 0
			for uuid := range answered {
				if !seen[uuid] {
					t.Errorf("%s was answered and is lost", uuid)
				}
				if asked++; asked > 200 {
					continue
				}
				// What was stored is known, whatever stage its index entry was in.
				if err := l.Publish(topic, message.NewMessage(uuid, []byte("other"))); !isConflict(err) {
					t.Fatalf("%s is no longer known: %v", uuid, err)
				}
			}
		})
	}
	if len(answered) < 1000 {
		t.Errorf("only %d were answered", len(answered))
	}
}

// contents returns UUID and payload of everything the log hands out to a new group.
func contents(t testing.TB, l *sqlitelog.Log, group string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	out, s := subscribe(t, l, sqlitelog.SubscriberConfig{Group: group, InHand: 64, Key: func(*message.Message) string { return "" }})
	until(t, "the end of the log", func() bool {
		for {
			select {
			case m := <-out:
				if _, twice := got[m.UUID]; twice {
					t.Errorf("%s came twice", m.UUID)
				}
				got[m.UUID] = string(m.Payload)
				m.Ack()
				continue
			default:
			}
			return lag(t, l, group) == 0
		}
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return got
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, sqlitelog.Config{})
	_, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "tidewire.db")})
	if !errors.Is(err, sqlite.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("got %v, want that this process has it", err)
	}
}
