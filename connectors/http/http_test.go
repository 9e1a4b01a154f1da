package http_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	nethttp "net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/connectortest"
	"github.com/tidewire/tidewire/connectors/http"
)

// Secrets that the suite looks for in everything that is said.
const (
	hookSecret  = "whsec_cGxhbnRlZC1ob29rLXNlY3JldC0wMTIzNDU2Nzg5"
	otherSecret = "whsec_YW5vdGhlci1ob29rLXNlY3JldC0wMTIzNDU2Nzg5"
	signSecret  = "whsec_cGxhbnRlZC1zaWduLXNlY3JldC0wMTIzNDU2Nzg5"
	password    = "planted-password-&-\"quoted\""
	userinfo    = "planted-userinfo"
	pathToken   = "planted-token-in-the-path"
	queryToken  = "planted-token-in-the-query"
)

func TestConformance(t *testing.T) {
	connectortest.Run(t, connectortest.Suite{
		Connector: http.Connector,
		Secrets:   []string{hookSecret, otherSecret, signSecret, password, userinfo, pathToken, queryToken},
		Send: &connectortest.Send{
			HTTP: true,
			Settings: "url: '{{url}}/in/" + pathToken + "?key=" + queryToken + "'\n" +
				"allow_private: true\n" +
				"auth: {scheme: basic, username: relay, password: '" + password + "'}\n" +
				"sign: {scheme: standard-webhooks, secret: " + signSecret + "}\n" +
				"headers: {X-Tenant: acme}\n",
			Key: func(r *nethttp.Request, _ []byte) string {
				if a, b := r.Header.Get("Idempotency-Key"), r.Header.Get("Webhook-Id"); a != b {
					return fmt.Sprintf("two keys: %s, %s", a, b)
				}
				return r.Header.Get("Idempotency-Key")
			},
		},
		Receive: []connectortest.Signed{{
			Name:     "standard webhooks",
			Settings: "webhook: {verify: {scheme: standard-webhooks, secret: " + hookSecret + "}}",
			Secret:   hookSecret, Other: otherSecret,
			Make: standardCall, Body: []byte(`{"type":"thing.happened","data":{"n":9007199254740993}}`),
			Protected: []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
			Tolerance: 5 * time.Minute, IDs: []string{"msg_1"},
		}},
		Bad: []connectortest.Bad{
			{Name: "nothing to do", Settings: "{}", Key: ""},
			{Name: "sending without an address", Settings: "method: PUT", Key: "url"},
			{Name: "an address of another kind", Settings: "url: ftp://example.com/", Key: "url"},
			{Name: "an address without a host", Settings: "url: 'https:///x'", Key: "url"},
			{Name: "a password in the address", Settings: "url: 'https://u:" + userinfo + "@example.com/'", Key: "url"},
			{Name: "an address in disguise", Settings: "url: http://0x7f.1/", Key: "url"},
			{Name: "a method that cannot carry a body", Settings: "{url: 'https://example.com/', method: GET}", Key: "method"},
			{Name: "a line break in a header", Settings: "url: https://example.com/\nheaders: {X-A: \"" + password[:7] + "\\r\\nX-B: c\"}", Key: "headers.X-A"},
			{Name: "a name that is no header", Settings: "url: https://example.com/\nheaders: {'X A': b}", Key: "headers"},
			{Name: "a header of the transport's", Settings: "url: https://example.com/\nheaders: {Transfer-Encoding: chunked}", Key: "headers.Transfer-Encoding"},
			{Name: "a header of the hub's", Settings: "url: https://example.com/\nheaders: {webhook-id: x}", Key: "headers.webhook-id"},
			{Name: "authentication of an unknown kind", Settings: "url: https://example.com/\nauth: {scheme: digest}", Key: "auth.scheme"},
			{Name: "a token that is missing", Settings: "url: https://example.com/\nauth: {scheme: bearer}", Key: "auth.token"},
			{Name: "a setting of another kind of authentication", Settings: "url: https://example.com/\nauth: {scheme: bearer, token: '" + password + "', username: x}", Key: "auth.username"},
			{Name: "a token server in the clear", Settings: "url: https://example.com/\nauth: {scheme: oauth2, token_url: 'http://example.com/', client_id: a, client_secret: '" + password + "'}", Key: "auth.token_url"},
			{Name: "a signature of an unknown kind", Settings: "url: https://example.com/\nsign: {scheme: md5, secret: '" + password + "'}", Key: "sign.scheme"},
			{Name: "a signing key that is missing", Settings: "url: https://example.com/\nsign: {scheme: standard-webhooks}", Key: "sign.secret"},
			{Name: "a signing key that is not base64", Settings: "url: https://example.com/\nsign: {scheme: standard-webhooks, secret: '" + password + "'}", Key: "sign.secret"},
			{Name: "a signature without a header", Settings: "url: https://example.com/\nsign: {scheme: hmac, secret: '" + password + "'}", Key: "sign.header"},
			{Name: "a scheme that cannot sign", Settings: "url: https://example.com/\nsign: {scheme: paypal, secret: '" + password + "'}", Key: "sign.scheme"},
			{Name: "a header of the signature's", Settings: "url: https://example.com/\nheaders: {X-S: a}\nsign: {scheme: hmac, header: x-s, secret: '" + password + "'}", Key: "headers.X-S"},
			{Name: "a proxy that is none", Settings: "url: https://example.com/\nproxy: 'socks5://x'", Key: "proxy"},
			{Name: "an authority that is none", Settings: "url: https://example.com/\ntls: {ca: nothing}", Key: "tls.ca"},
			{Name: "half a client certificate", Settings: "url: https://example.com/\ntls: {certificate: x}", Key: "tls.key"},
			{Name: "trusting everybody", Settings: "url: https://example.com/\ntls: {insecure_skip_verify: true}", Key: "tls.insecure_skip_verify"},
			{Name: "a name in place of an address", Settings: "url: https://example.com/\nallow_addresses: [example.com]", Key: "allow_addresses"},
			{Name: "too much of an answer", Settings: "url: https://example.com/\nmax_response: 1GiB", Key: "max_response"},
		},
	})
}

// standardCall signs as https://www.standardwebhooks.com asks.
func standardCall(secret string, body []byte, at time.Time) *connectors.Call {
	ts := strconv.FormatInt(at.Unix(), 10)
	return &connectors.Call{
		Method: "POST", URL: &url.URL{Path: "/in/suite"}, Body: body, Received: at,
		Header: nethttp.Header{
			"Content-Type": {"application/json"}, "Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {ts},
			"Webhook-Signature": {standardSignature(secret, "msg_1", ts, body)},
		},
	}
}

func standardSignature(secret, id, ts string, body []byte) string {
	key, err := base64.StdEncoding.DecodeString(secret[len("whsec_"):])
	if err != nil {
		panic(err)
	}
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s.%s", id, ts, body)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}
