package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxFile is the largest config file in bytes: 1 MiB.
const MaxFile = 1 << 20

// maxDepth bounds how deep settings may be nested, so that walking them needs no more stack than that.
const maxDepth = 64

// maxParts bounds how many values a file can hold, judged by the characters that part them. The YAML parser needs a
// few hundred bytes for each value: a file of a mebibyte of commas would cost a hundred times its size.
const maxParts = 100_000

// style is how a scalar was written.
type style int

const (
	plainStyle style = iota
	singleQuoted
	doubleQuoted
	block // | or >
)

// tree is a value as it stands in the file, after ${…} and before any struct. Immutable once built.
type tree struct {
	kind         Kind
	style        style
	line, column int
	// raw is a scalar's text as YAML reads it; value is raw after ${…}.
	raw, value string
	// expanded: value holds text from the environment or a file. broken: it could not be had; that is reported already.
	expanded, broken bool
	trouble          Problems  // what broke it
	files            []string  // what ${file:…} named
	segments         []segment // how value came from raw; nil when they are the same
	keys             []key     // of a Map, one for each item
	items            []*tree   // of a Map or a List, in the order of the file
}

type key struct {
	text         string
	line, column int
}

// parse turns text into a tree. Problems of single values do not keep the rest from being read; tree is nil when the
// text is not one YAML document.
func (d *document) parse(text []byte) (t *tree, found Problems) {
	if p, bad := d.unreadable(text); bad {
		return nil, Problems{p}
	}
	y, err := d.unmarshal(text)
	if err != nil {
		return nil, Join(err)
	}
	b := builder{doc: d}
	t = b.build(y, "", 0)
	d.root = t
	return t, b.found
}

func (d *document) emptyFile() Problem {
	return d.problem(0, 0, "", "the file is empty", "start with connections: and routes:")
}

// unreadable reports what keeps text from being looked at as YAML at all.
func (d *document) unreadable(text []byte) (Problem, bool) {
	if len(text) > MaxFile {
		return Problem{File: d.name, Message: fmt.Sprintf("the file has more than %d bytes, the most a config may have", MaxFile),
			Fix: "move what is large, such as certificates, into files of its own and name them with ${file:/path}"}, true
	}
	line, start, parts := 1, 0, 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if strings.ContainsRune("\n,[{:-?#", r) {
			parts++
		}
		switch {
		case parts > maxParts:
			return Problem{File: d.name, Message: fmt.Sprintf("the file has more than %d parts (lines, list items, keys)", maxParts),
				Fix: "make it smaller; many small rules fit better into expressions"}, true
		case r == utf8.RuneError && size == 1:
			return d.problem(line, utf8.RuneCount(text[start:i])+1, "", "a byte that is not UTF-8", "save the file as UTF-8"), true
		// YAML takes a lone carriage return and U+0085, U+2028, U+2029 for ends of lines, and editors do not: what
		// looks like a comment or a text could hold a setting.
		case r < ' ' && r != '\n' && r != '\t' && (r != '\r' || !bytes.HasPrefix(text[i+1:], []byte("\n"))),
			r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029:
			return d.problem(line, utf8.RuneCount(text[start:i])+1, "", fmt.Sprintf("a control character (%#U)", r), "remove it"), true
		case r == '\n':
			line, start = line+1, i+1
		}
		i += size
	}
	return Problem{}, false
}

// unmarshal reads exactly one YAML document.
func (d *document) unmarshal(text []byte) (root *yaml.Node, err error) {
	// The parser has no known panics; should a file find one, it must not take a running hub down.
	defer func() {
		if r := recover(); r != nil {
			err = d.problem(0, 0, "", "the YAML parser gave up on this file", "simplify it until it is read, and report the line that was to blame")
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, d.emptyFile()
	case err != nil:
		return nil, d.syntax(err)
	}
	switch err := dec.Decode(&more); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, d.syntax(err)
	default:
		return nil, d.problem(more.Line, more.Column, "", "a second YAML document", "a config is one document: remove the --- and what follows it")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, d.emptyFile()
	}
	return doc.Content[0], nil
}

var (
	yamlLine      = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)
	unknownAnchor = regexp.MustCompile(`^yaml: unknown anchor '(.*)' referenced$`)
)

