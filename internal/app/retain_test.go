package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/app"
)

// overdue is a plan whose retention is over as soon as something is stored.
func overdue(t *testing.T, text string, log *lines) *app.Plan {
	t.Helper()
	plan := planOf(t, text, log)
	plan.Config.Retention = config.Retention{Events: 1, Deliveries: 1, DeadLetters: 1}
	return plan
}

// stored counts the events that a hub's log still has: a route that begins at the beginning is given all of them.
func stored(t *testing.T, text string) int {
	t.Helper()
	count := receiving(t, nil)
	text = strings.Replace(text, "\nroutes:\n", fmt.Sprintf("\n  counter: {connector: http, url: %q, allow_private: true}\nroutes:\n  count: {from: stripe, to: counter, start: beginning}\n", count.URL), 1)
	h := serve(t, text)
	h.post(t, stripeEvent("evt_last", "cus_last"), stripeSecret)
	until(t, "everything is counted", func() bool {
		return h.metric(t, `tidewire_route_lag_events{route="count"}`) == "0"
	})
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	return len(count.calls) - 1
}

// TestRetentionRemovesWhatIsFinishedOnly has one route that has finished its events and one whose target never answers: nothing is removed until
// both have finished, and the log says that it grows.
func TestRetentionRemovesWhatIsFinishedOnly(t *testing.T) {
	t.Parallel()
	const events = 5
	dir, office := t.TempDir(), receiving(t, nil)
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	slow := receiving(t, func(call) int {
		arrived <- struct{}{}
		<-release
		return http.StatusOK
	})
	released := sync.OnceFunc(func() { close(release) })
	t.Cleanup(released) // also when the test fails: the target waits for its calls
	text := strings.Replace(simple(dir, office.URL, ""), "shutdown_timeout: 5s", "shutdown_timeout: 50ms", 1)
	both := strings.Replace(text, "\nroutes:\n",
		fmt.Sprintf("\n  slow: {connector: http, url: %q, allow_private: true}\nroutes:\n  behind: {from: stripe, to: slow, timeout: 5m}\n", slow.URL), 1)
	h := serve(t, both)
	for i := range events {
		h.post(t, stripeEvent(fmt.Sprint("evt_", i), "cus_1"), stripeSecret)
		office.next(t)
	}
	<-arrived
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}

	log := new(lines)
	if err := app.RetainOnce(t.Context(), overdue(t, both, log), log.logger(config.Log{})); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "because a route has not finished them: the log grows") || strings.Contains(log.String(), "old events removed") {
		t.Errorf("held back, but the log says:\n%s", log)
	}
	released()
	again := serve(t, both)
	for range events + 1 { // one was sent before the stop
		slow.next(t)
	}
	until(t, "the slow route has finished", func() bool { return again.metric(t, `tidewire_route_lag_events{route="behind"}`) == "0" })
	if err := again.stop(); err != nil {
		t.Fatal(err)
	}

	log = new(lines)
	if err := app.RetainOnce(t.Context(), overdue(t, both, log), log.logger(config.Log{})); err != nil {
		t.Fatal(err)
	}
	// The newest record of a topic is always kept.
	if want := fmt.Sprintf("events=%d", events-1); !strings.Contains(log.String(), want) || strings.Contains(log.String(), "the log grows") {
		t.Errorf("finished, but the log says:\n%s", log)
	}
	if got := stored(t, text); got != 1 {
		t.Errorf("%d events are left", got)
	}
}

// TestRetentionKeepsWhatIsYoung runs with the defaults.
func TestRetentionKeepsWhatIsYoung(t *testing.T) {
	t.Parallel()
	office := receiving(t, nil)
	text := simple(t.TempDir(), office.URL, "")
	h := serve(t, text)
	for i := range 3 {
		h.post(t, stripeEvent(fmt.Sprint("evt_", i), "cus_1"), stripeSecret)
		office.next(t)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	log := new(lines)
	if err := app.RetainOnce(t.Context(), planOf(t, text, log), log.logger(config.Log{})); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, text); got != 3 {
		t.Errorf("%d of 3 events are left; the log says:\n%s", got, log)
	}
}

// TestAParkedEventOutlivesTheLog removes a parked delivery's event from the log: the delivery is made all the same.
func TestAParkedEventOutlivesTheLog(t *testing.T) {
	t.Parallel()
	failing := make(chan struct{})
	office := receiving(t, func(c call) int {
		select {
		case <-failing:
			return http.StatusOK
		default:
			if c.header.Get("Ce-Id") == "evt_1" {
				return http.StatusInternalServerError
			}
			return http.StatusOK
		}
	})
	text := simple(t.TempDir(), office.URL, ", retry: {schedule: [1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s]}")
	h := serve(t, text)
	h.post(t, stripeEvent("evt_1", "cus_1"), stripeSecret)
	until(t, "it is parked", func() bool { return h.metric(t, `tidewire_parked{route="all"}`) == "1" })
	h.post(t, stripeEvent("evt_2", "cus_2"), stripeSecret)
	until(t, "the other is delivered", func() bool { return h.metric(t, `tidewire_route_lag_events{route="all"}`) == "0" })
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	log := new(lines)
	if err := app.RetainOnce(t.Context(), overdue(t, text, log), log.logger(config.Log{})); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "old events removed") {
		t.Fatalf("nothing was removed:\n%s", log)
	}
	close(failing)
	again := serve(t, text)
	until(t, "it is delivered", func() bool {
		return again.metric(t, `tidewire_deliveries_total{outcome="delivered",route="all"}`) == "1"
	})
	if got := again.metric(t, `tidewire_parked{route="all"}`); got != "0" {
		t.Errorf("%s are parked", got)
	}
}

// TestFill fills a data_dir and starts a hub on it: everything counts as delivered, and what comes next is delivered.
func TestFill(t *testing.T) {
	t.Parallel()
	const n = 1200
	dir, office := t.TempDir(), receiving(t, nil)
	body := []byte(stripeEvent("evt_stored", "cus_stored"))
	if err := app.Fill(t.Context(), dir, "stripe", "all", body, n); err != nil {
		t.Fatal(err)
	}
	h := serve(t, simple(dir, office.URL, ", start: beginning"))
	h.post(t, stripeEvent("evt_new", "cus_1"), stripeSecret)
	if got := office.next(t).header.Get("Ce-Id"); got != "evt_new" {
		t.Errorf("%s was sent", got)
	}
	until(t, "the stored ones are passed over", func() bool { return h.metric(t, `tidewire_route_lag_events{route="all"}`) == "0" })
	if got := h.metric(t, `tidewire_deliveries_total{outcome="duplicate",route="all"}`); got != fmt.Sprint(n) {
		t.Errorf("%s of %d stored events were known", got, n)
	}
	if got := len(office.calls); got != 0 {
		t.Errorf("%d more were sent", got)
	}
	if _, text := h.ask(t, "/metrics"); !strings.Contains(text, `tidewire_dead{route="all"} 0`) {
		t.Error("there are dead letters")
	}
	if id := event.StableID("evt_stored_0"); id != "evt_stored_0" {
		t.Errorf("a stored event's ID cannot be one: %s", id)
	}
}
