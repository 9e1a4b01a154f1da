package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/admin"
	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/kafkalog"
	"github.com/tidewire/tidewire/pipeline/spool"
	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

// SpoolFile is the name of the spool's file within data_dir, in cluster mode.
const SpoolFile = "spool.db"

const (
	// beatEvery is how often a hub tells the others that it is there.
	beatEvery = 5 * time.Second
	// publishWithin bounds how long a webhook waits for Kafka where there is no spool: providers hang up after ten seconds, and then have heard nothing
	// instead of 503 with a time to come again. With a spool the wait is shorter.
	publishWithin = 8 * time.Second
	// retentionDuty is what the hub that removes old rows holds.
	retentionDuty = "retention"
)

// cluster is cluster mode: the log on Kafka, the store in PostgreSQL, both shared with other hubs.
type cluster struct {
	name   string // of this hub among the others
	keep   config.Retention
	routes []pipeline.Route
	logger *slog.Logger

	kafka *kafkalog.Log
	store *pgstore.Store
	spool *spool.Spool // nil: none
	log   pipeline.Log
	index *pipeline.Indexer
}

func (h *hub) openCluster(ctx context.Context) (storage, error) {
	cfg := h.plan.Config
	c := &cluster{name: h.name(), keep: cfg.Retention, routes: h.plan.Routes, logger: h.logger}
	if err := c.openStore(ctx, h); err != nil {
		return nil, err
	}
	if err := c.openKafka(ctx, h); err != nil {
		return nil, err
	}
	id, err := c.identity(ctx, cfg.Cluster.Kafka)
	if err != nil {
		return nil, err
	}
	if err := c.store.Join(ctx, c.name, id); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	// After it is said that this hub is there: a migration writes its note, then looks for hubs.
	if err := c.refuseHalfMoved(ctx); err != nil {
		return nil, err
	}
	c.log = pipeline.OnKafka(c.kafka)
	wanted, err := c.wantSpool(ctx, h)
	if err != nil {
		return nil, err
	}
	if wanted {
		c.log = pipeline.Spooled(c.spool, c.log)
	}
	c.log = pipeline.Recalling(c.log, c.store, h.logger)
	c.index, err = pipeline.NewIndexer(c.log, c.store, h.plan.sources(), h.logger, h.registry)
	return c, err
}

// identity says which log this is: what all hubs of a cluster must have in common.
func (c *cluster) identity(ctx context.Context, k *config.Kafka) (string, error) {
	id, err := c.kafka.ClusterID(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: cluster.kafka: %w", ErrEnvironment, err)
	}
	return fmt.Sprintf("Kafka cluster %s, topic_prefix %s, partitions %d, replication %d", id, k.TopicPrefix, k.Partitions, k.Replication), nil
}

// name is what this hub is called among those that share the work: the same after a restart, so that it gets back what it had.
func (h *hub) name() string {
	host, err := os.Hostname()
	if err != nil {
		host = "hub"
	}
	if a, ok := h.public.Addr().(*net.TCPAddr); ok {
		return net.JoinHostPort(host, strconv.Itoa(a.Port))
	}
	return host
}

func (c *cluster) openStore(ctx context.Context, h *hub) (err error) {
	c.store, err = pgstore.Open(ctx, pgstore.Config{
		URL: h.plan.Config.Cluster.Postgres.Reveal(), Instance: c.name, Logger: h.logger, Registerer: h.registry, Retention: c.keep.Deliveries.Std(),
	})
	if err != nil {
		return fmt.Errorf("%w: cluster.postgres: %w", ErrEnvironment, err)
	}
	h.onClose("store", c.store.Close)
	return nil
}

func (c *cluster) openKafka(ctx context.Context, h *hub) (err error) {
	lost := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tidewire_log_lost_records_total", Help: "Records that Kafka's retention removed before the route read them; the hub's log says which.",
	}, []string{"route"})
	h.registry.MustRegister(lost)
	damaged := h.damagedRecords()
	kc, err := kafkaConfig(h.plan.Config.Cluster.Kafka)
	if err != nil {
		return fmt.Errorf("%w: cluster.kafka: %w", ErrEnvironment, err)
	}
	kc.Instance, kc.Logger, kc.Registerer = c.name, h.logger, h.registry
	kc.PublishTimeout = publishWithin
	kc.CloseTimeout = h.plan.Config.Server.ShutdownTimeout.Std()
	kc.Retention = c.retention
	kc.OnDamage = func(topic string, partition int32, offset int64, err error) {
		damaged.Inc()
		h.logger.Error("a log record is damaged and is passed over", "topic", topic, "partition", partition, "offset", offset, "error", err)
	}
	kc.OnGap = func(topic, group string, partition int32, from, to int64) {
		lost.WithLabelValues(group).Add(float64(to - from))
		h.logger.Error("Kafka's retention removed records before the route read them; they are lost to it", "topic", topic, "route", group,
			"partition", partition, "from", from, "to", to, "records", to-from)
	}
	if c.kafka, err = kafkalog.Open(ctx, kc); err != nil {
		return fmt.Errorf("%w: cluster.kafka: %w", ErrEnvironment, err)
	}
	h.onClose("log", c.kafka.Close)
	return nil
}

