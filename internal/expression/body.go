package expression

import (
	"github.com/tidewire/tidewire/internal/strictjson"
)

// Limits on a body that expressions read. What breaks one is refused by ParseBody; bytes that no expression reads are not looked at.
const (
	// MaxDepth is how deep objects and lists may nest in a body.
	MaxDepth = strictjson.MaxDepth
	// MaxNumber is how many characters a number in a body may have.
	MaxNumber = strictjson.MaxNumber
	// MaxExponent bounds the power of ten of a number in a body: 1e400 passes, 1e99999 does not.
	MaxExponent = strictjson.MaxExponent
)

// Body is a JSON body, read once and shared by every expression that looks at it. It is immutable and safe for
// concurrent use. The zero Body stands for a body that is no JSON: an expression that needs it fails and says so.
type Body struct{ root *strictjson.Value }

// IsZero reports whether there is no body to look at.
func (b Body) IsZero() bool { return b.root == nil }

// BodyError says why ParseBody refused a body. It holds no part of the body.
type BodyError = strictjson.Error

// ParseBody reads a JSON text by the rules of strictjson, which are stricter than most readers'. The bytes are copied. A refusal is a *BodyError.
func ParseBody(text []byte) (Body, error) {
	root, err := strictjson.Parse(text)
	return Body{root}, err
}

// path finds what fields lead to, for messages: how many of them are there, and the value before the one that is not.
func path(v *strictjson.Value, fields []string) (found int, last *strictjson.Value) {
	for i, f := range fields {
		next := v.Member(f)
		if next == nil {
			return i, v
		}
		v = next
	}
	return len(fields), v
}
