// Package signature knows how providers sign their webhooks. A scheme is data: where the signature is, how it is
// written, what text it covers, which key and clock it needs. One engine reads that data. Everything here is a pure
// function of the settings and the call: bytes in, error out; nothing is fetched, logged or remembered, and the only
// clock is the one in the Request.
//
// The rules that hold for every scheme: the raw bytes are judged before anything parses them; an empty key never
// verifies; hex and base64 are read strictly; comparisons are constant-time and every secret is tried; a repeated header is refused
// unless the scheme lists several signatures; a timestamp is digits only and may be as far ahead as behind.
package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	_ "crypto/sha512" // for Settings.Hash
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"
)

// Request is one call as it came. Nothing here is changed.
type Request struct {
	Method string
	// URL is the request's target as it came: path and query, such as "/in/shop?x=1".
	URL string
	// Header has canonical names, as net/http makes them.
	Header http.Header
	// Body is every byte that came over the wire.
	Body []byte
	// Remote is the peer's address, after trusted proxies. Needed where Allow is set.
	Remote netip.Addr
	// TLS is nil on a plain connection. Needed for mtls.
	TLS *tls.ConnectionState
	// At is when the call came. Timestamps, certificates and tokens are judged against it.
	At time.Time
}

// Code says in one word why a call was refused: for metrics and logs, never for the caller.
type Code string

// The codes.
const (
	Missing     Code = "missing"     // a header, field or certificate is not there
	Malformed   Code = "malformed"   // it is there and cannot be read
	Mismatch    Code = "mismatch"    // it can be read and does not fit the bytes
	Expired     Code = "expired"     // its time is over
	Future      Code = "future"      // its time has not come
	Algorithm   Code = "algorithm"   // it was made with an algorithm that is not accepted
	Certificate Code = "certificate" // the certificate is not one to trust
	Source      Code = "source"      // it came from an address that is not allowed
	Method      Code = "method"      // deliveries do not come by its method; only said where a call is explained
)

// Refusal is the error of Verify.
type Refusal struct {
	Code Code
	// Text is for the hub's own log. It holds no secret, no expected signature and no value of the call.
	Text string
}

// Error is the code and the text.
func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Text }

func refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Verifier judges the calls of one connection. Built by New; immutable and safe for concurrent use.
type Verifier struct {
	scheme   Scheme
	set      Settings // the scheme's rules with the user's settings
	keys     []key
	signed   template
	alt      template
	place    place
	ts       timestamp
	allow    []netip.Prefix
	variants []string
	judge    judge
}

// judge is one kind of proof. With a trace it writes down each step and goes on after a refusal by the clock.
type judge func(v *Verifier, c *Request, t *trace) error

// Scheme returns the scheme that calls are judged by: its defaults, answers and handshake.
func (v *Verifier) Scheme() Scheme { return v.scheme }

// Tolerance is how far a call's timestamp may be from At; 0 where the scheme has no enforced timestamp.
func (v *Verifier) Tolerance() time.Duration {
	if !v.ts.enforce {
		return 0
	}
	return v.ts.tolerance
}

// Verify judges one call. Nil means that it was made by a holder of one of the keys, over exactly these bytes as far
// as the scheme covers them, and within the tolerance. Anything else is a *Refusal.
func (v *Verifier) Verify(c Request) error { return v.verify(&c, nil) }

func (v *Verifier) verify(c *Request, t *trace) error {
	if len(v.allow) > 0 {
		if err := v.checkSource(c, t); err != nil {
			return err
		}
	}
	return v.judge(v, c, t)
}

// judgeSigned is the way of all schemes that sign a text: find the signature, read the clock, build the text, compare.
func judgeSigned(v *Verifier, c *Request, t *trace) error {
	if err := v.checkHeaders(c, t); err != nil {
		return err
	}
	var room [4]string // room for the usual number of signatures, off the heap
	found, err := v.place.find(c, room[:0])
	if err != nil {
		return t.refused("signature", err)
	}
	if t != nil { // its arguments cost more than the signature's search
		t.passed("signature", "found in %s: %d to compare, %s", v.place.where(), len(found.values), lengths(found.values))
	}
	ts, late, err := v.ts.read(c, found.ts)
	if err != nil {
		return t.refused("timestamp", err)
	}
	if v.ts.on() {
		t.clock(v, late, c)
	}
	if late != nil && t == nil {
		return late
	}
	if err := v.bodyHash(c); err != nil {
		return t.refused("body hash", err)
	}
	e := env{c: c, ts: ts, set: &v.set}
	if err := e.prepare(v, found.form); err != nil {
		return t.refused("signed text", err)
	}
	t.text(v, &e)
	index, err := v.compare(&e, found.values)
	if err != nil {
		return t.refused("comparison", err)
	}
	t.matched(v, index)
	if late != nil {
		return late
	}
	return nil
}

