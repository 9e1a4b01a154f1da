package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/segmentio/kafka-go"
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
	counts := make(map[string]int)
	for p := range r.partitions {
		from, to, err := r.bounds(r.t.Context(), client, r.prefix+name, p)
		if errors.Is(err, kafka.UnknownTopicOrPartition) {
			return counts
		}
		if err == nil {
			err = r.read(r.t.Context(), client, r.prefix+name, p, from, to, func(record *kafka.Record) { counts[header(record, "tidewire-uuid")]++ })
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	return counts
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

// books reads what the hubs wrote of a connection's topic and of routes.
func (r *rack) books(topic string, routes []string) sharedBooks {
	r.t.Helper()
	k := sharedBooks{
		events: r.topic(topic), states: make(map[string]map[string]int64), dead: make(map[string][]string), letters: make(map[string]int),
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
	for _, route := range routes {
		k.letters[route] = len(r.topic("dead." + route))
	}
	return k
}

// addUp checks the hubs' own sums for routes without a filter: every event of the log has exactly one outcome on each route, every event that was accepted is in
// the log, each dead letter is there as a row and as a record, and nothing is parked any more.
func (r *rack) addUp(atLeast int) sharedBooks {
	r.t.Helper()
	k := r.books("events.stripe", r.routes)
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

// indexed waits until the index of events names so many.
func (r *rack) indexed(events int) {
	r.t.Helper()
	type count struct{ N int64 }
	missing := int64(-1)
	ok := await(r.t, time.Minute, func() bool {
		missing = int64(events) - query[count](r, "SELECT count(DISTINCT event_id) FROM tidewire.event_index")[0].N
		if missing > 0 {
			pause(r.t, 300*time.Millisecond)
		}
		return missing <= 0
	})
	if !ok {
		r.fault("the index of events lacks %d", missing)
	}
}

// counted are the hubs' own counts of what became of deliveries, by route and outcome, summed. They are whole when no hub was started twice: a process that ends takes
// its counters along.
func (r *rack) counted() (sums map[string]float64, whole bool) {
	sums = make(map[string]float64)
	for i, b := range r.hubs {
		if r.running[i] == nil {
			return nil, false
		}
		m, err := b.metrics()
		if err != nil {
			r.fault("%v", err)
		}
		for _, route := range r.routes {
			for _, outcome := range []string{"delivered", "dead"} {
				sums[route+" "+outcome] += m[`tidewire_deliveries_total{outcome="`+outcome+`",route="`+route+`"}`]
			}
		}
	}
	return sums, r.starts == len(r.hubs)
}

// agree compares the hubs' counters with the ledger.
func (r *rack) agree(counted map[string]float64, k sharedBooks) {
	r.t.Helper()
	for _, route := range r.routes {
		for _, outcome := range []string{"delivered", "dead"} {
			if n := counted[route+" "+outcome]; n != float64(k.states[route][outcome]) {
				r.fault("route %s: the hubs counted %v %s, the ledger has %d", route, n, outcome, k.states[route][outcome])
			}
		}
	}
}

// planted are the secrets of every rack.
var planted = []string{stripeSecret, sendSecret, strings.TrimPrefix(sendSecret, "whsec_"), anyToken}

// silent checks that no secret is in what the hubs say and keep: their output, their metrics and readiness, the files of their spools, the tables and the topics.
// more are secrets beside those of every rack.
func (r *rack) silent(more ...string) {
	r.t.Helper()
	var words []string
	for _, secret := range append(planted[:len(planted):len(planted)], more...) {
		words = append(words, spellings(secret)...)
	}
	looked := int64(0)
	search := func(where string, text io.Reader) {
		n, found, err := find(text, words)
		looked += n
		if err != nil {
			r.fault("search %s: %v", where, err)
		}
		if found != "" {
			r.fault("a secret is in %s: %s", where, found)
		}
	}
	for i, b := range r.hubs {
		search(fmt.Sprintf("the output of hub %d", i), strings.NewReader(b.everything()))
		for _, page := range []string{"/metrics", "/readyz"} {
			if _, text, err := b.get("http://" + b.admin + page); err == nil {
				search(fmt.Sprintf("%s of hub %d", page, i), strings.NewReader(text))
			}
		}
		r.files(b.data, search)
	}
	for i := range r.kafka.Addresses() {
		logs, _ := filepath.Glob(filepath.Join(filepath.Dir(r.kafka.Log(i)), "data", r.prefix+"*", "*.log"))
		for _, file := range logs {
			r.files(file, search)
		}
	}
	type count struct{ N int64 }
	type table struct{ Name string }
	for _, t := range query[table](r, "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'tidewire'") {
		var like []string
		for _, w := range words {
			like = append(like, "strpos(t::text, '"+w+"') > 0")
		}
		if n := query[count](r, "SELECT count(*) FROM "+t.Name+" t WHERE "+strings.Join(like, " OR "))[0].N; n > 0 {
			r.fault("a secret is in %d rows of %s", n, t.Name)
		}
	}
	if looked < 10_000 {
		r.fault("only %d bytes were searched for secrets", looked)
	}
}

// files searches all files of a folder.
func (r *rack) files(dir string, search func(where string, text io.Reader)) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // no spool; or a file that is no longer there
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		search(path, f)
		return nil
	})
	if err != nil {
		r.fault("search %s: %v", dir, err)
	}
}

// find looks for words in a text that may be large, and returns its length and the first word that is in it with what is around.
func find(text io.Reader, words []string) (n int64, found string, err error) {
	const room, overlap = 1 << 20, 1 << 10
	buf, kept := make([]byte, room), 0
	for {
		got, err := io.ReadFull(text, buf[kept:])
		n += int64(got)
		all := buf[:kept+got]
		for _, w := range words {
			if i := bytes.Index(all, []byte(w)); i >= 0 {
				return n, fmt.Sprintf("%q", all[max(0, i-100):i+len(w)]), nil
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return n, "", nil
		}
		if err != nil {
			return n, "", err
		}
		kept = copy(buf, all[len(all)-overlap:])
	}
}