// syntax turns the YAML parser's error into a problem with a line and words that help.
func (d *document) syntax(err error) Problem {
	if m := unknownAnchor.FindStringSubmatch(err.Error()); m != nil {
		line, column := d.find("*" + m[1])
		return d.problem(line, column, "", aliasMessage, aliasFix)
	}
	// The parser's own line is that of the block around the mistake, and sometimes one less.
	message, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = m[2]
	}
	if at := d.culprit(err); at > 0 {
		line = at
	}
	line = max(1, min(line, len(d.lines)))
	text := d.lines[line-1]
	column := indentation(text) + 1
	fix := "check the indentation and the quotes of this line and the one before it"
	switch {
	case strings.Contains(message, "tab") || strings.Contains(message, "cannot start any token") && strings.Contains(text, "\t"):
		message, fix = "a tab where YAML wants spaces", "indent with spaces"
		column = len([]rune(text[:strings.IndexByte(text+"\t", '\t')])) + 1
	case strings.Contains(message, "mapping values are not allowed"):
		message, fix = `a ": " where no key can be`, "put quotes around a value that holds a colon and a space, and check the indentation"
	case flowReference.MatchString(text):
		message, fix = "${…} without quotes inside { } or [ ]", `put quotes around it: "${env:NAME}"`
		column = len([]rune(text[:strings.Index(text, "${")])) + 1
	case strings.Contains(message, "cannot start any token"):
		message, fix = "a character that cannot start a value", "put quotes around a value that starts with @, `, %, or another special character"
	case strings.Contains(message, "exceeded max depth"):
		message, fix = tooDeep, "flatten it"
	case strings.Contains(message, "unexpected end of stream"):
		message, fix = "quotes that are opened and not closed", "close them"
	default:
		message = "not YAML: " + message
	}
	return d.problem(line, column, "", message, fix)
}

// culprit finds the first line without which the file has not got this error; 0 when it would take too long. A YAML
// parser reads forward, so what is wrong with the first lines stays wrong whatever follows.
func (d *document) culprit(err error) int {
	const most = 64 << 10
	size := 0
	for _, l := range d.lines {
		size += len(l) + 1
	}
	if size > most {
		return 0
	}
	return 1 + sort.Search(len(d.lines), func(n int) bool {
		dec := yaml.NewDecoder(strings.NewReader(strings.Join(d.lines[:n+1], "\n") + "\n"))
		for {
			var y yaml.Node
			if e := dec.Decode(&y); e != nil {
				return e.Error() == err.Error()
			}
		}
	})
}

var flowReference = regexp.MustCompile(`[{\[,][^"']*\$\{`)

// find returns the first place that holds text.
func (d *document) find(text string) (line, column int) {
	for i, l := range d.lines {
		if at := strings.Index(l, text); at >= 0 {
			return i + 1, len([]rune(l[:at])) + 1
		}
	}
	return 1, 1
}

const (
	aliasMessage = "a YAML alias or anchor"
	aliasFix     = "write the value out where it is needed; use ${env:NAME} for what is shared"
	tooDeep      = "settings nested deeper than 64 levels"
)

// builder makes a tree of YAML nodes and gathers what is wrong with them.
type builder struct {
	doc   *document
	found Problems
}

// spoil reports a value that cannot be used at all.
func (b *builder) spoil(t *tree, y *yaml.Node, path, message, fix string) *tree {
	b.fail(y, path, message, fix)
	t.broken = true
	if len(b.found) <= mostProblems {
		t.trouble = Problems{b.found[len(b.found)-1]}
	}
	return t
}

func (b *builder) fail(y *yaml.Node, path, message, fix string) {
	switch {
	case len(b.found) < mostProblems:
		b.found = append(b.found, b.doc.problem(y.Line, y.Column, path, message, fix))
	case len(b.found) == mostProblems:
		b.found = append(b.found, b.doc.problem(y.Line, y.Column, path, tooMany, tooManyFix))
	}
}

