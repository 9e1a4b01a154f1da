package signature_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

const whsec = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

// verifier makes one, with a secret unless the settings have one.
func verifier(t testing.TB, s signature.Settings) *signature.Verifier {
	t.Helper()
	if s.Secret.IsZero() && len(s.Secrets) == 0 && s.Password.IsZero() {
		s.Secret = config.NewSecret(whsec)
	}
	v, err := signature.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// signedCall is a call signed by the scheme with whsec at a time.
func signedCall(t testing.TB, scheme string, at time.Time, body string, secrets ...string) signature.Request {
	t.Helper()
	s := signature.Signing{Scheme: scheme}
	for _, text := range append(secrets, map[bool][]string{true: {whsec}}[len(secrets) == 0]...) {
		s.Secrets = append(s.Secrets, config.NewSecret(text))
	}
	h, err := signature.Sign(s, signature.SignRequest{ID: "msg_1", At: at, Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	c := post(body)
	c.Header = h
	return c
}

func wantCode(t *testing.T, err error, want signature.Code) {
	t.Helper()
	r := signature.AsRefusal(err)
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && r == nil:
		t.Errorf("got %v, want a refusal with code %s", err, want)
	case want != "" && r.Code != want:
		t.Errorf("got %v, want code %s", err, want)
	}
}

// A timestamp may be as far behind as ahead: 300 s pass and 301 s do not, whatever the scheme.
func TestClockIsSymmetric(t *testing.T) {
	t.Parallel()
	count := 0
	for _, s := range subjects(t) {
		ts := rules(s).TS
		v, err := signature.New(s.settings)
		if err != nil {
			t.Fatal(err)
		}
		if v.Tolerance() == 0 {
			if ts != nil && ts.Enforce == nil {
				t.Errorf("%s has a timestamp and no tolerance", s.name)
			}
			continue
		}
		count++
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if want := map[string]time.Duration{"wechatpay-v3": 299 * time.Second}[s.name]; v.Tolerance() != max(want, 299*time.Second) && v.Tolerance() != 300*time.Second {
				t.Errorf("tolerance is %s", v.Tolerance())
			}
			signed := signedAt(t, s)
			for _, c := range []struct {
				age  time.Duration
				want signature.Code
			}{
				{0, ""}, {v.Tolerance(), ""}, {-v.Tolerance(), ""}, {v.Tolerance() + time.Second, signature.Expired}, {-v.Tolerance() - time.Second, signature.Future},
				{v.Tolerance() + time.Millisecond, signature.Expired}, {-v.Tolerance() - time.Millisecond, signature.Future},
			} {
				call := clone(s.call)
				call.At = signed.Add(c.age)
				wantCode(t, v.Verify(call), c.want)
			}
		})
	}
	if count < 10 {
		t.Errorf("only %d schemes have a clock", count)
	}
}

// signedAt reads the call's own timestamp.
func signedAt(t *testing.T, s subject) time.Time {
	t.Helper()
	r := rules(s)
	var text string
	if r.TS.Header != "" {
		text = s.call.Header.Get(r.TS.Header)
	} else {
		_, rest, _ := strings.Cut(s.call.Header.Get(r.Header), r.Format.TS+"=")
		text, _, _ = strings.Cut(rest, r.Format.PairSep)
	}
	if r.TS.Unit == "rfc3339" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	var n int64
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatal(err)
	}
	if r.TS.Unit == "ms" {
		return time.UnixMilli(n)
	}
	return time.Unix(n, 0)
}

func TestToleranceIsASetting(t *testing.T) {
	t.Parallel()
	v := verifier(t, signature.Settings{Scheme: "stripe", Tolerance: config.Duration(5 * time.Second)})
	call := signedCall(t, "stripe", now, jsonBody)
	call.At = now.Add(5 * time.Second)
	wantCode(t, v.Verify(call), "")
	call.At = now.Add(6 * time.Second)
	wantCode(t, v.Verify(call), signature.Expired)
	call.At = now.Add(-6 * time.Second)
	wantCode(t, v.Verify(call), signature.Future)
}

