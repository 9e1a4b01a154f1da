package stripe

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// envelope is what the hub needs of an event, as JSON text; nil where the event does not have it.
type envelope struct {
	id, kind, created, apiVersion, livemode, account, context, object []byte
	// dataID, dataObject and customer are data.object's id, object and customer.
	dataID, dataObject, customer []byte
	// relatedID is a thin event's related_object.id.
	relatedID []byte
}

// Bounds of what is read, the same that expressions have on a body: an event that is taken in can be mapped.
const (
	maxDepth    = 64
	maxNumber   = 128
	maxExponent = 999
)

// level is where in an event an object stands, as far as that matters.
type level int

const (
	elsewhere level = iota
	top
	inData
	inObject
	inCustomer
	inRelated
)

// readEnvelope checks that body is one JSON object, strictly by RFC 8259, and takes the envelope out of it in the same pass. No key
// may come twice in one object, nor, outside of the dictionaries that Stripe's customers fill, in another case: two
// readers of such a body would see two different events. It is a third of the cost of building values, and calls are many.
func readEnvelope(body []byte) (envelope, error) {
	if !utf8.Valid(body) {
		return envelope{}, errors.New("the body is not UTF-8")
	}
	s := scanner{b: body, keys: make([]uint64, 0, 64)}
	s.space()
	if s.i >= len(s.b) || s.b[s.i] != '{' {
		return envelope{}, s.fail("want an object")
	}
	if err := s.objectAt(top, false); err != nil {
		return envelope{}, err
	}
	s.space()
	if s.i < len(s.b) {
		return envelope{}, s.fail("more after the object")
	}
	return s.env, nil
}

// scanner walks over JSON once. It keeps no values: positions only, and a hash of each key of the objects it is inside of.
type scanner struct {
	b     []byte
	i     int
	depth int
	keys  []uint64
	env   envelope
}

var seed = maphash.MakeSeed()

