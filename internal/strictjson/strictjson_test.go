package strictjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/strictjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// many is an object with more members than are compared one by one, and one more.
func many(last string) string {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, `"key%d":%d,`, i, i)
	}
	return "{" + b.String() + last + "}"
}

// spelt is an object with a name in so many spellings, which differ in case only; all have the same value.
func spelt(spellings int) string {
	var b strings.Builder
	for i := range spellings {
		name := []byte("abcdefghijklmnop")
		for j := range name {
			name[j] -= byte(i>>j&1) * ('a' - 'A')
		}
		fmt.Fprintf(&b, `"%s":0,`, name)
	}
	return "{" + b.String() + `"z":0}`
}

// TestRefusals holds each rule of the package's comment, and where the offence is.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text   string
		offset int
		reason string
	}{
		"nothing":              {" \n", 2, "it is empty"},
		"junk after":           {`{} x`, 3, "something follows the value"},
		"cut short":            {`{"a":`, 5, "it ends too early"},
		"a mark before":        {"\ufeff{}", 0, "it starts with a byte order mark"},
		"a comma too many":     {`[1,]`, 3, "a character is not in its place"},
		"a key twice":          {`[{"a":1,"a":1}]`, 1, "a key is there twice"},
		"twice by escapes":     {`{"a":1,"\u0061":2}`, 0, "a key is there twice"},
		"twice among many":     {many(`"key7":1`), 0, "a key is there twice"},
		"half characters":      {`{"\ud800":1,"\ud801":2}`, 0, "a key is there twice"},
		"case":                 {`{"a":1,"A":2}`, 0, "two keys differ in case only"},
		"case among many":      {many(`"KEY7":1`), 0, "two keys differ in case only"},
		"case abroad":          {`{"é":1,"É":2}`, 0, "two keys differ in case only"},
		"case below a key":     {`{"metadata":[{"a":1,"A":2}]}`, 13, "two keys differ in case only"},
		"case, without end":    {spelt(17), 0, "too many keys differ in case only"},
		"case, free, no end":   {`{"metadata":` + spelt(17) + `}`, 12, "too many keys differ in case only"},
		"too deep":             {strings.Repeat("[", 65) + strings.Repeat("]", 65), 64, "it nests too deep"},
		"a number too long":    {"[" + strings.Repeat("1", 129) + "]", 1, "a number is too long"},
		"a number too large":   {`[1e1000]`, 1, "a number is too large"},
		"a number from zero":   {`[01]`, 2, "a character is not in its place"},
		"a number of no digit": {`[-]`, 2, "a character is not in its place"},
		"not UTF-8":            {"[\"a\xff\"]", 2, "a text is not UTF-8"},
		"a surrogate in UTF-8": {"[\"\xed\xa0\x80\"]", 2, "a text is not UTF-8"},
		"a control character":  {"[\"a\x00\"]", 3, "a control character is not escaped"},
		"an unknown escape":    {`["\x"]`, 3, "an escape is unknown"},
		"an escape cut short":  {`["\u12"]`, 4, "an escape is not complete"},
	} {
		_, err := strictjson.Parse([]byte(tt.text))
		e, ok := errors.AsType[*strictjson.Error](err)
		if !ok || e.Offset != tt.offset || e.Reason != tt.reason {
			t.Errorf("%s: %v, want %s at %d", name, err, tt.reason, tt.offset)
		}
		again := strictjson.Look([]byte(tt.text), func(*strictjson.Value) error { t.Errorf("%s: seen", name); return nil })
		if again == nil || err == nil || again.Error() != err.Error() {
			t.Errorf("%s: Look says %v, Parse %v", name, again, err)
		}
	}
}

