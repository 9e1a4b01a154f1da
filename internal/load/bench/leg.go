package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// Bounds of a leg beyond its duration.
const (
	quiet   = 20 * time.Second // with no delivery coming, what is missing is lost
	drained = 10 * time.Minute // to deliver everything
	stopped = 15 * time.Second // for a process to end
)

// leg is one thing to measure.
type leg struct {
	name   string
	limit  bool    // the limit, not a hub
	rate   float64 // 0: saturation
	routes []route // of the hub
	data   string  // an existing data_dir; "": a fresh one
	idle   bool    // let it come to rest first, and see what it holds then

	cluster bool // on Kafka and PostgreSQL
	hubs    int  // how many share the load; 0: one
	rest    bool // send nothing: see what it uses at rest
}

// result is what a leg measured. Times of the zero value are left out of the report.
type result struct {
	ran bool
	// perSecond is the accepted events over the time from the first post to the last delivery.
	perSecond float64
	// cpuPerEvent and harnessPerEvent are in µs, for the measured process (all hubs together) and for generator and sink.
	cpuPerEvent, harnessPerEvent float64
	// brokerPerEvent and databasePerEvent are those of Kafka and PostgreSQL; restCPU is the share of a core that is used at rest.
	brokerPerEvent, databasePerEvent, restCPU float64
	ackP50, ackP99                            time.Duration
	// throughP50 and throughP99 are from the intended time of sending to the target's first 200.
	throughP50, throughP99 time.Duration
	ready                  time.Duration
	idle, peak             int64 // bytes resident
	verdict                load.Verdict
	ordered                bool // order was promised
	apart                  bool // each of several hubs was in a network namespace
}

// faults counts what must not happen. Nothing crashes here, so a duplicate is one.
func (r result) faults() int {
	v := r.verdict
	n := v.Lost + v.RefusedDelivered + v.Strangers + v.ForgedAccepted + v.Duplicates + v.Altered + v.Refused + v.Unknown
	if r.ordered {
		n += v.Inversions
	}
	return n
}

// run starts a process, puts it under load, waits until everything has come through, and ends it.
func (r *runner) run(ctx context.Context, l leg) (res result, err error) {
	r.count++
	dir := filepath.Join(r.dir, fmt.Sprintf("leg%03d", r.count))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return res, err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	rules := make(map[string]load.Rule)
	if l.limit {
		rules["/"+Target] = load.Rule{}
	}
	for _, t := range targets(l.routes) {
		rules["/"+t.name] = t.rule
	}
	sink, err := load.NewSink(load.SinkConfig{Rules: rules})
	if err != nil {
		return res, err
	}
	defer func() { _ = sink.Close() }()
	var in *room
	if l.cluster {
		if in, err = r.Cluster.enter(ctx, r.count); err != nil {
			return res, err
		}
		defer in.leave(ctx)
	}
	t, err := r.start(ctx, l, in, dir, sink)
	if err != nil {
		return res, err
	}
	defer t.close()
	res.ready, res.apart, res.ordered, res.ran = t.children[0].Ready, t.apart, !l.limit, true
	if l.rest {
		err = r.measureRest(ctx, t, &res)
	} else {
		err = r.measure(ctx, l, t, sink, in, &res)
	}
	if err != nil {
		return res, err
	}
	if err := t.ended(); err != nil {
		return res, err
	}
	if err := t.stop(); err != nil && !l.hasTarpit() {
		return res, fmt.Errorf("stop: %w", err)
	}
	return res, nil
}

// start starts what the leg measures.
func (r *runner) start(ctx context.Context, l leg, in *room, dir string, sink *load.Sink) (_ *team, err error) {
	if l.hubs > 1 {
		return r.startSeveral(ctx, l, in, dir, sink)
	}
	listen, admin := load.FreeAddress(ctx), load.FreeAddress(ctx)
	command, err := r.command(l, in, dir, sink, listen, admin)
	if err != nil {
		return nil, err
	}
	child, err := load.Start(ctx, command)
	if err != nil {
		return nil, err
	}
	return &team{address: listen, children: []*load.Child{child}}, nil
}

