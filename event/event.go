// Package event holds Tidewire's envelope: one fact from one connection, its identity and its
// encoding. Attributes follow CloudEvents 1.0 (https://github.com/cloudevents/spec); the body is
// carried byte for byte and never looked into here.
package event

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxID is the longest event ID in bytes. Longer ones from a provider are replaced by their Fingerprint.
const MaxID = 255

// Event is one fact from a connection. It is immutable: whoever holds one may read it and pass it on,
// and nobody may change it or what its slices and maps hold.
type Event struct {
	// ID is the stable identity of the fact: same fact, same ID, through whichever door and however
	// often it comes. 1 to MaxID bytes of printable UTF-8 without spaces or control characters. Unique within Source.
	ID string
	// Source is the name of the connection the fact came from (CloudEvents "source").
	Source string
	// Type says what kind of fact it is, in the provider's own words, such as "invoice.paid".
	Type string
	// Subject is what the fact is about, such as "in_1N2b"; may be empty.
	Subject string
	// Key is the ordering key: events of one source with equal keys reach a target in the order in which
	// they were accepted. Empty means that no order is asked for.
	Key string
	// Time is when the fact happened, by the provider's clock, in UTC; when the provider does not say, when it was accepted.
	Time time.Time
	// Recorded is when the hub accepted the event (CloudEvents extension "recordedtime"), in UTC.
	Recorded time.Time
	// ContentType is the media type of Body as the provider said it; may be empty.
	ContentType string
	// Body is the provider's bytes, or the one item's bytes where a call carries many events.
	Body []byte
	// Extensions are further CloudEvents attributes: names of lower-case letters and digits,
	// at most 20 characters; such as "apiversion" (Stripe) and "traceparent". May be nil.
	Extensions map[string]string
	// Restated: the provider may send this fact again with another body (attempt counters, numbers of pending webhooks), and so may its API when
	// it is pulled. The first body accepted stands, and a repeat is no conflict. It is said while the event is accepted and not
	// encoded.
	Restated bool
}

// Names of the attributes as CloudEvents binary mode writes them on Kafka and as Encode returns them.
const (
	attrSpec     = "ce_specversion"
	attrID       = "ce_id"
	attrSource   = "ce_source"
	attrType     = "ce_type"
	attrSubject  = "ce_subject"
	attrKey      = "ce_partitionkey"
	attrTime     = "ce_time"
	attrRecorded = "ce_recordedtime"
	attrContent  = "content-type"
	attrPrefix   = "ce_"

	specVersion = "1.0"
)

