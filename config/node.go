package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is what a Node is, by the core schema of YAML 1.2.
type Kind int

// The kinds. What came through ${…} is always a String.
const (
	Missing Kind = iota // there is no such key
	Null                // nothing, "null" or "~"
	Bool
	Int // a whole number of any size; Value has all its digits
	Float
	String
	List
	Map
)

// String names the kind as a message to a person does.
func (k Kind) String() string {
	return [...]string{"nothing", "nothing", "true or false", "a whole number", "a number", "a text", "a list", "a mapping"}[k]
}

// Node is a part of the config as it was written, with its place: what is handed to a connector to Decode, and the
// map of a route. ${…} is resolved, aliases and duplicate keys are gone. Nodes are small, immutable and safe for concurrent use.
// The zero value is a Missing node without a place.
type Node struct {
	doc  *document
	tree *tree // nil when Missing
	path string
	at   place // of the key; of the mapping that lacks it when Missing; none for the whole file
	omit []string
}

// Field is one key of a mapping and its value.
type Field struct {
	Key   string
	Value Node
	// KeyPos is where the key stands; Value.Pos is where the value does.
	KeyPos Pos
}

// ParseNode reads text, a mapping in YAML or JSON, as a Node under the rules of Parse: for settings that do not come
// from a config file, and for connectors' tests. The error is Problems; the Node then holds what could be read, as in Parse.
func ParseNode(name string, text []byte, o Options) (Node, error) {
	d, t, found := open(name, text, o)
	return Node{doc: d, tree: t}, Join(found).Err()
}

// Kind says what the node is.
func (n Node) Kind() Kind {
	if n.tree == nil {
		return Missing
	}
	return n.tree.kind
}

// IsZero reports whether there is nothing: the key is missing or has no value.
func (n Node) IsZero() bool { return n.Kind() <= Null }

// Value is the text of a scalar, exactly as written but for quotes and with ${…} resolved; empty for lists and mappings.
func (n Node) Value() string {
	if n.tree == nil {
		return ""
	}
	return n.tree.value
}

// Expanded reports whether Value holds text from the environment or a file, which must then not be shown.
func (n Node) Expanded() bool { return n.tree != nil && n.tree.expanded }

// Path is the node's address, such as "routes.paid.map.total".
func (n Node) Path() string { return n.path }

// Pos is where the node's value starts; for a Missing node, where it was looked for.
func (n Node) Pos() Pos {
	if n.doc == nil {
		return Pos{}
	}
	at := n.at
	if n.tree != nil {
		at = place{n.tree.line, n.tree.column}
	}
	return Pos{File: n.doc.name, Line: at.line, Column: at.column}
}

// Fields returns the keys of a Map in the order of the file; nil for other kinds.
func (n Node) Fields() []Field {
	if n.Kind() != Map {
		return nil
	}
	fields := make([]Field, 0, len(n.tree.keys))
	for i, k := range n.tree.keys {
		if !slices.Contains(n.omit, k.text) {
			fields = append(fields, n.field(i))
		}
	}
	return fields
}

func (n Node) field(i int) Field {
	k := n.tree.keys[i]
	return Field{Key: k.text, KeyPos: Pos{n.doc.name, k.line, k.column}, Value: Node{
		doc: n.doc, tree: n.tree.items[i], path: join(n.path, k.text), at: place{k.line, k.column},
	}}
}

// asKey is a node that stands for the key itself, to report problems at.
func (f Field) asKey() Node {
	return Node{doc: f.Value.doc, path: f.Value.path, at: place{f.KeyPos.Line, f.KeyPos.Column}}
}

// Get returns the value of a key, a Missing node when there is none.
func (n Node) Get(key string) Node {
	if n.Kind() == Map && !slices.Contains(n.omit, key) {
		for i, k := range n.tree.keys {
			if k.text == key {
				return n.field(i).Value
			}
		}
	}
	return Node{doc: n.doc, path: join(n.path, key), at: n.at}
}

