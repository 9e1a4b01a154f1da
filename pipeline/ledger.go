package pipeline

import (
	"context"
	"time"

	"github.com/tidewire/tidewire/event"
)

// State is what has become of a delivery.
type State string

// The states a delivery can be written down in. One that is in hand is not written down.
const (
	Parked    State = "parked"    // waits in the store for its next time, or behind parked elders of its key
	Delivered State = "delivered" // the target has it
	Dead      State = "dead"      // will not be tried again by itself
	Skipped   State = "skipped"   // a duplicate, stale or an echo: settled without being sent
)

// Delivery is one event on one route, on its way.
type Delivery struct {
	Route string
	Event event.Event
	// At is the place of the event's record in the log.
	At Position
	// Number identifies the row of a parked delivery; 0 for one that comes fresh from the log.
	Number int64
	// Lease is until when Due has handed a parked delivery out; zero for one that comes fresh from the log. It goes back
	// with Settle and GiveBack unchanged, so that one whose lease has run out cannot undo what the next holder does.
	Lease time.Time
	// Attempts made so far.
	Attempts int
	// Parks counts how often it has been parked after a failed round of attempts: its place in the retry schedule.
	Parks int
	// First is when the first attempt was made; zero before it.
	First time.Time
	// History holds the latest attempts, oldest first, at most HistoryKept.
	History []Attempt
}

// HistoryKept bounds Delivery.History.
const HistoryKept = 20

// Attempt is one try at a delivery.
type Attempt struct {
	At       time.Time     `json:"at"`
	Duration time.Duration `json:"duration"`
	// Code is the target's status code; 0 when it gave none.
	Code int `json:"code,omitempty"`
	// Error is bounded and holds no secrets; empty on success.
	Error string `json:"error,omitempty"`
}

// Outcome is a decision about a delivery, to be written down.
type Outcome struct {
	State State
	// Reason is one word of a bounded set, for people and metrics: "mapping", "permanent", "exhausted", …
	Reason string
	// Error is the last attempt's error, bounded and without secrets.
	Error string
	// Code and TargetID are what the target said.
	Code     int
	TargetID string
	// Duration is how long the last attempt took.
	Duration time.Duration
	// At is when this was decided.
	At time.Time
	// Next is when a parked delivery comes due. Zero: as soon as its elders are gone.
	Next time.Time
}

// Standing is what the ledger knows of a delivery before it is tried.
type Standing int

// The standings.
const (
	Unknown Standing = iota // never settled, no parked elders: try it
	Settled                 // delivered, dead or skipped already: drop it
	Held                    // this delivery is parked: the store has it
	Behind                  // elders of its key are parked: park it behind them
)

// Ledger is the record of what became of every delivery. Calls may come from many goroutines at once; an
// implementation gathers them, so that a batch costs one query and one commit. A nil error from Settle means durable.
//
// A key's order is kept per route and source: deliveries with equal non-empty keys come due one at a time, in the
// order in which they were parked; an empty key is ordered with nothing.
type Ledger interface {
	// Admit says what is known of a delivery that comes from the log. It writes nothing. A delivery is known by route, source and event ID.
	Admit(ctx context.Context, d Delivery) (Standing, error)
	// Settle writes an outcome. Parked inserts the delivery (Number 0) or moves its next time; any other state removes the
	// parked row, if there is one, and frees the next of its key. A Dead outcome keeps the whole event. Settling
	// what is settled already changes nothing and is no error.
	Settle(ctx context.Context, d Delivery, o Outcome) error
	// Due leases, for each route named in room, up to that many of its parked deliveries whose time has come: the heads of their keys
	// only, the longest due first. A leased delivery is handed to nobody else until it is settled, given back, or the lease has run
	// out. (Room is per route, so that a route with much due and little room cannot starve the others.)
	Due(ctx context.Context, now time.Time, room map[string]int, lease time.Duration) ([]Delivery, error)
	// GiveBack ends the leases of deliveries that were not tried; they are due as before.
	GiveBack(ctx context.Context, ds []Delivery) error
}

// Census counts what the store holds.
type Census interface {
	// Count returns the numbers of every route that has any.
	Count(ctx context.Context) (map[string]Numbers, error)
}

// Numbers are what one route holds that still wants attention.
type Numbers struct {
	Parked, Dead int64
	// OldestParked is when the longest-parked delivery was first parked; zero when none is.
	OldestParked time.Time
}
