package bench

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/segmentio/kafka-go"

	"github.com/tidewire/tidewire/internal/load"
)

// Cluster is where Kafka and PostgreSQL run on this machine, for the legs in cluster mode. Each leg has topics and a database of its own, which
// are removed after it.
type Cluster struct {
	// Kafka is one broker, host:port.
	Kafka string
	// Postgres is a URL of a user who may create databases.
	Postgres string
}

// room is what one leg has on the servers.
type room struct {
	cluster          *Cluster
	prefix, database string
	broker, postgres load.Process // 0: not found, and not measured
}

// enter makes a room. What it makes is named after the time, so that the servers may be those of other work.
func (c *Cluster) enter(ctx context.Context, number int) (*room, error) {
	name := fmt.Sprintf("bench%d_%d", time.Now().UnixMilli(), number)
	r := &room{cluster: c, prefix: name + "."}
	u, err := url.Parse(c.Postgres)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL's URL: %w", err)
	}
	if err := c.execute(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, err
	}
	port, _ := strconv.Atoi(u.Port())
	r.postgres, _ = load.Listener(port) // elsewhere, or another user's: the figure is left out
	u.Path = "/" + name
	r.database = u.String()
	if _, text, err := net.SplitHostPort(c.Kafka); err == nil {
		port, _ := strconv.Atoi(text)
		r.broker, _ = load.Listener(port)
	}
	return r, nil
}

func (c *Cluster) execute(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, c.Postgres)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

// leave removes what the leg had. It is no harm when that fails: it is a matter of room on the disk.
func (r *room) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_ = r.cluster.execute(ctx, "DROP DATABASE "+strings.TrimSuffix(r.prefix, ".")+" WITH (FORCE)")
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(r.cluster.Kafka), Transport: transport}
	known, err := client.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return
	}
	var topics []string
	for _, t := range known.Topics {
		if strings.HasPrefix(t.Name, r.prefix) {
			topics = append(topics, t.Name)
		}
	}
	if len(topics) > 0 {
		_, _ = client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: topics})
	}
}

// used is what broker and database have used so far; zero of one that is not measured.
func (r *room) used() (broker, database time.Duration) {
	if r == nil {
		return 0, 0
	}
	if r.broker != 0 {
		broker, _ = r.broker.CPU()
	}
	if r.postgres != 0 {
		database, _ = r.postgres.FamilyCPU()
	}
	return broker, database
}

// servers are where a hub finds Kafka's brokers and PostgreSQL, host:port.
func (r *room) servers(ctx context.Context) ([]string, error) {
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	known, err := (&kafka.Client{Addr: kafka.TCP(r.cluster.Kafka), Transport: transport}).Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask Kafka for its brokers: %w", err)
	}
	servers := []string{r.cluster.Kafka}
	for _, b := range known.Brokers {
		servers = append(servers, net.JoinHostPort(b.Host, strconv.Itoa(b.Port)))
	}
	database, err := pgx.ParseConfig(r.database)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL's URL: %w", err)
	}
	if !strings.HasPrefix(database.Host, "/") { // a socket file is there from every network
		servers = append(servers, net.JoinHostPort(database.Host, strconv.Itoa(int(database.Port))))
	}
	for i, server := range servers { // one has several names
		at, err := net.ResolveTCPAddr("tcp", server)
		if err != nil {
			return nil, err
		}
		servers[i] = at.String()
	}
	slices.Sort(servers)
	return slices.Compact(servers), nil
}

// config is the part of a hub's config that makes it one in cluster mode; nothing for nil.
func (r *room) config() string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("cluster:\n  kafka: {brokers: [%q], topic_prefix: %q, partitions: 12, replication: 1}\n  postgres: %q\n", r.cluster.Kafka, r.prefix, r.database)
}

// clusterLegs are run after the embedded ones.
func clusterLegs(o *round, rate float64) []planned {
	return []planned{
		{leg{name: "cluster: limit at saturation", cluster: true, limit: true}, &o.clusterLimit},
		{leg{name: "cluster: hub at saturation", cluster: true, routes: oneRoute()}, &o.clusterHub},
		{leg{name: "cluster: two hubs at saturation", cluster: true, hubs: 2, routes: oneRoute()}, &o.clusterTwo},
		{leg{name: "cluster: limit, paced", cluster: true, limit: true, rate: rate}, &o.clusterLimitPaced},
		{leg{name: "cluster: hub, paced", cluster: true, routes: oneRoute(), rate: rate}, &o.clusterPaced},
		{leg{name: "cluster: hub, 20 routes", cluster: true, routes: typedRoutes(20)}, &o.cluster20},
		{leg{name: "cluster: hub, 100 routes at rest", cluster: true, routes: hundredRoutes(), rest: true}, &o.clusterRest},
	}
}