// Items returns the elements of a List; nil for other kinds.
func (n Node) Items() []Node {
	if n.Kind() != List {
		return nil
	}
	items := make([]Node, len(n.tree.items))
	for i, t := range n.tree.items {
		items[i] = Node{doc: n.doc, tree: t, path: n.path + "[" + strconv.Itoa(i) + "]", at: place{t.line, t.column}}
	}
	return items
}

// String names the node by place and path; it never shows the value.
func (n Node) String() string {
	return strings.TrimPrefix(n.Pos().String()+": "+n.path, ": ")
}

// Format prints String for every verb, so that no printing of a struct walks into the file's text.
func (n Node) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(n.String())) }

// Problem is a mistake in this node: message says what is wrong, fix what to do (may be empty). It points at the value
// of a scalar, and at the key of a list or mapping.
func (n Node) Problem(message, fix string) Problem {
	if n.doc == nil {
		return Problem{Path: n.path, Message: message, Fix: fix}
	}
	pos := n.Pos()
	if n.Kind() >= List {
		pos.Line, pos.Column = n.at.line, n.at.column
	}
	return n.doc.problem(pos.Line, pos.Column, n.path, message, fix)
}

// Warn adds a warning to those of the config the node is from (Config.Warnings): something that works and that a careful
// person would change. The same warning is kept once.
func (n Node) Warn(message, fix string) {
	if n.doc != nil {
		n.doc.warn(n.Problem(message, fix))
	}
}

// Expression returns a scalar as the source of an expression; lists, mappings and nothing give the zero Expression.
func (n Node) Expression() Expression {
	if k := n.Kind(); k <= Null || k >= List {
		return Expression{}
	}
	return Expression{Text: n.tree.value, Pos: n.Pos(), node: n}
}

// Expression is the source text of a CEL expression and its place. It is compiled elsewhere.
type Expression struct {
	// Text is the source; empty means that there is none.
	Text string
	// Pos is where the value starts in the file, quotes or the | of a block included.
	Pos
	node Node
}

// IsZero reports whether there is no expression.
func (e Expression) IsZero() bool { return e.Text == "" }

// String returns Text.
func (e Expression) String() string { return e.Text }

// Path is the setting's address, such as "routes.paid.when".
func (e Expression) Path() string { return e.node.path }

// Expanded reports whether Text holds values from the environment or a file, which must then not be shown.
func (e Expression) Expanded() bool { return e.node.Expanded() }

// At says where in the file a place inside Text stands: line and column count from 1, columns in characters. Quotes,
// escapes, blocks, folded lines and ${…} are accounted for.
func (e Expression) At(line, column int) Pos {
	n := e.node
	if n.tree == nil || line < 1 || column < 1 {
		return e.Pos
	}
	offset := 0
	for i, text := range strings.Split(e.Text, "\n") {
		if i+1 == line {
			break
		}
		offset += utf8.RuneCountInString(text) + 1
	}
	offset += column - 1
	for _, s := range n.tree.segments {
		if offset >= s.at && offset < s.at+s.size {
			if s.literal {
				offset = s.from + offset - s.at
			} else {
				offset = s.from
			}
			break
		}
	}
	at, end, _ := n.doc.align(n.tree)
	switch {
	case offset < len(at):
		return Pos{n.doc.name, at[offset].line, at[offset].column}
	case len(at) > 0:
		return Pos{n.doc.name, end.line, end.column}
	}
	return e.Pos
}

// Problem is a mistake at a place inside Text, counted as in At; line 0 means the expression as a whole. Of a text that holds values from outside the file
// only that is told: a message quotes it.
func (e Expression) Problem(line, column int, message, fix string) Problem {
	if e.Expanded() {
		message, fix = "the expression does not compile; it holds values from outside the file (${…}), so it is not shown", ""
	}
	if e.node.doc == nil {
		return Problem{Path: e.node.path, Message: message, Fix: fix}
	}
	pos := e.At(line, column)
	return e.node.doc.problem(pos.Line, pos.Column, e.node.path, message, fix)
}
