package expression

import (
	"regexp"
	"regexp/syntax"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// Limits on one expression and one run of it.
const (
	// MaxExpression is how long an expression may be, in characters.
	MaxExpression = 16 << 10
	// CostLimit bounds one run, in CEL's units: about one for a step, one for ten bytes of text. A map over a
	// thousand order lines with ten fields each costs about a fifth of it. What exceeds it fails, always at the same place.
	CostLimit = 500_000
	// MaxOutput is how many bytes of JSON one run may make.
	MaxOutput = 1 << 20

	maxNodes       = 5_000 // of a parsed expression, macros expanded
	maxNesting     = 100   // of a parsed expression
	maxPattern     = 512   // characters of a regular expression
	maxProgram     = 1_000 // its instructions
	maxMatching    = 1 << 24
	maxElements    = 50_000 // of two lists put together
	simpleNodes    = 128
	interruptEvery = 100
)

// prices are what a call costs where CEL's own price is too low: it counts the elements of a list and not what is in
// them, and takes what it does not know for free.
type prices struct{}

func (prices) CallCost(function, overload string, args []ref.Val, result ref.Val) *uint64 {
	cost := uint64(1)
	switch function {
	case operators.Equals, operators.NotEquals:
		cost += uint64(min(weigh(args[0]), weigh(args[1]))) / 10
	case operators.In:
		cost += uint64(weigh(args[0])+weigh(args[1])) / 10
	case operators.Add:
		if _, text := result.(types.String); text || accumulator(args[0]) {
			return nil
		}
		cost += uint64(length(result)) / 10
	case "cel.@mapInsert":
		if m, ok := args[0].(traits.Mapper); ok { // cel makes a list of all keys to see that it is a map
			n, _ := m.Size().(types.Int)
			cost += uint64(n) * 5 / 8
		}
	case "split": // a piece takes many times the memory of a character
		cost += uint64(weigh(args[0])+weigh(result))/10 + uint64(length(result))
	case "charAt", "indexOf", "lastIndexOf", "lowerAscii", "reverse", "substring", "upperAscii":
		cost += uint64(weigh(args[0])) / 10
		if s, text := args[0].(types.String); text { // cel spreads it out, four bytes for each character
			cost += uint64(len(s)) / 6
		}
	case "matches":
		cost += uint64(weigh(args[0]))
	case "distinct":
		n := uint64(length(args[0]))
		cost += n * n
	case "sets.contains", "sets.equivalent", "sets.intersects":
		cost += uint64(length(args[0])) * uint64(length(args[1]))
	default:
		if isOperator(function) {
			return nil
		}
		for _, a := range args {
			cost += uint64(weigh(a)) / 10
		}
		cost += uint64(weigh(result)) / 10
	}
	return &cost
}

func isOperator(function string) bool {
	_, ok := operators.FindReverse(function)
	return ok || function == defaultFunction
}

// guards plans the operators whose work grows with what they are given so that they look at it first, and regular
// expressions so that text times pattern is bounded.
func guards() cel.ProgramOption {
	return cel.CustomDecoratorV2(func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		call, ok := i.(interpreter.InterpretableCall)
		if !ok {
			return i, nil
		}
		args := call.Args()
		if len(args) != 2 {
			return i, nil
		}
		g := &guarded{call: call, left: args[0], right: args[1]}
		switch call.Function() {
		case operators.Equals:
			g.run = func(l, r ref.Val) ref.Val { return light(l, r, types.Equal) }
		case operators.NotEquals:
			g.run = func(l, r ref.Val) ref.Val { return light(l, r, notEqual) }
		case operators.In:
			if c, ok := args[1].(interpreter.InterpretableConstructor); ok && allConst(c) {
				return i, nil // becomes a look-up in a set
			}
			g.run = func(l, r ref.Val) ref.Val { return light(l, r, contained) }
		case operators.Add:
			g.run = add
		case "matches":
			match, err := matcher(args[1])
			if err != nil {
				return nil, err
			}
			g.run = func(l, _ ref.Val) ref.Val { return match(l) }
		default:
			return i, nil
		}
		return g, nil
	})
}

func allConst(c interpreter.InterpretableConstructor) bool {
	for _, v := range c.InitVals() {
		if _, ok := v.(interpreter.InterpretableConst); !ok {
			return false
		}
	}
	return true
}

// guarded is a call of two arguments that runs run.
// It does not show itself as a call, because cel's own optimizations would put theirs in its place.
type guarded struct {
	call        interpreter.InterpretableCall
	left, right interpreter.InterpretableV2
	run         func(l, r ref.Val) ref.Val
}

func (g *guarded) ID() int64 { return g.call.ID() }

func (g *guarded) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, g.Exec)
}

func (g *guarded) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	l := g.left.Exec(frame)
	if types.IsUnknownOrError(l) {
		return l
	}
	r := g.right.Exec(frame)
	if types.IsUnknownOrError(r) {
		return r
	}
	out := types.LabelErrNode(g.ID(), g.run(l, r))
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalBinary(frame, g.ID(), g.call, l, r, out)
	}
	return out
}

// light runs an operation that walks through both values when one of them is small or both are not too large.
func light(l, r ref.Val, run func(l, r ref.Val) ref.Val) ref.Val {
	if !scalar(l) && !scalar(r) && weigh(l)+weigh(r) > maxOperand {
		return types.WrapErr(errTooLarge)
	}
	return run(l, r)
}

