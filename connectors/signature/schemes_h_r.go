package signature

func schemesHtoR() []Scheme {
	hubspot := Defaults{
		ID:   `string(body.eventId) + "." + string(body.subscriptionId) + "." + string(body.occurredAt)`,
		Type: "string(body.subscriptionType)", Subject: "string(body.objectId)", Key: "string(body.objectId)",
		Time: "timestamp(body.occurredAt / 1000)",
	}
	const hubspotDocs = "https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation"
	const hubspotRetries = "up to 10 times within 24 h; 400, 401, 403, 404 and 405 stop it, 429 with Retry-After is obeyed"
	return []Scheme{{
		Name: "hubspot-v1", Title: "HubSpot (v1 signatures, older apps)", Docs: hubspotDocs,
		Rules: Settings{Scheme: kindHash, Header: "X-HubSpot-Signature", Hash: "sha256", Encoding: "hex", Signed: "{secret}{body}"},
		Needs: []string{"secret"}, Defaults: hubspot, Many: true, Body: JSON, Retries: hubspotRetries,
	}, {
		Name: "hubspot-v2", Title: "HubSpot (v2 signatures, workflows and cards)", Docs: hubspotDocs,
		Rules: Settings{Scheme: kindHash, Header: "X-HubSpot-Signature", Hash: "sha256", Encoding: "hex", Signed: "{secret}{method}{url}{body}"},
		Needs: []string{"secret", "public_url"}, Methods: getPost(), Defaults: hubspot, Many: true, Body: JSON, Retries: hubspotRetries,
	}, {
		Name: "hubspot-v3", Aliases: []string{"hubspot"}, Title: "HubSpot", Docs: hubspotDocs,
		Rules: Settings{Scheme: kindHMAC, Header: "X-HubSpot-Signature-v3", Hash: "sha256", Encoding: "base64", Signed: "{method}{url}{body}{ts}",
			TS: &TS{Header: "X-HubSpot-Request-Timestamp", Unit: "ms"}, Tolerance: seconds(300), URLVariants: []string{decodedEscapes}},
		Needs: []string{"secret", "public_url"}, Methods: getPost(), Defaults: hubspot, Many: true, Body: JSON, Retries: hubspotRetries,
	}, {
		Name: "intercom", Title: "Intercom",
		Docs: "https://developers.intercom.com/docs/webhooks",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Hub-Signature", Format: &Format{Kind: "prefix", Prefix: "sha1="},
			Hash: "sha1", Encoding: "hex", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: "body.id", Type: "body.topic", Subject: "string(body.data.item.id)", Key: "string(body.data.item.id)", Time: "timestamp(body.created_at)",
		},
		Body: JSON, Retries: "5 s timeout; 410 unsubscribes",
	}, {
		Name: "jwt-evolution", Aliases: []string{"evolution"}, Title: "Evolution API (jwt_key)",
		Docs: "https://doc.evolution-api.com/v2/en/configuration/webhooks",
		Rules: Settings{Scheme: kindJWT, Header: "Authorization", Format: &Format{Kind: "prefix", Prefix: "Bearer "}, Algorithms: []string{"HS256"},
			Claims: map[string]string{"app": "evolution", "action": "webhook"}},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: `body.event + "." + body.instance + "." + body.data.key.id + (has(body.data.status) ? "." + string(body.data.status) : "")`, Type: "body.event",
			Subject: "body.data.key.remoteJid", Key: "body.data.key.remoteJid", Time: "timestamp(int(body.data.messageTimestamp))",
		},
		Body: JSON, Retries: "30 s timeout; 10 times, 5 s doubling to 300 s; not after 400, 401, 403, 404, 422",
	}, {
		Name: "jwt-messagebird", Aliases: []string{"messagebird"}, Title: "MessageBird",
		Docs: "https://developers.messagebird.com/api/#verifying-http-requests",
		Rules: Settings{Scheme: kindJWT, Header: "MessageBird-Signature-JWT", Algorithms: []string{"HS256", "HS384", "HS512"}, Issuer: "MessageBird",
			BodyHashClaim: "payload_hash", URLHashClaim: "url_hash", Tolerance: seconds(1)},
		Needs: []string{"secret", "public_url"}, Methods: getPost(),
		Defaults: Defaults{ID: `header("MessageBird-Request-Id")`, Type: `has(body.type) ? string(body.type) : "messagebird.event"`},
		Body:     JSON,
	}, {
		Name: "mandrill", Title: "Mailchimp Transactional (Mandrill)",
		Docs:  "https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Mandrill-Signature", Hash: "sha1", Encoding: "base64", Signed: "{url}{form_sorted}"},
		Needs: []string{"secret", "public_url"},
		Defaults: Defaults{
			ID: `string(body._id) + "." + string(body.event) + "." + string(body.ts)`, Type: "string(body.event)", Subject: "string(body._id)",
			Key: "string(body._id)", Time: "timestamp(body.ts)",
		},
		Many: true, Body: FormJSON, BodyField: "mandrill_events", Handshake: Probe,
	}, {
		Name: "mollie-nextgen", Aliases: []string{"mollie"}, Title: "Mollie (next-generation webhooks)",
		Docs: "https://docs.mollie.com/reference/webhooks-best-practices",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Mollie-Signature", Format: &Format{Kind: "prefix", Prefix: "sha256=", MultiSep: ","},
			Hash: "sha256", Encoding: "hex", Signed: "{body}"},
		Needs:    []string{"secret"},
		Defaults: Defaults{ID: "body.id", Type: "body.type", Subject: "body.entityId", Key: "body.entityId", Time: "timestamp(body.createdAt)"},
		Body:     JSON, Retries: "15 s timeout; 10 times within about 26 h; blocked after repeated failures",
	}, {
		Name: "paddle", Title: "Paddle",
		Docs: "https://developer.paddle.com/webhooks/signature-verification",
		Rules: Settings{Scheme: kindHMAC, Header: "Paddle-Signature", Format: &Format{Kind: "kv", PairSep: ";", KVSep: "=", TS: "ts", Sig: "h1"},
			Hash: "sha256", Encoding: "hex", Signed: "{ts}:{body}", TS: &TS{Unit: "s"}, Tolerance: seconds(300)},
		Needs:    []string{"secret"},
		Defaults: Defaults{ID: "body.event_id", Type: "body.event_type", Subject: "body.data.id", Key: "body.data.id", Time: "timestamp(body.occurred_at)"},
		Body:     JSON,
	}, {
		Name: "paypal", Title: "PayPal",
		Docs: "https://developer.paypal.com/api/rest/webhooks/",
		Rules: Settings{Scheme: kindRSA, Header: "PAYPAL-TRANSMISSION-SIG", Hash: "sha256", Encoding: "base64",
			Signed:       "{h:PAYPAL-TRANSMISSION-ID}|{h:PAYPAL-TRANSMISSION-TIME}|{cfg:webhook_id}|{crc32}",
			TS:           &TS{Header: "PAYPAL-TRANSMISSION-TIME", Unit: "rfc3339", Enforce: anyAge()},
			Required:     []string{"PAYPAL-AUTH-ALGO", "PAYPAL-CERT-URL"},
			RequireEqual: map[string]string{"PAYPAL-AUTH-ALGO": "SHA256withRSA"},
			Cert:         &Cert{SubjectCNSuffix: ".paypal.com", URLHeader: "PAYPAL-CERT-URL", URLHostSuffix: ".paypal.com"}},
		Needs: []string{"certificate", "chain", "webhook_id"},
		Defaults: Defaults{
			ID: "body.id", Type: "body.event_type", Subject: "string(body.resource.id)", Key: "string(body.resource.id)", Time: "timestamp(body.create_time)",
		},
		Body: JSON, Retries: "up to 25 times over 3 days, with the old timestamp",
	}, {
		Name: "pipedrive", Title: "Pipedrive",
		Docs:  "https://pipedrive.readme.io/docs/guide-for-webhooks-v2",
		Rules: Settings{Scheme: kindBasic, Header: "Authorization"},
		Needs: []string{"username", "password"},
		Defaults: Defaults{
			ID: "string(body.meta.id)", Type: `string(body.meta.entity) + "." + string(body.meta.action)`, Subject: "string(body.meta.entity_id)",
			Key: `string(body.meta.entity) + "." + string(body.meta.entity_id)`, Time: "timestamp(body.meta.timestamp)",
		},
		Body: JSON, Retries: "10 s timeout; 3 times: 3, 30, 150 s; refused for 30 min after 10 failures",
	}, {
		Name: "quickbooks", Title: "QuickBooks Online",
		Docs:  "https://developer.intuit.com/app/developer/qbo/docs/develop/webhooks",
		Rules: Settings{Scheme: kindHMAC, Header: "intuit-signature", Hash: "sha256", Encoding: "base64", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: "has(body.specversion) ? string(body.id) : \"\"", Type: `has(body.specversion) ? string(body.type) : "quickbooks.change"`,
			Subject: `has(body.specversion) ? string(body.intuitentityid) : string(body.realmId)`,
			Key:     `has(body.specversion) ? string(body.intuitentityid) : string(body.realmId)`,
			Time:    "timestamp(body.time)",
		},
		Many: true, Items: "eventNotifications", Body: JSON, Retries: "3 s timeout; a few times, then later",
	}, {
		Name: "razorpay", Title: "Razorpay",
		Docs:  "https://razorpay.com/docs/webhooks/validate-test/",
		Rules: Settings{Scheme: kindHMAC, Header: "X-Razorpay-Signature", Hash: "sha256", Encoding: "hex", Signed: "{body}"},
		Needs: []string{"secret"},
		Defaults: Defaults{
			ID: `header("x-razorpay-event-id")`, Type: "body.event", Time: "timestamp(body.created_at)",
			Subject: "string(body.payload[body.contains[0]].entity.id)", Key: "string(body.payload[body.contains[0]].entity.id)",
		},
		Body: JSON, Retries: "5 s timeout; for 24 h, then the webhook is switched off; retries of old events keep the old secret",
	}}
}
