package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/segmentio/kafka-go"

	"github.com/tidewire/tidewire/internal/load"
)

// sharedBooks are what the hubs of a rack have written down, read past them out of Kafka and PostgreSQL.
type sharedBooks struct {
	records int                         // on the connection's topic
	events  map[string]int              // of it: how often each is there, by ID
	states  map[string]map[string]int64 // rows by route and state
	dead    map[string][]string         // event IDs of the dead letters by route
	letters map[string]int              // different events on the dead-letter topics
}

// client is a Kafka client of the test's own.
func (r *rack) client() (*kafka.Client, func()) {
	transport := &kafka.Transport{}
	return &kafka.Client{Addr: kafka.TCP(r.kafka.Addresses()...), Transport: transport, Timeout: 10 * time.Second}, transport.CloseIdleConnections
}

// topic counts the records of a topic by UUID.
func (r *rack) topic(name string) map[string]int {
	r.t.Helper()
	client, done := r.client()
	defer done()
	asked := make([]kafka.OffsetRequest, 0, 2*r.partitions)
	for p := range r.partitions {
		asked = append(asked, kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
	}
	wire := r.prefix + name
	found, err := client.ListOffsets(r.t.Context(), &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{wire: asked}})
	if err != nil {
		r.t.Fatalf("bounds of %s: %v", wire, err)
	}
	counts := make(map[string]int)
	for _, p := range found.Topics[wire] {
		if errors.Is(p.Error, kafka.UnknownTopicOrPartition) {
			return counts
		}
		if p.Error != nil {
			r.t.Fatalf("bounds of %s: %v", wire, p.Error)
		}
		for at := p.FirstOffset; at < p.LastOffset; {
			answer, err := client.Fetch(r.t.Context(), &kafka.FetchRequest{Topic: wire, Partition: p.Partition, Offset: at, MinBytes: 1, MaxBytes: 8 << 20, MaxWait: time.Second})
			if err == nil {
				err = answer.Error
			}
			for err == nil {
				var record *kafka.Record
				if record, err = answer.Records.ReadRecord(); err == nil {
					counts[uuid(record)]++
					at = record.Offset + 1
				}
			}
			if !errors.Is(err, io.EOF) {
				r.t.Fatalf("read %s: %v", wire, err)
			}
		}
	}
	return counts
}

func uuid(record *kafka.Record) string {
	for _, h := range record.Headers {
		if h.Key == "tidewire-uuid" {
			return string(h.Value)
		}
	}
	return fmt.Sprint("without a UUID: ", record.Offset)
}

// query runs a query past the hubs.
func query[T any](r *rack, sql string) []T {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.database)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) }()
	rows, err := conn.Query(r.t.Context(), sql)
	if err != nil {
		r.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return all
}

// books reads what the hubs wrote.
func (r *rack) books() sharedBooks {
	r.t.Helper()
	k := sharedBooks{
		events: r.topic("events.stripe"), states: make(map[string]map[string]int64), dead: make(map[string][]string), letters: make(map[string]int),
	}
	for _, n := range k.events {
		k.records += n
	}
	type outcome struct {
		Route string
		State int
		Rows  int64
	}
	for _, o := range query[outcome](r, "SELECT r.name, d.state, count(*) FROM tidewire.deliveries d JOIN tidewire.routes r ON r.id = d.route_id GROUP BY 1, 2") {
		if k.states[o.Route] == nil {
			k.states[o.Route] = make(map[string]int64)
		}
		k.states[o.Route][[]string{"", "parked", "delivered", "dead", "skipped"}[o.State]] = o.Rows
	}
	type letter struct{ Route, Event string }
	for _, l := range query[letter](r, "SELECT r.name, d.event_id FROM tidewire.dead d JOIN tidewire.routes r ON r.id = d.route_id") {
		k.dead[l.Route] = append(k.dead[l.Route], l.Event)
	}
	for _, route := range r.routes {
		k.letters[route] = len(r.topic("dead." + route))
	}
	return k
}

// addUp checks the hubs' own sums for routes without a filter: every event of the log has exactly one outcome on each route, every event that was accepted is in
// the log, each dead letter is there as a row and as a record, and nothing is parked any more.
func (r *rack) addUp(atLeast int) sharedBooks {
	r.t.Helper()
	k := r.books()
	if len(k.events) < atLeast {
		r.fault("the log holds %d events, %d were accepted", len(k.events), atLeast)
	}
	for _, route := range r.routes {
		var sum int64
		for _, n := range k.states[route] {
			sum += n
		}
		if sum != int64(len(k.events)) {
			r.fault("route %s: %d events in the log, %d outcomes %v", route, len(k.events), sum, k.states[route])
		}
		if n := k.states[route]["parked"]; n > 0 {
			r.fault("route %s: %d are parked after all came to rest", route, n)
		}
		if n := k.states[route]["dead"]; int64(len(k.dead[route])) != n || int64(k.letters[route]) != n {
			r.fault("route %s: %d deliveries are dead, %d dead letters, %d events on its topic", route, n, len(k.dead[route]), k.letters[route])
		}
	}
	return k
}

// indexed waits until the index of events names every event that was accepted.
func (r *rack) indexed(sent []*load.Sent) {
	r.t.Helper()
	type count struct{ N int64 }
	missing := int64(-1)
	ok := await(r.t, time.Minute, func() bool {
		missing = int64(accepted(sent)) - query[count](r, "SELECT count(DISTINCT event_id) FROM tidewire.event_index")[0].N
		if missing > 0 {
			pause(r.t, 300*time.Millisecond)
		}
		return missing <= 0
	})
	if !ok {
		r.fault("the index of events lacks %d", missing)
	}
}

// watchPlaces asks Kafka ten times a second where the routes' groups are, until stop is called: no place may ever fall.
func (r *rack) watchPlaces() (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var watching sync.WaitGroup
	var found []string
	watching.Go(func() {
		client, done := r.client()
		defer done()
		places := make(map[string]int64)
		partitions := make([]int, r.partitions)
		for i := range partitions {
			partitions[i] = i
		}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, route := range r.routes {
				answer, err := client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{
					GroupID: r.prefix + route, Topics: map[string][]int{r.prefix + "events.stripe": partitions},
				})
				if err != nil || answer.Error != nil {
					continue // the fault may be the broker's end
				}
				for _, p := range slices.Concat(slices.Collect(maps.Values(answer.Topics))...) {
					at := fmt.Sprintf("%s/%d", route, p.Partition)
					if p.Error == nil && p.CommittedOffset < places[at] {
						found = append(found, fmt.Sprintf("the place of %s fell from %d to %d", at, places[at], p.CommittedOffset))
					}
					if p.Error == nil {
						places[at] = max(places[at], p.CommittedOffset)
					}
				}
			}
		}
	})
	end := sync.OnceFunc(func() {
		cancel()
		watching.Wait()
		r.regressed = len(found)
		for _, f := range found[:min(len(found), 5)] {
			r.fault("%s", f)
		}
	})
	r.t.Cleanup(end)
	return end
}
