package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Checker is a settings struct that knows more about itself than its tags say. Check is called after the struct has
// been filled without a mistake of its own. What it returns becomes problems at the struct's place: return a Fault to
// point at one key, errors.Join for several.
type Checker interface{ Check() error }

// Defaulter is a settings struct that fills itself before the file's values are put over it.
type Defaulter interface{ Defaults() }

// Unmarshaler is a type that decodes itself from a Node. The error becomes problems; it must not hold the node's value when n.Expanded().
type Unmarshaler interface{ UnmarshalNode(n Node) error }

// Fault is a mistake at one key of a settings struct, for Check to return.
type Fault struct {
	// Key is relative to the struct, with dots between levels: "retry.max_age", "brokers.0". Empty means the struct as a whole.
	Key string
	// Message and Fix are as in Problem.
	Message, Fix string
}

func (f Fault) Error() string {
	return Problem{Path: f.Key, Message: f.Message, Fix: f.Fix}.Error()
}

var (
	secretType     = reflect.TypeFor[Secret]()
	nodeType       = reflect.TypeFor[Node]()
	expressionType = reflect.TypeFor[Expression]()
	sizeType       = reflect.TypeFor[Size]()
)

// Decode fills settings, a pointer to a struct (or to any type below), with the node's values. Strict: an unknown key,
// a missing required one, a wrong type, a value out of range are all gathered and come back at once as Problems; what
// could be read is filled in all the same.
//
// Struct fields are settings when they have a yaml tag:
//
//	Listen  string          `yaml:"listen" default:":8080" doc:"Address for webhooks."`
//	Hash    string          `yaml:"hash,required" enum:"sha256|sha512"`
//	Timeout config.Duration `yaml:"timeout" default:"10s" range:"1ms..10m"`
//	From    []string        `yaml:"from,one"`   // one value, or a list
//
// The value of default is decoded when the key is absent and the field is still zero. doc goes into the JSON Schema and
// the generated pages. enum and range are checked, also in the schema; a range's ends are included. Embedded structs,
// and struct fields tagged ",inline", add their keys to those of the struct around them. Further tags are ignored.
//
// Types: bool, whole numbers, floats, string, slices, maps from string, structs, pointers (nil when absent), Secret,
// Node (anything, as it is), Expression, Duration, Size, Rate, any other encoding.TextUnmarshaler, and Unmarshaler. A
// struct may have Defaults and Check. A value that came through ${…} is read as the type the field asks for.
func (n Node) Decode(settings any) error {
	v := reflect.ValueOf(settings)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("config: Decode into %T, which is not a pointer to settings", settings))
	}
	n.concealAs(v.Type().Elem())
	d := decoder{}
	d.value(n, v.Elem(), setting{})
	return Join(d.found).Err()
}

// concealAs hides the texts of all secrets that t finds in n, before the first problem is written.
func (n Node) concealAs(t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.tree == nil || t == nodeType || !holdsSecret(t) {
		return
	}
	switch {
	case t == secretType:
		n.doc.conceal(n.tree)
	case t.Kind() == reflect.Slice && n.Kind() == List:
		for _, item := range n.Items() {
			item.concealAs(t.Elem())
		}
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Map:
		if n.Kind() != Map {
			n.doc.conceal(n.tree)
		}
		for _, f := range n.Fields() {
			f.Value.concealAs(t.Elem())
		}
	case t.Kind() == reflect.Struct:
		n.concealStruct(t)
	}
}

func (n Node) concealStruct(t reflect.Type) {
	if n.Kind() != Map { // a text where a mapping with a secret belongs is probably the secret
		n.doc.conceal(n.tree)
		return
	}
	settings := settingsOf(t)
	var secrets []string
	for _, s := range settings {
		if s.name != "" && s.kind != nodeType && holdsSecret(s.kind) {
			secrets = append(secrets, s.name)
		}
	}
	for _, f := range n.Fields() {
		i := slices.IndexFunc(settings, func(s setting) bool { return s.name == f.Key })
		switch {
		case i >= 0:
			f.Value.concealAs(settings[i].kind)
		case Near(f.Key, secrets) != "": // a slip of the pen in the key must not show the value
			n.doc.conceal(f.Value.tree)
		}
	}
}

// decoder gathers the problems of one Decode.
type decoder struct{ found Problems }

func (d *decoder) fail(n Node, message, fix string) {
	switch {
	case len(d.found) < mostProblems:
		d.found = append(d.found, n.Problem(message, fix))
	case len(d.found) == mostProblems:
		d.found = append(d.found, n.Problem(tooMany, tooManyFix))
	}
}

// wrong reports a value that is not what the field wants. The text is shown as the file has it, unless it is a secret.
func (d *decoder) wrong(n Node, want, fix string) {
	got := n.Kind().String()
	if n.Kind() == Null {
		fix = "give it a value, or remove the line"
	}
	if k := n.Kind(); k > Null && k < List && n.tree.raw != "" {
		if !n.doc.hidden(n.tree) {
			got += " (" + quote(n.tree.raw) + ")"
		}
	}
	if n.Expanded() && n.Kind() == String {
		fix = strings.Replace(fix, ", without quotes", "", 1)
		got = "what " + quote(n.tree.raw) + " stands for"
		if n.doc.hidden(n.tree) {
			got = "a text from the environment or a file"
		}
	}
	d.fail(n, "want "+want+", got "+got, fix)
}

