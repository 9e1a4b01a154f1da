package expression

import (
	"errors"
	"strings"
	"unicode"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"github.com/tidewire/tidewire/internal/strictjson"
)

// place is where a node stands in the text, from 1; 0, 0 when that is not known.
func (p *Program) place(id int64) (line, column int) {
	at := p.ast.SourceInfo().GetStartLocation(id)
	if at.Line() < 1 || at.Column() < 0 {
		return 0, 0
	}
	return at.Line(), nameColumn(p.text, at.Line(), at.Column()+1)
}

// nameColumn moves a column from where CEL points, the dot before a field or the parenthesis after a function, to the name.
func nameColumn(text string, line, column int) int {
	lines := strings.Split(text, "\n")
	if line > len(lines) {
		return column
	}
	r := []rune(lines[line-1])
	if column < 1 || column > len(r) {
		return column
	}
	switch r[column-1] {
	case '.':
		return column + 1
	case '(':
		for column > 1 && (r[column-2] == '_' || unicode.IsLetter(r[column-2]) || unicode.IsDigit(r[column-2])) {
			column--
		}
	}
	return column
}

// failed is an error of the expression as a whole.
func (p *Program) failed(message string) *RunError {
	return &RunError{Text: cut(p.text, 200), Message: message}
}

// explain says why a run failed. CEL's own texts quote values of the body (the text that is no number, the key that is
// not there), so none is passed on: what is said comes from the expression and from fixed sentences.
func (p *Program) explain(err error, in *Input) error {
	out := p.failed("")
	if cancelled, ok := errors.AsType[interpreter.EvalCancelledError](err); ok {
		if out.Message = "the expression was stopped"; cancelled.Cause == interpreter.CostLimitExceeded {
			out.Message = "the expression costs more than its limit"
		}
		return out
	}
	e, ok := errors.AsType[*types.Err](err)
	if !ok {
		out.Message = "the expression could not be run"
		return out
	}
	id := e.NodeID()
	node := p.node(id)
	if own, ok := errors.AsType[refusal](err); ok {
		out.Line, out.Column = p.place(id)
		out.Message = string(own)
		return out
	}
	text := e.Error()
	if strings.HasPrefix(text, "no such key") || strings.HasPrefix(text, "no such attribute") {
		at, message := p.missing(id, text, in)
		out.Line, out.Column = p.place(at)
		out.Message = message
		return out
	}
	out.Line, out.Column = p.place(id)
	out.Message = sentence(text) + of(p, node)
	if node != nil && node.Kind() == ast.CallKind && strings.Contains(text, "no such overload") {
		switch node.AsCall().FunctionName() {
		case operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo:
			out.Message += " (whole and decimal numbers do not mix: use int() or double(); string() makes a text)"
		}
	}
	return out
}

// sentence is a fixed text for each kind of CEL's errors.
func sentence(text string) string {
	for _, s := range [...][2]string{
		{"no such overload", "the types do not fit"},
		{"division by zero", "division by zero"},
		{"divide by zero", "division by zero"},
		{"modulus by zero", "division by zero"},
		{"integer overflow", "a whole number is out of range"},
		{"unsigned integer overflow", "a whole number is out of range"},
		{"range error", "a number is out of range"},
		{"index out of bounds", "there is no such index"},
		{"invalid index", "there is no such index"},
		{"no such index", "there is no such index"},
		{"optional.none() dereference", "the optional is empty"},
		{"unsupported index type", "the index is of a wrong type"},
		{"type conversion error", "the value cannot be converted"},
		{"got '", "the value is no list and no map"},
	} {
		if strings.Contains(text, s[0]) {
			return s[1]
		}
	}
	return "the value cannot be used"
}

// of names what failed, by the expression's own text.
func of(p *Program, e ast.Expr) string {
	if e == nil {
		return ""
	}
	text, err := cel.ExprToString(e, p.ast.SourceInfo())
	if err != nil || text == "" {
		if e.Kind() == ast.CallKind {
			if name := e.AsCall().FunctionName(); !strings.ContainsAny(name, "@_") {
				return " in " + name + "()"
			}
		}
		return ""
	}
	return " in " + cut(text, 100)
}

func (p *Program) node(id int64) (found ast.Expr) {
	ast.PreOrderVisit(p.ast.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() == id && found == nil {
			found = e
		}
	}))
	return found
}

// root is where a path of fields and indexes starts.
func root(e ast.Expr) ast.Expr {
	for {
		switch e.Kind() {
		case ast.SelectKind:
			e = e.AsSelect().Operand()
			continue
		case ast.CallKind:
			switch c := e.AsCall(); c.FunctionName() {
			case operators.Index, operators.OptIndex, operators.OptSelect:
				e = c.Args()[0]
				continue
			}
		}
		return e
	}
}

// step is one field or index of a path: the node that adds it and its name when that is written out.
type step struct {
	id    int64
	name  string
	fixed bool
}

// steps are those from a path's root to e, the first one first.
func steps(e ast.Expr) []step {
	switch e.Kind() {
	case ast.SelectKind:
		s := e.AsSelect()
		return append(steps(s.Operand()), step{e.ID(), s.FieldName(), true})
	case ast.CallKind:
		c := e.AsCall()
		switch c.FunctionName() {
		case operators.Index, operators.OptIndex, operators.OptSelect:
			s := step{id: e.ID()}
			if key := c.Args()[1]; key.Kind() == ast.LiteralKind {
				var name types.String
				name, s.fixed = key.AsLiteral().(types.String)
				s.name = string(name)
			}
			return append(steps(c.Args()[0]), s)
		}
	}
	return nil
}

// missing says which field of a path is not there, id being the path's last node. Where a key came from the body it is not repeated.
func (p *Program) missing(id int64, text string, in *Input) (at int64, message string) {
	e := p.node(id)
	if e == nil {
		return id, "no such key"
	}
	best, start := steps(e), root(e)
	at = id
	base := "the value"
	if start.Kind() == ast.IdentKind {
		base = start.AsIdent()
	}
	var fields []string
	for _, s := range best {
		if !s.fixed {
			break
		}
		fields = append(fields, s.name)
	}
	if len(fields) == 0 {
		return at, "no such key in " + base
	}
	if base == "body" && !in.Body.IsZero() {
		found, last := path(in.Body.root, fields)
		if found == len(fields) {
			return at, "no such key in " + address(base, fields)
		}
		message = "no such field: " + fields[found] + " in " + address(base, fields[:found])
		if last.Kind() != strictjson.Object {
			message += ", which is " + valueName(last)
		}
		return best[found].id, message
	}
	for i, name := range fields {
		if text == "no such key: "+name {
			return best[i].id, "no such field: " + name + " in " + address(base, fields[:i])
		}
	}
	return at, "no such field in " + address(base, fields)
}

// address writes a path as an expression would.
func address(base string, fields []string) string {
	var b strings.Builder
	b.WriteString(base)
	for _, f := range fields {
		b.WriteString("." + f)
	}
	return cut(b.String(), 200)
}

func valueName(v *strictjson.Value) string {
	return [...]string{"null", "false", "true", "a number", "a number", "a text", "a list", "an object"}[v.Kind()]
}

// name says what a value is, never which.
func name(v ref.Val) string {
	switch v := v.(type) {
	case types.Null:
		return "null"
	case types.String:
		return "a text"
	case types.Bool:
		return "true or false"
	case types.Int, types.Uint, types.Double, *number:
		return "a number"
	case *types.Optional:
		if !v.HasValue() {
			return "nothing"
		}
		return name(v.GetValue())
	}
	return "a " + v.Type().TypeName()
}
