package expression

import (
	"hash/maphash"
	"math"
	"math/bits"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// No library in Go reads JSON in one pass, refuses keys that are there twice and keeps numbers as they were
// written at this speed: encoding/json does the first slowly and the others not at all. Hence this one, held to
// encoding/json's meaning by a fuzz test.

// scanner reads one body. Its slices are reused: spans are put in order on pending and moved to spans when their container closes.
type scanner struct {
	src     string
	pos     int
	doc     *document
	spans   []span
	pending []span
	buf     []byte
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// hashSeed differs per process, so that nobody can write keys that all fall on one place of a table.
var hashSeed = maphash.MakeSeed()

// maxKept is how many spans a scanner keeps room for between bodies.
const maxKept = 1 << 14

func (s *scanner) release() {
	s.src, s.doc, s.spans, s.pending = "", nil, s.spans[:0], s.pending[:0]
	if cap(s.spans)+cap(s.pending) <= maxKept && cap(s.buf) <= 1<<16 {
		scanners.Put(s)
	}
}

func (s *scanner) read(src string) (Body, error) {
	s.src, s.pos, s.doc = src, 0, &document{src: src}
	if len(src) > math.MaxInt32 {
		return Body{}, s.fail(0, "it is too large")
	}
	s.space()
	if s.pos == len(src) {
		return Body{}, s.fail(s.pos, "it is empty")
	}
	if err := s.value(span{}, 0); err != nil {
		return Body{}, err
	}
	if s.space(); s.pos < len(src) {
		return Body{}, s.fail(s.pos, "something follows the value")
	}
	s.spans = append(s.spans, s.pending[0])
	nodes := make([]node, len(s.spans))
	for i := range nodes {
		nodes[i].doc, nodes[i].span = s.doc, s.spans[i]
	}
	s.doc.nodes = nodes
	return Body{root: &nodes[len(nodes)-1]}, nil
}

func (s *scanner) fail(at int, reason string) error { return &BodyError{Offset: at, Reason: reason} }

// unexpected is the error for the byte at pos, which does not belong there.
func (s *scanner) unexpected() error {
	switch {
	case s.pos >= len(s.src):
		return s.fail(len(s.src), "it ends too early")
	case strings.HasPrefix(s.src[s.pos:], "\ufeff"):
		return s.fail(s.pos, "it starts with a byte order mark")
	}
	return s.fail(s.pos, "a character is not in its place")
}

func (s *scanner) space() {
	for s.pos < len(s.src) {
		switch s.src[s.pos] {
		case ' ', '\n', '\r', '\t':
			s.pos++
		default:
			return
		}
	}
}

// value reads one value and puts it on pending. n holds the name when it is a member's.
func (s *scanner) value(n span, depth int) error {
	if s.pos >= len(s.src) {
		return s.unexpected()
	}
	n.at = uint32(s.pos)
	var err error
	switch c := s.src[s.pos]; c {
	case '{', '[':
		if depth == MaxDepth {
			return s.fail(s.pos, "it nests too deep")
		}
		if c == '{' {
			n.kind = dictionary
			err = s.object(&n, depth+1)
		} else {
			n.kind = list
			err = s.array(&n, depth+1)
		}
	case '"':
		n.kind = text
		var decoded string
		if decoded, n.escaped, err = s.text(); n.escaped {
			n.first = s.keep(decoded)
		}
	case 't':
		n.kind, err = truth, s.word("true")
	case 'f':
		n.kind, err = falsehood, s.word("false")
	case 'n':
		n.kind, err = null, s.word("null")
	default:
		n.kind, err = s.number()
	}
	if err != nil {
		return err
	}
	n.end = uint32(s.pos)
	s.pending = append(s.pending, n)
	return nil
}

// keep files a decoded text.
func (s *scanner) keep(decoded string) uint32 {
	s.doc.decoded = append(s.doc.decoded, decoded)
	return uint32(len(s.doc.decoded) - 1)
}

func (s *scanner) word(w string) error {
	if !strings.HasPrefix(s.src[s.pos:], w) {
		return s.unexpected()
	}
	s.pos += len(w)
	return nil
}

func (s *scanner) array(n *span, depth int) error {
	base := len(s.pending)
	s.pos++
	if s.space(); s.next(']') {
		return nil
	}
	for {
		if err := s.value(span{}, depth); err != nil {
			return err
		}
		switch s.space(); {
		case s.next(','):
			s.space()
		case s.next(']'):
			s.adopt(n, base)
			return nil
		default:
			return s.unexpected()
		}
	}
}

func (s *scanner) object(n *span, depth int) error {
	base, start := len(s.pending), s.pos
	s.pos++
	if s.space(); s.next('}') {
		return nil
	}
	for {
		if s.pos >= len(s.src) || s.src[s.pos] != '"' {
			return s.unexpected()
		}
		member := span{key: uint32(s.pos) + 1}
		decoded, escaped, err := s.text()
		if err != nil {
			return err
		}
		if member.keyEnd = uint32(s.pos) - 1; escaped {
			member.key, member.keyEscaped = s.keep(decoded), true
		}
		if s.space(); !s.next(':') {
			return s.unexpected()
		}
		s.space()
		if err := s.value(member, depth); err != nil {
			return err
		}
		switch s.space(); {
		case s.next(','):
			s.space()
		case s.next('}'):
			if reason := s.names(n, s.pending[base:]); reason != "" {
				return s.fail(start, reason)
			}
			s.adopt(n, base)
			return nil
		default:
			return s.unexpected()
		}
	}
}

// next takes the byte c if it is the next one.
func (s *scanner) next(c byte) bool {
	if s.pos < len(s.src) && s.src[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// adopt moves the pending spans from base on to their place, as the children of n.
func (s *scanner) adopt(n *span, base int) {
	n.first, n.count = uint32(len(s.spans)), uint32(len(s.pending)-base)
	s.spans = append(s.spans, s.pending[base:]...)
	s.pending = s.pending[:base]
}

// text reads a string and returns it decoded; escaped says whether that differs from what is between the quotes.
func (s *scanner) text() (decoded string, escaped bool, err error) {
	s.pos++
	start, ascii := s.pos, true
	src := s.src
	for i := start; i < len(src); i++ {
		switch c := src[i]; {
		case c == '"':
			s.pos = i + 1
			if raw := src[start:i]; ascii || utf8.ValidString(raw) {
				return raw, false, nil
			}
			return "", false, s.fail(start, "a text is not UTF-8")
		case c == '\\':
			s.pos = i
			decoded, err = s.unescape(start)
			return decoded, true, err
		case c < ' ':
			s.pos = i
			return "", false, s.fail(i, "a control character is not escaped")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	s.pos = len(src)
	return "", false, s.unexpected()
}

// unescape decodes the text that began at start and whose first escape is at pos.
func (s *scanner) unescape(start int) (string, error) {
	buf := append(s.buf[:0], s.src[start:s.pos]...)
	defer func() { s.buf = buf }()
	for s.pos < len(s.src) {
		c := s.src[s.pos]
		switch {
		case c == '"':
			s.pos++
			if !utf8.Valid(buf) {
				return "", s.fail(start, "a text is not UTF-8")
			}
			return string(buf), nil
		case c < ' ':
			return "", s.fail(s.pos, "a control character is not escaped")
		case c != '\\':
			buf = append(buf, c)
			s.pos++
			continue
		}
		if s.pos+1 >= len(s.src) {
			break
		}
		s.pos += 2
		switch c := s.src[s.pos-1]; c {
		case '"', '\\', '/':
			buf = append(buf, c)
		case 'b':
			buf = append(buf, '\b')
		case 'f':
			buf = append(buf, '\f')
		case 'n':
			buf = append(buf, '\n')
		case 'r':
			buf = append(buf, '\r')
		case 't':
			buf = append(buf, '\t')
		case 'u':
			r, ok := s.hex()
			if !ok {
				return "", s.fail(s.pos, "an escape is not complete")
			}
			buf = utf8.AppendRune(buf, s.pair(r))
		default:
			return "", s.fail(s.pos-1, "an escape is unknown")
		}
	}
	s.pos = len(s.src)
	return "", s.unexpected()
}

// hex takes four hexadecimal digits.
func (s *scanner) hex() (rune, bool) {
	if s.pos+4 > len(s.src) {
		return 0, false
	}
	var r rune
	for _, c := range []byte(s.src[s.pos : s.pos+4]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	s.pos += 4
	return r, true
}

// pair joins r with the second half of a surrogate pair, if r is the first and the second follows.
func (s *scanner) pair(r rune) rune {
	if r < 0xd800 || r > 0xdfff {
		return r
	}
	if r < 0xdc00 && strings.HasPrefix(s.src[s.pos:], `\u`) {
		back := s.pos
		s.pos += 2
		if low, ok := s.hex(); ok && low >= 0xdc00 && low <= 0xdfff {
			return (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
		}
		s.pos = back
	}
	return utf8.RuneError
}

// number reads a number by JSON's grammar and leaves it as it is written.
func (s *scanner) number() (kind, error) {
	start, k := s.pos, integer
	if s.next('-') && s.pos < len(s.src) && s.src[s.pos] == '0' {
		k = decimal // -0 is no whole number that CEL knows
	}
	if !s.next('0') && s.digits() == 0 {
		return k, s.unexpected()
	}
	if s.next('.') {
		if k = decimal; s.digits() == 0 {
			return k, s.unexpected()
		}
	}
	if s.next('e') || s.next('E') {
		k = decimal
		if !s.next('+') {
			s.next('-')
		}
		from := s.pos
		if s.digits() == 0 {
			return k, s.unexpected()
		}
		if power := strings.TrimLeft(s.src[from:s.pos], "0"); len(power) > 3 { // 999 has three
			return k, s.fail(start, "a number is too large")
		}
	}
	if s.pos-start > MaxNumber {
		return k, s.fail(start, "a number is too long")
	}
	return k, nil
}

func (s *scanner) digits() int {
	start := s.pos
	for s.pos < len(s.src) && s.src[s.pos]-'0' <= 9 {
		s.pos++
	}
	return s.pos - start
}

// names checks an object's keys against one another, and files them when they are many. It returns what is wrong.
func (s *scanner) names(n *span, all []span) (reason string) {
	if len(all) <= maxSmall {
		for i := 1; i < len(all); i++ {
			for j := range i {
				if reason := s.clash(n, &all[i], &all[j]); reason != "" {
					return reason
				}
			}
		}
		return ""
	}
	size := tableSize(len(all))
	n.table = uint32(len(s.doc.tables))
	s.doc.tables = append(s.doc.tables, make([]uint32, size)...)
	table := s.doc.tables[n.table:]
	for i := range all {
		at := uint32(hashFolded(s.doc.key(&all[i]))) & (size - 1)
		for ; table[at] != 0; at = (at + 1) & (size - 1) {
			if reason := s.clash(n, &all[i], &all[table[at]-1]); reason != "" {
				return reason
			}
		}
		table[at] = uint32(i) + 1
	}
	return ""
}

// clash says what is wrong with two members of the object n side by side.
func (s *scanner) clash(n, a, b *span) string {
	keyA, keyB := s.doc.key(a), s.doc.key(b)
	switch {
	case keyA == keyB:
		return "a key is there twice"
	// Letters that differ in case only may differ in length: k has one byte and the Kelvin sign three.
	case len(keyA) > 3*len(keyB) || len(keyB) > 3*len(keyA) || !strings.EqualFold(keyA, keyB):
		return ""
	case s.doc.raw(a) == s.doc.raw(b) || freeForm(s.doc.key(n)):
		return ""
	}
	return "two keys differ in case only"
}

// tableSize is the length of the table for count members: a power of two, at least half of it empty.
func tableSize(count int) uint32 { return 1 << bits.Len32(uint32(count)*2-1) }

// hashFolded is the same for names that differ in case only.
func hashFolded(name string) uint64 {
	for i := range len(name) {
		if c := name[i]; c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf {
			var room [64]byte
			folded := room[:0]
			for _, r := range name {
				folded = utf8.AppendRune(folded, fold(r))
			}
			return maphash.Bytes(hashSeed, folded)
		}
	}
	return maphash.String(hashSeed, name)
}

// fold is one letter for all that differ in case only: a small Latin one where there is one.
func fold(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	if least >= 'A' && least <= 'Z' {
		return least + 'a' - 'A'
	}
	return least
}
