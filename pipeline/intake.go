package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/event"
)

// Intake is the one door into the log: webhooks and pulled records both come through it.
type Intake struct{ log Log }

// NewIntake returns the door to a log.
func NewIntake(log Log) *Intake { return &Intake{log: log} }

// Accept appends events of one connection to its topic. It returns nil only when all of them are durable; an event that is
// in the log already with the same body counts as accepted. An error that has Conflict() bool true
// says that an event's ID is known with another body, unless the event is Restated.
func (in *Intake) Accept(ctx context.Context, events ...event.Event) error {
	if len(events) == 0 {
		return nil
	}
	source := events[0].Source
	ms := make([]*message.Message, len(events))
	for i, e := range events {
		if e.Source != source {
			return fmt.Errorf("events of %s and %s in one call", source, e.Source)
		}
		if err := e.Validate(); err != nil {
			return err
		}
		ms[i] = offer(ctx, e)
	}
	return in.log.Publish(EventsTopic(source), ms...)
}

// offer makes the message of an event that is new to the log. Its context holds the record it will be, so that Prepare has
// nothing to decode when this hub's log keeps it in memory.
func offer(ctx context.Context, e event.Event) *message.Message {
	m := encode(ctx, e)
	r := &record{uuid: m.UUID, attributes: m.Metadata, payload: m.Payload, event: e.Stored(), restated: e.Restated}
	r.decode.Do(func() {})
	m.SetContext(context.WithValue(ctx, recordKey{}, r))
	return m
}

// Same says whether a message is the stored one again, and not another fact under the same ID.
func Same(stored, offered *message.Message) bool {
	if r, ok := offered.Context().Value(recordKey{}).(*record); ok && r.restated {
		return true
	}
	return bytes.Equal(stored.Payload, offered.Payload)
}

func encode(ctx context.Context, e event.Event) *message.Message {
	id, attributes, payload := e.Encode()
	m := &message.Message{UUID: id, Metadata: attributes, Payload: payload} // nobody acks it
	m.SetContext(ctx)
	return m
}

// now is the hub's clock in the form in which it is stored.
func now() time.Time { return time.Now().UTC() }