// compare tries every key with every text and every signature that came, and says which key fitted.
func (v *Verifier) compare(e *env, values []string) (int, error) {
	match, stale, wrongID := -1, false, true
	for i := range v.keys {
		k := &v.keys[i]
		if !k.named(v, e.c) {
			continue
		}
		wrongID = false
		ok := false
		for _, u := range e.urls {
			e.url = u
			ok = v.fits(k, v.signed, e, values) || ok
			if v.alt != nil {
				ok = v.fits(k, v.alt, e, values) || ok
			}
		}
		switch {
		case !ok:
		case !k.valid(e.c.At):
			stale = true
		case match < 0:
			match = i
		}
	}
	switch {
	case match >= 0:
		return match, nil
	case stale:
		return -1, v.outOfTime()
	case wrongID:
		return -1, refuse(Certificate, "%s names a key that is not in the settings", v.set.KeyID.Header)
	case !v.decodable(values):
		return -1, refuse(Malformed, "%s is not %s of the right length", v.place.where(), v.place.encoding)
	}
	return -1, refuse(Mismatch, "the signature in %s fits none of the %d configured keys", v.place.where(), len(v.keys))
}

func (v *Verifier) outOfTime() *Refusal {
	if v.set.Certificate != "" {
		return refuse(Certificate, "the signing certificate is not valid at the time of the call")
	}
	return refuse(Expired, "signed with an old secret whose time (secrets_until) is over")
}

// fits reports whether any of the values is the signature of the text under the key.
func (v *Verifier) fits(k *key, text template, e *env, values []string) bool {
	switch public := k.public.(type) {
	case nil:
		if v.scheme.Name == stripe { // nothing else is Stripe's to judge
			return k.stripe(e.c)
		}
		m := k.macs.Get().(*mac)
		defer k.macs.Put(m)
		want := m.sum(text, e)
		ok := 0
		for _, value := range values {
			got, decoded := v.place.decode(m.got[:0], value)
			m.got = got
			if decoded && hmac.Equal(got, want) {
				ok = 1
			}
		}
		return ok == 1
	case ed25519.PublicKey:
		message := text.build(e)
		return v.any(values, func(sig []byte) bool {
			return len(sig) == ed25519.SignatureSize && ed25519.Verify(public, message, sig)
		})
	case *ecdsa.PublicKey:
		digest := text.digest(k.hash, e)
		return v.any(values, func(sig []byte) bool { return ecdsa.VerifyASN1(public, digest, sig) })
	case *rsa.PublicKey:
		digest := text.digest(k.hash, e)
		return v.any(values, func(sig []byte) bool { return rsa.VerifyPKCS1v15(public, k.hash, digest, sig) == nil })
	}
	return false
}

// any hands the decoded values to check, all of them.
func (v *Verifier) any(values []string, check func(sig []byte) bool) bool {
	ok := false
	for _, value := range values {
		if sig, decoded := v.place.decode(nil, value); decoded {
			ok = check(sig) || ok
		}
	}
	return ok
}

// decodable reports whether any of the values could have been a signature at all.
func (v *Verifier) decodable(values []string) bool {
	for _, value := range values {
		sig, ok := v.place.decode(nil, value)
		if ok && (v.keys[0].public != nil || len(sig) == v.keys[0].hash.Size()) {
			return true
		}
	}
	return false
}

// stripe hands the call to Stripe's own library. It judges neither the clock, which it would do on one side only, nor
// the API version, which is the event's business; and it does not parse the body.
func (k *key) stripe(c *Request) bool {
	return webhook.ValidatePayloadIgnoringTolerance(c.Body, c.Header["Stripe-Signature"][0], k.text) == nil
}

// checkHeaders asks for the headers that have to be there, before any cryptography.
func (v *Verifier) checkHeaders(c *Request, t *trace) error {
	for _, name := range v.set.Required {
		if _, err := single(c, name); err != nil {
			return t.refused("headers", err)
		}
	}
	for name, want := range v.set.RequireEqual {
		got, err := single(c, name)
		if err != nil {
			return t.refused("headers", err)
		}
		if !same(got, want) {
			return t.refused("headers", refuse(Algorithm, "%s is not %q", name, want))
		}
	}
	if v.set.Cert != nil && v.set.Cert.URLHeader != "" {
		if err := v.set.Cert.checkURL(c); err != nil {
			return t.refused("certificate address", err)
		}
	}
	return nil
}

// single returns the one value of a header.
func single(c *Request, name string) (string, error) {
	values := c.Header[http.CanonicalHeaderKey(name)]
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return "", refuse(Missing, "no header %s", name)
	case len(values) > 1:
		return "", refuse(Malformed, "header %s comes %d times", name, len(values))
	}
	return values[0], nil
}

// hashNamed returns the hash of Settings.Hash.
func hashNamed(name string) (crypto.Hash, bool) {
	switch name {
	case "sha1":
		return crypto.SHA1, true
	case "sha256":
		return crypto.SHA256, true
	case "sha384":
		return crypto.SHA384, true
	case "sha512":
		return crypto.SHA512, true
	}
	return 0, false
}

func hashNames() []string { return []string{"sha256", "sha1", "sha384", "sha512"} }

// AsRefusal returns the refusal in err, or nil.
func AsRefusal(err error) *Refusal {
	r, _ := errors.AsType[*Refusal](err)
	return r
}
