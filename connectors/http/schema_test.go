package http_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/http"
	"github.com/tidewire/tidewire/connectors/signature"
)

// schema judges the settings of a connection as an editor would, with another implementation of JSON Schema than wrote it.
func schema(t *testing.T) func(connection map[string]any) error {
	t.Helper()
	text, err := config.Schema([]config.ConnectorSchema{{Name: "http", Settings: http.Settings{}}})
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("tidewire.schema.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("tidewire.schema.json")
	if err != nil {
		t.Fatalf("not a JSON Schema: %v", err)
	}
	return func(connection map[string]any) error {
		raw, err := json.Marshal(map[string]any{"connections": map[string]any{"shop": connection}})
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		return compiled.Validate(value)
	}
}

// samples are values of the settings that some schemes do not take.
var samples = map[string]any{
	"header": "X-A", "query": "q", "field": "f", "format": map[string]any{"kind": "plain"}, "hash": "sha256", "encoding": "hex", "key": "utf8", "key_strip": "x_",
	"signed": "{body}", "alt_signed": "{body}", "ts": map[string]any{"header": "X-T"}, "required": []string{"X-B"}, "require_equal": map[string]any{"X-C": "1"},
	"key_id": map[string]any{"header": "X-K"}, "cert": map[string]any{"subject_cn_suffix": ".example"}, "url_variants": []string{"decoded"}, "body_hash_query": "b",
	"algorithms": []string{"HS256"}, "claims": map[string]any{"a": "b"}, "issuer": "i", "audience": "a", "body_hash_claim": "c", "url_hash_claim": "d",
	"challenge": "hub.challenge", "secret": anySecret, "secrets": []string{anySecret, "x" + anySecret}, "public_key": "k", "certificate": "c", "username": "u",
	"password": "p", "tolerance": "10s",
}

// TestTheSchemaKnowsEveryScheme holds the schema to the code, both ways: what a scheme needs and does not take is the same to both.
func TestTheSchemaKnowsEveryScheme(t *testing.T) {
	t.Parallel()
	c, judge := newCredentials(t), schema(t)
	both := func(what string, verify map[string]any) {
		if err := judge(map[string]any{"connector": "http", "webhook": map[string]any{"verify": verify}}); err == nil {
			t.Errorf("%s: the schema has nothing against it", what)
		}
		if _, err := openReceiver(webhookOf(t, verify)); err == nil {
			t.Errorf("%s: the code has nothing against it", what)
		}
	}
	seen := map[string]bool{}
	for _, shape := range signature.Shapes() {
		for i, name := range shape.Schemes {
			if seen[name] {
				t.Errorf("%s has two shapes", name)
			}
			seen[name] = true
			verify := c.verify(t, name)
			if err := judge(map[string]any{"connector": "http", "webhook": map[string]any{"verify": verify}}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, setting := range shape.Refused {
				if i > 0 { // the others are in the same rule
					break
				}
				with := c.verify(t, name)
				if with[setting] = samples[setting]; with[setting] == nil {
					t.Fatalf("no sample of %s", setting)
				}
				both(name+" with "+setting, with)
			}
			for _, group := range shape.Needs {
				without := c.verify(t, name)
				for _, setting := range group {
					delete(without, setting)
				}
				both(name+" without "+strings.Join(group, ", "), without)
			}
		}
	}
	for _, s := range signature.Schemes() {
		for _, name := range append(slices.Clone(s.Aliases), s.Name) {
			if !seen[name] {
				t.Errorf("%s has no shape", name)
			}
		}
	}
	both("an unknown scheme", map[string]any{"scheme": "strype", "secret": anySecret})
	both("no scheme", map[string]any{"secret": anySecret})
	both("an unknown setting", map[string]any{"scheme": "github", "secret": anySecret, "sekret": "x"})
	both("secret and secrets", map[string]any{"scheme": "github", "secret": anySecret, "secrets": []string{"a", "b"}})
	both("another hash", map[string]any{"scheme": "hmac", "header": "X", "secret": anySecret, "hash": "md5"})
}

// TestTheSchemaDescribesVerify: an editor shows what each scheme and each setting is.
func TestTheSchemaDescribesVerify(t *testing.T) {
	t.Parallel()
	text, err := config.Schema([]config.ConnectorSchema{{Name: "http", Settings: http.Settings{}}})
	if err != nil {
		t.Fatal(err)
	}
	type node struct {
		Description string
		Const       string
		Properties  map[string]node
		AnyOf       []node
		OneOf       []node
		Defs        map[string]node `json:"$defs"`
	}
	var root node
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	verify := root.Defs["connection"].OneOf[0].Properties["webhook"].Properties["verify"]
	for name, p := range verify.Properties {
		if p.Description == "" {
			t.Errorf("%s has no description", name)
		}
	}
	if len(verify.Properties) < 35 || verify.Description == "" {
		t.Errorf("%d settings, %q", len(verify.Properties), verify.Description)
	}
	words := map[string]string{}
	for _, w := range verify.Properties["scheme"].AnyOf {
		words[w.Const] = w.Description
	}
	for _, name := range []string{"stripe", "shopify", "hubspot", "hmac", "none"} {
		if words[name] == "" {
			t.Errorf("%s is not offered, or without a word", name)
		}
	}
}
