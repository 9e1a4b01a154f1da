package strictjson

import (
	"math"
	"strings"
	"unicode/utf8"
)

// scanner reads one text. Its slices are reused: spans are put in order on pending and moved to spans when their container closes.
type scanner struct {
	src     string
	pos     int
	doc     document
	spans   []span
	pending []span
	nodes   []Value // for Look
	buf     []byte
}

// maxKept is for how many values a scanner keeps room between texts.
const maxKept = 1 << 13

// release makes the scanner ready for the next text. Nothing of this one is kept alive.
func (s *scanner) release() {
	clear(s.doc.decoded)
	s.src, s.doc = "", document{decoded: s.doc.decoded[:0], tables: s.doc.tables[:0]}
	s.spans, s.pending, s.nodes = s.spans[:0], s.pending[:0], s.nodes[:0]
	if cap(s.spans)+cap(s.pending) <= maxKept && cap(s.buf) <= 1<<16 && cap(s.doc.tables)+cap(s.doc.decoded) <= maxKept {
		scanners.Put(s)
	}
}

// read leaves the values of src in spans, the root last.
func (s *scanner) read(src string) error {
	s.src, s.pos, s.doc.src = src, 0, src
	if len(src) > math.MaxInt32 {
		return s.fail(0, "it is too large")
	}
	s.space()
	if s.pos == len(src) {
		return s.fail(s.pos, "it is empty")
	}
	if err := s.value(span{}, 0); err != nil {
		return err
	}
	if s.space(); s.pos < len(src) {
		return s.fail(s.pos, "something follows the value")
	}
	s.spans = append(s.spans, s.pending[0])
	return nil
}

// fill makes values of the spans, in room, and returns the root.
func (s *scanner) fill(doc *document, room []Value) *Value {
	for i := range s.spans {
		room[i].doc, room[i].span = doc, s.spans[i]
	}
	doc.nodes = room
	return &room[len(room)-1]
}

func (s *scanner) fail(at int, reason string) error { return &Error{Offset: at, Reason: reason} }

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
			n.kind = Object
			err = s.object(&n, depth+1)
		} else {
			n.kind = List
			err = s.list(&n, depth+1)
		}
	case '"':
		n.kind = Text
		var decoded string
		if decoded, n.escaped, err = s.text(); n.escaped {
			n.first = s.keep(decoded)
		}
	case 't':
		n.kind, err = True, s.word("true")
	case 'f':
		n.kind, err = False, s.word("false")
	case 'n':
		n.kind, err = Null, s.word("null")
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

func (s *scanner) list(n *span, depth int) error {
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

// adopt moves the pending values from base on to their place, as the children of n.
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
		c := src[i]
		if ordinary[c] { // nearly every one
			continue
		}
		switch {
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
		default:
			ascii = false
		}
	}
	s.pos = len(src)
	return "", false, s.unexpected()
}

// ordinary are the bytes that a text has as they are and that need no second look.
var ordinary = func() (set [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		set[c] = c != '"' && c != '\\'
	}
	return set
}()

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
	for i := range 4 {
		c := s.src[s.pos+i]
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
func (s *scanner) number() (Kind, error) {
	start, k := s.pos, Integer
	if s.next('-') && s.pos < len(s.src) && s.src[s.pos] == '0' {
		k = Decimal // whole numbers have no -0
	}
	if !s.next('0') && s.digits() == 0 {
		return k, s.unexpected()
	}
	if s.next('.') {
		if k = Decimal; s.digits() == 0 {
			return k, s.unexpected()
		}
	}
	if s.next('e') || s.next('E') {
		k = Decimal
		if !s.next('+') {
			s.next('-')
		}
		from := s.pos
		if s.digits() == 0 {
			return k, s.unexpected()
		}
		if power := strings.TrimLeft(s.src[from:s.pos], "0"); len(power) > 3 { // MaxExponent has three digits
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
