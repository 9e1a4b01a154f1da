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
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tidewire/tidewire/config"
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
	plan   *Plan
	keep   config.Retention
	routes []pipeline.Route
	logger *slog.Logger

	registry    *prometheus.Registry
	kafkaConfig kafkalog.Config

	spool *spool.Spool    // nil: none
	later *pipeline.Later // Kafka, from when it may be written to
	log   pipeline.Log    // that, behind what stands in front of it
	index *pipeline.Indexer

	waits     waits
	id        string        // what all hubs must have in common, from when Kafka answers
	connected chan struct{} // closed when the hub may carry events
	retaining atomic.Bool   // this hub has had the retention duty

	mu      sync.Mutex // guards the following where it is not certain that the hub is connected
	kafka   *kafkalog.Log
	store   *pgstore.Store
	strange error // why the other hubs could not be told of this one
}

// openCluster prepares cluster mode as far as this machine alone is concerned; Connect does the rest.
func (h *hub) openCluster(ctx context.Context) (storage, error) {
	cfg := h.plan.Config
	c := &cluster{name: h.name(), plan: h.plan, keep: cfg.Retention, routes: h.plan.Routes, logger: h.logger, waits: newWaits(h.logger), connected: make(chan struct{})}
	c.prepareStore(h) // closed after the log, which keeps its last places there
	if err := c.prepareKafka(h); err != nil {
		return nil, err
	}
	c.later = pipeline.NewLater(c.unopened)
	c.log = c.later
	wanted, err := c.wantSpool(ctx, h)
	if err != nil {
		return nil, err
	}
	if wanted {
		c.log = pipeline.Spooled(c.spool, c.log)
	}
	c.log = pipeline.Recalling(c.log, lateStore{c}, h.logger)
	c.index, err = pipeline.NewIndexer(c.log, lateStore{c}, h.plan.sources(), h.logger, h.registry)
	return c, err
}

// name is what this hub is called among those that share the work: the same after a restart, so that it gets back what it had.
func (h *hub) name() string {
	if name := h.plan.Config.Hub.Name; name != "" {
		return name
	}
	host, err := os.Hostname()
	if err != nil {
		host = "hub"
	}
	if a, ok := h.public.Addr().(*net.TCPAddr); ok {
		return net.JoinHostPort(host, strconv.Itoa(a.Port))
	}
	return host
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
		Log: c.later, Local: local, Key: pipeline.PartitionKey, Reachable: c.reach,
		MaxBytes: h.plan.Config.Cluster.Spool.Max.Int64(), Logger: h.logger, Registerer: h.registry,
	})
	if err != nil {
		return fail(err)
	}
	h.onClose("spool", c.spool.Close)
	return nil
}

func (c *cluster) Log() pipeline.Log { return c.log }

// Store is the ledger; nil before Connect has returned.
func (c *cluster) Store() ledger {
	_, store := c.opened()
	return store
}

// Failed is never closed: what is away in cluster mode comes back.
func (c *cluster) Failed() <-chan struct{} { return nil }
func (c *cluster) Err() error              { return nil }

// Run drains the spool and, once the hub is connected, fills the index and tells the other hubs that this one is there.
func (c *cluster) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if c.spool != nil {
		g.Go(func() error { return c.spool.Run(ctx) })
	}
	g.Go(func() error {
		select {
		case <-c.connected:
			return c.index.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		select {
		case <-c.connected:
			c.beat(ctx)
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

func (c *cluster) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for said := ""; ; {
		err := c.store.Beat(ctx)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.strange = err
		c.mu.Unlock()
		switch {
		case err == nil:
			said = ""
		case err.Error() != said:
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
