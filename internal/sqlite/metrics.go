package sqlite

import (
	"errors"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the file tells of itself. None has labels.
type metrics struct {
	registry prometheus.Registerer
	commit   prometheus.Histogram
	batch    prometheus.Histogram
	all      []prometheus.Collector
}

func newMetrics(db *DB, registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		registry: registry,
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tidewire_store_commit_seconds",
			Help:    "How long a commit took, fsync included.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 14),
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tidewire_store_commit_jobs",
			Help:    "How many jobs shared a commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
	}
	m.all = []prometheus.Collector{m.commit, m.batch,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewire_store_wal_bytes",
			Help: "Size of the write-ahead log's file.",
		}, func() float64 { return float64(size(db.o.Path + "-wal")) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewire_store_file_bytes",
			Help: "Size of the file without its write-ahead log.",
		}, func() float64 { return float64(size(db.o.Path)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewire_store_queue_jobs",
			Help: "Jobs that wait for the writer.",
		}, func() float64 { return float64(len(db.jobs)) }),
	}
	if registry == nil {
		return m, nil
	}
	var errs []error
	for _, c := range m.all {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) committed(took time.Duration, jobs int) {
	m.commit.Observe(took.Seconds())
	m.batch.Observe(float64(jobs))
}

func (m *metrics) unregister() {
	if m.registry == nil {
		return
	}
	for _, c := range m.all {
		m.registry.Unregister(c)
	}
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
