package config_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
)

func load(t *testing.T, name string) *config.Config {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/good", name))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(name, text, surroundings())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("tidewire.yaml", []byte(text), surroundings())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestEveryGoodConfigIsAccepted(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("testdata/good")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %d good configs (%v)", len(files), err)
	}
	for _, f := range files {
		load(t, f.Name())
	}
}

func TestAHubMayHaveAName(t *testing.T) {
	t.Parallel()
	const rest = "\nconnections:\n  shop: {connector: http}\nroutes:\n  all: {from: shop, to: shop}\n"
	equal(t, "name", parse(t, `hub: {name: "north:${env:PORT}"}`+rest).Hub.Name, "north:9090")
	equal(t, "no name", parse(t, "hub: {}"+rest).Hub.Name, "")
}

func TestDefaultsAreFilledIn(t *testing.T) {
	t.Parallel()
	c := parse(t, "connections:\n  shop: {connector: http}\nroutes:\n  all: {from: shop, to: shop}\n")
	equal(t, "listen", c.Server.Listen, ":8080")
	equal(t, "admin", c.Server.Admin, "127.0.0.1:8081")
	equal(t, "max_connections", c.Server.MaxConnections, 4096)
	equal(t, "shutdown_timeout", c.Server.ShutdownTimeout.Std(), 25*time.Second)
	equal(t, "data_dir", c.DataDir, config.DefaultDataDir)
	equal(t, "log", c.Log, config.Log{Level: "info", Format: "text"})
	day := 24 * time.Hour
	equal(t, "retention", c.Retention, config.Retention{Events: config.Duration(7 * day), Deliveries: config.Duration(30 * day), DeadLetters: config.Duration(90 * day)})
	r := c.Routes[0]
	equal(t, "timeout", r.Timeout.Std(), 10*time.Second)
	equal(t, "concurrency", r.Concurrency, 32)
	equal(t, "start", r.Start, "now")
	equal(t, "rate_limit", r.RateLimit.IsZero(), true)
	equal(t, "when", r.When.IsZero(), true)
	equal(t, "map", r.Map.IsZero(), true)
	equal(t, "initial", r.Retry.Initial.Std(), 5*time.Second)
	equal(t, "multiplier", r.Retry.Multiplier, 3)
	equal(t, "max_interval", r.Retry.MaxInterval.Std(), time.Hour)
	equal(t, "max_age", r.Retry.MaxAge.Std(), 72*time.Hour)
	equal(t, "jitter", r.Retry.Jitter, 0.2)
	equal(t, "max_attempts", r.Retry.MaxAttempts, 0)
	equal(t, "max_retry_after", r.Retry.MaxRetryAfter.Std(), time.Hour)
}

func TestEverySettingIsRead(t *testing.T) {
	t.Parallel()
	c := load(t, "everything.yaml")
	equal(t, "listen", c.Server.Listen, "0.0.0.0:9090")
	equal(t, "max_connections", c.Server.MaxConnections, 100)
	equal(t, "trusted proxy", c.Server.TrustedProxies[1], netip.MustParsePrefix("2001:db8::/32"))
	equal(t, "tls", *c.Server.TLS, config.TLS{Certificate: "/certs/hub.pem", Key: "/certs/hub.pem", MinVersion: "1.3"})
	equal(t, "events", c.Retention.Events.Std(), 14*24*time.Hour)

	var names []string
	for _, connection := range c.Connections {
		names = append(names, connection.Name+"="+connection.Connector)
	}
	if want := []string{"zebra=stripe", "apple=http", "0-9_z=file"}; !slices.Equal(names, want) {
		t.Errorf("connections: got %v, want %v in the order of the file", names, want)
	}
	r := c.Routes[0]
	equal(t, "first route", r.Name, "z-paid")
	equal(t, "when", r.When.Text, `type == "invoice.paid" && body.data.object.amount_paid > 0`)
	equal(t, "rate", r.RateLimit.PerSecond(), 50)
	equal(t, "max_age", r.Retry.MaxAge.Std(), 36*time.Hour)
	equal(t, "jitter", r.Retry.Jitter, 0)
	equal(t, "start", r.Start, "beginning")
	equal(t, "whole number", r.Map.Get("big").Value(), "9007199254740993")
	var keys []string
	for _, f := range r.Map.Fields() {
		keys = append(keys, f.Key)
	}
	if want := []string{"invoice", "big", "lines", "nested", "2024"}; !slices.Equal(keys, want) {
		t.Errorf("map keys: got %v, want %v in the order of the file", keys, want)
	}
	nested := r.Map.Get("nested")
	equal(t, "bool", nested.Get("ok").Kind(), config.Bool)
	equal(t, "null", nested.Get("none").Kind(), config.Null)
	equal(t, "float", nested.Get("share").Value(), "0.10")
	equal(t, "list", nested.Get("list").Items()[1].Value(), "type")
	equal(t, "path", nested.Get("list").Items()[1].Path(), "routes.z-paid.map.nested.list[1]")
	equal(t, "schedule", len(c.Routes[1].Retry.Schedule), 4)
	if warnings := c.Warnings(); len(warnings) != 0 {
		t.Errorf("a careful config is warned of: %v", warnings)
	}
}

