package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline"
	"github.com/tidewire/tidewire/pipeline/kafkalog"
)

const (
	// topicsWithin bounds one try at making and checking the topics: a partition without a leader is waited for, and told of.
	topicsWithin = 10 * time.Second
	// releaseWithin bounds giving up a duty at the end; it runs out by itself.
	releaseWithin = 2 * time.Second
)

// Connect implements storage. What cannot be reached is waited for, however long that takes: a hub that is started again while Kafka or PostgreSQL
// is away takes webhooks all the same, into its spool. What is reached and does not fit is refused.
//
// Nothing goes to Kafka before it is certain that this hub belongs there, because what another topic_prefix or another cluster has been given would be read by
// nobody: that is, before PostgreSQL has said so, or, while it is away, where this hub has carried events before.
func (c *cluster) Connect(ctx context.Context) error {
	both, within := errgroup.WithContext(ctx)
	both.Go(func() error { return c.connectKafka(within) })
	both.Go(func() error { return c.connectStore(within) })
	if err := both.Wait(); err != nil {
		return err
	}
	if err := c.join(ctx); err != nil {
		return err
	}
	if !c.later.Opened() {
		if err := c.letThrough(ctx); err != nil {
			return err
		}
	}
	if err := remember(c.plan.Config, c.id); err != nil {
		c.logger.Warn("the hub cannot note to which cluster it belongs: started again while PostgreSQL is away, it gives Kafka nothing until that is back", "error", err)
	}
	close(c.connected)
	return nil
}

// connectKafka opens the log, and lets webhooks through to it where this hub has been before.
func (c *cluster) connectKafka(ctx context.Context) error {
	known := recall(c.plan.Config)
	away := func(err error) bool {
		// With a hub that has worked with these settings, whoever hangs up on it is more likely to be away than wrong.
		return kafkalog.Away(err) || known != "" && kafkalog.Closed(err)
	}
	err := c.waits.kafka.until(ctx, away, func(ctx context.Context) (err error) {
		if kafka, _ := c.opened(); kafka == nil {
			if err := c.openKafka(ctx); err != nil {
				return err
			}
		}
		c.id, err = c.identity(ctx, c.plan.Config.Cluster.Kafka)
		return err
	})
	if err != nil || c.id != known {
		return err
	}
	return c.letThrough(ctx)
}

// letThrough gives Kafka what comes from now on, in topics that fit.
func (c *cluster) letThrough(ctx context.Context) error {
	if err := c.ensureTopics(ctx); err != nil {
		return err
	}
	c.later.Open(pipeline.OnKafka(c.kafka))
	return nil
}

func (c *cluster) connectStore(ctx context.Context) error {
	return c.waits.store.until(ctx, pgstore.Away, c.openStore)
}

// join adds this hub to those that run, if it fits.
func (c *cluster) join(ctx context.Context) error {
	return c.waits.store.until(ctx, pgstore.Away, func(ctx context.Context) error {
		if err := c.store.Join(ctx, c.name, c.id); err != nil {
			return fmt.Errorf("%w: cluster.postgres: %w", ErrEnvironment, err)
		}
		// After it is said that this hub is there: a migration writes its note, then looks for hubs.
		return c.refuseHalfMoved(ctx)
	})
}

// ensureTopics makes the topics that are missing and checks the others.
func (c *cluster) ensureTopics(ctx context.Context) error {
	return c.waits.kafka.until(ctx, kafkalog.Away, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, topicsWithin)
		defer cancel()
		if err := c.kafka.Ensure(ctx, c.plan.topics()...); err != nil {
			return fmt.Errorf("%w: cluster.kafka: %w", ErrEnvironment, err)
		}
		return nil
	})
}

// received are the topics that webhooks go to.
func (p *Plan) received() []string {
	var topics []string
	for _, source := range p.sources() {
		topics = append(topics, pipeline.EventsTopic(source))
	}
	return topics
}

// topics are those that the hub appends to and reads.
func (p *Plan) topics() []string {
	topics := p.received()
	for _, r := range p.Routes {
		topics = append(topics, pipeline.DeadTopic(r.Name))
		for _, source := range r.From {
			topics = append(topics, pipeline.EventsTopic(source))
		}
	}
	return topics
}