func (s *scanner) fail(what string) error {
	return fmt.Errorf("the body is not a JSON object that can be trusted: %s at byte %d", what, s.i)
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

// objectAt reads an object; s.i is at its brace. free says that its keys are of somebody's own making, and may differ by case.
func (s *scanner) objectAt(l level, free bool) error {
	if s.depth++; s.depth > maxDepth {
		return s.fail("nested too deeply")
	}
	base := len(s.keys)
	var many map[uint64]struct{}
	s.i++
	for s.space(); ; s.space() {
		if s.i < len(s.b) && s.b[s.i] == '}' && len(s.keys) == base {
			break
		}
		raw, err := s.text()
		if err != nil {
			return err
		}
		key := plain(raw)
		if many, err = s.once(base, many, key, !free); err != nil {
			return err
		}
		s.space()
		if s.i >= len(s.b) || s.b[s.i] != ':' {
			return s.fail("want a colon")
		}
		s.i++
		s.space()
		if err := s.member(l, key); err != nil {
			return err
		}
		s.space()
		if s.i >= len(s.b) {
			return s.fail("cut short")
		}
		if s.b[s.i] == '}' {
			break
		}
		if s.b[s.i] != ',' {
			return s.fail("want a comma or a closing brace")
		}
		s.i++
	}
	s.i++
	s.keys = s.keys[:base]
	s.depth--
	return nil
}

// fewKeys is up to how many keys of an object are compared one by one.
const fewKeys = 32

// once reports a key that its object has already. Objects of many keys are looked up in a map, so that they cost no more for each.
func (s *scanner) once(base int, many map[uint64]struct{}, key []byte, fold bool) (map[uint64]struct{}, error) {
	var h uint64
	if fold {
		var lower [64]byte
		folded := lower[:0]
		for _, c := range key {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			folded = append(folded, c)
		}
		h = maphash.Bytes(seed, folded)
	} else {
		h = maphash.Bytes(seed, key)
	}
	if many == nil {
		for _, known := range s.keys[base:] {
			if known == h {
				return nil, s.fail("a key that is there twice")
			}
		}
		s.keys = append(s.keys, h)
		if len(s.keys)-base < fewKeys {
			return nil, nil
		}
		many = make(map[uint64]struct{}, 4*fewKeys)
		for _, known := range s.keys[base:] {
			many[known] = struct{}{}
		}
		return many, nil
	}
	if _, known := many[h]; known {
		return nil, s.fail("a key that is there twice")
	}
	many[h] = struct{}{}
	return many, nil
}

// member reads the value of a key, keeping what the envelope wants of it.
func (s *scanner) member(l level, key []byte) error {
	start := s.i
	var below level
	var keep *[]byte
	switch l {
	case top:
		switch string(key) {
		case "id":
			keep = &s.env.id
		case "type":
			keep = &s.env.kind
		case "created":
			keep = &s.env.created
		case "api_version":
			keep = &s.env.apiVersion
		case "livemode":
			keep = &s.env.livemode
		case "account":
			keep = &s.env.account
		case "context":
			keep = &s.env.context
		case "object":
			keep = &s.env.object
		case "data":
			below = inData
		case "related_object":
			below = inRelated
		}
	case inData:
		if string(key) == "object" {
			below = inObject
		}
	case inObject:
		switch string(key) {
		case "id":
			keep = &s.env.dataID
		case "object":
			keep = &s.env.dataObject
		case "customer":
			keep, below = &s.env.customer, inCustomer
		}
	case inCustomer:
		if string(key) == "id" { // the customer has been expanded
			keep = &s.env.customer
		}
	case inRelated:
		if string(key) == "id" {
			keep = &s.env.relatedID
		}
	case elsewhere: // nothing there is ours to keep
	}
	object := s.i < len(s.b) && s.b[s.i] == '{'
	if err := s.value(below, freeForm(key)); err != nil {
		return err
	}
	if keep != nil && !object {
		*keep = s.b[start:s.i]
	}
	return nil
}

// freeForm reports whether an object under this name holds keys of somebody's own making rather than Stripe's fields.
func freeForm(key []byte) bool {
	switch string(key) {
	case "metadata", "headers", "labels", "tags", "custom_fields":
		return true
	}
	return false
}

// value reads any value; l and free are about it if it is an object.
func (s *scanner) value(l level, free bool) error {
	if s.i >= len(s.b) {
		return s.fail("cut short")
	}
	switch c := s.b[s.i]; {
	case c == '"':
		_, err := s.text()
		return err
	case c == '{':
		return s.objectAt(l, free)
	case c == '[':
		return s.list()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) list() error {
	if s.depth++; s.depth > maxDepth {
		return s.fail("nested too deeply")
	}
	s.i++
	s.space()
	if s.i < len(s.b) && s.b[s.i] == ']' {
		s.i++
		s.depth--
		return nil
	}
	for {
		s.space()
		if err := s.value(elsewhere, false); err != nil {
			return err
		}
		s.space()
		if s.i >= len(s.b) {
			return s.fail("cut short")
		}
		c := s.b[s.i]
		s.i++
		switch c {
		case ',':
		case ']':
			s.depth--
			return nil
		default:
			s.i--
			return s.fail("want a comma or a closing bracket")
		}
	}
}

func (s *scanner) word(w string) error {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return s.fail("an unknown word")
	}
	s.i += len(w)
	return nil
}

// text reads a string and returns it with its quotes.
func (s *scanner) text() ([]byte, error) {
	if s.i >= len(s.b) || s.b[s.i] != '"' {
		return nil, s.fail("want a text in quotes")
	}
	start := s.i
	for i := s.i + 1; i < len(s.b); i++ {
		switch c := s.b[i]; {
		case c == '"':
			s.i = i + 1
			return s.b[start:s.i], nil
		case c < 0x20:
			s.i = i
			return nil, s.fail("a control character in a text")
		case c == '\\':
			i++
			s.i = i
			if i >= len(s.b) {
				return nil, s.fail("cut short")
			}
			switch s.b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if len(s.b)-i < 5 || !hexadecimal(s.b[i+1:i+5]) {
					return nil, s.fail("a bad escape")
				}
				i += 4
			default:
				return nil, s.fail("a bad escape")
			}
		}
	}
	s.i = len(s.b)
	return nil, s.fail("a text without an end")
}

func hexadecimal(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

func (s *scanner) number() error {
	start := s.i
	if s.i < len(s.b) && s.b[s.i] == '-' {
		s.i++
	}
	whole := s.digits()
	if whole == 0 || whole > 1 && s.b[s.i-whole] == '0' {
		return s.fail("want a value")
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if s.digits() == 0 {
			return s.fail("a bad number")
		}
	}
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		n := s.digits()
		if n == 0 {
			return s.fail("a bad number")
		}
		if exponent, err := strconv.Atoi(string(s.b[s.i-n : s.i])); err != nil || exponent > maxExponent {
			return s.fail("a number out of all proportion")
		}
	}
	if s.i-start > maxNumber {
		return s.fail("a number of too many digits")
	}
	return nil
}

func (s *scanner) digits() int {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i - start
}

// plain is a string that text has passed, without its quotes and escapes. An unpaired surrogate becomes U+FFFD.
func plain(raw []byte) []byte {
	inner := raw[1 : len(raw)-1]
	at := bytes.IndexByte(inner, '\\')
	if at < 0 {
		return inner
	}
	out := append(make([]byte, 0, len(inner)), inner[:at]...)
	for i := at; i < len(inner); i++ {
		if inner[i] != '\\' {
			out = append(out, inner[i])
			continue
		}
		i++
		switch c := inner[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := codeUnit(inner[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				pair := utf8.RuneError
				if len(inner) > i+6 && inner[i+1] == '\\' && inner[i+2] == 'u' {
					pair = utf16.DecodeRune(r, codeUnit(inner[i+3:]))
				}
				if r = pair; pair != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
		}
	}
	return out
}

// codeUnit reads four hexadecimal digits, which text has seen to be there.
func codeUnit(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n)
}

// str is a kept value's text: "" when it is missing, null or no string.
func str(raw []byte) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	return string(plain(raw))
}
