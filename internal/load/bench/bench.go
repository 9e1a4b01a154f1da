// Package bench measures a hub beside the bare durable limit, in one run on one machine: each round runs every leg once, limit
// and hub in turn, so that a machine that grows slower or faster meanwhile does so for both. Figures are medians
// over the rounds and ratios are taken within a round. Every event of every leg is accounted for.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Names that the configs of the measured hubs use; Fill has to store under them.
const (
	// Connection is the connection that events come from.
	Connection = "stripe"
	// Route is the one route of the legs with one route, and Target its connection.
	Route  = "all"
	Target = "sink"
)

// Config says what to measure. The zero value of a field means its default.
type Config struct {
	// Binary is the tidewire to measure; "serve --config FILE" starts a hub, "bench limit …" the limit (see load.ParseLimit).
	Binary string
	// Env is added to the environment of both, as "NAME=value".
	Env []string
	// Dir is where data is put, in a folder of its own that is removed at the end; it should lie on the disk a hub would
	// use, not in memory. Default: the folder for temporary files.
	Dir string
	// Duration is how long each leg is sent events; default 15 s. Rounds is how often each leg runs; default 3.
	Duration time.Duration
	Rounds   int
	// Rate is the events a second of the paced legs; default 500.
	Rate float64
	// Connections is how many connections post; default 64.
	Connections int
	// Stored is how many events lie in the store for the legs that ask what a full store costs; default 5,000,000.
	Stored int
	// Quick makes the defaults 3 s, 1 round and 200,000 stored.
	Quick bool
	// Fill makes dir a data_dir that holds n events of Connection, all of them settled by Route. Nil leaves out the legs
	// with stored events.
	Fill func(ctx context.Context, dir string, n int) error
	// Cluster adds the legs in cluster mode; nil leaves them out.
	Cluster *Cluster
	// Out gets a line for each leg and the table at the end; default: nowhere.
	Out io.Writer
	// Page is the Markdown file to write, such as docs/benchmarks.md; empty: none.
	Page string
}

// WithDefaults returns c with its defaults filled in.
func (c Config) WithDefaults() Config {
	duration, rounds, stored := 15*time.Second, 3, 5_000_000
	if c.Quick {
		duration, rounds, stored = 3*time.Second, 1, 200_000
	}
	if c.Duration == 0 {
		c.Duration = duration
	}
	if c.Rounds == 0 {
		c.Rounds = rounds
	}
	if c.Stored == 0 {
		c.Stored = stored
	}
	if c.Rate == 0 {
		c.Rate = 500
	}
	if c.Connections == 0 {
		c.Connections = 64
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c
}

// round holds what every leg of one round measured.
type round struct {
	limit, hub           result // at saturation
	limitPaced, hubPaced result
	failing              result
	routes100            result
	healthy, tarpit      result
	stored               result

	clusterLimit, clusterHub        result
	clusterTwo                      result
	clusterLimitPaced, clusterPaced result
	cluster20, clusterRest          result
}

// planned is a leg and where its result goes.
type planned struct {
	leg  leg
	into *result
}

// Run measures, prints, writes the page, and returns the report. An error means that no figure can be trusted: a process did
// not start, died, or a leg did not end. A target that is missed, or events that are lost, are in the report.
func Run(ctx context.Context, c Config) (Report, error) {
	c = c.WithDefaults()
	if c.Binary == "" {
		return Report{}, errors.New("bench: no binary to measure")
	}
	dir, err := os.MkdirTemp(c.Dir, "tidewire-bench-")
	if err != nil {
		return Report{}, fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := runner{Config: c, dir: dir}
	begin := time.Now()
	full, err := r.fill(ctx)
	if err != nil {
		return Report{}, err
	}
	var rounds []round
	for n := range c.Rounds {
		_, _ = fmt.Fprintf(c.Out, "round %d of %d\n", n+1, c.Rounds)
		one, err := r.round(ctx, full)
		if err != nil {
			return Report{}, fmt.Errorf("bench: round %d: %w", n+1, err)
		}
		rounds = append(rounds, one)
	}
	report := summarize(c, rounds)
	report.Machine, report.Date, report.Took = machine(), begin.UTC(), time.Since(begin)
	_, _ = fmt.Fprintf(c.Out, "\n%s", report.Table())
	if c.Page != "" {
		if err := os.WriteFile(c.Page, []byte(report.Markdown()), 0o644); err != nil {
			return report, fmt.Errorf("bench: write the page: %w", err)
		}
	}
	return report, nil
}

// runner runs legs in folders under dir.
type runner struct {
	Config
	dir   string
	count int // of legs so far: names their folders and the sources of their events
}

// fill prepares the data_dir of the stored legs; "" when there are none.
func (r *runner) fill(ctx context.Context) (string, error) {
	if r.Fill == nil {
		return "", nil
	}
	dir := filepath.Join(r.dir, "full")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	begin := time.Now()
	if err := r.Fill(ctx, dir, r.Stored); err != nil {
		return "", fmt.Errorf("bench: store %d events: %w", r.Stored, err)
	}
	_, _ = fmt.Fprintf(r.Out, "stored %d events in %s\n", r.Stored, time.Since(begin).Round(time.Second))
	return dir, nil
}

// round runs every leg once.
func (r *runner) round(ctx context.Context, full string) (round, error) {
	var o round
	legs := []planned{
		{leg{name: "limit at saturation", limit: true}, &o.limit},
		{leg{name: "hub at saturation", routes: oneRoute(), idle: true}, &o.hub},
		{leg{name: "limit, paced", limit: true, rate: r.Rate}, &o.limitPaced},
		{leg{name: "hub, paced", routes: oneRoute(), rate: r.Rate}, &o.hubPaced},
		{leg{name: "hub, 1 % of deliveries fail at first", routes: failingRoute()}, &o.failing},
		{leg{name: "hub, 100 routes", routes: hundredRoutes()}, &o.routes100},
		{leg{name: "hub, 4 healthy targets", routes: fourRoutes(false)}, &o.healthy},
		{leg{name: "hub, 3 healthy targets and a tarpit", routes: fourRoutes(true)}, &o.tarpit},
		{leg{name: "hub, events stored", routes: oneRoute(), data: full, idle: true}, &o.stored},
	}
	if r.Cluster != nil {
		legs = append(legs, clusterLegs(&o, clusterRate)...)
	}
	for _, l := range legs {
		if l.into == &o.stored && full == "" {
			continue
		}
		res, err := r.run(ctx, l.leg)
		if err != nil {
			return o, fmt.Errorf("%s: %w", l.leg.name, err)
		}
		*l.into = res
		if l.leg.rest {
			_, _ = fmt.Fprintf(r.Out, "  %-38s %5.1f %% of a core\n", l.leg.name, res.restCPU*100)
			continue
		}
		_, _ = fmt.Fprintf(r.Out, "  %-38s %7.0f events/s  %6.1f µs CPU  ack p50 %s p99 %s  peak %s  faults %d\n", l.leg.name,
			res.perSecond, res.cpuPerEvent, millis(res.ackP50), millis(res.ackP99), mebi(res.peak), res.faults())
	}
	return o, nil
}
