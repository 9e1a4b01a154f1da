package spool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/pipeline/spool"
)

func TestWhileNothingWaitsTheFileIsNotTouched(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.publish(events, "a-1", "a-2")
		s.publish("dead.r", "a-1")
		if got := s.log.ids(events, false); !slices.Equal(got, []string{"a-1", "a-2"}) {
			t.Errorf("the log has %v", got)
		}
		if topics := s.file.Topics(); len(topics) > 0 {
			t.Errorf("the spool has %v", topics)
		}
		if st := s.state(); st.Spooling || st.Waiting != 0 || st.String() != "" {
			t.Errorf("state %+v %s", st, st)
		}
	})
}

func TestAnOutageCostsOnlyTheFirstTheWait(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.log.always(deafAndMute)
		began := time.Now()
		var calls sync.WaitGroup
		took := make([]time.Duration, 8)
		for i := range took {
			calls.Go(func() {
				pause(time.Duration(i) * 250 * time.Millisecond) // the last comes shortly before the first gives up
				at := time.Now()
				s.publish(events, fmt.Sprintf("k%d-1", i))
				took[i] = time.Since(at)
			})
		}
		calls.Wait()
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("all were answered after %v, want 2s: those who wait learn from the first", d)
		}
		for i, d := range took {
			if want := 2*time.Second - time.Duration(i)*250*time.Millisecond; d != want {
				t.Errorf("publish %d took %v, want %v", i, d, want)
			}
		}
		at := time.Now()
		s.publish(events, "z-1")
		if d := time.Since(at); d > 0 {
			t.Errorf("a publish in the outage took %v", d)
		}
		if st := s.state(); !st.Spooling || st.Waiting != 9 || st.Bytes < 9*128 || time.Since(st.Oldest) > 3*time.Second ||
			!strings.Contains(st.String(), "9 wait") || !strings.Contains(st.String(), "no answer within 2s") {
			t.Errorf("state %+v", st)
		}
		if err := s.spool.Probe(t.Context()); err != nil {
			t.Errorf("the probe fails while events are taken: %v", err)
		}
		s.log.set(nil)
		s.drained()
		if got := s.log.ids(events, true); len(got) != 9 {
			t.Errorf("the log has %v", got)
		}
	})
}

func TestNewerEventsGoBehindThoseThatWait(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.publish(events, "a-0")
		pause(time.Minute)
		s.log.always(down)
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprintf("a-%d", i+1))
		}
		for _, uuid := range want[:20] {
			s.publish(events, uuid)
			s.publish("dead.r", uuid)
		}
		pause(time.Minute)
		s.log.set(nil)
		for _, uuid := range want[20:] {
			pause(50 * time.Millisecond) // while it is drained
			s.publish(events, uuid)
			s.publish("dead.r", uuid)
		}
		s.drained()
		s.publish(events, "a-41")
		want = slices.Concat([]string{"a-0"}, want, []string{"a-41"})
		if got := s.log.ids(events, false); !slices.Equal(got, want) {
			t.Errorf("the log has %v", got)
		}
		if got := s.log.ids("dead.r", false); !slices.Equal(got, want[1:41]) {
			t.Errorf("the dead letters are %v", got)
		}
		spooled, drained := s.metric("tidewire_spool_spooled_total"), s.metric("tidewire_spool_drained_total")
		if spooled != drained || spooled < 40 || s.metric("tidewire_spool_records") != 0 || s.metric("tidewire_spool_bytes") != 0 {
			t.Errorf("%v spooled, %v drained, %v wait, %v bytes", spooled, drained, s.metric("tidewire_spool_records"), s.metric("tidewire_spool_bytes"))
		}
		for _, r := range s.log.records {
			if r.payload != "payload of "+r.uuid || len(r.metadata) != 2 || r.metadata["ce_id"] != r.uuid {
				t.Errorf("%s is not what was published: %+v", r.uuid, r)
			}
		}
		// What was drained is removed: a topic keeps its last record, as the log underneath does.
		pause(5 * time.Second)
		for _, topic := range s.file.Topics() {
			kept := 0
			if err := s.file.Backlog(t.Context(), topic, "somebody else", func(int) { kept++ }); err != nil || kept != 1 {
				t.Errorf("%s keeps %d records, %v", topic, kept, err)
			}
		}
	})
}

func TestWhatWasStoredInSpiteOfItsErrorIsARepeat(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.log.always(lost)
		s.publish(events, "a-1", "a-2")
		s.log.always(down)
		s.publish(events, "a-3")
		s.log.set(nil)
		s.drained()
		if got := s.log.ids(events, true); !slices.Equal(got, []string{"a-1", "a-2", "a-3"}) {
			t.Errorf("the log has %v", got)
		}
	})
}

func TestFinalAnswersComeBackAndNothingIsKept(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		for _, a := range []answer{refuse, conflict} {
			s.log.always(a)
			err := s.spool.Publish(events, msg("a-1"))
			if v, ok := errors.AsType[verdict](err); !ok || v.refused != (a == refuse) || v.conflict != (a == conflict) {
				t.Errorf("got %v", err)
			}
		}
		if st := s.state(); st.Spooling || len(s.file.Topics()) > 0 {
			t.Errorf("state %+v, the spool has %v", st, s.file.Topics())
		}
	})
}

