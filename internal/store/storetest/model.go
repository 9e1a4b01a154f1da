package storetest

import (
	"cmp"
	"slices"
	"time"

	"github.com/tidewire/tidewire/pipeline"
)

// place is a delivery's identity in the model.
type place struct {
	route string
	at    pipeline.Position
}

// chain is what is kept in order.
type chain struct{ route, source, key string }

func chainOf(d pipeline.Delivery) chain { return chain{d.Route, d.Event.Source, d.Event.Key} }

// modelRow is a delivery that has been parked or settled.
type modelRow struct {
	d     pipeline.Delivery
	state pipeline.State
	order int // of parking
	next  time.Time
	lease time.Time // zero: none
}

func (r *modelRow) dueAt() time.Time {
	if !r.lease.IsZero() {
		return r.lease
	}
	return r.next
}

// model is the contract in its plainest form: a map, and a search through all of it.
type model struct {
	rows   map[place]*modelRow
	parked int // how many were ever parked
}

func (m *model) admit(d pipeline.Delivery) pipeline.Standing {
	if r := m.rows[place{d.Route, d.At}]; r != nil {
		if r.state == pipeline.Parked {
			return pipeline.Held
		}
		return pipeline.Settled
	}
	if d.Event.Key != "" && m.head(chainOf(d)) != nil {
		return pipeline.Behind
	}
	return pipeline.Unknown
}

func (m *model) settle(d pipeline.Delivery, o pipeline.Outcome) {
	p := place{d.Route, d.At}
	r := m.rows[p]
	if r == nil {
		r = &modelRow{d: d, state: o.State, next: o.Next}
		if o.State == pipeline.Parked {
			m.parked++
			r.order = m.parked
		}
		m.rows[p] = r
		return
	}
	outdated := !d.Lease.IsZero() && !r.lease.Equal(d.Lease)
	switch {
	case r.state != pipeline.Parked:
	case outdated && (o.State == pipeline.Parked || o.State == pipeline.Dead):
	case o.State == pipeline.Parked && d.Number == 0:
	case o.State == pipeline.Parked:
		r.d, r.next, r.lease = d, o.Next, time.Time{}
	default:
		r.d, r.state = d, o.State
	}
}

func (m *model) giveBack(d pipeline.Delivery) {
	if r := m.rows[place{d.Route, d.At}]; r != nil && r.lease.Equal(d.Lease) {
		r.lease = time.Time{}
	}
}

func (m *model) endLeases() {
	for _, r := range m.rows {
		r.lease = time.Time{}
	}
}

// head is the eldest parked delivery of a chain.
func (m *model) head(c chain) (eldest *modelRow) {
	for _, r := range m.rows {
		if r.state == pipeline.Parked && chainOf(r.d) == c && (eldest == nil || r.order < eldest.order) {
			eldest = r
		}
	}
	return eldest
}

// due lists the heads of a route whose time has come, the longest due first.
func (m *model) due(route string, now time.Time) []*modelRow {
	var rows []*modelRow
	heads := make(map[chain]*modelRow)
	for _, r := range m.rows {
		if r.d.Route != route || r.state != pipeline.Parked {
			continue
		}
		if r.d.Event.Key == "" {
			rows = append(rows, r)
			continue
		}
		if h := heads[chainOf(r.d)]; h == nil || r.order < h.order {
			heads[chainOf(r.d)] = r
		}
	}
	for _, h := range heads {
		rows = append(rows, h)
	}
	rows = slices.DeleteFunc(rows, func(r *modelRow) bool { return r.dueAt().After(now) })
	slices.SortFunc(rows, func(a, b *modelRow) int {
		return cmp.Or(a.dueAt().Compare(b.dueAt()), cmp.Compare(a.order, b.order))
	})
	return rows
}

func (m *model) balance() map[string]map[pipeline.State]int64 {
	b := make(map[string]map[pipeline.State]int64)
	for _, r := range m.rows {
		if b[r.d.Route] == nil {
			b[r.d.Route] = make(map[pipeline.State]int64)
		}
		b[r.d.Route][r.state]++
	}
	return b
}
