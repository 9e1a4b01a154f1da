package signature_test

import (
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// Mistakes in settings are told in words, all of them at once.
func TestNewReportsMistakes(t *testing.T) {
	t.Parallel()
	secret := config.NewSecret("0123456789abcdef0123")
	for _, c := range []struct {
		name string
		s    signature.Settings
		want []string
	}{
		{"nothing", signature.Settings{}, []string{"no scheme is set", "none"}},
		{"unknown scheme", signature.Settings{Scheme: "shopfy"}, []string{`no scheme "shopfy"`, `did you mean "shopify"`}},
		{"no secret", signature.Settings{Scheme: "stripe"}, []string{"needs a secret"}},
		{"white space", signature.Settings{Scheme: "stripe", Secret: config.NewSecret("whsec_x\n")}, []string{"white space"}},
		{"both", signature.Settings{Scheme: "stripe", Secret: secret, Secrets: []config.Secret{secret}}, []string{"both set"}},
		{"own header", signature.Settings{Scheme: "stripe", Secret: secret, Header: "X", Hash: "sha1"}, []string{"says its own header", "says its own hash"}},
		{"public key", signature.Settings{Scheme: "stripe", Secret: secret, PublicKey: "x", Certificate: "y", Username: "u"},
			[]string{"uses no public key", "uses no signing certificate", "uses no password"}},
		{"secret for nothing", signature.Settings{Scheme: "sendgrid", Secret: secret}, []string{"uses no secret", "needs the provider's public key"}},
		{"short", signature.Settings{Scheme: "hmac", Secret: config.NewSecret("tiny!"), Header: "X"}, []string{"too short"}},
		{"short standard", signature.Settings{Scheme: "standard-webhooks", Secret: config.NewSecret("whsec_c2hvcnQ=")}, []string{"too short"}},
		{"not base64", signature.Settings{Scheme: "standard-webhooks", Secret: config.NewSecret("whsec_it's not")}, []string{"it is not base64"}},
		{"not hex", signature.Settings{Scheme: "adyen-standard", Secret: config.NewSecret("xyz")}, []string{"it is not hexadecimal"}},
		{"URL", signature.Settings{Scheme: "square", Secret: secret}, []string{"signs the URL"}},
		{"URL wrong", signature.Settings{Scheme: "square", Secret: secret, PublicURL: "hooks.example.com/in"}, []string{"not an http or https address"}},
		{"tolerance for nothing", signature.Settings{Scheme: "github", Secret: secret, Tolerance: config.Duration(time.Minute)}, []string{"signs no timestamp"}},
		{"tolerance", signature.Settings{Scheme: "stripe", Secret: secret, Tolerance: config.Duration(48 * time.Hour)}, []string{"above 24h"}},
		{"until", signature.Settings{Scheme: "stripe", Secret: secret, SecretsUntil: now}, []string{"needs an old secret"}},
		{"generic", signature.Settings{Scheme: "hmac", Secret: secret, Hash: "md5", Encoding: "hx", Format: &signature.Format{Kind: "prefx"}, Signed: "{bdy}"},
			[]string{`"md5" is not a hash`, `"hx" is not an encoding`, `did you mean "prefix"`, "{bdy} is not a placeholder", `did you mean "body"`, "0 places"}},
		{"two places", signature.Settings{Scheme: "hmac", Secret: secret, Header: "X", Query: "y"}, []string{"2 places"}},
		{"nothing signed", signature.Settings{Scheme: "hmac", Secret: secret, Header: "X", Signed: "{ts}"}, []string{"does not cover the body", "ts is not set"}},
		{"loose clock", signature.Settings{Scheme: "hmac", Secret: secret, Header: "X", TS: &signature.TS{Header: "T"}}, []string{"anybody can change it"}},
		{"open brace", signature.Settings{Scheme: "hmac", Secret: secret, Header: "X", Signed: "{body"}, []string{"not closed"}},
		{"hash without secret", signature.Settings{Scheme: "hash", Secret: secret, Header: "X"}, []string{"proves nothing"}},
		{"hmac with secret", signature.Settings{Scheme: "hmac", Secret: secret, Header: "X", Signed: "{secret}{body}"}, []string{"belongs to scheme hash"}},
		{"mixed algorithms", signature.Settings{Scheme: "jwt", Secret: secret, Header: "X", Algorithms: []string{"HS256", "RS256"}}, []string{"mix shared secrets"}},
		{"alg none", signature.Settings{Scheme: "jwt", Secret: secret, Header: "X", Algorithms: []string{"none"}}, []string{`"none" is not an algorithm`}},
		{"no algorithms", signature.Settings{Scheme: "jwt", Header: "X"}, []string{"needs the algorithms"}},
		{"wrong key", signature.Settings{Scheme: "sendgrid", PublicKey: spki(t, keys().rsa.Public())}, []string{"it is an RSA key"}},
		{"no key", signature.Settings{Scheme: "rsa", Header: "X", PublicKey: "AAAA"}, []string{"not a public key"}},
		{"zero key", signature.Settings{Scheme: "standard-webhooks-v1a", PublicKey: "whpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}, []string{"anybody can sign"}},
		{"paypal", signature.Settings{Scheme: "paypal"}, []string{"needs the webhook's id", "needs the provider's certificate"}},
		{"paypal by key", signature.Settings{Scheme: "paypal", WebhookID: "x", PublicKey: spki(t, keys().rsa.Public())}, []string{"needs the provider's certificate"}},
		{"paypal by another", signature.Settings{Scheme: "paypal", WebhookID: "x", Certificate: keys().caPEM}, []string{"does not end in .paypal.com"}},
		{"not PEM", signature.Settings{Scheme: "paypal", WebhookID: "x", Certificate: "x"}, []string{"no PEM certificate"}},
		{"wechat key without a name", signature.Settings{Scheme: "wechatpay", PublicKey: spki(t, keys().rsa.Public())}, []string{"nothing says the name"}},
		{"wechat key length", signature.Settings{Scheme: "wechatpay", Certificate: keys().caPEM, APIv3Key: config.NewSecret("x")}, []string{"has 1 characters"}},
		{"basic", signature.Settings{Scheme: "basic", Username: "a:b"}, []string{"holds a colon", "needs a password"}},
		{"mtls", signature.Settings{Scheme: "mtls"}, []string{"needs the authority", "needs the name"}},
		{"no address", signature.Settings{Scheme: "ip-allow"}, []string{"no address is allowed"}},
		{"everybody", signature.Settings{Scheme: "ip-allow", Allow: []string{"0.0.0.0/0", "nonsense"}}, []string{"allows every address", `"nonsense" is neither`}},
		{"braintree", signature.Settings{Scheme: "braintree", Secret: secret}, []string{"public key"}},
		{"espocrm", signature.Settings{Scheme: "espocrm", Secret: secret}, []string{"webhook's id"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := signature.New(c.s)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in:\n%v", want, err)
				}
			}
			if text := c.s.Secret.Reveal(); len(text) > 3 && strings.Contains(err.Error(), text) {
				t.Errorf("the secret is in:\n%v", err)
			}
		})
	}
}

// A certificate of another authority is not taken, whatever its name.
func TestChainIsChecked(t *testing.T) {
	t.Parallel()
	for _, s := range subjects(t) {
		if s.name != "paypal" {
			continue
		}
		s.settings.Chain = asPEM(leaf(t, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }))
		if _, err := signature.New(s.settings); err == nil || !strings.Contains(err.Error(), "not issued by") {
			t.Errorf("got %v", err)
		}
	}
}