// An empty key is refused for every scheme that has one: everybody could sign with it.
func TestEmptyKeyIsRefused(t *testing.T) {
	t.Parallel()
	for _, s := range subjects(t) {
		scheme, _ := signature.Lookup(s.name)
		empty := s.settings
		empty.Secret, empty.Secrets, empty.Password, empty.PublicKey, empty.Certificate = config.Secret{}, nil, config.Secret{}, "", ""
		_, err := signature.New(empty)
		if needs := scheme.Rules.Scheme != "ip-allow" && scheme.Rules.Scheme != "mtls"; needs && err == nil {
			t.Errorf("%s: accepted without a key", s.name)
		}
		if s.settings.Secret.IsZero() {
			continue
		}
		empty = s.settings
		empty.Secret, empty.Secrets = config.Secret{}, []config.Secret{s.settings.Secret, {}}
		if _, err := signature.New(empty); err == nil {
			t.Errorf("%s: accepted with an empty secret beside a good one", s.name)
		}
	}
	for _, text := range []string{"whsec_", "whsec_AAAA", "whsec_====", " ", "whsec_%%%"} {
		if _, err := signature.New(signature.Settings{Scheme: "standard-webhooks", Secret: config.NewSecret(text)}); err == nil {
			t.Errorf("accepted the secret %q", text)
		}
	}
}

// Of several timestamps the library would take the last, and somebody else the first.
func TestTimestampTwiceIsRefused(t *testing.T) {
	t.Parallel()
	v := verifier(t, signature.Settings{Scheme: "stripe"})
	call := signedCall(t, "stripe", now, jsonBody)
	header := call.Header.Get("Stripe-Signature")
	call.Header.Set("Stripe-Signature", fmt.Sprintf("t=%d,%s", now.Unix()-9, header))
	wantCode(t, v.Verify(call), signature.Malformed)
	ts, _, _ := strings.Cut(header, ",")
	call.Header.Set("Stripe-Signature", header+","+ts)
	wantCode(t, v.Verify(call), signature.Malformed)
}

func TestUnknownVersionsAreIgnored(t *testing.T) {
	t.Parallel()
	v := verifier(t, signature.Settings{Scheme: "stripe"})
	call := signedCall(t, "stripe", now, jsonBody)
	header := call.Header.Get("Stripe-Signature")
	call.Header.Set("Stripe-Signature", header+",v0=00,v7=ffff,scheme=x")
	wantCode(t, v.Verify(call), "")
	call.Header.Set("Stripe-Signature", strings.Replace(header, "v1=", "v0=", 1))
	wantCode(t, v.Verify(call), signature.Missing)

	v = verifier(t, signature.Settings{Scheme: "standard-webhooks"})
	call = signedCall(t, "standard-webhooks", now, jsonBody)
	header = call.Header.Get("webhook-signature")
	call.Header.Set("webhook-signature", "v2,AAAA v1a,BBBB x "+header)
	wantCode(t, v.Verify(call), "")
	call.Header.Set("webhook-signature", strings.Replace(header, "v1,", "v2,", 1))
	wantCode(t, v.Verify(call), signature.Missing)
}

// A list may hold signatures of other keys, and some that cannot be read, before the one that fits.
func TestListIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	good := signedCall(t, "standard-webhooks", now, jsonBody).Header.Get("webhook-signature")
	wrong := "v1," + base64.StdEncoding.EncodeToString(make([]byte, 32))
	v := verifier(t, signature.Settings{Scheme: "standard-webhooks"})
	for _, list := range []string{wrong + " " + good, good + " " + wrong, "v1,%% " + good, "v1, v1,AA== " + wrong + " " + good + " v1a,xx"} {
		call := signedCall(t, "standard-webhooks", now, jsonBody)
		call.Header.Set("webhook-signature", list)
		wantCode(t, v.Verify(call), "")
	}
	call := signedCall(t, "standard-webhooks", now, jsonBody)
	call.Header.Set("webhook-signature", strings.Repeat(wrong+" ", 40)+good)
	wantCode(t, v.Verify(call), signature.Malformed)
}

func TestTimestampIsDigitsOnly(t *testing.T) {
	t.Parallel()
	v := verifier(t, signature.Settings{Scheme: "standard-webhooks"})
	for _, ts := range []string{"+1767225600", "-1767225600", " 1767225600", "01767225600", "1767225600.0", "1.7672256e9", "0x69559e00", "１７６７２２５６００", "176722560", "1767225600000"} {
		call := signedCall(t, "standard-webhooks", now, jsonBody)
		call.Header.Set("webhook-timestamp", ts)
		wantCode(t, v.Verify(call), signature.Malformed)
	}
	call := signedCall(t, "standard-webhooks", now, jsonBody)
	call.Header.Del("webhook-timestamp")
	wantCode(t, v.Verify(call), signature.Missing)
}

