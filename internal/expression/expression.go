// Package expression compiles and runs the expressions of the config file. They are CEL (https://cel.dev), which is
// checked before it runs and always ends; on top of that every run has a cost limit, so that no expression and no body can
// hold a hub up or fill its memory. An expression sees one event or one call and nothing else: no clock, no files, no network. The
// same input gives the same result whenever it is replayed.
package expression

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"github.com/tidewire/tidewire/internal/strictjson"
)

// Kind is what an expression must give.
type Kind int

const (
	// Any is whatever can be written as JSON.
	Any Kind = iota
	// Bool is true or false.
	Bool
	// String is a text; a whole number gives its digits, null and an empty optional the empty text.
	String
	// Time is a timestamp, or a text that is one by RFC 3339; null and an empty optional give the zero time.
	Time
)

// Env is what expressions may name, immutable and safe for concurrent use.
type Env struct{ cel *cel.Env }

// ForCalls returns the environment in which a webhook is read: body, method ("POST"), header("Name") and query("name"), the last two
// being "" when the call has no such header or parameter, and the first value when it has several.
func ForCalls() (*Env, error) {
	late := func(name string) cel.EnvOption {
		return cel.Function(name, cel.Overload(name+"_string", []*cel.Type{cel.StringType}, cel.StringType, cel.LateFunctionBinding()))
	}
	return newEnv(cel.Variable("method", cel.StringType), late("header"), late("query"))
}

// ForEvents returns the environment of routes: body, id, type, source, subject, key, time (a timestamp) and ext, a map
// from the event's extension attributes to their texts.
func ForEvents() (*Env, error) {
	return newEnv(
		cel.Variable("id", cel.StringType), cel.Variable("type", cel.StringType), cel.Variable("source", cel.StringType),
		cel.Variable("subject", cel.StringType), cel.Variable("key", cel.StringType), cel.Variable("time", cel.TimestampType),
		cel.Variable("ext", cel.MapType(cel.StringType, cel.StringType)),
	)
}

func newEnv(opts ...cel.EnvOption) (*Env, error) {
	libs, err := libraries()
	if err != nil {
		return nil, err
	}
	base := []cel.EnvOption{
		cel.CustomTypeAdapter(adapter{}),
		cel.Variable("body", cel.DynType),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(MaxExpression),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ParserRecursionLimit(maxNesting),
		cel.ParserErrorRecoveryLimit(4),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
	}
	base = append(append(append(base, libs...), ownFunctions()...), opts...)
	env, err := cel.NewEnv(base...)
	if err != nil {
		return nil, err
	}
	return &Env{cel: env}, nil
}

// Input is what an expression looks at: one call, or one event. Fields that an environment does not name are not used.
type Input struct {
	// Body is the event's body. The zero Body makes expressions that need it fail.
	Body Body
	// Method, Header and Query are the call's; header names are matched without regard to case.
	Method string
	Header http.Header
	Query  url.Values
	// The event's attributes.
	ID, Type, Source, Subject, Key string
	Time                           time.Time
	Ext                            map[string]string
}

// Compile checks an expression that must give want. The error is *CompileError.
func (e *Env) Compile(text string, want Kind) (*Program, error) {
	if len(text) > MaxExpression || !utf8.ValidString(text) {
		return nil, wrong(text, 1, 1, "an expression is UTF-8 and at most 16 KiB long")
	}
	if strings.TrimSpace(text) == "" {
		return nil, wrong(text, 1, 1, "the expression is empty")
	}
	checked, issues := e.cel.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, issuesError(text, issues)
	}
	p := &Program{text: text, ast: checked.NativeRep(), want: want}
	if at, message := p.check(checked.OutputType()); message != "" {
		line, column := p.place(at)
		return nil, wrong(text, line, column, message)
	}
	// cel's static estimate of the cost is not asked: it takes exponential time on nested bindings and knows no bounds of a body anyway.
	opts := []cel.ProgramOption{findExact(p.ast.Expr()).option(), guards(), cel.EvalOptions(cel.OptOptimize)}
	if !simple(p.ast) {
		p.counted = true
		opts = append(opts, cel.CostTracking(prices{}), cel.CostLimit(CostLimit), cel.InterruptCheckFrequency(interruptEvery))
	}
	program, err := e.cel.Program(checked, opts...)
	if err != nil {
		return nil, wrong(text, 1, 1, err.Error())
	}
	p.program = program
	p.needsBody = mentions(p.ast.Expr(), "body")
	p.types, p.guarded = guardOf(p.ast.Expr())
	return p, nil
}