func TestClusterModeIsUnderstoodAndRefusedInOnePlace(t *testing.T) {
	t.Parallel()
	c := load(t, "cluster.yaml")
	equal(t, "partitions", c.Cluster.Kafka.Partitions, 24)
	equal(t, "data_dir", c.DataDir, "/var/lib/tidewire")
	equal(t, "spool", c.Cluster.Spool, config.Spool{Enabled: true, Max: 4 << 30})
	equal(t, "password", c.Cluster.Kafka.SASL.Password.Reveal(), "planted-secret")
	err := c.Embedded()
	if err == nil {
		t.Fatal("a cluster passed for embedded mode")
	}
	problems := config.Join(err)
	equal(t, "path", problems[0].Path, "cluster")
	equal(t, "line", problems[0].Line, 1)
	if err := load(t, "smallest.yaml").Embedded(); err != nil {
		t.Errorf("embedded mode is refused: %v", err)
	}
}

func TestClusterHasASpoolUnlessItIsTurnedOff(t *testing.T) {
	t.Parallel()
	const text = "cluster: {kafka: {brokers: [k:9092]}, postgres: \"${env:SET}\"%s}\nconnections:\n  shop: {connector: http}\nroutes:\n  all: {from: shop, to: shop}\n"
	c := parse(t, fmt.Sprintf(text, ""))
	equal(t, "spool", c.Cluster.Spool, config.Spool{Enabled: true, Max: 1 << 30})
	equal(t, "data_dir", c.DataDir, config.DefaultDataDir)
	c = parse(t, fmt.Sprintf(text, ", spool: {enabled: false}"))
	equal(t, "spool", c.Cluster.Spool.Enabled, false)
	equal(t, "data_dir", c.DataDir, config.DefaultDataDir)
}

func TestJSONIsAccepted(t *testing.T) {
	t.Parallel()
	c := load(t, "indented-with-tabs.json")
	equal(t, "level", c.Log.Level, "warn")
	equal(t, "note", c.Connections[0].Node.Get("note").Value(), "ü / \"quoted\" 😀 \uFFFD \\/")
	equal(t, "when", c.Routes[0].When.Text, `type == "a"`)
}

func TestProblemsAreMachineReadable(t *testing.T) {
	t.Parallel()
	_, err := config.Parse("c.yaml", []byte("connections:\n  shop: {connector: http}\nroutes:\n  all: {from: shop, to: shp}\n"), surroundings())
	text, jsonErr := json.Marshal(config.Join(err))
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	const want = `[{"file":"c.yaml","line":4,"column":25,"path":"routes.all.to","source":"  all: {from: shop, to: shp}","message":"there is no connection \"shp\"","fix":"did you mean \"shop\"? connections: shop"}]`
	equal(t, "JSON", string(text), want)
}
