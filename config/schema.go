package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"
)

// ConnectorSchema names a connector for Schema.
type ConnectorSchema struct {
	// Name is the word after "connector:".
	Name string
	// Title says in one line what it connects to; may be empty.
	Title string
	// Settings is a value of the struct that its connections decode their Node into.
	Settings any
}

// Schema returns the JSON Schema (draft 2020-12) of the config file, indented, for editors and CI. It is made from the
// structs and tags that decoding uses; a connection is one of the connectors given. A type of settings that decodes
// itself can describe itself with a method JSONSchema() *jsonschema.Schema; otherwise it may be anything.
//
// The schema is a help while writing. What it cannot say (names of connections, expressions, addresses) Parse checks.
func Schema(connectors []ConnectorSchema) ([]byte, error) {
	w := schemaWriter{connectors: connectors}
	root := w.structure(reflect.TypeFor[Config](), 0)
	root.Version = jsonschema.Version
	root.Title = "Tidewire config"
	root.Description = "Connections, routes and everything else of a Tidewire hub."
	root.Required = []string{"connections"}
	root.Definitions = jsonschema.Definitions{
		"reference": {Type: "string", Pattern: `\$\{(env|file):[^}]+\}`, Description: "A value from the environment, ${env:NAME} or ${env:NAME:-default}, or from a file, ${file:/path}."},
		"duration": {Type: "string", Pattern: `^(0|([0-9]+w)?([0-9]+d)?([0-9]+(\.[0-9]+)?(h|m|s|ms|us|µs|ns))*)$|\$\{`,
			Description: "A length of time, such as 500ms, 10s, 15m, 1h30m, 7d.", Examples: []any{"10s", "1h30m", "7d"}},
		"size": {AnyOf: []*jsonschema.Schema{{Type: "integer", Minimum: "0"}, {Type: "string", Pattern: `^[0-9]+(\.[0-9]+)? ?([KMGT]iB|[kMGT]B|B)?$|\$\{`}},
			Description: "A number of bytes, such as 512KiB or 1MiB.", Examples: []any{"512KiB", "1MiB"}},
		"rate": {Type: "string", Pattern: `^[0-9]+(\.[0-9]+)? ?/ ?(s|sec|second|m|min|minute|h|hour)$|\$\{`,
			Description: "How many per second, minute or hour.", Examples: []any{"50/s", "3000/m", "10/h"}},
		"expression": {AnyOf: []*jsonschema.Schema{{Type: "string"}, {Type: "boolean"}, {Type: "number"}}, Description: "A CEL expression."},
		"secret":     {Type: "string", MinLength: new(uint64(1)), WriteOnly: true, Description: "A secret; keep it out of the file with ${env:NAME} or ${file:/path}."},
		"connection": w.connection(),
	}
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the config's JSON schema: %w", err)
	}
	return append(out, '\n'), nil
}

// SettingsSchema returns the schema of a struct of settings as it stands in Schema's document, to whose definitions it refers: for a type that decodes
// itself and has more to say in its method JSONSchema than its fields do.
func SettingsSchema(settings any) *jsonschema.Schema {
	return schemaWriter{}.structure(reflect.TypeOf(settings), 0)
}

// Reference is the schema of ${env:…} and ${file:…} in Schema's document, for the same methods: any value of the config may be one.
func Reference() *jsonschema.Schema { return reference("reference") }

type schemaWriter struct{ connectors []ConnectorSchema }

func reference(name string) *jsonschema.Schema { return &jsonschema.Schema{Ref: "#/$defs/" + name} }

// connection is one of the connectors' settings, told apart by the word after "connector:".
func (w schemaWriter) connection() *jsonschema.Schema {
	if len(w.connectors) == 0 {
		return &jsonschema.Schema{Type: "object", Required: []string{"connector"}}
	}
	choice := &jsonschema.Schema{Type: "object", Required: []string{"connector"}}
	for _, c := range w.connectors {
		t := reflect.TypeOf(c.Settings)
		for t != nil && t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		one := &jsonschema.Schema{Type: "object", Properties: jsonschema.NewProperties(), AdditionalProperties: jsonschema.FalseSchema}
		if t != nil && t.Kind() == reflect.Struct {
			one = w.structure(t, 0)
		}
		one.Title = c.Name
		one.Description = c.Title
		one.Properties.Set("connector", &jsonschema.Schema{Const: c.Name, Description: c.Title})
		_ = one.Properties.MoveToFront("connector")
		one.Required = append([]string{"connector"}, one.Required...)
		choice.OneOf = append(choice.OneOf, one)
	}
	return choice
}