// value fills v from n; s carries the field's tags, or is zero.
func (d *decoder) value(n Node, v reflect.Value, s setting) {
	if n.tree != nil && n.tree.broken {
		if len(d.found) < mostProblems {
			d.found = append(d.found, n.tree.trouble...) // reported by Parse as well; Join drops the double
		}
		return
	}
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(n))
		return
	}
	if v.Kind() == reflect.Pointer {
		if n.IsZero() {
			return
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem(), s)
		return
	}
	if u, ok := v.Addr().Interface().(Unmarshaler); ok {
		if err := u.UnmarshalNode(n); err != nil {
			d.report(n, err)
		}
		return
	}
	switch v.Type() {
	case secretType:
		d.secret(n, v)
		return
	case expressionType:
		if n.Kind() <= Null || n.Kind() >= List {
			d.wrong(n, "an expression", "write it as one text")
			return
		}
		if strings.TrimSpace(n.Value()) == "" {
			d.fail(n, "the expression is empty", "write one, or remove the line")
			return
		}
		v.Set(reflect.ValueOf(n.Expression()))
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, v, u, s)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v)
	case reflect.Slice:
		if s.named {
			d.named(n, v)
		} else {
			d.list(n, v, s)
		}
	case reflect.Map:
		d.mapping(n, v, s)
	case reflect.Interface:
		v.Set(reflect.ValueOf(n))
	default:
		d.scalar(n, v, s)
	}
}

// report turns the error of Check or UnmarshalNode into problems at n.
func (d *decoder) report(n Node, err error) {
	switch e := err.(type) { //nolint:errorlint // the default asks for what is wrapped
	case Fault:
		d.found = append(d.found, n.faulty(e))
	case Problem, *Problem, Problems:
		d.found = flatten(d.found, err)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			d.report(n, inner)
		}
	default:
		if fault, ok := errors.AsType[Fault](err); ok {
			d.found = append(d.found, n.faulty(fault))
		} else if hasProblems(err) {
			d.found = flatten(d.found, err)
		} else {
			d.fail(n, err.Error(), "")
		}
	}
}

// faulty is the problem of a fault in n.
func (n Node) faulty(f Fault) Problem {
	at := n
	for key := range strings.SplitSeq(f.Key, ".") {
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(at.Items()) {
			at = at.Items()[i]
		} else if key != "" {
			at = at.Get(key)
		}
	}
	return at.Problem(f.Message, f.Fix)
}

func (d *decoder) structure(n Node, v reflect.Value) {
	if f, ok := v.Addr().Interface().(Defaulter); ok {
		f.Defaults()
	}
	settings := settingsOf(v.Type())
	if n.Kind() > Null && n.Kind() != Map {
		fix := "keys: " + strings.Join(sorted(keysOf(settings)), ", ")
		if slices.ContainsFunc(settings, func(s setting) bool { return s.isRest }) {
			fix = "write its settings below it, one key: value to a line"
		}
		d.wrong(n, "a mapping", fix)
		return
	}
	before := len(d.found)
	fields := n.Fields()
	var known []string
	var missing []setting
	rest := -1
	for i, s := range settings {
		switch {
		case s.isRest:
			rest = i
			continue
		case s.isName:
			continue
		}
		known = append(known, s.name)
		at := slices.IndexFunc(fields, func(f Field) bool { return f.Key == s.name })
		field := v.FieldByIndex(s.index)
		switch {
		case at >= 0 && (fields[at].Value.Kind() != Null || !empty(field)):
			found := len(d.found)
			if d.value(fields[at].Value, field, s); len(d.found) > found { // what goes on checking finds a default rather than nothing
				d.fallback(Node{doc: n.doc, path: fields[at].Value.path}, field, s)
			}
		case s.required:
			missing = append(missing, s)
		default:
			d.fallback(n.Get(s.name), field, s)
		}
	}
	if rest >= 0 {
		without := n
		without.omit = known
		v.FieldByIndex(settings[rest].index).Set(reflect.ValueOf(without))
	} else {
		d.unknown(fields, known)
	}
	for _, s := range missing {
		// A key that is only misspelt is not missing as well.
		i := slices.IndexFunc(fields, func(f Field) bool { return !slices.Contains(known, f.Key) && Near(f.Key, known) == s.name })
		switch {
		case i < 0:
			d.fail(n.Get(s.name), quote(s.name)+" is missing", strings.TrimSuffix("add it: "+s.doc, ": "))
		case rest >= 0: // not reported as unknown: it might have been someone else's
			d.fail(fields[i].asKey(), "unknown key "+quote(fields[i].Key), fmt.Sprintf("did you mean %q?", s.name))
		}
	}
	if c, ok := v.Addr().Interface().(Checker); ok && len(d.found) == before {
		if err := c.Check(); err != nil {
			d.report(n, err)
		}
	}
}

