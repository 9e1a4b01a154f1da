package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
)

// Server says where the hub listens and how much it takes from outside.
type Server struct {
	Listen string `yaml:"listen" default:":8080" doc:"Address of the public door: webhooks and health. host:port; an empty host means all interfaces."`
	Admin  string `yaml:"admin" default:"127.0.0.1:8081" doc:"Address of the admin door: API, metrics, health. Keep it off public networks."`
	TLS    *TLS   `yaml:"tls" doc:"Serve the public door over TLS. Without it, put a proxy that does in front of the hub."`
	// TrustedProxies are the networks whose X-Forwarded-For is believed. None by default: the peer's own address counts.
	TrustedProxies  []netip.Prefix `yaml:"trusted_proxies,one" doc:"Networks of the proxies in front of the hub, whose X-Forwarded-For is believed. Default: none."`
	MaxConnections  int            `yaml:"max_connections" default:"4096" range:"1..1000000" doc:"How many clients may be connected to the public door at once."`
	ShutdownTimeout Duration       `yaml:"shutdown_timeout" default:"25s" range:"10ms..1h" doc:"How long stopping may take: deliveries in hand are finished until then. Keep it below the 30s after which Kubernetes kills."`
}

// Hub is what a hub is among others.
type Hub struct {
	Name string `yaml:"name" doc:"What this hub is called among those of its cluster: another name for each, and the same after a restart. 1 to 100 letters, digits and . _ : -, the first a letter or digit. Default: HOST:PORT, the host's name and the port of server.listen."`
}

var hubName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$`)

// Check looks at the name.
func (h *Hub) Check() error {
	if h.Name != "" && !hubName.MatchString(h.Name) {
		return Fault{"name", "not a name for a hub: " + quote(h.Name), "take 1 to 100 letters, digits and . _ : -, the first of them a letter or digit, such as hub-1"}
	}
	return nil
}

// TLS is a server's certificate. Its settings are paths, not ${file:…}: certificates are renewed without a new config.
type TLS struct {
	Certificate string `yaml:"certificate,required" doc:"Path of the certificate chain in PEM."`
	Key         string `yaml:"key,required" doc:"Path of the private key in PEM."`
	MinVersion  string `yaml:"min_version" default:"1.2" enum:"1.2|1.3" doc:"Lowest TLS version."`
}

// Log says what the hub logs about itself, to standard error.
type Log struct {
	Level  string `yaml:"level" default:"info" enum:"debug|info|warn|error" doc:"Least severity that is logged."`
	Format string `yaml:"format" default:"text" enum:"text|json" doc:"text for people, json for machines."`
}

// Retention says how long things are kept. What a route has not settled yet is kept whatever its age.
type Retention struct {
	Events      Duration `yaml:"events" default:"7d" range:"1m..3650d" doc:"How long events stay in the log, to be read by a new route; a repeat that comes within this time is recognised."`
	Deliveries  Duration `yaml:"deliveries" default:"30d" range:"1m..3650d" doc:"How long the ledger remembers what became of an event. Not shorter than events."`
	DeadLetters Duration `yaml:"dead_letters" default:"90d" range:"1m..3650d" doc:"How long dead letters can be inspected and replayed."`
}

// Check sees to it that what is in the log is remembered.
func (r *Retention) Check() error {
	if r.Deliveries < r.Events {
		return Fault{"deliveries", fmt.Sprintf("deliveries are forgotten after %s, their events are kept for %s", r.Deliveries, r.Events),
			"make it at least as long as events: what is forgotten would be delivered again"}
	}
	return nil
}

// Cluster is cluster mode: the log on Apache Kafka, the store in PostgreSQL.
type Cluster struct {
	Kafka    *Kafka `yaml:"kafka" doc:"The log."`
	Postgres Secret `yaml:"postgres" doc:"Where the store is: a PostgreSQL URL, 14 or newer."`
	Spool    Spool  `yaml:"spool" doc:"Where events wait, on this hub's disk in data_dir, while Kafka cannot be reached."`
}

// Spool keeps webhooks accepted through an outage of the log.
type Spool struct {
	Enabled bool `yaml:"enabled" default:"true" doc:"Off: while Kafka cannot be reached, webhooks are answered 503. What is in the spool from before is still given to Kafka."`
	Max     Size `yaml:"max" default:"1GiB" range:"16MiB..1TiB" doc:"How much of the disk events that wait may take; past it webhooks are answered 503. The write-ahead log of up to 256MiB comes on top."`
}

// Kafka is a cluster of Apache Kafka 3.4 or newer.
type Kafka struct {
	Brokers     []string  `yaml:"brokers,required,one" doc:"Addresses to start from, host:port."`
	TopicPrefix string    `yaml:"topic_prefix" default:"tidewire." doc:"Put before the name of every topic and consumer group."`
	Partitions  int       `yaml:"partitions" default:"12" range:"1..10000" doc:"Partitions of the topics that the hub creates."`
	Replication int       `yaml:"replication" default:"3" range:"1..100" doc:"Copies of the topics that the hub creates."`
	TLS         *KafkaTLS `yaml:"tls" doc:"Speak TLS to the brokers; {} trusts the system's authorities."`
	SASL        *SASL     `yaml:"sasl" doc:"Log in to the brokers."`
}

// KafkaTLS says whom to trust and what to show.
type KafkaTLS struct {
	CA          string `yaml:"ca" doc:"Path of the authorities in PEM that the brokers' certificates come from. Default: the system's."`
	Certificate string `yaml:"certificate" doc:"Path of the hub's own certificate in PEM."`
	Key         string `yaml:"key" doc:"Path of its private key in PEM."`
	ServerName  string `yaml:"server_name" doc:"Name to expect in the brokers' certificates. Default: the broker's host."`
}

// SASL is a log-in.
type SASL struct {
	Mechanism string `yaml:"mechanism,required" enum:"plain|scram-sha-256|scram-sha-512" doc:"How to log in."`
	Username  string `yaml:"username,required" doc:"Who logs in."`
	Password  Secret `yaml:"password,required" doc:"The password."`
}

// Check refuses a cluster that lacks a half.
func (c *Cluster) Check() error {
	const why = "cluster mode needs both cluster.kafka and cluster.postgres: hubs that share a log must share what they know of deliveries; for one machine remove cluster"
	switch {
	case c.Kafka == nil:
		return Fault{"", "PostgreSQL without Kafka", why}
	case c.Postgres.IsZero():
		return Fault{"", "Kafka without PostgreSQL", why}
	}
	return nil
}

// Check looks at the brokers' addresses.
func (k *Kafka) Check() error {
	if len(k.Brokers) == 0 {
		return Fault{"brokers", "no brokers", "name at least one: [kafka-1:9092]"}
	}
	for i, b := range k.Brokers {
		if fix := checkAddress(b); fix != "" {
			return Fault{"brokers." + strconv.Itoa(i), "not an address: " + quote(b), fix}
		}
	}
	return nil
}

// Check wants a certificate with its key.
func (t *KafkaTLS) Check() error {
	if (t.Certificate == "") != (t.Key == "") {
		return Fault{"", "a certificate without its key, or a key without its certificate", "set both, or neither"}
	}
	return nil
}

// checkAddress returns how to mend an address to listen on or connect to, or "".
func checkAddress(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "write host:port, such as 127.0.0.1:8080 or :8080; IPv6 as [::1]:8080"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "the port is a number from 0 to 65535"
	}
	for _, c := range host {
		if c <= ' ' || c == '/' || c == '@' {
			return "the host is a name or an IP address, without a scheme or a path"
		}
	}
	return ""
}
