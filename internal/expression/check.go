package expression

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

func wrong(text string, line, column int, message string) *CompileError {
	return &CompileError{[]Problem{{line, column, message, snippet(text, line, column)}}}
}

// issuesError turns cel's findings into problems. After a mistake of grammar what follows is noise: the first is enough.
func issuesError(text string, issues *cel.Issues) *CompileError {
	var out []Problem
	for _, i := range issues.Errors() {
		line, column := max(i.Location.Line(), 1), max(i.Location.Column()+1, 1)
		column = nameColumn(text, line, column)
		message, _, _ := strings.Cut(i.Message, "\n")
		if grammar, ok := strings.CutPrefix(message, "Syntax error: "); ok {
			return wrong(text, line, column, regrammar(grammar))
		}
		out = append(out, Problem{line, column, cut(reword(message), 300), snippet(text, line, column)})
	}
	if len(out) == 0 {
		return wrong(text, 1, 1, cut(issues.Err().Error(), 300))
	}
	slices.SortStableFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &CompileError{out[:min(len(out), 10)]}
}

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'(?: \(in container '[^']*'\))?(?: \(did you mean '([^']*)'\?\))?`)
	unexpected = regexp.MustCompile(`^(?:mismatched input|extraneous input|no viable alternative at input|token recognition error at:) '(.*?)'(?: expecting .*)?$`)
	noOverload = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '(.*)'$`)
)

// regrammar says where the grammar is broken without listing what ANTLR would have liked.
func regrammar(message string) string {
	if strings.Contains(message, "'<EOF>'") {
		return "the expression ends too early"
	}
	if m := unexpected.FindStringSubmatch(message); m != nil {
		return "the grammar is broken at " + cut(m[1], 40)
	}
	return "the grammar is broken: " + cut(message, 200)
}

// reword says in the words of the config what the checker says in those of CEL.
func reword(message string) string {
	if m := undeclared.FindStringSubmatch(message); m != nil {
		switch {
		case m[1] == "now":
			return "there is no now: an event must give the same result when it is replayed; use time"
		case m[2] != "":
			return "unknown name " + m[1] + "; did you mean " + m[2] + "?"
		}
		return "unknown name " + m[1]
	}
	if m := noOverload.FindStringSubmatch(message); m != nil {
		name, args := strings.Trim(m[1], "_"), m[2]
		if op, ok := operators.FindReverse(m[1]); ok && op != "" {
			name = op
		}
		return "the types do not fit: " + strings.Trim(name, "_") + " cannot take " + args
	}
	return message
}

// check says what CEL's checker lets pass and is a mistake all the same, and at which node.
func (p *Program) check(out *cel.Type) (at int64, message string) {
	if message := p.checkOutput(out); message != "" {
		return p.ast.Expr().ID(), message
	}
	ast.PreOrderVisit(p.ast.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if message != "" {
			return
		}
		switch e.Kind() {
		case ast.MapKind:
			seen := make(map[ref.Val]bool)
			for _, entry := range e.AsMap().Entries() {
				if k := entry.AsMapEntry().Key(); k.Kind() == ast.LiteralKind {
					if v := k.AsLiteral(); seen[v] {
						at, message = k.ID(), "the key is there twice"
					} else {
						seen[v] = true
					}
				}
			}
		case ast.CallKind:
			at, message = p.checkCall(e)
		}
	}))
	return at, message
}

func (p *Program) checkCall(e ast.Expr) (at int64, message string) {
	c := e.AsCall()
	switch c.FunctionName() {
	case "matches":
		pattern := c.Args()[len(c.Args())-1]
		if pattern.Kind() != ast.LiteralKind {
			return pattern.ID(), "the pattern of matches() must be written out, not computed"
		}
		text, _ := pattern.AsLiteral().(types.String)
		if _, err := programSize(string(text)); err != nil {
			return pattern.ID(), err.Error()
		}
	case "money", "minor":
		if len(c.Args()) < 2 {
			return 0, ""
		}
		currency, name := c.Args()[1], types.String("iso")
		if len(c.Args()) == 3 && c.Args()[2].Kind() == ast.LiteralKind {
			name, _ = c.Args()[2].AsLiteral().(types.String)
		}
		code := types.String("USD")
		if currency.Kind() == ast.LiteralKind {
			code, _ = currency.AsLiteral().(types.String)
		}
		if _, err := places(string(code), string(name)); err != nil {
			return e.ID(), err.Error()
		}
	case "format":
		if form := c.Args()[0]; form.Kind() == ast.LiteralKind {
			if text, ok := form.AsLiteral().(types.String); ok && c.IsMemberFunction() && p.ast.GetType(c.Target().ID()).Kind() != types.StringKind {
				if err := checkForm(string(text)); err != nil {
					return form.ID(), err.Error()
				}
			}
		}
	}
	return 0, ""
}

// checkOutput compares the type that the checker found with what is wanted.
func (p *Program) checkOutput(out *cel.Type) string {
	kind := out.Kind()
	if out.TypeName() == "optional_type" && len(out.Parameters()) == 1 && p.want != Bool {
		return p.checkOutput(out.Parameters()[0])
	}
	if kind == types.DynKind || kind == types.AnyKind || kind == types.TypeParamKind {
		return ""
	}
	fits, wanted := true, ""
	switch p.want {
	case Bool:
		fits, wanted = kind == types.BoolKind, "true or false"
	case String:
		fits, wanted = kind == types.StringKind || kind == types.IntKind || kind == types.UintKind || kind == types.NullTypeKind, "a text; string() makes one"
	case Time:
		fits, wanted = kind == types.StringKind || kind == types.TimestampKind || kind == types.NullTypeKind, "a time; unix() makes one of seconds, timestamp() of a text"
	case Any:
		fits, wanted = kind != types.TypeKind && kind != types.OpaqueKind && kind != types.StructKind, "a value that JSON has"
	}
	if fits {
		return ""
	}
	return "the expression gives " + typeName(out) + ", but this place wants " + wanted
}

func typeName(t *cel.Type) string { return cut(cel.FormatCELType(t), 80) }

// mentions reports whether a name occurs. One that a macro binds to the same name counts too: being wrong then costs little.
func mentions(e ast.Expr, name string) bool {
	found := false
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) { found = found || isIdent(e, name) }))
	return found
}

// guardOf finds the event types for which a condition can be true. It is sound whatever the rest does, errors included: in CEL
// false && error is false, and false || error is an error, which is why both sides of || have to be guarded.
func guardOf(e ast.Expr) (only []string, ok bool) {
	if e.Kind() != ast.CallKind {
		return nil, false
	}
	c := e.AsCall()
	switch c.FunctionName() {
	case operators.LogicalAnd:
		for _, arg := range c.Args() {
			more, found := guardOf(arg)
			switch {
			case !found:
			case !ok:
				only, ok = more, true
			default:
				only = slices.DeleteFunc(slices.Clone(only), func(t string) bool { return !slices.Contains(more, t) })
			}
		}
		return only, ok
	case operators.LogicalOr:
		for _, arg := range c.Args() {
			more, found := guardOf(arg)
			if !found {
				return nil, false
			}
			only = append(only, more...)
		}
	case operators.Equals:
		only = constant(c.Args()[0], c.Args()[1])
		if only == nil {
			only = constant(c.Args()[1], c.Args()[0])
		}
	case operators.In:
		if !isIdent(c.Args()[0], "type") || c.Args()[1].Kind() != ast.ListKind || len(c.Args()[1].AsList().OptionalIndices()) > 0 {
			return nil, false
		}
		only = []string{}
		for _, element := range c.Args()[1].AsList().Elements() {
			text := constant(c.Args()[0], element)
			if text == nil {
				return nil, false
			}
			only = append(only, text...)
		}
	}
	if only == nil {
		return nil, false
	}
	slices.Sort(only)
	return slices.Compact(only), true
}

// constant is the text that the event's type is compared with.
func constant(name, value ast.Expr) []string {
	if isIdent(name, "type") && value.Kind() == ast.LiteralKind {
		if s, ok := value.AsLiteral().(types.String); ok {
			return []string{string(s)}
		}
	}
	return nil
}