// empty says what a key without a value means: nothing is wrong with an empty section, but a setting that is
// started and not finished is a mistake.
func empty(v reflect.Value) bool {
	t := v.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Map:
		return true
	case reflect.Struct:
		return t != secretType && t != expressionType && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
	}
	return false
}

func (d *decoder) unknown(fields []Field, known []string) {
	for _, f := range fields {
		if !slices.Contains(known, f.Key) {
			if len(d.found) > mostProblems {
				return
			}
			d.fail(f.asKey(), "unknown key "+quote(f.Key), Suggest(f.Key, "keys", sorted(known)))
		}
	}
}

// fallback fills a field whose key is absent: from its default tag, and the inside of a struct from its own.
func (d *decoder) fallback(n Node, v reflect.Value, s setting) {
	if v.Kind() == reflect.Struct && v.IsZero() && s.fallback == "" && len(settingsOf(v.Type())) > 0 {
		quiet := decoder{}
		quiet.structure(n, v)
		return
	}
	if s.fallback == "" || !v.IsZero() {
		return
	}
	inside := &tree{kind: plainKind(s.fallback), raw: s.fallback, value: s.fallback}
	if kind := v.Kind(); kind == reflect.String || kind == reflect.Pointer && v.Type().Elem().Kind() == reflect.String {
		inside.kind = String
	}
	quiet := decoder{}
	if v.Kind() == reflect.Slice {
		s.one = true
	}
	quiet.value(Node{doc: n.doc, tree: inside, path: n.path, at: n.at}, v, setting{one: s.one})
	if len(quiet.found) > 0 {
		panic(fmt.Sprintf("config: the default %q of %s cannot be read: %s", s.fallback, n.path, quiet.found[0].Message))
	}
}

func (d *decoder) list(n Node, v reflect.Value, s setting) {
	items := n.Items()
	switch k := n.Kind(); {
	case k == List:
	case s.one && k > Null && k != Map:
		items = []Node{n}
	default:
		d.wrong(n, "a list", "write [a, b], or one item to a line with - before it")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(items), len(items))
	inner := setting{enum: s.enum, bounds: s.bounds}
	for i, item := range items {
		d.value(item, out.Index(i), inner)
	}
	v.Set(out)
}

func (d *decoder) mapping(n Node, v reflect.Value, s setting) {
	if n.Kind() != Map || v.Type().Key().Kind() != reflect.String {
		d.wrong(n, "a mapping", "write one key: value to a line")
		return
	}
	out := reflect.MakeMap(v.Type())
	inner := setting{enum: s.enum, bounds: s.bounds}
	for _, f := range n.Fields() {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(f.Value, item, inner)
		out.SetMapIndex(reflect.ValueOf(f.Key).Convert(v.Type().Key()), item)
	}
	v.Set(out)
}

// named fills a slice of structs from a mapping, in the order of the file.
func (d *decoder) named(n Node, v reflect.Value) {
	if n.Kind() != Map {
		d.wrong(n, "a mapping from names", "write each under a name of its own, without - before it")
		return
	}
	fields := n.Fields()
	out := reflect.MakeSlice(v.Type(), len(fields), len(fields))
	for i, f := range fields {
		for _, s := range settingsOf(v.Type().Elem()) {
			if s.isName {
				out.Index(i).FieldByIndex(s.index).SetString(f.Key)
			}
		}
		if fix := checkName(f.Key); fix != "" {
			d.fail(f.asKey(), "not a name: "+quote(f.Key), fix)
		}
		d.value(f.Value, out.Index(i), setting{})
	}
	v.Set(out)
}

func (d *decoder) secret(n Node, v reflect.Value) {
	const remedy = "keep it out of the file: ${env:NAME} or ${file:/path}"
	switch {
	case n.Kind() == Int || n.Kind() == Float || n.Kind() == Bool:
		d.fail(n, "a secret that is not a text", "put quotes around it, or better, "+remedy)
		return
	case n.Kind() != String:
		d.fail(n, "want a secret, got "+n.Kind().String(), remedy)
		return
	case n.Value() == "":
		fix := remedy
		if n.Expanded() {
			fix = "give " + quote(n.tree.raw) + " a value"
		}
		d.fail(n, "the secret is empty", fix)
		return
	}
	v.Set(reflect.ValueOf(NewSecret(n.Value())))
	if !n.Expanded() {
		n.Warn("a secret is written in the file", remedy)
	}
	for _, file := range n.tree.files {
		if n.doc.o.Mode == nil {
			break
		}
		// 0640 is how a system user is given a file of root's; everything wider is seen by people who should not.
		if mode, err := n.doc.o.Mode(file); err == nil && mode&0o027 != 0 {
			n.Warn(fmt.Sprintf("the secret in %s can be read or changed by others (mode %04o)", file, mode), "chmod 600 "+file)
		}
	}
}

// hidden reports whether the text of t has been concealed.
func (d *document) hidden(t *tree) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.marked[t]
}