// Fingerprint is a stable ID for bytes that carry none of their own: "sha256-" and the hash, in hex, of the
// parts, each preceded by its length, so that ("ab","c") and ("a","bc") differ.
func Fingerprint(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		n := uint64(len(p))
		h.Write([]byte{byte(n >> 56), byte(n >> 48), byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		h.Write(p)
	}
	return "sha256-" + hex.EncodeToString(h.Sum(nil))
}

// StableID returns id itself when it can serve as an event ID, and its Fingerprint when it is too long or
// holds characters an ID may not have. An empty id stays empty: the caller says what to do without one.
func StableID(id string) string {
	if id == "" || validID(id) == nil {
		return id
	}
	return Fingerprint([]byte(id))
}

// Validate reports the first attribute that breaks the promises in Event's field comments.
func (e Event) Validate() error {
	if err := validID(e.ID); err != nil {
		return err
	}
	for _, a := range [...]struct{ name, value string }{{"source", e.Source}, {"type", e.Type}} {
		if a.value == "" {
			return fmt.Errorf("event %s has no %s", e.ID, a.name)
		}
	}
	for _, a := range [...]struct{ name, value string }{
		{"source", e.Source}, {"type", e.Type}, {"subject", e.Subject}, {"key", e.Key}, {"content type", e.ContentType},
	} {
		if !plain(a.value) {
			return fmt.Errorf("event %s: its %s holds control characters or is not UTF-8", e.ID, a.name)
		}
	}
	if e.Time.IsZero() || e.Recorded.IsZero() {
		return fmt.Errorf("event %s has no time", e.ID)
	}
	if !writable(e.Time) || !writable(e.Recorded) {
		return fmt.Errorf("event %s: a time of it is outside the years 0 to 9999", e.ID)
	}
	for name, value := range e.Extensions {
		if !validExtension(name) {
			return fmt.Errorf("event %s: extension name %q is not 1 to 20 lower-case letters and digits", e.ID, name)
		}
		if !plain(value) {
			return fmt.Errorf("event %s: extension %s holds control characters or is not UTF-8", e.ID, name)
		}
	}
	return nil
}

// Encode returns the event as an identity, attributes and payload: what a log record, a Kafka record or a
// dead letter is made of. The payload is Body itself, not a copy.
func (e Event) Encode() (id string, attributes map[string]string, payload []byte) {
	a := make(map[string]string, 9+len(e.Extensions))
	a[attrSpec] = specVersion
	a[attrID] = e.ID
	a[attrSource] = e.Source
	a[attrType] = e.Type
	a[attrTime] = e.Time.UTC().Format(time.RFC3339Nano)
	a[attrRecorded] = e.Recorded.UTC().Format(time.RFC3339Nano)
	if e.Subject != "" {
		a[attrSubject] = e.Subject
	}
	if e.Key != "" {
		a[attrKey] = e.Key
	}
	if e.ContentType != "" {
		a[attrContent] = e.ContentType
	}
	for name, value := range e.Extensions {
		a[attrPrefix+name] = value
	}
	return e.ID, a, e.Body
}

// Stored returns the event as Decode returns it after Encode: what is said at its acceptance alone is gone.
func (e Event) Stored() Event {
	// UTC takes away the reading of the monotonic clock too, which no record can carry.
	e.Time, e.Recorded = e.Time.UTC(), e.Recorded.UTC()
	e.Restated = false
	if len(e.Extensions) == 0 {
		e.Extensions = nil
	}
	return e
}

// Decode is the inverse of Encode. Attributes that are not CloudEvents' (no "ce_" before them) are left
// alone, so that a log may add its own. An error names the attribute that is missing or malformed; the
// record it came from is then a dead letter, never a reason to stop.
func Decode(attributes map[string]string, payload []byte) (Event, error) {
	if v := attributes[attrSpec]; v != specVersion {
		return Event{}, fmt.Errorf("%s is %q, want %q", attrSpec, v, specVersion)
	}
	e := Event{
		ID:          attributes[attrID],
		Source:      attributes[attrSource],
		Type:        attributes[attrType],
		Subject:     attributes[attrSubject],
		Key:         attributes[attrKey],
		ContentType: attributes[attrContent],
		Body:        payload,
	}
	var err error
	if e.Time, err = time.Parse(time.RFC3339Nano, attributes[attrTime]); err != nil {
		return Event{}, fmt.Errorf("%s is not an RFC 3339 time", attrTime)
	}
	if e.Recorded, err = time.Parse(time.RFC3339Nano, attributes[attrRecorded]); err != nil {
		return Event{}, fmt.Errorf("%s is not an RFC 3339 time", attrRecorded)
	}
	for name, value := range attributes {
		if !strings.HasPrefix(name, attrPrefix) {
			continue
		}
		switch name {
		case attrSpec, attrID, attrSource, attrType, attrSubject, attrKey, attrTime, attrRecorded:
		default:
			if e.Extensions == nil {
				e.Extensions = make(map[string]string)
			}
			e.Extensions[name[len(attrPrefix):]] = value
		}
	}
	return e, e.Validate()
}

// KeyOf is the ordering key in an event's encoded attributes; empty when it has none.
func KeyOf(attributes map[string]string) string { return attributes[attrKey] }

func validID(id string) error {
	switch {
	case id == "":
		return errors.New("event has no id")
	case len(id) > MaxID:
		return fmt.Errorf("event id of %d bytes is longer than %d", len(id), MaxID)
	case !plain(id) || strings.ContainsRune(id, ' '):
		return errors.New("event id holds spaces or control characters, or is not UTF-8")
	}
	return nil
}

// plain reports whether s is UTF-8 without control characters: what a header can carry.
func plain(s string) bool {
	ascii := true
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20 || c == 0x7f:
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return ascii || utf8.ValidString(s)
}

// writable reports whether RFC 3339 can write t in UTC: its years have four digits.
func writable(t time.Time) bool {
	year := t.UTC().Year()
	return year >= 0 && year <= 9999
}

func validExtension(name string) bool {
	if name == "" || len(name) > 20 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
