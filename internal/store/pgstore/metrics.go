package pgstore

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// The kinds of statements, as metrics have them.
const (
	kindAdmit    = "admit"
	kindSettle   = "settle"
	kindPark     = "park"
	kindDue      = "due"
	kindGiveBack = "give_back"
	kindList     = "list"
	kindRetain   = "retain"
	kindLease    = "lease"
	kindIndex    = "index"
	kindRecall   = "recall"
	kindPlaces   = "places"
	kindNames    = "names"
	kindSpans    = "partitions"
	kindImport   = "import"
)

type metrics struct {
	registry prometheus.Registerer
	rows     *prometheus.HistogramVec
	seconds  *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	all      []prometheus.Collector
}

func newMetrics(pool *pgxpool.Pool, registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		registry: registry,
		rows: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidewire_store_batch_rows",
			Help:    "How many deliveries or events shared a statement, by kind; its count is the number of batches.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}, []string{"kind"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidewire_store_statement_seconds",
			Help:    "How long a statement took, commit and a second try included, by kind.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16),
		}, []string{"kind"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewire_store_retries_total",
			Help: "Statements that were tried a second time, because the connection was lost or another transaction was in the way.",
		}, []string{"kind"}),
	}
	gauge := func(name, help string, f func(*pgxpool.Stat) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return f(pool.Stat()) })
	}
	m.all = []prometheus.Collector{m.rows, m.seconds, m.retries,
		gauge("tidewire_store_connections", "Connections to PostgreSQL.", func(s *pgxpool.Stat) float64 { return float64(s.TotalConns()) }),
		gauge("tidewire_store_connections_busy", "Connections to PostgreSQL that are in use.", func(s *pgxpool.Stat) float64 { return float64(s.AcquiredConns()) }),
		gauge("tidewire_store_connections_max", "Connections to PostgreSQL that there may be.", func(s *pgxpool.Stat) float64 { return float64(s.MaxConns()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tidewire_store_connection_waits_total",
			Help: "How often a statement had to wait for a connection.",
		}, func() float64 { return float64(pool.Stat().EmptyAcquireCount()) }),
	}
	if registry == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := registry.Register(c); err != nil {
			m.all = m.all[:i] // the others are somebody else's
			return m, err
		}
	}
	return m, nil
}

func (m *metrics) batch(kind string, rows int) { m.rows.WithLabelValues(kind).Observe(float64(rows)) }

func (m *metrics) unregister() {
	if m.registry == nil {
		return
	}
	for _, c := range m.all {
		m.registry.Unregister(c)
	}
}