// identity says which log this is: what all hubs of a cluster must have in common.
func (c *cluster) identity(ctx context.Context, k *config.Kafka) (string, error) {
	id, err := c.kafka.ClusterID(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: cluster.kafka: %w", ErrEnvironment, err)
	}
	return fmt.Sprintf("Kafka cluster %s, topic_prefix %s, partitions %d, replication %d", id, k.TopicPrefix, k.Partitions, k.Replication), nil
}

// prepareStore sees to it that the store is closed; a duty of this hub's is free for another then.
func (c *cluster) prepareStore(h *hub) {
	c.registry = h.registry
	h.onClose("store", func() error {
		_, store := c.opened()
		if store == nil {
			return nil
		}
		if c.retaining.Load() {
			ctx, cancel := context.WithTimeout(context.Background(), releaseWithin)
			defer cancel()
			if err := store.Release(ctx, retentionDuty); err != nil {
				c.logger.Warn("a duty of this hub's could not be given up; it passes to another when its lease has run out", "duty", retentionDuty, "error", err)
			}
		}
		return store.Close()
	})
}

func (c *cluster) openStore(ctx context.Context) error {
	store, err := pgstore.Open(ctx, pgstore.Config{
		URL: c.plan.Config.Cluster.Postgres.Reveal(), Instance: c.name, Logger: c.logger, Registerer: c.registry, Retention: c.keep.Deliveries.Std(),
	})
	if err != nil {
		return fmt.Errorf("%w: cluster.postgres: %w", ErrEnvironment, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store = store
	return nil
}

// prepareKafka reads what the config says of Kafka, and sees to it that the log is closed.
func (c *cluster) prepareKafka(h *hub) (err error) {
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
	kc.Places = lateStore{c}
	kc.OnDamage = func(topic string, partition int32, offset int64, err error) {
		damaged.Inc()
		h.logger.Error("a log record is damaged and is passed over", "topic", topic, "partition", partition, "offset", offset, "error", err)
	}
	kc.OnGap = func(topic, group string, partition int32, from, to int64) {
		lost.WithLabelValues(group).Add(float64(to - from))
		h.logger.Error("Kafka's retention removed records before the route read them; they are lost to it", "topic", topic, "route", group,
			"partition", partition, "from", from, "to", to, "records", to-from)
	}
	c.kafkaConfig = kc
	h.onClose("log", func() error {
		if kafka, _ := c.opened(); kafka != nil {
			return kafka.Close()
		}
		return nil
	})
	return nil
}

func (c *cluster) openKafka(ctx context.Context) error {
	kafka, err := kafkalog.Open(ctx, c.kafkaConfig)
	if err != nil {
		return fmt.Errorf("%w: cluster.kafka: %w", ErrEnvironment, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kafka = kafka
	return nil
}

// opened are the two halves as far as they have been opened.
func (c *cluster) opened() (*kafkalog.Log, *pgstore.Store) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kafka, c.store
}

// unopened says why the log is not given anything yet.
func (c *cluster) unopened() error {
	if err := c.waits.kafka.why(); err != nil {
		return err
	}
	kafka, store := c.opened()
	if err := c.waits.store.why(); err != nil && kafka != nil {
		return fmt.Errorf("Kafka answers and is given nothing before it is known whether this hub belongs there: %w", err) //nolint:staticcheck // it begins with a name
	}
	if kafka == nil || store == nil {
		return errors.New("the hub is starting and connects to Kafka and PostgreSQL")
	}
	return errors.New("the hub is starting and checks its topics")
}

// lateStore is the store for those who are made before it is there.
type lateStore struct{ c *cluster }

// get returns the store, or why there is none.
func (s lateStore) get() (*pgstore.Store, error) {
	if _, store := s.c.opened(); store != nil {
		return store, nil
	}
	if err := s.c.waits.store.why(); err != nil {
		return nil, err
	}
	return nil, errors.New("the hub is starting and connects to PostgreSQL")
}

// Index implements pipeline.Index.
func (s lateStore) Index(ctx context.Context, events []pipeline.Indexed) ([]pipeline.Repeat, error) {
	store, err := s.get()
	if err != nil {
		return nil, err
	}
	return store.Index(ctx, events)
}

// Recall implements pipeline.Memory.
func (s lateStore) Recall(ctx context.Context, source string, ids []string) ([][]byte, error) {
	store, err := s.get()
	if err != nil {
		return nil, err
	}
	return store.Recall(ctx, source, ids)
}
