package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"
)

// TestRoutesGoOnWhenKafkaHasForgottenThem has Kafka lose every consumer group while no hub runs, as it does after a week: a route that starts with what is new
// skips nothing of what came meanwhile, and one that starts at the beginning does not read everything again.
func TestRoutesGoOnWhenKafkaHasForgottenThem(t *testing.T) {
	t.Parallel()
	cluster, office, book := fresh(t), receiving(t, nil), receiving(t, nil)
	text := cluster.put(strings.Replace(simple(t.TempDir(), office.URL, ""), "\nroutes:\n",
		fmt.Sprintf("\n  book: {connector: http, url: %q, allow_private: true}\nroutes:\n  every: {from: stripe, to: book, start: beginning}\n", book.URL), 1))
	groups := []string{"all", "every", "hub.index"}
	post := func(h *running, from, to int) {
		t.Helper()
		for n := from; n < to; n++ {
			if code := h.post(t, stripeEvent(fmt.Sprint("evt_", n), fmt.Sprint("cus_", n%7)), stripeSecret); code != http.StatusOK {
				t.Fatalf("event %d: %d", n, code)
			}
		}
	}
	got := func(x *target, from, to int) {
		t.Helper()
		seen := make(map[string]int)
		for range to - from {
			seen[idOf(x.next(t))]++
		}
		for n := from; n < to; n++ {
			if seen[fmt.Sprint("evt_", n)] != 1 {
				t.Errorf("of events %d to %d came %v", from, to-1, seen)
			}
		}
	}
	h := serve(t, text)
	post(h, 0, 20)
	got(office, 0, 20)
	got(book, 0, 20)
	until(t, "the index is read as well", func() bool { return h.metric(t, `tidewire_kafka_partitions_held{group="hub.index"}`) == "6" })
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}

	// Events go on to come, by a hub that has neither route.
	other := serve(t, cluster.put(strings.Replace(simple(t.TempDir(), office.URL, `, when: "false"`), "  all:", "  nothing:", 1)))
	post(other, 20, 40)
	if err := other.stop(); err != nil {
		t.Fatal(err)
	}
	transport := new(kafka.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	client := kafka.Client{Addr: kafka.TCP(strings.Split(cluster.brokers, ", ")...), Transport: transport}
	for _, group := range groups {
		group = cluster.prefix + group
		until(t, group+" is deleted", func() bool {
			r, err := client.DeleteGroups(t.Context(), &kafka.DeleteGroupsRequest{GroupIDs: []string{group}})
			return err == nil && r.Errors[group] == nil
		})
	}

	h = serve(t, text)
	got(office, 20, 40)
	got(book, 20, 40)
	for _, group := range groups {
		until(t, group+" counts what it went on from", func() bool {
			return h.metric(t, fmt.Sprintf("tidewire_kafka_places_resumed_total{group=%q}", group)) == "6"
		})
	}
	for _, route := range []string{"all", "every"} {
		if n := h.metric(t, fmt.Sprintf(`tidewire_deliveries_total{outcome="duplicate",route=%q}`, route)); n != "0" {
			t.Errorf("route %s read %s events again", route, n)
		}
	}
	if _, r := h.readiness(t); !r.Ready || !strings.Contains(fmt.Sprint(r.Checks), "Kafka had lost the places of groups (3 groups, 18 partitions") {
		t.Errorf("readyz says %+v", r.Checks)
	}
	if n := strings.Count(h.log.String(), "Kafka has lost the place of a group"); n < len(groups) {
		t.Errorf("the log tells of %d groups", n)
	}
	post(h, 40, 45)
	got(office, 40, 45)
	got(book, 40, 45)
}