// Program is a compiled expression, immutable and safe for concurrent use.
type Program struct {
	text      string
	ast       *ast.AST
	program   cel.Program
	want      Kind
	counted   bool // runs under the cost limit
	needsBody bool
	types     []string
	guarded   bool
}

// Text is the expression as it was written.
func (p *Program) Text() string { return p.text }

// NeedsBody reports whether the expression looks at the body, so that an event's body is parsed only when one does.
func (p *Program) NeedsBody() bool { return p.needsBody }

// Types returns the event types for which a condition can be true, when its text limits them: for any other type it is
// false, and not an error either. ok false means that it can be true for any type. The slice must not be changed.
func (p *Program) Types() (only []string, ok bool) { return p.types, p.guarded }

// Bool runs a condition. The error is *RunError, or the context's when it was done first.
func (p *Program) Bool(ctx context.Context, in *Input) (bool, error) {
	v, err := p.run(ctx, in)
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, p.failed("gives " + name(v) + ", not true or false")
	}
	return bool(b), nil
}

// String runs an expression that gives a text, as Kind String says. The error is as of Bool.
func (p *Program) String(ctx context.Context, in *Input) (string, error) {
	v, err := p.run(ctx, in)
	if err != nil {
		return "", err
	}
	switch v := unwrap(v).(type) {
	case nil, types.Null:
		return "", nil
	case types.String:
		return string(v), nil
	case types.Int, types.Uint:
		return string(v.ConvertToType(types.StringType).(types.String)), nil
	case *number:
		if n := (*strictjson.Value)(v); n.Kind() == strictjson.Integer {
			return n.Raw(), nil
		}
	}
	return "", p.failed("gives " + name(v) + ", not a text")
}

// Time runs an expression that gives a time, in UTC, as Kind Time says. The error is as of Bool.
func (p *Program) Time(ctx context.Context, in *Input) (time.Time, error) {
	v, err := p.run(ctx, in)
	if err != nil {
		return time.Time{}, err
	}
	switch v := unwrap(v).(type) {
	case nil, types.Null:
		return time.Time{}, nil
	case types.Timestamp:
		return v.UTC(), nil
	case types.String:
		t, err := time.Parse(time.RFC3339, string(v))
		if err != nil {
			return time.Time{}, p.failed("gives a text that is no time by RFC 3339")
		}
		return t.UTC(), nil
	}
	return time.Time{}, p.failed("gives " + name(v) + ", not a time; unix() makes one of seconds")
}

// unwrap is what an optional holds, nil when that is nothing, and any other value itself.
func unwrap(v ref.Val) ref.Val {
	for {
		o, ok := v.(*types.Optional)
		if !ok {
			return v
		}
		if !o.HasValue() {
			return nil
		}
		v = o.GetValue()
	}
}

// run gives a value that is no error.
func (p *Program) run(ctx context.Context, in *Input) (ref.Val, error) {
	var v ref.Val
	var err error
	if p.counted && ctx.Done() != nil {
		v, _, err = p.program.ContextEval(ctx, (*activation)(in))
	} else {
		v, _, err = p.program.Eval((*activation)(in))
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, p.explain(err, in)
	}
	return v, nil
}

// activation resolves an expression's names in its Input.
type activation Input

func (a *activation) Parent() interpreter.Activation { return nil }

func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "body":
		if a.Body.IsZero() {
			return failure("the body is not JSON"), true
		}
		return asWritten(a.Body.root), true
	case "method":
		return types.String(a.Method), true
	case "type":
		return types.String(a.Type), true
	case "id":
		return types.String(a.ID), true
	case "source":
		return types.String(a.Source), true
	case "subject":
		return types.String(a.Subject), true
	case "key":
		return types.String(a.Key), true
	case "time":
		return types.Timestamp{Time: a.Time.UTC()}, true
	case "ext":
		return a.Ext, true
	}
	return nil, false
}

// ResolveFunction implements cel's FunctionActivation: header() and query().
func (a *activation) ResolveFunction(name string) (cel.LateBoundFunction, bool) {
	switch name {
	case "header":
		return func(_ string, args ...ref.Val) ref.Val {
			n, _ := args[0].(types.String)
			return types.String(a.Header.Get(string(n)))
		}, true
	case "query":
		return func(_ string, args ...ref.Val) ref.Val {
			n, _ := args[0].(types.String)
			return types.String(a.Query.Get(string(n)))
		}, true
	}
	return nil, false
}
