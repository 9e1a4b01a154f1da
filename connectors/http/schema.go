package http

import (
	"github.com/invopop/jsonschema"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// JSONSchema describes the verify block: every scheme by its name, every setting, and for each scheme the settings that it needs and those that it
// does not take. Decoding says the same, and more.
func (verification) JSONSchema() *jsonschema.Schema {
	out := config.SettingsSchema(signature.Settings{})
	word := &jsonschema.Schema{}
	for _, s := range signature.Schemes() {
		about := s.Title
		if s.Docs != "" {
			about += "; " + s.Docs
		}
		for _, name := range append([]string{s.Name}, s.Aliases...) {
			word.AnyOf = append(word.AnyOf, &jsonschema.Schema{Const: name, Description: about})
		}
	}
	word.AnyOf = append(word.AnyOf, config.Reference())
	if scheme, ok := out.Properties.Get("scheme"); ok {
		word.Description = scheme.Description
	}
	out.Properties.Set("scheme", word)
	for _, shape := range signature.Shapes() {
		out.AllOf = append(out.AllOf, &jsonschema.Schema{If: isOneOf(shape.Schemes), Then: takes(shape)})
	}
	// One secret or several.
	out.Not = &jsonschema.Schema{Required: []string{"secret", "secrets"}}
	return out
}

// isOneOf holds where the scheme is one of these words.
func isOneOf(words []string) *jsonschema.Schema {
	scheme := &jsonschema.Schema{}
	for _, w := range words {
		scheme.Enum = append(scheme.Enum, w)
	}
	properties := jsonschema.NewProperties()
	properties.Set("scheme", scheme)
	return &jsonschema.Schema{Properties: properties, Required: []string{"scheme"}}
}

// takes holds where the settings are those that a shape asks for.
func takes(shape signature.Shape) *jsonschema.Schema {
	out := &jsonschema.Schema{}
	for _, group := range shape.Needs {
		if len(group) == 1 {
			out.Required = append(out.Required, group[0])
			continue
		}
		either := &jsonschema.Schema{}
		for _, setting := range group {
			either.AnyOf = append(either.AnyOf, &jsonschema.Schema{Required: []string{setting}})
		}
		out.AllOf = append(out.AllOf, either)
	}
	if len(shape.Refused) > 0 {
		out.Properties = jsonschema.NewProperties()
		for _, setting := range shape.Refused {
			out.Properties.Set(setting, jsonschema.FalseSchema)
		}
	}
	return out
}
