package config

import (
	"fmt"
	"reflect"
	"strings"
)

// setting is one field of a settings struct, as its tags describe it. The decoder and the schema both read structs
// through settingsOf, so that they cannot disagree.
type setting struct {
	name     string
	index    []int
	kind     reflect.Type
	doc      string
	fallback string // default:"…"
	enum     []string
	bounds   string // range:"…"
	required bool
	one      bool // a single value stands for a list of one
	isName   bool // ,name: receives the key of the mapping this struct is the value of
	isRest   bool // ,rest: a Node that receives the keys no other field has
	named    bool // ,named: a slice of structs written as a mapping from names
}

// settingsOf reads the tags of a struct type. Unexported fields and those without a yaml tag are not settings. A tag
// that makes no sense is a mistake in the program and panics.
func settingsOf(t reflect.Type) []setting {
	var out []setting
	for f := range t.Fields() {
		tag, tagged := f.Tag.Lookup("yaml")
		name, options, _ := strings.Cut(tag, ",")
		if name == "-" {
			continue
		}
		if inline := f.Anonymous && name == "" || options == "inline"; inline && f.Type.Kind() == reflect.Struct {
			for _, s := range settingsOf(f.Type) {
				s.index = append(append([]int{}, f.Index...), s.index...)
				out = append(out, s)
			}
			continue
		}
		if !tagged || !f.IsExported() {
			continue
		}
		s := setting{name: name, index: f.Index, kind: f.Type, doc: f.Tag.Get("doc"), fallback: f.Tag.Get("default"), bounds: f.Tag.Get("range")}
		if list := f.Tag.Get("enum"); list != "" {
			s.enum = strings.Split(list, "|")
		}
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "", "omitempty":
			case "required":
				s.required = true
			case "one":
				s.one = true
			case "name":
				s.isName = true
			case "rest":
				s.isRest = true
			case "named":
				s.named = true
			default:
				panic(fmt.Sprintf("config: %s.%s: unknown option %q in its yaml tag", t, f.Name, option))
			}
		}
		if s.name == "" && !s.isName && !s.isRest {
			panic(fmt.Sprintf("config: %s.%s: no key in its yaml tag", t, f.Name))
		}
		out = append(out, s)
	}
	return out
}

// keysOf returns the keys of a struct type in the order of its fields.
func keysOf(settings []setting) []string {
	var keys []string
	for _, s := range settings {
		if s.name != "" {
			keys = append(keys, s.name)
		}
	}
	return keys
}

// holdsSecret reports whether a value of type t is or contains a Secret somewhere.
func holdsSecret(t reflect.Type) bool {
	return holdsSecretBelow(t, map[reflect.Type]bool{})
}

func holdsSecretBelow(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == secretType || t == nodeType { // a Node is decoded later, perhaps into secrets
		return true
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
		return holdsSecretBelow(t.Elem(), seen)
	case reflect.Struct:
		for f := range t.Fields() {
			if f.IsExported() && holdsSecretBelow(f.Type, seen) {
				return true
			}
		}
	}
	return false
}
