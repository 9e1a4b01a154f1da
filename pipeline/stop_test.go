package pipeline_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/pipeline"
)

// The target takes a delivery at the moment at which the hub stops waiting for it: that is known, so it is written down and not sent again.
func TestWhatTheTargetTookAtTheLastMomentIsWrittenDown(t *testing.T) {
	var seen journal
	r := route(func(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		if len(seen.all()) == 1 {
			<-ctx.Done()
		}
		return connectors.Receipt{Code: 200}, nil
	})
	r.Timeout = time.Hour
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1")
		eventually(t, "sent", func() bool { return len(seen.all()) == 1 })
		h.cut()
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.accept("a-2")
		eventually(t, "both delivered", func() bool { return h.balance()[pipeline.Delivered] == 2 })
		if got := seen.all(); len(got) != 2 {
			t.Errorf("the target saw %v", got)
		}
	})
}

// A connector that ignores the end of its context holds up the stop of the hub for a while, and not for ever.
func TestATryThatHangsDoesNotHoldUpTheStop(t *testing.T) {
	release := make(chan struct{})
	var seen journal
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		if d.Attempt == 1 {
			return connectors.Receipt{}, connectors.RetryAfter(errors.New("later"), time.Minute)
		}
		<-release
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		release = make(chan struct{}) // of the bubble
		h.accept("a-1")
		eventually(t, "its second try hangs", func() bool { return len(seen.all()) == 2 })
		began := time.Now()
		h.cut()
		if err := h.stop(); err == nil || time.Since(began) > 2*time.Minute {
			t.Errorf("stopped after %s: %v", time.Since(began), err)
		}
		close(release)
		h.start() // for the test's end to stop
	})
}
