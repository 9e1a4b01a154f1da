package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/pipeline"
)

var errDown = errors.New("connection refused")

func TestDeliveredOnceAcrossRestart(t *testing.T) {
	var seen journal
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		if d.IdempotencyKey != d.Event.ID+":shop:orders" || d.Attempt != 1 || d.ContentType != "application/json" {
			t.Errorf("got %+v", d)
		}
		return connectors.Receipt{Code: 200}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1", "b-1", "a-2")
		h.accept("a-1") // the provider repeats itself
		eventually(t, "three delivered", func() bool { return h.balance()[pipeline.Delivered] == 3 })
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.accept("a-2", "c-1")
		eventually(t, "four delivered", func() bool { return h.balance()[pipeline.Delivered] == 4 })
		if got := seen.all(); len(got) != 4 || !slices.Equal(seen.of("a"), []string{"a-1", "a-2"}) {
			t.Errorf("the target saw %v", got)
		}
	})
}

func TestSameIDWithAnotherBodyIsAConflict(t *testing.T) {
	r := route(func(context.Context, connectors.Delivery) (connectors.Receipt, error) {
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1")
		other := shopEvent("a-1")
		other.Body = []byte(`{"id": "a-1", "total": 999999}`)
		err := h.intake.Accept(t.Context(), other)
		if c, ok := errors.AsType[interface {
			error
			Conflict() bool
		}](err); !ok || !c.Conflict() {
			t.Errorf("got %v, want a conflict", err)
		}
		other.Restated = true
		if err := h.intake.Accept(t.Context(), other, shopEvent("b-1")); err != nil {
			t.Errorf("a restated fact: %v", err)
		}
		eventually(t, "both delivered", func() bool { return h.balance()[pipeline.Delivered] == 2 })
		if m, err := h.log.Get(t.Context(), pipeline.EventsTopic("shop"), 0); err != nil || string(m.Payload) != string(shopEvent("a-1").Body) {
			t.Errorf("the first body does not stand: %v %v", m, err)
		}
	})
}

func TestQuickTriesThenParkWithTheScheduleOfTheRoute(t *testing.T) {
	var seen journal
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(fmt.Sprint(d.Attempt))
		return connectors.Receipt{}, errDown
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1")
		eventually(t, "given up", func() bool { return h.balance()[pipeline.Dead] == 1 })
		if got, want := seen.all(), []string{"1", "2", "3", "4", "5", "6"}; !slices.Equal(got, want) {
			t.Fatalf("attempts %v, want three quick ones and one for each wait: %v", got, want)
		}
		at := seen.times()
		if quick := at[2].Sub(at[0]); quick > 2*time.Second {
			t.Errorf("the quick tries took %s", quick)
		}
		for i, want := range r.Retry.Schedule {
			if got := at[3+i].Sub(at[2+i]); got < want || got > want+time.Second {
				t.Errorf("wait %d was %s, want %s", i+1, got, want)
			}
		}
		dead, err := h.store.Dead(t.Context(), "orders", 10)
		if err != nil || len(dead) != 1 {
			t.Fatalf("%d dead letters, %v", len(dead), err)
		}
		if d := dead[0]; d.Outcome.Reason != pipeline.ReasonExhausted || d.Delivery.Attempts != 6 || len(d.Delivery.History) != 6 ||
			string(d.Delivery.Event.Body) != string(shopEvent("a-1").Body) {
			t.Errorf("the dead letter is %+v", d)
		}
	})
}

