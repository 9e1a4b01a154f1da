package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidewire/tidewire/internal/admin"
	"github.com/tidewire/tidewire/internal/app"
	"github.com/tidewire/tidewire/internal/services"
)

// shared are the real servers of this test binary.
var shared services.Shared

var prefixes atomic.Int64

// storage is the part of a config that says where a hub keeps what it has.
type storage struct{ brokers, database, prefix string }

// fresh is a cluster of a test's own on the shared servers: topics and a database that nobody else has.
func fresh(t *testing.T) storage {
	t.Helper()
	return on(t, shared.Kafka(t, 1).Addresses(), shared.Postgres(t))
}

func on(t *testing.T, brokers []string, postgres *services.Postgres) storage {
	t.Helper()
	database, err := postgres.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return storage{strings.Join(brokers, ", "), database, fmt.Sprintf("t%d.", prefixes.Add(1))}
}

// hub is a config of one hub on the cluster.
func (s storage) hub(dir, url string) string { return s.put(simple(dir, url, "")) }

// put makes of a config in embedded mode one in cluster mode.
func (s storage) put(text string) string {
	return strings.Replace(text, "\nconnections:", fmt.Sprintf(`
cluster:
  kafka: {brokers: [%s], topic_prefix: %s, partitions: 6, replication: 1}
  postgres: %q
connections:`, s.brokers, s.prefix, s.database), 1)
}

// mode makes a config in embedded mode one of the mode that is tested.
type mode func(text string) string

// bothModes runs a test of the whole hub in embedded mode and in cluster mode, as two tests side by side.
func bothModes(t *testing.T, test func(t *testing.T, in mode)) {
	t.Helper()
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, func(text string) string { return text })
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		test(t, fresh(t).put)
	})
}

// readiness is what a hub says of itself.
func (h *running) readiness(t *testing.T) (code int, r admin.Readiness) {
	t.Helper()
	code, text := h.ask(t, "/readyz")
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return code, r
}

// TestHubsShareTheWork runs two hubs on one cluster: both take webhooks, each reads a part of the partitions, a key stays in order, and when one
// leaves, the other has everything.
func TestHubsShareTheWork(t *testing.T) {
	t.Parallel()
	cluster, office := fresh(t), receiving(t, nil)
	first := serve(t, cluster.hub(t.TempDir(), office.URL))
	second := serve(t, cluster.hub(t.TempDir(), office.URL))
	until(t, "the partitions are shared", func() bool {
		_, a := first.readiness(t)
		_, b := second.readiness(t)
		return a.Ready && b.Ready && a.Routes[0].Holds != "" && b.Routes[0].Holds != "" && a.Routes[0].Holds != b.Routes[0].Holds && len(a.Cluster.Hubs) == 2
	})
	const keys, each = 12, 10
	seen := make(map[string][]string) // by customer
	post := func(from, to int) {
		for n := from; n < to; n++ {
			for k := range keys {
				hub := []*running{first, second}[k%2] // one sender's webhooks come through one door
				id := fmt.Sprintf("evt_%d_%02d", k, n)
				if code := hub.post(t, stripeEvent(id, fmt.Sprint("cus_", k)), stripeSecret); code != http.StatusOK {
					t.Fatalf("%s: %d", id, code)
				}
			}
		}
	}
	take := func(n int) {
		for range n {
			id := strings.Split(strings.SplitN(office.next(t).body, `"id": "`, 2)[1], `"`)[0]
			key := strings.Split(id, "_")[1]
			seen[key] = append(seen[key], id)
		}
	}
	post(0, each/2)
	take(keys * each / 2)
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	second = first
	post(each/2, each)
	take(keys * each / 2)
	until(t, "the hub that stayed has everything", func() bool {
		_, r := first.readiness(t)
		return strings.HasSuffix(r.Routes[0].Holds, " 0-5") && r.Routes[0].LagEvents != nil && *r.Routes[0].LagEvents == 0 && len(r.Cluster.Hubs) == 1
	})
	for k := range keys {
		for n := range each {
			if want := fmt.Sprintf("evt_%d_%02d", k, n); len(seen[fmt.Sprint(k)]) != each || seen[fmt.Sprint(k)][n] != want {
				t.Fatalf("customer %d: got %q", k, seen[fmt.Sprint(k)])
			}
		}
	}
}

