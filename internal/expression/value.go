package expression

import (
	"fmt"
	"math"
	"reflect"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/tidewire/tidewire/internal/strictjson"
)

// How a body's values look to CEL: null, bool and string as themselves; whole numbers as int, those above its range as
// uint; other numbers as double; objects and lists as views on the body, of which nothing is copied.
//
// A number that no CEL type holds exactly keeps its text as long as it is only carried: a path in a place whose value goes
// out unchanged (see markExact) yields *number, anywhere else the adapter makes a double of it, or an
// error where a double would be far off.
type (
	object strictjson.Value
	array  strictjson.Value
	number strictjson.Value
)

var (
	_ traits.Mapper              = (*object)(nil)
	_ traits.Foldable            = (*object)(nil)
	_ types.AggregateSizeVisitor = (*object)(nil)
	_ traits.Lister              = (*array)(nil)
	_ traits.Foldable            = (*array)(nil)
	_ types.AggregateSizeVisitor = (*array)(nil)
	_ ref.Val                    = (*number)(nil)
)

// asWritten is a value of the body for CEL: a *number may be among what it returns.
func asWritten(v *strictjson.Value) ref.Val {
	switch v.Kind() {
	case strictjson.False:
		return types.False
	case strictjson.True:
		return types.True
	case strictjson.Text:
		return types.String(v.Text())
	case strictjson.List:
		return (*array)(v)
	case strictjson.Object:
		return (*object)(v)
	case strictjson.Integer:
		if i, err := strconv.ParseInt(v.Raw(), 10, 64); err == nil {
			return types.Int(i)
		}
		if u, err := strconv.ParseUint(v.Raw(), 10, 64); err == nil {
			return types.Uint(u)
		}
		return (*number)(v)
	case strictjson.Decimal:
		return (*number)(v)
	default:
		return types.NullValue
	}
}

// computable is a value of the body for CEL to compute with.
func computable(v *strictjson.Value) ref.Val { return plain(asWritten(v)) }

func plain(v ref.Val) ref.Val {
	if n, ok := v.(*number); ok {
		return n.double()
	}
	return v
}

// adapter is cel's own, but for numbers.
type adapter struct{}

func (adapter) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case *number:
		return v.double()
	case ref.Val:
		return v
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

// double is the number to compute with.
func (n *number) double() ref.Val {
	if v := (*strictjson.Value)(n); v.Kind() == strictjson.Decimal {
		if f, ok := v.Float(); ok {
			return types.Double(f)
		}
	}
	return failure("a number is beyond what can be computed with; it can only be passed on, or made a text by string()")
}

// Type says double, so that string() and minor() take it.
func (n *number) Type() ref.Type { return types.DoubleType }

func (n *number) Value() any {
	f, _ := (*strictjson.Value)(n).Float()
	return f
}

func (n *number) Equal(other ref.Val) ref.Val {
	v := n.double()
	if types.IsError(v) {
		return v
	}
	return types.Equal(v, plain(other))
}

func (n *number) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.StringType:
		return types.String((*strictjson.Value)(n).Raw())
	case types.TypeType:
		return types.DoubleType
	}
	v := n.double()
	if types.IsError(v) {
		return v
	}
	return v.ConvertToType(t)
}

func (n *number) ConvertToNative(t reflect.Type) (any, error) {
	return types.Double(n.Value().(float64)).ConvertToNative(t)
}

func (o *object) Type() ref.Type { return types.MapType }
func (o *object) Value() any     { return o }
func (o *object) Size() ref.Val  { return types.Int((*strictjson.Value)(o).Len()) }

// AggregateSize is the length of the text: as good as a count, and known already.
func (o *object) AggregateSize(types.AggregateSizer) uint32 {
	return size32(len((*strictjson.Value)(o).Raw()))
}

// FindStringKey is how CEL selects a field without making a value of its name.
func (o *object) FindStringKey(name string) (any, bool) {
	if m := (*strictjson.Value)(o).Member(name); m != nil {
		return asWritten(m), true
	}
	return nil, false
}

func (o *object) Find(key ref.Val) (ref.Val, bool) {
	if name, ok := key.(types.String); ok {
		if m := (*strictjson.Value)(o).Member(string(name)); m != nil {
			return computable(m), true
		}
	}
	return nil, false
}

