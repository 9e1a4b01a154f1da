package pipeline

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/event"
)

type callKey struct{}

// An event that this hub has accepted is not decoded again: its record brings it along, just as it would be decoded, and nothing of
// the call it came by.
func TestAnAcceptedEventComesAlongWithItsRecord(t *testing.T) {
	t.Parallel()
	call, end := context.WithCancel(context.WithValue(t.Context(), callKey{}, "the call's own"))
	e := event.Event{
		ID: "a-1", Source: "shop", Type: "order.paid", Key: "c-1", Time: time.Now().In(time.FixedZone("", 3600)), Recorded: time.Now(),
		Body: []byte(`{}`), Extensions: map[string]string{}, Restated: true,
	}
	m := offer(call, e)
	end()
	want, err := event.Decode(m.Metadata, m.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if m.Context().Err() == nil {
		t.Error("the message is not in the call's context")
	}
	before := &message.Message{UUID: m.UUID, Payload: []byte(`{"attempt":1}`)}
	if !Same(before, m) {
		t.Error("its event is not restated any more")
	}
	plain := e
	plain.Restated = false
	if Same(before, offer(call, plain)) {
		t.Error("an event with another body is taken for the stored one")
	}
	Prepare(m, EventsTopic("shop"), 0, 7)
	rec := recordOf(m)
	rec.attributes = nil // decoding would fail
	if got, err := rec.Event(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if at := (Position{Topic: EventsTopic("shop"), Offset: 7}); rec.at != at {
		t.Errorf("it is at %+v, want %+v", rec.at, at)
	}
	if ctx := m.Context(); ctx.Done() != nil || ctx.Value(callKey{}) != nil {
		t.Error("the record keeps the context of the call")
	}
}