// clusterRate is the events a second of the paced legs in cluster mode.
const clusterRate = 300

// cluster are the figures of cluster mode.
func (t *tally) cluster() {
	const perSecond, each = "events/s", "µs"
	speed := func(leg func(round) result) func(round) float64 {
		return func(r round) float64 { return leg(r).perSecond }
	}
	limit := speed(func(r round) result { return r.clusterLimit })
	hub := speed(func(r round) result { return r.clusterHub })
	durable := speed(func(r round) result { return r.limit })
	t.ratio(t.add(Figure{Name: "cluster: bare Kafka loop", Unit: perSecond}, limit), "the durable limit", limit, durable, "", 0)
	t.ratio(t.add(Figure{Name: "cluster: hub, one route", Unit: perSecond}, hub), "the Kafka loop", hub, limit, "≥", 0.6)
	// 2,500 events a second where the durable limit is 11,000.
	t.ratio(t.add(Figure{Name: "cluster: hub beside the durable limit", Unit: perSecond}, hub), "the durable limit", hub, durable, "≥", 0.227)
	twenty := speed(func(r round) result { return r.cluster20 })
	t.ratio(t.add(Figure{Name: "cluster: hub, 20 routes of which one matches", Unit: perSecond}, twenty), "one route", twenty, hub, "≥", 0.4)
	t.two(hub)
	for _, l := range []struct {
		name string
		leg  func(round) result
	}{
		{"cluster: bare Kafka loop", func(r round) result { return r.clusterLimit }},
		{"cluster: hub", func(r round) result { return r.clusterHub }},
	} {
		t.add(Figure{Name: l.name + ", CPU per event", Unit: each}, func(r round) float64 { return l.leg(r).cpuPerEvent })
		t.add(Figure{Name: l.name + ", CPU of the broker per event", Unit: each}, func(r round) float64 { return l.leg(r).brokerPerEvent })
	}
	t.add(Figure{Name: "cluster: hub, CPU of PostgreSQL per event", Unit: each}, func(r round) float64 { return r.clusterHub.databasePerEvent })
	for _, l := range []struct {
		name string
		leg  func(round) result
		p50  float64
	}{
		{"cluster: limit", func(r round) result { return r.clusterLimitPaced }, 0},
		{"cluster: hub", func(r round) result { return r.clusterPaced }, 10},
	} {
		at := fmt.Sprintf("%s at %d/s, ack ", l.name, clusterRate)
		p50 := t.add(Figure{Name: at + "p50", Unit: "ms"}, func(r round) float64 { return micros(l.leg(r).ackP50) / 1000 })
		if l.p50 > 0 {
			p50.atMost(l.p50)
		}
		t.add(Figure{Name: at + "p99", Unit: "ms"}, func(r round) float64 { return micros(l.leg(r).ackP99) / 1000 })
	}
	t.add(Figure{Name: "cluster: hub, 100 routes at rest, % of a core", Unit: "%"}, func(r round) float64 { return r.clusterRest.restCPU * 100 }).atMost(5)
}

// two are the figures of two hubs beside one.
func (t *tally) two(one func(round) float64) {
	where := "on loopback ports"
	if t.rounds[0].clusterTwo.apart {
		where = "each in a network namespace"
	}
	both := func(r round) float64 { return r.clusterTwo.perSecond }
	t.ratio(t.add(Figure{Name: "cluster: two hubs, " + where, Unit: "events/s"}, both), "one hub", both, one, "", 0)
	cpu := func(r round) float64 { return r.clusterTwo.cpuPerEvent }
	t.ratio(t.add(Figure{Name: "cluster: two hubs, CPU per event of both", Unit: "µs"}, cpu), "one hub",
		cpu, func(r round) float64 { return r.clusterHub.cpuPerEvent }, "≤", twoHubs)
}

// twoHubs is what an event may cost two hubs together beside one. It costs a little more, because on the processors of one machine each of them has half the events, and so gathers fewer
// of them into a request.
const twoHubs = 1.2
