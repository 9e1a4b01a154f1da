package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/load/bench"
	"github.com/tidewire/tidewire/internal/services"
)

// TestMain lets this binary stand in for tidewire when the bench starts it.
func TestMain(m *testing.M) {
	if mode := os.Getenv("TIDEWIRE_STAND_IN"); mode != "" {
		os.Exit(standIn(mode, os.Args[1:]))
	}
	code := m.Run()
	shared.Close()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// shared are the real servers of this test binary.
var shared services.Shared

func run(t *testing.T, mode string, change func(*bench.Config)) (bench.Report, string, error) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := bench.Config{
		Binary: binary, Env: []string{"TIDEWIRE_STAND_IN=" + mode}, Dir: t.TempDir(), Quick: true,
		Duration: 200 * time.Millisecond, Rounds: 1, Connections: 8, Rate: 200, Out: &out, Page: filepath.Join(t.TempDir(), "page.md"),
	}
	if change != nil {
		change(&c)
	}
	report, err := bench.Run(t.Context(), c)
	if err != nil {
		return report, out.String(), err
	}
	page, pageErr := os.ReadFile(c.Page)
	if pageErr != nil {
		t.Error(pageErr)
	}
	if left, _ := os.ReadDir(c.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return report, out.String() + string(page), nil
}

func TestRunMeasuresEveryLeg(t *testing.T) {
	t.Parallel()
	filled := 0
	report, text, err := run(t, "good", func(c *bench.Config) {
		c.Stored = 1000
		c.Fill = func(_ context.Context, dir string, n int) error {
			filled = n
			return os.WriteFile(filepath.Join(dir, "events"), nil, 0o600)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if filled != 1000 {
		t.Errorf("%d events stored", filled)
	}
	for _, name := range []string{
		"bare durable limit", "hub, one route", "hub, CPU per event", "hub at 200/s, ack p50", "hub at 200/s, ack p99",
		"hub, 1 % of deliveries fail at first", "hub, 100 routes of which one matches", "hub, 4 healthy targets",
		"hub, 3 healthy targets beside a tarpit", "hub, 1,000 events stored", "start to ready, 1,000 stored",
		"resident, idle", "resident, peak under load", "hub, deliveries due in all legs",
	} {
		f, ok := report.Figure(name)
		if !ok || f.Value <= 0 {
			t.Errorf("%s: %+v", name, f)
		}
		if strings.Count(text, name) < 2 {
			t.Errorf("%s is missing from table or page", name)
		}
	}
	for _, name := range []string{"of these lost", "delivered twice", "out of order", "altered", "not accepted or misdelivered"} {
		if f, ok := report.Figure(name); !ok || f.Value != 0 || !f.Met {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if len(report.Faults) != 0 {
		t.Errorf("faults: %q", report.Faults)
	}
}

// The stand-in knows nothing of a cluster; the limit and what surrounds the legs are real.
func TestRunMeasuresAClusterBesideTheHub(t *testing.T) {
	t.Parallel()
	cluster := bench.Cluster{Kafka: shared.Kafka(t, 1).Addresses()[0], Postgres: shared.Postgres(t).URL()}
	report, text, err := run(t, "good", func(c *bench.Config) { c.Cluster = &cluster })
	if err != nil {
		t.Fatal(err)
	}
	where := "on loopback ports"
	if _, plain := report.Figure("cluster: two hubs, " + where); !plain {
		where = "each in a network namespace"
	}
	for _, name := range []string{
		"cluster: two hubs, " + where, "cluster: two hubs, CPU per event of both", "cluster: bare Kafka loop", "cluster: hub, one route", "cluster: hub, 20 routes of which one matches", "cluster: bare Kafka loop, CPU per event",
		"cluster: bare Kafka loop, CPU of the broker per event", "cluster: limit at 300/s, ack p50", "cluster: hub at 300/s, ack p99",
	} {
		f, ok := report.Figure(name)
		none := f.Value == 0 && !strings.Contains(name, "CPU") // a short leg may cost less than the system's clock tells apart
		if !ok || none || strings.Count(text, name) < 2 {
			t.Errorf("%s: %+v, in the table and on the page %d times", name, f, strings.Count(text, name))
		}
	}
	if f, ok := report.Figure("cluster: hub, 100 routes at rest, % of a core"); !ok || f.Target == "" {
		t.Errorf("at rest: %+v", f)
	}
	if len(report.Faults) != 0 {
		t.Errorf("faults: %q", report.Faults)
	}
	left := topics(t, cluster.Kafka)
	if len(left) > 0 {
		t.Errorf("topics are left: %v", left)
	}
}

// topics are the bench's on a broker.
func topics(t *testing.T, broker string) (names []string) {
	t.Helper()
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	known, err := (&kafka.Client{Addr: kafka.TCP(broker), Transport: transport}).Metadata(t.Context(), &kafka.MetadataRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range known.Topics {
		if strings.HasPrefix(topic.Name, "bench") {
			names = append(names, topic.Name)
		}
	}
	return names
}

func TestRunTellsOfAHubThatErrs(t *testing.T) {
	t.Parallel()
	for mode, figure := range map[string]string{
		"repeats": "delivered twice", "swaps": "out of order", "alters": "altered",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			report, text, err := run(t, mode, nil)
			if err != nil {
				t.Fatal(err)
			}
			if f, _ := report.Figure(figure); f.Met || f.Value == 0 || len(report.Faults) == 0 {
				t.Errorf("%+v, faults %q", f, report.Faults)
			}
			if !strings.Contains(text, "fault: round 1, hub") || len(report.Missed()) == 0 {
				t.Errorf("the table does not tell:\n%s", text)
			}
		})
	}
}

func TestRunFailsWithAHubThatDoesNotStart(t *testing.T) {
	t.Parallel()
	_, _, err := run(t, "broken", nil)
	if err == nil || !strings.Contains(err.Error(), "hub at saturation") || !strings.Contains(err.Error(), "cannot start today") {
		t.Errorf("error %v", err)
	}
}

func TestRunWithoutABinary(t *testing.T) {
	t.Parallel()
	if _, err := bench.Run(t.Context(), bench.Config{}); err == nil {
		t.Error("nothing was measured without an error")
	}
}
