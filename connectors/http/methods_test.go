package http_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
)

// by is a call by a method, with a query and no type of content.
func by(method, query, body string) *connectors.Call {
	c := calling(body)
	c.Method, c.URL = method, &url.URL{Path: "/in/shop", RawQuery: query}
	c.Header.Del("Content-Type")
	return c
}

func one(t *testing.T, r connectors.Receiver, c *connectors.Call) event.Event {
	t.Helper()
	events, err := r.Events(c)
	if err != nil || len(events) != 1 {
		t.Fatalf("%s ?%s: %d events, %v", c.Method, c.URL.RawQuery, len(events), err)
	}
	if err := events[0].Validate(); err != nil {
		t.Error(err)
	}
	return events[0]
}

const getToo = `{verify: {scheme: token, query: code, secret: 0123456789abcdef}, methods: [GET, POST, DELETE]`

// TestWhatAGetSays: its query is its body, as an object that routes can map, without the credential.
func TestWhatAGetSays(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ query, body string }{
		"parameters in their order": {"status=delivered&id=7&code=0123456789abcdef", `{"status":"delivered","id":"7"}`},
		"escapes":                   {"a%5Bb%5D=x+y%26&c=%22%0A", `{"a[b]":"x y&","c":"\"\n"}`},
		"several of one name":       {"to=1&from=2&to=3", `{"to":["1","3"],"from":"2"}`},
		"no value":                  {"&ping&&empty=", `{"ping":"","empty":""}`},
	} {
		e := one(t, mustReceive(t, getToo+`, id: query("id"), type: '"sms." + method', key: 'has(body.status) ? body.status : ""'}`), by("GET", tc.query, ""))
		if string(e.Body) != tc.body || e.ContentType != "application/json" || e.Extensions["method"] != "GET" || e.Type != "sms.GET" {
			t.Errorf("%s: %s %s %q %v", name, e.ContentType, e.Body, e.Type, e.Extensions)
		}
		if strings.Contains(tc.query, "id=7") && (e.ID != "7" || e.Key != "delivered") {
			t.Errorf("%s: id %q, key %q", name, e.ID, e.Key)
		}
	}
	for name, query := range map[string]string{
		"escaped wrongly": "a=%zz", "not UTF-8": "a=%ff", "names that differ in case only": "a=1&A=2",
	} {
		if events, err := mustReceive(t, getToo+"}").Events(by("GET", query, "")); err == nil {
			t.Errorf("%s: %s", name, events[0].Body)
		}
	}
	// Bytes that came as a body are the body.
	if e := one(t, mustReceive(t, getToo+"}"), by("GET", "a=1", "raw")); string(e.Body) != "raw" || e.ContentType != "" {
		t.Errorf("%q %q", e.Body, e.ContentType)
	}
	// A POST is its body, also an empty one.
	if e := one(t, mustReceive(t, getToo+"}"), by("POST", "a=1", "")); len(e.Body) != 0 || e.Extensions["method"] != "" {
		t.Errorf("%q %v", e.Body, e.Extensions)
	}
	// What nobody signed is not taken for a fact.
	if e := one(t, mustReceive(t, `{verify: {scheme: hmac, header: X-S, secret: 0123456789abcdef}, methods: DELETE}`), by("DELETE", "id=1", "")); len(e.Body) != 0 {
		t.Errorf("%q", e.Body)
	}
}

// TestIdentityOfEveryMethod: the same call is the same event, and no two facts are one because both have no body.
func TestIdentityOfEveryMethod(t *testing.T) {
	t.Parallel()
	r := mustReceive(t, getToo+"}")
	id := func(c *connectors.Call) string {
		if again := one(t, r, c).ID; again != one(t, r, c).ID {
			t.Errorf("%s ?%s: two identities for one call", c.Method, c.URL.RawQuery)
		}
		return one(t, r, c).ID
	}
	later := func(c *connectors.Call) *connectors.Call {
		c.Received = c.Received.Add(time.Second)
		return c
	}
	if id(by("GET", "a=1", "")) != id(later(by("GET", "a=1", ""))) {
		t.Error("a GET that is sent again is another event")
	}
	if id(by("GET", "a=1&code=x", "")) != id(by("GET", "code=y&a=1", "")) {
		t.Error("the credential is part of the identity")
	}
	if id(by("GET", "at=10%3A30&b", "")) != id(by("GET", "at=10:30&b=", "")) {
		t.Error("a GET that is escaped otherwise is another event")
	}
	if id(by("DELETE", "at=10%3A30", "x")) != id(by("DELETE", "at=10:30", "x")) {
		t.Error("a DELETE that is escaped otherwise is another event")
	}
	if id(by("POST", "a=1", "x")) != event.Fingerprint([]byte("x")) {
		t.Error("a POST is no longer the fingerprint of its body")
	}
	different := []*connectors.Call{
		by("GET", "a=1", ""), by("GET", "a=2", ""), by("GET", "", ""), by("DELETE", "", ""), by("DELETE", "a=1", ""), by("DELETE", "a=1", "x"),
		by("POST", "a=1", "x"), by("GET", "a=1", "x"), by("GET", "a=2", "x"), by("POST", "a=1", ""), by("POST", "", ""),
	}
	seen := map[string]int{}
	for i, c := range different {
		if j, known := seen[id(c)]; known {
			t.Errorf("calls %d and %d are one event", i, j)
		}
		seen[id(c)] = i
	}
}

