package event_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tidewire/tidewire/event"
)

var moment = time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC)

func full() event.Event {
	return event.Event{
		ID: "evt_1", Source: "stripe", Type: "invoice.paid", Subject: "in_1N2b", Key: "cus_1", Time: moment, Recorded: moment.Add(time.Second),
		ContentType: "application/json; charset=utf-8", Body: []byte("{\"a\": 1}\n"),
		Extensions: map[string]string{"apiversion": "2024-06-20", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	}
}

func TestEncodeWritesCloudEventsAttributes(t *testing.T) {
	t.Parallel()
	e := full()
	id, attributes, payload := e.Encode()
	want := map[string]string{
		"ce_specversion": "1.0", "ce_id": "evt_1", "ce_source": "stripe", "ce_type": "invoice.paid", "ce_subject": "in_1N2b", "ce_partitionkey": "cus_1",
		"ce_time": "2026-01-02T03:04:05.678901234Z", "ce_recordedtime": "2026-01-02T03:04:06.678901234Z",
		"content-type": "application/json; charset=utf-8", "ce_apiversion": "2024-06-20",
		"ce_traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}
	if id != "evt_1" || !maps.Equal(attributes, want) {
		t.Errorf("got %s %v\nwant %v", id, attributes, want)
	}
	if &payload[0] != &e.Body[0] || len(payload) != len(e.Body) {
		t.Error("the payload is a copy of the body")
	}
}

func TestWhatIsEmptyIsNotWritten(t *testing.T) {
	t.Parallel()
	_, attributes, payload := event.Event{ID: "1", Source: "s", Type: "t", Time: moment, Recorded: moment}.Encode()
	for _, name := range []string{"ce_subject", "ce_partitionkey", "content-type"} {
		if v, there := attributes[name]; there {
			t.Errorf("%s is %q", name, v)
		}
	}
	if len(attributes) != 6 || len(payload) != 0 {
		t.Errorf("got %v and %d bytes", attributes, len(payload))
	}
}

func TestTimesAreWrittenInUTC(t *testing.T) {
	t.Parallel()
	e := full()
	e.Time = moment.In(time.FixedZone("elsewhere", 5*3600+1800))
	_, attributes, payload := e.Encode()
	if got := attributes["ce_time"]; got != "2026-01-02T03:04:05.678901234Z" {
		t.Errorf("written as %s", got)
	}
	back, err := event.Decode(attributes, payload)
	if err != nil || !back.Time.Equal(e.Time) || back.Time.Location() != time.UTC {
		t.Errorf("read as %v (%v)", back.Time, err)
	}
}

// TestEverythingSurvives encodes and decodes events made at random out of everything that an event may hold.
func TestEverythingSurvives(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 3000 {
		e := random(r)
		if err := e.Validate(); err != nil {
			t.Fatalf("seed %d: the test made an event that is not valid: %v", seed, err)
		}
		body := bytes.Clone(e.Body)
		_, attributes, payload := e.Encode()
		// A log adds attributes of its own; they are none of the event's.
		attributes["logged_at"] = "somewhere"
		got, err := event.Decode(attributes, payload)
		if err != nil {
			t.Fatalf("seed %d: %v\n%+v", seed, err, e)
		}
		if !reflect.DeepEqual(got, e) {
			t.Fatalf("seed %d: got\n%#v\nwant\n%#v", seed, got, e)
		}
		if !bytes.Equal(got.Body, body) {
			t.Fatalf("seed %d: the body has changed", seed)
		}
	}
}

// runes that are troublesome somewhere: JSON, HTTP, YAML, SQL, surrogates' neighbours, the replacement character, combining marks.
var runes = []rune("aZ09-_.:;,=%\"'\\/<>&|{}[]()@#*+~^ \u00e4\u00df\u0301\u200b\u2028\ufeff\ufffd\u65e5\U0001f600\U0010ffff\ud7ff\ue000\u0080")

func random(r *rand.Rand) event.Event {
	text := func(least, most int, spaces bool) string {
		var b strings.Builder
		for n := least + r.IntN(most-least+1); n > 0; {
			c := runes[r.IntN(len(runes))]
			if c == ' ' && !spaces {
				continue
			}
			if b.Len()+utf8.RuneLen(c) > most {
				break
			}
			b.WriteRune(c)
			n--
		}
		if b.Len() < least {
			return "x"
		}
		return b.String()
	}
	when := func() time.Time {
		return time.Unix(r.Int64N(250_000_000_000)-60_000_000_000, r.Int64N(1e9)).UTC()
	}
	e := event.Event{
		ID: text(1, event.MaxID, false), Source: text(1, 40, true), Type: text(1, 60, true), Subject: text(0, 60, true), Key: text(0, 60, true),
		Time: when(), Recorded: when(), ContentType: text(0, 30, true), Body: make([]byte, r.IntN(200)),
	}
	for i := range e.Body {
		e.Body[i] = byte(r.Uint32())
	}
	for range r.IntN(4) {
		if e.Extensions == nil {
			e.Extensions = make(map[string]string)
		}
		const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
		name := []byte{'x'} // no CloudEvents attribute of ours begins so
		for range r.IntN(20) {
			name = append(name, letters[r.IntN(len(letters))])
		}
		e.Extensions[string(name)] = text(0, 80, true)
	}
	return e
}

// What a hub keeps in memory of an event that it has accepted is what it would read from its log.
func TestStoredIsWhatEncodingLeaves(t *testing.T) {
	t.Parallel()
	now := time.Now() // with a reading of the monotonic clock
	for name, x := range map[string]map[string]string{"nil": nil, "empty": {}, "some": {"apiversion": "1"}} {
		e := event.Event{
			ID: "a", Source: "s", Type: "t", Subject: "u", Key: "k", Time: now.In(time.FixedZone("", -3600)), Recorded: now,
			ContentType: "text/plain", Body: []byte("b"), Extensions: x, Restated: true,
		}
		_, attributes, payload := e.Encode()
		want, err := event.Decode(attributes, payload)
		if got := e.Stored(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v, %v", name, got, want, err)
		}
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	if err := full().Validate(); err != nil {
		t.Fatalf("a good event: %v", err)
	}
	for want, change := range map[string]func(*event.Event){
		"event has no id":                             func(e *event.Event) { e.ID = "" },
		"longer than 255":                             func(e *event.Event) { e.ID = strings.Repeat("x", event.MaxID+1) },
		"event id holds spaces":                       func(e *event.Event) { e.ID = "evt 1" },
		"event id holds spaces or control":            func(e *event.Event) { e.ID = "evt\n1" },
		"or is not UTF-8":                             func(e *event.Event) { e.ID = "evt\xff" },
		"evt_1 has no source":                         func(e *event.Event) { e.Source = "" },
		"evt_1 has no type":                           func(e *event.Event) { e.Type = "" },
		"its source holds control characters":         func(e *event.Event) { e.Source = "a\x00b" },
		"its type holds control characters":           func(e *event.Event) { e.Type = "a\r\nb" },
		"its subject holds control characters":        func(e *event.Event) { e.Subject = "a\x7fb" },
		"its key holds control characters":            func(e *event.Event) { e.Key = "\xc3\x28" },
		"its content type holds control characters":   func(e *event.Event) { e.ContentType = "text/plain\n" },
		"evt_1 has no time":                           func(e *event.Event) { e.Time = time.Time{} },
		"has no time":                                 func(e *event.Event) { e.Recorded = time.Time{} },
		"evt_1: a time of it is outside the years":    func(e *event.Event) { e.Time = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"a time of it is outside":                     func(e *event.Event) { e.Recorded = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) },
		`extension name "Upper"`:                      func(e *event.Event) { e.Extensions = map[string]string{"Upper": ""} },
		`extension name ""`:                           func(e *event.Event) { e.Extensions = map[string]string{"": ""} },
		`extension name "a-b"`:                        func(e *event.Event) { e.Extensions = map[string]string{"a-b": ""} },
		`extension name "abcdefghijklmnopqrstu"`:      func(e *event.Event) { e.Extensions = map[string]string{"abcdefghijklmnopqrstu": ""} },
		"extension trace holds control characters or": func(e *event.Event) { e.Extensions = map[string]string{"trace": "a\x00"} },
	} {
		e := full()
		change(&e)
		if err := e.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestDecodeNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ attribute, value, want string }{
		"another version":      {"ce_specversion", "0.3", `ce_specversion is "0.3", want "1.0"`},
		"no version":           {"ce_specversion", "", "ce_specversion"},
		"no id":                {"ce_id", "", "event has no id"},
		"time in words":        {"ce_time", "yesterday", "ce_time is not an RFC 3339 time"},
		"no recorded time":     {"ce_recordedtime", "", "ce_recordedtime is not an RFC 3339 time"},
		"extension with space": {"ce_a b", "x", `extension name "a b"`},
		"control characters":   {"ce_type", "a\nb", "its type holds control characters"},
	} {
		_, attributes, payload := full().Encode()
		attributes[c.attribute] = c.value
		if _, err := event.Decode(attributes, payload); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := event.Decode(nil, nil); err == nil {
		t.Error("nothing at all is an event")
	}
}

func TestStableIDKeepsWhatCanServe(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "evt_1", "a/b:c", "ä日\U0001f600", strings.Repeat("x", event.MaxID)} {
		if got := event.StableID(id); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	seen := make(map[string]string)
	for _, id := range []string{" ", "a b", "a\tb", "a\nb", "\xff", "\xfe", strings.Repeat("x", event.MaxID+1), strings.Repeat("x", event.MaxID+2)} {
		got := event.StableID(id)
		if got != event.StableID(id) || got != event.Fingerprint([]byte(id)) {
			t.Errorf("%q is %q", id, got)
		}
		e := full()
		if e.ID = got; e.Validate() != nil {
			t.Errorf("%q became %q, which is no id", id, got)
		}
		if other, there := seen[got]; there {
			t.Errorf("%q and %q have one id", id, other)
		}
		seen[got] = id
	}
}

func TestFingerprintsTellPartsApart(t *testing.T) {
	t.Parallel()
	// SHA-256 of the eight bytes of the length 1 and "a": the format is a promise, IDs made of it are stored.
	if got, want := event.Fingerprint([]byte("a")), "sha256-3b196fd4907bedf51c3090e9835f2f7cb61e7ee1b2299ea3b8fed9b4183a822a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	split := func(parts ...string) string {
		var b [][]byte
		for _, p := range parts {
			b = append(b, []byte(p))
		}
		return event.Fingerprint(b...)
	}
	seen := make(map[string]string)
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"abc"}, {"ab", "c"}, {"a", "bc"}, {"a", "b", "c"}, {"abc", ""}, {"", "abc"}} {
		got, text := split(parts...), fmt.Sprintf("%q", parts)
		if other, there := seen[got]; there {
			t.Errorf("%s and %s have one fingerprint", text, other)
		}
		seen[got] = text
	}
}

// FuzzDecode gives Decode what a log that others write to could hold. What it takes has to be valid and to survive another round.
func FuzzDecode(f *testing.F) {
	f.Add("evt_1", "stripe", "invoice.paid", "in_1", "cus_1", "2026-01-02T03:04:05.6Z", "2026-01-02T03:04:05+05:30", "application/json", "apiversion", "2024", []byte("{}"))
	f.Add("", "", "", "", "", "", "", "", "", "", []byte(nil))
	f.Add("a b", "s", "t", "\x00", "\xff", "0000-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "\r\n", "specversion", "1.0", []byte{0})
	f.Add("a", "s", "t", "", "", "9999-12-31T23:59:59-05:00", "0000-01-01T00:00:00+05:00", "", "x", "", []byte{0})
	f.Fuzz(func(t *testing.T, id, source, kind, subject, key, when, recorded, content, name, value string, body []byte) {
		attributes := map[string]string{
			"ce_specversion": "1.0", "ce_id": id, "ce_source": source, "ce_type": kind, "ce_subject": subject, "ce_partitionkey": key,
			"ce_time": when, "ce_recordedtime": recorded, "content-type": content,
		}
		if _, known := attributes["ce_"+name]; !known {
			attributes["ce_"+name] = value
		}
		e, err := event.Decode(attributes, body)
		if err != nil {
			return
		}
		if err := e.Validate(); err != nil {
			t.Fatalf("decoded, but: %v", err)
		}
		_, again, payload := e.Encode()
		back, err := event.Decode(again, payload)
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded and decoded again: %v\n%q", err, again)
		}
		if !back.Time.Equal(e.Time) || !back.Recorded.Equal(e.Recorded) {
			t.Fatalf("times have moved: %v %v, were %v %v", back.Time, back.Recorded, e.Time, e.Recorded)
		}
		back.Time, back.Recorded = e.Time, e.Recorded
		if !reflect.DeepEqual(back, e) || !bytes.Equal(payload, body) {
			t.Fatalf("got %#v, was %#v", back, e)
		}
	})
}
