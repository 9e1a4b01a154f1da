package signature_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"math/big"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// subject is a scheme with a call that it accepts.
type subject struct {
	name     string
	settings signature.Settings
	call     signature.Request
	// unsignedBody: the scheme does not cover the body.
	unsignedBody bool
}

var now = time.Unix(1767225600, 0).UTC()

// keys are made once: RSA keys are slow to make.
type testKeys struct {
	rsa     *rsa.PrivateKey
	ecdsa   *ecdsa.PrivateKey
	ed25519 ed25519.PrivateKey
	ca      *x509.Certificate
	caPEM   string
}

var keys = sync.OnceValue(func() testKeys {
	var k testKeys
	var err error
	must := func() {
		if err != nil {
			panic(err)
		}
	}
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must()
	k.ecdsa, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must()
	_, k.ed25519, err = ed25519.GenerateKey(rand.Reader)
	must()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: now.AddDate(-1, 0, 0),
		NotAfter: now.AddDate(9, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.rsa.Public(), k.rsa)
	must()
	k.ca, err = x509.ParseCertificate(der)
	must()
	k.caPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return k
})

// leaf issues a certificate of the test authority.
func leaf(t testing.TB, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	k := keys()
	c := &x509.Certificate{SerialNumber: big.NewInt(0xABCDEF0123), Subject: pkix.Name{CommonName: "messageverificationcerts.paypal.com"},
		NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(0, 1, 0), DNSNames: []string{"erp-1.example"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, k.ca, k.rsa.Public(), k.rsa)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func asPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func spki(t testing.TB, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func rsaSign(t testing.TB, text string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, keys().rsa, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

const jsonBody = `{"id":"ev_1","type":"thing.happened","data":{"n":[1,2,3],"s":"é\u00e9/"}}` + "\r\n"

func post(body string, headers ...string) signature.Request {
	c := signature.Request{Method: "POST", URL: "/in/test", Header: http.Header{}, Body: []byte(body), At: now, Remote: netip.MustParseAddr("203.0.113.7")}
	for i := 0; i < len(headers); i += 2 {
		c.Header.Set(headers[i], headers[i+1])
	}
	return c
}

// withoutBody are the schemes whose proof does not cover the body.
var withoutBody = map[string]bool{"api-key": true, "basic": true, "pipedrive": true, "sap-event-mesh": true, "dynamics-webhookkey": true, "gitlab-token": true,
	"jwt-evolution": true, "mtls": true, "yookassa": true, "zoho": true, "token": true, "jwt": true, "ip-allow": true, "braintree-challenge": true}

// subjects are all schemes but none, each with a call it accepts: a vector where there is one, else one made here.
func subjects(t testing.TB) []subject {
	t.Helper()
	var out []subject
	have := map[string]bool{"none": true}
	for _, s := range made(t) {
		if !have[s.name] {
			have[s.name] = true
			s.unsignedBody = withoutBody[s.name]
			out = append(out, s)
		}
	}
	for _, x := range vectors(t, "testdata/signed.json") {
		if x.Expect != "valid" || have[x.Verifier] || x.Verifier == "mtls" || x.Verifier == "basic" {
			continue
		}
		have[x.Verifier] = true
		out = append(out, subject{name: x.Verifier, settings: x.settings(t), call: x.request(t), unsignedBody: withoutBody[x.Verifier]})
	}
	for _, s := range signature.Schemes() {
		if !have[s.Name] {
			t.Errorf("no call for scheme %s", s.Name)
		}
	}
	return out
}

func made(t testing.TB) []subject {
	t.Helper()
	k := keys()
	secret := config.NewSecret("0123456789abcdef-secret")
	whsec := config.NewSecret("whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef01234567")))
	ts := fmt.Sprint(now.Unix())
	signed := func(s signature.Signing) http.Header {
		h, err := signature.Sign(s, signature.SignRequest{ID: "msg_1", At: now, Method: "POST", URL: "https://hooks.example.com/in/test", Body: []byte(jsonBody)})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	with := func(h http.Header) signature.Request {
		c := post(jsonBody)
		c.Header = h
		return c
	}
	token := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		s, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sum := sha256.Sum256([]byte("0123456789abcdef-secret" + jsonBody))
	bodySum, urlSum := sha256.Sum256([]byte(jsonBody)), sha256.Sum256([]byte("https://hooks.example.com/in/test"))
	exp := now.Add(time.Minute).Unix()
	ecSum := sha256.Sum256([]byte(ts + "." + jsonBody))
	ecSig, err := ecdsa.SignASN1(rand.Reader, k.ecdsa, ecSum[:])
	if err != nil {
		t.Fatal(err)
	}
	paypal, wechat := leaf(t, func(*x509.Certificate) {}), leaf(t, func(*x509.Certificate) {})
	braintreeKey := sha1.Sum([]byte("0123456789abcdef-secret"))
	braintree := hmac.New(sha1.New, braintreeKey[:])
	braintree.Write([]byte("PG5vdGlmaWNhdGlvbj4K\n"))
	paypalTime := "2015-05-18T15:45:13Z"
	client := post(jsonBody)
	client.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf(t, func(*x509.Certificate) {})}}
	hubspotV2 := sha256.Sum256([]byte("0123456789abcdef-secretPOSThttps://hooks.example.com/in/test" + jsonBody))
	russian := post(jsonBody)
	russian.Remote = netip.MustParseAddr("185.71.76.5")
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("relay:p:wü-and-more"))
	standard := signature.Settings{Scheme: "hmac", Secret: secret, Header: "X-Sig", Signed: "{h:X-Id}.{ts}.{body}", TS: &signature.TS{Header: "X-Ts"}}
	return []subject{
		{name: "hmac", settings: standard, call: with(signed(signature.Signing{Scheme: "hmac", Secret: secret, Header: "X-Sig",
			Signed: "{h:X-Id}.{ts}.{body}", TS: &signature.TS{Header: "X-Ts"}}))},
		{name: "svix", settings: signature.Settings{Scheme: "svix", Secret: whsec}, call: with(signed(signature.Signing{Scheme: "svix", Secret: whsec}))},
		{name: "standard-webhooks", settings: signature.Settings{Scheme: "standard-webhooks", Secret: whsec},
			call: with(signed(signature.Signing{Scheme: "standard-webhooks", Secret: whsec}))},
		{name: "mollie-nextgen", settings: signature.Settings{Scheme: "mollie-nextgen", Secret: secret},
			call: with(signed(signature.Signing{Scheme: "mollie-nextgen", Secret: secret}))},
		{name: "razorpay", settings: signature.Settings{Scheme: "razorpay", Secret: secret}, call: with(signed(signature.Signing{Scheme: "razorpay", Secret: secret}))},
		{name: "paddle", settings: signature.Settings{Scheme: "paddle", Secret: secret}, call: with(signed(signature.Signing{Scheme: "paddle", Secret: secret}))},
		{name: "api-key", settings: signature.Settings{Scheme: "api-key", Secret: secret}, call: post(jsonBody, "X-Api-Key", "0123456789abcdef-secret")},
		{name: "braintree", settings: signature.Settings{Scheme: "braintree", Secret: secret, PublicKey: "our_key"},
			call: post("bt_signature=our_key%7C" + hex.EncodeToString(braintree.Sum(nil)) + "&bt_payload=PG5vdGlmaWNhdGlvbj4K%0A")},
		{name: "hash", settings: signature.Settings{Scheme: "hash", Secret: secret, Header: "X-Sig", Signed: "{secret}{body}"},
			call: post(jsonBody, "X-Sig", hex.EncodeToString(sum[:]))},
		{name: "hubspot-v1", settings: signature.Settings{Scheme: "hubspot-v1", Secret: secret}, call: post(jsonBody, "X-HubSpot-Signature", hex.EncodeToString(sum[:]))},
		{name: "hubspot-v2", settings: signature.Settings{Scheme: "hubspot-v2", Secret: secret, PublicURL: "https://hooks.example.com/in/test"},
			call: post(jsonBody, "X-HubSpot-Signature", hex.EncodeToString(hubspotV2[:]))},
		{name: "ed25519", settings: signature.Settings{Scheme: "ed25519", PublicKey: spki(t, k.ed25519.Public()), Header: "X-Sig", Encoding: "base64"},
			call: post(jsonBody, "X-Sig", base64.StdEncoding.EncodeToString(ed25519.Sign(k.ed25519, []byte(jsonBody))))},
		{name: "standard-webhooks-v1a", settings: signature.Settings{Scheme: "standard-webhooks-v1a",
			PublicKey: "whpk_" + base64.StdEncoding.EncodeToString(k.ed25519.Public().(ed25519.PublicKey))},
			call: with(signed(signature.Signing{Scheme: "standard-webhooks-v1a", Secret: config.NewSecret("whsk_" + base64.StdEncoding.EncodeToString(k.ed25519))}))},
		{name: "ecdsa", settings: signature.Settings{Scheme: "ecdsa", PublicKey: spki(t, k.ecdsa.Public()), Header: "X-Sig", Encoding: "base64",
			Signed: "{ts}.{body}", TS: &signature.TS{Header: "X-Ts"}},
			call: post(jsonBody, "X-Sig", base64.StdEncoding.EncodeToString(ecSig), "X-Ts", ts)},
		{name: "rsa", settings: signature.Settings{Scheme: "rsa", PublicKey: spki(t, k.rsa.Public()), Header: "X-Sig", Encoding: "base64"},
			call: post(jsonBody, "X-Sig", rsaSign(t, jsonBody))},
		{name: "paypal", settings: signature.Settings{Scheme: "paypal", Certificate: asPEM(paypal), Chain: k.caPEM, WebhookID: "WH-1"},
			call: post(jsonBody, "PAYPAL-TRANSMISSION-ID", "id-1", "PAYPAL-TRANSMISSION-TIME", paypalTime, "PAYPAL-AUTH-ALGO", "SHA256withRSA",
				"PAYPAL-CERT-URL", "https://api.paypal.com/v1/notifications/certs/CERT-1",
				"PAYPAL-TRANSMISSION-SIG", rsaSign(t, fmt.Sprintf("id-1|%s|WH-1|%d", paypalTime, crc32.ChecksumIEEE([]byte(jsonBody)))))},
		{name: "wechatpay-v3", settings: signature.Settings{Scheme: "wechatpay", Certificate: asPEM(wechat)},
			call: post(jsonBody, "Wechatpay-Timestamp", ts, "Wechatpay-Nonce", "n0nce", "Wechatpay-Serial", "ABCDEF0123",
				"Wechatpay-Signature", rsaSign(t, ts+"\nn0nce\n"+jsonBody+"\n"))},
		{name: "jwt", settings: signature.Settings{Scheme: "jwt", PublicKey: spki(t, k.ecdsa.Public()), Algorithms: []string{"ES256"}, Header: "Authorization",
			Format: &signature.Format{Kind: "prefix", Prefix: "Bearer "}, Issuer: "them", Audience: "us"},
			call: post(jsonBody, "Authorization", "Bearer "+token(jwt.SigningMethodES256, k.ecdsa, jwt.MapClaims{"exp": exp, "iss": "them", "aud": "us"}))},
		{name: "jwt-messagebird", settings: signature.Settings{Scheme: "messagebird", Secret: secret, PublicURL: "https://hooks.example.com/in/test"},
			call: post(jsonBody, "MessageBird-Signature-JWT", token(jwt.SigningMethodHS256, []byte("0123456789abcdef-secret"), jwt.MapClaims{
				"iss": "MessageBird", "nbf": now.Unix(), "exp": exp, "url_hash": hex.EncodeToString(urlSum[:]), "payload_hash": hex.EncodeToString(bodySum[:])}))},
		{name: "basic", settings: signature.Settings{Scheme: "basic", Username: "relay", Password: config.NewSecret("p:wü-and-more")}, call: post(jsonBody, "Authorization", basic)},
		{name: "pipedrive", settings: signature.Settings{Scheme: "pipedrive", Username: "relay", Password: config.NewSecret("p:wü-and-more")}, call: post(jsonBody, "Authorization", basic)},
		{name: "sap-event-mesh", settings: signature.Settings{Scheme: "sap-event-mesh", Username: "relay", Password: config.NewSecret("p:wü-and-more")},
			call: post(jsonBody, "Authorization", basic)},
		{name: "token", settings: signature.Settings{Scheme: "token", Secret: secret, Header: "Authorization", Format: &signature.Format{Kind: "prefix", Prefix: "Bearer "}},
			call: post(jsonBody, "Authorization", "Bearer 0123456789abcdef-secret")},
		{name: "zoho", settings: signature.Settings{Scheme: "zoho", Secret: secret}, call: post(`{"token":"0123456789abcdef-secret","ids":["1"]}`, "Content-Type", "application/json")},
		{name: "mtls", settings: signature.Settings{Scheme: "mtls", CAPEM: k.caPEM, AllowedSAN: []string{"erp-1.example"}}, call: client},
		{name: "ip-allow", settings: signature.Settings{Scheme: "ip-allow", Allow: []string{"203.0.113.0/28", "2001:db8::/48"}}, call: post(jsonBody)},
		{name: "yookassa", settings: signature.Settings{Scheme: "yookassa"}, call: russian},
	}
}
