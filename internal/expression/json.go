package expression

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/tidewire/tidewire/internal/strictjson"
)

// AppendJSON runs the expression and appends its value as JSON to dst. present is false, and nothing is appended, when
// the value is an empty optional. Parts of the body come out as they came in, byte for byte; numbers that are only
// carried keep their digits; times are RFC 3339 in UTC, durations seconds as "3.5s", bytes base64. The members of a map literal
// keep their order, those of other maps are sorted. At most MaxOutput bytes are appended. The error is as of Bool; dst is returned unchanged then.
func (p *Program) AppendJSON(ctx context.Context, dst []byte, in *Input) (out []byte, present bool, err error) {
	v, err := p.run(ctx, in)
	if err != nil {
		return dst, false, err
	}
	if v = unwrap(v); v == nil {
		return dst, false, nil
	}
	w := writer{buf: dst, end: len(dst) + MaxOutput}
	if err := w.value(v, 0); err != nil {
		return dst, false, p.failed(err.Error())
	}
	return w.buf, true, nil
}

// writer appends JSON to buf, up to end bytes.
type writer struct {
	buf []byte
	end int
}

const (
	errOutput = refusal("the result is larger than 1 MiB")
	errDeep   = refusal("the result nests too deep")
)

// maxResultDepth is beyond what a body and the text of an expression can nest together.
const maxResultDepth = 256

func (w *writer) value(v ref.Val, depth int) error {
	if depth > maxResultDepth {
		return errDeep
	}
	switch v := v.(type) {
	case *object:
		return w.raw((*strictjson.Value)(v).Raw())
	case *array:
		return w.raw((*strictjson.Value)(v).Raw())
	case *number:
		return w.raw((*strictjson.Value)(v).Raw())
	case types.Null:
		return w.raw("null")
	case types.Bool:
		return w.raw(strconv.FormatBool(bool(v)))
	case types.Int:
		w.buf = strconv.AppendInt(w.buf, int64(v), 10)
	case types.Uint:
		w.buf = strconv.AppendUint(w.buf, uint64(v), 10)
	case types.Double:
		return w.double(float64(v))
	case types.String:
		return w.text(string(v))
	case types.Bytes:
		if base64.StdEncoding.EncodedLen(len(v)) > w.room() {
			return errOutput
		}
		return w.text(base64.StdEncoding.EncodeToString(v))
	case types.Timestamp:
		return w.text(v.UTC().Format(time.RFC3339Nano))
	case types.Duration:
		return w.text(strconv.FormatFloat(v.Seconds(), 'f', -1, 64) + "s")
	case *types.Optional:
		if !v.HasValue() {
			return w.raw("null")
		}
		return w.value(v.GetValue(), depth+1)
	case *orderedMap:
		return w.ordered(v, depth)
	case traits.Mapper:
		return w.dictionary(v, depth)
	case traits.Lister:
		return w.list(v, depth)
	default:
		return fmt.Errorf("the result is a %s, which JSON has no form for", v.Type().TypeName())
	}
	return w.check()
}

func (w *writer) room() int { return w.end - len(w.buf) }

func (w *writer) check() error {
	if len(w.buf) > w.end {
		return errOutput
	}
	return nil
}

func (w *writer) raw(s string) error {
	if len(s) > w.room() {
		return errOutput
	}
	w.buf = append(w.buf, s...)
	return nil
}

// double writes a number as JavaScript does: the shortest digits that read as the same double.
func (w *writer) double(f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return refusal("the result is no finite number")
	}
	form := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		form = 'e'
	}
	w.buf = strconv.AppendFloat(w.buf, f, form, -1, 64)
	return w.check()
}

func (w *writer) list(l traits.Lister, depth int) error {
	w.buf = append(w.buf, '[')
	for i := range length(l) {
		if i > 0 {
			w.buf = append(w.buf, ',')
		}
		if err := w.value(l.Get(types.Int(i)), depth+1); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, ']')
	return w.check()
}

// ordered writes the value of a map literal.
func (w *writer) ordered(m *orderedMap, depth int) error {
	w.buf = append(w.buf, '{')
	first := true
	for i, k := range m.keys {
		if m.values[i] == nil {
			continue
		}
		if err := w.member(string(k.(types.String)), m.values[i], first, depth); err != nil {
			return err
		}
		first = false
	}
	w.buf = append(w.buf, '}')
	return w.check()
}

// dictionary writes a map in the order of its keys' texts.
func (w *writer) dictionary(m traits.Mapper, depth int) error {
	var keys []ref.Val
	for it := m.Iterator(); it.HasNext() == types.True; {
		keys = append(keys, it.Next())
	}
	slices.SortFunc(keys, func(a, b ref.Val) int { return strings.Compare(keyText(a), keyText(b)) })
	w.buf = append(w.buf, '{')
	for i, k := range keys {
		name := keyText(k)
		if i > 0 && name == keyText(keys[i-1]) { // {1: …, "1": …} are two keys to CEL and one to JSON
			return refusal("two keys of the result are the same text")
		}
		v, found := m.Find(k)
		if !found {
			return refusal("a key of the result has no value")
		}
		if err := w.member(name, v, i == 0, depth); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, '}')
	return w.check()
}

func (w *writer) member(name string, v ref.Val, first bool, depth int) error {
	if !first {
		w.buf = append(w.buf, ',')
	}
	if err := w.text(name); err != nil {
		return err
	}
	w.buf = append(w.buf, ':')
	return w.value(v, depth+1)
}

// keyText is a map's key as JSON needs it.
func keyText(k ref.Val) string {
	if s, ok := k.(types.String); ok {
		return string(s)
	}
	s, _ := k.ConvertToType(types.StringType).(types.String)
	return string(s)
}

func (w *writer) text(s string) error {
	if len(s)+2 > w.room() {
		return errOutput
	}
	w.buf = AppendString(w.buf, s)
	return w.check()
}

// AppendString appends s to dst as a JSON string. What is not UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
			dst = append(append(dst, s[start:i]...), "\ufffd"...)
			i++
			start = i
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}
