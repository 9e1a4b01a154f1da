package expression

import (
	"math"
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// exact is what is known of the places in an expression whose value goes out as it is.
type exact struct {
	// paths are the last nodes of the paths (of body.a.b: that of b) that may yield a *number.
	paths map[int64]bool
	// maps are literals whose keys are all texts that are written out; CEL's own maps forget their order.
	maps map[int64]*literal
}

// literal is what the text says of a map literal.
type literal struct {
	keys     []ref.Val
	optional []bool // {?"key": value}: left out when the value is an empty optional
}

// findExact marks the root of e, and the arguments of the functions that take a number by its text.
func findExact(e ast.Expr) *exact {
	x := &exact{paths: make(map[int64]bool), maps: make(map[int64]*literal)}
	x.mark(e)
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		switch c := e.AsCall(); c.FunctionName() {
		case "string", "minor", "type":
			if len(c.Args()) > 0 {
				x.mark(c.Args()[0])
			}
		}
	}))
	return x
}

// mark says that e's value is only carried on, and so is that of the parts of e that become e's value.
func (x *exact) mark(e ast.Expr) {
	switch e.Kind() {
	case ast.IdentKind, ast.SelectKind:
		x.paths[e.ID()] = true
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			x.mark(element)
		}
	case ast.MapKind:
		x.markMap(e)
	case ast.CallKind:
		x.markCall(e)
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		x.markStep(c.LoopStep(), c.AccuVar())
		if c.Result().Kind() != ast.IdentKind { // cel.bind
			x.mark(c.Result())
		}
	}
}

func (x *exact) markMap(e ast.Expr) {
	l := &literal{}
	for _, element := range e.AsMap().Entries() {
		entry := element.AsMapEntry()
		x.mark(entry.Value())
		if k := entry.Key(); k.Kind() == ast.LiteralKind && k.AsLiteral().Type() == types.StringType {
			l.keys = append(l.keys, k.AsLiteral())
			l.optional = append(l.optional, entry.IsOptional())
		}
	}
	if len(l.keys) == len(e.AsMap().Entries()) {
		x.maps[e.ID()] = l
	}
}

func (x *exact) markCall(e ast.Expr) {
	c := e.AsCall()
	switch c.FunctionName() {
	case operators.Index, operators.OptIndex, operators.OptSelect:
		x.paths[e.ID()] = true
	case operators.Conditional:
		x.paths[e.ID()] = true // CEL makes one path of both when both are paths
		x.mark(c.Args()[1])
		x.mark(c.Args()[2])
	case "or", "orValue":
		if c.IsMemberFunction() {
			x.mark(c.Target())
			x.mark(c.Args()[0])
		}
	case "optional.of", "dyn":
		x.mark(c.Args()[0])
	case defaultFunction:
		x.mark(c.Args()[0])
		x.mark(c.Args()[1])
	}
}

// markStep marks what the step of a comprehension adds to its accumulator.
func (x *exact) markStep(e ast.Expr, accu string) {
	if e.Kind() != ast.CallKind {
		return
	}
	c := e.AsCall()
	switch c.FunctionName() {
	case operators.Add:
		if isIdent(c.Args()[0], accu) {
			x.mark(c.Args()[1])
		}
	case operators.Conditional:
		x.markStep(c.Args()[1], accu)
		x.markStep(c.Args()[2], accu)
	case "cel.@mapInsert":
		for _, a := range c.Args()[1:] {
			x.mark(a)
		}
	}
}

func isIdent(e ast.Expr, name string) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == name }

// option plans marked paths and maps by the types below.
func (x *exact) option() cel.ProgramOption {
	return cel.CustomDecoratorV2(func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		switch i := i.(type) {
		case *exactPath, *orderedLiteral:
			return i, nil
		case interpreter.InterpretableAttribute:
			if x.paths[i.ID()] {
				return &exactPath{i}, nil
			}
		case interpreter.InterpretableConstructor:
			if l, ok := x.maps[i.ID()]; ok && i.Type() == types.MapType {
				if parts := i.InitVals(); len(parts) == 2*len(l.keys) {
					return &orderedLiteral{i, l, parts}, nil
				}
			}
		}
		return i, nil
	})
}

// exactPath is a path that yields a *number where CEL's own makes a double of it.
type exactPath struct {
	interpreter.InterpretableAttribute
}

func (p *exactPath) AddQualifier(q interpreter.Qualifier) (interpreter.Attribute, error) {
	_, err := p.InterpretableAttribute.AddQualifier(q)
	return p, err
}

func (p *exactPath) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, p.Exec)
}

func (p *exactPath) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	v, err := p.resolve(frame)
	var out ref.Val
	switch n, isNumber := v.(*number); {
	case err != nil:
		out = types.LabelErrNode(p.ID(), types.WrapErr(err))
	case isNumber:
		out = n
	default:
		out = p.Adapter().NativeToValue(v)
	}
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalAttribute(p.ID(), false, out)
	}
	return out
}

