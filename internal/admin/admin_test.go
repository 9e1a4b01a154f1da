package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// door serves c over real HTTP and returns a way to ask it.
func door(t *testing.T, c admin.Config) func(method, path string) (*http.Response, string) {
	t.Helper()
	c.Logger = slog.New(slog.DiscardHandler)
	if c.Routes == nil {
		c.Routes = func(context.Context) []admin.RouteState { return nil }
	}
	if c.Gatherer == nil {
		c.Gatherer = prometheus.NewRegistry()
	}
	server := httptest.NewServer(admin.Handler(c))
	t.Cleanup(server.Close)
	client := server.Client()
	return func(method, path string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(body)
	}
}

func readiness(t *testing.T, text string) admin.Readiness {
	t.Helper()
	var r admin.Readiness
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return r
}

func TestHealthSaysThatTheProcessLives(t *testing.T) {
	t.Parallel()
	ask := door(t, admin.Config{Checks: []admin.Check{{Name: "store", Probe: func(context.Context) error { return errors.New("gone") }}}})
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		res, body := ask(method, "/healthz")
		if res.StatusCode != http.StatusOK || (method == http.MethodGet && body != "ok\n") {
			t.Errorf("%s: %d %q", method, res.StatusCode, body)
		}
	}
}

func TestReadyWhenAllIsWell(t *testing.T) {
	t.Parallel()
	routes := []admin.RouteState{
		{Route: "paid", Target: "backoffice", State: "resting", Reason: "the target does not answer"},
		{Route: "journal", Target: "ledger", State: "paused", Reason: "the target answered 410"},
	}
	ask := door(t, admin.Config{
		Checks: []admin.Check{{Name: "store", Probe: func(context.Context) error { return nil }}},
		Routes: func(context.Context) []admin.RouteState { return routes }, Version: "v1.2.3",
	})
	res, body := ask(http.MethodGet, "/readyz")
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/json" || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	got := readiness(t, body)
	if !got.Ready || got.Version != "v1.2.3" || !slices.Equal(got.Checks, []admin.CheckResult{{Name: "store", OK: true}}) {
		t.Errorf("got %+v", got)
	}
	// Routes that rest or are paused are for the person on call to see; the hub can do its work.
	if !slices.Equal(got.Routes, routes) {
		t.Errorf("routes: %+v", got.Routes)
	}
	if res, _ := ask(http.MethodHead, "/readyz"); res.StatusCode != http.StatusOK {
		t.Errorf("HEAD: %d", res.StatusCode)
	}
}

func TestNotReadySaysWhy(t *testing.T) {
	t.Parallel()
	ask := door(t, admin.Config{Checks: []admin.Check{
		{Name: "store", Probe: func(context.Context) error { return errors.New("the disk is full") }},
		{Name: "routes", Probe: func(context.Context) error { return nil }},
		{Name: "other", Probe: func(context.Context) error { return errors.New("also bad") }},
	}})
	res, body := ask(http.MethodGet, "/readyz")
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") != "1" {
		t.Errorf("%d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	got := readiness(t, body)
	want := []admin.CheckResult{{Name: "store", Reason: "the disk is full"}, {Name: "routes", OK: true}, {Name: "other", Reason: "also bad"}}
	if got.Ready || !slices.Equal(got.Checks, want) {
		t.Errorf("got %+v", got)
	}
}

// TestWhoSharesTheWorkIsShown asks a hub that is one of several: what it holds, who the others are, and what works but deserves a look.
func TestWhoSharesTheWorkIsShown(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cluster := &admin.Cluster{
		Hub: "hub-1", Hubs: []admin.Hub{{Name: "hub-1", Started: at, Seen: at}, {Name: "hub-2", Started: at, Seen: at}},
		Duties: []admin.Duty{{Name: "retention", Holder: "hub-2", Until: at}}, Unknown: "the leases could not be read",
		Index: &admin.Group{Membership: "joining the group", MembershipSince: at},
	}
	events, seconds := int64(7), 1.5
	_, body := door(t, admin.Config{
		Checks: []admin.Check{{Name: "log", Probe: func(context.Context) error { return nil }, Note: func() string { return "12 events wait in the spool" }}},
		Routes: func(context.Context) []admin.RouteState {
			return []admin.RouteState{
				{Route: "paid", State: "running", Group: admin.Group{Membership: "member", MembershipSince: at, Holds: "events.shop 0-3"}, LagEvents: &events, LagSeconds: &seconds},
				{Route: "unknown", State: "running", Group: admin.Group{Membership: "waiting for the group coordinator", MembershipSince: at}},
			}
		},
		Cluster: func(context.Context) *admin.Cluster { return cluster },
	})(http.MethodGet, "/readyz")
	got := readiness(t, body)
	if !reflect.DeepEqual(got.Cluster, cluster) {
		t.Errorf("cluster: %+v", got.Cluster)
	}
	if r := got.Routes[0]; r.Holds != "events.shop 0-3" || r.Membership != "member" || *r.LagEvents != 7 || *r.LagSeconds != 1.5 {
		t.Errorf("route: %+v", r)
	}
	if r := got.Routes[1]; r.Membership != "waiting for the group coordinator" || !r.MembershipSince.Equal(at) || r.LagEvents != nil ||
		!strings.Contains(body, `"lag_events": null`) || !strings.Contains(body, `"lag_seconds": null`) {
		t.Errorf("a route whose lag is not known: %+v", r)
	}
	if c := got.Checks[0]; !c.OK || c.Note != "12 events wait in the spool" {
		t.Errorf("check: %+v", c)
	}
	if _, alone := door(t, admin.Config{})(http.MethodGet, "/readyz"); strings.Contains(alone, "cluster") {
		t.Errorf("a hub that is alone tells of a cluster: %s", alone)
	}
}

func TestRoutesAreAListAlsoWhenThereAreNone(t *testing.T) {
	t.Parallel()
	_, body := door(t, admin.Config{})(http.MethodGet, "/readyz")
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &raw); err != nil {
		t.Fatal(err)
	}
	if string(raw["routes"]) != "[]" || string(raw["checks"]) != "[]" {
		t.Errorf("routes is %s, checks is %s", raw["routes"], raw["checks"])
	}
}

