package sqlitelog_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// benchMessage is an event of 1 KiB with the attributes of a webhook.
func benchMessage(run, n int64) *message.Message {
	m := message.NewMessage(fmt.Sprintf("evt_%016x%016x", run, n), benchBody)
	m.Metadata = message.Metadata{
		"ce_specversion": "1.0", "ce_id": m.UUID, "ce_source": "stripe", "ce_type": "invoice.paid", "ce_time": "2026-01-02T03:04:05.123456789Z",
		"ce_recordedtime": "2026-01-02T03:04:05.223456789Z", "ce_subject": "in_1N2bXYZ", "ce_partitionkey": "cus_" + strconv.FormatInt(n%64, 10), "content-type": "application/json",
	}
	return m
}

var benchBody = []byte(strings.Repeat(`{"id":"in_1N2b","n":1}`, 47)[:1024])

func benchKey(m *message.Message) string { return m.Metadata["ce_partitionkey"] }

// cpu is the processor time this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func rss() float64 {
	b, _ := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	pages, _ := strconv.Atoi(f[1])
	return float64(pages*os.Getpagesize()) / (1 << 20)
}

// BenchmarkLog measures one event of 1 KiB from Publish (of 64 callers) to its ack by the group it concerns, with identities compared, in an
// empty log and in one of -stored records (TIDEWIRE_BENCH_STORED, default 2 million).
func BenchmarkLog(b *testing.B) {
	stored := []int{0, 2_000_000}
	if n, err := strconv.Atoi(os.Getenv("TIDEWIRE_BENCH_STORED")); err == nil {
		stored[1] = n
	}
	for _, n := range stored {
		l := open(b, b.TempDir(), sqlitelog.Config{Unique: func(string) bool { return true }})
		fill(b, l, n)
		for _, c := range []struct {
			name             string
			groups, matching int
		}{{"publish", 0, 0}, {"groups=1", 1, 1}, {"groups=100/matching=1", 100, 1}} {
			b.Run(fmt.Sprintf("stored=%d/%s", n, c.name), func(b *testing.B) { benchLog(b, l, c.groups, c.matching) })
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func fill(b *testing.B, l *sqlitelog.Log, n int) {
	var wg sync.WaitGroup
	run := rand.Int64()
	for w := range 4 {
		wg.Go(func() {
			batch := make([]*message.Message, 0, 200)
			for i := w; i < n; i += 4 {
				if batch = append(batch, benchMessage(run, int64(i))); len(batch) == cap(batch) {
					if err := l.Publish("events.stripe", batch...); err != nil {
						b.Error(err)
						return
					}
					batch = batch[:0]
				}
			}
		})
	}
	wg.Wait()
}

func benchLog(b *testing.B, l *sqlitelog.Log, groups, matching int) {
	var seen atomic.Int64
	var consumers sync.WaitGroup
	var subs []*sqlitelog.Subscriber
	run := rand.Int64()
	for g := range groups {
		s, err := l.Subscriber(sqlitelog.SubscriberConfig{
			Group: fmt.Sprintf("g%d-%d", run, g), InHand: 32, Key: benchKey, FromEnd: true,
			Match: func(m *message.Message) bool { return g < matching && m.Metadata["ce_type"] == "invoice.paid" },
		})
		if err != nil {
			b.Fatal(err)
		}
		subs = append(subs, s)
		out, err := s.Subscribe(b.Context(), "events.stripe")
		if err != nil {
			b.Fatal(err)
		}
		consumers.Go(func() {
			for m := range out {
				seen.Add(1)
				m.Ack()
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	began, used := time.Now(), cpu()
	var next atomic.Int64
	var publishers sync.WaitGroup
	for range 64 {
		publishers.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				if err := l.Publish("events.stripe", benchMessage(run, n)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	publishers.Wait()
	for seen.Load() < int64(b.N*matching) {
		time.Sleep(time.Millisecond)
	}
	b.ReportMetric(float64(cpu()-used)/float64(b.N)/1e3, "cpu-us/event")
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "events/s")
	b.ReportMetric(rss(), "rss-MiB")
	b.StopTimer()
	for _, s := range subs {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}
	consumers.Wait()
}

// BenchmarkAck measures how long Publish takes at a steady rate, and how large the write-ahead log gets meanwhile.
func BenchmarkAck(b *testing.B) {
	for _, rate := range []int{500, 7000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) { benchAck(b, rate) })
	}
}

func benchAck(b *testing.B, rate int) {
	dir := b.TempDir()
	l := open(b, dir, sqlitelog.Config{Unique: func(string) bool { return true }})
	run := rand.Int64()
	var mu sync.Mutex
	var took []time.Duration
	var publishers sync.WaitGroup
	var wal int64
	used := cpu()
	began := time.Now()
	for n := range b.N {
		at := began.Add(time.Duration(n) * time.Second / time.Duration(rate))
		if wait := time.Until(at); wait > 0 {
			time.Sleep(wait)
		}
		if n%1000 == 0 {
			if info, err := os.Stat(dir + "/tidewire.db-wal"); err == nil {
				wal = max(wal, info.Size())
			}
		}
		publishers.Go(func() {
			start := time.Now()
			if err := l.Publish("events.stripe", benchMessage(run, int64(n))); err != nil {
				b.Error(err)
			}
			d := time.Since(start)
			mu.Lock()
			took = append(took, d)
			mu.Unlock()
		})
	}
	publishers.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(cpu()-used)/float64(b.N)/1e3, "cpu-us/event")
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
	b.ReportMetric(float64(wal)/(1<<20), "wal-MiB")
}
