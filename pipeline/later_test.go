package pipeline

import (
	"errors"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
)

func TestALogThatIsNotThereSaysWhy(t *testing.T) {
	t.Parallel()
	away := errors.New("nobody answers")
	l := NewLater(func() error { return away })
	m := message.NewMessage("a", nil)
	_, lagErr := func() (int64, error) { n, _, err := l.Lag(t.Context(), "events.shop", "all"); return n, err }()
	_, subscriberErr := l.Subscriber(Subscription{})
	for what, err := range map[string]error{
		"publish": l.Publish("events.shop", m), "ensure": l.Ensure(t.Context(), "events.shop"), "lag": lagErr, "subscriber": subscriberErr, "close": errors.Join(away, l.Close()),
	} {
		if !errors.Is(err, away) {
			t.Errorf("%s: %v", what, err)
		}
	}
	there := NewLater(func() error { return errors.New("that one says so") })
	l.Open(there)
	if err := l.Publish("events.shop", m); !l.Opened() || there.Opened() || errors.Is(err, away) || err == nil {
		t.Errorf("it does not pass on: %v", err)
	}
}
