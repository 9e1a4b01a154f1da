package webhooks_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/webhooks"
)

type open24 struct{}

func (open24) Accept(context.Context, ...event.Event) error { return nil }

// trusting is a receiver that costs nothing.
type trusting struct{}

func (trusting) Verify(context.Context, *connectors.Call) error { return nil }

func (trusting) Events(c *connectors.Call) ([]event.Event, error) {
	return []event.Event{{ID: "evt_1", Type: "invoice.paid", Body: c.Body}}, nil
}

type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}

// BenchmarkCall is what the ear adds to net/http for one small call, without the receiver's and the intake's own work.
func BenchmarkCall(b *testing.B) {
	ear, err := webhooks.New(webhooks.Config{
		Receivers: map[string]connectors.Receiver{"stripe": trusting{}}, Intake: open24{},
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		b.Fatal(err)
	}
	h := ear.Handler()
	body := bytes.Repeat([]byte("x"), 1024)
	req := httptest.NewRequest(http.MethodPost, "/in/stripe", nil)
	req.ContentLength = int64(len(body))
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		req.Body = io.NopCloser(bytes.NewReader(body))
		clear(w.header)
		h.ServeHTTP(w, req)
	}
}