// resolve walks an optional path (body.?a.?b) itself, because CEL would pass what it finds through the adapter.
func (p *exactPath) resolve(frame *interpreter.ExecutionFrame) (any, error) {
	named, ok := p.Attr().(interpreter.NamespacedAttribute)
	if !ok || len(named.CandidateVariableNames()) != 1 || !anyOptional(named.Qualifiers()) {
		return p.InterpretableAttribute.Resolve(frame)
	}
	v, found := frame.ResolveName(named.CandidateVariableNames()[0])
	if !found {
		return p.InterpretableAttribute.Resolve(frame)
	}
	switch o := v.(type) {
	case *types.Err:
		return nil, o
	case *types.Optional:
		return p.InterpretableAttribute.Resolve(frame)
	}
	optional := false
	for _, q := range named.Qualifiers() {
		optional = optional || q.IsOptional()
		present := true
		var err error
		if optional {
			v, present, err = q.QualifyIfPresent(frame, v, false)
		} else {
			v, err = q.Qualify(frame, v)
		}
		if costs := frame.CostTracker(); costs != nil {
			costs.Qualify(q.ID())
		}
		if err != nil {
			return nil, err
		}
		if !present {
			return types.OptionalNone, nil
		}
	}
	if n, ok := v.(*number); ok {
		return types.OptionalOf(n), nil
	}
	return types.OptionalOf(p.Adapter().NativeToValue(v)), nil
}

func anyOptional(qs []interpreter.Qualifier) bool {
	for _, q := range qs {
		if q.IsOptional() {
			return true
		}
	}
	return false
}

// orderedLiteral is a map literal that keeps the order of its keys, and makes no hash table that nobody looks into.
type orderedLiteral struct {
	interpreter.InterpretableConstructor
	literal *literal
	parts   []interpreter.InterpretableV2 // key, value, key, value
}

func (l *orderedLiteral) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, l.Exec)
}

func (l *orderedLiteral) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	m := &orderedMap{keys: l.literal.keys, values: make([]ref.Val, len(l.literal.keys))}
	for i, optional := range l.literal.optional {
		v := l.parts[2*i+1].Exec(frame)
		if types.IsUnknownOrError(v) {
			return v
		}
		if optional {
			o, ok := v.(*types.Optional)
			if !ok {
				return types.LabelErrNode(l.ID(), failure("the value of an optional key is no optional"))
			}
			if v = nil; o.HasValue() {
				v = o.GetValue()
			}
		}
		m.values[i] = v
	}
	if costs := frame.CostTracker(); costs != nil {
		costs.CreateMap(l.ID(), m)
	}
	return m
}

// orderedMap is the value of a map literal. Its keys are texts; one whose value is nil is not there. It is made to be
// written; what else is asked of it is answered by a map of CEL's.
type orderedMap struct {
	keys, values []ref.Val
}

var _ traits.Mapper = (*orderedMap)(nil)

func (m *orderedMap) hashed() traits.Mapper {
	all := make(map[ref.Val]ref.Val, len(m.keys))
	for i, k := range m.keys {
		if m.values[i] != nil {
			all[k] = plain(m.values[i])
		}
	}
	return types.NewRefValMap(adapter{}, all)
}

// AggregateSize counts what the map holds, without making the other map.
func (m *orderedMap) AggregateSize(sizer types.AggregateSizer) uint32 {
	total := uint32(1)
	for i, v := range m.values {
		if v != nil {
			total += sizer.AggregateSize(m.keys[i])
			if total += sizer.AggregateSize(v); total > math.MaxInt32 {
				return math.MaxUint32
			}
		}
	}
	return total
}

func (m *orderedMap) Type() ref.Type                   { return types.MapType }
func (m *orderedMap) Value() any                       { return m.hashed().Value() }
func (m *orderedMap) Size() ref.Val                    { return m.hashed().Size() }
func (m *orderedMap) Find(k ref.Val) (ref.Val, bool)   { return m.hashed().Find(k) }
func (m *orderedMap) Get(k ref.Val) ref.Val            { return m.hashed().Get(k) }
func (m *orderedMap) Contains(k ref.Val) ref.Val       { return m.hashed().Contains(k) }
func (m *orderedMap) Iterator() traits.Iterator        { return m.hashed().Iterator() }
func (m *orderedMap) Equal(other ref.Val) ref.Val      { return m.hashed().Equal(other) }
func (m *orderedMap) ConvertToType(t ref.Type) ref.Val { return m.hashed().ConvertToType(t) }
func (m *orderedMap) ConvertToNative(t reflect.Type) (any, error) {
	return m.hashed().ConvertToNative(t)
}