// kafkaConfig is what the config says of Kafka.
func kafkaConfig(k *config.Kafka) (kafkalog.Config, error) {
	c := kafkalog.Config{
		Brokers: k.Brokers, Prefix: k.TopicPrefix, Partitions: k.Partitions, Replication: k.Replication,
		PartitionKey: pipeline.PartitionKey, Prepare: pipeline.Prepare,
	}
	var err error
	if c.TLS, err = kafkaTLS(k.TLS); err != nil {
		return c, err
	}
	c.SASL, err = kafkaSASL(k.SASL)
	return c, err
}

// retention is how long Kafka keeps a topic's records.
func (c *cluster) retention(topic string) time.Duration {
	if pipeline.HoldsDeadLetters(topic) {
		return c.keep.DeadLetters.Std()
	}
	return c.keep.Events.Std()
}

// wantSpool opens the spool where it is enabled, or where it was and still holds events: those have been answered for, and go to Kafka before what comes now.
func (c *cluster) wantSpool(ctx context.Context, h *hub) (bool, error) {
	cfg := h.plan.Config
	if !cfg.Cluster.Spool.Enabled {
		if _, err := os.Stat(filepath.Join(cfg.DataDir, SpoolFile)); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
	}
	if err := c.openSpool(ctx, h); err != nil {
		return false, err
	}
	if state := c.spool.State(ctx); !cfg.Cluster.Spool.Enabled {
		if state.Waiting == 0 && state.Refused == 0 {
			c.spool = nil
			return false, nil
		}
		h.logger.Warn("the spool is switched off and holds events from before; it is used until the hub is started again without any",
			"waiting", state.Waiting, "refused", state.Refused, "file", filepath.Join(cfg.DataDir, SpoolFile))
	}
	return true, nil
}

func (c *cluster) openSpool(ctx context.Context, h *hub) error {
	path := filepath.Join(h.plan.Config.DataDir, SpoolFile)
	fail := func(err error) error { return fmt.Errorf("%w: open the spool %s: %w", ErrEnvironment, path, err) }
	db, err := sqlite.Open(ctx, sqlite.Options{Path: path, Logger: h.logger})
	if err != nil {
		return fail(err)
	}
	h.onClose("spool file", db.Close)
	local, err := sqlitelog.Open(ctx, sqlitelog.Config{DB: db, Logger: h.logger})
	if err != nil {
		return fail(err)
	}
	h.onClose("spool log", local.Close)
	c.spool, err = spool.New(ctx, spool.Config{
		Log: c.kafka, Local: local, Key: pipeline.PartitionKey, Reachable: c.kafka.Probe,
		MaxBytes: h.plan.Config.Cluster.Spool.Max.Int64(), Logger: h.logger, Registerer: h.registry,
	})
	if err != nil {
		return fail(err)
	}
	h.onClose("spool", c.spool.Close)
	return nil
}

func (c *cluster) Log() pipeline.Log { return c.log }
func (c *cluster) Store() ledger     { return c.store }

// Failed is never closed: what is away in cluster mode comes back.
func (c *cluster) Failed() <-chan struct{} { return nil }
func (c *cluster) Err() error              { return nil }

// Run drains the spool, fills the index and tells the other hubs that this one is there.
func (c *cluster) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if c.spool != nil {
		g.Go(func() error { return c.spool.Run(ctx) })
	}
	g.Go(func() error { return c.index.Run(ctx) })
	g.Go(func() error { c.beat(ctx); return nil })
	return g.Wait()
}

