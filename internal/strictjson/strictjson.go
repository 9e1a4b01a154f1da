// Package strictjson reads JSON (RFC 8259) that came from somebody else, in one pass, and refuses what two readers could
// read differently: two systems that see one payment differently are a way to steal. Its rules:
//
//   - no key twice in one object, also when it is written with other escapes;
//   - no two keys of one object that differ in case only, in any alphabet, unless both have the same value or the object is
//     by its name a free dictionary (metadata, headers, labels, tags, custom_fields): readers that ignore case, Go's among
//     them, take one for the other; and even then at most MaxSpellings of one name, because each is held against the others;
//   - objects and lists nest at most MaxDepth deep;
//   - a number follows JSON's grammar, has at most MaxNumber characters and an exponent of at most MaxExponent, and is kept as
//     it is written: no digit is lost, and what is carried on need not be made again;
//   - every text is UTF-8 without control characters, and only JSON's own escapes are in it. An escaped half of a surrogate
//     pair, which is no character, reads as U+FFFD, as in encoding/json; two keys of which each is such a half are one key twice;
//   - one value and nothing after it but white space; no byte order mark before it.
//
// No library in Go does this at the speed of a hub that reads every body: encoding/json refuses little of it and is slower, and
// readers of a path at a time do not look at the rest. What is taken here means to encoding/json the same, which a fuzz test holds.
package strictjson

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"unsafe"
)

// The bounds of what is read.
const (
	// MaxDepth is how deep objects and lists may nest.
	MaxDepth = 64
	// MaxNumber is how many characters a number may have.
	MaxNumber = 128
	// MaxExponent bounds the power of ten of a number: 1e400 passes, 1e99999 does not.
	MaxExponent = 999
	// MaxSpellings is how many keys of one object may differ in case only, where they may at all.
	MaxSpellings = 16
)

// Error says why a text was refused. It holds no part of the text.
type Error struct {
	// Offset is how many bytes come before the offending one.
	Offset int
	// Reason is one of few texts, such as "a key is there twice".
	Reason string
}

// Error is the reason and the place.
func (e *Error) Error() string {
	return fmt.Sprintf("the body cannot be read as JSON: %s (at byte %d)", e.Reason, e.Offset)
}

// Parse reads a text and keeps a copy of it. The value is immutable and safe for concurrent use. The error is an *Error.
func Parse(text []byte) (*Value, error) {
	s := scanners.Get().(*scanner)
	defer s.release()
	if err := s.read(string(text)); err != nil {
		return nil, err
	}
	kept := &document{src: s.doc.src, decoded: append([]string(nil), s.doc.decoded...), tables: append([]uint32(nil), s.doc.tables...)}
	return s.fill(kept, make([]Value, len(s.spans))), nil
}

// Look reads a text where it lies and hands its value to see, in memory that is used again: see must keep neither a Value
// nor, without strings.Clone, a text that one gave. It costs less than Parse, and no garbage. The error is an *Error or that of see.
func Look(text []byte, see func(v *Value) error) error {
	s := scanners.Get().(*scanner)
	defer s.release()
	// Nobody changes text while it is looked at, and nothing of the string outlives this call: that is what Look's words ask for.
	if err := s.read(unsafe.String(unsafe.SliceData(text), len(text))); err != nil { //nolint:gosec // a copy would double the memory of large bodies
		return err
	}
	s.nodes = slices.Grow(s.nodes, len(s.spans))[:len(s.spans)]
	return see(s.fill(&s.doc, s.nodes))
}

// IsNumber reports whether s is a number within the rules, and nothing else.
func IsNumber(s string) bool {
	n := scanner{src: s}
	_, err := n.number()
	return err == nil && n.pos == len(s)
}

// Kind is what a value is.
type Kind uint8

// The kinds.
const (
	Null Kind = iota
	False
	True
	Integer // digits alone, with or without a minus
	Decimal // with a fraction or an exponent, or -0
	Text
	List
	Object
)

// Value is one value of a text. The children of a container lie side by side, so that an index is a step and a walk
// is a run, and a *Value is a place in them, which costs no allocation.
type Value struct {
	doc *document
	span
}

// span is a value by its places in the text: no pointers, so that the garbage collector has little to look at.
type span struct {
	key, keyEnd uint32 // what is between the quotes of a member's name; when keyEscaped, key is its index in document.decoded
	at, end     uint32 // the value as it is written
	// first is the index of the first child; of a text with escapes, that of its decoded form.
	first uint32
	count uint32 // of children
	// table is where the hash table of an object with more than maxSmall members starts in document.tables.
	table               uint32
	kind                Kind
	escaped, keyEscaped bool
}

// document is what the values of one text share.
type document struct {
	src     string
	nodes   []Value // children, container by container; the root is the last
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

// Kind says what the value is.
func (v *Value) Kind() Kind { return v.kind }

// Name is the decoded name of an object's member; "" for anything else.
func (v *Value) Name() string { return v.doc.key(&v.span) }

// Raw is the value as it is written, byte for byte.
func (v *Value) Raw() string { return v.doc.src[v.at:v.end] }

// Len is how many children a container has.
func (v *Value) Len() int { return int(v.count) }

// Children are a list's elements or an object's members, in the order of the text; nil for anything else.
func (v *Value) Children() []Value {
	if v.count == 0 {
		return nil
	}
	return v.doc.nodes[v.first : v.first+v.count]
}

// Member finds an object's member by its exact name; nil where there is none, and for a value that is no object or nil.
func (v *Value) Member(name string) *Value {
	if v == nil || v.kind != Object {
		return nil
	}
	all := v.Children()
	if len(all) <= maxSmall {
		for i := range all {
			if all[i].Name() == name {
				return &all[i]
			}
		}
		return nil
	}
	size := tableSize(len(all))
	table := v.doc.tables[v.table : v.table+size]
	for at := uint32(hashFolded(name)) & (size - 1); table[at] != 0; at = (at + 1) & (size - 1) {
		if m := &all[table[at]-1]; m.Name() == name {
			return m
		}
	}
	return nil
}

// Text is the decoded value of a text; "" for anything else, and for nil.
func (v *Value) Text() string {
	switch {
	case v == nil || v.kind != Text:
		return ""
	case v.escaped:
		return v.doc.decoded[v.first]
	}
	return v.doc.src[v.at+1 : v.end-1]
}

// Float is a number as a double, and false when it is beyond a double's range or the value is no number.
func (v *Value) Float() (float64, bool) {
	f, err := strconv.ParseFloat(v.Raw(), 64)
	return f, err == nil && (v.kind == Integer || v.kind == Decimal)
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}