func (b *builder) build(y *yaml.Node, path string, depth int) *tree {
	t := &tree{line: y.Line, column: y.Column}
	switch {
	case depth > maxDepth:
		return b.spoil(t, y, path, tooDeep, "flatten it")
	case y.Kind == yaml.AliasNode || y.Anchor != "":
		return b.spoil(t, y, path, aliasMessage, aliasFix)
	case y.Style&yaml.TaggedStyle != 0:
		return b.spoil(t, y, path, "a YAML tag "+quote(y.Tag), "remove it; to make a text of a number, put quotes around it")
	}
	switch y.Kind {
	case yaml.MappingNode:
		t.kind = Map
		b.mapping(t, y, path, depth)
	case yaml.SequenceNode:
		t.kind = List
		t.items = make([]*tree, len(y.Content))
		for i, item := range y.Content {
			t.items[i] = b.build(item, path+"["+strconv.Itoa(i)+"]", depth+1)
		}
	default:
		b.scalar(t, y, path)
	}
	return t
}

func (b *builder) mapping(t *tree, y *yaml.Node, path string, depth int) {
	seen := make(map[string]int, len(y.Content)/2)
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		switch {
		case k.Kind == yaml.AliasNode || k.Anchor != "":
			b.fail(k, path, aliasMessage, aliasFix)
			continue
		case k.Kind != yaml.ScalarNode:
			b.fail(k, path, "a key that is a list or a mapping", "keys are plain words")
			continue
		case k.Style&yaml.TaggedStyle != 0:
			b.fail(k, path, "a YAML tag "+quote(k.Tag), "remove it")
			continue
		case k.Value == "<<" && k.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0:
			b.fail(k, path, "a YAML merge key", "write the settings out where they are needed")
			continue
		}
		below := join(path, k.Value)
		if strings.Contains(k.Value, "${") {
			b.fail(k, path, "${…} in a key", "only values can come from the environment or a file")
			continue
		}
		if first, again := seen[k.Value]; again {
			b.fail(k, below, fmt.Sprintf("the key %s is there twice, first in line %d", quote(k.Value), first), "remove one of them")
			continue
		}
		seen[k.Value] = k.Line
		t.keys = append(t.keys, key{k.Value, k.Line, k.Column})
		t.items = append(t.items, b.build(v, below, depth+1))
	}
}

func (b *builder) scalar(t *tree, y *yaml.Node, path string) {
	t.raw, t.value = y.Value, y.Value
	switch {
	case y.Style&yaml.SingleQuotedStyle != 0:
		t.style, t.kind = singleQuoted, String
	case y.Style&yaml.DoubleQuotedStyle != 0:
		t.style, t.kind = doubleQuoted, String
	case y.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		t.style, t.kind = block, String
	default:
		t.kind = plainKind(y.Value)
	}
	if t.kind == String {
		if found := b.doc.resolve(t, path); len(b.found) < mostProblems {
			b.found = append(b.found, found...)
		}
	}
}

// plainKind says what an unquoted scalar is, by the core schema of YAML 1.2: "yes" and "on" are texts, 1_000 is a
// text, 0777 is the number 777.
func plainKind(s string) Kind {
	switch s {
	case "", "~", "null", "Null", "NULL":
		return Null
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return Bool
	}
	if c := s[0]; c != '-' && c != '+' && c != '.' && (c < '0' || c > '9') {
		return String
	}
	switch {
	case wholeNumber(s):
		return Int
	case pointNumber.MatchString(s):
		return Float
	}
	return String
}

var pointNumber = regexp.MustCompile(`^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)

// wholeNumber reports whether s is a decimal number, perhaps with a sign, or one in octal (0o17) or hexadecimal (0x1f).
func wholeNumber(s string) bool {
	digits := "0123456789"
	if rest, ok := strings.CutPrefix(s, "0o"); ok {
		s, digits = rest, digits[:8]
	} else if rest, ok := strings.CutPrefix(s, "0x"); ok {
		s, digits = rest, digits+"abcdefABCDEF"
	} else if s[0] == '-' || s[0] == '+' {
		s = s[1:]
	}
	return s != "" && strings.Trim(s, digits) == ""
}

// join appends a key to a path; keys with dots or other special characters are quoted.
func join(path, key string) string {
	if special := func(c rune) bool { return c >= utf8.RuneSelf || !wordByte(byte(c)) }; key == "" || strings.ContainsFunc(key, special) {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
