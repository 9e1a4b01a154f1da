package app_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidewire/tidewire/internal/admin"
	"github.com/tidewire/tidewire/internal/app"
	"github.com/tidewire/tidewire/internal/services"
)

// starting runs a hub and waits until its doors answer.
func starting(t *testing.T, text string) *running {
	t.Helper()
	log := new(lines)
	return begin(t, planOf(t, text, log), log)
}

// isReady reports whether the hub has said that it is.
func (h *running) isReady() bool {
	select {
	case <-h.ready:
		return true
	default:
		return false
	}
}

// end is what the hub ends with by itself.
func (h *running) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-h.ended:
		h.ended = make(chan error)
		close(h.ended)
		return err
	case <-time.After(patience):
		t.Fatal("the hub goes on")
		return nil
	}
}

// check is a check's line in readyz.
func check(t *testing.T, r admin.Readiness, name string) admin.CheckResult {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %s in %+v", name, r.Checks)
	return admin.CheckResult{}
}

// accepted posts events [from, to) of one customer, which have to be taken.
func (h *running) accepted(t *testing.T, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if code := h.post(t, stripeEvent(fmt.Sprint("evt_", n), "cus_1"), stripeSecret); code != http.StatusOK {
			t.Fatalf("event %d: %d", n, code)
		}
	}
}

// delivered waits for the events [from, to), in order.
func (x *target) delivered(t *testing.T, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if got, want := x.next(t).body, fmt.Sprintf(`"evt_%d"`, n); !strings.Contains(got, want) {
			t.Errorf("call %d is not %s: %s", n, want, got)
		}
	}
}

// says counts the log's lines that hold a text.
func (h *running) says(what string) int { return strings.Count(h.log.String(), what) }

// TestAHubStartsWithoutKafka starts a hub while no broker answers: webhooks are accepted, the hub says what it says when Kafka goes away later, and all
// is delivered, in order, when a broker is back.
func TestAHubStartsWithoutKafka(t *testing.T) {
	t.Parallel()
	kafka, office := services.NewKafka(t, services.KafkaOptions{}), receiving(t, nil)
	text := on(t, kafka.Addresses(), shared.Postgres(t)).hub(t.TempDir(), office.URL)
	if err := kafka.Kill(0); err != nil {
		t.Fatal(err)
	}
	h := starting(t, text)
	until(t, "the hub has looked for both", func() bool { _, r := h.readiness(t); return check(t, r, "store").OK })
	code, r := h.readiness(t)
	log, routes := check(t, r, "log"), check(t, r, "routes")
	if code != http.StatusOK || !strings.Contains(log.Note, "events would go into the spool: ") || !strings.Contains(log.Note, "no broker of the Kafka cluster at "+kafka.Addresses()[0]) ||
		!strings.Contains(routes.Note, "the routes wait: ") {
		t.Errorf("readyz: %d %+v", code, r.Checks)
	}
	if len(r.Routes) != 1 || r.Routes[0].State != "waiting" || r.Routes[0].LagEvents != nil {
		t.Errorf("routes: %+v", r.Routes)
	}
	h.accepted(t, 0, 5)
	if _, r := h.readiness(t); !strings.Contains(check(t, r, "log").Note, "5 wait") {
		until(t, "readyz says what waits", func() bool { _, r := h.readiness(t); return strings.Contains(check(t, r, "log").Note, "5 wait") })
	}
	if n := h.says(`the hub waits; it goes on by itself" for=Kafka`); n != 1 || h.isReady() || h.says("hub takes webhooks and delivers nothing yet") != 1 {
		t.Errorf("said %d times:\n%s", n, h.log)
	}
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	office.delivered(t, 0, 5)
	h.accepted(t, 5, 7)
	office.delivered(t, 5, 7)
	until(t, "the hub is ready and says nothing more", func() bool {
		code, r := h.readiness(t)
		return code == http.StatusOK && h.isReady() && r.Routes[0].State == "running" && check(t, r, "log").Note == "" && check(t, r, "routes").Note == ""
	})
	if h.says(`what the hub waited for answers; it goes on" for=Kafka`) != 1 || h.says("level=ERROR") > 0 {
		t.Errorf("the log is\n%s", h.log)
	}
}