// command writes what the process needs and says how to start it.
func (r *runner) command(l leg, in *room, dir string, sink *load.Sink, listen, admin string) (load.Command, error) {
	c := load.Command{Env: append(secrets(), r.Env...), Output: filepath.Join(dir, "log"), Within: time.Minute}
	if l.limit {
		limit := load.LimitConfig{Listen: listen, Target: sink.URL("/" + Target), File: filepath.Join(dir, "file")}
		if in != nil {
			limit.File, limit.Brokers, limit.Topic = "", []string{in.cluster.Kafka}, in.prefix+"limit"
		}
		c.Args = append([]string{r.Binary, "bench", "limit"}, limit.Args()...)
		c.ReadyURL = "http://" + listen + "/readyz"
		return c, nil
	}
	data := l.data
	if data == "" {
		data = filepath.Join(dir, "data")
	}
	file := filepath.Join(dir, "tidewire.yaml")
	text := hubConfig(listen, admin, data, in, l.routes, sink.URL)
	c.Args = []string{r.Binary, "serve", "--config", file}
	c.ReadyURL = "http://" + admin + "/readyz"
	return c, os.WriteFile(file, []byte(text), 0o600)
}

func (r *runner) measure(ctx context.Context, l leg, t *team, sink *load.Sink, in *room, res *result) error {
	if l.idle {
		if err := pause(ctx, min(r.Duration/3, 3*time.Second)); err != nil {
			return err
		}
	}
	m, err := t.memory()
	if err != nil {
		return err
	}
	res.idle = m.RSS
	self := load.Process(os.Getpid())
	before, selfBefore, err := cpus(t, self)
	if err != nil {
		return err
	}
	brokerBefore, databaseBefore := in.used()
	sent, err := load.Generator{
		Address: t.address, Path: "/in/" + Connection, Secret: stripeSecret, Source: "b" + strconv.Itoa(r.count),
		Connections: r.Connections, Rate: l.rate, Duration: r.Duration, Types: l.types(),
	}.Run(ctx)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	bound, cancel := context.WithTimeout(ctx, drained)
	defer cancel()
	paths := l.healthyPaths()
	accepted := sent.Count(load.Accepted)
	if err := sink.Wait(bound, int64(accepted*len(paths)), quiet, paths...); err != nil && ctx.Err() != nil {
		return err
	}
	after, selfAfter, err := cpus(t, self)
	if err != nil {
		return err
	}
	if m, err = t.memory(); err != nil {
		return err
	}
	res.peak = m.Peak
	res.cpuPerEvent = micros(after-before) / float64(max(accepted, 1))
	res.harnessPerEvent = micros(selfAfter-selfBefore) / float64(max(accepted, 1))
	broker, database := in.used()
	res.brokerPerEvent = micros(broker-brokerBefore) / float64(max(accepted, 1))
	res.databasePerEvent = micros(database-databaseBefore) / float64(max(accepted, 1))
	res.ackP50, res.ackP99 = sent.Ack.Quantile(0.5), sent.Ack.Quantile(0.99)
	if err := pause(ctx, 50*time.Millisecond); err != nil { // a duplicate that is under way shall be seen
		return err
	}
	res.account(sent, sink, paths, accepted)
	return nil
}

// measureRest lets the process come to rest and sees what it uses then.
func (r *runner) measureRest(ctx context.Context, t *team, res *result) error {
	if err := pause(ctx, r.Duration/3); err != nil {
		return err
	}
	before, err := t.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := pause(ctx, r.Duration); err != nil {
		return err
	}
	after, err := t.cpu()
	res.restCPU = float64(after-before) / float64(time.Since(begin))
	return err
}

// account compares the records of both ends, path by path.
func (res *result) account(sent *load.Sent, sink *load.Sink, paths []string, accepted int) {
	due := make(map[load.ID]int64, len(sent.Posts))
	for _, p := range sent.Posts {
		due[sent.ID(p)] = p.Due
	}
	var last int64
	var through load.Histogram
	for _, path := range paths {
		receipts := sink.Receipts(path)
		res.verdict = res.verdict.Add(load.Check(sent, receipts, load.Expect{OrderByType: len(sent.Types) > 1}))
		for _, r := range receipts {
			if d, first := due[r.ID]; r.Status == 200 && first {
				last = max(last, r.At)
				through.Record(time.Duration(r.At - d))
			}
		}
	}
	res.throughP50, res.throughP99 = through.Quantile(0.5), through.Quantile(0.99)
	if took := time.Duration(last - sent.Start.UnixNano()); took > 0 {
		res.perSecond = float64(accepted) / took.Seconds()
	}
}

func cpus(t *team, self load.Process) (measured, own time.Duration, err error) {
	if measured, err = t.cpu(); err != nil {
		return 0, 0, err
	}
	own, err = self.CPU()
	return measured, own, err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
