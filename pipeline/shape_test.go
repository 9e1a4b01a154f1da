package pipeline

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/expression"
	"github.com/tidewire/tidewire/pipeline/mapping"
)

// configured is the runner of the one route of a config, sent to by send.
func configured(t *testing.T, route string, send func(connectors.Delivery)) *runner {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte("connections: {shop: {connector: x}, erp: {connector: x}}\nroutes:\n  orders: {from: shop, to: erp, "+route+"}\n"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	env, err := expression.ForEvents()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := Compile(cfg, env, map[string]connectors.Connection{"erp": &sink{send: send}})
	if err != nil || len(routes) != 1 {
		t.Fatalf("%d routes: %v", len(routes), err)
	}
	p, err := New(Config{Routes: routes, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return p.runners["orders"]
}

// sink is a target that takes everything.
type sink struct{ send func(connectors.Delivery) }

func (s *sink) Check(context.Context) error { return nil }
func (s *sink) Close() error                { return nil }
func (s *sink) Send(_ context.Context, d connectors.Delivery) (connectors.Receipt, error) {
	s.send(d)
	return connectors.Receipt{}, nil
}

// prepared is a log record of an event with this body.
func prepared(body string) *message.Message {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := encode(context.Background(), event.Event{
		ID: "a-1", Source: "shop", Type: "order.paid", Time: at, Recorded: at, ContentType: "text/plain", Body: []byte(body),
	})
	Prepare(m, EventsTopic("shop"), 0, 7)
	return m
}

// attempted is what becomes of a record.
func attempted(work context.Context, t *testing.T, r *runner, m *message.Message) (Outcome, error) {
	t.Helper()
	rec := recordOf(m)
	e, _ := rec.Event()
	_, o, err := r.attempt(reach{take: work, work: work}, Delivery{Route: r.Name, Event: e, At: rec.at}, rec)
	return o, err
}

const marker = "4242-SECRET-4242"

// What a route cannot read, filter or map is a dead letter with the reason and the place, and without what the body holds.
func TestWhatCannotBeShapedDiesWithItsReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ route, body, reason, want string }{
		"filter":       {`when: body.amount > 5`, `{"amount": "` + marker + `"}`, ReasonFilter, "when: "},
		"filter field": {`when: body.amount > 5`, `{"other": "` + marker + `"}`, ReasonFilter, "amount"},
		"filter parse": {`when: body.amount > 5`, marker, ReasonFilter, "JSON"},
		"map":          {`map: {n: {total: int(body.amount)}}`, `{"amount": "` + marker + `"}`, ReasonMapping, "map.n.total"},
		"map field":    {`map: {n: body.amount}`, `{"other": "` + marker + `"}`, ReasonMapping, "map.n"},
		"map parse":    {`map: {n: body.amount}`, marker, ReasonMapping, "JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := configured(t, c.route, func(connectors.Delivery) { t.Error("it was sent") })
			m := prepared(c.body)
			if !r.match(m) {
				t.Fatal("a record that cannot be decided on is dropped")
			}
			o, err := attempted(t.Context(), t, r, m)
			if err != nil || o.State != Dead || o.Reason != c.reason || !strings.Contains(o.Error, c.want) {
				t.Errorf("got %+v, %v", o, err)
			}
			if strings.Contains(o.Error, "SECRET") {
				t.Errorf("the error tells the body: %s", o.Error)
			}
		})
	}
}

// A body that is not JSON passes byte for byte where no expression looks at it.
func TestABodyThatNobodyLooksAtPassesAsItCame(t *testing.T) {
	t.Parallel()
	const body = "\x00\xff not JSON \r\n"
	sent := make(chan connectors.Delivery, 1)
	r := configured(t, `when: type == "order.paid"`, func(d connectors.Delivery) { sent <- d })
	m := prepared(body)
	if !r.match(m) {
		t.Fatal("no match")
	}
	if o, err := attempted(t.Context(), t, r, m); err != nil || o.State != Delivered {
		t.Fatalf("got %+v, %v", o, err)
	}
	if d := <-sent; string(d.Body) != body || d.ContentType != "text/plain" {
		t.Errorf("sent %q as %s", d.Body, d.ContentType)
	}
	// All routes see one record: what the first has parsed, the others find.
	if recordOf(m) != recordOf(m.CopyWithContext()) {
		t.Error("a copy has a record of its own")
	}
}

// An expression that the end of the hub cuts short says nothing of the event: it is handed back and no dead letter.
func TestStoppingMakesNoDeadLetterOfAnExpressionCutShort(t *testing.T) {
	t.Parallel()
	r := configured(t, `map: {n: "body.items.map(i, body.items.map(j, i.x + j.x))"`+`}`, func(connectors.Delivery) { t.Error("it was sent") })
	body := `{"items": [` + strings.Repeat(`{"x": 1},`, 400) + `{"x": 1}]}`
	work, cut := context.WithCancel(t.Context())
	cut()
	if o, err := attempted(work, t, r, prepared(body)); !errors.Is(err, errHandedBack) {
		t.Errorf("got %+v, %v", o, err)
	}
}

// An expression that panics kills one delivery and not the hub.
func TestAnExpressionThatPanicsKillsOneDelivery(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*runner)
		reason string
	}{
		"filter": {func(r *runner) { r.When = &expression.Program{} }, ReasonFilter},
		"map":    {func(r *runner) { r.Map = nilLeaf(t) }, ReasonMapping},
	} {
		r := configured(t, "timeout: 1s", func(connectors.Delivery) { t.Error("it was sent") })
		c.change(r)
		m := prepared(`{}`)
		if !r.match(m) {
			t.Errorf("%s: a record that cannot be decided on is dropped", name)
		}
		o, err := attempted(t.Context(), t, r, m)
		if err != nil || o.State != Dead || o.Reason != c.reason || !strings.Contains(o.Error, "panicked") {
			t.Errorf("%s: got %+v, %v", name, o, err)
		}
	}
}

// What a connector says when it panics may hold anything, so it is told to nobody.
func TestAPanicsWordsAreNotTold(t *testing.T) {
	t.Parallel()
	for name, words := range map[string]any{"text": marker, "error": errors.New(marker), "value": struct{ secret string }{marker}} {
		synctest.Test(t, func(t *testing.T) { // the quick tries have pauses between them
			log := new(bytes.Buffer)
			r := configured(t, "timeout: 1s", func(connectors.Delivery) { panic(words) })
			r.logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			o, err := attempted(t.Context(), t, r, prepared(`{}`))
			if err != nil || o.State != Parked || !strings.Contains(o.Error, "panicked") || !strings.Contains(log.String(), "panicked") {
				t.Errorf("%s: got %+v, %v; the log says %s", name, o, err, log)
			}
			if strings.Contains(o.Error+log.String(), "SECRET") {
				t.Errorf("%s: the words are told: %s; %s", name, o.Error, log)
			}
		})
	}
}

// nilLeaf is a map that panics when it runs.
func nilLeaf(t *testing.T) *mapping.Map {
	t.Helper()
	m := new(mapping.Map)
	func() {
		defer func() {
			if recover() == nil {
				t.Fatal("an empty map does not panic: the test needs another")
			}
		}()
		_, _ = m.Run(t.Context(), &expression.Input{})
	}()
	return m
}