func TestACallerThatLeavesChangesNothing(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.log.always(hang)
		m := msg("a-1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		m.SetContext(ctx)
		if err := s.spool.Publish(events, m); err == nil {
			t.Error("it was answered as stored")
		}
		if st := s.state(); st.Spooling || len(s.file.Topics()) > 0 {
			t.Errorf("state %+v, the spool has %v", st, s.file.Topics())
		}
	})
}

// One key's partition has no leader: its events keep their order and wait, all others pass through.
func TestAStuckKeyHoldsUpNobodyElse(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.publish(events, "b-0")
		s.log.set(func(_ string, m *message.Message) answer {
			if keyOf(m.UUID) == "stuck" {
				return down
			}
			return store
		})
		var stuck, want []string
		for i := range 100 {
			stuck = append(stuck, fmt.Sprintf("stuck-%d", i))
			want = append(want, fmt.Sprintf("b-%d", i+1))
			s.publish(events, stuck[i])
			s.publish(events, want[i])
			pause(20 * time.Millisecond)
			if got := s.log.ids(events, false); got[len(got)-1] != want[i] {
				t.Errorf("%s has to wait for another key", want[i])
			}
		}
		until(t, "the others", func() bool { return s.state().Waiting == 100 })
		if got := s.log.ids(events, false); !slices.Equal(got, append([]string{"b-0"}, want...)) {
			t.Errorf("the log has %v", got)
		}
		calls := s.log.count()
		pause(time.Minute)
		if n := s.log.count() - calls; n > 60 || n < 20 {
			t.Errorf("the stuck one was tried %d times in a minute", n)
		}
		s.log.set(nil)
		s.drained()
		if got := s.log.ids(events, false)[101:]; !slices.Equal(got, stuck) {
			t.Errorf("then came %v", got)
		}
	})
}

// While the log is down it is asked now and then, with one record at most, and not at all while the probe says that it cannot be reached.
func TestAnOutageIsAskedAboutNowAndThen(t *testing.T) {
	var mu sync.Mutex
	var probes int
	unreachable := true
	reachable := func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if probes++; unreachable {
			return errDown
		}
		return nil
	}
	inBubble(t, spool.Config{Reachable: reachable}, func(t *testing.T, s *stage) {
		s.log.always(down)
		for i := range 300 {
			s.publish(events, fmt.Sprintf("k%d-1", i))
		}
		calls := s.log.count()
		pause(time.Minute)
		mu.Lock()
		asked := probes
		unreachable = false
		mu.Unlock()
		if n := s.log.count() - calls; n > 0 || asked < 30 || asked > 40 {
			t.Errorf("asked %d times, and tried %d times for nothing", asked, n)
		}
		pause(time.Minute)
		if n := s.log.count() - calls; n < 25 || n > 40 {
			t.Errorf("tried %d times in a minute that it answered and stored nothing", n)
		}
		s.log.set(nil)
		at := time.Now()
		s.drained()
		if d := time.Since(at); d > 5*time.Second {
			t.Errorf("drained %v after the outage", d)
		}
	})
}

// The rest of a backlog and a steady stream: there is a moment when events go straight again, and none overtakes.
func TestASteadyStreamComesToGoStraightAgain(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.log.always(down)
		for i := range 2000 {
			s.publish(events, fmt.Sprintf("k%d-%04d", i%20, i/20))
		}
		s.log.set(nil)
		s.log.mu.Lock()
		s.log.takes = 30 * time.Millisecond
		s.log.mu.Unlock()
		stop := make(chan struct{})
		var senders sync.WaitGroup
		var mu sync.Mutex
		var longest time.Duration
		for k := range 20 {
			senders.Go(func() {
				for n := 100; ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
					}
					at := time.Now()
					s.publish(events, fmt.Sprintf("k%d-%04d", k, n))
					mu.Lock()
					longest = max(longest, time.Since(at))
					mu.Unlock()
				}
			})
		}
		s.drained()
		before := s.metric("tidewire_spool_spooled_total")
		pause(time.Second)
		if n := s.metric("tidewire_spool_spooled_total") - before; n > 0 {
			t.Errorf("%v were spooled after it was drained", n)
		}
		close(stop)
		senders.Wait()
		if longest > 1500*time.Millisecond {
			t.Errorf("a publish took %v", longest)
		}
		inOrder(t, s.log.ids(events, true))
	})
}

// Whenever a record is finished, before or after its group's place is written and what was drained is swept, it is removed.
func TestWhatWasDrainedIsRemoved(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		for i := range 30 {
			s.log.always(down)
			s.publish(events, fmt.Sprintf("a-%d", 2*i), fmt.Sprintf("a-%d", 2*i+1))
			pause(time.Duration(i) * 37 * time.Millisecond)
			s.log.set(nil)
			s.drained()
			pause(3 * time.Second)
			kept := 0
			if err := s.file.Backlog(t.Context(), events, "somebody else", func(int) { kept++ }); err != nil || kept != 1 {
				t.Fatalf("round %d: the topic keeps %d records, %v", i, kept, err)
			}
		}
	})
}

