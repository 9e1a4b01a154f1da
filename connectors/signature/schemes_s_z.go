package signature

func schemesStoZ() []Scheme {
	standard := Defaults{ID: `header("webhook-id")`, Type: "string(body.type)", Time: "timestamp(body.timestamp)"}
	const standardDocs = "https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"
	const standardRetries = "15 to 30 s timeout; the specification's table spans 75 h; 410 switches the address off"
	const twilioDocs = "https://www.twilio.com/docs/usage/webhooks/webhooks-security"
	return []Scheme{{
		Name: "sap-event-mesh", Title: "SAP Event Mesh",
		Docs:  "https://help.sap.com/docs/event-mesh",
		Rules: Settings{Scheme: kindBasic, Header: "Authorization"},
		Needs: []string{"username", "password"},
		Defaults: Defaults{
			ID:   `has(body.specversion) ? string(body.source) + "." + string(body.id) : header("ce-source") + "." + header("ce-id")`,
			Type: `has(body.specversion) ? string(body.type) : header("ce-type")`, Time: `timestamp(has(body.specversion) ? string(body.time) : header("ce-time"))`,
		},
		Body: JSON, Handshake: CloudEventsOptions, Retries: "until the answer is 2xx",
	}, {
		Name: "sendgrid", Title: "SendGrid event webhook",
		Docs: "https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features",
		Rules: Settings{Scheme: kindECDSA, Header: "X-Twilio-Email-Event-Webhook-Signature", Hash: "sha256", Encoding: "base64", Signed: "{ts}{body}",
			TS: &TS{Header: "X-Twilio-Email-Event-Webhook-Timestamp", Unit: "s", Enforce: anyAge()}},
		Needs:    []string{"public_key"},
		Defaults: Defaults{ID: "body.sg_event_id", Type: "body.event", Subject: "body.email", Key: "body.email", Time: "timestamp(body.timestamp)"},
		Many:     true, Body: JSON, Retries: "for 24 h",
	}, {
		Name: "shopify", Title: "Shopify",
		Docs:  "https://shopify.dev/docs/apps/build/webhooks/subscribe/https",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Shopify-Hmac-Sha256", Hash: "sha256", Encoding: "base64", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: `header("X-Shopify-Event-Id") != "" ? header("X-Shopify-Event-Id") : header("X-Shopify-Webhook-Id")`, Type: `header("X-Shopify-Topic")`,
			Subject: "string(body.id)", Key: "string(body.id)", Time: `timestamp(header("X-Shopify-Triggered-At"))`,
		},
		Body: JSON, Retries: "5 s timeout; 8 times within 4 h, then the subscription may be removed",
	}, {
		Name: "slack", Title: "Slack",
		Docs: "https://docs.slack.dev/authentication/verifying-requests-from-slack",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Slack-Signature", Format: &Format{Kind: "prefix", Prefix: "v0="}, Hash: "sha256", Encoding: "hex",
			Signed: "v0:{ts}:{body}", TS: &TS{Header: "X-Slack-Request-Timestamp", Unit: "s"}, Tolerance: seconds(300)},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: "body.event_id", Type: `has(body.event) ? string(body.event.type) : string(body.type)`, Subject: "string(body.team_id)",
			Key: "has(body.event.channel) ? string(body.event.channel) : string(body.team_id)", Time: "timestamp(body.event_time)",
		},
		Body: JSON, Handshake: SlackChallenge, Retries: "3 s timeout; at once, after 1 and 5 min",
	}, {
		Name: "square", Title: "Square",
		Docs:  "https://developer.squareup.com/docs/webhooks/step3validate",
		Rules: Settings{Scheme: kindHMAC, Header: "x-square-hmacsha256-signature", Hash: "sha256", Encoding: "base64", Signed: "{url}{body}"},
		Needs: []string{"secret", "public_url"},
		Defaults: Defaults{
			ID: "body.event_id", Type: "body.type", Subject: "string(body.data.id)", Key: "string(body.data.id)", Time: "timestamp(body.created_at)",
		},
		Body: JSON, Retries: "for 24 h, 1 min growing to 8 h",
	}, {
		Name: "standard-webhooks", Title: "Standard Webhooks", Docs: standardDocs,
		Rules: standardWebhooks("webhook", kindHMAC, "v1", "whsec_"), Needs: []string{"secret"},
		Defaults: standard, Body: JSON, Retries: standardRetries,
	}, {
		Name: "standard-webhooks-v1a", Title: "Standard Webhooks with a public key", Docs: standardDocs,
		Rules: standardWebhooks("webhook", kindEd25519, "v1a", "whpk_"), Needs: []string{"public_key"},
		Defaults: standard, Body: JSON, Retries: standardRetries,
	}, {
		Name: stripe, Title: "Stripe",
		Docs: "https://docs.stripe.com/webhooks/signature",
		Rules: Settings{Scheme: kindHMAC, Header: "Stripe-Signature", Format: &Format{Kind: "kv", PairSep: ",", KVSep: "=", TS: "t", Sig: "v1"},
			Hash: "sha256", Encoding: "hex", Signed: "{ts}.{body}", TS: &TS{Unit: "s"}, Tolerance: seconds(300)},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: "body.id", Type: "body.type", Subject: "string(body.data.object.id)", Key: "string(body.data.object.id)", Time: "timestamp(body.created)",
		},
		Body: JSON, Retries: "live: up to 3 days with growing gaps; sandbox: 3 times within hours",
	}, {
		Name: "svix", Title: "Svix",
		Docs:  "https://docs.svix.com/receiving/verifying-payloads/how",
		Rules: standardWebhooks("svix", kindHMAC, "v1", "whsec_"), Needs: []string{"secret"},
		Defaults: Defaults{ID: `header("svix-id")`, Type: "string(body.type)", Time: `timestamp(int(header("svix-timestamp")))`},
		Body:     JSON, Retries: standardRetries,
	}, {
		Name: "twilio-form", Aliases: []string{"twilio"}, Title: "Twilio (form)", Docs: twilioDocs,
		Rules: Settings{Scheme: kindHMAC, Header: "X-Twilio-Signature", Hash: "sha1", Encoding: "base64", Signed: "{url}{form_sorted}",
			URLVariants: []string{withoutPort, withDefaultPort}},
		Needs: []string{"secret", "public_url"},
		Defaults: Defaults{
			ID: `header("I-Twilio-Idempotency-Token") != "" ? header("I-Twilio-Idempotency-Token") : has(body.CallSid) ? body.CallSid + "." + body.CallStatus : ` +
				`body.MessageSid + "." + (has(body.MessageStatus) ? body.MessageStatus : body.SmsStatus)`,
			Type: `has(body.CallStatus) ? "call." + body.CallStatus : has(body.MessageStatus) ? "message." + body.MessageStatus : ` +
				`has(body.SmsStatus) ? "message." + body.SmsStatus : "twilio.event"`,
			Key: "has(body.MessageSid) ? body.MessageSid : body.CallSid", Subject: "has(body.MessageSid) ? body.MessageSid : body.CallSid",
		},
		Body:    Form,
		Answers: Answers{Accepted: Answer{Status: 200, ContentType: "text/xml; charset=utf-8", Body: "<Response></Response>"}},
		Retries: "15 s timeout; only where the address asks for it",
	}, {
		Name: "twilio-json", Title: "Twilio (JSON)", Docs: twilioDocs,
		Rules: Settings{Scheme: kindHMAC, Header: "X-Twilio-Signature", Hash: "sha1", Encoding: "base64", Signed: "{url}",
			URLVariants: []string{withoutPort, withDefaultPort}, BodyHashQuery: "bodySHA256"},
		Needs: []string{"secret", "public_url"},
		Defaults: Defaults{
			ID: `has(body.id) ? string(body.id) : header("I-Twilio-Idempotency-Token")`, Type: `has(body.type) ? string(body.type) : "twilio.event"`,
			Time: "timestamp(body.time)",
		},
		Body: JSON, Retries: "15 s timeout; only where the address asks for it",
	}, {
		Name: "wechatpay-v3", Aliases: []string{"wechatpay"}, Title: "WeChat Pay (API v3)",
		Docs: "https://pay.weixin.qq.com/doc/v3/merchant/4012365342",
		Rules: Settings{Scheme: kindRSA, Header: "Wechatpay-Signature", Hash: "sha256", Encoding: "base64",
			Signed: "{ts}\n{h:Wechatpay-Nonce}\n{body}\n", TS: &TS{Header: "Wechatpay-Timestamp", Unit: "s"},
			Tolerance: seconds(299), KeyID: &KeyID{Header: "Wechatpay-Serial", Match: "cert-serial-hex"}},
		Needs:    []string{"certificate"},
		Defaults: Defaults{ID: "body.id", Type: "body.event_type", Time: "timestamp(body.create_time)"},
		Body:     JSON,
		Answers: Answers{
			Accepted: Answer{Status: 204},
			Refused:  Answer{Status: 401, ContentType: "application/json", Body: `{"code":"FAIL","message":"refused"}`},
			Invalid:  Answer{Status: 422, ContentType: "application/json", Body: `{"code":"FAIL","message":"not understood"}`},
		},
		Retries: "3 to 5 s timeout; about 15 times within 24 h",
	}, {
		Name: "woocommerce", Title: "WooCommerce",
		Docs:  "https://woocommerce.com/document/webhooks/",
		Rules: Settings{Scheme: kindHMAC, Header: "X-WC-Webhook-Signature", Hash: "sha256", Encoding: "base64", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: `header("X-WC-Webhook-Delivery-ID")`, Type: `header("X-WC-Webhook-Topic")`, Subject: "string(body.id)", Key: "string(body.id)",
			Time: `timestamp(body.date_modified_gmt + "Z")`,
		},
		Body: JSON, Handshake: WooPing, Retries: "none; switched off after 5 failures in a row",
	}, {
		Name: "xero", Title: "Xero",
		Docs:  "https://developer.xero.com/documentation/guides/webhooks/overview/",
		Rules: Settings{Scheme: kindHMAC, Header: "x-xero-signature", Hash: "sha256", Encoding: "base64", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID:   `body.tenantId + "." + body.resourceId + "." + body.eventType + "." + body.eventDateUtc`,
			Type: `body.eventCategory + "." + body.eventType`, Subject: "body.resourceId", Key: "body.resourceId",
			Time: `timestamp(body.eventDateUtc.endsWith("Z") ? body.eventDateUtc : body.eventDateUtc + "Z")`,
		},
		Many: true, Items: "events", Body: JSON, Answers: Answers{Accepted: Answer{Status: 200}, Refused: Answer{Status: 401}},
		Retries: "5 s timeout; for 24 h with falling frequency, then switched off",
	}, {
		Name: "yookassa", Title: "YooKassa (addresses only: fetch the object before you act)",
		Docs: "https://yookassa.ru/developers/using-api/webhooks",
		Rules: Settings{Scheme: kindIPAllow, Allow: []string{"185.71.76.0/27", "185.71.77.0/27", "77.75.153.0/25", "77.75.156.11", "77.75.156.35",
			"77.75.154.128/25", "2a02:5180::/32"}},
		Defaults: Defaults{
			ID: `body.event + "." + body.object.id + "." + body.object.status`, Type: "body.event", Subject: "body.object.id", Key: "body.object.id",
		},
		Body: JSON, Retries: "for 24 h",
	}, {
		Name: "zendesk", Title: "Zendesk",
		Docs: "https://developer.zendesk.com/documentation/webhooks/verifying/",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Zendesk-Webhook-Signature", Hash: "sha256", Encoding: "base64", Signed: "{ts}{body}",
			TS: &TS{Header: "X-Zendesk-Webhook-Signature-Timestamp", Unit: "rfc3339"}, Tolerance: seconds(300)},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID:   `has(body.id) ? string(body.id) : header("X-Zendesk-Webhook-Invocation-Id")`,
			Type: `has(body.type) ? string(body.type) : has(body.event) ? string(body.event) : "zendesk.event"`,
			Time: `timestamp(header("X-Zendesk-Webhook-Signature-Timestamp"))`,
		},
		Body: JSON, Retries: "10 s timeout; on 409 up to 3 times, on 429 and 503 with Retry-After below 60 s",
	}, {
		Name: "zoho", Title: "Zoho CRM notifications",
		Docs:  "https://www.zoho.com/crm/developer/docs/api/v8/notifications/overview.html",
		Rules: Settings{Scheme: kindToken, Field: "token"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID:   `string(body.channel_id) + "." + body.ids.map(i, string(i)).join(",") + "." + string(body.operation) + "." + string(body.server_time)`,
			Type: `string(body.module) + "." + string(body.operation)`, Subject: "string(body.ids[0])", Key: "string(body.ids[0])",
		},
		Body: JSON, Retries: "none promised; the channel ends after a week at most",
	}}
}
