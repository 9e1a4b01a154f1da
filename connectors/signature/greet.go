package signature

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
)

// maxChallenge is the longest challenge that is echoed.
const maxChallenge = 512

// Greetings are the methods on which Greet may find a test before the call is verified, beside those of deliveries.
func (v *Verifier) Greetings() []string {
	switch v.scheme.Handshake {
	case EchoChallenge, BraintreeChallenge:
		return []string{http.MethodGet}
	case Probe:
		return []string{http.MethodGet, http.MethodHead}
	case CloudEventsOptions:
		return []string{http.MethodOptions}
	case NoHandshake, SlackChallenge, WooPing: // these two come as deliveries do
	}
	return nil
}

// Greet answers a provider that tests the address, as the scheme's Handshake says; ok false means that the call is none. It is asked
// before Verify with verified false, and again with verified true once Verify has passed. A greeting stores nothing.
func (v *Verifier) Greet(c Request, verified bool) (a Answer, ok bool) {
	switch v.scheme.Handshake {
	case EchoChallenge:
		if c.Method != http.MethodGet {
			return a, false
		}
		challenge, err := queryParameter(&c, v.set.Challenge)
		return echo(challenge, err == nil)
	case Probe:
		return Answer{Status: 200}, c.Method == http.MethodGet || c.Method == http.MethodHead
	case CloudEventsOptions:
		return greetCloudEvents(&c)
	case SlackChallenge:
		if !verified || !bytes.Contains(c.Body, []byte("url_verification")) {
			return a, false
		}
		var body struct{ Type, Challenge string }
		if json.Unmarshal(c.Body, &body) != nil || body.Type != "url_verification" {
			return a, false
		}
		return echo(body.Challenge, true)
	case BraintreeChallenge:
		if c.Method != http.MethodGet {
			return a, false
		}
		answer, err := v.braintreeAnswer(&c)
		return echo(answer, err == nil)
	case WooPing:
		id, found := strings.CutPrefix(string(c.Body[:min(len(c.Body), 64)]), "webhook_id=")
		ping := found && id != "" && len(c.Body) < 64 && strings.Trim(id, "0123456789") == ""
		return Answer{Status: 200}, c.Method == http.MethodPost && ping
	case NoHandshake:
	}
	return a, false
}

// echo answers with a stranger's text: short, printable, and not to be taken for a page.
func echo(text string, ok bool) (Answer, bool) {
	if !ok || text == "" || len(text) > maxChallenge {
		return Answer{}, false
	}
	for i := range len(text) {
		if text[i] < 0x21 || text[i] > 0x7e {
			return Answer{}, false
		}
	}
	return Answer{Status: 200, ContentType: "text/plain; charset=utf-8", Body: text,
		Header: map[string]string{"X-Content-Type-Options": "nosniff"}}, true
}

// greetCloudEvents gives the permission that the CloudEvents webhook specification asks for.
func greetCloudEvents(c *Request) (Answer, bool) {
	origin := c.Header.Get("WebHook-Request-Origin")
	if c.Method != http.MethodOptions || origin == "" {
		return Answer{}, false
	}
	header := map[string]string{"WebHook-Allowed-Origin": origin, "Allow": "POST, OPTIONS"}
	if rate := c.Header.Get("WebHook-Request-Rate"); rate != "" {
		header["WebHook-Allowed-Rate"] = rate
	}
	return Answer{Status: 200, Header: header}, true
}