func TestYoungerOfAKeyWaitBehindParkedOthersGoOn(t *testing.T) {
	var seen journal
	var down atomic.Bool
	down.Store(true)
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if down.Load() && d.Event.Key == "a" {
			return connectors.Receipt{}, errDown
		}
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1", "b-1", "a-2", "b-2", "a-3")
		eventually(t, "three parked", func() bool { return h.parked() == 3 })
		if got := seen.all(); !slices.Equal(got, []string{"b-1", "b-2"}) {
			t.Errorf("the target saw %v while a was down", got)
		}
		down.Store(false)
		h.accept("a-4") // after the target is well again, but its elders are parked
		eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == 6 })
		if got := seen.of("a"); !slices.Equal(got, []string{"a-1", "a-2", "a-3", "a-4"}) {
			t.Errorf("a came in the order %v", got)
		}
	})
}

func TestParkedSurviveARestart(t *testing.T) {
	var seen journal
	var down atomic.Bool
	down.Store(true)
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if down.Load() {
			return connectors.Receipt{}, errDown
		}
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1", "a-2", "b-1")
		eventually(t, "parked", func() bool { return h.parked() == 3 })
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		down.Store(false)
		h.start()
		eventually(t, "delivered", func() bool { return h.balance()[pipeline.Delivered] == 3 })
		if got := seen.of("a"); !slices.Equal(got, []string{"a-1", "a-2"}) || len(seen.all()) != 3 {
			t.Errorf("the target saw %v", seen.all())
		}
	})
}

func TestPermanentFailureIsADeadLetterOnTheTopicToo(t *testing.T) {
	var tries atomic.Int32
	r := route(func(context.Context, connectors.Delivery) (connectors.Receipt, error) {
		tries.Add(1)
		return connectors.Receipt{}, connectors.WithCode(connectors.Permanent(errors.New("422 no such account")), 422)
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1")
		eventually(t, "dead", func() bool { return h.balance()[pipeline.Dead] == 1 })
		if tries.Load() != 1 {
			t.Errorf("%d tries, want 1", tries.Load())
		}
		m, err := h.log.Get(t.Context(), pipeline.DeadTopic("orders"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if m.UUID != "shop/a-1" || m.Metadata["tidewire_reason"] != pipeline.ReasonPermanent || m.Metadata["tidewire_attempts"] != "1" ||
			string(m.Payload) != string(shopEvent("a-1").Body) {
			t.Errorf("the record is %s %v %s", m.UUID, m.Metadata, m.Payload)
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	var seen journal
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		if d.Attempt == 1 {
			return connectors.Receipt{}, connectors.WithCode(connectors.RetryAfter(errors.New("429 slow down"), 2*time.Hour), 429)
		}
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1")
		eventually(t, "delivered", func() bool { return h.balance()[pipeline.Delivered] == 1 })
		at := seen.times()
		if len(at) != 2 || at[1].Sub(at[0]) < 2*time.Hour {
			t.Errorf("tried at %v, want two hours between", at)
		}
	})
}

func TestGonePausesTheRouteAndKeepsTheDelivery(t *testing.T) {
	var tries atomic.Int32
	r := route(func(context.Context, connectors.Delivery) (connectors.Receipt, error) {
		tries.Add(1)
		return connectors.Receipt{}, connectors.WithCode(connectors.Gone(errors.New("410")), 410)
	})
	r.Concurrency = 1
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		h.accept("a-1", "b-1", "c-1")
		eventually(t, "parked", func() bool { return h.parked() == 1 })
		time.Sleep(24 * time.Hour)
		if tries.Load() != 1 {
			t.Errorf("%d tries at an address that is gone", tries.Load())
		}
		if b := h.balance(); b[pipeline.Dead] != 0 {
			t.Errorf("balance %v", b)
		}
	})
}

func TestStopPoisonsNothing(t *testing.T) {
	var seen journal
	var slow atomic.Bool
	slow.Store(true)
	r := route(func(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if slow.Load() {
			<-ctx.Done() // a target that answers only when it is cut off
			return connectors.Receipt{}, ctx.Err()
		}
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	r.Timeout = time.Minute // longer than the stop waits
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		var ids []string
		for i := range 100 {
			ids = append(ids, fmt.Sprintf("k%d-1", i))
		}
		h.accept(ids...)
		time.Sleep(time.Second)
		h.cut()
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		slow.Store(false)
		h.start()
		eventually(t, "all delivered", func() bool { return h.balance()[pipeline.Delivered] == 100 })
		if b := h.balance(); b[pipeline.Dead] != 0 || len(seen.all()) != 100 {
			t.Errorf("balance %v, target saw %d", b, len(seen.all()))
		}
	})
}

func TestAFailureIsNotHiddenByLaterSuccesses(t *testing.T) {
	var seen journal
	var down atomic.Bool
	down.Store(true)
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if down.Load() && d.Event.ID == "k3-1" {
			return connectors.Receipt{}, errDown
		}
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		for i := range 10 {
			h.accept(fmt.Sprintf("k%d-1", i))
		}
		eventually(t, "nine delivered", func() bool { return h.balance()[pipeline.Delivered] == 9 })
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		down.Store(false)
		h.start()
		eventually(t, "ten delivered", func() bool { return h.balance()[pipeline.Delivered] == 10 })
		if !slices.Contains(seen.all(), "k3-1") || len(seen.all()) != 10 {
			t.Errorf("the target saw %v", seen.all())
		}
	})
}

