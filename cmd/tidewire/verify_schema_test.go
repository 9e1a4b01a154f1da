package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// TestWebhooksToEditorsAndToTheHub holds the schema that editors read against what 'validate' says, for the examples we hand out and for
// webhook settings that are wrong.
func TestWebhooksToEditorsAndToTheHub(t *testing.T) {
	t.Parallel()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(call(t, "", "config", "schema").out))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("tidewire.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("tidewire.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	judge := func(text string) error {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return schema.Validate(v)
	}
	for _, path := range configs(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := judge(string(text)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	config := func(webhook string) string {
		return "connections:\n  shop: {connector: http, webhook: " + webhook + "}\n  to: {connector: file, path: " + filepath.Join(t.TempDir(), "out.jsonl") +
			"}\nroutes:\n  all: {from: shop, to: to}\n"
	}
	for name, webhook := range map[string]string{
		"a named scheme":      `{verify: {scheme: shopify, secret: a-secret-of-the-shop}}`,
		"under another name":  `{verify: {scheme: mollie, secret: a-secret-of-the-shop}}`,
		"a rotation":          `{verify: {scheme: github, secrets: [one-secret, two-secret], secrets_until: "2030-01-01T00:00:00Z"}}`,
		"one of several":      `{verify: {scheme: github, secrets: one-secret}}`,
		"spelled out":         `{verify: {scheme: hmac, secret: a-secret-of-the-shop, header: X-Sig, hash: sha512, encoding: base64, signed: "{ts}.{body}", ts: {header: X-T, unit: ms}, tolerance: 60s}}`,
		"a token in a query":  `{verify: {scheme: token, secret: a-secret-of-the-shop, query: code}, methods: GET}`,
		"several methods":     `{verify: {scheme: frappe, secret: a-secret-of-the-shop}, methods: [POST, DELETE]}`,
		"addresses":           `{verify: {scheme: ip-allow, allow: 192.0.2.0/24}}`,
		"a second password":   `{verify: {scheme: basic, username: u, secrets: [a-secret-of-the-shop, another-secret]}}`,
		"items and a limit":   `{verify: {scheme: gocardless, secret: a-secret-of-the-shop}, items: data.items, max_body: 2MiB, rate_limit: 10/s, compressed: true}`,
		"expressions and all": `{verify: {scheme: none}, id: string(body.id), type: '"a"', key: body.k, time: body.t, subject: method}`,
	} {
		if got := call(t, "", "validate", "--config", file(t, "tidewire.yaml", config(webhook))); got.code != exitOK {
			t.Errorf("%s: %s", name, got.err)
		}
		if err := judge(config(webhook)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, webhook := range map[string]string{
		"no verify":                 `{id: body.id}`,
		"no scheme":                 `{verify: {secret: a-secret-of-the-shop}}`,
		"an unknown scheme":         `{verify: {scheme: strype, secret: a-secret-of-the-shop}}`,
		"a rule of a named scheme":  `{verify: {scheme: stripe, secret: a-secret-of-the-shop, hash: sha1}}`,
		"no secret":                 `{verify: {scheme: stripe}}`,
		"an empty secret":           `{verify: {scheme: stripe, secret: ""}}`,
		"secret and secrets":        `{verify: {scheme: stripe, secret: a-secret-of-the-shop, secrets: [a-secret-of-the-shop]}}`,
		"a secret of no use":        `{verify: {scheme: sendgrid, public_key: k, secret: a-secret-of-the-shop}}`,
		"no public url":             `{verify: {scheme: square, secret: a-secret-of-the-shop}}`,
		"a tolerance of no use":     `{verify: {scheme: github, secret: a-secret-of-the-shop, tolerance: 10s}}`,
		"no place of the signature": `{verify: {scheme: hmac, secret: a-secret-of-the-shop}}`,
		"no addresses":              `{verify: {scheme: ip-allow}}`,
		"no algorithms":             `{verify: {scheme: jwt, secret: a-secret-that-is-long-enough, header: X-T}}`,
		"an unknown hash":           `{verify: {scheme: hmac, secret: a-secret-of-the-shop, header: X, hash: md5}}`,
		"an unknown encoding":       `{verify: {scheme: hmac, secret: a-secret-of-the-shop, header: X, encoding: base32}}`,
		"a unit of no time":         `{verify: {scheme: hmac, secret: a-secret-of-the-shop, header: X, signed: "{ts}{body}", ts: {header: T, unit: us}}}`,
		"a misspelt setting":        `{verify: {scheme: github, secrett: a-secret-of-the-shop}}`,
		"an unknown method":         `{verify: {scheme: github, secret: a-secret-of-the-shop}, methods: [PUTS]}`,
		"a misspelt webhook key":    `{verify: {scheme: github, secret: a-secret-of-the-shop}, method: PUT}`,
		"a list for verify":         `{verify: [github]}`,
	} {
		if got := call(t, "", "validate", "--config", file(t, "tidewire.yaml", config(webhook))); got.code != exitUsage {
			t.Errorf("%s: the hub has nothing against it (exit %d)", name, got.code)
		}
		if err := judge(config(webhook)); err == nil {
			t.Errorf("%s: the schema has nothing against it", name)
		}
	}
}
