package webhooks

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// result is what became of a call, for metrics.
type result int

const (
	accepted    result = iota // durable
	nothing                   // verified, and held no event (a ping)
	handshake                 // a provider tested the address
	refused                   // the signature is not good
	invalid                   // not a whole call, or not one that can be read as events
	conflict                  // an ID that is known with another body
	tooLarge                  // over the connection's limit
	rateLimited               // over the connection's rate
	unsupported               // no such connection, path, method or content encoding
	unavailable               // could not be made durable
	failed                    // a receiver panicked
	results                   // how many there are
)

var resultNames = [results]string{
	accepted: "accepted", nothing: "nothing", handshake: "handshake", refused: "refused", invalid: "invalid",
	conflict: "conflict", tooLarge: "too_large", rateLimited: "rate_limited", unsupported: "unsupported",
	unavailable: "unavailable", failed: "failed",
}

// counters are one connection's, resolved once: looking labels up costs more than counting.
type counters [results]prometheus.Counter

type metrics struct {
	received *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	reasons  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	m := metrics{
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewire_events_received_total",
			Help: "Events accepted, and calls that ended otherwise, by connection and result. An unknown connection has an empty name.",
		}, []string{"connection", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidewire_ingest_seconds",
			Help:    "Time from a call's headers to the answer, for calls whose events were accepted.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .03, .1, .3, 1, 3, 10},
		}, []string{"connection"}),
		reasons: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewire_signatures_refused_total",
			Help: "Calls whose signature was not good, by connection and reason.",
		}, []string{"connection", "reason"}),
	}
	if r == nil {
		return m, nil
	}
	var err error
	if m.received, err = register(r, m.received); err != nil {
		return m, err
	}
	if m.seconds, err = register(r, m.seconds); err != nil {
		return m, err
	}
	m.reasons, err = register(r, m.reasons)
	return m, err
}

// register returns the collector of that name that r holds already, so that an Ear built anew goes on counting.
func register[C prometheus.Collector](r prometheus.Registerer, c C) (C, error) {
	err := r.Register(c)
	if known, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if old, ok := known.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	return c, err
}

func (m metrics) counters(connection string) counters {
	var c counters
	for i := range results {
		c[i] = m.received.WithLabelValues(connection, resultNames[i])
	}
	return c
}