func (c *cluster) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for said := ""; ; {
		err := c.store.Beat(ctx)
		switch {
		case err == nil:
			said = ""
		case ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			c.logger.Error("the other hubs cannot be told that this one is there", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Checks implements storage. While the spool takes what Kafka does not, webhooks are accepted, and the hub is ready.
func (c *cluster) Checks() []admin.Check {
	log := admin.Check{Name: "log", Probe: c.kafka.Probe}
	if c.spool != nil {
		log.Probe = c.spool.Probe
		log.Note = c.spoolNote
	}
	return []admin.Check{log, {Name: "store", Probe: c.store.Probe}}
}

// noteWithin bounds asking Kafka for a note.
const noteWithin = time.Second

// spoolNote says what the spool holds, and that Kafka is away also where nobody has noticed for want of events: then nothing is read either.
func (c *cluster) spoolNote() string {
	ctx, cancel := context.WithTimeout(context.Background(), noteWithin)
	defer cancel()
	if text := c.spool.State(ctx).String(); text != "" {
		return text
	}
	if err := c.kafka.Probe(ctx); err != nil {
		return "events would go into the spool: " + err.Error()
	}
	return ""
}

// Holds implements storage.
func (c *cluster) Holds() map[string]string {
	held := make(map[string]map[string][]int32) // partitions by topic by route
	for _, p := range c.kafka.Holdings() {
		if held[p.Group] == nil {
			held[p.Group] = make(map[string][]int32)
		}
		held[p.Group][p.Topic] = append(held[p.Group][p.Topic], p.Partition)
	}
	texts := make(map[string]string, len(held))
	for route, topics := range held {
		var parts []string
		for topic, partitions := range topics {
			parts = append(parts, topic+" "+ranges(partitions))
		}
		slices.Sort(parts)
		texts[route] = strings.Join(parts, "; ")
	}
	return texts
}

// ranges writes numbers for people: 0-3, 7.
func ranges(numbers []int32) string {
	slices.Sort(numbers)
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		text := strconv.Itoa(int(numbers[i]))
		if j > i {
			text += "-" + strconv.Itoa(int(numbers[j]))
		}
		parts = append(parts, text)
		i = j + 1
	}
	return strings.Join(parts, ", ")
}

// Cluster implements storage.
func (c *cluster) Cluster(ctx context.Context) *admin.Cluster {
	all := &admin.Cluster{Hub: c.name, Hubs: []admin.Hub{}, Duties: []admin.Duty{}}
	hubs, err := c.store.Hubs(ctx)
	leases, leaseErr := c.store.Leases(ctx)
	if err := errors.Join(err, leaseErr); err != nil {
		all.Unknown = err.Error()
	}
	for _, h := range hubs {
		all.Hubs = append(all.Hubs, admin.Hub{Name: h.Instance, Started: h.Started, Seen: h.Seen})
	}
	for _, l := range leases {
		all.Duties = append(all.Duties, admin.Duty{Name: l.Name, Holder: l.Holder, Until: l.Until})
	}
	return all
}

// Retain implements storage: the hub that has the duty removes old rows. Kafka removes old records by itself, read or not, so a route that is about
// to lose some is told of ahead of time.
func (c *cluster) Retain(ctx context.Context) error {
	held, err := c.store.Lease(ctx, retentionDuty, 3*retainEvery/2)
	if err != nil || !held {
		return err
	}
	now := time.Now()
	oldest, err := c.warnOfLag(ctx, now)
	errs := []error{err}
	before := now.Add(-c.keep.Deliveries.Std())
	// What may still be handed out must not be forgotten before it.
	if err == nil && (oldest.IsZero() || oldest.After(before)) {
		_, err := c.store.Retain(ctx, before)
		errs = append(errs, err)
	}
	_, indexErr := c.store.RetainIndex(ctx, before)
	_, deadErr := c.store.RetainDead(ctx, now.Add(-c.keep.DeadLetters.Std()))
	return errors.Join(append(errs, indexErr, deadErr)...)
}

// warnOfLag returns when the oldest record that a route has not finished was appended.
func (c *cluster) warnOfLag(ctx context.Context, now time.Time) (oldest time.Time, err error) {
	limit := now.Add(-c.keep.Events.Std() * 8 / 10)
	for _, r := range c.routes {
		for _, source := range r.From {
			n, at, err := c.log.Lag(ctx, pipeline.EventsTopic(source), r.Name)
			if err != nil {
				return oldest, fmt.Errorf("route %s: how far it is behind: %w", r.Name, err)
			}
			if at.IsZero() {
				continue
			}
			if at.Before(limit) {
				c.logger.Error("a route is so far behind that Kafka is about to remove what it has not read: mend its target, or lengthen retention.events and the topic's retention.ms",
					"route", r.Name, "connection", source, "events", n, "oldest", at, "retention", c.keep.Events.String())
			}
			if oldest.IsZero() || at.Before(oldest) {
				oldest = at
			}
		}
	}
	return oldest, nil
}