func (o *object) Get(key ref.Val) ref.Val {
	if v, ok := o.Find(key); ok {
		return v
	}
	return types.NewErr("no such key")
}

func (o *object) Contains(key ref.Val) ref.Val {
	_, ok := o.Find(key)
	return types.Bool(ok)
}

func (o *object) Fold(f traits.Folder) {
	all := (*strictjson.Value)(o).Children()
	for i := range all {
		if !f.FoldEntry(types.String(all[i].Name()), asWritten(&all[i])) {
			return
		}
	}
}

func (o *object) Iterator() traits.Iterator {
	return &iterator{all: (*strictjson.Value)(o).Children(), keys: true}
}

func (o *object) Equal(other ref.Val) ref.Val {
	m, ok := other.(traits.Mapper)
	if !ok || m.Size() != o.Size() {
		return types.False
	}
	all := (*strictjson.Value)(o).Children()
	for i := range all {
		v, found := m.Find(types.String(all[i].Name()))
		if !found {
			return types.False
		}
		if eq := types.Equal(computable(&all[i]), plain(v)); eq != types.True {
			return eq
		}
	}
	return types.True
}

func (o *object) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.MapType:
		return o
	case types.TypeType:
		return types.MapType
	}
	return types.NewErr("type conversion error")
}

func (o *object) ConvertToNative(reflect.Type) (any, error) {
	return nil, fmt.Errorf("an object of the body has no form in Go")
}

func (a *array) Type() ref.Type { return types.ListType }
func (a *array) Value() any     { return a }
func (a *array) Size() ref.Val  { return types.Int((*strictjson.Value)(a).Len()) }

// AggregateSize is the length of the text: as good as a count, and known already.
func (a *array) AggregateSize(types.AggregateSizer) uint32 {
	return size32(len((*strictjson.Value)(a).Raw()))
}

// GetInt64Index is how CEL takes an element without making a value of the index.
func (a *array) GetInt64Index(i int64) (any, bool) {
	if i < 0 || i >= int64((*strictjson.Value)(a).Len()) {
		return nil, false
	}
	return asWritten(&(*strictjson.Value)(a).Children()[i]), true
}

func (a *array) Get(index ref.Val) ref.Val {
	i, err := types.GetOrError(index)
	if err != nil {
		return types.WrapErr(err)
	}
	v, ok := a.GetInt64Index(int64(i))
	if !ok {
		return types.NewErr("index out of bounds")
	}
	return plain(v.(ref.Val))
}

func (a *array) Contains(v ref.Val) ref.Val {
	all := (*strictjson.Value)(a).Children()
	for i := range all {
		if types.Equal(v, computable(&all[i])) == types.True {
			return types.True
		}
	}
	return types.False
}

func (a *array) Fold(f traits.Folder) {
	all := (*strictjson.Value)(a).Children()
	for i := range all {
		if !f.FoldEntry(types.Int(i), asWritten(&all[i])) {
			return
		}
	}
}

func (a *array) Iterator() traits.Iterator { return &iterator{all: (*strictjson.Value)(a).Children()} }

func (a *array) Add(other ref.Val) ref.Val { return concat(a, other) }

func (a *array) Equal(other ref.Val) ref.Val {
	l, ok := other.(traits.Lister)
	if !ok || l.Size() != a.Size() {
		return types.False
	}
	all := (*strictjson.Value)(a).Children()
	for i := range all {
		if eq := types.Equal(computable(&all[i]), plain(l.Get(types.Int(i)))); eq != types.True {
			return eq
		}
	}
	return types.True
}

func (a *array) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.ListType:
		return a
	case types.TypeType:
		return types.ListType
	}
	return types.NewErr("type conversion error")
}

func (a *array) ConvertToNative(reflect.Type) (any, error) {
	return nil, fmt.Errorf("a list of the body has no form in Go")
}

// iterator goes through the elements of a list or the keys of an object.
type iterator struct {
	types.Null // nobody uses an iterator as a value
	all        []strictjson.Value
	keys       bool
}

func (it *iterator) HasNext() ref.Val { return types.Bool(len(it.all) > 0) }

func (it *iterator) Next() ref.Val {
	if len(it.all) == 0 {
		return nil
	}
	n := &it.all[0]
	it.all = it.all[1:]
	if it.keys {
		return types.String(n.Name())
	}
	return computable(n)
}

func size32(n int) uint32 { return uint32(min(n, math.MaxUint32)) }
