package app_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"
)

// The secrets of the doors below, each with a key of its own.
const (
	shopSecret  = "shop-signing-secret"
	plainSecret = "plain-signing-secret"
	slackSecret = "slack-signing-secret"
	cardSecret  = "gocardless-signing-secret"
)

// marker is in every body that must not be kept.
const marker = "not-to-be-kept"

// doors is a hub with ways in of several kinds, all of which lead into one file.
func doors(t *testing.T, dir string) *running {
	t.Helper()
	return serve(t, fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", shutdown_timeout: 5s}
data_dir: %[1]q
log: {level: debug}
connections:
  stripe: {connector: stripe, webhook: {secret: %[2]s, max_body: 4KiB}}
  shop: {connector: http, webhook: {verify: {scheme: shopify, secret: %[3]s}}}
  plain: {connector: http, webhook: {verify: {scheme: hmac, secret: %[4]s, header: X-Sig}}}
  packed: {connector: http, webhook: {compressed: true, max_body: 64KiB, verify: {scheme: hmac, secret: %[4]s, header: X-Sig}}}
  slow: {connector: http, webhook: {rate_limit: 1/h, verify: {scheme: hmac, secret: %[4]s, header: X-Sig}}}
  slack: {connector: http, webhook: {verify: {scheme: slack, secret: %[5]s}}}
  cards: {connector: http, webhook: {verify: {scheme: gocardless, secret: %[6]s}}}
  book: {connector: file, path: %[7]q}
routes:
  all: {from: [stripe, shop, plain, packed, slow, slack, cards], to: book}
`, dir, stripeSecret, shopSecret, plainSecret, slackSecret, cardSecret, filepath.Join(dir, "book.jsonl")))
}

func mac(secret, text string) []byte {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(text))
	return m.Sum(nil)
}

// signedBy makes the headers that each door asks of a call with this body.
func signedBy(door, body string, at time.Time) http.Header {
	h := http.Header{}
	switch door {
	case "stripe":
		h.Set("Stripe-Signature", webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(body), Secret: stripeSecret, Timestamp: at}).Header)
	case "shop":
		h.Set("X-Shopify-Hmac-Sha256", base64.StdEncoding.EncodeToString(mac(shopSecret, body)))
	case "plain", "packed", "slow":
		h.Set("X-Sig", hex.EncodeToString(mac(plainSecret, body)))
	case "slack":
		ts := strconv.FormatInt(at.Unix(), 10)
		h.Set("X-Slack-Request-Timestamp", ts)
		h.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac(slackSecret, "v0:"+ts+":"+body)))
	case "cards":
		h.Set("Webhook-Signature", hex.EncodeToString(mac(cardSecret, body)))
	}
	return h
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// counted is what became of a door's calls; a result that is not counted is 0.
func (h *running) counted(t *testing.T, door, result string) int {
	t.Helper()
	n, _ := strconv.Atoi(h.metric(t, fmt.Sprintf("tidewire_events_received_total{connection=%q,result=%q}", door, result)))
	return n
}

// everythingKept is each byte in a folder.
func everythingKept(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestBadCallsAreRefusedCountedAndNotKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := doors(t, dir)
	now := time.Now()
	event := stripeEvent("evt_bad", marker)
	twice := strings.Replace(event, `"livemode": false`, `"livemode": false, "livemode": true`, 1)
	const jsonTwice = `{"id":1,"note":"` + marker + `","amount":1,"amount":2}`
	for name, tc := range map[string]struct {
		door, method, path, body string
		change                   func(http.Header) // after signing
		at                       time.Time         // of the signature
		status                   int
		connection, result       string // as counted; the door where connection is empty
		own                      bool   // the provider's own words, no problem+json
	}{
		"forged": {door: "stripe", body: event, change: func(h http.Header) {
			h.Set("Stripe-Signature", "t="+strconv.FormatInt(now.Unix(), 10)+",v1="+strings.Repeat("0", 64))
		}, status: 401, result: "refused"},
		"unsigned":             {door: "shop", body: `{"x":"` + marker + `"}`, change: func(h http.Header) { h.Del("X-Shopify-Hmac-Sha256") }, status: 401, result: "refused"},
		"signed twice":         {door: "plain", body: marker, change: func(h http.Header) { h.Add("X-Sig", h.Get("X-Sig")) }, status: 401, result: "refused"},
		"forged, 498":          {door: "cards", body: `{"events":[]}` + marker, change: func(h http.Header) { h.Set("Webhook-Signature", "00") }, status: 498, result: "refused", own: true},
		"stale":                {door: "stripe", body: event, at: now.Add(-time.Hour), status: 401, result: "refused"},
		"of the future":        {door: "stripe", body: event, at: now.Add(time.Hour), status: 401, result: "refused"},
		"stale, Slack":         {door: "slack", body: `{"event_id":"` + marker + `"}`, at: now.Add(-301 * time.Second), status: 401, result: "refused"},
		"another's signature":  {door: "plain", body: marker, change: func(h http.Header) { h.Set("X-Sig", hex.EncodeToString(mac(shopSecret, marker))) }, status: 401, result: "refused"},
		"oversized":            {door: "stripe", body: event + strings.Repeat(" ", 4096), status: 413, result: "too_large"},
		"compressed, unasked":  {door: "plain", body: zipped(t, marker), change: func(h http.Header) { h.Set("Content-Encoding", "gzip") }, status: 415, result: "unsupported"},
		"a bomb":               {door: "packed", body: zipped(t, marker+strings.Repeat("0", 1<<20)), change: func(h http.Header) { h.Set("Content-Encoding", "gzip") }, status: 413, result: "too_large"},
		"cut compression":      {door: "packed", body: zipped(t, marker)[:20], change: func(h http.Header) { h.Set("Content-Encoding", "gzip") }, status: 400, result: "invalid"},
		"not JSON":             {door: "stripe", body: marker, status: 422, result: "invalid"},
		"cut JSON":             {door: "stripe", body: event[:len(event)-9], status: 422, result: "invalid"},
		"another object":       {door: "stripe", body: `{"object":"` + marker + `"}`, status: 422, result: "invalid"},
		"a key twice":          {door: "stripe", body: twice, status: 422, result: "invalid"},
		"a key twice, shop":    {door: "shop", body: jsonTwice, status: 422, result: "invalid"},
		"a key twice, plain":   {door: "plain", body: jsonTwice, status: 422, result: "invalid"},
		"a key twice, in list": {door: "cards", body: `{"events":[` + jsonTwice + `]}`, status: 422, result: "invalid"},
		"wrong method":         {door: "stripe", method: http.MethodPut, body: event, status: 405, result: "unsupported"},
		"got":                  {door: "shop", method: http.MethodGet, status: 405, result: "unsupported"},
		"unknown connection":   {door: "stripe", path: "/in/strip", body: event, status: 404, connection: "-", result: "unsupported"},
		"a target's name":      {door: "stripe", path: "/in/book", body: event, status: 404, connection: "-", result: "unsupported"},
		"unknown path":         {door: "stripe", path: "/in/stripe/", body: event, status: 404, connection: "-", result: "unsupported"},
		"the admin's path":     {door: "stripe", method: http.MethodGet, path: "/metrics", status: 404, connection: "-", result: "unsupported"},
		"health, posted":       {door: "stripe", path: "/healthz", body: event, status: 405, connection: "-", result: "unsupported"},
	} {
		connection := tc.door
		if tc.connection != "" {
			connection = ""
		}
		before := h.counted(t, connection, tc.result)
		if tc.at.IsZero() {
			tc.at = now
		}
		if tc.method == "" {
			tc.method = http.MethodPost
		}
		if tc.path == "" {
			tc.path = "/in/" + tc.door
		}
		req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+h.listen+tc.path, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = signedBy(tc.door, tc.body, tc.at)
		req.Header.Set("Content-Type", "application/json")
		if tc.change != nil {
			tc.change(req.Header)
		}
		res, err := h.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != tc.status {
			t.Errorf("%s: answered %d %s, want %d", name, res.StatusCode, body, tc.status)
		}
		if tc.own {
			if len(body) > 0 {
				t.Errorf("%s: answered %q", name, body)
			}
		} else {
			isProblem(t, name, res, body)
		}
		if strings.Contains(string(body), marker) {
			t.Errorf("%s: the answer holds what was sent: %s", name, body)
		}
		if after := h.counted(t, connection, tc.result); after != before+1 {
			t.Errorf("%s: counted %d times as %s", name, after-before, tc.result)
		}
	}

	// The last one in shows that the doors are open, and that all before it have been seen.
	if code := h.post(t, stripeEvent("evt_good", "cus_good"), stripeSecret); code != 200 {
		t.Fatalf("a good call: %d", code)
	}
	until(t, "the good event is in the file", func() bool { return strings.Contains(everythingKept(t, dir), `"cus_good"`) })
	for _, door := range []string{"shop", "plain", "packed", "slack", "cards"} {
		if n := h.counted(t, door, "accepted"); n != 0 {
			t.Errorf("%s has accepted %d", door, n)
		}
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(everythingKept(t, dir), marker) {
		t.Error("something of a call that was refused has been kept")
	}
	if strings.Contains(h.log.String(), marker) {
		t.Error("something of a call that was refused is in the log")
	}
}

// isProblem checks an answer by RFC 9457 that says no more than its status and a title.
func isProblem(t *testing.T, name string, res *http.Response, body []byte) {
	t.Helper()
	var p struct {
		Title  string
		Status int
		Detail string
	}
	if err := json.Unmarshal(body, &p); err != nil || p.Status != res.StatusCode || p.Title == "" || res.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %s %q is no problem+json", name, res.Header.Get("Content-Type"), body)
	}
	if res.StatusCode == http.StatusUnauthorized && (p.Title != "not verified" || p.Detail != "") {
		t.Errorf("%s: a caller that is not who it should be was told %s", name, body)
	}
}

// raw sends bytes as they are and returns the status of the first answer and how many answers came.
func (h *running) raw(t *testing.T, text string) (status, answers int) {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", h.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return status, answers
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return status, answers
		}
		res.Body.Close()
		if answers++; answers == 1 {
			status = res.StatusCode
		}
	}
}

func TestCallsThatAreNotWholeAreNotKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := doors(t, dir)
	sig := func(body string) string { return hex.EncodeToString(mac(plainSecret, body)) }
	head := "POST /in/plain HTTP/1.1\r\nHost: hub\r\nX-Sig: "
	for name, tc := range map[string]struct {
		text    string
		status  int
		answers int
	}{
		"cut short":              {head + sig(marker) + "\r\nContent-Length: 99\r\n\r\n" + marker, 400, 1},
		"cut short, chunked":     {head + sig(marker) + "\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n" + marker + "\r\n", 400, 1},
		"two lengths":            {head + sig(marker) + "\r\nContent-Length: 14\r\nContent-Length: 15\r\n\r\n" + marker, 400, 1},
		"a length and chunks":    {head + sig("") + "\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + head, 400, 1},
		"a bare line feed":       {head + sig(marker) + "\r\nTransfer-Encoding: chunked\r\n\r\ne\n" + marker + "\r\n0\r\n\r\n", 400, 1},
		"a folded header":        {head + "\r\n " + sig(marker) + "\r\nContent-Length: 14\r\n\r\n" + marker, 400, 1},
		"a negative length":      {head + sig(marker) + "\r\nContent-Length: -1\r\n\r\n" + marker, 400, 1},
		"no host":                {"POST /in/plain HTTP/1.1\r\nX-Sig: " + sig(marker) + "\r\nContent-Length: 14\r\n\r\n" + marker, 400, 1},
		"an unknown transfer":    {head + sig(marker) + "\r\nTransfer-Encoding: gzip\r\n\r\n" + marker, 501, 1},
		"a space before a colon": {head + sig(marker) + "\r\nContent-Length : 14\r\n\r\n" + marker, 400, 1},
	} {
		status, answers := h.raw(t, tc.text)
		if status != tc.status || answers != tc.answers {
			t.Errorf("%s: %d answers, the first %d, want %d of %d", name, answers, status, tc.answers, tc.status)
		}
	}
	if n := h.counted(t, "plain", "accepted"); n != 0 {
		t.Errorf("%d calls were accepted", n)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(everythingKept(t, dir), marker) {
		t.Error("something of a call that was not whole has been kept")
	}
}

// knock posts a call at a door, signed as the door asks, and returns the answer's status.
func (h *running) knock(t *testing.T, door, body string, headers ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.listen+"/in/"+door, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = signedBy(door, body, time.Now())
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	code, _ := do(t, h.client, req)
	return code
}

// TestCallsReachTheirTarget carries calls from the wire to a target: bytes as bytes, numbers with all their digits, a fact once.
func TestCallsReachTheirTarget(t *testing.T) { bothModes(t, callsReachTheirTarget) }

func callsReachTheirTarget(t *testing.T, in mode) {
	t.Helper()
	office := receiving(t, nil)
	h := serve(t, in(fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", shutdown_timeout: 5s}
data_dir: %q
connections:
  stripe:
    connector: stripe
    webhook: {secret: %s}
  shop:
    connector: http
    webhook:
      verify: {scheme: shopify, secret: %s}
      id: header("X-Shopify-Event-Id")
      type: header("X-Shopify-Topic")
      key: string(body.customer.id)
  plain:
    connector: http
    webhook: {verify: {scheme: hmac, secret: %s, header: X-Sig}, type: header("X-Kind")}
  backoffice: {connector: http, url: %q, allow_private: true}
routes:
  paid-invoices:
    from: stripe
    when: type == "invoice.paid" && body.data.object.amount_paid > 0
    map:
      invoice: body.data.object.id
      email: body.data.object.customer_email
      total: money(body.data.object.amount_paid, body.data.object.currency)
      lines: 'body.data.object.lines.data.map(l, {"sku": l.price.id, "qty": l.quantity})'
    to: backoffice
  orders:
    from: shop
    map: {id: body.id, price: body.price, twice: body.id * 2, key: key, all: body}
    to: backoffice
  bytes: {from: plain, when: type == "whole", to: backoffice}
  words: {from: plain, when: type == "words", map: {type: type, words: '"one"'}, to: backoffice}
`, t.TempDir(), stripeSecret, shopSecret, plainSecret, office.URL)))
	const order = "{ \"id\": 9007199254740993,\r\n \"price\" :19.990, \"customer\":{\"id\":9007199254740993}, \"note\":\"\\u00e9\\/\" }"
	const noJSON = "\xef\xbb\xbf\x00\xff not JSON\r\n"
	for name, tc := range map[string]struct {
		door, body, want string
		headers          []string
	}{
		"an invoice": {door: "stripe", body: `{"id":"evt_9","object":"event","created":1767225600,"type":"invoice.paid","data":{"object":{"id":"in_9","amount_paid":1999,"currency":"usd",
			"customer_email":"ada@shop.example","lines":{"data":[{"price":{"id":"price_1"},"quantity":2},{"price":{"id":"price_2"},"quantity":1}]}}}}`,
			want: `{"invoice":"in_9","email":"ada@shop.example","total":"19.99","lines":[{"sku":"price_1","qty":2},{"sku":"price_2","qty":1}]}`},
		"an order": {door: "shop", body: order, headers: []string{"X-Shopify-Event-Id", "e1", "X-Shopify-Topic", "orders/paid"},
			want: `{"id":9007199254740993,"price":19.990,"twice":18014398509481986,"key":"9007199254740993","all":` + order + `}`},
		"bytes":                    {door: "plain", body: noJSON, headers: []string{"X-Kind", "whole"}, want: noJSON},
		"bytes that nobody maps":   {door: "plain", body: noJSON + "2", headers: []string{"X-Kind", "words"}, want: `{"type":"words","words":"one"}`},
		"an empty body":            {door: "plain", body: "", headers: []string{"X-Kind", "whole"}, want: ""},
		"a form":                   {door: "plain", body: "a=1&a=2", headers: []string{"X-Kind", "whole", "Content-Type", "application/x-www-form-urlencoded"}, want: "a=1&a=2"},
		"a body of many megabytes": {door: "plain", body: strings.Repeat("x", 1<<20), headers: []string{"X-Kind", "whole"}, want: strings.Repeat("x", 1<<20)},
	} {
		for range 2 { // the provider has not heard the first answer
			if code := h.knock(t, tc.door, tc.body, tc.headers...); code != 200 {
				t.Fatalf("%s: %d\n%s", name, code, h.log.String())
			}
		}
		if got := office.next(t); got.body != tc.want {
			t.Errorf("%s: delivered\n%q, want\n%q", name, got.body, tc.want)
		}
	}
	until(t, "all is settled", func() bool { return h.metric(t, "tidewire_log_duplicates_total") == "7" })
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(office.calls); n != 0 {
		t.Errorf("%d deliveries more than facts", n)
	}
}
