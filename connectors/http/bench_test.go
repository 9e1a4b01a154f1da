package http_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/http"
	"github.com/tidewire/tidewire/event"
)

// sinkProcess serves 200s in a process of its own, so that the benchmark's CPU time is the sender's alone.
func sinkProcess(b *testing.B) string {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), "TIDEWIRE_TEST_SINK=1")
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Process.Kill(); c.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return line[:len(line)-1]
}

// serveSink is what the process above runs.
func serveSink() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString("http://" + l.Addr().String() + "/events\n")
	nethttp.Serve(l, nethttp.HandlerFunc(func(_ nethttp.ResponseWriter, r *nethttp.Request) { io.Copy(io.Discard, r.Body) }))
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func BenchmarkSend(b *testing.B) {
	u := sinkProcess(b)
	for name, extra := range map[string]string{
		"plain":  "",
		"signed": "sign: {scheme: standard-webhooks, secret: whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz}\n",
	} {
		b.Run(name, func(b *testing.B) {
			n, err := config.ParseNode("bench", []byte("url: "+u+"\nallow_private: true\n"+extra), config.Options{})
			if err != nil {
				b.Fatal(err)
			}
			conn, err := http.Connector.Open(n, connectors.Env{Name: "bench", Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			d := connectors.Delivery{
				Route: "r", Body: bytes.Repeat([]byte("x"), 1024), ContentType: "application/json", IdempotencyKey: "dlv_0123456789abcdef0123456789abcdef", Attempt: 1,
				Event: event.Event{ID: "evt_1N2b3c4d5e6f", Source: "stripe", Type: "invoice.paid", Time: time.Now().UTC()},
			}
			target := conn.(connectors.Target)
			b.SetParallelism(8)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					if _, err := target.Send(ctx, d); err != nil {
						b.Error(err)
					}
					cancel()
				}
			})
			b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}
