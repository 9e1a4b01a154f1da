package expression

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/tidewire/tidewire/internal/strictjson"
)

// ownFunctions are those that CEL and its libraries do not have. All are pure: the same event gives the same result in
// ten years, which is why there is no now() and nothing that reads a file or a network.
//
//	money(minor, currency)            1999, "usd" → "19.99"; exact; places by ISO 4217, whoever counted the amount
//	money(minor, currency, "stripe")  as Stripe counts: ISK and UGX in hundredths, MGA in ones, all else by ISO 4217
//	minor(amount, currency)           "19.99", "USD" → 1999; exact, never rounded; the third argument as for money
//	unix(seconds)                     1700000000 → a timestamp
//	t.format("%Y-%m-%d")              a timestamp in UTC as text; %Y %y %m %d %e %j %H %M %S %f (microseconds) %z %Z %b %B %a %A %F %T %s %%
//	sha256hex(text or bytes)          64 hexadecimal digits
//	default(body.a.b, x)              body.a.b, or x where a part of that path is missing or the value is null
func ownFunctions() []cel.EnvOption {
	str, num := cel.StringType, cel.IntType
	return []cel.EnvOption{
		cel.Function("money",
			cel.Overload("money_int", []*cel.Type{num, str}, str, cel.FunctionBinding(celMoney)),
			cel.Overload("money_uint", []*cel.Type{cel.UintType, str}, str, cel.FunctionBinding(celMoney)),
			cel.Overload("money_int_convention", []*cel.Type{num, str, str}, str, cel.FunctionBinding(celMoney)),
			cel.Overload("money_uint_convention", []*cel.Type{cel.UintType, str, str}, str, cel.FunctionBinding(celMoney))),
		cel.Function("minor",
			cel.Overload("minor_string", []*cel.Type{str, str}, num, cel.FunctionBinding(celMinor)),
			cel.Overload("minor_int", []*cel.Type{num, str}, num, cel.FunctionBinding(celMinor)),
			cel.Overload("minor_double", []*cel.Type{cel.DoubleType, str}, num, cel.FunctionBinding(celMinor)),
			cel.Overload("minor_string_convention", []*cel.Type{str, str, str}, num, cel.FunctionBinding(celMinor)),
			cel.Overload("minor_int_convention", []*cel.Type{num, str, str}, num, cel.FunctionBinding(celMinor)),
			cel.Overload("minor_double_convention", []*cel.Type{cel.DoubleType, str, str}, num, cel.FunctionBinding(celMinor))),
		cel.Function("unix",
			cel.Overload("unix_int", []*cel.Type{num}, cel.TimestampType, cel.UnaryBinding(celUnix))),
		cel.Function("format",
			cel.MemberOverload("timestamp_format", []*cel.Type{cel.TimestampType, str}, str, cel.BinaryBinding(celFormat))),
		cel.Function("sha256hex",
			cel.Overload("sha256hex_string", []*cel.Type{str}, str, cel.UnaryBinding(celSHA256)),
			cel.Overload("sha256hex_bytes", []*cel.Type{cel.BytesType}, str, cel.UnaryBinding(celSHA256))),
		cel.Function(defaultFunction,
			cel.Overload("default_optional", []*cel.Type{cel.OptionalType(cel.TypeParamType("T")), cel.TypeParamType("T")},
				cel.TypeParamType("T"), cel.BinaryBinding(celDefault))),
		cel.Macros(cel.GlobalMacro("default", 2, expandDefault)),
	}
}

const defaultFunction = "@default"

// expandDefault makes body.a.b into body.?a.?b, so that a missing part is nothing instead of an error.
func expandDefault(f cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
	value, chain := optionalChain(f, args[0])
	if !chain {
		value = f.NewCall("optional.of", value)
	}
	return f.NewCall(defaultFunction, value, args[1]), nil
}

func optionalChain(f cel.MacroExprFactory, e ast.Expr) (_ ast.Expr, chain bool) {
	switch e.Kind() {
	case ast.SelectKind:
		s := e.AsSelect()
		if s.IsTestOnly() {
			return e, false
		}
		operand, _ := optionalChain(f, s.Operand())
		return f.NewCall(operators.OptSelect, operand, f.NewLiteral(types.String(s.FieldName()))), true
	case ast.CallKind:
		switch c := e.AsCall(); c.FunctionName() {
		case operators.Index:
			operand, _ := optionalChain(f, c.Args()[0])
			return f.NewCall(operators.OptIndex, operand, c.Args()[1]), true
		case operators.OptSelect, operators.OptIndex:
			return e, true
		}
	}
	return e, false
}

