package pgstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline"
)

// own is the processor time of this process, kernel included.
func own(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// theirs is the processor time of the server's processes that are alive, in ticks of 10 ms.
func (s *server) theirs(b *testing.B) (sum time.Duration) {
	b.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 || f[1] != strconv.Itoa(s.Process()) && !strings.HasPrefix(string(text), strconv.Itoa(s.Process())+" ") {
			continue
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+system) * 10 * time.Millisecond
	}
	return sum
}

// measured runs f for b.N events over 256 callers and reports the processor time of one, here and in the database.
func measured(b *testing.B, f func(n int64)) {
	b.Helper()
	var n atomic.Int64
	b.SetParallelism(128) // times GOMAXPROCS
	b.ReportAllocs()
	here, there := own(b), shared.theirs(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f(n.Add(1))
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(own(b)-here)/float64(b.N)/1e3, "hub-µs/op")
	b.ReportMetric(float64(shared.theirs(b)-there)/float64(b.N)/1e3, "pg-µs/op")
}

// sample is a delivery without a past, recorded now.
func sample(route string, n int64, key string) pipeline.Delivery {
	now := time.Now()
	return pipeline.Delivery{
		Route: route, At: pipeline.Position{Topic: "events.shop", Partition: int32(n % 12), Offset: n}, Attempts: 1,
		Event: event.Event{
			ID: fmt.Sprintf("evt_1NG8Du2eZvKYlo2CUI79%08d", n), Source: "shop", Type: "invoice.paid", Key: key,
			Time: now, Recorded: now, Body: make([]byte, 1024),
		},
	}
}

func delivered() pipeline.Outcome {
	return pipeline.Outcome{State: pipeline.Delivered, Code: 200, TargetID: "t-1", Duration: 3 * time.Millisecond, At: time.Now()}
}

func benchStore(b *testing.B) *pgstore.Store {
	b.Helper()
	c := config(b.TempDir())
	c.MaxConnections = 10
	return openStore(b, c)
}

func carry(b *testing.B, s *pgstore.Store, d pipeline.Delivery, o pipeline.Outcome) {
	if got, err := s.Admit(b.Context(), d); got != pipeline.Unknown || err != nil {
		b.Error(got, err)
	}
	if err := s.Settle(b.Context(), d, o); err != nil {
		b.Error(err)
	}
}

// What every event costs: a look and a row.
func BenchmarkAdmitAndSettle(b *testing.B) {
	s := benchStore(b)
	measured(b, func(n int64) { carry(b, s, sample("orders", n, fmt.Sprint("cus_", n%5000)), delivered()) })
}

// The same with IDs that come in no order, each of which lands somewhere else in the index.
func BenchmarkAdmitAndSettleRandomIDs(b *testing.B) {
	s := benchStore(b)
	measured(b, func(n int64) {
		d := sample("orders", n, fmt.Sprint("cus_", n%5000))
		d.Event.ID = event.Fingerprint([]byte(d.Event.ID))[7:43]
		carry(b, s, d, delivered())
	})
}

func BenchmarkPark(b *testing.B) {
	s := benchStore(b)
	measured(b, func(n int64) {
		carry(b, s, sample("orders", n, fmt.Sprint("cus_", n)), pipeline.Outcome{State: pipeline.Parked, At: time.Now(), Next: time.Now().Add(time.Hour)})
	})
}

// parkedMany is a store with n parked deliveries, each of its own key, all due an hour from now.
func parkedMany(b *testing.B, n int64) (*pgstore.Store, time.Time) {
	b.Helper()
	s := benchStore(b)
	at := time.Now().Add(time.Hour)
	var all sync.WaitGroup
	var next atomic.Int64
	for range 256 {
		all.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				if err := s.Settle(b.Context(), sample("orders", i, fmt.Sprint("cus_", i)), pipeline.Outcome{State: pipeline.Parked, At: time.Now(), Next: at}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	return s, at
}

// What each hub asks five times a second.
func BenchmarkDueNothing100kParked100Routes(b *testing.B) {
	s, at := parkedMany(b, 100_000)
	room := map[string]int{"orders": 32}
	for i := range 100 {
		name := fmt.Sprintf("route-%d", i)
		room[name] = 32
		if err := s.Settle(b.Context(), sample(name, int64(i), ""), delivered()); err != nil {
			b.Fatal(err)
		}
	}
	measured(b, func(int64) {
		if got, err := s.Due(b.Context(), at.Add(-time.Minute), room, time.Minute); len(got) > 0 || err != nil {
			b.Error(len(got), err)
		}
	})
}

func BenchmarkDueAndSettle100kParked(b *testing.B) {
	s, at := parkedMany(b, 100_000)
	here, there := own(b), shared.theirs(b)
	b.ResetTimer()
	for left := b.N; left > 0; {
		got, err := s.Due(b.Context(), at.Add(time.Minute), map[string]int{"orders": 64}, time.Minute)
		if err != nil || len(got) == 0 {
			b.Fatal("nothing is due; run fewer than 100,000: ", err)
		}
		var all sync.WaitGroup
		for _, d := range got {
			all.Go(func() {
				if err := s.Settle(b.Context(), d, delivered()); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
		left -= len(got)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(own(b)-here)/float64(b.N)/1e3, "hub-µs/op")
	b.ReportMetric(float64(shared.theirs(b)-there)/float64(b.N)/1e3, "pg-µs/op")
}

func BenchmarkCount100kParked(b *testing.B) {
	s, _ := parkedMany(b, 100_000)
	b.ResetTimer()
	for range b.N {
		if n, err := s.Count(b.Context()); err != nil || n["orders"].Parked != 100_000 {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkIndex(b *testing.B) {
	s := benchStore(b)
	here, there := own(b), shared.theirs(b)
	b.ResetTimer()
	for done := 0; done < b.N; done += 500 {
		events := make([]pgstore.Indexed, 500)
		for i := range events {
			events[i] = indexed(fmt.Sprintf("evt_1NG8Du2eZvKYlo2CUI79%08d", done+i), int32(i%12), int64(done+i), time.Now(), "body")
		}
		if _, err := s.Index(b.Context(), events); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(own(b)-here)/float64(b.N)/1e3, "hub-µs/op")
	b.ReportMetric(float64(shared.theirs(b)-there)/float64(b.N)/1e3, "pg-µs/op")
}

// What every webhook asks before it is taken: whether its event is known, which it is not.
func BenchmarkRecall(b *testing.B) {
	s := benchStore(b)
	events := make([]pgstore.Indexed, 500)
	for i := range events {
		events[i] = indexed(fmt.Sprintf("evt_1NG8Du2eZvKYlo2CUI79%08d", -i), int32(i%12), int64(i), time.Now(), "body")
	}
	if _, err := s.Index(b.Context(), events); err != nil {
		b.Fatal(err)
	}
	measured(b, func(n int64) {
		if known, err := s.Recall(b.Context(), "shop", []string{fmt.Sprintf("evt_1NG8Du2eZvKYlo2CUI79%08d", n)}); err != nil || known[0] != nil {
			b.Error(known, err)
		}
	})
}
