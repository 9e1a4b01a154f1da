package signature

import (
	"net/http"
	"time"

	"github.com/tidewire/tidewire/config"
)

// seconds is a tolerance in the tables.
func seconds(n int) config.Duration { return config.Duration(time.Duration(n) * time.Second) }

// anyAge is TS.Enforce for providers that retry with the old timestamp.
func anyAge() *bool {
	enforce := false
	return &enforce
}

// getPost are the methods of providers that deliver by both: what a GET says is in its query, which they sign.
func getPost() []string { return []string{http.MethodGet, http.MethodPost} }

// ok200 is a plain 200 with a text.
func ok200(body string) Answer {
	return Answer{Status: 200, ContentType: "text/plain; charset=utf-8", Body: body}
}

// The tables below are sorted by name. What they say of a provider is from its documentation and SDKs.

func schemesAtoG() []Scheme {
	return []Scheme{{
		Name: "adyen-platform", Title: "Adyen (platform, banking, management and token webhooks)",
		Docs:  "https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures/",
		Rules: Settings{Scheme: kindHMAC, Header: "HmacSignature", Hash: "sha256", Encoding: "base64", Key: "hex", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			Type:    "has(body.type) ? string(body.type) : string(body.eventType)",
			Subject: "string(body.data.id)", Key: "string(body.data.id)", Time: "timestamp(body.timestamp)",
		},
		Body: JSON, Answers: Answers{Accepted: ok200("[accepted]")},
		Retries: "10 s timeout; queued per address, oldest first: 2, 5, 10, 15, 30 min, 1, 2, 4, 8 h, for 30 days",
	}, {
		Name: "adyen-standard", Aliases: []string{"adyen"}, Title: "Adyen (standard payment notifications)",
		Docs:  "https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures/",
		Rules: Settings{Scheme: kindAdyen, Key: "hex"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID:   `body.NotificationRequestItem.eventCode + "." + body.NotificationRequestItem.pspReference + "." + body.NotificationRequestItem.success`,
			Type: "body.NotificationRequestItem.eventCode", Subject: "body.NotificationRequestItem.pspReference",
			Key:  "body.NotificationRequestItem.merchantReference",
			Time: "timestamp(body.NotificationRequestItem.eventDate)",
		},
		Many: true, Items: "notificationItems", Body: JSON, Answers: Answers{Accepted: ok200("[accepted]")},
		Retries: "10 s timeout; queued per address, oldest first: 2, 5, 10, 15, 30 min, 1, 2, 4, 8 h, for 30 days",
	}, {
		Name: "alipay-rsa2", Aliases: []string{"alipay"}, Title: "Alipay",
		Docs: "https://opendocs.alipay.com/open/270/105902",
		Rules: Settings{Scheme: kindRSA, Field: "sign", Hash: "sha256", Encoding: "base64",
			Signed: "{form_kv_sorted:-sign,-sign_type}", AltSigned: "{form_kv_sorted:-sign}"},
		Needs: []string{"public_key"},
		Defaults: Defaults{
			ID: "body.notify_id", Type: "body.notify_type", Subject: "body.trade_no", Key: "body.out_trade_no",
			Time: `timestamp(body.notify_time.replace(" ", "T") + "+08:00")`,
		},
		Body: Form, Answers: Answers{Accepted: ok200("success")},
		Retries: "until the answer is success: about 8 times within 25 h",
	}, {
		Name: "api-key", Title: "any system with a fixed key in the header X-Api-Key",
		Rules: Settings{Scheme: kindToken, Header: "X-Api-Key"},
		Needs: []string{"secret"}, Body: JSON,
	}, {
		Name: "braintree", Title: "Braintree",
		Docs:  "https://developer.paypal.com/braintree/docs/guides/webhooks/overview",
		Rules: Settings{Scheme: kindBrain, Hash: "sha1", Key: "sha1(utf8)"},
		Needs: []string{"public_key", "secret"},
		Defaults: Defaults{
			Type: `"braintree.notification"`,
		},
		Body: Form, Handshake: BraintreeChallenge,
		Retries: "30 s timeout; hourly for 24 h, in the sandbox for 3 h",
	}, {
		Name: "braintree-challenge", Title: "Braintree (the address test alone)",
		Docs:  "https://developer.paypal.com/braintree/docs/guides/webhooks/overview",
		Rules: Settings{Scheme: kindBrainGet, Hash: "sha1", Key: "sha1(utf8)"},
		Needs: []string{"public_key", "secret"}, Body: Form, Handshake: BraintreeChallenge,
	}, {
		Name: "checkout", Title: "Checkout.com",
		Docs:  "https://www.checkout.com/docs/developer-resources/webhooks",
		Rules: Settings{Scheme: kindHMAC, Header: "Cko-Signature", Hash: "sha256", Encoding: "hex", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: "body.id", Type: "body.type", Subject: "body.data.id", Key: "body.data.id",
			Time: "timestamp(has(body.created_on) ? body.created_on : body.timestamp)",
		},
		Body: JSON, Retries: "10 s timeout; 8 times: 5, 10, 15, 30 min, 1, 4, 12, 12 h; order is not kept",
	}, {
		Name: "dynamics-webhookkey", Aliases: []string{"dynamics"}, Title: "Dynamics 365 and Dataverse (WebhookKey)",
		Docs:  "https://learn.microsoft.com/power-apps/developer/data-platform/register-web-hook",
		Rules: Settings{Scheme: kindToken, Query: "code"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID:   `has(body.OperationId) ? body.OperationId + "." + body.CorrelationId : header("x-request-id")`,
			Type: `body.PrimaryEntityName + "." + body.MessageName`, Subject: "body.PrimaryEntityId", Key: "body.PrimaryEntityId",
		},
		Body: JSON, Retries: "60 s timeout; synchronous steps fail the user's transaction, others wait as system jobs",
	}, {
		Name: "espocrm", Title: "EspoCRM",
		Docs:     "https://docs.espocrm.com/administration/webhooks/",
		Rules:    Settings{Scheme: kindEspo, Header: "Signature", Hash: "sha256"},
		Needs:    []string{"secret", "webhook_id"},
		Defaults: Defaults{ID: `string(body.id) + "." + string(body.modifiedAt)`, Type: `"espocrm.record"`, Subject: "string(body.id)", Key: "string(body.id)"},
		Many:     true, Body: JSON, Answers: Answers{Accepted: ok200("OK")},
	}, {
		Name: "frappe", Aliases: []string{"erpnext"}, Title: "ERPNext and Frappe",
		Docs:  "https://docs.frappe.io/framework/user/en/guides/integration/webhooks",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Frappe-Webhook-Signature", Hash: "sha256", Encoding: "base64", Signed: "{body}"},
		Needs: []string{"secret"}, Methods: []string{http.MethodPost, http.MethodPut, http.MethodDelete},
		Defaults: Defaults{
			// A document that is deleted has the time of its last change still: without the method its end would be taken for a repeat of that.
			ID: `(has(body.doctype) ? string(body.doctype) + "." : "") + string(body.name) + "." + string(body.modified) + ` +
				`(method == "POST" ? "" : "." + method)`,
			Type: `has(body.doctype) ? string(body.doctype) : "frappe.document"`, Subject: "string(body.name)", Key: "string(body.name)",
		},
		Body: JSON, Retries: "5 s timeout; 3 tries within seconds, then never again",
	}, {
		Name: "github", Title: "GitHub",
		Docs: "https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Hub-Signature-256", Format: &Format{Kind: "prefix", Prefix: "sha256="},
			Hash: "sha256", Encoding: "hex", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: `header("X-GitHub-Delivery")`, Type: `header("X-GitHub-Event") + (has(body.action) ? "." + string(body.action) : "")`,
			Subject: "string(body.repository.full_name)", Key: "string(body.repository.full_name)",
		},
		Body: JSON, Retries: "10 s timeout; none by itself, redelivery by API within 3 days",
	}, {
		Name: "gitlab-signing", Title: "GitLab (signing token)",
		Docs:  "https://docs.gitlab.com/user/project/integrations/webhooks/",
		Rules: standardWebhooks("webhook", kindHMAC, "v1", "whsec_"),
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: `header("webhook-id")`, Type: `header("X-Gitlab-Event")`, Subject: "string(body.project_id)", Key: "string(body.project_id)",
			Time: `timestamp(int(header("webhook-timestamp")))`,
		},
		Body: JSON, Retries: "10 s timeout; switched off for growing times after 4 failures in a row, for good after 40",
	}, {
		Name: "gitlab-token", Aliases: []string{"gitlab"}, Title: "GitLab (secret token)",
		Docs:  "https://docs.gitlab.com/user/project/integrations/webhooks/",
		Rules: Settings{Scheme: kindToken, Header: "X-Gitlab-Token"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID:   `header("Idempotency-Key") != "" ? header("Idempotency-Key") : header("X-Gitlab-Event-UUID")`,
			Type: `header("X-Gitlab-Event")`, Subject: "string(body.project_id)", Key: "string(body.project_id)",
		},
		Body: JSON, Retries: "10 s timeout; switched off for growing times after 4 failures in a row, for good after 40",
	}, {
		Name: "gocardless", Title: "GoCardless",
		Docs:  "https://developer.gocardless.com/getting-started/staying-up-to-date-with-webhooks",
		Rules: Settings{Scheme: kindHMAC, Header: "Webhook-Signature", Hash: "sha256", Encoding: "hex", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: "body.id", Type: `body.resource_type + "." + body.action`, Time: "timestamp(body.created_at)",
			Subject: `body.links.map(k, k != "parent_event" && k != "organisation", string(body.links[k]))[0]`,
			Key:     `body.links.map(k, k != "parent_event" && k != "organisation", string(body.links[k]))[0]`,
		},
		Many: true, Items: "events", Body: JSON, Answers: Answers{Refused: Answer{Status: 498}},
		Retries: "10 s timeout; the whole batch up to 8 times; redirects fail; order is not kept",
	}}
}

// standardWebhooks are the rules of the Standard Webhooks specification with the headers' prefix of a provider.
func standardWebhooks(prefix, kind, version, strip string) Settings {
	s := Settings{
		Scheme: kind, Header: prefix + "-signature", Format: &Format{Kind: "list", Sep: " ", Version: version, VersionSep: ","},
		Encoding: "base64", KeyStrip: strip, Signed: "{h:" + prefix + "-id}.{ts}.{body}",
		TS: &TS{Header: prefix + "-timestamp", Unit: "s"}, Tolerance: seconds(300), Required: []string{prefix + "-id"},
	}
	if kind == kindHMAC {
		s.Hash, s.Key = "sha256", "base64"
	}
	return s
}