// TestAClusterThatCannotBeUsedIsRefused starts hubs against what is wrong in one respect each: one sentence, and the environment is to blame.
func TestAClusterThatCannotBeUsedIsRefused(t *testing.T) {
	t.Parallel()
	cluster := fresh(t)
	hangsUp := cluster
	hangsUp.brokers = hangingUp(t)
	untrusted := cluster
	untrusted.database = strings.Replace(cluster.database, "sslmode=disable", "sslmode=require", 1)
	absent := cluster
	absent.database = cluster.database[:strings.LastIndex(cluster.database, "/")] + "/nowhere"
	serve(t, cluster.hub(t.TempDir(), "http://127.0.0.1:9"))
	apart := fresh(t)
	apart.prefix = cluster.prefix
	other := cluster
	other.prefix += "other."
	for name, c := range map[string]struct {
		config, want string
	}{
		"a broker that wants something else": {hangsUp.hub(t.TempDir(), "http://127.0.0.1:9"), "it may want TLS or SASL"},
		"a server without TLS":               {untrusted.hub(t.TempDir(), "http://127.0.0.1:9"), "does not speak TLS"},
		"no such database":                   {absent.hub(t.TempDir(), "http://127.0.0.1:9"), "nowhere"},
		"another cluster block":              {other.hub(t.TempDir(), "http://127.0.0.1:9"), "another cluster configuration"},
		"too few partitions":                 {strings.Replace(apart.hub(t.TempDir(), "http://127.0.0.1:9"), "partitions: 6", "partitions: 9", 1), "partitions"},
	} {
		log := new(lines)
		err := app.Serve(t.Context(), planOf(t, c.config, log), app.Options{Logger: log.logger(planOf(t, c.config, log).Config.Log)})
		if !errors.Is(err, app.ErrEnvironment) || !strings.Contains(fmt.Sprint(err), c.want) || strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
}

// hangingUp listens and ends every connection at once, as a broker does with a client that speaks TLS or SASL where it does not.
func hangingUp(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	t.Cleanup(func() { l.Close(); accepting.Wait() })
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 64))
			c.Close()
		}
	})
	return l.Addr().String()
}

// TestIngestGoesOnWithoutKafka takes the broker away under a running hub: webhooks are accepted, the hub is ready and says what it does, and all is
// delivered when the broker is back.
func TestIngestGoesOnWithoutKafka(t *testing.T) {
	t.Parallel()
	kafka, office := services.NewKafka(t, services.KafkaOptions{}), receiving(t, nil)
	h := serve(t, on(t, kafka.Addresses(), shared.Postgres(t)).hub(t.TempDir(), office.URL))
	if code := h.post(t, stripeEvent("evt_before", "cus_1"), stripeSecret); code != http.StatusOK {
		t.Fatal(code)
	}
	office.next(t)
	if err := kafka.Kill(0); err != nil {
		t.Fatal(err)
	}
	says := func(what string) func() bool {
		return func() bool {
			code, r := h.readiness(t)
			if code != http.StatusOK {
				t.Errorf("readyz without Kafka: %d %+v", code, r.Checks)
			}
			return strings.Contains(fmt.Sprint(r.Checks), what)
		}
	}
	until(t, "readyz says that Kafka is away, though nobody has posted", says("would go into the spool"))
	until(t, "how far the route is is not known, and nobody makes it up", func() bool {
		_, r := h.readiness(t)
		return r.Routes[0].LagEvents == nil && r.Routes[0].LagSeconds == nil && h.metric(t, `tidewire_route_lag_events{route="all"}`) == "" &&
			h.metric(t, `tidewire_route_lag_seconds{route="all"}`) == ""
	})
	until(t, "readyz says that the route waits for its group, and the index for its own", func() bool {
		_, r := h.readiness(t)
		return r.Routes[0].Membership == "waiting for the group coordinator" && r.Routes[0].Holds == "" && !r.Routes[0].MembershipSince.IsZero() &&
			r.Cluster.Index != nil && r.Cluster.Index.Membership == "waiting for the group coordinator"
	})
	for n := range 5 {
		if code := h.post(t, stripeEvent(fmt.Sprint("evt_", n), "cus_1"), stripeSecret); code != http.StatusOK {
			t.Fatalf("event %d without Kafka: %d", n, code)
		}
	}
	until(t, "readyz says what waits", says("5 wait"))
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		if got, want := office.next(t).body, fmt.Sprintf(`"evt_%d"`, n); !strings.Contains(got, want) {
			t.Errorf("call %d is not %s: %s", n, want, got)
		}
	}
	until(t, "the spool is empty", func() bool { return h.metric(t, "tidewire_spool_records") == "0" })
	until(t, "how far the route is is known again", func() bool {
		_, r := h.readiness(t)
		return r.Routes[0].LagEvents != nil && *r.Routes[0].LagEvents == 0 && r.Routes[0].Membership == "member" && strings.HasSuffix(r.Routes[0].Holds, " 0-5")
	})
}

