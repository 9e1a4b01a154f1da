package http_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	nethttp "net/http"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/http"
	"github.com/tidewire/tidewire/event"
)

var callTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func openReceiver(webhook string) (connectors.Receiver, error) {
	n, err := config.ParseNode("tidewire.yaml", []byte("webhook: "+webhook), config.Options{})
	if err != nil {
		return nil, err
	}
	c, err := http.Connector.Open(n, connectors.Env{Name: "shop", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	r, ok := c.(connectors.Receiver)
	if !ok {
		return nil, errors.New("not a receiver")
	}
	return r, nil
}

func mustReceive(t testing.TB, webhook string) connectors.Receiver {
	t.Helper()
	r, err := openReceiver(webhook)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// calling is a call with headers given as name, value pairs.
func calling(body string, headers ...string) *connectors.Call {
	c := &connectors.Call{
		Method: nethttp.MethodPost, URL: &url.URL{Path: "/in/shop", RawQuery: "tenant=7"}, Body: []byte(body), Received: callTime,
		Header: nethttp.Header{"Content-Type": {"application/json"}},
	}
	for i := 0; i+1 < len(headers); i += 2 {
		c.Header.Set(headers[i], headers[i+1])
	}
	return c
}

// seen is what matters of an event.
type seen struct{ id, kind, key, subject, time, body string }

func see(events []event.Event) []seen {
	var out []seen
	for _, e := range events {
		s := seen{e.ID, e.Type, e.Key, e.Subject, "", string(e.Body)}
		if !e.Time.Equal(callTime) {
			s.time = e.Time.Format(time.RFC3339)
		}
		out = append(out, s)
	}
	return out
}

func print(s string) string { return event.Fingerprint([]byte(s)) }

const open = "verify: {scheme: none}"

func TestCallsBecomeEvents(t *testing.T) {
	t.Parallel()
	const order = `{"id": 9007199254740993, "customer": {"id": "c1"}, "at": "2025-06-07T08:09:10+02:00", "s": 1686089970}`
	for name, tc := range map[string]struct {
		webhook string
		call    *connectors.Call
		want    []seen // nil: refused
		refused string // part of the error
	}{
		"nothing said": {"{" + open + "}", calling(order), []seen{{print(order), "webhook", "", "", "", order}}, ""},
		"everything said": {`{` + open + `, id: 'string(body.id)', type: header("X-Topic"), key: body.customer.id, time: body.at, subject: query("tenant")}`,
			calling(order, "X-Topic", "order.paid"), []seen{{"9007199254740993", "order.paid", "c1", "7", "2025-06-07T06:09:10Z", order}}, ""},
		"a time in seconds":       {`{` + open + `, time: unix(body.s)}`, calling(order), []seen{{print(order), "webhook", "", "", "2023-06-06T22:19:30Z", order}}, ""},
		"a type without quotes":   {`{` + open + `, type: '"order"'}`, calling(order), []seen{{print(order), "order", "", "", "", order}}, ""},
		"an absent header":        {`{` + open + `, id: header("X-Id"), type: header("X-Topic")}`, calling(order), []seen{{print(order), "webhook", "", "", "", order}}, ""},
		"an id with spaces":       {`{` + open + `, id: header("X-Id")}`, calling("", "X-Id", "a b"), []seen{{print("a b"), "webhook", "", "", "", ""}}, ""},
		"a key with a line feed":  {`{` + open + `, key: body.k}`, calling(`{"k":"a\nb"}`), []seen{{print(`{"k":"a\nb"}`), "webhook", print("a\nb"), "", "", `{"k":"a\nb"}`}}, ""},
		"no such field":           {`{` + open + `, id: body.order.id}`, calling(order), nil, "id: "},
		"a key that is an object": {`{` + open + `, key: body.customer}`, calling(order), nil, "key: "},
		"a time that is none":     {`{` + open + `, time: body.customer.id}`, calling(order), nil, "time: "},

		"bytes":                     {"{" + open + "}", calling("\x00\xff\r\n"), []seen{{print("\x00\xff\r\n"), "webhook", "", "", "", "\x00\xff\r\n"}}, ""},
		"bytes, and a header":       {`{` + open + `, id: header("X-Id")}`, calling("\xff", "X-Id", "1"), []seen{{"1", "webhook", "", "", "", "\xff"}}, ""},
		"bytes, and the body asked": {`{` + open + `, id: body.id}`, calling("\xff"), nil, "JSON"},
		"a BOM, nobody looks":       {"{" + open + "}", calling("\xef\xbb\xbf{}"), []seen{{print("\xef\xbb\xbf{}"), "webhook", "", "", "", "\xef\xbb\xbf{}"}}, ""},
		"a key twice":               {`{` + open + `, id: string(body.id)}`, calling(`{"id":1,"amount":1,"amount":2}`), nil, "twice"},
		"a key in two cases":        {`{` + open + `, id: string(body.id)}`, calling(`{"id":1,"amount":1,"AMOUNT":2}`), nil, "case"},
		"a key twice, nobody looks": {"{" + open + "}", calling(`{"id":1,"amount":1,"amount":2}`), nil, "twice"},
		"a list, nobody looks":      {"{" + open + "}", calling(` [{"a":1,"A":2}]`), nil, "case"},
		"cut, nobody looks":         {"{" + open + "}", calling(`{"a":1,"a"`), []seen{{print(`{"a":1,"a"`), "webhook", "", "", "", `{"a":1,"a"`}}, ""},
		"two JSONs, nobody looks":   {"{" + open + "}", calling("{}\n{}\n"), []seen{{print("{}\n{}\n"), "webhook", "", "", "", "{}\n{}\n"}}, ""},
		"cut short":                 {`{` + open + `, id: string(body.id)}`, calling(`{"id":1,"am`), nil, "JSON"},

		"items": {`{` + open + `, items: data.list, id: body.id}`, calling("{\"x\": [1], \"data\" :{\"more\":{\"list\":[0]},\r\n\"list\" : [ {\"id\" : \"a\"}\t,{\"id\":\"b\",\"t\":\"]},\\\"\"} ]}}"),
			[]seen{{"a", "webhook", "", "", "", `{"id" : "a"}`}, {"b", "webhook", "", "", "", `{"id":"b","t":"]},\""}`}}, ""},
		"items of all kinds": {`{` + open + `, items: l}`, calling(`{"l":[1,"a,]",null,-2.5e1 ,[ ],[[1],2],{}]}`), []seen{
			{print("1"), "webhook", "", "", "", "1"}, {print(`"a,]"`), "webhook", "", "", "", `"a,]"`}, {print("null"), "webhook", "", "", "", "null"},
			{print("-2.5e1"), "webhook", "", "", "", "-2.5e1"}, {print("[ ]"), "webhook", "", "", "", "[ ]"}, {print("[[1],2]"), "webhook", "", "", "", "[[1],2]"}, {print("{}"), "webhook", "", "", "", "{}"}}, ""},
		"items with the call's id": {`{` + open + `, items: l, id: header("X-Id")}`, calling(`{"l":[{},{}]}`, "X-Id", "m"),
			[]seen{{"m.0", "webhook", "", "", "", "{}"}, {"m.1", "webhook", "", "", "", "{}"}}, ""},
		"items, a list all of it":    {`{` + open + `, items: .}`, calling(` [ 1 ] `), []seen{{print("1"), "webhook", "", "", "", "1"}}, ""},
		"items, escaped":             {`{` + open + `, items: list}`, calling(`{"\u006cist":[1]}`), []seen{{print("1"), "webhook", "", "", "", "1"}}, ""},
		"no items":                   {`{` + open + `, items: l}`, calling(`{"l":[]}`), []seen{}, ""},
		"items that are not there":   {`{` + open + `, items: l}`, calling(`{"m":[]}`), nil, "items"},
		"items that are no list":     {`{` + open + `, items: l}`, calling(`{"l":{}}`), nil, "items"},
		"items of what is not JSON":  {`{` + open + `, items: l}`, calling(`l=1`), nil, "JSON"},
		"a key twice beside items":   {`{` + open + `, items: l}`, calling(`{"l":[1],"l":[2]}`), nil, "twice"},
		"a key twice in an item":     {`{` + open + `, items: l}`, calling(`{"l":[{"a":1,"a":2}]}`), nil, "twice"},
		"one item's id is missing":   {`{` + open + `, items: l, id: body.id}`, calling(`{"l":[{"id":"a"},{}]}`), nil, "id: "},
		"more items than can be":     {`{` + open + `, items: l}`, calling(`{"l":[` + strings.Repeat("1,", 10000) + `1]}`), nil, "10000"},
		"a form":                     {`{` + open + `, id: body.a, key: body.b}`, calling("a=1+2%21&b=%C3%A9", "Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), []seen{{print("1 2!"), "webhook", "é", "", "", "a=1+2%21&b=%C3%A9"}}, ""},
		"a field twice":              {`{` + open + `, id: body.a}`, calling("a=1&a=2", "Content-Type", "application/x-www-form-urlencoded"), nil, "twice"},
		"not a form":                 {`{` + open + `, id: body.a}`, calling("a=%zz", "Content-Type", "application/x-www-form-urlencoded"), nil, "form"},
		"a form that nobody reads":   {`{` + open + `}`, calling("a=%zz", "Content-Type", "application/x-www-form-urlencoded"), []seen{{print("a=%zz"), "webhook", "", "", "", "a=%zz"}}, ""},
		"XML":                        {`{` + open + `}`, calling("<a/>", "Content-Type", "text/xml"), []seen{{print("<a/>"), "webhook", "", "", "", "<a/>"}}, ""},
		"defaults that find nothing": {`{verify: {scheme: razorpay, secret: abcdefgh}}`, calling(`{"unlike":1}`), []seen{{print(`{"unlike":1}`), "webhook", "", "", "", `{"unlike":1}`}}, ""},
		"defaults and bytes":         {`{verify: {scheme: razorpay, secret: abcdefgh}}`, calling(`unlike`), []seen{{print(`unlike`), "webhook", "", "", "", `unlike`}}, ""},
		"defaults and a key twice":   {`{verify: {scheme: razorpay, secret: abcdefgh}}`, calling(`{"event":"a","event":"b"}`), nil, "twice"},
		"own words over defaults":    {`{verify: {scheme: razorpay, secret: abcdefgh}, type: body.kind}`, calling(`{"event":"a","kind":"b"}`, "X-Razorpay-Event-Id", "e1"), []seen{{"e1", "b", "", "", "", `{"event":"a","kind":"b"}`}}, ""},
		"a ping":                     {`{verify: {scheme: woocommerce, secret: abcdefgh}}`, calling(`webhook_id=17`), []seen{}, ""},
		"GoCardless' list":           {`{verify: {scheme: gocardless, secret: abcdefgh}}`, calling(`{"events":[{"id":"EV1","resource_type":"payments","action":"paid"}],"meta":{}}`), []seen{{"EV1", "payments.paid", "", "", "", `{"id":"EV1","resource_type":"payments","action":"paid"}`}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := mustReceive(t, tc.webhook)
			before := bytes.Clone(tc.call.Body)
			events, err := r.Events(tc.call)
			if !bytes.Equal(before, tc.call.Body) {
				t.Error("the call's body was changed")
			}
			if tc.want == nil {
				if err == nil || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("%d events, %v", len(events), err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := see(events); !slices.Equal(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
			for _, e := range events {
				if e.Source != "shop" || e.ContentType != tc.call.Header.Get("Content-Type") {
					t.Errorf("%+v", e)
				}
				if err := e.Validate(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestLimitsAndAnswersAreTheSchemes(t *testing.T) {
	t.Parallel()
	r := mustReceive(t, `{verify: {scheme: adyen-standard, secret: 44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056}, max_body: 2MiB, rate_limit: 120/m, compressed: true}`)
	if got, want := r.(connectors.Limited).Limits(), (connectors.Limits{Methods: []string{"POST"}, MaxBody: 2 << 20, Rate: 2, Compressed: true}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	replier := r.(connectors.Replier)
	if a, ok := replier.Reply(nil, connectors.Accepted); !ok || string(a.Body) != "[accepted]" || a.Status != 200 {
		t.Errorf("%+v", a)
	}
	if a, ok := replier.Reply(nil, connectors.Unavailable); ok {
		t.Errorf("what is not durable has an answer of its own: %+v", a)
	}
	if a, ok := mustReceive(t, `{verify: {scheme: gocardless, secret: abcdefgh}}`).(connectors.Replier).Reply(nil, connectors.Refused); !ok || a.Status != 498 {
		t.Errorf("%+v", a)
	}
}

// TestAttributesKeepNothingOfTheParsedBody: the log counts an event's body for what it holds in memory, and that is all of the call that it holds.
func TestAttributesKeepNothingOfTheParsedBody(t *testing.T) { //nolint:paralleltest // it measures the heap
	const calls, size = 32, 1 << 20
	r := mustReceive(t, `{verify: {scheme: token, secret: abcdefgh, header: X-Token}, max_body: 2MiB, id: body.id, key: body.customer}`)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what is pooled goes with the second
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	kept := make([]event.Event, 0, calls)
	before := heap()
	for i := range calls {
		e := one(t, r, calling(fmt.Sprintf(`{"id":"e%d","customer":"c%d","pad":"%s"}`, i, i, strings.Repeat("x", size))))
		e.Body = nil
		kept = append(kept, e)
	}
	if grown := int64(heap()) - int64(before); grown > calls*size/4 {
		t.Errorf("%d events hold %d MiB beside their bodies", len(kept), grown>>20)
	}
	runtime.KeepAlive(kept)
}

func TestHandshakesAreTheSchemes(t *testing.T) {
	t.Parallel()
	get := calling("")
	get.Method, get.URL = nethttp.MethodGet, &url.URL{Path: "/in/shop", RawQuery: "hub.challenge=abc"}
	r := mustReceive(t, `{verify: {scheme: token, secret: abcdefgh, header: X-Token, challenge: hub.challenge}}`)
	if a, ok := r.(connectors.Greeter).Greet(get); !ok || string(a.Body) != "abc" {
		t.Errorf("%+v", a)
	}
	if _, ok := mustReceive(t, `{verify: {scheme: token, secret: abcdefgh, header: X-Token}}`).(connectors.Greeter).Greet(get); ok {
		t.Error("a challenge that nobody set was answered")
	}
	for webhook, want := range map[string]string{
		`{verify: {scheme: token, secret: abcdefgh, header: X-Token, challenge: c}}`: "GET", `{verify: {scheme: github, secret: s}}`: "",
		`{verify: {scheme: mandrill, secret: s, public_url: "https://h.example/in/a"}}`: "GET HEAD", `{verify: {scheme: slack, secret: s}}`: "",
		`{verify: {scheme: sap-event-mesh, username: u, password: abcdefgh}}`: "OPTIONS", `{verify: {scheme: woocommerce, secret: s}}`: "",
	} {
		if got := strings.Join(mustReceive(t, webhook).(connectors.Greeter).Greetings(), " "); got != want {
			t.Errorf("%s is tested by %q, want %q", webhook, got, want)
		}
	}
	ping := calling("webhook_id=17")
	woo := mustReceive(t, `{verify: {scheme: woocommerce, secret: abcdefgh}}`)
	if err := woo.Verify(t.Context(), ping); err != nil {
		t.Error(err)
	}
	if a, ok := woo.(connectors.Greeter).Greet(ping); !ok || a.Status != 200 {
		t.Errorf("%+v", a)
	}
	for _, body := range []string{"webhook_id=17&x=1", "webhook_id=", `{"id":1}`, "webhook_id=1\n"} {
		if err := woo.Verify(t.Context(), calling(body)); err == nil {
			t.Errorf("%q passed without a signature", body)
		}
	}
}

func TestReceiveSettings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		webhook string
		want    []string
	}{
		"no verify":           {`{id: body.id}`, []string{"webhook", "verify"}},
		"no scheme":           {`{verify: {}}`, []string{"verify", "scheme"}},
		"unknown scheme":      {`{verify: {scheme: shopfy, secret: planted-secret}}`, []string{"shopfy", "shopify"}},
		"no secret":           {`{verify: {scheme: shopify}}`, []string{"verify", "secret"}},
		"bad expression":      {`{verify: {scheme: none}, id: "body.id +"}`, []string{"webhook.id", "tidewire.yaml:1:"}},
		"unknown name":        {`{verify: {scheme: none}, key: bod.id}`, []string{"webhook.key", "bod"}},
		"an event's name":     {`{verify: {scheme: none}, key: subject}`, []string{"webhook.key", "subject"}},
		"a boolean":           {`{verify: {scheme: none}, id: '1 > 2'}`, []string{"webhook.id"}},
		"bad path":            {`{verify: {scheme: none}, items: data..list}`, []string{"webhook.items"}},
		"bad size":            {`{verify: {scheme: none}, max_body: 1GiB}`, []string{"webhook.max_body"}},
		"two bad expressions": {`{verify: {scheme: none}, id: "1 +", key: "2 +"}`, []string{"webhook.id", "webhook.key"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := openReceiver(tc.webhook)
			var problems config.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("%v is not problems", err)
			}
			for _, part := range tc.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in\n%v", part, err)
				}
			}
			if strings.Contains(err.Error(), "planted-secret") {
				t.Errorf("a secret is in\n%v", err)
			}
		})
	}
}

func TestLettingAnybodyInIsWarnedOf(t *testing.T) {
	t.Parallel()
	const file = `
connections:
  shop: {connector: http, webhook: {verify: {scheme: none}}}
  sink: {connector: file, path: /tmp/x}
routes:
  all: {from: shop, to: sink}
`
	c, err := config.Parse("tidewire.yaml", []byte(file), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	shop, _ := c.Connection("shop")
	if _, err := http.Connector.Open(shop.Node, connectors.Env{Name: "shop", Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	if w := c.Warnings(); len(w) != 1 || w[0].Line != 3 || !strings.Contains(w[0].Message, "anybody") {
		t.Errorf("%v", w)
	}
}

// FuzzCallsBecomeEvents asks that no bytes make a receiver fail in another way than by an error, that the same call gives the
// same events, and that each event's bytes are bytes of the call.
func FuzzCallsBecomeEvents(f *testing.F) {
	for _, s := range []string{
		`{"l":[{"id":"a"},{"id":"b"}]}`, `[1,2]`, `{"l":{"l":[]}}`, `{"l":["\"",[[]],{"a":[1,{"b":2}]}]}`, "a=1&b=2", "<a/>", "", "{", `{"l":[`, "\xff",
		`{"\u006c":[ 1 , 2 ]}`, `{"id":null,"l":[null]}`,
	} {
		f.Add([]byte(s), "application/json")
		f.Add([]byte(s), "application/x-www-form-urlencoded")
	}
	var receivers []connectors.Receiver
	for _, w := range []string{
		"{" + open + "}", "{" + open + ", items: l, id: body.id}", "{" + open + ", items: l}", "{" + open + ", id: string(body.id), key: string(body.l), time: body.t}",
		"{verify: {scheme: mandrill, secret: abcdefgh, public_url: 'https://x/y'}}", "{verify: {scheme: sendgrid, public_key: MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==}}",
	} {
		receivers = append(receivers, mustReceive(f, w))
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		for i, r := range receivers {
			call := calling(string(body), "Content-Type", contentType)
			events, err := r.Events(call)
			again, errAgain := r.Events(call)
			if (err == nil) != (errAgain == nil) || !slices.Equal(see(events), see(again)) {
				t.Fatalf("receiver %d read the same call in two ways", i)
			}
			for _, e := range events {
				if i != 4 && !bytes.Contains(body, e.Body) {
					t.Fatalf("receiver %d made up %q", i, e.Body)
				}
				if (i == 1 || i == 2) && json.Valid(body) && !json.Valid(e.Body) {
					t.Fatalf("receiver %d cut %q out of JSON", i, e.Body)
				}
			}
		}
	})
}

func BenchmarkEvents(b *testing.B) {
	call := calling(`{"id":"o1","customer":{"id":"c1"},"lines":[` + strings.Repeat(`{"sku":"A-1","quantity":3,"price":"19.99"},`, 20) + `{}]}`)
	r := mustReceive(b, `{`+open+`, id: string(body.id), type: header("Content-Type"), key: body.customer.id}`)
	b.SetBytes(int64(len(call.Body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Events(call); err != nil {
			b.Fatal(err)
		}
	}
}