// structure describes a struct type by the settings it has. Types that contain themselves are cut off where the file would be too deep.
func (w schemaWriter) structure(t reflect.Type, depth int) *jsonschema.Schema {
	out := &jsonschema.Schema{Type: "object", Properties: jsonschema.NewProperties(), AdditionalProperties: jsonschema.FalseSchema}
	for _, s := range settingsOf(t) {
		switch {
		case s.isName:
			continue
		case s.isRest:
			out.AdditionalProperties = nil
			continue
		}
		p := w.setting(s, depth+1)
		p.Description = describe(s)
		p.Default = defaultOf(s)
		out.Properties.Set(s.name, p)
		if s.required {
			out.Required = append(out.Required, s.name)
		}
	}
	return out
}

func (w schemaWriter) setting(s setting, depth int) *jsonschema.Schema {
	t := s.kind
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if depth > 8 {
		return &jsonschema.Schema{}
	}
	if own, ok := reflect.New(t).Interface().(interface{ JSONSchema() *jsonschema.Schema }); ok {
		return own.JSONSchema()
	}
	for _, known := range [...]struct {
		t    reflect.Type
		name string
	}{
		{secretType, "secret"}, {expressionType, "expression"}, {sizeType, "size"},
		{reflect.TypeFor[Duration](), "duration"}, {reflect.TypeFor[Rate](), "rate"},
	} {
		if t == known.t {
			return reference(known.name)
		}
	}
	if t == nodeType || t.Kind() == reflect.Interface || reflect.PointerTo(t).Implements(reflect.TypeFor[Unmarshaler]()) {
		return &jsonschema.Schema{}
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return &jsonschema.Schema{Type: "string"}
	}
	switch t.Kind() {
	case reflect.Struct:
		return w.structure(t, depth)
	case reflect.Slice:
		return w.slice(s, t, depth)
	case reflect.Map:
		return &jsonschema.Schema{Type: "object", AdditionalProperties: w.setting(setting{kind: t.Elem(), enum: s.enum, bounds: s.bounds}, depth+1)}
	}
	return scalarSchema(s, t)
}

func (w schemaWriter) slice(s setting, t reflect.Type, depth int) *jsonschema.Schema {
	if s.named {
		each := reference("connection")
		if t.Elem() != reflect.TypeFor[Connection]() {
			each = w.structure(t.Elem(), depth)
		}
		return &jsonschema.Schema{Type: "object", PropertyNames: &jsonschema.Schema{Pattern: nameRule.String()}, AdditionalProperties: each}
	}
	item := w.setting(setting{kind: t.Elem(), enum: s.enum, bounds: s.bounds}, depth+1)
	list := &jsonschema.Schema{Type: "array", Items: item}
	if s.one {
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{item, list}}
	}
	return list
}

func scalarSchema(s setting, t reflect.Type) *jsonschema.Schema {
	out := &jsonschema.Schema{}
	switch t.Kind() {
	case reflect.String:
		if len(s.enum) == 0 {
			return &jsonschema.Schema{Type: "string"}
		}
		for _, word := range s.enum {
			out.Enum = append(out.Enum, word)
		}
	case reflect.Bool:
		out.Type = "boolean"
	default:
		out.Type = "integer"
		if t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64 {
			out.Type = "number"
		}
		low, high, _ := strings.Cut(s.bounds, "..")
		out.Minimum, out.Maximum = json.Number(low), json.Number(high)
	}
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{out, reference("reference")}}
}

// describe is a setting's help text with its range, which the schema's own words cannot express for durations and sizes.
func describe(s setting) string {
	hint := strings.TrimPrefix(rangeHint(s.bounds), "; ")
	if hint == "" {
		return s.doc
	}
	return strings.TrimSpace(s.doc + " " + strings.ToUpper(hint[:1]) + hint[1:] + ".")
}

func defaultOf(s setting) any {
	if s.fallback == "" {
		return nil
	}
	t := s.kind
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return s.fallback == "true"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Float32, reflect.Float64:
		if plainNumber(s.fallback) {
			return json.Number(s.fallback)
		}
	}
	return s.fallback
}
