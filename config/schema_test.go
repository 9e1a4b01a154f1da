package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tidewire/tidewire/config"
)

type stripeSettings struct {
	APIKey  config.Secret `yaml:"api_key" doc:"Key for the API."`
	Webhook *struct {
		Secret config.Secret `yaml:"secret,required" doc:"Signing secret."`
	} `yaml:"webhook"`
}

type httpSettings struct {
	URL   string            `yaml:"url" doc:"Where to."`
	Retry bool              `yaml:"retry" default:"true"`
	Node  config.Node       `yaml:"anything"`
	Heads map[string]string `yaml:"headers"`
	Self  *httpSettings     `yaml:"self"`
}

func schema(t *testing.T) map[string]any {
	t.Helper()
	text, err := config.Schema([]config.ConnectorSchema{
		{Name: "stripe", Title: "Stripe", Settings: stripeSettings{}},
		{Name: "http", Title: "Any HTTP API", Settings: &httpSettings{}},
		{Name: "file", Settings: struct{}{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTheSchemaSaysWhatTheDecoderDoes(t *testing.T) {
	t.Parallel()
	s := schema(t)
	equal(t, "$schema", s["$schema"], "https://json-schema.org/draft/2020-12/schema")
	for _, name := range []string{"smallest.yaml", "cluster.yaml", "everything.yaml"} {
		if err := validate(s, s, document(t, filepath.Join("testdata/good", name))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What the schema can see, it refuses as the decoder does.
	for _, name := range strings.Fields(`unknown-section unknown-server-key unknown-route-key unknown-retry-key from-misspelt top-level-list section-is-text
		connections-as-list connection-is-text number-for-text text-for-number quoted-number fraction-for-whole-number mapping-for-list list-for-mapping
		rate-without-unit rate-unknown-unit start-unknown log-level-unknown log-format-unknown no-connections connection-without-connector
		connection-name-upper-case connection-name-with-dot connection-name-too-long route-name-with-space route-without-from route-without-to
		retry-jitter-above-one retry-multiplier-below-one retry-attempts-negative sasl-mechanism-unknown secret-is-a-number`) {
		if err := validate(s, s, document(t, filepath.Join("testdata/bad", name+".yaml"))); err == nil {
			t.Errorf("%s: the schema has nothing against it", name)
		}
	}
}

func TestTheSchemaDescribesEverySetting(t *testing.T) {
	t.Parallel()
	s := schema(t)
	var look func(path string, v any)
	count := 0
	look = func(path string, v any) {
		object, _ := v.(map[string]any)
		properties, _ := object["properties"].(map[string]any)
		for name, p := range properties {
			count++
			if p, _ := p.(map[string]any); p["description"] == nil && !strings.HasPrefix(path, "#") {
				t.Errorf("%s.%s has no description", path, name)
			}
			look(path+"."+name, p)
		}
		look2, _ := object["additionalProperties"].(map[string]any)
		if look2 != nil {
			look(path+".*", look2)
		}
	}
	look("", s)
	if count < 50 {
		t.Errorf("only %d settings", count)
	}
	shutdown := s["properties"].(map[string]any)["server"].(map[string]any)["properties"].(map[string]any)["shutdown_timeout"].(map[string]any)
	equal(t, "default", shutdown["default"], "25s")
	concurrency := s["properties"].(map[string]any)["routes"].(map[string]any)["additionalProperties"].(map[string]any)["properties"].(map[string]any)["concurrency"].(map[string]any)
	equal(t, "default", fmt.Sprint(concurrency["default"]), "32")
}

func document(t *testing.T, file string) any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// validate is as much of JSON Schema as the config's schema uses; a word it does not know is a failure.
func validate(root, s map[string]any, v any) error {
	if ref, ok := s["$ref"].(string); ok {
		inner := root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")]
		if err := validate(root, inner.(map[string]any), v); err != nil {
			return err
		}
	}
	for word, want := range s {
		var err error
		switch word {
		case "$ref", "$defs", "$schema", "$id", "title", "description", "default", "examples", "writeOnly", "additionalProperties":
		case "type":
			err = typed(want.(string), v)
		case "const":
			if v != want {
				err = fmt.Errorf("%v is not %v", v, want)
			}
		case "enum":
			if !slices.Contains(want.([]any), v) {
				err = fmt.Errorf("%v is not one of %v", v, want)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(want.(string)).MatchString(text) {
				err = fmt.Errorf("%q does not match %s", text, want)
			}
		case "minLength":
			if text, ok := v.(string); ok && text == "" {
				err = fmt.Errorf("empty")
			}
		case "minimum", "maximum":
			err = bounded(word, want.(json.Number), v)
		case "anyOf", "oneOf":
			err = choice(root, word, want.([]any), v)
		case "required":
			for _, key := range want.([]any) {
				if object, ok := v.(map[string]any); ok && object[key.(string)] == nil {
					err = fmt.Errorf("%v is missing", key)
				}
			}
		case "items":
			list, _ := v.([]any)
			for _, item := range list {
				err = firstError(err, validate(root, want.(map[string]any), item))
			}
		case "propertyNames":
			object, _ := v.(map[string]any)
			for key := range object {
				err = firstError(err, validate(root, want.(map[string]any), key))
			}
		case "properties":
			err = object(root, s, v)
		default:
			err = fmt.Errorf("the schema uses %s", word)
		}
		if err != nil {
			return err
		}
	}
	if s["properties"] == nil && s["additionalProperties"] != nil {
		return object(root, s, v)
	}
	return nil
}

func object(root, s map[string]any, v any) error {
	fields, _ := v.(map[string]any)
	properties, _ := s["properties"].(map[string]any)
	for key, value := range fields {
		if p, ok := properties[key].(map[string]any); ok {
			if err := validate(root, p, value); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			continue
		}
		switch more := s["additionalProperties"].(type) {
		case bool:
			if !more {
				return fmt.Errorf("unknown key %s", key)
			}
		case map[string]any:
			if err := validate(root, more, value); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	return nil
}

func choice(root map[string]any, word string, choices []any, v any) error {
	fit, last := 0, error(nil)
	for _, c := range choices {
		err := validate(root, c.(map[string]any), v)
		if err == nil {
			fit++
		} else {
			last = err
		}
	}
	if fit == 0 || word == "oneOf" && fit > 1 {
		return fmt.Errorf("%d of %d choices fit: %w", fit, len(choices), last)
	}
	return nil
}

func bounded(word string, want json.Number, v any) error {
	bound, err := want.Float64()
	if err != nil {
		return err
	}
	var x float64
	switch n := v.(type) {
	case int:
		x = float64(n)
	case float64:
		x = n
	default:
		return nil
	}
	if word == "minimum" && x < bound || word == "maximum" && x > bound {
		return fmt.Errorf("%v is beyond %v", x, bound)
	}
	return nil
}

func typed(want string, v any) error {
	got := map[string]bool{}
	switch v.(type) {
	case string:
		got["string"] = true
	case bool:
		got["boolean"] = true
	case int:
		got["integer"], got["number"] = true, true
	case float64:
		got["number"] = true
	case []any:
		got["array"] = true
	case map[string]any:
		got["object"] = true
	}
	if !got[want] {
		return fmt.Errorf("%T is not %s", v, want)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
