package torture

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
	"github.com/tidewire/tidewire/internal/services"
)

// rack is a cluster under test: hubs that share a Kafka, a database and a sink. Its tests run one after the other, not in parallel: each keeps two cores busy, and
// may break what the next one uses as well.
type rack struct {
	t          *testing.T
	kafka      *services.Kafka
	postgres   *services.Postgres
	brokers    []string // what the hubs are told
	database   string
	prefix     string
	partitions int
	sink       *load.Sink
	hubs       []*bed
	running    []*load.Child // by hub; nil for one that is down
	routes     []string
	starts     int             // of hubs
	recoveries []time.Duration // how long after the end of each fault something was delivered
	name       string          // of the scenario, once it has settled
	runs       int
}

// plan says what a rack is made of. Zero fields have defaults.
type plan struct {
	bin  string // default: hub
	hubs int    // default 1
	// kafka and postgres; default: those that all tests share. A test may harm them, since it has them for itself as long as it runs.
	kafka    *services.Kafka
	postgres *services.Postgres
	brokers  []string // default: the Kafka's
	// copies of topics; default 1.
	copies int
	// secure is added to what the hubs are told of Kafka.
	secure string
	// noSpool turns the spool off.
	noSpool bool
	rules   map[string]load.Rule
	// settings as those of newBed; routes are the routes in it. Default: a route to a target that is well and one to a target that fails now and then.
	settings string
	routes   []string
}

var prefixes atomic.Int64

func newRack(t *testing.T, p plan) *rack {
	t.Helper()
	r := &rack{t: t, kafka: p.kafka, postgres: p.postgres, partitions: 4, routes: p.routes, brokers: p.brokers}
	if r.kafka == nil {
		r.kafka = servers.Kafka(t, 1)
	}
	if r.postgres == nil {
		r.postgres = servers.Postgres(t)
	}
	t.Cleanup(r.restore)
	if r.brokers == nil {
		r.brokers = r.kafka.Addresses()
	}
	if p.settings == "" {
		p.settings, r.routes = connections("steady", "flaky")+campaignRoutes, []string{"steady", "flaky"}
		p.settings = strings.ReplaceAll(p.settings, "concurrency: 16", "concurrency: 16, timeout: 2s")
	}
	if p.rules == nil {
		p.rules = map[string]load.Rule{
			"/steady": {Delay: time.Millisecond},
			"/flaky":  {Share: 0.02, Fail: 2, Status: 503, RetryAfter: time.Second}, // parked at once
		}
	}
	r.prefix = fmt.Sprintf("torture%d.", prefixes.Add(1))
	var err error
	if r.database, err = r.postgres.Database(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.sink, err = load.NewSink(load.SinkConfig{Rules: p.rules}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.sink.Close() })
	storage := fmt.Sprintf("cluster:\n  kafka: {brokers: [%s], topic_prefix: %s, partitions: %d, replication: %d%s}\n  postgres: %q\n",
		strings.Join(r.brokers, ", "), r.prefix, r.partitions, max(p.copies, 1), p.secure, r.database)
	storage = "data_dir: {data}\n" + storage
	if p.noSpool {
		storage += "  spool: {enabled: false}\n"
	}
	if p.bin == "" {
		p.bin = hub
	}
	for range max(p.hubs, 1) {
		dir := t.TempDir()
		b := &bed{
			t: t, bin: p.bin, dir: dir, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "tidewire.yaml"), output: filepath.Join(dir, "output"),
			listen: load.FreeAddress(t.Context()), admin: load.FreeAddress(t.Context()), storage: storage, rack: r, sink: r.sink,
		}
		b.configure(p.settings)
		r.hubs = append(r.hubs, b)
	}
	r.running = make([]*load.Child, len(r.hubs))
	return r
}

// restore brings back what the test has taken away, for the next one.
func (r *rack) restore() {
	ctx := context.WithoutCancel(r.t.Context())
	for i := range r.kafka.Addresses() {
		_ = r.kafka.Resume(i) // an error means that it does not run
		if err := r.kafka.Start(ctx, i); err != nil {
			r.t.Error(err)
		}
	}
	if err := r.postgres.Start(ctx); err != nil {
		r.t.Error(err)
	}
}

// up starts a hub and waits until it is ready.
func (r *rack) up(i int, env ...string) {
	r.t.Helper()
	r.running[i] = r.hubs[i].start(env...)
	r.starts++
}

func (r *rack) allUp() {
	r.t.Helper()
	for i := range r.hubs {
		if r.running[i] == nil {
			r.up(i)
		}
	}
}

// kill kills a hub as kill -9 does.
func (r *rack) kill(i int) {
	r.running[i].Kill()
	r.running[i] = nil
}

// down stops a hub gracefully.
func (r *rack) down(i int) {
	r.hubs[i].stop(r.running[i])
	r.running[i] = nil
}

func (r *rack) allDown() {
	for i, c := range r.running {
		if c != nil {
			r.down(i)
		}
	}
}

// fault notes a violation.
func (r *rack) fault(format string, args ...any) { r.hubs[0].fault(format, args...) }

// violations are those of the rack and of all its hubs.
func (r *rack) violations() []string {
	var all []string
	for _, b := range r.hubs {
		all = append(all, b.faults...)
	}
	return all
}

