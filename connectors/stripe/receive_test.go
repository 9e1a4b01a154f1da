package stripe_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
)

func receiver(t testing.TB, webhook string) connectors.Receiver {
	t.Helper()
	r, ok := mustOpen(t, "webhook: "+webhook).(connectors.Receiver)
	if !ok {
		t.Fatal("not a receiver")
	}
	return r
}

func TestVerify(t *testing.T) {
	t.Parallel()
	now := time.Unix(1767225600, 0)
	body := fixture(t, "invoice.paid.json")
	for name, tc := range map[string]struct {
		call   *connectors.Call
		change func(c *connectors.Call)
		reason string // none: it passes
	}{
		"genuine":           {call: signed(body, secret, now)},
		"older secret":      {call: signed(body, other, now)},
		"just in time":      {call: signed(body, secret, now), change: late(300 * time.Second)},
		"just early enough": {call: signed(body, secret, now), change: late(-300 * time.Second)},
		"stale":             {call: signed(body, secret, now), change: late(301 * time.Second), reason: "expired"},
		"from the future":   {call: signed(body, secret, now), change: late(-301 * time.Second), reason: "future"},
		"another's secret":  {call: signed(body, "whsec_of_somebody_else", now), reason: "mismatch"},
		"one byte changed":  {call: signed(body, secret, now), change: func(c *connectors.Call) { c.Body = bytes.Replace(c.Body, []byte("1999"), []byte("1998"), 1) }, reason: "mismatch"},
		"one byte less":     {call: signed(body, secret, now), change: func(c *connectors.Call) { c.Body = c.Body[:len(c.Body)-1] }, reason: "mismatch"},
		"written otherwise": {call: signed(body, secret, now), change: func(c *connectors.Call) { c.Body = compact(c.Body) }, reason: "mismatch"},
		"no signature":      {call: signed(body, secret, now), change: func(c *connectors.Call) { c.Header.Del("Stripe-Signature") }, reason: "missing"},
		"two signatures":    {call: signed(body, secret, now), change: func(c *connectors.Call) { c.Header.Add("Stripe-Signature", c.Header.Get("Stripe-Signature")) }, reason: "malformed"},
		"another's scheme":  {call: signed(body, secret, now), change: func(c *connectors.Call) { rename(c, "v1=", "v0=") }, reason: "missing"},
		"another's time":    {call: signed(body, secret, now), change: func(c *connectors.Call) { rename(c, "t=1767225600", "t=1767225601") }, reason: "mismatch"},
		"time with a sign":  {call: signed(body, secret, now), change: func(c *connectors.Call) { rename(c, "t=", "t=+") }, reason: "malformed"},
		"signature cut":     {call: signed(body, secret, now), change: func(c *connectors.Call) { c.Header["Stripe-Signature"][0] = c.Header["Stripe-Signature"][0][:60] }, reason: "malformed"},
		"signature of zeros": {call: signed(body, secret, now), change: func(c *connectors.Call) {
			c.Header["Stripe-Signature"] = []string{"t=1767225600,v1=" + strings.Repeat("0", 64)}
		}, reason: "mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := receiver(t, "{secrets: ["+secret+", "+other+"]}")
			if tc.change != nil {
				tc.change(tc.call)
			}
			err := r.Verify(t.Context(), tc.call)
			if (err == nil) != (tc.reason == "") {
				t.Fatalf("%v", err)
			}
			if err == nil {
				return
			}
			if why, ok := err.(interface{ Reason() string }); !ok || why.Reason() != tc.reason {
				t.Errorf("%v, want %s", err, tc.reason)
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "whsec") {
				t.Errorf("a secret is in %v", err)
			}
		})
	}
}

func late(d time.Duration) func(*connectors.Call) {
	return func(c *connectors.Call) { c.Received = c.Received.Add(d) }
}

func rename(c *connectors.Call, old, with string) {
	c.Header["Stripe-Signature"][0] = strings.Replace(c.Header["Stripe-Signature"][0], old, with, 1)
}

func compact(body []byte) []byte {
	var b bytes.Buffer
	_ = json.Compact(&b, body)
	return b.Bytes()
}

