package app_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/admin"
	"github.com/tidewire/tidewire/internal/app"
	"github.com/tidewire/tidewire/internal/sqlite"
)

// station is an installation with four targets, one for each of its routes.
type station struct{ all, some, behind, late *target }

// wait is how long a delivery that failed waits.
const wait = 10 * time.Second

// config is one in embedded mode; late: with a fourth route.
func (s station) config(dir string, late bool) string {
	extra := ""
	if late {
		extra = "\n  late: {from: stripe, to: later}"
	}
	return fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", shutdown_timeout: 200ms}
data_dir: %q
connections:
  stripe: {connector: stripe, webhook: {secret: %s}}
  office: {connector: http, url: %q, allow_private: true}
  shop: {connector: http, url: %q, allow_private: true}
  slow: {connector: http, url: %q, allow_private: true}
  later: {connector: http, url: %q, allow_private: true}
routes:
  all: {from: stripe, to: office, retry: {schedule: [%s, 1h], jitter: 0}}
  some: {from: stripe, to: shop, when: body.data.object.customer == "cus_1"}
  behind: {from: stripe, to: slow, timeout: 5m}%s
`, dir, stripeSecret, s.all.URL, s.some.URL, s.behind.URL, s.late.URL, wait, extra)
}

// idOf is the event's ID in a call's body.
func idOf(c call) string { return strings.Split(strings.SplitN(c.body, `"id": "`, 2)[1], `"`)[0] }

// came are the events that a target has been given, in order, without repeats.
func (x *target) came(t *testing.T, n int) []string {
	t.Helper()
	var ids []string
	for len(ids) < n {
		ids = append(ids, idOf(x.next(t)))
	}
	return ids
}

// embeddedStation runs an embedded hub twice on a folder and leaves in it: events that all have, one key parked with three events, two dead letters, a route
// that has not finished the first event, a route that began in the middle, and filtered events. failed is when the first parked one failed.
func embeddedStation(t *testing.T, dir string) (s station, failed time.Time) {
	t.Helper()
	release := make(chan struct{})
	s = station{
		all: receiving(t, func(c call) int {
			switch {
			case strings.Contains(c.body, "cus_parked"):
				return http.StatusInternalServerError
			case strings.Contains(c.body, "cus_dead"):
				return http.StatusUnprocessableEntity
			}
			return http.StatusOK
		}),
		some: receiving(t, nil),
		behind: receiving(t, func(c call) int {
			if strings.Contains(c.body, "cus_slow") {
				<-release
			}
			return http.StatusOK
		}),
		late: receiving(t, nil),
	}
	t.Cleanup(func() { close(release) }) // before the targets close, which wait for their calls
	h := serve(t, s.config(dir, false))
	post := func(id, customer string) {
		t.Helper()
		if code := h.post(t, stripeEvent(id, customer), stripeSecret); code != http.StatusOK {
			t.Fatalf("%s: %d", id, code)
		}
	}
	state := func(name, want string) {
		t.Helper()
		until(t, name+" is "+want, func() bool { return h.metric(t, name) == want })
	}
	post("slow_0", "cus_slow")
	failed = time.Now()
	for n := range 3 {
		post(fmt.Sprint("parked_", n), "cus_parked")
		post(fmt.Sprint("one_", n), "cus_1")
		post(fmt.Sprint("two_", n), "cus_2")
	}
	post("dead_0", "cus_dead")
	state(`tidewire_parked{route="all"}`, "3")
	state(`tidewire_dead{route="all"}`, "1")
	state(`tidewire_route_lag_events{route="all"}`, "0")
	state(`tidewire_route_lag_events{route="some"}`, "0")
	state(`tidewire_route_lag_events{route="behind"}`, "1")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = serve(t, s.config(dir, true))
	post("slow_1", "cus_slow")
	post("one_3", "cus_1")
	post("dead_1", "cus_dead")
	state(`tidewire_dead{route="all"}`, "2")
	state(`tidewire_route_lag_events{route="late"}`, "0")
	state(`tidewire_route_lag_events{route="behind"}`, "2")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	return s, failed
}

func toCluster(t *testing.T, ctx context.Context, text string, o app.MoveOptions) (app.Move, error) { //nolint:revive // the test first
	t.Helper()
	log := new(lines)
	plan := planOf(t, text, log)
	defer plan.Close()
	o.Logger = log.logger(config.Log{})
	return app.ToCluster(ctx, plan, o)
}

// refusedWith expects one sentence that blames the environment.
func refusedWith(t *testing.T, err error, want string) {
	t.Helper()
	if !errors.Is(err, app.ErrEnvironment) || !strings.Contains(fmt.Sprint(err), want) || strings.Contains(fmt.Sprint(err), "\n") {
		t.Errorf("got %v, want %q", err, want)
	}
}

// TestAnInstallationMovesIntoACluster carries an embedded installation over, interrupted at one step after the other, and lets a hub go on in the cluster: what was
// delivered is not delivered again, what was not is, in order per key, at its time, and every count is what it was.
func TestAnInstallationMovesIntoACluster(t *testing.T) {
	t.Parallel()
	dir, where := t.TempDir(), fresh(t)
	_, failed := embeddedStation(t, dir)
	after := station{receiving(t, nil), receiving(t, nil), receiving(t, nil), receiving(t, nil)}
	embedded := after.config(dir, true)
	clustered := strings.Replace(where.put(embedded), "200ms", "5s", 1)

	var moved app.Move
	interrupted := 0
	for step := 1; ; step++ {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		o := app.MoveOptions{Progress: func(what string, done, total int64) {
			if calls++; calls == step {
				cancel()
			}
			if done > total || total == 0 {
				t.Errorf("%s: %d of %d", what, done, total)
			}
		}}.InSteps(2)
		var err error
		moved, err = toCluster(t, ctx, clustered, o)
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) || step > 100 {
			t.Fatalf("step %d: %v", step, err)
		}
		if interrupted++; interrupted == 4 {
			_, err := toCluster(t, t.Context(), strings.Replace(clustered, "  some: {from: stripe,", "  some: {start: beginning, from: stripe,", 1), app.MoveOptions{})
			refusedWith(t, err, "finish it with that one")
		}
		log := new(lines)
		plan := planOf(t, clustered, log)
		hub, end := context.WithTimeout(t.Context(), patience) // one that starts must not run on
		refusedWith(t, app.Serve(hub, plan, app.Options{Logger: log.logger(config.Log{})}), "is not finished")
		if end(); t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d interruptions: %+v", interrupted, moved.Counts)
	if interrupted < 5 || !moved.Resumed || moved.Finished.IsZero() || moved.Already {
		t.Errorf("after %d interruptions: %+v", interrupted, moved)
	}
	found := make(map[string]int64)
	for _, c := range moved.Counts {
		found[c.What] = c.Found
		if c.Found != c.Carried || c.Damaged != 0 {
			t.Errorf("%+v", c)
		}
	}
	// The slow route has not finished the first event: all fourteen are carried.
	for what, want := range map[string]int64{"events": 14, "parked deliveries": 3, "dead letters": 2, "dead-letter topic records": 2} {
		if found[what] != want {
			t.Errorf("%d %s, want %d", found[what], what, want)
		}
	}

	again, err := toCluster(t, t.Context(), clustered, app.MoveOptions{Confirm: func(app.Move) error { return errors.New("asked") }})
	if err != nil || !again.Already || !slices.Equal(again.Counts, moved.Counts) {
		t.Errorf("a second time: %+v, %v", again, err)
	}

	h := serve(t, clustered)
	for id, customer := range map[string]string{"new_1": "cus_1", "new_parked": "cus_parked"} {
		if code := h.post(t, stripeEvent(id, customer), stripeSecret); code != http.StatusOK {
			t.Fatalf("%s: %d", id, code)
		}
	}
	expect := func(route string, x *target, keyed []string, others ...string) {
		t.Helper()
		came := x.came(t, len(keyed)+len(others))
		inOrder := slices.DeleteFunc(slices.Clone(came), func(id string) bool { return !slices.Contains(keyed, id) })
		slices.Sort(others)
		rest := slices.Sorted(slices.Values(slices.DeleteFunc(came, func(id string) bool { return slices.Contains(keyed, id) })))
		if !slices.Equal(inOrder, keyed) || !slices.Equal(rest, others) {
			t.Errorf("route %s: got %q and %q, want %q and %q", route, inOrder, rest, keyed, others)
		}
	}
	expect("all", after.all, []string{"parked_0", "parked_1", "parked_2", "new_parked"}, "new_1")
	if due := failed.Add(wait); time.Now().Before(due) {
		t.Errorf("what was to wait until %s has come", due)
	}
	expect("some", after.some, []string{"new_1"})
	expect("behind", after.behind, []string{"slow_0", "slow_1"}, "new_1", "new_parked")
	expect("late", after.late, nil, "new_1", "new_parked")
	until(t, "all is settled", func() bool {
		_, r := h.readiness(t)
		return !slices.ContainsFunc(r.Routes, func(s admin.RouteState) bool { return s.LagEvents == nil || *s.LagEvents > 0 }) && h.metric(t, `tidewire_parked{route="all"}`) == "0"
	})
	for route, x := range map[string]*target{"all": after.all, "some": after.some, "behind": after.behind, "late": after.late} {
		if len(x.calls) > 0 {
			t.Errorf("route %s: too many calls: %s", route, idOf(<-x.calls))
		}
	}
	if n := h.metric(t, `tidewire_dead{route="all"}`); n != "2" {
		t.Errorf("%s dead letters", n)
	}
}

// TestAMoveIsRefusedWhereItWouldDoHarm tries what must not be done: one sentence each, and nothing is written.
func TestAMoveIsRefusedWhereItWouldDoHarm(t *testing.T) {
	t.Parallel()
	dir, where, office := t.TempDir(), fresh(t), receiving(t, nil)
	embedded := simple(dir, office.URL, "")
	move := func(text string, o app.MoveOptions) error {
		t.Helper()
		_, err := toCluster(t, t.Context(), text, o)
		return err
	}
	refusedWith(t, move(where.put(embedded), app.MoveOptions{}), "there is no "+filepath.Join(dir, "tidewire.db"))

	h := serve(t, embedded)
	if code := h.post(t, stripeEvent("evt_1", "cus_1"), stripeSecret); code != http.StatusOK {
		t.Fatal(code)
	}
	office.next(t)
	until(t, "it is settled", func() bool { return h.metric(t, `tidewire_route_lag_events{route="all"}`) == "0" })
	refusedWith(t, move(where.put(embedded), app.MoveOptions{}), "in use by another process")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}

	declined := errors.New("no")
	if err := move(where.put(embedded), app.MoveOptions{Confirm: func(m app.Move) error {
		if m.Counts[0].Found != 1 || m.Resumed {
			t.Errorf("asked about %+v", m)
		}
		return declined
	}}); !errors.Is(err, declined) {
		t.Errorf("declined, and got %v", err)
	}

	used := serve(t, where.hub(t.TempDir(), office.URL)) // which also shows that declining has left nothing
	refusedWith(t, move(where.put(embedded), app.MoveOptions{}), "runs on the cluster")
	if code := used.post(t, stripeEvent("evt_2", "cus_1"), stripeSecret); code != http.StatusOK {
		t.Fatal(code)
	}
	office.next(t)
	until(t, "it is settled", func() bool { return used.metric(t, `tidewire_route_lag_events{route="all"}`) == "0" })
	if err := used.stop(); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, move(where.put(embedded), app.MoveOptions{}), "into an empty cluster only")
	topics := fresh(t)
	topics.brokers, topics.prefix = where.brokers, where.prefix
	refusedWith(t, move(topics.put(embedded), app.MoveOptions{}), "events.stripe holds 1 records already")

	target := fresh(t)
	if err := move(target.put(embedded), app.MoveOptions{}); err != nil {
		t.Fatal(err)
	}
	elsewhere := target
	elsewhere.prefix += "else."
	refusedWith(t, move(elsewhere.put(embedded), app.MoveOptions{}), "name the same again")
	h = serve(t, embedded) // the way back is open
	if code := h.post(t, stripeEvent("evt_3", "cus_1"), stripeSecret); code != http.StatusOK {
		t.Fatal(code)
	}
	if got := idOf(office.next(t)); got != "evt_3" {
		t.Errorf("back in embedded mode came %s", got)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, move(target.put(embedded), app.MoveOptions{}), "a hub has run on it since")
}

// TestDamageIsCountedApart has an event that the disk has changed: it stays behind and is told of, and everything else is carried.
func TestDamageIsCountedApart(t *testing.T) {
	t.Parallel()
	dir, where, office := t.TempDir(), fresh(t), receiving(t, func(call) int { return http.StatusInternalServerError })
	embedded := simple(dir, office.URL, ", start: beginning")
	h := serve(t, embedded)
	for n := range 5 {
		if code := h.post(t, stripeEvent(fmt.Sprint("evt_", n), fmt.Sprint("cus_", n)), stripeSecret); code != http.StatusOK {
			t.Fatal(code)
		}
	}
	until(t, "all are parked", func() bool { return h.metric(t, `tidewire_parked{route="all"}`) == "5" })
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, app.File)})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(t.Context(), func(conn *zsqlite.Conn) error {
		// One event in the log, another one among the parked; and the route has finished nothing.
		return sqlitex.ExecuteScript(conn, `DELETE FROM log_groups; UPDATE log_records_1 SET payload = 'changed' WHERE offset = 2; UPDATE parked SET crc = crc + 1 WHERE log_offset = 3;`, nil)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	moved, err := toCluster(t, t.Context(), where.put(embedded), app.MoveOptions{})
	if !errors.Is(err, app.ErrDiffers) || moved.Finished.IsZero() {
		t.Errorf("got %+v, %v", moved, err)
	}
	want := []app.Count{
		{What: "ledger entries"}, {What: "parked deliveries", Found: 4, Carried: 4}, {What: "dead letters", Found: 1, Carried: 1},
		{What: "events", Found: 5, Carried: 4, Damaged: 1}, {What: "dead-letter topic records"},
	}
	if !slices.Equal(moved.Counts, want) {
		t.Errorf("the counts are %+v", moved.Counts)
	}
	if again, err := toCluster(t, t.Context(), where.put(embedded), app.MoveOptions{}); err != nil || !again.Already {
		t.Errorf("a second time: %+v, %v", again, err)
	}
}