// TestWhatNobodySignedIsNotInTheQuery: what a caller can add to a signed URL, or spell otherwise, changes neither what its event says nor which it is.
func TestWhatNobodySignedIsNotInTheQuery(t *testing.T) {
	t.Parallel()
	r := mustReceive(t, getToo+`, id: query("id"), type: query("none") + "x"}`)
	for query, want := range map[string]string{
		"id=7#x": "7", "id=7#&id=8": "7", "id=a;b": "a;b", "id=a%3Bb": "a;b", "id=7&%zz=1": "7", "&&id=+7": " 7", "id=7&id=8": "7",
	} {
		if e, err := r.Events(by("POST", query, "{}")); err != nil || e[0].ID != event.StableID(want) {
			t.Errorf("?%s: %v, %v, want %q", query, e, err, want)
		}
	}
	if a, b := one(t, r, by("GET", "id=7&a=1", "")), one(t, r, by("GET", "id=7&a=1#2", "")); string(a.Body) != string(b.Body) || a.ID != b.ID {
		t.Errorf("%s %s, with more: %s %s", a.ID, a.Body, b.ID, b.Body)
	}
}

// TestWhatHasNeitherBodyNorQuery: its signed timestamp tells it from the next.
func TestWhatHasNeitherBodyNorQuery(t *testing.T) {
	t.Parallel()
	r := mustReceive(t, `{verify: {scheme: hmac, header: X-S, secret: a-secret-of-the-shop, signed: "{ts}.{body}", ts: {header: X-T}}, methods: [POST, PUT]}`)
	at := func(method, ts string) string {
		c := by(method, "unsigned=1", "")
		c.Header.Set("X-S", "00")
		c.Header.Set("X-T", ts)
		return one(t, r, c).ID
	}
	for _, method := range []string{"POST", "PUT"} {
		first, again, later := at(method, "1767225600"), at(method, "1767225600"), at(method, "1767225601")
		if first != again || first == later {
			t.Errorf("%s: %s, again %s, later %s", method, first, again, later)
		}
	}
	if at("POST", "1767225600") == at("PUT", "1767225600") {
		t.Error("a POST and a PUT are one event")
	}
	plain := mustReceive(t, `{verify: {scheme: hmac, header: X-S, secret: a-secret-of-the-shop}}`)
	if got := one(t, plain, by("POST", "unsigned=1", "")).ID; got != event.Fingerprint(nil) {
		t.Errorf("an empty POST that nothing tells from the next is %s", got)
	}
}

// TestFrappesDeletion: a document that is deleted has the time of its last change, and must not be taken for a repeat of it.
func TestFrappesDeletion(t *testing.T) {
	t.Parallel()
	r := mustReceive(t, `{verify: {scheme: frappe, secret: s}}`)
	const doc = `{"doctype":"Customer","name":"C-1","modified":"2026-01-01 00:00:00"}`
	var ids []string
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		e := one(t, r, by(method, "", doc))
		if string(e.Body) != doc || e.Key != "C-1" {
			t.Errorf("%s: %s key %q", method, e.Body, e.Key)
		}
		ids = append(ids, e.ID)
	}
	if ids[0] == ids[1] || ids[1] == ids[2] || ids[0] == ids[2] {
		t.Errorf("%q", ids)
	}
}

func TestMethodsAreSettled(t *testing.T) {
	t.Parallel()
	const url = `public_url: "https://h.example/in/a"`
	for name, tc := range map[string]struct {
		webhook string
		want    []string
		wrong   string
	}{
		"the default":            {`{verify: {scheme: github, secret: s}}`, []string{"POST"}, ""},
		"the scheme's":           {`{verify: {scheme: frappe, secret: s}}`, []string{"POST", "PUT", "DELETE"}, ""},
		"the scheme's, with GET": {`{verify: {scheme: messagebird, secret: 0123456789abcdef, ` + url + `}}`, []string{"GET", "POST"}, ""},
		"one's own":              {`{verify: {scheme: frappe, secret: s}, methods: PUT}`, []string{"PUT"}, ""},
		"several":                {`{verify: {scheme: github, secret: s}, methods: [PATCH, POST]}`, []string{"PATCH", "POST"}, ""},
		"a GET nobody proves":    {`{verify: {scheme: github, secret: s}, methods: [GET, POST]}`, nil, "webhook.methods: a GET says what it has to say in its query"},
		"twice":                  {`{verify: {scheme: github, secret: s}, methods: [PUT, PUT]}`, nil, "PUT is there twice"},
		"unknown":                {`{verify: {scheme: github, secret: s}, methods: [PUTS]}`, nil, `did you mean`},
	} {
		r, err := openReceiver(tc.webhook)
		if tc.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("%s: %v, want %q", name, err, tc.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := r.(connectors.Limited).Limits().Methods; !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
