package app_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
)

// TestRoutesThatCannotStartEndTheHub has routes that cannot open their places in the log: the hub says so and ends.
func TestRoutesThatCannotStartEndTheHub(t *testing.T) {
	t.Parallel()
	log := new(lines)
	plan := planOf(t, simple(t.TempDir(), "http://127.0.0.1:9", ""), log)
	ended := make(chan error, 1)
	go func() { ended <- app.ServeWithoutLog(t.Context(), plan, log.logger(config.Log{})) }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the hub hangs")
	}
}

// TestAConnectionThatARouteHasLeftIsNotHeld takes a connection out of a route's list. The route's place there never moves again, and must not keep the
// connection's events for ever.
func TestAConnectionThatARouteHasLeftIsNotHeld(t *testing.T) {
	t.Parallel()
	office := receiving(t, nil)
	both := strings.NewReplacer(
		"\n  office:", "\n  second: {connector: stripe, webhook: {secret: "+stripeSecret+"}}\n  office:",
		"from: stripe,", "from: [stripe, second],",
	).Replace(simple(t.TempDir(), office.URL, ""))
	post := func(h *running, id string) {
		t.Helper()
		if code := postTo(t, h.client, "http://"+h.listen+"/in/second", stripeEvent(id, "cus_1"), stripeSecret); code != http.StatusOK {
			t.Fatalf("posted %s: %d", id, code)
		}
	}
	h := serve(t, both)
	post(h, "evt_1")
	office.next(t)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	left := strings.Replace(both, "from: [stripe, second],", "from: stripe,", 1)
	h = serve(t, left)
	for i := range 4 {
		post(h, fmt.Sprint("evt_more_", i))
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	log := new(lines)
	if err := app.RetainOnce(t.Context(), overdue(t, left, log), log.logger(config.Log{})); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "old events removed") || strings.Contains(log.String(), "the log grows") {
		t.Errorf("the log says:\n%s", log)
	}
}

// TestParkedDeliveriesOfARouteThatIsGoneAreTold renames a route that has something parked.
func TestParkedDeliveriesOfARouteThatIsGoneAreTold(t *testing.T) {
	bothModes(t, parkedDeliveriesOfARouteThatIsGoneAreTold)
}

func parkedDeliveriesOfARouteThatIsGoneAreTold(t *testing.T, in mode) {
	t.Helper()
	office := receiving(t, func(call) int { return http.StatusInternalServerError })
	text := in(simple(t.TempDir(), office.URL, ", retry: {schedule: [1h]}"))
	h := serve(t, text)
	h.post(t, stripeEvent("evt_1", "cus_1"), stripeSecret)
	until(t, "it is parked", func() bool { return h.metric(t, `tidewire_parked{route="all"}`) == "1" })
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	again := serve(t, strings.Replace(text, "\n  all: {", "\n  everything: {", 1))
	until(t, "the log tells of them", func() bool {
		got := again.log.String()
		return strings.Contains(got, "deliveries are parked on a route that the config does not have") && strings.Contains(got, "route=all")
	})
}

// TestAStopWhileTheRoutesWaitForTheLog has a log that does not answer when the routes start: the hub can be stopped all the same.
func TestAStopWhileTheRoutesWaitForTheLog(t *testing.T) {
	t.Parallel()
	log := new(lines)
	plan := planOf(t, simple(t.TempDir(), "http://127.0.0.1:9", ""), log)
	ctx, stop := context.WithCancel(t.Context())
	asked, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- app.ServeBeforeLog(ctx, plan, log.logger(config.Log{}), asked) }()
	<-asked
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatalf("the hub goes on waiting:\n%s", log)
	}
}
