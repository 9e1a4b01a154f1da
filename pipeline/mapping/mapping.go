// Package mapping shapes the payload of a delivery: the map of a route, a YAML shape whose leaf texts are expressions,
// made into JSON for each event.
package mapping

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/expression"
)

// Limits on one map. Each expression has its own limits on top (package expression).
const (
	// MaxLeaves is how many expressions a map may have.
	MaxLeaves = 1000
	// MaxDepth is how deep mappings and lists may nest in a map.
	MaxDepth = 32
	// MaxOutput is how many bytes of JSON a map may make of one event.
	MaxOutput = expression.MaxOutput
)

// Map makes the payload of a route. It is immutable and safe for concurrent use.
type Map struct {
	root      part
	needsBody bool
}

// Error is why a map made no payload of an event. It holds no value of the event's body.
type Error struct {
	// Path is the field's address in the map, such as "map.lines[0].sku".
	Path string
	// Err is what went wrong there; usually an *expression.RunError.
	Err error
}

// Error is the path and what went wrong.
func (e *Error) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Compile reads a map: texts are expressions of env, numbers, true, false and null are themselves, mappings and lists
// are what they are. A node that is missing or null gives a nil Map: the body is then sent as it came, byte for byte. All mistakes
// come back at once, as config.Problems.
func Compile(env *expression.Env, n config.Node) (*Map, error) {
	if n.IsZero() {
		return nil, nil
	}
	c := compiler{env: env, base: n.Path(), m: &Map{}}
	c.m.root = c.part(n, 0)
	if c.leaves > MaxLeaves {
		c.problems = append(c.problems, n.Problem(fmt.Sprintf("the map has %d expressions, more than %d", c.leaves, MaxLeaves),
			"carry whole parts of the body: details: body.details"))
	}
	if err := config.Join(c.problems...).Err(); err != nil {
		return nil, err
	}
	return c.m, nil
}

// NeedsBody reports whether any expression of the map looks at the body. False for a nil Map.
func (m *Map) NeedsBody() bool { return m != nil && m.needsBody }

// Run makes the JSON of one event: fields in the order of the YAML, numbers with all their digits, parts of the body byte for
// byte, times as RFC 3339, bytes as base64. A field or list element whose value is an empty optional (body.?note) is left out. The error is
// *Error, or the context's when it was done first. m must not be nil.
func (m *Map) Run(ctx context.Context, in *expression.Input) ([]byte, error) {
	buf, present, err := m.root.append(ctx, make([]byte, 0, 512), in)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	if !present {
		return []byte("null"), nil
	}
	return buf, nil
}

// part is a piece of a map. append adds its JSON to dst; present is false, and dst as it was, when there is nothing to add.
type part interface {
	append(ctx context.Context, dst []byte, in *expression.Input) (out []byte, present bool, err error)
}

// literal is JSON that is the same for every event.
type literal string

func (l literal) append(_ context.Context, dst []byte, _ *expression.Input) ([]byte, bool, error) {
	return append(dst, l...), true, nil
}

// leaf is an expression.
type leaf struct {
	program *expression.Program
	path    string
	hidden  bool // its text holds values from the environment and is not shown
}

func (l *leaf) append(ctx context.Context, dst []byte, in *expression.Input) ([]byte, bool, error) {
	out, present, err := l.program.AppendJSON(ctx, dst, in)
	switch {
	case err != nil && l.hidden:
		return dst, false, &Error{l.path, expression.ErrHidden}
	case err != nil:
		return dst, false, &Error{l.path, err}
	case len(out) > MaxOutput:
		return dst, false, &Error{l.path, errTooLarge}
	}
	return out, present, nil
}

var (
	errTooLarge = errors.New("with this field the result is larger than 1 MiB")
)

// object is a mapping; names are written as JSON already, with their colons.
type object struct {
	names []string
	parts []part
}