func scalar(v ref.Val) bool {
	switch v.(type) {
	case traits.Mapper, traits.Lister:
		return false
	}
	return true
}

func notEqual(l, r ref.Val) ref.Val {
	eq := types.Equal(l, r)
	if b, ok := eq.(types.Bool); ok {
		return !b
	}
	return eq
}

func contained(l, r ref.Val) ref.Val {
	if c, ok := r.(traits.Container); ok {
		return c.Contains(l)
	}
	return types.NoSuchOverloadErr()
}

func add(l, r ref.Val) ref.Val {
	switch l.(type) {
	case types.String, types.Bytes:
		if weigh(l)+weigh(r) > maxText {
			return types.WrapErr(errTooLong)
		}
	}
	if left, ok := l.(traits.Lister); ok && !accumulator(l) {
		return concat(left, r)
	}
	if a, ok := l.(traits.Adder); ok {
		return a.Add(r)
	}
	return types.NoSuchOverloadErr()
}

// accumulator reports whether v is what a comprehension gathers its result in: it grows in place.
func accumulator(v ref.Val) bool {
	switch v.(type) {
	case traits.MutableLister, traits.MutableMapper:
		return true
	}
	return false
}

// concat copies two lists into one. CEL's own keeps them as a tree, which a chain of additions makes exponentially large to walk.
func concat(l traits.Lister, other ref.Val) ref.Val {
	r, ok := other.(traits.Lister)
	if !ok {
		return types.NoSuchOverloadErr()
	}
	left, right := length(l), length(r)
	if left+right > maxElements {
		return types.WrapErr(errTooMany)
	}
	all := make([]ref.Val, 0, left+right)
	for i := range left {
		all = append(all, l.Get(types.Int(i)))
	}
	for i := range right {
		all = append(all, r.Get(types.Int(i)))
	}
	return types.NewRefValList(adapter{}, all)
}

// matcher compiles a constant pattern.
func matcher(pattern interpreter.InterpretableV2) (func(ref.Val) ref.Val, error) {
	c, ok := pattern.(interpreter.InterpretableConst)
	if !ok {
		return nil, refusal("the pattern of matches() must be written out, not computed")
	}
	text, _ := c.Value().(types.String)
	size, err := programSize(string(text))
	if err != nil {
		return nil, err
	}
	re, err := regexp.Compile(string(text))
	if err != nil {
		return nil, refusal("the pattern of matches() is no regular expression")
	}
	return func(v ref.Val) ref.Val {
		s, ok := v.(types.String)
		if !ok {
			return types.NoSuchOverloadErr()
		}
		if len(s)*size > maxMatching {
			return failure("the text is too long for this pattern")
		}
		return types.Bool(re.MatchString(string(s)))
	}, nil
}

// programSize is how many instructions a pattern compiles to: what each character of a text costs at most.
func programSize(pattern string) (int, error) {
	if len(pattern) > maxPattern {
		return 0, refusal("the pattern of matches() is longer than 512 characters")
	}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, refusal("the pattern of matches() is no regular expression: " + err.Error())
	}
	p, err := syntax.Compile(re.Simplify())
	if err != nil || len(p.Inst) > maxProgram {
		return 0, refusal("the pattern of matches() is too large; use smaller counts in {}")
	}
	return len(p.Inst), nil
}

// simple reports whether a checked expression cannot cost much whatever the body is: it has no comprehension, few
// nodes, and no function whose work is more than one walk over what it is given, and few that copy it. It then runs without the price of counting prices.
func simple(a *ast.AST) bool {
	nodes, plus, copies := 0, 0, 0
	cheap := true
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		nodes++
		switch e.Kind() {
		case ast.ComprehensionKind, ast.StructKind:
			cheap = false
		case ast.CallKind:
			c := e.AsCall()
			switch c.FunctionName() {
			case operators.Add:
				plus++
			case "base64.encode", "bytes", "format", "lowerAscii", "string", "substring", "upperAscii":
				copies++
			}
			cheap = cheap && cheapCall(a, c)
		}
	}))
	return cheap && nodes <= simpleNodes && plus <= 8 && copies <= 2
}

func cheapCall(a *ast.AST, c ast.CallExpr) bool {
	switch c.FunctionName() {
	case operators.Equals, operators.NotEquals:
		return scalarType(a.GetType(c.Args()[0].ID())) || scalarType(a.GetType(c.Args()[1].ID()))
	case operators.In:
		return scalarType(a.GetType(c.Args()[0].ID())) && c.Args()[1].Kind() == ast.ListKind
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
		operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional,
		operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo, operators.Negate,
		operators.Index, operators.OptIndex, operators.OptSelect, defaultFunction,
		"money", "minor", "unix", "header", "query", "sha256hex", "format", "base64.encode", "substring",
		"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getHours", "getMinutes", "getSeconds",
		"string", "int", "uint", "double", "bool", "bytes", "timestamp", "duration", "type", "dyn",
		"size", "startsWith", "endsWith", "contains", "lowerAscii", "upperAscii", "trim",
		"or", "orValue", "hasValue", "value", "optional.of", "optional.none":
		return true
	}
	return false
}

func scalarType(t *types.Type) bool {
	switch t.Kind() {
	case types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.StringKind, types.NullTypeKind, types.TimestampKind, types.DurationKind:
		return true
	}
	return false
}
