package stripe

import (
	"context"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/signature"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/strictjson"
)

// Verifier judges the calls, for whoever wants to explain one.
func (c *connection) Verifier() *signature.Verifier { return c.verifier }

// Limits are the webhook's settings.
func (c *connection) Limits() connectors.Limits { return c.limits }

// refusal is a signature's, with its word for metrics.
type refusal struct{ *signature.Refusal }

// Reason is one of signature's codes.
func (r refusal) Reason() string { return string(r.Code) }

// Verify judges Stripe-Signature over the exact bytes. The timestamp may be as far ahead as behind.
func (c *connection) Verify(_ context.Context, call *connectors.Call) error {
	err := c.verifier.Verify(signature.Request{
		Method: call.Method, Header: call.Header, Body: call.Body, Remote: call.Remote, TLS: call.TLS, At: call.Received,
	})
	if r := signature.AsRefusal(err); r != nil {
		return refusal{r}
	}
	return err
}

// Events reads the one event of a call, of any API version. The event's ID, type and time are Stripe's. Its key is the
// customer that the object belongs to, or else the object itself, so that all that happens to one customer (and, say, to its invoices and
// subscriptions) stays in order. Its subject is the object's ID. Extensions: apiversion, livemode, account (Connect), context (thin events).
// A body that two readers could read differently is refused, by the rules of strictjson.
func (c *connection) Events(call *connectors.Call) ([]event.Event, error) {
	e := event.Event{
		Source: c.name, Recorded: call.Received, ContentType: call.Header.Get("Content-Type"), Body: call.Body,
		Restated: true, // pending_webhooks differs from one retry to the next
	}
	if err := strictjson.Look(call.Body, func(v *strictjson.Value) error { return read(&e, v) }); err != nil {
		return nil, err
	}
	return []event.Event{e}, nil
}
