package pipeline

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/expression"
)

// record is one log record as all routes share it: its event is decoded once and its body parsed once, however many routes read it.
type record struct {
	at         Position
	uuid       string
	attributes map[string]string
	payload    []byte
	restated   bool // see event.Event; said on the way into the log only

	decode    sync.Once
	event     event.Event
	decodeErr error

	parse    sync.Once
	body     expression.Body
	parseErr error
}

type recordKey struct{}

// Prepare gives a log record its shared half. A log calls it once for each record, when it is appended or read and before
// any group sees it, and keeps the context it sets for every group's copy. A message that is still in the context it was published
// with brings its event along; what else is in that context ends with the call it came by and is let go of.
func Prepare(m *message.Message, topic string, partition int32, offset int64) {
	ctx := m.Context()
	r, offered := ctx.Value(recordKey{}).(*record)
	if offered {
		ctx = context.Background()
	} else {
		r = &record{uuid: m.UUID, attributes: m.Metadata, payload: m.Payload}
	}
	r.at = Position{Topic: topic, Partition: partition, Offset: offset}
	m.SetContext(context.WithValue(ctx, recordKey{}, r))
}

// recordOf returns what Prepare set.
func recordOf(m *message.Message) *record {
	r, ok := m.Context().Value(recordKey{}).(*record)
	if !ok {
		// A log that does not call Prepare breaks its contract; the record would have no place.
		panic(fmt.Sprintf("pipeline: the log handed out message %s without Prepare", m.UUID))
	}
	return r
}

// recordFor is the record of a delivery that does not come from the log but from the store.
func recordFor(d Delivery) *record {
	r := &record{at: d.At, uuid: d.Event.ID, payload: d.Event.Body, event: d.Event}
	r.decode.Do(func() {})
	return r
}

// Event returns the event. When the record cannot be decoded it returns the error, and an event with
// as much as is known: enough for a dead letter.
func (r *record) Event() (event.Event, error) {
	r.decode.Do(func() {
		if r.event, r.decodeErr = event.Decode(r.attributes, r.payload); r.decodeErr != nil {
			r.event = r.salvage()
		}
	})
	return r.event, r.decodeErr
}

// salvage makes a valid event out of a record that holds none.
func (r *record) salvage() event.Event {
	e := event.Event{
		ID:     event.StableID(r.uuid),
		Source: strings.TrimPrefix(r.at.Topic, eventsTopic),
		Type:   "undecodable",
		Body:   r.payload,
	}
	if e.ID == "" {
		e.ID = event.Fingerprint([]byte(r.at.Topic), fmt.Append(nil, r.at.Partition, "/", r.at.Offset), r.payload)
	}
	// No time is known, and it must be the same for every hub that reads the record.
	e.Recorded = time.Unix(0, 0).UTC()
	e.Time = e.Recorded
	return e
}

// Body returns the parsed body.
func (r *record) Body() (expression.Body, error) {
	r.parse.Do(func() { r.body, r.parseErr = expression.ParseBody(r.payload) })
	return r.body, r.parseErr
}
