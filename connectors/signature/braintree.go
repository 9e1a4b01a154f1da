package signature

import (
	"encoding/hex"
	"strings"
)

// braintreePlace is where Braintree's signature is read, for messages and decoding.
func braintreePlace() place { return place{field: "bt_signature", encoding: encodingHex} }

// judgeBraintree checks a notification: bt_signature is a list of "public key|signature" joined by "&", of which the pair with our public
// key counts; what is signed is bt_payload, with or without a line end.
func judgeBraintree(v *Verifier, c *Request, t *trace) error {
	form, err := parseForm(c.Body)
	if err != nil {
		return t.refused("form", err)
	}
	pairs, err := field(form, "bt_signature")
	if err != nil {
		return t.refused("signature", err)
	}
	payload, err := field(form, "bt_payload")
	if err != nil {
		return t.refused("payload", err)
	}
	if len(form) != 2 {
		return t.refused("form", refuse(Malformed, "the form has fields beside bt_signature and bt_payload, which are not signed"))
	}
	if notBase64(payload) {
		return t.refused("payload", refuse(Malformed, "bt_payload has characters that are not base64"))
	}
	var values []string
	for entry := range strings.SplitSeq(pairs, "&") {
		public, signature, ok := strings.Cut(entry, "|")
		if ok && same(public, v.set.PublicKey) {
			values = append(values, signature)
		}
	}
	switch {
	case len(values) == 0:
		return t.refused("signature", refuse(Missing, "bt_signature has no pair for the configured public key"))
	case len(values) > maxSignatures:
		return t.refused("signature", refuse(Malformed, "bt_signature lists more than %d signatures", maxSignatures))
	}
	t.passed("signature", "found in field bt_signature: %d for our public key", len(values))
	own := Verifier{scheme: v.scheme, set: v.set, keys: v.keys, place: braintreePlace(), signed: template{{kind: bodyPart}},
		alt: template{{kind: bodyPart}, {kind: literal, text: "\n"}}}
	e := env{c: &Request{Body: []byte(payload), At: c.At, Header: c.Header}, set: &v.set, urls: noURL}
	t.text(&own, &e)
	index, err := own.compare(&e, values)
	if err != nil {
		return t.refused("comparison", err)
	}
	t.matched(v, index)
	return nil
}

// notBase64 reports a character outside base64 and line ends.
func notBase64(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && c != '+' && c != '/' && c != '=' && c != '\n' {
			return true
		}
	}
	return false
}

// judgeBraintreeChallenge accepts the GET by which Braintree tests an address, and nothing else. It carries no event.
func judgeBraintreeChallenge(v *Verifier, c *Request, t *trace) error {
	if c.Method != "GET" || len(c.Body) > 0 {
		return t.refused("challenge", refuse(Malformed, "a challenge is a GET without a body"))
	}
	if _, err := v.braintreeAnswer(c); err != nil {
		return t.refused("challenge", err)
	}
	t.passed("challenge", "it is 20 to 32 hexadecimal digits")
	return nil
}

// braintreeAnswer is what Braintree wants to hear to the challenge in the query: the public key and the challenge's signature.
func (v *Verifier) braintreeAnswer(c *Request) (string, error) {
	challenge, err := queryParameter(c, "bt_challenge")
	if err != nil {
		return "", err
	}
	if len(challenge) < 20 || len(challenge) > 32 || strings.Trim(challenge, "0123456789abcdef") != "" {
		return "", refuse(Malformed, "bt_challenge is not 20 to 32 hexadecimal digits")
	}
	m := v.keys[0].macs.Get().(*mac)
	defer v.keys[0].macs.Put(m)
	sum := m.sum(template{{kind: bodyPart}}, &env{c: &Request{Body: []byte(challenge)}, set: &v.set})
	return v.set.PublicKey + "|" + hex.EncodeToString(sum), nil
}

// judgeEspo checks EspoCRM's header, which is base64 of "webhook id:hexadecimal HMAC of the body".
func judgeEspo(v *Verifier, c *Request, t *trace) error {
	value, err := single(c, "Signature")
	if err != nil {
		return t.refused("signature", err)
	}
	plain, ok := fromBase64(nil, value)
	if !ok {
		return t.refused("signature", refuse(Malformed, "header Signature is not base64"))
	}
	id, signature, ok := strings.Cut(string(plain), ":")
	if !ok {
		return t.refused("signature", refuse(Malformed, "header Signature is not id:signature"))
	}
	t.passed("signature", "found in header Signature")
	if !same(id, v.set.WebhookID) {
		return t.refused("webhook id", refuse(Mismatch, "header Signature is for another webhook id"))
	}
	own := Verifier{scheme: v.scheme, set: v.set, keys: v.keys, place: place{header: "Signature", encoding: encodingHex}, signed: template{{kind: bodyPart}}}
	e := env{c: c, set: &v.set, urls: noURL}
	t.text(&own, &e)
	index, err := own.compare(&e, []string{signature})
	if err != nil {
		return t.refused("comparison", err)
	}
	t.matched(v, index)
	return nil
}
