package stripe

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/strictjson"
)

// read takes what the hub needs of an event out of its body. Nothing of v is kept but copies: v is only lent.
func read(e *event.Event, v *strictjson.Value) error {
	if v.Kind() != strictjson.Object {
		return errors.New("the body is not a Stripe event: it is not an object")
	}
	object := v.Member("object").Text()
	thin := strings.HasPrefix(object, "v2.")
	if object != "event" && !thin {
		return errors.New("the body is not a Stripe event: its object is not event or v2.core.event")
	}
	e.ID, e.Type = event.StableID(kept(v, "id")), kept(v, "type")
	if e.ID == "" || e.Type == "" {
		return errors.New("the body is not a Stripe event: it has no id or no type")
	}
	var err error
	if e.Time, err = happened(v.Member("created")); err != nil {
		return err
	}
	if thin {
		e.Subject = kept(v.Member("related_object"), "id")
		e.Key = e.Subject
	} else {
		e.Subject, e.Key = of(v.Member("data").Member("object"))
	}
	e.Extensions = extensions(v)
	return nil
}

// kept is the text of a member, for good; "" when it is missing, null or no text.
func kept(v *strictjson.Value, name string) string { return strings.Clone(v.Member(name).Text()) }

// of is the ID of an event's object, and the customer that it belongs to: an ID, or an object once it has been expanded.
func of(object *strictjson.Value) (subject, key string) {
	subject = kept(object, "id")
	switch customer := object.Member("customer"); {
	case customer == nil:
	case customer.Kind() == strictjson.Object:
		key = kept(customer, "id")
	default:
		key = strings.Clone(customer.Text())
	}
	if key == "" { // a customer's own events bear its ID as the object's
		key = subject
	}
	return subject, key
}

// extensions are what only Stripe's events have.
func extensions(v *strictjson.Value) map[string]string {
	out := make(map[string]string, 4)
	for _, x := range [...]struct{ attribute, member string }{{"apiversion", "api_version"}, {"account", "account"}, {"context", "context"}} {
		if text := kept(v, x.member); text != "" {
			out[x.attribute] = text
		}
	}
	if livemode := v.Member("livemode"); livemode != nil {
		switch livemode.Kind() {
		case strictjson.True:
			out["livemode"] = "true"
		case strictjson.False:
			out["livemode"] = "false"
		default: // not a word of Stripe's
		}
	}
	return out
}

// happened reads created: seconds since 1970, or RFC 3339 in a thin event.
func happened(created *strictjson.Value) (time.Time, error) {
	if text := created.Text(); text != "" {
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil && t.Year() >= 1970 && t.Year() <= 9999 {
			return t.UTC(), nil
		}
	} else if created != nil {
		if seconds, err := strconv.ParseInt(created.Raw(), 10, 64); err == nil && seconds >= 0 && seconds < maxSeconds {
			return time.Unix(seconds, 0).UTC(), nil
		}
	}
	return time.Time{}, errors.New("the body is not a Stripe event: its created is not a time")
}

// maxSeconds is the first second of the year 10000, which RFC 3339 cannot write.
const maxSeconds = 253402300800
