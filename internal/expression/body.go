package expression

import (
	"fmt"
	"strconv"
	"strings"
)

// Limits on a body that expressions read. What breaks one is refused by ParseBody; bytes that no expression reads are not looked at.
const (
	// MaxDepth is how deep objects and lists may nest in a body.
	MaxDepth = 64
	// MaxNumber is how many characters a number in a body may have.
	MaxNumber = 128
	// MaxExponent bounds the power of ten of a number in a body: 1e400 passes, 1e99999 does not.
	MaxExponent = 999
)

// Body is a JSON body, read once and shared by every expression that looks at it. It is immutable and safe for
// concurrent use. The zero Body stands for a body that is no JSON: an expression that needs it fails and says so.
type Body struct{ root *node }

// IsZero reports whether there is no body to look at.
func (b Body) IsZero() bool { return b.root == nil }

// BodyError says why ParseBody refused a body. It holds no part of the body.
type BodyError struct {
	// Offset is how many bytes come before the offending one.
	Offset int
	// Reason is a bounded text such as "a key is there twice".
	Reason string
}

// Error is the reason and the place.
func (e *BodyError) Error() string {
	return fmt.Sprintf("the body cannot be read as JSON: %s (at byte %d)", e.Reason, e.Offset)
}

// ParseBody reads a JSON text (RFC 8259). The bytes are copied. It is stricter than most readers, because two systems
// that read one payment differently are a way to steal. Refused, as *BodyError:
//
//   - a key that is in an object twice, also when written with different escapes;
//   - two keys of one object that differ in case only, unless both have the same value or the object is a free
//     dictionary by its name (metadata, headers, labels, tags, custom_fields): readers that ignore case, Go's among
//     them, take one of the two for the other;
//   - nesting deeper than MaxDepth, numbers longer than MaxNumber or with an exponent beyond MaxExponent;
//   - anything that is not UTF-8, a byte order mark, and whatever comes after the value.
//
// An escaped half of a surrogate pair, which is no character, reads as U+FFFD, as in encoding/json.
func ParseBody(text []byte) (Body, error) {
	s := scanners.Get().(*scanner)
	defer s.release()
	return s.read(string(text))
}

// kind is what a JSON value is.
type kind uint8

const (
	null kind = iota
	falsehood
	truth
	integer // digits alone
	decimal // with a fraction, an exponent, or -0
	text
	list
	dictionary
)

// node is one value of a body. The children of a container lie side by side, so that an index is a step and a walk
// is a run. A node is handed to CEL by its address, which costs no allocation.
type node struct {
	doc *document
	span
}

// span is a node by its places in the text: no pointers, so that the garbage collector has next to nothing to look at.
type span struct {
	key, keyEnd uint32 // what is between the quotes of a member's name; when keyEscaped, key is its index in document.decoded
	at, end     uint32 // the value as it was written
	// first is the index of the first child; of a text with escapes, that of its decoded form.
	first uint32
	count uint32 // of children
	// table is where the hash table of an object with more than maxSmall members starts in document.tables.
	table               uint32
	kind                kind
	escaped, keyEscaped bool
}

// document is what the nodes of one body share.
type document struct {
	src     string
	nodes   []node // children, container by container; the root is the last
	decoded []string
	// tables are open-addressing tables of the objects with more than maxSmall members, each tableSize(count) long: the member's
	// position plus one, or 0.
	tables []uint32
}

// maxSmall is the most members an object may have to be searched one by one.
const maxSmall = 8

// key is the decoded name of a member.
func (d *document) key(s *span) string {
	if s.keyEscaped {
		return d.decoded[s.key]
	}
	return d.src[s.key:s.keyEnd]
}

func (d *document) raw(s *span) string { return d.src[s.at:s.end] }

// name is the decoded name of a member.
func (n *node) name() string { return n.doc.key(&n.span) }

// raw is the value as it was written.
func (n *node) raw() string { return n.doc.src[n.at:n.end] }

// children of a container, in the order of the text.
func (n *node) children() []node { return n.doc.nodes[n.first : n.first+n.count] }

// member finds an object's member by its exact name.
func (n *node) member(name string) *node {
	all := n.children()
	if len(all) <= maxSmall {
		for i := range all {
			if all[i].name() == name {
				return &all[i]
			}
		}
		return nil
	}
	size := tableSize(len(all))
	table := n.doc.tables[n.table : n.table+size]
	for at := uint32(hashFolded(name)) & (size - 1); table[at] != 0; at = (at + 1) & (size - 1) {
		if m := &all[table[at]-1]; m.name() == name {
			return m
		}
	}
	return nil
}

// text is the decoded value of a text.
func (n *node) text() string {
	if n.escaped {
		return n.doc.decoded[n.first]
	}
	return n.doc.src[n.at+1 : n.end-1]
}

// float is a number as a double: exact enough to compare and compute, and false when it is beyond a double's range.
func (n *node) float() (float64, bool) {
	f, err := strconv.ParseFloat(n.raw(), 64)
	return f, err == nil
}

// path finds what fields lead to, for messages: how many of them are there, and the node before the one that is not.
func (n *node) path(fields []string) (found int, last *node) {
	for i, f := range fields {
		if n.kind != dictionary {
			return i, n
		}
		next := n.member(f)
		if next == nil {
			return i, n
		}
		n = next
	}
	return len(fields), n
}

// freeForm reports whether an object under this name holds keys of the user's making rather than the provider's fields.
func freeForm(name string) bool {
	switch strings.ToLower(name) {
	case "metadata", "headers", "labels", "tags", "custom_fields":
		return true
	}
	return false
}
