package load_test

import (
	"os"
	"testing"

	"github.com/tidewire/tidewire/internal/load"
)

// BenchmarkGeneratorAgainstSink shows what the harness itself costs: one event posted and one request taken.
func BenchmarkGeneratorAgainstSink(b *testing.B) {
	s, err := load.NewSink(load.SinkConfig{Rules: map[string]load.Rule{"/in/x": {}}})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	p := load.Process(os.Getpid())
	before, err := p.CPU()
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	sent, err := load.Generator{Address: s.Address(), Path: "/in/x", Secret: secret, Source: "bench", Events: b.N}.Run(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	after, err := p.CPU()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((after-before).Microseconds())/float64(len(sent.Posts)), "cpu-us/event")
}