func TestAccepted(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`, `[]`, `""`, `-0`, " null\t", `1e999`, `1E-0000999`, strings.Repeat("1", 128), strings.Repeat("[", 64) + strings.Repeat("]", 64),
		`{"metadata":{"Size":"L","size":"XL"},"TAGS":{"a":1,"A":2}}`, `{"id":5,"ID":5}`, `{"a":{"b":1},"c":{"b":1}}`, many(`"key40":1`), `"\ud83d"`, spelt(16),
	} {
		if _, err := strictjson.Parse([]byte(text)); err != nil {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

// TestValues reads every kind of value back.
func TestValues(t *testing.T) {
	t.Parallel()
	text := []byte(`{"n":9007199254740993,"f":1.10,"z":-0,"t":"a\u00e9\ud83d\ude00\n","ok":true,"no":false,"nil":null,"l":[1,"x",{}],"k\u0065y":"plain","o":{"in":1}}`)
	v, err := strictjson.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	copy(text, bytes.Repeat([]byte("X"), len(text))) // the value is its own
	for name, want := range map[string]struct {
		kind strictjson.Kind
		raw  string
		text string
	}{
		"n": {strictjson.Integer, "9007199254740993", ""}, "f": {strictjson.Decimal, "1.10", ""}, "z": {strictjson.Decimal, "-0", ""},
		"t": {strictjson.Text, `"a\u00e9\ud83d\ude00\n"`, "aé😀\n"}, "ok": {strictjson.True, "true", ""}, "no": {strictjson.False, "false", ""},
		"nil": {strictjson.Null, "null", ""}, "l": {strictjson.List, `[1,"x",{}]`, ""}, "key": {strictjson.Text, `"plain"`, "plain"},
		"o": {strictjson.Object, `{"in":1}`, ""},
	} {
		m := v.Member(name)
		if m == nil || m.Kind() != want.kind || m.Raw() != want.raw || m.Text() != want.text || m.Name() != name {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if l := v.Member("l"); l.Len() != 3 || len(l.Children()) != 3 || l.Children()[1].Text() != "x" || l.Children()[2].Children() != nil {
		t.Errorf("l: %v", l.Raw())
	}
	if f, ok := v.Member("f").Float(); f != 1.1 || !ok {
		t.Errorf("f is %v, %t", f, ok)
	}
	if _, ok := v.Member("t").Float(); ok {
		t.Error("a text is a number")
	}
	if m := v.Member("N"); m != nil {
		t.Errorf("N: %s", m.Raw())
	}
	if m := v.Member("none").Member("below"); m != nil || m.Text() != "" || v.Member("n").Member("x") != nil {
		t.Error("something is where nothing is")
	}
}

// TestLookUsesItsMemoryAgain reads in turn what is large, small and refused, on several goroutines: nothing of one may show in another.
func TestLookUsesItsMemoryAgain(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				want := fmt.Sprintf("v\n%d.%d", g, i)
				quoted, _ := json.Marshal(want)
				text := fmt.Appendf(nil, `{"pad":%q,"a":{"b":%s},%s`, strings.Repeat("x", i*7%500), quoted, many(`"key40":1`)[1:])
				err := strictjson.Look(text, func(v *strictjson.Value) error {
					if got := v.Member("a").Member("b").Text(); got != want || v.Member("key33").Raw() != "33" || v.Len() != 43 {
						return fmt.Errorf("%q, want %q, of %d", got, want, v.Len())
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if err := strictjson.Look(text[:len(text)-i%9-1], func(*strictjson.Value) error { return nil }); err == nil {
					t.Error("a text that is cut short is taken")
				}
			}
		})
	}
	wg.Wait()
	if err := strictjson.Look([]byte("1"), func(*strictjson.Value) error { return io.EOF }); !errors.Is(err, io.EOF) {
		t.Errorf("the error of see is %v", err)
	}
}

func TestIsNumber(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{"1": true, "-0.5": true, "1e5": true, "": false, "1 ": false, "+1": false, "0x1": false, "1_0": false, ".5": false, "NaN": false, "1e1000": false} {
		if got := strictjson.IsNumber(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

// native is a value as encoding/json decodes it with UseNumber.
func native(v *strictjson.Value) any {
	switch v.Kind() {
	case strictjson.False:
		return false
	case strictjson.True:
		return true
	case strictjson.Integer, strictjson.Decimal:
		return json.Number(v.Raw())
	case strictjson.Text:
		return v.Text()
	case strictjson.List:
		out := []any{}
		for i := range v.Children() {
			out = append(out, native(&v.Children()[i]))
		}
		return out
	case strictjson.Object:
		out := map[string]any{}
		for i := range v.Children() {
			out[v.Children()[i].Name()] = native(&v.Children()[i])
		}
		return out
	default:
		return nil
	}
}

// FuzzParse holds what is taken to encoding/json's reading of it, and both ways of reading to one another.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,2.5e-3,"x\u00e9\ud83d\ude00\ud83d",true,false,null],"b":{"":{}}}`, many(`"z":"\\\/\b\f\n\r\t\""`), `{"a":1,"A":1}`, `[[[[]]]]`, "\"\xff\"", `{"a":1,"a":2}`,
		`{"\ud800":1,"\udfff":2}`, "{\"k\":1,\"\u212a\":2}", `-0`, `1e400`, `"\u`, "", "\ufeff1",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := strictjson.Parse(text)
		var seen any
		lookErr := strictjson.Look(text, func(v *strictjson.Value) error { seen = clone(native(v)); return nil })
		if (err == nil) != (lookErr == nil) || err != nil && err.Error() != lookErr.Error() {
			t.Fatalf("Parse says %v, Look %v", err, lookErr)
		}
		if err != nil {
			if e, ok := errors.AsType[*strictjson.Error](err); !ok || e.Offset < 0 || e.Offset > len(text) || e.Reason == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil || !json.Valid(text) {
			t.Fatalf("taken, and not JSON: %v", err)
		}
		if got := native(v); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(seen, want) {
			t.Fatalf("Parse %#v, Look %#v, encoding/json %#v", got, seen, want)
		}
	})
}

