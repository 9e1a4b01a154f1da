package stripe

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/signature"
	"github.com/tidewire/tidewire/event"
)

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
func (c *connection) Events(call *connectors.Call) ([]event.Event, error) {
	env, err := readEnvelope(call.Body)
	if err != nil {
		return nil, err
	}
	object := str(env.object)
	thin := strings.HasPrefix(object, "v2.")
	if object != "event" && !thin {
		return nil, errors.New("the body is not a Stripe event: its object is not event or v2.core.event")
	}
	e := event.Event{
		ID: event.StableID(str(env.id)), Source: c.name, Type: str(env.kind), Recorded: call.Received,
		ContentType: call.Header.Get("Content-Type"), Body: call.Body,
		Extensions: make(map[string]string, 4),
		Restated:   true, // pending_webhooks differs from one retry to the next
	}
	if e.ID == "" || e.Type == "" {
		return nil, errors.New("the body is not a Stripe event: it has no id or no type")
	}
	if e.Time, err = happened(env.created); err != nil {
		return nil, err
	}
	if thin {
		e.Subject = str(env.relatedID)
		e.Key = e.Subject
	} else {
		e.Subject = str(env.dataID)
		e.Key = str(env.customer)
		if e.Key == "" { // a customer's own events bear its ID as the object's
			e.Key = e.Subject
		}
	}
	for _, x := range [...]struct {
		name  string
		value string
	}{{"apiversion", str(env.apiVersion)}, {"livemode", word(env.livemode)}, {"account", str(env.account)}, {"context", str(env.context)}} {
		if x.value != "" {
			e.Extensions[x.name] = x.value
		}
	}
	return []event.Event{e}, nil
}

// happened reads created: seconds since 1970, or RFC 3339 in a thin event.
func happened(raw []byte) (time.Time, error) {
	if text := str(raw); text != "" {
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil && t.Year() >= 1970 && t.Year() <= 9999 {
			return t.UTC(), nil
		}
	} else if seconds, err := strconv.ParseInt(string(raw), 10, 64); err == nil && seconds >= 0 && seconds < maxSeconds {
		return time.Unix(seconds, 0).UTC(), nil
	}
	return time.Time{}, errors.New("the body is not a Stripe event: its created is not a time")
}

// maxSeconds is the first second of the year 10000, which RFC 3339 cannot write.
const maxSeconds = 253402300800

// word is a kept true or false.
func word(raw []byte) string {
	switch string(raw) {
	case "true", "false":
		return string(raw)
	}
	return ""
}
