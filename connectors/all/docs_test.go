package all_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/all"
	"github.com/tidewire/tidewire/connectors/signature"
)

var update = flag.Bool("update", false, "write docs/connectors anew")

// docsDir is where the pages are.
var docsDir = filepath.Join("..", "..", "docs", "connectors")

// examples show each connector at work. Every one is opened by a test.
var examples = map[string]string{
	"file": `
connections:
  archive:
    connector: file
    path: /var/lib/tidewire/archive/events.jsonl
    rotate_size: 256MiB
    rotate_every: 24h
    keep: 30
`,
	"http": `
connections:
  shop:                            # a source: its webhooks come to /in/shop
    connector: http
    webhook:
      verify: {scheme: shopify, secret: "${env:SHOP_SECRET}"}

  warehouse:                       # a source that signs in a way of its own
    connector: http
    webhook:
      verify: {scheme: hmac, secret: "${env:WAREHOUSE_SECRET}", header: X-Signature, hash: sha256, encoding: hex, signed: "{body}"}
      id: string(body.id)
      type: header("X-Event")
      key: string(body.order.number)

  backoffice:                      # a target: routes send to it
    connector: http
    url: https://backoffice.example.com/events
    sign: {scheme: standard-webhooks, secret: "${env:BACKOFFICE_SIGNING_SECRET}"}
    auth: {scheme: bearer, token: "${env:BACKOFFICE_TOKEN}"}
`,
	"stripe": `
connections:
  stripe:                          # its webhooks come to /in/stripe
    connector: stripe
    webhook: {secret: "${env:STRIPE_WEBHOOK_SECRET}"}
`,
}

// variables stand for what the examples take from the environment.
var variables = map[string]string{
	"SHOP_SECRET": "shop-secret-example", "WAREHOUSE_SECRET": "warehouse-secret-example", "BACKOFFICE_SIGNING_SECRET": "whsec_" + strings.Repeat("QUJD", 11) + "QUI=", "BACKOFFICE_TOKEN": "token",
	"STRIPE_WEBHOOK_SECRET": "whsec_example",
}