// background posts so many events a second, shared out over every hub's door, until stop is called. A customer's events come through one door, and each door
// has customers of the same names. One in a hundred comes twice, and one in a hundred has a signature that is wrong or too old.
func (r *rack) background(rate float64) (stop func() []*load.Sent) {
	var stops []func() *load.Sent
	for i, b := range r.hubs {
		g := b.generator(fmt.Sprintf("hub%d", i))
		g.Rate, g.Seed = rate/float64(len(r.hubs)), seed+uint64(i)
		g.Duplicates, g.Forged, g.Stale = 0.01, 0.005, 0.005
		stops = append(stops, b.background(g))
	}
	return func() []*load.Sent {
		sent := make([]*load.Sent, len(stops))
		for i, stop := range stops {
			sent[i] = stop()
		}
		return sent
	}
}

// recoverWithin is how long after the end of any fault deliveries go on at the latest: a hub that was killed is missed after its session, and the machine may be busy.
const recoverWithin = sessionTimeout + 20*time.Second

// flowing waits until something that was not delivered when it was called is: the time that takes is how long the hubs need to recover.
func (r *rack) flowing(path string) {
	began, taken := time.Now(), r.sink.Taken(path)
	if !await(r.t, 2*time.Minute, func() bool { return r.sink.Taken(path) > taken }) {
		r.fault("nothing was delivered for two minutes after the fault; hub 0 said %s", r.hubs[0].said())
	}
	took := time.Since(began)
	if took > recoverWithin {
		r.fault("%s passed after a fault until something was delivered, allowed are %s", took.Round(time.Millisecond), recoverWithin)
	}
	r.recoveries = append(r.recoveries, took)
}

// calm waits until no route has anything to do and no spool holds anything. What is still there after the time is stuck.
func (r *rack) calm(within time.Duration) {
	left := r.hubs[0].rested(within, r.busy)
	if left == nil {
		return
	}
	for i, b := range r.hubs {
		left = fmt.Errorf("%w; hub %d said %s", left, i, b.said())
	}
	r.fault("stuck for %s: %v", within, left)
}

// patience is how long a scenario waits for all to come to rest. A hub that is broken on purpose may never come to it.
func (r *rack) patience() time.Duration {
	if bin := r.hubs[0].bin; bin != hub && bin != armedHub {
		return time.Minute
	}
	return 3 * time.Minute
}

// busy says what is left to do.
func (r *rack) busy() error {
	for i, b := range r.hubs {
		if r.running[i] == nil {
			continue
		}
		if err := b.busy(r.routes, routeLag, routeParked); err != nil {
			return fmt.Errorf("hub %d: %w", i, err)
		}
	}
	return nil
}

// verdict compares what was posted at all doors with what came to a path.
func (r *rack) verdict(sent []*load.Sent, path string, duplicates int) (sum load.Verdict) {
	receipts := r.sink.Receipts(path)
	for _, s := range sent {
		sum = sum.Add(load.Check(s, receipts, load.Expect{}))
	}
	if !sum.Clean(duplicates) {
		r.fault("%s: %s (allowed duplicates: %d)", path, sum, duplicates)
	}
	return sum
}

func accepted(sent []*load.Sent) (n int) {
	for _, s := range sent {
		n += s.Count(load.Accepted)
	}
	return n
}

// settled ends a scenario: the load stops, all comes to rest, the two ends' records are compared, the hubs stop, and their books are added up.
// For each route, so many duplicates are allowed.
func (r *rack) settled(name string, runs int, stop func() []*load.Sent, duplicates int) {
	r.t.Helper()
	r.name, r.runs = name, runs
	sent := stop()
	r.allUp()
	r.calm(r.patience())
	var sum load.Verdict
	for _, route := range r.routes {
		sum = sum.Add(r.verdict(sent, "/"+route, duplicates))
	}
	if len(r.violations()) == 0 { // else what is lost would be waited for
		r.indexed(accepted(sent))
	}
	counted, whole := r.counted()
	r.silent()
	r.allDown()
	k := r.addUp(accepted(sent))
	if whole && sum.Duplicates == 0 {
		r.agree(counted, k)
	}
	tell(r.t, name, runs, "accepted", accepted(sent))
	tell(r.t, name, runs, "lost", sum.Lost)
	tell(r.t, name, runs, "refused but delivered", sum.RefusedDelivered)
	tell(r.t, name, runs, "duplicates", sum.Duplicates)
	tell(r.t, name, runs, "duplicates allowed", duplicates*len(r.routes))
	tell(r.t, name, runs, "duplicates under another id", sum.DuplicateIDs)
	tell(r.t, name, runs, "first-delivery inversions", sum.Inversions)
	tell(r.t, name, runs, "altered bodies", sum.Altered)
	tell(r.t, name, runs, "records twice in the log", k.records-len(k.events))
	if len(r.recoveries) > 0 {
		tell(r.t, name, runs, "recovery p95 ms", quantile(r.recoveries, 0.95).Milliseconds())
		tell(r.t, name, runs, "recovery worst ms", slices.Max(r.recoveries).Milliseconds())
	}
}
