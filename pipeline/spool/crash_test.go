package spool_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/pipeline/spool"
)

// copyFile takes the spool's file as a crash would leave it at this moment.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	for _, name := range []string{"spool.db", "spool.db-wal"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatWaitedInACrashIsDrainedBeforeNewerEvents(t *testing.T) {
	t.Parallel()
	dir, after := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, dir: dir}
		s.start()
		s.log.always(down)
		for i := range 30 {
			s.publish(events, fmt.Sprintf("a-%d", i), fmt.Sprintf("b-%d", i))
			s.publish("dead.r", fmt.Sprintf("a-%d", i))
		}
		waited := s.state()
		copyFile(t, dir, after)
		s.stop()

		s = &stage{t: t, dir: after}
		s.start()
		if st := s.state(); !st.Spooling || st.Waiting != 90 || st.Bytes != waited.Bytes || !st.Oldest.Equal(waited.Oldest) {
			t.Errorf("after the crash %+v, before %+v", st, waited)
		}
		s.publish(events, "a-30", "b-30")
		s.run()
		s.publish(events, "a-31", "b-31")
		s.drained()
		s.publish(events, "a-32", "b-32")
		for topic, want := range map[string]int{events: 66, "dead.r": 30} {
			got := s.log.ids(topic, false)
			inOrder(t, got)
			if len(got) != want {
				t.Errorf("%s has %d records, want %d", topic, len(got), want)
			}
		}
		s.stop()
	})
}

// door is the way of one process to the shared log: after its crash nothing comes through any more.
type door struct {
	to   *shared
	dead atomic.Bool
}

func (d *door) Publish(topic string, ms ...*message.Message) error {
	if d.dead.Load() {
		return errDown
	}
	return d.to.Publish(topic, ms...)
}

// Senders with keys of their own, each sending the next only when the one before was answered, and again what was not; outages of all kinds,
// a file that is nearly too small, crashes. When all is well again nothing is missing and the first of each comes in the
// order of its key.
func TestNothingIsLostOrOvertakenWhateverHappens(t *testing.T) {
	t.Parallel()
	for range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
			synctest.Test(t, func(t *testing.T) { ordeal(t, dirs, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func ordeal(t *testing.T, dirs []string, r *rand.Rand) {
	const senders, each = 12, 300
	log := &shared{}
	config := spool.Config{MaxBytes: []int64{48 << 10, 64 << 20}[r.IntN(2)]}
	begin := func(dir string) (*stage, *door) {
		d := &door{to: log}
		s := &stage{t: t, dir: dir, log: log, config: config, front: d}
		s.start()
		s.run()
		return s, d
	}
	type life struct {
		s *stage
		d *door
	}
	var now atomic.Pointer[life]
	s, d := begin(dirs[0])
	now.Store(&life{s, d})

	var sending sync.WaitGroup
	var full, spooled atomic.Int64
	for k := range senders {
		topic := []string{events, "events.other", "dead.r"}[k%3]
		pace := rand.New(rand.NewPCG(r.Uint64(), 2))
		sending.Go(func() {
			for n := 0; n < each; {
				at := now.Load()
				ms := []*message.Message{msg(fmt.Sprintf("k%d-%d", k, n))}
				if pace.IntN(4) == 0 && n+1 < each {
					ms = append(ms, msg(fmt.Sprintf("k%d-%d", k, n+1)))
				}
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
				for _, m := range ms {
					m.SetContext(ctx)
				}
				err := at.s.spool.Publish(topic, ms...)
				cancel()
				switch {
				case at.d.dead.Load(): // nobody was there to hear the answer
				case err == nil:
					n += len(ms)
				default:
					full.Add(1)
				}
				if now.Load() == at && err != nil {
					pause(500 * time.Millisecond)
				}
				pause(time.Duration(pace.IntN(300)) * time.Millisecond)
			}
		})
	}
	for i := range 12 {
		pause(time.Duration(r.IntN(4000)) * time.Millisecond)
		a, key := answer(r.IntN(4)), fmt.Sprint("k", r.IntN(senders))
		switch r.IntN(3) {
		case 0:
			log.always(a)
		case 1: // one partition
			log.set(func(_ string, m *message.Message) answer {
				if keyOf(m.UUID) == key {
					return a
				}
				return store
			})
		case 2: // now and then
			log.set(func(string, *message.Message) answer {
				if rand.IntN(3) == 0 {
					return a
				}
				return store
			})
		}
		pause(time.Duration(r.IntN(8000)) * time.Millisecond)
		if (i == 4 || i == 8) && len(dirs) > 1 {
			at := now.Load()
			at.d.dead.Store(true)
			copyFile(t, dirs[0], dirs[1])
			dirs = dirs[1:]
			s, d := begin(dirs[0])
			now.Store(&life{s, d})
			spooled.Add(int64(at.s.metric("tidewire_spool_spooled_total")))
			at.s.stop()
		}
		if r.IntN(2) == 0 {
			log.set(nil)
		}
	}
	log.set(nil)
	sending.Wait()
	now.Load().s.drained()
	total := 0
	for _, topic := range []string{events, "events.other", "dead.r"} {
		got := log.ids(topic, true)
		inOrder(t, got)
		total += len(got)
	}
	if total != senders*each {
		t.Errorf("%d of %d are in the log", total, senders*each)
	}
	if st := now.Load().s.state(); st.Waiting != 0 || st.Bytes != 0 {
		t.Errorf("state %+v", st)
	}
	spooled.Add(int64(now.Load().s.metric("tidewire_spool_spooled_total")))
	t.Logf("%d repeats, %d publishes not taken, %d spooled", len(log.records)-total, full.Load(), spooled.Load())
	now.Load().s.stop()
}

func TestWhatTheLogRefusesWhileItIsDrainedIsKeptAndOfferedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := &shared{}
	refusing := func(which ...string) {
		log.set(func(_ string, m *message.Message) answer {
			if slices.Contains(which, m.UUID) {
				return refuse
			}
			return store
		})
	}
	live := func(name string, test func(t *testing.T, s *stage)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stage{t: t, dir: dir, log: log}
				s.start()
				defer func() { s.stop() }()
				test(t, s)
			})
		})
	}
	live("two of one key are refused, the others pass", func(t *testing.T, s *stage) {
		log.always(down)
		for i := range 6 {
			s.publish(events, fmt.Sprintf("a-%d", i))
		}
		refusing("a-2", "a-4")
		s.run()
		s.drained()
		if got := log.ids(events, true); !slices.Equal(got, []string{"a-0", "a-1", "a-3", "a-5"}) {
			t.Errorf("the log has %v", got)
		}
		if st := s.state(); st.Refused != 2 || st.Waiting != 0 || st.Bytes == 0 || st.String() == "" {
			t.Errorf("state %+v", st)
		}
		if n := s.metric("tidewire_spool_refused_total"); n != 2 {
			t.Errorf("%v counted", n)
		}
		s.publish(events, "a-6")
	})
	live("one is taken at the next start, one not", func(t *testing.T, s *stage) {
		if st := s.state(); st.Refused != 2 || st.Spooling || st.Waiting != 0 {
			t.Errorf("state %+v", st)
		}
		refusing("a-4")
		s.run()
		until(t, "the offers", func() bool { return s.metric("tidewire_spool_refused_total") == 1 && s.state().Refused == 1 })
		pause(time.Minute)
		if got := log.ids(events, true); !slices.Equal(got, []string{"a-0", "a-1", "a-3", "a-5", "a-6", "a-2"}) {
			t.Errorf("the log has %v", got)
		}
	})
	live("the other at the one after", func(t *testing.T, s *stage) {
		log.set(nil)
		s.run()
		until(t, "the offer", func() bool { return s.state().Refused == 0 })
		if st := s.state(); st.Bytes != 0 {
			t.Errorf("state %+v", st)
		}
	})
	live("then nothing", func(t *testing.T, s *stage) {
		if st := s.state(); st != (spool.State{}) {
			t.Errorf("state %+v", st)
		}
		for _, r := range log.records {
			if r.payload != "payload of "+r.uuid || len(r.metadata) != 2 || r.topic != events {
				t.Errorf("%+v is not what was published", r)
			}
		}
		if got := log.ids(events, true); len(got) != 7 {
			t.Errorf("the log has %v", got)
		}
	})
}

func TestADamagedRecordIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, dir: dir}
		s.start()
		s.log.always(down)
		for i := range 5 {
			s.publish(events, fmt.Sprintf("a-%d", i))
		}
		if err := s.db.Write(t.Context(), func(conn *zsqlite.Conn) error {
			return sqlitex.ExecuteTransient(conn, "UPDATE log_records_1 SET payload = x'00' WHERE offset = 2", nil)
		}); err != nil {
			t.Fatal(err)
		}
		s.stop()
		s = &stage{t: t, dir: dir}
		s.start()
		defer func() { s.stop() }()
		s.run()
		s.drained()
		if got := s.log.ids(events, false); !slices.Equal(got, []string{"a-0", "a-1", "a-3", "a-4"}) {
			t.Errorf("the log has %v", got)
		}
		if st := s.state(); st.Waiting != 0 || st.Bytes != 0 {
			t.Errorf("state %+v", st)
		}
	})
}

// The bound is one of the file, and room is used again.
func TestTheFileStaysWithinTheBound(t *testing.T) {
	t.Parallel()
	const bound = 4 << 20
	for name, size := range map[string]func() int{
		"small":   func() int { return 20 },
		"webhook": func() int { return 900 + rand.IntN(400) },
		"awkward": func() int { return 1900 + rand.IntN(300) },
		"pages":   func() int { return 3900 + rand.IntN(300) },
		"mixed":   func() int { return 1 << rand.IntN(17) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s := &stage{t: t, dir: dir, config: spool.Config{MaxBytes: bound}}
				s.start()
				s.run()
				for round := range 3 {
					s.log.always(down)
					taken := 0
					for n := 0; ; n++ {
						var batch []*message.Message
						for range 1 + rand.IntN(20) {
							m := message.NewMessage(fmt.Sprintf("a%d-%d", round, n), make([]byte, size()))
							m.Metadata.Set("key", fmt.Sprint(n%7))
							batch = append(batch, m)
						}
						if err := s.spool.Publish(events, batch...); err != nil {
							if errors.Is(err, spool.ErrClosed) || s.spool.Probe(t.Context()) == nil {
								t.Fatal(err)
							}
							break
						}
						for _, m := range batch {
							taken += len(m.Payload)
						}
					}
					if taken < bound/3 && name != "small" {
						t.Errorf("round %d: only %d bytes were taken", round, taken)
					}
					s.log.set(nil)
					s.drained()
					until(t, "the drained to be removed", func() bool {
						kept := 0
						err := s.file.Backlog(t.Context(), events, "somebody else", func(int) { kept++ })
						return err == nil && kept == 1
					})
				}
				s.stop()
			})
			info, err := os.Stat(filepath.Join(dir, "spool.db"))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("the file has %d bytes", info.Size())
			if info.Size() > bound+bound/8+256<<10 {
				t.Errorf("the file has %d bytes, the bound is %d", info.Size(), bound)
			}
		})
	}
}