func TestPoisonIsIsolated(t *testing.T) {
	var seen journal
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		if d.Event.Key == "bad" {
			panic("connector bug")
		}
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	inBubble(t, []pipeline.Route{r}, func(t *testing.T, h *hub) {
		// A record that holds no event, straight into the log.
		raw := message.NewMessage("raw-1", []byte("\x00\xff not an event"))
		if err := h.log.Publish(pipeline.EventsTopic("shop"), raw); err != nil {
			t.Fatal(err)
		}
		h.accept("bad-1")
		for i := range 20 {
			h.accept(fmt.Sprintf("k%d-1", i))
		}
		eventually(t, "the good ones delivered", func() bool { return len(seen.all()) == 20 })
		eventually(t, "the bad ones dead", func() bool { return h.balance()[pipeline.Dead] == 2 })
		dead, err := h.store.Dead(t.Context(), "orders", 10)
		if err != nil {
			t.Fatal(err)
		}
		reasons := map[string]string{}
		for _, d := range dead {
			reasons[d.Delivery.Event.ID] = d.Outcome.Reason
		}
		if reasons["raw-1"] != pipeline.ReasonUndecodable || reasons["bad-1"] != pipeline.ReasonExhausted {
			t.Errorf("reasons %v", reasons)
		}
	})
}

// awayLedger is a store that is away for a while after the target has been sent to.
type awayLedger struct {
	pipeline.Ledger
	away atomic.Bool
	n    atomic.Int32
}

func (l *awayLedger) Settle(ctx context.Context, d pipeline.Delivery, o pipeline.Outcome) error {
	if l.away.Load() {
		l.n.Add(1)
		return errors.New("store is away")
	}
	return l.Ledger.Settle(ctx, d, o)
}

func TestAStoreThatIsAwayMakesNoSecondSendAndNoHotLoop(t *testing.T) {
	var seen journal
	r := route(func(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
		seen.add(d.Event.ID)
		return connectors.Receipt{}, nil
	})
	away := &awayLedger{}
	inBubble(t, nil, func(t *testing.T, h *hub) {
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		h.routes, h.ledger = []pipeline.Route{r}, func(l pipeline.Ledger) pipeline.Ledger { away.Ledger = l; return away }
		h.start()
		away.away.Store(true)
		h.accept("a-1")
		time.Sleep(10 * time.Minute)
		if n := away.n.Load(); n > 200 {
			t.Errorf("%d writes in ten minutes", n)
		}
		away.away.Store(false)
		eventually(t, "delivered", func() bool { return h.balance()[pipeline.Delivered] == 1 })
		if got := seen.all(); len(got) != 1 {
			t.Errorf("the target saw %v", got)
		}
	})
}
