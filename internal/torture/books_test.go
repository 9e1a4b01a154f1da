package torture

import (
	"path/filepath"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// books are what a stopped hub has written down.
type books struct {
	records map[string]int64            // by topic; in a cluster different events
	states  map[string]map[string]int64 // by route and state
	dead    map[string][]string         // event IDs of the dead letters by route
	// places are how far each group has got, by topic and group, beside the topic's end.
	places map[[2]string]int64
}

// open reads the file of a hub that does not run, and has SQLite check it.
func (b *bed) open() books {
	b.t.Helper()
	conn, err := zsqlite.OpenConn(filepath.Join(b.data, "tidewire.db"), zsqlite.OpenReadWrite)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	k := books{
		records: make(map[string]int64), states: make(map[string]map[string]int64),
		dead: make(map[string][]string), places: make(map[[2]string]int64),
	}
	rows := func(query string, f func(*zsqlite.Stmt)) {
		err := sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{ResultFunc: func(s *zsqlite.Stmt) error { f(s); return nil }})
		if err != nil {
			b.fault("%s: %v", query, err)
		}
	}
	rows("PRAGMA integrity_check", func(s *zsqlite.Stmt) {
		if text := s.ColumnText(0); text != "ok" {
			b.fault("integrity: %s", text)
		}
	})
	tables := make(map[string]string)
	rows("SELECT name, id FROM log_topics", func(s *zsqlite.Stmt) { tables[s.ColumnText(0)] = "log_records_" + s.ColumnText(1) })
	for topic, table := range tables {
		rows("SELECT count(*), count(DISTINCT uuid) FROM "+table, func(s *zsqlite.Stmt) {
			k.records[topic] = s.ColumnInt64(0)
			if s.ColumnInt64(0) != s.ColumnInt64(1) {
				b.fault("topic %s holds %d records of %d events", topic, s.ColumnInt64(0), s.ColumnInt64(1))
			}
		})
	}
	rows("SELECT r.name, d.state, count(*) FROM deliveries d JOIN routes r ON r.id = d.route_id GROUP BY 1, 2", func(s *zsqlite.Stmt) {
		route := s.ColumnText(0)
		if k.states[route] == nil {
			k.states[route] = make(map[string]int64)
		}
		k.states[route][[]string{"", "parked", "delivered", "dead", "skipped"}[s.ColumnInt(1)]] = s.ColumnInt64(2)
	})
	rows("SELECT r.name, e.event_id FROM dead d JOIN routes r ON r.id = d.route_id JOIN deliveries e"+
		" ON e.route_id = d.route_id AND e.partition_id = d.partition_id AND e.log_offset = d.log_offset", func(s *zsqlite.Stmt) {
		k.dead[s.ColumnText(0)] = append(k.dead[s.ColumnText(0)], s.ColumnText(1))
	})
	rows("SELECT t.name, g.name, g.next FROM log_groups g JOIN log_topics t ON t.id = g.topic", func(s *zsqlite.Stmt) {
		k.places[[2]string{s.ColumnText(0), s.ColumnText(1)}] = s.ColumnInt64(2)
	})
	return k
}

// addUp checks the hub's own sums for routes without a filter that read one topic: every record has exactly one outcome, and there is a
// record for every event that came through.
func (b *bed) addUp(topic string, atLeast int, routes ...string) books {
	b.t.Helper()
	k := b.wrote(topic, routes)
	if k.records[topic] < int64(atLeast) {
		b.fault("%s holds %d records, %d events were accepted", topic, k.records[topic], atLeast)
	}
	for _, r := range routes {
		var sum int64
		for _, n := range k.states[r] {
			sum += n
		}
		if sum != k.records[topic] {
			b.fault("route %s: %d records, %d outcomes %v", r, k.records[topic], sum, k.states[r])
		}
		if int64(len(k.dead[r])) != k.states[r]["dead"] || k.records["dead."+r] != k.states[r]["dead"] {
			b.fault("route %s: %d deliveries are dead, %d dead letters, %d records on its topic", r, k.states[r]["dead"], len(k.dead[r]), k.records["dead."+r])
		}
	}
	return k
}
