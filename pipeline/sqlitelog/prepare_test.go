package sqlitelog_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/pipeline/sqlitelog"
)

type publishedKey struct{}

// A record that was appended a moment ago is prepared in the context it was published with, before any group takes it: nothing of that context
// is kept for a group that is busy. One that comes from the file has none.
func TestPrepareSeesTheContextOfWhatWasJustPublished(t *testing.T) {
	t.Parallel()
	type prepared struct {
		uuid string
		in   any
	}
	seen := make(chan prepared, 2)
	l := open(t, t.TempDir(), sqlitelog.Config{Prepare: func(m *message.Message, _ string, _ int32, _ int64) {
		seen <- prepared{m.UUID, m.Context().Value(publishedKey{})}
		m.SetContext(context.Background())
	}})
	old, fresh := msg("old", "1"), msg("fresh", "2")
	for _, m := range []*message.Message{old, fresh} {
		m.SetContext(context.WithValue(t.Context(), publishedKey{}, m.UUID+"'s"))
	}
	publish(t, l, old) // nobody reads yet, so it is not kept in memory
	out, _ := subscribe(t, l, sqlitelog.SubscriberConfig{Group: "g"})
	inHand := receive(t, out) // the group takes one at a time
	publish(t, l, fresh)
	for _, want := range []prepared{{"old", nil}, {"fresh", "fresh's"}} {
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("Prepare saw %v, want %v", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is not prepared while the group is busy", want.uuid)
		}
	}
	inHand.Ack()
	m := receive(t, out)
	if m.Context().Value(publishedKey{}) != nil {
		t.Error("what Prepare took away came to the group")
	}
	m.Ack()
}
