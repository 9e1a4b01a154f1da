package pgstore

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/pipeline"
)

type partition struct {
	topic  string
	number int32
}

// names are the short numbers of routes, sources and partitions, both ways. 0 is nobody's number. Never changed once published.
type names struct {
	routes, sources         map[string]int32
	partitions              map[partition]int32
	routeNames, sourceNames map[int32]string
	partitionNames          map[int32]partition
}

func newNames() *names {
	return &names{
		routes: make(map[string]int32), sources: make(map[string]int32), partitions: make(map[partition]int32),
		routeNames: make(map[int32]string), sourceNames: make(map[int32]string), partitionNames: make(map[int32]partition),
	}
}

func (n *names) addRoute(id int32, name string)     { n.routes[name], n.routeNames[id] = id, name }
func (n *names) addSource(id int32, name string)    { n.sources[name], n.sourceNames[id] = id, name }
func (n *names) addPartition(id int32, p partition) { n.partitions[p], n.partitionNames[id] = id, p }

func (n *names) clone() *names {
	return &names{
		routes: maps.Clone(n.routes), sources: maps.Clone(n.sources), partitions: maps.Clone(n.partitions),
		routeNames: maps.Clone(n.routeNames), sourceNames: maps.Clone(n.sourceNames), partitionNames: maps.Clone(n.partitionNames),
	}
}

// position is a place in the log by its numbers.
func (n *names) position(id int32, offset int64) pipeline.Position {
	p := n.partitionNames[id]
	return pipeline.Position{Topic: p.topic, Partition: p.number, Offset: offset}
}

// storable is a name as text columns take it: strangers may have written it into a record.
func storable(name string) string {
	if name == "" {
		return ""
	}
	return event.StableID(name)
}

// eventID is the ID a delivery is known by. Without one its place stands in, with a space, which no ID has.
func eventID(id string, at pipeline.Position) string {
	if id == "" {
		return fmt.Sprintf("at %d/%d", at.Partition, at.Offset)
	}
	return event.StableID(id)
}

// reloadNames reads all names: there are few, and other hubs add to them.
func (s *Store) reloadNames(ctx context.Context) (*names, error) {
	s.naming.Lock()
	defer s.naming.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statementLimit) // others wait behind it
	defer cancel()
	n := newNames()
	var id int32
	var name string
	var number int32
	scan := func(sql string, into []any, add func()) error {
		rows, err := s.pool.Query(ctx, sql)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, into, func() error { add(); return nil })
		return err
	}
	err := errors.Join(
		scan(sqlRoutes, []any{&id, &name}, func() { n.addRoute(id, name) }),
		scan(sqlSources, []any{&id, &name}, func() { n.addSource(id, name) }),
		scan(sqlPartitions, []any{&id, &name, &number}, func() { n.addPartition(id, partition{name, number}) }),
	)
	if err != nil {
		return nil, fmt.Errorf("read the names of routes: %w", err)
	}
	s.names.Store(n)
	return n, nil
}

// knowing returns names that know all of the numbers, which may have been given by another hub a moment ago.
func (s *Store) knowing(ctx context.Context, routes, sources, partitions []int32) (*names, error) {
	n := s.names.Load()
	known := true
	for _, id := range routes {
		known = known && n.routeNames[id] != ""
	}
	for _, id := range sources {
		_, ok := n.sourceNames[id]
		known = known && ok
	}
	for _, id := range partitions {
		_, ok := n.partitionNames[id]
		known = known && ok
	}
	if known {
		return n, nil
	}
	return s.reloadNames(ctx)
}

// lookUp returns the numbers of a route and a source, as another hub may have written them down; 0 for one that nobody has.
func (s *Store) lookUp(ctx context.Context, route, source string) (routeID, sourceID int32, err error) {
	n := s.names.Load()
	routeID, sourceID = n.routes[route], n.sources[source]
	if routeID != 0 && sourceID != 0 {
		return routeID, sourceID, nil
	}
	if err := s.pool.QueryRow(ctx, sqlFindNames, route, source).Scan(&routeID, &sourceID); err != nil {
		return 0, 0, err
	}
	if routeID != 0 && sourceID != 0 {
		_, err = s.reloadNames(ctx)
	}
	return routeID, sourceID, err
}

// knowingRoute returns names that know a route, if any hub has written it down.
func (s *Store) knowingRoute(ctx context.Context, route string) (*names, error) {
	var id int32
	err := s.try(ctx, kindNames, func(ctx context.Context) error { return s.pool.QueryRow(ctx, sqlFindRoute, route).Scan(&id) })
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return s.names.Load(), nil
	case err != nil:
		return nil, err
	}
	return s.reloadNames(ctx)
}

// ids are the numbers of one delivery.
type ids struct{ route, source, partition int32 }

// number returns the numbers of names, and writes down those that have none yet. No route is asked for by an empty one.
func (s *Store) number(ctx context.Context, route, source string, p partition) (i ids, err error) {
	n := s.names.Load()
	i = ids{n.routes[route], n.sources[source], n.partitions[p]}
	if (route == "" || i.route != 0) && i.source != 0 && i.partition != 0 {
		return i, nil
	}
	err = s.try(ctx, kindNames, func(ctx context.Context) (err error) {
		i, err = s.addNames(ctx, route, source, p)
		return err
	})
	return i, err
}

func (s *Store) addNames(ctx context.Context, route, source string, p partition) (i ids, err error) {
	s.naming.Lock()
	defer s.naming.Unlock()
	n := s.names.Load().clone()
	if route != "" {
		if i.route, err = s.numberOne(ctx, sqlAddRoute, sqlFindRoute, route); err != nil {
			return i, fmt.Errorf("number route %s: %w", route, err)
		}
		n.addRoute(i.route, route)
	}
	if i.source, err = s.numberOne(ctx, sqlAddSource, sqlFindSource, source); err != nil {
		return i, fmt.Errorf("number source %s: %w", source, err)
	}
	n.addSource(i.source, source)
	if i.partition, err = s.numberOne(ctx, sqlAddPartition, sqlFindPartition, p.topic, p.number); err != nil {
		return i, fmt.Errorf("number partition %d of %s: %w", p.number, p.topic, err)
	}
	n.addPartition(i.partition, p)
	s.names.Store(n)
	return i, nil
}

// numberOne finds a name's number, and adds the name when nobody has.
func (s *Store) numberOne(ctx context.Context, add, find string, args ...any) (id int32, err error) {
	for range 2 {
		err = s.pool.QueryRow(ctx, find, args...).Scan(&id)
		if !errors.Is(err, pgx.ErrNoRows) {
			return id, err
		}
		if _, err = s.pool.Exec(ctx, add, args...); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("it was added and is not there")
}