// Digits moved from the timestamp into the body, or back, would be the same signed text where nothing separates them.
func TestBytesCannotMoveBetweenTimestampAndBody(t *testing.T) {
	t.Parallel()
	for _, s := range subjects(t) {
		if s.name != "sendgrid" {
			continue
		}
		v, err := signature.New(s.settings)
		if err != nil {
			t.Fatal(err)
		}
		call := clone(s.call)
		const header = "X-Twilio-Email-Event-Webhook-Timestamp"
		ts := call.Header.Get(header)
		call.Header.Set(header, ts[:9])
		call.Body = append([]byte(ts[9:]), call.Body...)
		wantCode(t, v.Verify(call), signature.Malformed)
	}
	v := verifier(t, signature.Settings{Scheme: "standard-webhooks"})
	call := signedCall(t, "standard-webhooks", now, "1767225600.{}")
	call.Header.Set("webhook-id", fmt.Sprintf("msg_1.%d", now.Unix()))
	call.Body = []byte("{}")
	wantCode(t, v.Verify(call), signature.Malformed)
}

func TestEncodingsAreStrict(t *testing.T) {
	t.Parallel()
	v := verifier(t, signature.Settings{Scheme: "shopify"})
	good := signedCall(t, "shopify", now, jsonBody).Header.Get("X-Shopify-Hmac-Sha256")
	raw, err := base64.StdEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"hex": hex.EncodeToString(raw), "no padding": strings.TrimRight(good, "="), "url alphabet": base64.URLEncoding.EncodeToString([]byte("\xff\xfe" + string(raw[2:]))),
		"a line end inside": good[:10] + "\n" + good[10:], "a byte more": base64.StdEncoding.EncodeToString(append(raw, 0)),
		"a byte less": base64.StdEncoding.EncodeToString(raw[:31]), "loose end bits": good[:42] + string(rune(good[42]+1)) + "=", "empty": "=",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			call := signedCall(t, "shopify", now, jsonBody)
			call.Header.Set("X-Shopify-Hmac-Sha256", value)
			wantCode(t, v.Verify(call), signature.Malformed)
		})
	}
	gh := verifier(t, signature.Settings{Scheme: "github"})
	header := signedCall(t, "github", now, jsonBody).Header.Get("X-Hub-Signature-256")
	sum, err := hex.DecodeString(strings.TrimPrefix(header, "sha256="))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"odd": header[:len(header)-1], "base64": "sha256=" + base64.StdEncoding.EncodeToString(sum), "junk": header[:len(header)-1] + "g", "half": header[:39]} {
		t.Run("github "+name, func(t *testing.T) {
			t.Parallel()
			call := signedCall(t, "github", now, jsonBody)
			call.Header.Set("X-Hub-Signature-256", value)
			wantCode(t, gh.Verify(call), signature.Malformed)
		})
	}
}

// Two signature headers are one too many, unless the scheme lists several.
func TestRepeatedHeader(t *testing.T) {
	t.Parallel()
	call := signedCall(t, "github", now, jsonBody)
	call.Header.Add("X-Hub-Signature-256", call.Header.Get("X-Hub-Signature-256"))
	wantCode(t, verifier(t, signature.Settings{Scheme: "github"}).Verify(call), signature.Malformed)

	mollie := verifier(t, signature.Settings{Scheme: "mollie"})
	call = signedCall(t, "mollie", now, jsonBody)
	good := call.Header.Get("X-Mollie-Signature")
	for _, values := range [][]string{{"sha256=00", good}, {good, "sha256=00"}, {"sha256=00, " + good}, {"sha256=00," + good, "sha1=11"}} {
		call.Header["X-Mollie-Signature"] = values
		wantCode(t, mollie.Verify(call), "")
	}
	call.Header["X-Mollie-Signature"] = []string{"sha1=11", "x"}
	wantCode(t, mollie.Verify(call), signature.Malformed)
	call.Header.Del("X-Mollie-Signature")
	wantCode(t, mollie.Verify(call), signature.Missing)
}

// Characters that are not base64 are refused as such, before any key is used.
func TestBraintreeCharacters(t *testing.T) {
	t.Parallel()
	v := verifier(t, signature.Settings{Scheme: "braintree", PublicKey: "our_key"})
	wantCode(t, v.Verify(post("bt_signature=our_key%7C"+strings.Repeat("00", 20)+"&bt_payload=PG5v*")), signature.Malformed)
	wantCode(t, v.Verify(post("bt_signature=our_key%7C"+strings.Repeat("00", 20)+"&bt_payload=PG5v")), signature.Mismatch)
}

