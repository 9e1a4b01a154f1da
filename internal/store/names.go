package store

import (
	"context"
	"fmt"
	"maps"
	"math"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/pipeline"
)

// maxID is above every number, offset and time in the tables.
const maxID = math.MaxInt64

type partition struct {
	topic  string
	number int32
}

// names are the short numbers of routes, sources and partitions, both ways. 0 is nobody's number. Never changed once published.
type names struct {
	routes, sources map[string]int64
	partitions      map[partition]int64
	routeNames      map[int64]string
	partitionNames  map[int64]partition
}

// ids are the numbers of one delivery.
type ids struct {
	rangeID
	source int64
}

func readNames(conn *zsqlite.Conn) (*names, error) {
	n := &names{
		routes: make(map[string]int64), sources: make(map[string]int64), partitions: make(map[partition]int64),
		routeNames: make(map[int64]string), partitionNames: make(map[int64]partition),
	}
	err := query(conn, sqlRoutes, func(row *zsqlite.Stmt) error {
		n.addRoute(row.ColumnInt64(0), row.ColumnText(1))
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = query(conn, sqlSources, func(row *zsqlite.Stmt) error {
		n.sources[row.ColumnText(1)] = row.ColumnInt64(0)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = query(conn, sqlPartitions, func(row *zsqlite.Stmt) error {
		n.addPartition(row.ColumnInt64(0), partition{row.ColumnText(1), row.ColumnInt32(2)})
		return nil
	})
	return n, err
}

func (n *names) addRoute(id int64, name string) {
	n.routes[name] = id
	n.routeNames[id] = name
}

func (n *names) addPartition(id int64, p partition) {
	n.partitions[p] = id
	n.partitionNames[id] = p
}

func (n *names) find(d pipeline.Delivery) (ids, bool) {
	i := ids{
		rangeID: rangeID{n.routes[d.Route], n.partitions[partition{d.At.Topic, d.At.Partition}]},
		source:  n.sources[d.Event.Source],
	}
	return i, i.route != 0 && i.partition != 0 && i.source != 0
}

// position is a place in the log by its numbers.
func (n *names) position(id, offset int64) pipeline.Position {
	p := n.partitionNames[id]
	return pipeline.Position{Topic: p.topic, Partition: p.number, Offset: offset}
}

// idsOf returns the numbers of a delivery's names, and writes down those that have none yet: once for each name, so it
// may cost a transaction of its own.
func (s *Store) idsOf(ctx context.Context, d pipeline.Delivery) (ids, error) {
	if i, ok := s.names.Load().find(d); ok {
		return i, nil
	}
	return s.nameAll(ctx, d)
}

// nameAll is the seldom half of idsOf, apart so that the other has no copy of d on the heap.
func (s *Store) nameAll(ctx context.Context, d pipeline.Delivery) (ids, error) {
	s.naming.Lock()
	defer s.naming.Unlock()
	if i, ok := s.names.Load().find(d); ok {
		return i, nil
	}
	var i ids
	p := partition{d.At.Topic, d.At.Partition}
	err := s.db.Write(ctx, func(conn *zsqlite.Conn) (err error) {
		if i.route, err = number(conn, sqlAddRoute, sqlFindRoute, d.Route); err != nil {
			return err
		}
		if i.source, err = number(conn, sqlAddSource, sqlFindSource, d.Event.Source); err != nil {
			return err
		}
		i.partition, err = number(conn, sqlAddPartition, sqlFindPartition, p.topic, int64(p.number))
		return err
	})
	if err != nil {
		return ids{}, fmt.Errorf("number route %s and topic %s: %w", d.Route, p.topic, err)
	}
	s.names.Store(s.names.Load().with(i, d.Route, d.Event.Source, p))
	return i, nil
}

// with returns a copy that knows one more delivery's names.
func (n *names) with(i ids, route, source string, p partition) *names {
	c := &names{
		routes: maps.Clone(n.routes), sources: maps.Clone(n.sources), partitions: maps.Clone(n.partitions),
		routeNames: maps.Clone(n.routeNames), partitionNames: maps.Clone(n.partitionNames),
	}
	c.addRoute(i.route, route)
	c.sources[source] = i.source
	c.addPartition(i.partition, p)
	return c
}

// number adds a name unless it is there, and finds its number.
func number(conn *zsqlite.Conn, add, find string, args ...any) (id int64, err error) {
	if _, err := exec(conn, add, args...); err != nil {
		return 0, err
	}
	err = query(conn, find, func(row *zsqlite.Stmt) error {
		id = row.ColumnInt64(0)
		return nil
	}, args...)
	return id, err
}
