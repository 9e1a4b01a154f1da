package expression

import (
	"fmt"
	"math"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/decls"
	celfunctions "cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"

	"github.com/tidewire/tidewire/internal/strictjson"
)

// Bounds on what one operation may be given or make. CEL charges an operation after it ran, so a single one that
// doubles a text or flattens a list of lists of lists would be stopped too late.
const (
	maxText    = 1 << 20 // bytes of a text that an operation makes
	maxOperand = 2 << 20 // weight of what an operation is given: bytes of texts plus elements
	maxParts   = 10_000  // elements of a list that an operation makes
	maxPairs   = 250_000 // comparisons in an operation that compares each with each
)

// libraries adds cel-go's own extensions. Those of strings, lists and sets have functions whose work or result is much
// larger than what they are given: each of their functions is guarded.
func libraries() ([]cel.EnvOption, error) {
	opts := []cel.EnvOption{
		cel.OptionalTypes(),
		ext.Bindings(),
		ext.Encoders(),
		ext.Math(),
		ext.TwoVarComprehensions(),
	}
	e, err := cel.NewCustomEnv(cel.OptionalTypes(), ext.Strings(), ext.Sets(), ext.Lists(ext.ListsMaxRangeSize(maxParts)))
	if err != nil {
		return nil, err
	}
	bare, err := cel.NewCustomEnv(cel.OptionalTypes())
	if err != nil {
		return nil, err
	}
	for name, f := range e.Functions() {
		if bare.HasFunction(name) {
			continue
		}
		guarded, err := guardFunction(f)
		if err != nil {
			return nil, fmt.Errorf("function %s: %w", name, err)
		}
		opts = append(opts, guarded)
	}
	known := make(map[string]bool)
	for _, m := range bare.Macros() {
		known[m.MacroKey()] = true
	}
	for _, m := range e.Macros() {
		if !known[m.MacroKey()] {
			opts = append(opts, cel.Macros(m))
		}
	}
	return opts, nil
}

// guardFunction declares f again, with its arguments weighed before it runs.
func guardFunction(f *decls.FunctionDecl) (cel.EnvOption, error) {
	bindings, err := f.Bindings()
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*celfunctions.Overload, len(bindings))
	for _, b := range bindings {
		byID[b.Operator] = b
	}
	var opts []cel.FunctionOpt
	bound := 0
	for _, o := range f.OverloadDecls() {
		var bind []cel.OverloadOpt
		if b, ok := byID[o.ID()]; ok && o.HasBinding() {
			bind = append(bind, cel.FunctionBinding(guardCall(f.Name(), b)))
			bound++
		}
		if o.IsMemberFunction() {
			opts = append(opts, cel.MemberOverload(o.ID(), o.ArgTypes(), o.ResultType(), bind...))
		} else {
			opts = append(opts, cel.Overload(o.ID(), o.ArgTypes(), o.ResultType(), bind...))
		}
	}
	if bound == 0 {
		b := byID[f.Name()]
		if b == nil {
			return nil, fmt.Errorf("has no binding")
		}
		opts = append(opts, cel.SingletonFunctionBinding(guardCall(f.Name(), b), b.OperandTrait))
	}
	return cel.Function(f.Name(), opts...), nil
}

func guardCall(name string, b *celfunctions.Overload) celfunctions.FunctionOp {
	return func(args ...ref.Val) ref.Val {
		if err := allow(name, args); err != nil {
			return types.WrapErr(err)
		}
		switch {
		case len(args) == 1 && b.Unary != nil:
			return b.Unary(args[0])
		case len(args) == 2 && b.Binary != nil:
			return b.Binary(args[0], args[1])
		case b.Function != nil:
			return b.Function(args...)
		}
		return types.NoSuchOverloadErr()
	}
}

const (
	errTooLarge = refusal("a value is too large for this operation")
	errTooLong  = refusal("the text that this makes is longer than 1 MiB")
	errTooMany  = refusal("the list is too long for this operation")
)

// allow says whether a function of the libraries may run on these arguments.
func allow(name string, args []ref.Val) error {
	total := 0
	for _, a := range args {
		total += weigh(a)
	}
	if total > maxOperand {
		return errTooLarge
	}
	switch name {
	case "replace":
		return allowReplace(args)
	case "join":
		separator := 0
		if len(args) > 1 {
			separator = weigh(args[1])
		}
		if total+separator*length(args[0]) > maxText {
			return errTooLong
		}
	case "split":
		s, _ := args[0].(types.String)
		sep, _ := args[1].(types.String)
		if parts := strings.Count(string(s), string(sep)); parts > maxParts {
			return errTooMany
		}
	case "distinct":
		if n := length(args[0]); n*n > maxPairs {
			return errTooMany
		}
	case "sets.contains", "sets.equivalent", "sets.intersects":
		if length(args[0])*length(args[1]) > maxPairs {
			return errTooMany
		}
	}
	return nil
}

func allowReplace(args []ref.Val) error {
	var s [3]string
	for i := range s {
		v, _ := args[i].(types.String)
		s[i] = string(v)
	}
	if grown := len(s[0]) + strings.Count(s[0], s[1])*max(len(s[2])-len(s[1]), 0); grown > maxText {
		return errTooLong
	}
	return nil
}

// length is how many elements a list has.
func length(v ref.Val) int {
	if l, ok := v.(traits.Lister); ok {
		n, _ := l.Size().(types.Int)
		return int(n)
	}
	return 0
}

// sizes counts what lists and maps hold, all the way down, texts by their bytes. A list that is held twice counts
// twice, as it does for whoever walks through it.
var sizes = types.NewSizeCalculator(types.SizeCalculatorStringUnitLength(1), types.SizeCalculatorMaxDepth(256),
	types.SizeCalculatorMaxTraversal(200_000))

// weigh is how much there is to read in a value: about its bytes.
func weigh(v ref.Val) int {
	switch v := v.(type) {
	case types.String:
		return len(v)
	case types.Bytes:
		return len(v)
	case *object:
		return len((*strictjson.Value)(v).Raw())
	case *array:
		return len((*strictjson.Value)(v).Raw())
	case types.Bool, types.Int, types.Uint, types.Double, types.Null, types.Timestamp, types.Duration, *number, *types.Type, *types.Err:
		return 1
	}
	if n := sizes.AggregateSize(v); n < math.MaxInt32 {
		return int(n)
	}
	return math.MaxInt32
}
