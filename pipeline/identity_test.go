package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/pipeline"
)

// An ID is unique within its connection only: two connections of one route may have the same, and neither fact may hide the other.
func TestTwoConnectionsWithTheSameID(t *testing.T) {
	var mu sync.Mutex
	keys := map[string]string{}
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		mu.Lock()
		defer mu.Unlock()
		keys[d.IdempotencyKey] = d.Event.Source
		return connectors.Receipt{}, connectors.Permanent(errors.New("no such account"))
	})
	r.From = []string{"shop", "market"}
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		for _, source := range r.From {
			e := shopEvent("a-1")
			e.Source, e.Body = source, []byte(`"`+source+`"`)
			if err := h.intake.Accept(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "both dead", func() bool { return h.balance()[pipeline.Dead] == 2 })
		mu.Lock()
		defer mu.Unlock()
		if len(keys) != 2 {
			t.Errorf("two facts went out under the keys %v", keys)
		}
		bodies := map[string]bool{}
		for offset := range int64(2) {
			m, err := h.log.Get(t.Context(), pipeline.DeadTopic("orders"), offset)
			if err != nil {
				t.Fatal(err)
			}
			bodies[string(m.Payload)] = true
		}
		if !bodies[`"shop"`] || !bodies[`"market"`] {
			t.Errorf("the dead-letter topic has %v", bodies)
		}
	})
}

// An event that the log just takes is larger as a dead letter, with its reason beside it. It dies in the ledger all the same, and its key goes on.
func TestADeadLetterThatIsTooLargeForItsTopic(t *testing.T) {
	var seen journal
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		if d.Event.ID == "a-1" {
			return connectors.Receipt{}, connectors.Permanent(errors.New("too large for me"))
		}
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		large := event.Event{
			ID: "a-1", Source: "shop", Type: "order.paid", Key: "a", Time: time.Now(), Recorded: time.Now(),
			Body: bytes.Repeat([]byte("x"), 8<<20-240),
		}
		if err := h.intake.Accept(t.Context(), large); err != nil {
			t.Fatal(err)
		}
		h.accept("a-2")
		eventually(t, "dead", func() bool { return h.balance()[pipeline.Dead] == 1 })
		eventually(t, "the next of its key delivered", func() bool { return h.balance()[pipeline.Delivered] == 1 })
		dead, err := h.store.Dead(t.Context(), "orders", 1)
		if err != nil || len(dead) != 1 || len(dead[0].Delivery.Event.Body) != len(large.Body) {
			t.Errorf("%d dead letters, %v", len(dead), err)
		}
	})
}