// During a rotation every secret is accepted, in any order, until the old one's time is over.
func TestRotation(t *testing.T) {
	t.Parallel()
	const older = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQ="
	both := []config.Secret{config.NewSecret(whsec), config.NewSecret(older)}
	for _, scheme := range []string{"stripe", "standard-webhooks", "github", "api-key"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			call := func(secret string) signature.Request {
				if scheme == "api-key" {
					return post(jsonBody, "X-Api-Key", secret)
				}
				return signedCall(t, scheme, now, jsonBody, secret)
			}
			v := verifier(t, signature.Settings{Scheme: scheme, Secrets: both})
			wantCode(t, v.Verify(call(whsec)), "")
			wantCode(t, v.Verify(call(older)), "")
			wantCode(t, v.Verify(call("whsec_dGhpcmQtdGhpcmQtdGhpcmQtdGhpcmQ=")), signature.Mismatch)
			v = verifier(t, signature.Settings{Scheme: scheme, Secrets: both, SecretsUntil: now.Add(-time.Second)})
			wantCode(t, v.Verify(call(whsec)), "")
			wantCode(t, v.Verify(call(older)), signature.Expired)
			v = verifier(t, signature.Settings{Scheme: scheme, Secrets: both, SecretsUntil: now})
			wantCode(t, v.Verify(call(older)), "")
		})
	}
}

// None of the JWT forgeries of old works: no algorithm, another one, the public key as a secret, no end, another end.
func TestJWT(t *testing.T) {
	t.Parallel()
	secret := "0123456789abcdef0123"
	v := verifier(t, signature.Settings{Scheme: "jwt", Algorithms: []string{"HS256"}, Header: "X-Token", Secret: config.NewSecret(secret)})
	exp := now.Add(time.Minute).Unix()
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		s, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": exp})
	parts := strings.Split(good, ".")
	for _, c := range []struct {
		name, token string
		want        signature.Code
	}{
		{"good", good, ""},
		{"alg none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"exp": exp}), signature.Algorithm},
		{"alg none with a signature", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "." + parts[2], signature.Algorithm},
		{"alg None", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"None"}`)) + "." + parts[1] + ".", signature.Algorithm},
		{"HS512 with the same key", sign(jwt.SigningMethodHS512, []byte(secret), jwt.MapClaims{"exp": exp}), signature.Algorithm},
		{"empty key", sign(jwt.SigningMethodHS256, []byte{}, jwt.MapClaims{"exp": exp}), signature.Mismatch},
		{"another key", sign(jwt.SigningMethodHS256, []byte("x"), jwt.MapClaims{"exp": exp}), signature.Mismatch},
		{"no exp", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"iat": now.Unix()}), signature.Missing},
		{"expired", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": now.Unix() - 1}), signature.Expired},
		{"not before", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": exp, "nbf": now.Unix() + 9}), signature.Future},
		{"issued later", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": exp, "iat": now.Unix() + 9}), signature.Future},
		{"exp a text", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": "never"}), signature.Malformed},
		{"two parts", parts[0] + "." + parts[1], signature.Malformed},
		{"a line end", good + "\n", signature.Malformed},
		{"padding", good + "=", signature.Malformed},
		{"claims changed", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":99999999999}`)) + "." + parts[2], signature.Mismatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wantCode(t, v.Verify(post(jsonBody, "X-Token", c.token)), c.want)
		})
	}
	public := spki(t, keys().ecdsa.Public())
	es, err := signature.New(signature.Settings{Scheme: "jwt", Algorithms: []string{"ES256"}, Header: "X-Token", PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, es.Verify(post(jsonBody, "X-Token", sign(jwt.SigningMethodHS256, []byte(public), jwt.MapClaims{"exp": exp}))), signature.Algorithm)
}

// The hash of a text that holds the secret is the signature itself; explaining must not tell it.
func TestExplainKeepsPlainHashes(t *testing.T) {
	t.Parallel()
	for _, s := range subjects(t) {
		if s.name != "hubspot-v1" {
			continue
		}
		v, err := signature.New(s.settings)
		if err != nil {
			t.Fatal(err)
		}
		call := clone(s.call)
		want := call.Header.Get("X-HubSpot-Signature")
		call.Header.Set("X-HubSpot-Signature", strings.Repeat("0", 64))
		if x := v.Explain(call); x.Accepted || strings.Contains(x.String(), want) {
			t.Errorf("the expected signature is in %s", x)
		}
	}
}

// Addresses that may call are an addition to every scheme.
func TestAllowIsAnAddition(t *testing.T) {
	t.Parallel()
	v := verifier(t, signature.Settings{Scheme: "github", Allow: []string{"203.0.113.0/24"}})
	call := signedCall(t, "github", now, jsonBody)
	wantCode(t, v.Verify(call), "")
	call.Remote = call.Remote.Next()
	wantCode(t, v.Verify(call), "")
	other := clone(call)
	other.Remote = other.Remote.Prev()
	other.Header = http.Header{}
	wantCode(t, v.Verify(other), signature.Missing)
	v = verifier(t, signature.Settings{Scheme: "github", Allow: []string{"198.51.100.1"}})
	wantCode(t, v.Verify(call), signature.Source)
}