// TestManyProbesAreOneCheck asks from many sides at once, and again later: within a second one answer serves all.
func TestManyProbesAreOneCheck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int32
		var failing atomic.Bool
		handler := admin.Handler(admin.Config{
			Checks: []admin.Check{{Name: "store", Probe: func(context.Context) error {
				probes.Add(1)
				if failing.Load() {
					return errors.New("gone")
				}
				return nil
			}}},
			Routes:   func(context.Context) []admin.RouteState { return nil },
			Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
		})
		ask := func() int {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
			return w.Code
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { ask() })
		}
		all.Wait()
		if got := probes.Load(); got != 1 {
			t.Errorf("%d checks for twenty calls at once", got)
		}
		failing.Store(true)
		if code := ask(); code != http.StatusOK {
			t.Errorf("within the second: %d", code)
		}
		<-time.After(time.Second)
		if code := ask(); code != http.StatusServiceUnavailable || probes.Load() != 2 {
			t.Errorf("a second later: %d after %d checks", code, probes.Load())
		}
		failing.Store(false)
		<-time.After(time.Second)
		if code := ask(); code != http.StatusOK {
			t.Errorf("well again: %d", code)
		}
	})
}

// TestAHangingCheckIsBounded has a check that ends with its context only, and a caller that has gone: the answer is kept for others all the same.
func TestAHangingCheckIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handler := admin.Handler(admin.Config{
			Checks: []admin.Check{{Name: "store", Probe: func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			}}},
			Routes:   func(context.Context) []admin.RouteState { return nil },
			Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
		})
		gone, leave := context.WithCancel(t.Context())
		leave()
		start := time.Now()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(gone, http.MethodGet, "/readyz", nil))
		if got := readiness(t, w.Body.String()); w.Code != http.StatusServiceUnavailable || got.Checks[0].Reason != context.DeadlineExceeded.Error() {
			t.Errorf("%d %+v", w.Code, got)
		}
		// The clock is the test's own: this is no measurement.
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the check hung for %s", took)
		}
	})
}

// TestWhatHangsTakesNothingFromTheOthers has a log that does not answer: neither the routes' lag nor its own check may use up the time of the store's.
func TestWhatHangsTakesNothingFromTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handler := admin.Handler(admin.Config{
			Checks: []admin.Check{
				{Name: "log", Probe: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
				{Name: "store", Probe: func(ctx context.Context) error {
					select {
					case <-time.After(2 * time.Second):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}},
			},
			Routes: func(ctx context.Context) []admin.RouteState {
				<-ctx.Done()
				return []admin.RouteState{{Route: "orders", State: "running"}}
			},
			Cluster:  func(ctx context.Context) *admin.Cluster { return &admin.Cluster{Hub: fmt.Sprint(ctx.Err() == nil)} },
			Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
		})
		start := time.Now()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
		got := readiness(t, w.Body.String())
		if got.Ready || got.Checks[0].OK || !got.Checks[1].OK || len(got.Routes) != 1 || got.Cluster.Hub != "true" {
			t.Errorf("%+v %+v", got, got.Cluster)
		}
		// The clock is the test's own: this is no measurement.
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("all of it took %s", took)
		}
	})
}

func TestMetricsAreTheGatherers(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "tidewire_test_total", Help: "Counts."})
	registry.MustRegister(counter)
	counter.Add(3)
	res, body := door(t, admin.Config{Gatherer: registry})(http.MethodGet, "/metrics")
	if res.StatusCode != http.StatusOK || !strings.Contains(body, "tidewire_test_total 3\n") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestTheFirstPageSaysWhatIsThere(t *testing.T) {
	t.Parallel()
	ask := door(t, admin.Config{})
	res, body := ask(http.MethodGet, "/")
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%d", res.StatusCode)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if !strings.Contains(body, path) {
			t.Errorf("%s is not on the page", path)
		}
		if res, _ := ask(http.MethodGet, path); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
		if res, _ := ask(http.MethodPost, path); res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, res.StatusCode)
		}
	}
	if res, _ := ask(http.MethodGet, "/in/stripe"); res.StatusCode != http.StatusNotFound {
		t.Errorf("webhooks at the admin's door: %d", res.StatusCode)
	}
}