func celDefault(value, otherwise ref.Val) ref.Val {
	if o, ok := value.(*types.Optional); ok && o.HasValue() && o.GetValue() != types.NullValue {
		return o.GetValue()
	}
	return otherwise
}

// convention is the last argument of three.
func convention(args []ref.Val) (currency, name string) {
	c, _ := args[1].(types.String)
	if len(args) < 3 {
		return string(c), "iso"
	}
	n, _ := args[2].(types.String)
	return string(c), string(n)
}

func celMoney(args ...ref.Val) ref.Val {
	currency, name := convention(args)
	var amount uint64
	var negative bool
	switch v := args[0].(type) {
	case types.Int:
		if amount = uint64(v); v < 0 {
			amount, negative = -amount, true
		}
	case types.Uint:
		amount = uint64(v)
	}
	return stringOr(money(negative, amount, currency, name))
}

func celMinor(args ...ref.Val) ref.Val {
	currency, name := convention(args)
	var amount string
	switch v := args[0].(type) {
	case types.String:
		amount = string(v)
	case types.Int:
		amount = strconv.FormatInt(int64(v), 10)
	case types.Double:
		// The shortest text that reads as this double is what was written, up to 15 digits.
		amount = strconv.FormatFloat(float64(v), 'f', -1, 64)
	case *number:
		amount = (*strictjson.Value)(v).Raw()
	}
	n, err := minor(amount, currency, name)
	if err != nil {
		return types.WrapErr(err)
	}
	return types.Int(n)
}

func celUnix(seconds ref.Val) ref.Val {
	const first, last = -62135596800, 253402300799 // years 1 to 9999, as far as CEL's timestamps go
	s, _ := seconds.(types.Int)
	if s < first || s > last {
		return failure("unix() wants seconds between the years 1 and 9999; divide milliseconds by 1000")
	}
	return types.Timestamp{Time: time.Unix(int64(s), 0).UTC()}
}

func celSHA256(v ref.Val) ref.Val {
	var sum [sha256.Size]byte
	switch v := v.(type) {
	case types.String:
		sum = sha256.Sum256([]byte(v))
	case types.Bytes:
		sum = sha256.Sum256(v)
	}
	return types.String(hex.EncodeToString(sum[:]))
}

func celFormat(t, layout ref.Val) ref.Val {
	when, ok := t.(types.Timestamp)
	form, ok2 := layout.(types.String)
	if !ok || !ok2 {
		return types.NoSuchOverloadErr()
	}
	return stringOr(strftime(when.UTC(), string(form)))
}

// strftime writes t the way C does, in the C locale.
func strftime(t time.Time, form string) (string, error) {
	if len(form) > 256 {
		return "", refusal("the form of a time is at most 256 characters long")
	}
	var b strings.Builder
	for {
		text, rest, found := strings.Cut(form, "%")
		b.WriteString(text)
		if !found {
			return b.String(), nil
		}
		if rest == "" {
			return "", refusal("the form of a time ends in %; write %% for the sign")
		}
		switch rest[0] {
		case '%':
			b.WriteByte('%')
		case 's':
			b.WriteString(strconv.FormatInt(t.Unix(), 10))
		case 'f':
			fmt.Fprintf(&b, "%06d", t.Nanosecond()/1000)
		default:
			layout, ok := directives[rest[0]]
			if !ok {
				return "", refusal("the form of a time holds a % with a letter that is not known; %Y-%m-%d %H:%M:%S are")
			}
			b.WriteString(t.Format(layout))
		}
		form = rest[1:]
	}
}

// directives are strftime's letters as layouts of package time.
var directives = map[byte]string{
	'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'j': "002", 'H': "15", 'M': "04", 'S': "05",
	'z': "-0700", 'Z': "MST", 'b': "Jan", 'B': "January", 'a': "Mon", 'A': "Monday", 'F': "2006-01-02", 'T': "15:04:05",
}

func stringOr(s string, err error) ref.Val {
	if err != nil {
		return types.WrapErr(err)
	}
	return types.String(s)
}

// checkForm says whether strftime knows all of a form.
func checkForm(form string) error {
	_, err := strftime(time.Unix(0, 0).UTC(), form)
	return err
}
