package store_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// cpu is the processor time of the whole process, kernel included.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured runs f for b.N operations over 64 callers and reports the processor time of one.
func measured(b *testing.B, f func(n int64)) {
	b.Helper()
	var n atomic.Int64
	b.SetParallelism(32) // times GOMAXPROCS
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f(n.Add(1))
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N)/1e3, "cpu-µs/op")
}

// sample is a delivery without a past.
func sample(route string, offset int64, key string) pipeline.Delivery {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return pipeline.Delivery{
		Route: route, At: pipeline.Position{Topic: "events.shop", Offset: offset}, Attempts: 1,
		Event: event.Event{
			ID: fmt.Sprintf("evt_1NG8Du2eZvKYlo2CUI79%08d", offset), Source: "shop", Type: "invoice.paid", Key: key,
			Time: now, Recorded: now, Body: make([]byte, 1024),
		},
	}
}

var delivered = pipeline.Outcome{State: pipeline.Delivered, Code: 200, TargetID: "t-1", Duration: 3 * time.Millisecond, At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}

func BenchmarkSettleDelivered(b *testing.B) {
	for _, rows := range []int64{0, 2_000_000} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			s := filled(b, rows)
			measured(b, func(n int64) {
				if err := s.Settle(b.Context(), sample("orders", rows+n, ""), delivered); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// The same over many routes, each with its own end to append to.
func BenchmarkSettleDelivered100Routes(b *testing.B) {
	s := filled(b, 0)
	routes := make([]string, 100)
	for i := range routes {
		routes[i] = fmt.Sprintf("route-%d", i)
	}
	measured(b, func(n int64) {
		if err := s.Settle(b.Context(), sample(routes[n%100], n, ""), delivered); err != nil {
			b.Error(err)
		}
	})
}

func BenchmarkAdmitFresh(b *testing.B) {
	s := filled(b, 2_000_000)
	d := sample("orders", 0, "k")
	measured(b, func(n int64) {
		d := d
		d.At.Offset = 2_000_000 + n
		if got, err := s.Admit(b.Context(), d); got != pipeline.Unknown || err != nil {
			b.Error(got, err)
		}
	})
}

func BenchmarkAdmitSettledBefore(b *testing.B) {
	s := filled(b, 2_000_000)
	d := sample("orders", 0, "k")
	measured(b, func(n int64) {
		d := d
		d.At.Offset = n%2_000_000 + 1
		if got, err := s.Admit(b.Context(), d); got != pipeline.Settled || err != nil {
			b.Error(got, err)
		}
	})
}

func BenchmarkPark(b *testing.B) {
	s := filled(b, 0)
	measured(b, func(n int64) {
		o := pipeline.Outcome{State: pipeline.Parked, At: delivered.At, Next: delivered.At}
		if err := s.Settle(b.Context(), sample("orders", n, fmt.Sprint("cus_", n%1000)), o); err != nil {
			b.Error(err)
		}
	})
}

// parkedMany is a store with n parked deliveries, each of its own key, all due an hour after delivered.At.
func parkedMany(b *testing.B, n int64) *store.Store {
	b.Helper()
	s := filled(b, 0)
	o := pipeline.Outcome{State: pipeline.Parked, At: delivered.At, Next: delivered.At.Add(time.Hour)}
	hands := make(chan int64)
	done := make(chan error)
	for range 64 {
		go func() {
			var failed error
			for offset := range hands {
				if err := s.Settle(b.Context(), sample("orders", offset, fmt.Sprint("cus_", offset)), o); err != nil {
					failed = err
				}
			}
			done <- failed
		}()
	}
	for offset := range n {
		hands <- offset + 1
	}
	close(hands)
	for range 64 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func BenchmarkDueNothing100kParked(b *testing.B) {
	s := parkedMany(b, 100_000)
	room := make(map[string]int)
	for i := range 100 {
		name := fmt.Sprintf("route-%d", i)
		room[name] = 32
		if err := s.Settle(b.Context(), sample(name, 1, ""), delivered); err != nil {
			b.Fatal(err)
		}
	}
	room["orders"] = 32
	measured(b, func(int64) {
		if got, err := s.Due(b.Context(), delivered.At, room, time.Minute); len(got) > 0 || err != nil {
			b.Error(len(got), err)
		}
	})
}

func BenchmarkDueAndSettle100kParked(b *testing.B) {
	s := parkedMany(b, 100_000)
	now := delivered.At.Add(2 * time.Hour)
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	for left := b.N; left > 0; {
		got, err := s.Due(b.Context(), now, map[string]int{"orders": 32}, time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		if len(got) == 0 {
			b.Fatal("all that was parked is settled; run fewer")
		}
		done := make(chan error)
		for _, d := range got {
			go func() { done <- s.Settle(b.Context(), d, delivered) }()
		}
		for range got {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
		left -= len(got)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N)/1e3, "cpu-µs/op")
}

// How long a start takes with many parked deliveries.
func BenchmarkOpen100kParked(b *testing.B) {
	dir := b.TempDir()
	s, db, closeIt := openStore(b, dir)
	defer closeIt()
	fill(b, s, db, "parked", 100_000)
	b.ResetTimer()
	for range b.N {
		if _, err := store.Open(b.Context(), store.Config{DB: db}); err != nil {
			b.Fatal(err)
		}
	}
}

// filled opens a store with so many delivered rows.
func filled(b *testing.B, rows int64) *store.Store {
	b.Helper()
	dir := b.TempDir()
	s, db, closeIt := openStore(b, filepath.Join(dir, "first"))
	if rows == 0 {
		b.Cleanup(closeIt)
		return s
	}
	fill(b, s, db, "deliveries", rows)
	closeIt()
	s, _, closeIt = openStore(b, filepath.Join(dir, "first"))
	b.Cleanup(closeIt)
	return s
}

// fill writes rows as Settle would, without its way.
func fill(b *testing.B, s *store.Store, db *sqlite.DB, table string, rows int64) {
	b.Helper()
	if err := s.Settle(b.Context(), sample("orders", 0, ""), delivered); err != nil { // which numbers the names
		b.Fatal(err)
	}
	insert := `INSERT INTO deliveries (route_id, partition_id, log_offset, state, decided_at, attempts, code, duration, event_id, target_id)
		SELECT 1, 1, n, 2, 1772366400000000000, 1, 200, 3000000, printf('evt_1NG8Du2eZvKYlo2CUI79%08d', n), 't-1' FROM seq`
	if table == "parked" {
		insert = `INSERT INTO parked (route_id, source_id, key, partition_id, log_offset, head, next_at, due_at, lease_until, parked_at, first_at, attempts, parks, history, attributes, crc, body)
			SELECT 1, 1, printf('cus_%020d', n), 1, n, 1, 1, 1, 0, 1, 1, 1, 1, '', '', 0, zeroblob(1024) FROM seq`
	}
	const chunk = 100_000
	for first := int64(1); first <= rows; first += chunk {
		err := db.Write(b.Context(), func(conn *zsqlite.Conn) error {
			stmt, err := conn.Prepare(`WITH RECURSIVE seq (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM seq WHERE n < ?2) ` + insert)
			if err != nil {
				return err
			}
			stmt.BindInt64(1, first)
			stmt.BindInt64(2, min(rows, first+chunk-1))
			_, err = stmt.Step()
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRetainAndBalance2M(b *testing.B) {
	for range b.N {
		b.StopTimer()
		s := filled(b, 2_000_000)
		b.StartTimer()
		start := time.Now()
		if _, err := s.Balance(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "balance-s")
		start = time.Now()
		if n, err := s.Retain(b.Context(), delivered.At.Add(time.Hour)); err != nil || n < 2_000_000 {
			b.Fatal(n, err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "retain-s")
	}
}
