package http_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/http"
	"github.com/tidewire/tidewire/connectors/signature"
)

// anySecret is a key in every spelling that schemes ask for: text, hexadecimal and base64.
const anySecret = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"

// credentials make what a scheme needs.
type credentials struct {
	rsa         *rsa.PrivateKey
	certificate string
}

func newCredentials(t *testing.T) credentials {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "messages.paypal.com"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: callTime.Add(-time.Hour), NotAfter: callTime.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return credentials{key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (c credentials) publicKey(t *testing.T, scheme signature.Scheme) string {
	t.Helper()
	var key any = c.rsa.Public()
	switch scheme.Rules.Scheme {
	case "braintree", "braintree-challenge":
		return "public"
	case "ed25519":
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key = public
	case "ecdsa":
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key = private.Public()
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// verify is the least that a user has to write for a scheme, under a name of it.
func (c credentials) verify(t *testing.T, name string) map[string]any {
	t.Helper()
	scheme, ok := signature.Lookup(name)
	if !ok {
		t.Fatalf("there is no scheme %s", name)
	}
	v := map[string]any{"scheme": name}
	for _, need := range scheme.Needs {
		switch need {
		case "public_key":
			v[need] = c.publicKey(t, scheme)
		case "certificate", "chain", "ca_pem":
			v[need] = c.certificate
		case "public_url":
			v[need] = "https://hooks.example.com/in/shop"
		case "algorithms":
			v[need], v["secret"] = []string{"HS256"}, anySecret
		case "allow":
			v[need] = "192.0.2.0/24"
		case "signed":
			v[need] = "{secret}{body}"
		default:
			v[need] = anySecret
		}
	}
	return v
}

func webhookOf(t *testing.T, verify map[string]any) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"verify": verify})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestEverySchemeIsAWordOfTheConfig opens a connection for each scheme and each of its names with what the scheme says it needs, and none without it.
func TestEverySchemeIsAWordOfTheConfig(t *testing.T) {
	t.Parallel()
	c := newCredentials(t)
	for _, s := range signature.Schemes() {
		for _, name := range append(slices.Clone(s.Aliases), s.Name) {
			verify := c.verify(t, name)
			if _, err := openReceiver(webhookOf(t, verify)); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for _, need := range s.Needs {
				without := c.verify(t, name)
				delete(without, need)
				if need == "algorithms" {
					delete(without, "secret")
				}
				if _, err := openReceiver(webhookOf(t, without)); err == nil && need != "chain" && name != "basic" {
					t.Errorf("%s opens without %s, which it says it needs", name, need)
				}
			}
			if _, ok := verify["secret"]; ok {
				verify["secret"] = ""
				if _, err := openReceiver(webhookOf(t, verify)); err == nil {
					t.Errorf("%s opens with an empty secret", name)
				}
			}
		}
	}
}

// TestClientCertificatesNeedTLS refuses a door that could never open.
func TestClientCertificatesNeedTLS(t *testing.T) {
	t.Parallel()
	webhook := webhookOf(t, newCredentials(t).verify(t, "mtls"))
	n, err := config.ParseNode("tidewire.yaml", []byte("webhook: "+webhook), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = http.Connector.Open(n, connectors.Env{Name: "shop", Logger: slog.New(slog.DiscardHandler), Plain: true})
	if err == nil || !strings.Contains(err.Error(), "webhook.verify.scheme") || !strings.Contains(err.Error(), "server.tls") {
		t.Errorf("got %v", err)
	}
}

// TestWhatSchemesKnowOfTheirEvents reads calls as providers make them, by the schemes' own expressions.
func TestWhatSchemesKnowOfTheirEvents(t *testing.T) {
	t.Parallel()
	c := newCredentials(t)
	for name, tc := range map[string]struct {
		body    string
		headers []string
		want    []seen // without bodies
	}{
		"adyen-platform": {`{"type":"balancePlatform.transfer.updated","timestamp":"2026-01-02T01:00:00+01:00","data":{"id":"T1"}}`, nil,
			[]seen{{"", "balancePlatform.transfer.updated", "T1", "T1", "2026-01-02T00:00:00Z", ""}}},
		"dynamics-webhookkey": {`{"OperationId":"o1","CorrelationId":"c1","PrimaryEntityName":"account","MessageName":"Update","PrimaryEntityId":"a1"}`, nil,
			[]seen{{"o1.c1", "account.Update", "a1", "a1", "", ""}}},
		"gitlab-token": {`{"project_id":15}`, []string{"Idempotency-Key", "k1", "X-Gitlab-Event", "Push Hook"},
			[]seen{{"k1", "Push Hook", "15", "15", "", ""}}},
		"hubspot-v3": {`[{"eventId":1,"subscriptionId":2,"occurredAt":1767225598123,"subscriptionType":"deal.creation","objectId":9007199254740993}]`, nil,
			[]seen{{"1.2.1767225598123", "deal.creation", "9007199254740993", "9007199254740993", "2025-12-31T23:59:58Z", ""}}},
		"paddle": {`{"event_id":"evt_1","event_type":"price.created","occurred_at":"2026-01-02T00:00:00.5Z","data":{"id":"pri_1"}}`, nil,
			[]seen{{"evt_1", "price.created", "pri_1", "pri_1", "2026-01-02T00:00:00Z", ""}}},
		"paypal": {`{"id":"WH-1","event_type":"PAYMENT.SALE.COMPLETED","create_time":"2026-01-02T00:00:00Z","resource":{"id":"R1"}}`, nil,
			[]seen{{"WH-1", "PAYMENT.SALE.COMPLETED", "R1", "R1", "2026-01-02T00:00:00Z", ""}}},
		"pipedrive": {`{"meta":{"id":"m1","entity":"deal","action":"change","entity_id":"7","timestamp":"2026-01-02T00:00:00Z"},"data":{}}`, nil,
			[]seen{{"m1", "deal.change", "deal.7", "7", "2026-01-02T00:00:00Z", ""}}},
		"razorpay": {`{"event":"payment.captured","created_at":1767225598,"contains":["payment"],"payload":{"payment":{"entity":{"id":"pay_1"}}}}`, []string{"X-Razorpay-Event-Id", "e1"},
			[]seen{{"e1", "payment.captured", "pay_1", "pay_1", "2025-12-31T23:59:58Z", ""}}},
		"sap-event-mesh": {`{"specversion":"1.0","source":"/s4","id":"1","type":"sap.order.changed","time":"2026-01-02T00:00:00Z"}`, nil,
			[]seen{{"/s4.1", "sap.order.changed", "", "", "2026-01-02T00:00:00Z", ""}}},
		"slack": {`{"event_id":"Ev1","event_time":1767225598,"team_id":"T1","event":{"type":"message","channel":"C1"}}`, nil,
			[]seen{{"Ev1", "message", "C1", "T1", "2025-12-31T23:59:58Z", ""}}},
		"svix": {`{"type":"invoice.paid"}`, []string{"Svix-Id", "msg_1", "Svix-Timestamp", "1767225598"},
			[]seen{{"msg_1", "invoice.paid", "", "", "2025-12-31T23:59:58Z", ""}}},
		"wechatpay-v3": {`{"id":"w1","event_type":"TRANSACTION.SUCCESS","create_time":"2026-01-02T08:00:00+08:00","resource":{}}`, nil,
			[]seen{{"w1", "TRANSACTION.SUCCESS", "", "", "2026-01-02T00:00:00Z", ""}}},
		"xero": {`{"events":[{"tenantId":"t","resourceId":"r","eventType":"UPDATE","eventCategory":"INVOICE","eventDateUtc":"2026-01-02T00:00:00.123"}],"entropy":"x"}`, nil,
			[]seen{{"t.r.UPDATE.2026-01-02T00:00:00.123", "INVOICE.UPDATE", "r", "r", "2026-01-02T00:00:00Z", ""}}},
		"yookassa": {`{"type":"notification","event":"payment.succeeded","object":{"id":"p1","status":"succeeded"}}`, nil,
			[]seen{{"payment.succeeded.p1.succeeded", "payment.succeeded", "p1", "p1", "", ""}}},
		"zoho": {`{"channel_id":"1000","ids":["5","6"],"operation":"update","server_time":1767225598,"module":"Leads","token":"x"}`, nil,
			[]seen{{"1000.5,6.update.1767225598", "Leads.update", "5", "5", "", ""}}},
		"jwt-messagebird": {`{"type":"message.created"}`, []string{"MessageBird-Request-Id", "r1"},
			[]seen{{"r1", "message.created", "", "", "", ""}}},
		"quickbooks": {`{"eventNotifications":[{"realmId":"1","dataChangeEvent":{"entities":[{"name":"Customer","id":"1"}]}}]}`, nil,
			[]seen{{"", "quickbooks.change", "1", "1", "", ""}}},
		"shopify": {`{"id":820982911946154508}`, []string{"X-Shopify-Webhook-Id", "w1", "X-Shopify-Topic", "orders/create", "X-Shopify-Triggered-At", "2026-01-02T00:00:00Z"},
			[]seen{{"w1", "orders/create", "820982911946154508", "820982911946154508", "2026-01-02T00:00:00Z", ""}}},
		"xero-intent": {`{"events":[],"entropy":"x"}`, nil, nil},
	} {
		scheme, _, _ := strings.Cut(name, "-intent")
		r := mustReceive(t, webhookOf(t, c.verify(t, scheme)))
		events, err := r.Events(calling(tc.body, tc.headers...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := see(events)
		for i := range got {
			if i < len(tc.want) && tc.want[i].id == "" {
				tc.want[i].id = print(got[i].body)
			}
			got[i].body = ""
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, tc.want)
		}
	}
}