func TestEvents(t *testing.T) {
	t.Parallel()
	type want struct {
		id, kind, subject, key string
		time                   int64
		extensions             map[string]string
	}
	for name, tc := range map[string]struct {
		body string
		want want
	}{
		"invoice": {fixture(t, "invoice.paid.json"), want{"evt_1NG8Du2eZvKYlo2CUI79vXWy", "invoice.paid", "in_1NG8Du2eZvKYlo2C9XMqbR0x", "cus_4QFJOjw2pOmAGJ", 1686089970,
			map[string]string{"apiversion": "2023-10-16", "livemode": "false"}}},
		"of a customer": {`{"id":"evt_1","object":"event","type":"customer.updated","created":1,"data":{"object":{"id":"cus_1","object":"customer"}}}`,
			want{"evt_1", "customer.updated", "cus_1", "cus_1", 1, nil}},
		"with an expanded customer": {`{"id":"evt_1","object":"event","type":"charge.failed","created":1,"data":{"object":{"id":"ch_1","customer":{"name":"A","id":"cus_2"}}}}`,
			want{"evt_1", "charge.failed", "ch_1", "cus_2", 1, nil}},
		"without a customer": {`{"id":"evt_1","object":"event","type":"payout.paid","created":1,"data":{"object":{"id":"po_1","customer":null}}}`,
			want{"evt_1", "payout.paid", "po_1", "po_1", 1, nil}},
		"of no object": {`{"id":"evt_1","object":"event","type":"balance.available","created":1,"data":{"object":{"object":"balance"}}}`,
			want{"evt_1", "balance.available", "", "", 1, nil}},
		"of a connected account": {`{"id":"evt_1","object":"event","type":"t","created":1,"account":"acct_1","livemode":true,"api_version":"2025-01-27.acacia","data":{"object":{"id":"x"}}}`,
			want{"evt_1", "t", "x", "x", 1, map[string]string{"account": "acct_1", "livemode": "true", "apiversion": "2025-01-27.acacia"}}},
		"without an api version": {`{"id":"evt_1","object":"event","type":"t","created":1,"api_version":null,"data":{"object":{"id":"x"}}}`,
			want{"evt_1", "t", "x", "x", 1, nil}},
		"thin": {`{"id":"evt_test_65R9","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered","livemode":true,"created":"2022-02-15T00:27:45.330Z","context":"acct_9","related_object":{"id":"mtr_123","type":"billing.meter","url":"/v1/billing/meters/mtr_123"},"reason":null}`,
			want{"evt_test_65R9", "v1.billing.meter.error_report_triggered", "mtr_123", "mtr_123", 1644884865, map[string]string{"livemode": "true", "context": "acct_9"}}},
		"keys of its own in metadata": {`{"id":"evt_1","object":"event","type":"t","created":1,"data":{"object":{"id":"x","metadata":{"a":"1","A":"2"}}}}`,
			want{"evt_1", "t", "x", "x", 1, nil}},
		"escapes":         {`{"\u0069d":"evt_\u0031","object":"event","type":"t","created":1}`, want{"evt_1", "t", "", "", 1, nil}},
		"an odd id":       {`{"id":"evt 1","object":"event","type":"t","created":1}`, want{"sha256-", "t", "", "", 1, nil}},
		"escaped values":  {`{"id":"evt_\u0031","object":"\u0065vent","type":"t\/u","created":1}`, want{"evt_1", "t/u", "", "", 1, nil}},
		"with odd spaces": {"\r\n\t{ \"id\" :\"evt_1\" , \"object\": \"event\",\"type\":\"t\"\n,\"created\" : 1 } \r\n", want{"evt_1", "t", "", "", 1, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := receiver(t, "{secret: "+secret+"}")
			call := signed(tc.body, secret, time.Unix(1767225600, 0))
			events, err := r.Events(call)
			if tc.want.id == "" {
				if err == nil {
					t.Fatalf("%+v", events)
				}
				return
			}
			if err != nil || len(events) != 1 {
				t.Fatalf("%d events, %v", len(events), err)
			}
			e := events[0]
			if !strings.HasPrefix(e.ID, tc.want.id) || e.Type != tc.want.kind || e.Subject != tc.want.subject || e.Key != tc.want.key || e.Time.Unix() != tc.want.time {
				t.Errorf("%+v", e)
			}
			if !maps.Equal(e.Extensions, tc.want.extensions) {
				t.Errorf("extensions %v, want %v", e.Extensions, tc.want.extensions)
			}
			if e.Source != "pay" || &e.Body[0] != &call.Body[0] || e.ContentType != "application/json; charset=utf-8" {
				t.Errorf("%+v", e)
			}
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEventsKeepNothingOfTheReader: what an event says of itself stays as it is when its body's memory is used for something else.
func TestEventsKeepNothingOfTheReader(t *testing.T) {
	t.Parallel()
	r := receiver(t, "{secret: "+secret+"}")
	call := signed(`{"id":"evt_1","object":"event","type":"t","created":1,"account":"acct_1","data":{"object":{"id":"in_1","customer":"cus_1"}}}`, secret, time.Unix(1767225600, 0))
	events, err := r.Events(call)
	if err != nil {
		t.Fatal(err)
	}
	for i := range call.Body {
		call.Body[i] = 'X'
	}
	if e := events[0]; e.ID != "evt_1" || e.Type != "t" || e.Subject != "in_1" || e.Key != "cus_1" || e.Extensions["account"] != "acct_1" {
		t.Errorf("%+v", e)
	}
}

func TestBodiesThatTwoReadersMayReadDifferently(t *testing.T) {
	t.Parallel()
	event := func(more string) string {
		return `{"id":"evt_1","object":"event","type":"t","created":1` + more + `}`
	}
	many := func(last string) string {
		var b strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&b, `"key_%d":%d,`, i, i)
		}
		return event(`,"data":{"object":{` + b.String() + last + `}}`)
	}
	r := receiver(t, "{secret: "+secret+"}")
	if _, err := r.Events(signed(many(`"key":1`), secret, time.Now())); err != nil {
		t.Errorf("5,001 keys: %v", err)
	}
	if _, err := r.Events(signed(event(`,"n":9007199254740993,"f":1.10,"e":1e+300`), secret, time.Now())); err != nil {
		t.Errorf("large numbers: %v", err)
	}
	for name, body := range map[string]string{
		"nothing":                       "",
		"spaces":                        " \n",
		"not JSON":                      "id=evt_1&type=t",
		"XML":                           "<event/>",
		"a list":                        "[" + event("") + "]",
		"a text":                        `"event"`,
		"cut short":                     event("")[:40],
		"more after it":                 event("") + "{}",
		"a comma too many":              event(","),
		"a comma at the end":            event(`,"x":[1,]`),
		"no value":                      event(`,"x":`),
		"no comma":                      event(` "x":1`),
		"single quotes":                 `{'id':'evt_1'}`,
		"a comment":                     event(`/**/`),
		"a byte order mark":             "\xef\xbb\xbf" + event(""),
		"not UTF-8":                     event(",\"x\":\"\xff\""),
		"a control character":           event(",\"x\":\"\x01\""),
		"a bad escape":                  event(`,"x":"\x41"`),
		"half an escape":                event(`,"x":"\u00"`),
		"NaN":                           event(`,"x":NaN`),
		"a leading zero":                event(`,"x":01`),
		"a plus":                        event(`,"x":+1`),
		"a lone minus":                  event(`,"x":-`),
		"a point without digits":        event(`,"x":1.`),
		"an exponent without digits":    event(`,"x":1e`),
		"a number without end":          event(`,"x":` + strings.Repeat("9", 200)),
		"an exponent without end":       event(`,"x":1e99999`),
		"objects in each other":         event(`,"x":` + strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)),
		"lists in each other":           event(`,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100)),
		"lists that do not end":         event(`,"x":` + strings.Repeat("[", 100000)),
		"an id twice":                   event(`,"id":"evt_2"`),
		"an id twice, escaped":          event(`,"\u0069d":"evt_2"`),
		"an id in another case":         event(`,"ID":"evt_2"`),
		"data twice":                    event(`,"data":{"object":{"id":"a"}},"data":{"object":{"id":"b"}}`),
		"an amount twice":               event(`,"data":{"object":{"id":"a","amount":1,"amount":2}}`),
		"an amount in another case":     event(`,"data":{"object":{"id":"a","amount":1,"AMOUNT":2}}`),
		"a key of metadata twice":       event(`,"data":{"object":{"id":"a","metadata":{"k":1,"k":2}}}`),
		"twice in a list's object":      event(`,"x":[{"k":1,"k":2}]`),
		"twice among many":              many(`"key_17":1`),
		"twice among many, other case":  many(`"KEY_17":1`),
		"no id":                         `{"object":"event","type":"t","created":1}`,
		"an id that is no text":         `{"id":1,"object":"event","type":"t","created":1}`,
		"no type":                       `{"id":"evt_1","object":"event","created":1}`,
		"not an event":                  `{"id":"cus_1","object":"customer","type":"t","created":1}`,
		"no time":                       `{"id":"evt_1","object":"event","type":"t"}`,
		"a time that is none":           `{"id":"evt_1","object":"event","type":"t","created":"yesterday"}`,
		"a time before time":            `{"id":"evt_1","object":"event","type":"t","created":-1}`,
		"a time after time":             `{"id":"evt_1","object":"event","type":"t","created":253402300800}`,
		"a time that is half a second":  `{"id":"evt_1","object":"event","type":"t","created":1.5}`,
		"a time that is an object":      `{"id":"evt_1","object":"event","type":"t","created":{}}`,
		"a thin event without a time":   `{"id":"evt_1","object":"v2.core.event","type":"t"}`,
		"an object in the id's place":   `{"id":{"id":"evt_1"},"object":"event","type":"t","created":1}`,
		"an escaped surrogate in a key": `{"\ud800":1,"\ud801":2,"id":"evt_1","object":"event","type":"t","created":1}`,
	} {
		events, err := r.Events(signed(body, secret, time.Now()))
		if err == nil || len(events) != 0 {
			t.Errorf("%s: %d events, %v", name, len(events), err)
		}
	}
}

// FuzzEvents holds the reader of envelopes to encoding/json: what it takes is JSON, and says the same.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(fixture(f, "invoice.paid.json")))
	for _, s := range []string{
		`{"id":"evt_1","object":"event","type":"t","created":1,"data":{"object":{"id":"a","customer":{"id":"c"}}}}`,
		`{"id":"evt_1","object":"v2.core.event","type":"t","created":"2022-02-15T00:27:45.330Z","related_object":{"id":"r"}}`,
		`{"id":"\u0065\ud83d\ude00","object":"event","type":"\n","created":0,"x":[1.5e-3,true,false,null,"\\"]}`,
		`{"id":"a","ID":"b"}`, `{`, `[]`, `{"a":{"a":{"a":[[[[]]]]}}}`, "", `{"id":"\`, `{"id":"\ud83d\u00`, `{"":1,"":2}`,
	} {
		f.Add([]byte(s))
	}
	r := receiver(f, "{secret: "+secret+"}")
	f.Fuzz(func(t *testing.T, body []byte) {
		call := &connectors.Call{Body: body, Received: time.Unix(1767225600, 0).UTC()}
		events, err := r.Events(call)
		again, errAgain := r.Events(call)
		if len(events) != len(again) || (err == nil) != (errAgain == nil) {
			t.Fatal("the same call was read in two ways")
		}
		if err != nil {
			return
		}
		var want struct {
			ID   string `json:"id"`
			Type string `json:"type"`
		}
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("taken, and not JSON: %v", err)
		}
		if e := events[0]; len(events) != 1 || e.Type != want.Type || e.ID != want.ID && !strings.HasPrefix(e.ID, "sha256-") {
			t.Fatalf("read %q %q, want %q %q", e.ID, e.Type, want.ID, want.Type)
		}
	})
}

func BenchmarkReceive(b *testing.B) {
	r := receiver(b, "{secret: "+secret+"}")
	call := signed(fixture(b, "invoice.paid.json"), secret, time.Now())
	b.SetBytes(int64(len(call.Body)))
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := r.Verify(b.Context(), call); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("events", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Events(call); err != nil {
				b.Fatal(err)
			}
		}
	})
}