// clone copies the texts of a value that was only lent.
func clone(v any) any {
	switch v := v.(type) {
	case string:
		return strings.Clone(v)
	case json.Number:
		return json.Number(strings.Clone(string(v)))
	case []any:
		for i := range v {
			v[i] = clone(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[strings.Clone(k)] = clone(x)
		}
		return out
	}
	return v
}

// invoice is an event of 1 KiB in a provider's own layout.
const invoice = `{
  "id": "evt_1PgZ2mLkdIwHu7ixnDbE9Vx3", "object": "event", "api_version": "2024-06-20", "created": 1721900000, "livemode": false,
  "pending_webhooks": 1, "request": {"id": "req_4bSPJ8r0N6bAsa", "idempotency_key": null}, "type": "invoice.paid",
  "data": {
    "object": {
      "id": "in_1PgZ2kLkdIwHu7ixlJyqQm5S", "object": "invoice", "amount_due": 5997, "amount_paid": 5997, "amount_remaining": 0,
      "currency": "usd", "customer": "cus_QXjPzW1l2YsO7F", "customer_email": "jenny.rosen@example.com",
      "lines": {
        "object": "list",
        "data": [
          {"id": "il_1PgZ2k", "quantity": 1, "amount": 1999, "price": {"id": "price_basic", "unit_amount": 1999}},
          {"id": "il_2PgZ2k", "quantity": 2, "amount": 3998, "price": {"id": "price_extra", "unit_amount": 1999}}
        ],
        "has_more": false
      },
      "metadata": {"order": "A-1047"}, "status": "paid"
    }
  }
}`

// BenchmarkRead has encoding/json beside it, which checks less.
func BenchmarkRead(b *testing.B) {
	text := []byte(invoice)
	for name, read := range map[string]func() error{
		"parse": func() error { _, err := strictjson.Parse(text); return err },
		"look":  func() error { return strictjson.Look(text, func(*strictjson.Value) error { return nil }) },
		"encoding": func() error {
			var v any
			return json.Unmarshal(text, &v)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if err := read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
