package signature_test

import (
	"bytes"
	"net/http"
	"net/url"
	"testing"

	"github.com/tidewire/tidewire/connectors/signature"
)

// fuzzed are the schemes whose parsing of strangers' bytes differs: headers, tokens, JSON, forms.
var fuzzed = []string{"hmac", "stripe", "standard-webhooks", "mollie-nextgen", "jwt", "jwt-messagebird", "jwt-evolution", "adyen-standard", "twilio-form", "twilio-json", "mandrill",
	"alipay-rsa2", "braintree", "braintree-challenge", "espocrm", "basic", "zoho", "paypal", "dynamics-webhookkey"}

// FuzzVerify gives strangers' bytes to the parsers. Nothing may panic, nothing but the call itself may pass (a call is itself when it says the same:
// a form with its fields in another order, a JSON with other spaces), and explaining comes to the same verdict.
func FuzzVerify(f *testing.F) {
	type door struct {
		subject
		v *signature.Verifier
	}
	var doors []door
	for _, s := range subjects(f) {
		for _, name := range fuzzed {
			if s.name != name {
				continue
			}
			v, err := signature.New(s.settings)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(len(doors)), s.call.Header.Get(rules(s).Header), s.call.URL, s.call.Body)
			f.Add(byte(len(doors)), s.call.Header.Get(rules(s).Header)+",v1=00 v1,AA==", "/in/x?code=1&bt_challenge=a;b", []byte(`{"notificationItems":[{"NotificationRequestItem":{"additionalData":{}}}],"token":1}`))
			f.Add(byte(len(doors)), "Basic Og==", "/?%zz", []byte("a=%zz&sign=&bt_signature=%7C&bt_payload=%0A"))
			doors = append(doors, door{s, v})
		}
	}
	if len(doors) != len(fuzzed) {
		f.Fatalf("%d of %d schemes found", len(doors), len(fuzzed))
	}
	f.Fuzz(func(t *testing.T, which byte, header, target string, body []byte) {
		d := doors[int(which)%len(doors)]
		call := clone(d.call)
		if name := rules(d.subject).Header; name != "" {
			call.Header[http.CanonicalHeaderKey(name)] = []string{header}
		}
		call.URL, call.Body = target, body
		err := d.v.Verify(call)
		if x := d.v.Explain(call); x.Accepted != (err == nil) {
			t.Fatalf("verdict %v, explanation accepted %t", err, x.Accepted)
		}
		if err != nil {
			if signature.AsRefusal(err) == nil {
				t.Fatalf("%T is not a refusal", err)
			}
			return
		}
		if !d.unsignedBody && !bytes.Equal(body, d.call.Body) && !sameForm(body, d.call.Body) && d.name != "adyen-standard" {
			t.Fatalf("%s: another body passed: %q", d.name, body)
		}
	})
}

// sameForm reports whether two forms have the same fields.
func sameForm(a, b []byte) bool {
	x, errX := url.ParseQuery(string(a))
	y, errY := url.ParseQuery(string(b))
	return errX == nil && errY == nil && len(x) > 0 && x.Encode() == y.Encode()
}