// TestASpoolThatIsSwitchedOffIsEmptiedFirst stops a hub whose spool holds events, and starts it again with the spool off, while Kafka is still away: they have been
// answered for, and what comes now goes behind them. The next start has no spool any more, and what Kafka does not take is not accepted.
func TestASpoolThatIsSwitchedOffIsEmptiedFirst(t *testing.T) {
	t.Parallel()
	kafka, office := services.NewKafka(t, services.KafkaOptions{}), receiving(t, nil)
	text := on(t, kafka.Addresses(), shared.Postgres(t)).hub(t.TempDir(), office.URL)
	h := serve(t, text)
	if err := kafka.Kill(0); err != nil {
		t.Fatal(err)
	}
	h.accepted(t, 0, 3)
	_ = h.stop() // it may say that Kafka did not answer
	off := strings.Replace(text, "\n  postgres:", "\n  spool: {enabled: false}\n  postgres:", 1)
	const said = "the spool is switched off and holds events"
	h = starting(t, off)
	if !strings.Contains(h.log.String(), said) {
		t.Error("the hub does not say that its spool holds events")
	}
	h.accepted(t, 3, 4)
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	office.delivered(t, 0, 4)
	until(t, "the spool is empty", func() bool { return h.metric(t, "tidewire_spool_records") == "0" })
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}

	h = serve(t, off)
	if strings.Contains(h.log.String(), said) {
		t.Error("an empty spool is said to hold events")
	}
	if err := kafka.Kill(0); err != nil {
		t.Fatal(err)
	}
	post := func() int { return h.post(t, stripeEvent("evt_4", "cus_1"), stripeSecret) }
	if code := post(); code != http.StatusServiceUnavailable {
		t.Errorf("an event that nobody can keep: %d", code)
	}
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	until(t, "events are accepted again", func() bool { return post() == http.StatusOK })
	office.delivered(t, 4, 5)
}

// TestDeliveriesWaitForTheDatabase takes PostgreSQL away under a running hub: webhooks are accepted, nothing is sent twice, and all is delivered when it is back.
func TestDeliveriesWaitForTheDatabase(t *testing.T) {
	t.Parallel()
	postgres, office := services.NewPostgres(t, services.PostgresOptions{}), receiving(t, nil)
	h := serve(t, on(t, shared.Kafka(t, 1).Addresses(), postgres).hub(t.TempDir(), office.URL))
	if code := h.post(t, stripeEvent("evt_before", "cus_1"), stripeSecret); code != http.StatusOK {
		t.Fatal(code)
	}
	office.next(t)
	until(t, "it is settled", func() bool { return h.metric(t, `tidewire_route_lag_events{route="all"}`) == "0" })
	if err := postgres.Stop(services.Immediate); err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		if code := h.post(t, stripeEvent(fmt.Sprint("evt_", n), "cus_1"), stripeSecret); code != http.StatusOK {
			t.Fatalf("event %d without PostgreSQL: %d", n, code)
		}
	}
	until(t, "the hub says that its store is away", func() bool {
		code, r := h.readiness(t)
		return code == http.StatusServiceUnavailable && !r.Ready
	})
	if err := postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		if got, want := office.next(t).body, fmt.Sprintf(`"evt_%d"`, n); !strings.Contains(got, want) {
			t.Errorf("call %d is not %s: %s", n, want, got)
		}
	}
	until(t, "all is settled and the hub is ready", func() bool {
		code, r := h.readiness(t)
		return code == http.StatusOK && r.Routes[0].LagEvents != nil && *r.Routes[0].LagEvents == 0
	})
	if len(office.calls) > 0 {
		t.Errorf("%d calls too many", len(office.calls))
	}
}