// Settings come from YAML, and a mistake is shown at its place.
func TestSettingsDecode(t *testing.T) {
	t.Parallel()
	node, err := config.ParseNode("test.yaml", []byte(`
verify:
  scheme: hmac
  secrets: [0123456789abcdef, fedcba9876543210]
  secrets_until: 2026-01-31T00:00:00Z
  header: X-Sig
  format: {kind: prefix, prefix: "v1="}
  hash: sha512
  encoding: base64
  signed: "{ts}.{body}"
  ts: {header: X-Ts, unit: ms}
  tolerance: 60s
  allow: 203.0.113.0/24
`), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var s signature.Settings
	if err := node.Get("verify").Decode(&s); err != nil {
		t.Fatal(err)
	}
	v, err := signature.New(s)
	if err != nil || v.Tolerance() != time.Minute || len(s.Secrets) != 2 || s.Allow[0] != "203.0.113.0/24" {
		t.Errorf("got %+v, %v", s, err)
	}
	node, err = config.ParseNode("test.yaml", []byte("scheme: shopfy\nsecret: abc\n"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = node.Decode(&s)
	if err == nil || !strings.Contains(err.Error(), "test.yaml:1:9") || !strings.Contains(err.Error(), `did you mean "shopify"`) {
		t.Errorf("got %v", err)
	}
	var sign signature.Signing
	node, err = config.ParseNode("test.yaml", []byte("scheme: github\nsecret: \"  \"\n"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Decode(&sign); err == nil || !strings.Contains(err.Error(), "test.yaml:2") {
		t.Errorf("got %v", err)
	}
}