// TestPages fails when docs/connectors is not what the settings' tags say; -update writes it.
func TestPages(t *testing.T) {
	t.Parallel()
	want := pages(t)
	if *update {
		if err := os.MkdirAll(docsDir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, page := range want {
			if err := os.WriteFile(filepath.Join(docsDir, name), page, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	there, err := filepath.Glob(filepath.Join(docsDir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if want[filepath.Base(path)] == nil {
			t.Errorf("%s is about nothing there is: remove it", path)
		}
	}
	for name, page := range want {
		got, err := os.ReadFile(filepath.Join(docsDir, name))
		if err != nil || !bytes.Equal(got, page) {
			t.Errorf("docs/connectors/%s is out of date (%v): go test ./connectors/all -update", name, err)
		}
	}
}

// TestExamples opens the connections that the pages show.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, c := range all.Connectors() {
		cfg, err := config.Parse(c.Name+".yaml", []byte(examples[c.Name]), config.Options{Getenv: func(name string) (string, bool) {
			v, ok := variables[name]
			return v, ok
		}})
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		for _, example := range cfg.Connections {
			if example.Connector != c.Name {
				t.Errorf("the example of %s shows %s", c.Name, example.Connector)
			}
			opened, err := c.Open(example.Node, connectors.Env{Name: example.Name, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
				continue
			}
			if err := opened.Close(); err != nil {
				t.Errorf("%s: close: %v", c.Name, err)
			}
		}
	}
}

func pages(t *testing.T) map[string][]byte {
	t.Helper()
	list := map[string][]byte{"README.md": index(), "verify.md": verifyPage(t)}
	for _, c := range all.Connectors() {
		list[c.Name+".md"] = page(t, c)
	}
	return list
}

const generated = "<!-- Made from the settings' tags: go test ./connectors/all -update -->\n"

func index() []byte {
	var b bytes.Buffer
	b.WriteString(generated + "# Connectors\n\nWhat this version can receive from and send to. The settings of each are those of a connection in the config file.\n\n")
	b.WriteString("| connector | for | can |\n|---|---|---|\n")
	for _, c := range all.Connectors() {
		fmt.Fprintf(&b, "| [%s](%[1]s.md) | %s | %s |\n", c.Name, c.Title, faces(c.Faces))
	}
	b.WriteString("\nHow an `http` connection is told whose webhooks it takes: [verify](verify.md).\n")
	return b.Bytes()
}

func faces(f connectors.Faces) string {
	var words []string
	for _, face := range []struct {
		can  bool
		word string
	}{{f.Receive, "receive webhooks"}, {f.Pull, "be pulled from"}, {f.Send, "be sent to"}} {
		if face.can {
			words = append(words, face.word)
		}
	}
	return strings.Join(words, ", ")
}

func page(t *testing.T, c connectors.Connector) []byte {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s# %s\n\n%s. It can %s.", generated, c.Name, c.Title, faces(c.Faces))
	if c.Docs != "" {
		fmt.Fprintf(&b, " See <%s>.", c.Docs)
	}
	fmt.Fprintf(&b, "\n\n```yaml%s```\n\n## Settings\n\n", examples[c.Name])
	b.WriteString("Beside `connector: " + c.Name + "`. Those in bold have to be there.\n\n")
	table(&b, settings(t, c.Name, c.Settings))
	return b.Bytes()
}

func verifyPage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(generated + "# verify\n\nThe block `webhook.verify` of an [http](http.md) connection says how a call proves where it comes from. " +
		"With a named scheme it holds the credentials and little else:\n\n```yaml\nverify: {scheme: github, secret: \"${env:GITHUB_SECRET}\"}\n```\n\n" +
		"`tidewire verify --connection NAME < request` explains why a captured call to a connection of the config is accepted or refused; " +
		"`tidewire verify --scheme NAME --secret-file FILE < request` does so for a named scheme without a config.\n\n## Schemes\n\n" +
		"What is not set in the `webhook` block (`methods`, `id`, `type`, `key`, …) comes from the scheme; without an expression for the identity it is the fingerprint of the body, " +
		"and of method and query for a call by another method than POST.\n\n")
	b.WriteString("| scheme | for | needs | by | id | type | key | tried again by the provider |\n|---|---|---|---|---|---|---|---|\n")
	for _, s := range signature.Schemes() {
		title := s.Title
		if s.Docs != "" {
			title = "[" + s.Title + "](" + s.Docs + ")"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", codes(append([]string{s.Name}, s.Aliases...)), title, codes(s.Needs), strings.Join(s.Deliveries(), ", "),
			code(s.Defaults.ID), code(s.Defaults.Type), code(s.Defaults.Key), cell(s.Retries))
	}
	b.WriteString("\n## Settings\n\nThe named schemes set most of these themselves; the generic kinds (`hmac`, `hash`, `ed25519`, …) are spelled out in them.\n\n")
	table(&b, settings(t, "verify", signature.Settings{}))
	return b.Bytes()
}

// settings is a connector's part of the config's JSON Schema.
func settings(t *testing.T, name string, of any) *jsonschema.Schema {
	t.Helper()
	raw, err := config.Schema([]config.ConnectorSchema{{Name: name, Settings: of}})
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	one := s.Definitions["connection"].OneOf[0]
	one.Properties.Delete("connector")
	return one
}

func table(b *bytes.Buffer, s *jsonschema.Schema) {
	b.WriteString("| setting | value | default | meaning |\n|---|---|---|---|\n")
	rows(b, s, "")
}

func rows(b *bytes.Buffer, s *jsonschema.Schema, prefix string) {
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		name, fallback := "`"+prefix+p.Key+"`", ""
		if slices.Contains(s.Required, p.Key) {
			name = "**" + name + "**"
		}
		if p.Value.Default != nil {
			fallback = code(fmt.Sprint(p.Value.Default))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", name, value(p.Value), fallback, cell(p.Value.Description))
		if p.Value.Properties != nil && p.Value.AllOf == nil {
			rows(b, p.Value, prefix+p.Key+".")
		}
	}
}

// value says in a few words what a setting may be.
func value(s *jsonschema.Schema) string {
	switch {
	case s.AllOf != nil: // verify, which has a page of its own
		return "[block](verify.md)"
	case s.Ref != "":
		return strings.TrimPrefix(s.Ref, "#/$defs/")
	case len(s.AnyOf) == 2 && s.AnyOf[1].Ref == "#/$defs/reference":
		return value(s.AnyOf[0])
	case len(s.AnyOf) == 2 && s.AnyOf[1].Type == "array":
		return value(s.AnyOf[0]) + " or a list"
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, w := range s.Enum {
			words[i] = fmt.Sprint(w)
		}
		return codes(words)
	case s.Type == "array":
		return "list of " + value(s.Items)
	case s.Type == "object" && s.Properties == nil, s.Type == "object" && s.Properties.Len() == 0:
		return "mapping"
	case s.Type == "object":
		return "block"
	case s.Type == "boolean":
		return "true or false"
	case s.Type == "integer", s.Type == "number":
		return "number"
	case s.Type == "string":
		return "text"
	}
	return "[block](verify.md)"
}

func codes(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = code(w)
	}
	return strings.Join(quoted, ", ")
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + cell(s) + "`"
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// TestEveryConnectorHasAnExample keeps the pages whole.
func TestEveryConnectorHasAnExample(t *testing.T) {
	t.Parallel()
	var names []string
	for _, c := range all.Connectors() {
		names = append(names, c.Name)
	}
	if got := slices.Sorted(maps.Keys(examples)); !slices.Equal(got, names) {
		t.Errorf("there are examples of %v, and connectors %v", got, names)
	}
}