func (o *object) append(ctx context.Context, dst []byte, in *expression.Input) ([]byte, bool, error) {
	out := append(dst, '{')
	first := len(out)
	for i, p := range o.parts {
		mark := len(out)
		if mark > first {
			out = append(out, ',')
		}
		out = append(out, o.names[i]...)
		next, present, err := p.append(ctx, out, in)
		if err != nil {
			return dst, false, err
		}
		if out = next; !present {
			out = out[:mark]
		}
	}
	return append(out, '}'), true, nil
}

type list []part

func (l list) append(ctx context.Context, dst []byte, in *expression.Input) ([]byte, bool, error) {
	out := append(dst, '[')
	first := len(out)
	for _, p := range l {
		mark := len(out)
		if mark > first {
			out = append(out, ',')
		}
		next, present, err := p.append(ctx, out, in)
		if err != nil {
			return dst, false, err
		}
		if out = next; !present {
			out = out[:mark]
		}
	}
	return append(out, ']'), true, nil
}

// compiler gathers what is wrong with a map.
type compiler struct {
	env      *expression.Env
	base     string
	m        *Map
	leaves   int
	problems []error
}

func (c *compiler) part(n config.Node, depth int) part {
	if depth > MaxDepth {
		c.problems = append(c.problems, n.Problem("the map nests too deep", "at most 32 levels"))
		return literal("null")
	}
	switch n.Kind() {
	case config.Map:
		o := &object{}
		for _, f := range n.Fields() {
			o.names = append(o.names, string(append(expression.AppendString(nil, f.Key), ':')))
			o.parts = append(o.parts, c.part(f.Value, depth+1))
		}
		return o
	case config.List:
		l := list{}
		for _, item := range n.Items() {
			l = append(l, c.part(item, depth+1))
		}
		return l
	case config.String:
		return c.leaf(n)
	case config.Int, config.Float:
		text, ok := number(n.Value())
		if !ok {
			c.problems = append(c.problems, n.Problem("JSON has no such number", "write it with digits, or as an expression in quotes"))
		}
		return literal(text)
	case config.Bool:
		return literal(strings.ToLower(n.Value()))
	default:
		return literal("null")
	}
}

func (c *compiler) leaf(n config.Node) part {
	c.leaves++
	e := n.Expression()
	program, err := c.env.Compile(e.Text, expression.Any)
	if err != nil {
		c.problems = append(c.problems, problems(n, err)...)
		return literal("null")
	}
	c.m.needsBody = c.m.needsBody || program.NeedsBody()
	return &leaf{program, "map" + strings.TrimPrefix(n.Path(), c.base), n.Expanded()}
}

var bareWord = regexp.MustCompile(`^[\pL_][\pL\pN_ -]*$`)

// problems places the mistakes of an expression in the file.
func problems(n config.Node, err error) []error {
	e := n.Expression()
	if n.Expanded() {
		return []error{e.Problem(0, 0, "the expression does not compile; it holds values from outside the file (${…}), so it is not shown", "")}
	}
	wrong, ok := errors.AsType[*expression.CompileError](err)
	if !ok {
		return []error{e.Problem(0, 0, err.Error(), "")}
	}
	fix := ""
	switch {
	case strings.TrimSpace(e.Text) == "":
		fix = `for an empty text write '""'`
	case bareWord.MatchString(e.Text):
		fix = fmt.Sprintf(`a text in a map is an expression; for the text itself write '"%s"'`, e.Text)
	}
	var out []error
	for _, p := range wrong.Problems {
		out = append(out, e.Problem(p.Line, p.Column, p.Message, fix))
	}
	return out
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// number is a YAML number as JSON: as it is written where JSON allows that, in decimal digits otherwise (0x1F, +5).
func number(text string) (string, bool) {
	if jsonNumber.MatchString(text) {
		return text, true
	}
	digits, base := strings.TrimLeft(text, "+-"), 10
	if strings.HasPrefix(digits, "0x") || strings.HasPrefix(digits, "0o") {
		base = 0
	}
	i, ok := new(big.Int).SetString(digits, base)
	if !ok {
		return "null", false
	}
	if strings.HasPrefix(text, "-") {
		i.Neg(i)
	}
	return i.String(), true
}