// TestAHubStartsWithoutPostgreSQL starts a hub while its database is away. One that is new keeps what it takes until it knows that it belongs to the cluster; one that
// has been there before gives it to Kafka, with a spool or without.
func TestAHubStartsWithoutPostgreSQL(t *testing.T) {
	t.Parallel()
	postgres, office, dir := services.NewPostgres(t, services.PostgresOptions{}), receiving(t, nil), t.TempDir()
	text := on(t, shared.Kafka(t, 1).Addresses(), postgres).hub(dir, office.URL)
	for round, spooled := range []string{"3", "0", "0"} {
		from := round * 10
		if round == 2 {
			text = strings.Replace(text, "\n  postgres:", "\n  spool: {enabled: false}\n  postgres:", 1)
		}
		if err := postgres.Stop(services.Immediate); err != nil {
			t.Fatal(err)
		}
		h := starting(t, text)
		code, r := h.readiness(t)
		if store := check(t, r, "store"); code != http.StatusServiceUnavailable || store.OK || !strings.Contains(store.Reason, "cannot be reached") || r.Cluster.Unknown == "" {
			t.Errorf("readyz: %d %+v %+v", code, r.Checks, r.Cluster)
		}
		if round == 0 {
			until(t, "Kafka is there and given nothing", func() bool {
				_, r := h.readiness(t)
				return strings.Contains(check(t, r, "log").Note, "Kafka answers and is given nothing before it is known whether this hub belongs there")
			})
		}
		if round == 2 {
			until(t, "Kafka takes events", func() bool { _, r := h.readiness(t); return check(t, r, "log").OK })
		}
		h.accepted(t, from, from+1)
		if round == 1 {
			until(t, "Kafka is given events", func() bool { return h.metric(t, "tidewire_spool_records") == "0" })
		}
		h.accepted(t, from+1, from+3)
		if got := h.metric(t, "tidewire_spool_records"); got != spooled {
			t.Errorf("round %d: %s events are in the spool, want %s", round, got, spooled)
		}
		if h.isReady() || len(office.calls) > 0 {
			t.Error("it delivers without its ledger")
		}
		if err := postgres.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		office.delivered(t, from, from+3)
		until(t, "the hub is ready", func() bool { code, _ := h.readiness(t); return code == http.StatusOK && h.isReady() })
		if h.says(`the hub waits; it goes on by itself" for=PostgreSQL`) == 0 || h.says("level=ERROR") > 0 {
			t.Errorf("the log is\n%s", h.log)
		}
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAHubStartsWithoutAnything starts a hub while both are away, and has them come back in one order and in the other.
func TestAHubStartsWithoutAnything(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"Kafka", "PostgreSQL"} {
		t.Run(first+" comes first", func(t *testing.T) {
			t.Parallel()
			kafka, postgres, office := services.NewKafka(t, services.KafkaOptions{}), services.NewPostgres(t, services.PostgresOptions{}), receiving(t, nil)
			text := on(t, kafka.Addresses(), postgres).hub(t.TempDir(), office.URL)
			if err := errors.Join(kafka.Kill(0), postgres.Stop(services.Immediate)); err != nil {
				t.Fatal(err)
			}
			h := starting(t, text)
			h.accepted(t, 0, 3)
			until(t, "readyz says what is waited for", func() bool {
				_, r := h.readiness(t)
				note := check(t, r, "routes").Note
				return strings.Contains(note, "no broker") && strings.Contains(note, "PostgreSQL at")
			})
			back := map[string]func() error{
				"Kafka":      func() error { return kafka.Start(t.Context(), 0) },
				"PostgreSQL": func() error { return postgres.Start(t.Context()) },
			}
			if err := back[first](); err != nil {
				t.Fatal(err)
			}
			until(t, "one of the two is there", func() bool { return h.says(`what the hub waited for answers; it goes on" for=`+first) == 1 })
			h.accepted(t, 3, 5)
			if h.isReady() {
				t.Error("the hub is ready without one of the two")
			}
			delete(back, first)
			for _, start := range back {
				if err := start(); err != nil {
					t.Fatal(err)
				}
			}
			office.delivered(t, 0, 5)
			until(t, "the hub is ready", func() bool { code, _ := h.readiness(t); return code == http.StatusOK && h.isReady() })
		})
	}
}

// TestAHubThatWaitsIsStopped ends a hub that waits for everything there is: at once, and as asked. Without a spool it answers 503 until then.
func TestAHubThatWaitsIsStopped(t *testing.T) {
	t.Parallel()
	nowhere := storage{"127.0.0.1:1", "postgres://tidewire:hunter2secret@127.0.0.1:1/tidewire", "t."}
	for _, spool := range []bool{true, false} {
		text := nowhere.hub(t.TempDir(), "http://127.0.0.1:9")
		if !spool {
			text = strings.Replace(text, "\n  postgres:", "\n  spool: {enabled: false}\n  postgres:", 1)
		}
		h := starting(t, text)
		until(t, "both are found to be away", func() bool { return h.says("the hub waits; it goes on by itself") == 2 })
		want := http.StatusServiceUnavailable
		if spool {
			want = http.StatusOK
		}
		if code := h.post(t, stripeEvent("evt_1", "cus_1"), stripeSecret); code != want {
			t.Errorf("spool %v: %d", spool, code)
		}
		code, r := h.readiness(t)
		if code != http.StatusServiceUnavailable || check(t, r, "log").OK != spool || check(t, r, "routes").OK != spool || check(t, r, "store").OK {
			t.Errorf("spool %v: readyz: %d %+v", spool, code, r.Checks)
		}
		if err := h.stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
		if strings.Contains(h.log.String()+fmt.Sprint(r), "hunter2secret") {
			t.Error("the password is told")
		}
	}
}

// TestAHubThatHasWorkedIsHungUpOn starts a hub again behind a proxy whose broker is away, which ends every connection: its settings have worked, so it waits.
func TestAHubThatHasWorkedIsHungUpOn(t *testing.T) {
	t.Parallel()
	cluster, dir := fresh(t), t.TempDir()
	if err := serve(t, cluster.hub(dir, "http://127.0.0.1:9")).stop(); err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(dir, app.JoinedFile)
	text, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	proxy := cluster
	proxy.brokers = hangingUp(t)
	if err := os.WriteFile(note, []byte(strings.Replace(string(text), cluster.brokers, proxy.brokers, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	h := starting(t, proxy.hub(dir, "http://127.0.0.1:9"))
	h.accepted(t, 0, 1)
	if _, r := h.readiness(t); !strings.Contains(check(t, r, "routes").Note, "ended the connection before it answered") {
		t.Errorf("readyz: %+v", r.Checks)
	}
	if err := h.stop(); err != nil {
		t.Error(err)
	}
}

// TestWhatIsFoundLaterIsRefused starts a hub while Kafka is away; when it is back, its topics do not fit. The hub ends with the sentence, and what it has accepted is
// on its disk until it is started with what is right.
func TestWhatIsFoundLaterIsRefused(t *testing.T) {
	t.Parallel()
	kafka, office, dir := services.NewKafka(t, services.KafkaOptions{}), receiving(t, nil), t.TempDir()
	text := on(t, kafka.Addresses(), shared.Postgres(t)).hub(dir, office.URL)
	h := serve(t, text)
	h.accepted(t, 0, 1)
	office.delivered(t, 0, 1)
	if err := errors.Join(h.stop(), kafka.Kill(0)); err != nil {
		t.Fatal(err)
	}
	h = starting(t, strings.Replace(text, "partitions: 6", "partitions: 9", 1))
	h.accepted(t, 1, 4)
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := h.end(t); !errors.Is(err, app.ErrEnvironment) || !strings.Contains(err.Error(), "6 partitions and 9 are configured") || h.says(`msg="hub stops"`) != 1 {
		t.Errorf("it ended with %v", err)
	}
	serve(t, text)
	office.delivered(t, 1, 4)
}

// TestAHubWaitsForALeader starts a hub while a partition of its connection has no leader: it says which, takes webhooks, and goes on when it has one.
func TestAHubWaitsForALeader(t *testing.T) {
	t.Parallel()
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	office := receiving(t, nil)
	cluster := on(t, k.ListenAddrs(), shared.Postgres(t))
	text := cluster.hub(t.TempDir(), office.URL)
	h := serve(t, text)
	h.accepted(t, 0, 1)
	office.delivered(t, 0, 1)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	var elected atomic.Bool
	k.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if elected.Load() {
			return nil, nil, false
		}
		return leaderless(k.ListenAddrs()[0], []string{cluster.prefix + "dead.all", cluster.prefix + "events.stripe"}, req), nil, true
	})
	h = starting(t, text)
	h.accepted(t, 1, 4)
	const sentence = "1 partitions have no leader, events.stripe/3 among them"
	until(t, "readyz says which partition has no leader", func() bool {
		code, r := h.readiness(t)
		return code == http.StatusOK && strings.Contains(check(t, r, "routes").Note, sentence)
	})
	until(t, "the log says it, too", func() bool { return h.says(sentence) > 0 })
	elected.Store(true)
	office.delivered(t, 1, 4)
	until(t, "the hub is ready", func() bool { code, _ := h.readiness(t); return code == http.StatusOK && h.isReady() })
}

// leaderless answers a question for topics of six partitions: the broker leads all of them but the fourth of the events.
func leaderless(broker string, topics []string, req kmsg.Request) kmsg.Response {
	r := req.ResponseKind().(*kmsg.MetadataResponse)
	host, port, _ := net.SplitHostPort(broker)
	number, _ := strconv.Atoi(port)
	b := kmsg.NewMetadataResponseBroker()
	b.Host, b.Port = host, int32(number)
	r.Brokers, r.ClusterID = append(r.Brokers, b), kmsg.StringPtr("kfake")
	for _, topic := range topics {
		t := kmsg.NewMetadataResponseTopic()
		t.Topic = kmsg.StringPtr(topic)
		for i := range int32(6) {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition = i
			if i == 3 && strings.HasSuffix(topic, "events.stripe") {
				p.Leader = -1
			}
			t.Partitions = append(t.Partitions, p)
		}
		r.Topics = append(r.Topics, t)
	}
	return r
}

// TestAGracefulStopFreesDuties stops the hub that has the retention duty: another has it at once. It also gives hubs names of their own.
func TestAGracefulStopFreesDuties(t *testing.T) {
	t.Parallel()
	cluster := fresh(t)
	named := func(name string) *running {
		return serve(t, "hub: {name: "+name+"}"+cluster.hub(t.TempDir(), "http://127.0.0.1:9"))
	}
	holds := func(h *running, name string) func() bool {
		return func() bool {
			_, r := h.readiness(t)
			return r.Cluster.Hub == name && len(r.Cluster.Duties) == 1 && r.Cluster.Duties[0].Holder == name
		}
	}
	first := named("north-1")
	until(t, "the first has the duty", holds(first, "north-1"))
	if got := first.metric(t, `tidewire_retention_seconds{kind="events"}`); got != "604800" {
		t.Errorf("retention.events is %q", got)
	}
	if got := first.metric(t, "tidewire_spool_max_bytes"); got != "1.073741824e+09" {
		t.Errorf("cluster.spool.max is %q", got)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := named("south:1")
	until(t, "the second has the duty", holds(second, "south:1"))
	named("south:1")
	until(t, "readyz tells of a twin", func() bool {
		_, r := second.readiness(t)
		return strings.Contains(check(t, r, "store").Note, "another hub runs under the name south:1")
	})
}

// TestAFirstStartIsQuiet starts a hub on a cluster that has nothing yet: no error is logged while its topics are made.
func TestAFirstStartIsQuiet(t *testing.T) {
	t.Parallel()
	h := serve(t, fresh(t).hub(t.TempDir(), "http://127.0.0.1:9"))
	until(t, "retention has run", func() bool { _, r := h.readiness(t); return len(r.Cluster.Duties) == 1 })
	until(t, "the groups are joined", func() bool {
		_, r := h.readiness(t)
		return r.Routes[0].Membership == "member" && r.Cluster.Index != nil && r.Cluster.Index.Membership == "member"
	})
	if h.says("level=ERROR")+h.says("level=WARN") > 0 {
		t.Errorf("the log is\n%s", h.log)
	}
}
