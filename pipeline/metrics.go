package pipeline

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcomes of a delivery as metrics name them, beside the states.
const (
	outcomeFiltered  = "filtered"
	outcomeDuplicate = "duplicate"
	outcomeBehind    = "behind"
)

// metrics of the pipeline. Labels are bounded by the config: routes, targets and fixed words.
type metrics struct {
	deliveries *prometheus.CounterVec
	attempts   *prometheus.HistogramVec
	endToEnd   *prometheus.HistogramVec
	breaker    *prometheus.GaugeVec
	paused     *prometheus.GaugeVec
	log        *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewire_deliveries_total",
			Help: "Deliveries by route and outcome: delivered, parked, dead, filtered, duplicate, behind (parked behind elders of the same key).",
		}, []string{"route", "outcome"}),
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tidewire_delivery_seconds", Help: "How long one attempt at a delivery took.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route"}),
		endToEnd: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tidewire_end_to_end_seconds", Help: "From the acceptance of an event to its delivery.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 86400},
		}, []string{"route"}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tidewire_target_resting", Help: "1 while a target's breaker is open, 0.5 while it is probed.",
		}, []string{"target"}),
		paused: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tidewire_route_paused", Help: "1 while a route is paused.",
		}, []string{"route"}),
		log: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewire_settle_failures_total", Help: "Outcomes that could not be written at once and were tried again.",
		}, []string{"route"}),
	}
	for _, c := range []prometheus.Collector{m.deliveries, m.attempts, m.endToEnd, m.breaker, m.paused, m.log} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// routeMetrics are one route's children, looked up once.
type routeMetrics struct {
	delivered, parked, dead, filtered, duplicate, behind prometheus.Counter
	settleFailures                                       prometheus.Counter
	attempts, endToEnd                                   prometheus.Observer
	paused                                               prometheus.Gauge
}

func (m *metrics) route(name string) routeMetrics {
	d := func(outcome string) prometheus.Counter { return m.deliveries.WithLabelValues(name, outcome) }
	return routeMetrics{
		delivered: d(string(Delivered)), parked: d(string(Parked)), dead: d(string(Dead)),
		filtered: d(outcomeFiltered), duplicate: d(outcomeDuplicate), behind: d(outcomeBehind),
		settleFailures: m.log.WithLabelValues(name),
		attempts:       m.attempts.WithLabelValues(name), endToEnd: m.endToEnd.WithLabelValues(name),
		paused: m.paused.WithLabelValues(name),
	}
}

// backlog reads at each scrape how far the routes are behind and what the store holds for them.
type backlog struct {
	log    Log
	census Census
	routes []Route

	lag, lagSeconds, parked, oldest, dead *prometheus.Desc
}

// scrapeWithin bounds the queries of one scrape.
const scrapeWithin = 5 * time.Second

func newBacklog(log Log, census Census, routes []Route) *backlog {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"route"}, nil)
	}
	return &backlog{
		log: log, census: census, routes: routes,
		lag:        desc("tidewire_route_lag_events", "Records that the route has not finished."),
		lagSeconds: desc("tidewire_route_lag_seconds", "Age of the oldest record that the route has not finished."),
		parked:     desc("tidewire_parked", "Parked deliveries."),
		oldest:     desc("tidewire_parked_oldest_seconds", "How long ago the oldest parked delivery was parked."),
		dead:       desc("tidewire_dead", "Dead letters kept."),
	}
}

// Describe implements prometheus.Collector.
func (b *backlog) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{b.lag, b.lagSeconds, b.parked, b.oldest, b.dead} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out; readyz says why.
func (b *backlog) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWithin)
	defer cancel()
	gauge := func(d *prometheus.Desc, route string, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, route)
	}
	since := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return max(0, time.Since(t).Seconds())
	}
	numbers, censusErr := b.census.Count(ctx)
	for _, r := range b.routes {
		if records, oldest, err := lagOf(ctx, b.log, r); err == nil {
			gauge(b.lag, r.Name, float64(records))
			gauge(b.lagSeconds, r.Name, since(oldest))
		}
		if censusErr == nil {
			n := numbers[r.Name]
			gauge(b.parked, r.Name, float64(n.Parked))
			gauge(b.oldest, r.Name, since(n.OldestParked))
			gauge(b.dead, r.Name, float64(n.Dead))
		}
	}
}

// lagOf is how far a route is behind in all its topics.
func lagOf(ctx context.Context, log Log, r Route) (records int64, oldest time.Time, err error) {
	for _, source := range r.From {
		n, t, err := log.Lag(ctx, EventsTopic(source), r.Name)
		if err != nil {
			return 0, time.Time{}, err
		}
		records += n
		if !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	return records, oldest, nil
}
