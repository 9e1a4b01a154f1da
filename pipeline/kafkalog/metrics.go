package kafkalog

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// What becomes of a message, as metrics name it. unsent is one that was withdrawn for certain before it could be stored.
const (
	resultStored  = "stored"
	resultRefused = "refused"
	resultUnknown = "unknown"
	resultUnsent  = "unsent"
)

// metrics of the log. Without a registerer they are kept and shown to nobody.
type metrics struct {
	reg        prometheus.Registerer
	collectors []prometheus.Collector

	published *prometheus.CounterVec
	seconds   prometheus.Histogram
	requests  prometheus.Counter
	queue     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reg: reg,
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewire_kafka_published_total",
			Help: "Messages by what became of them: stored, refused (for good), unknown (sent, no answer), unsent (withdrawn before it was sent).",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tidewire_kafka_publish_seconds", Help: "How long a message took from Publish to its result.",
			Buckets: []float64{.001, .0025, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		requests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidewire_kafka_produce_requests_total", Help: "Requests that brought messages to the brokers.",
		}),
		queue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidewire_kafka_publish_queue_bytes", Help: "Bytes that wait in Publish or are under way.",
		}),
	}
	for _, result := range []string{resultStored, resultRefused, resultUnknown, resultUnsent} {
		m.published.WithLabelValues(result)
	}
	if err := m.register(m.published, m.seconds, m.requests, m.queue); err != nil {
		return nil, err
	}
	return m, nil
}

// register adds collectors to those that are shown until the log is closed.
func (m *metrics) register(cs ...prometheus.Collector) error {
	if m.reg == nil {
		return nil
	}
	for _, c := range cs {
		if err := m.reg.Register(c); err != nil {
			m.unregister()
			return fmt.Errorf("register metrics: %w", err)
		}
		m.collectors = append(m.collectors, c)
	}
	return nil
}

// unregister lets a log that is opened later show its own.
func (m *metrics) unregister() {
	for _, c := range m.collectors {
		m.reg.Unregister(c)
	}
	m.collectors = nil
}