// The last one left is not confirmed for long: publishes wait for it a second, and no longer.
func TestPublishesWaitForTheLastFewNoLongerThanASecond(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.publish(events, "z-1") // so that one failure is not the log's
		tries := 0
		s.log.set(func(_ string, m *message.Message) answer {
			if keyOf(m.UUID) != "b" {
				return store
			}
			if tries++; tries == 1 {
				return down
			}
			return deafAndMute
		})
		s.publish(events, "b-1")
		s.publish(events, "a-1")
		until(t, "the other one", func() bool { return s.state().Waiting == 1 })
		at := time.Now()
		s.publish(events, "c-1")
		if d := time.Since(at); d != time.Second {
			t.Errorf("took %v", d)
		}
		s.log.set(nil)
		s.drained()
	})
}

// inOrder wants the numbers of each key to rise by one.
func inOrder(t *testing.T, ids []string) {
	t.Helper()
	last := make(map[string]int)
	for _, id := range ids {
		var n int
		if _, err := fmt.Sscanf(id[strings.Index(id, "-")+1:], "%d", &n); err != nil {
			t.Fatal(err)
		}
		key := keyOf(id)
		if before, ok := last[key]; ok && n != before+1 {
			t.Errorf("%s comes after %d", id, before)
		}
		last[key] = n
	}
}

func TestPastItsBoundThereIsAnErrorAndWhatWaitsIsSafe(t *testing.T) {
	inBubble(t, spool.Config{MaxBytes: 64 << 10}, func(t *testing.T, s *stage) {
		s.log.always(down)
		taken := 0
		for ; ; taken++ {
			if err := s.spool.Publish(events, msg(fmt.Sprintf("a-%d", taken))); err != nil {
				if !strings.Contains(err.Error(), "the spool is full") {
					t.Errorf("got %v", err)
				}
				break
			}
		}
		if taken < 100 || s.state().Bytes > 64<<10 {
			t.Errorf("%d were taken, %d bytes", taken, s.state().Bytes)
		}
		if err := s.spool.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "full") {
			t.Errorf("the probe says %v", err)
		}
		s.log.set(nil)
		s.drained()
		if err := s.spool.Probe(t.Context()); err != nil {
			t.Error(err)
		}
		s.publish(events, fmt.Sprintf("a-%d", taken))
		if got := s.log.ids(events, false); len(got) != taken+1 {
			t.Errorf("the log has %d of %d", len(got), taken+1)
		}
		inOrder(t, s.log.ids(events, false))
	})
}

// A record larger than the whole spool is no reason to keep all others from the log.
func TestWhatDoesNotFitDoesNotKeepTheWayBlocked(t *testing.T) {
	inBubble(t, spool.Config{MaxBytes: 16 << 10}, func(t *testing.T, s *stage) {
		s.log.always(down)
		large := message.NewMessage("large", make([]byte, 20<<10))
		if err := s.spool.Publish(events, large); err == nil || !errors.Is(err, errDown) {
			t.Errorf("got %v, want full and why it was needed", err)
		}
		s.log.set(nil)
		s.drained()
		s.publish(events, "a-1")
		if st := s.state(); st.Spooling {
			t.Errorf("state %+v", st)
		}
	})
}

func TestAFileThatCannotBeWrittenIsAnErrorAndNoMore(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.log.always(down)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		m := msg("a-1")
		m.SetContext(gone)
		if err := s.spool.Publish(events, m); err == nil {
			t.Error("stored for a caller that is gone")
		}
		if err := s.spool.Probe(t.Context()); err != nil {
			t.Errorf("one caller's context fails the probe: %v", err)
		}
		if err := s.file.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.spool.Publish(events, msg("a-2")); err == nil || !errors.Is(err, errDown) {
			t.Errorf("got %v, want both reasons", err)
		}
		if err := s.spool.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be written") {
			t.Errorf("the probe says %v", err)
		}
		if st := s.state(); st.Waiting != 0 || st.Bytes != 0 {
			t.Errorf("state %+v", st)
		}
		s.log.set(nil)
		s.drained()
		s.publish(events, "a-3")
		if got := s.log.ids(events, false); !slices.Equal(got, []string{"a-3"}) {
			t.Errorf("the log has %v", got)
		}
	})
}

func TestCloseWaitsForWhatWasLeftBehind(t *testing.T) {
	inBubble(t, spool.Config{}, func(t *testing.T, s *stage) {
		s.log.always(deafAndMute)
		began := time.Now()
		s.publish(events, "a-1")
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("took %v", d)
		}
		s.endRun()
		s.running.Wait()
		if err := s.spool.Close(); err != nil {
			t.Error(err)
		}
		if s.log.under > 0 {
			t.Error("a publish is under way still")
		}
		if err := s.spool.Publish(events, msg("a-2")); !errors.Is(err, spool.ErrClosed) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
	})
}
