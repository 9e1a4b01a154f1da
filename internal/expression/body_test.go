package expression_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/internal/expression"
)

func TestParseBodyRefuses(t *testing.T) {
	t.Parallel()
	many := func(last string) string { // an object with a hash table
		var b strings.Builder
		for i := range 20 {
			fmt.Fprintf(&b, `"key%d":%d,`, i, i)
		}
		return "{" + b.String() + last + "}"
	}
	for name, tt := range map[string]struct{ text, reason string }{
		"empty":                    {"", "it is empty"},
		"only spaces":              {" \n", "it is empty"},
		"junk after":               {`{} x`, "something follows the value"},
		"two values":               {`{}{}`, "something follows the value"},
		"cut short":                {`{"a":`, "it ends too early"},
		"cut in a text":            {`"abc`, "it ends too early"},
		"cut in an escape":         {`"abc\`, "it ends too early"},
		"not JSON":                 {`a=1&b=2`, "a character is not in its place"},
		"byte order mark":          {"\ufeff{}", "it starts with a byte order mark"},
		"trailing comma":           {`[1,]`, "a character is not in its place"},
		"no comma":                 {`[1 2]`, "a character is not in its place"},
		"no colon":                 {`{"a" 1}`, "a character is not in its place"},
		"key is no text":           {`{1:2}`, "a character is not in its place"},
		"single quotes":            {`{'a':1}`, "a character is not in its place"},
		"comment":                  {`{/**/}`, "a character is not in its place"},
		"NaN":                      {`NaN`, "a character is not in its place"},
		"leading zero":             {`01`, "something follows the value"},
		"plus":                     {`+1`, "a character is not in its place"},
		"no digits after the dot":  {`1.`, "it ends too early"},
		"no digits after e":        {`[1e]`, "a character is not in its place"},
		"minus alone":              {`[-]`, "a character is not in its place"},
		"word cut":                 {`tru`, "a character is not in its place"},
		"control character":        {"\"a\nb\"", "a control character is not escaped"},
		"control after an escape":  {"\"\\na\nb\"", "a control character is not escaped"},
		"unknown escape":           {`"\x41"`, "an escape is unknown"},
		"short escape":             {`"\u12"`, "an escape is not complete"},
		"not UTF-8":                {"\"\xff\"", "a text is not UTF-8"},
		"not UTF-8 with escapes":   {"\"\\n\xff\"", "a text is not UTF-8"},
		"key not UTF-8":            {"{\"\xc3\":1}", "a text is not UTF-8"},
		"overlong UTF-8":           {"\"\xc0\x80\"", "a text is not UTF-8"},
		"duplicate key":            {`{"amount":1,"amount":2}`, "a key is there twice"},
		"duplicate, same value":    {`{"amount":1,"amount":1}`, "a key is there twice"},
		"duplicate by escapes":     {`{"amount":1,"\u0061mount":2}`, "a key is there twice"},
		"duplicate deep":           {`{"a":[{"b":{"c":1,"c":2}}]}`, "a key is there twice"},
		"duplicate among many":     {many(`"key7":1`), "a key is there twice"},
		"duplicate in metadata":    {`{"metadata":{"a":1,"a":2}}`, "a key is there twice"},
		"case":                     {`{"amount":1,"AMOUNT":2}`, "two keys differ in case only"},
		"case among many":          {many(`"KEY7":1`), "two keys differ in case only"},
		"case by escapes":          {`{"amount":1,"\u0041mount":2}`, "two keys differ in case only"},
		"case of other alphabets":  {`{"straſe":1,"strase":2}`, "two keys differ in case only"},
		"the Kelvin sign":          {"{\"kkkk\":1,\"\u212a\u212a\u212a\u212a\":2}", "two keys differ in case only"},
		"the Kelvin sign, many":    {many("\"\u212aey7\":1"), "two keys differ in case only"},
		"case of texts":            {`{"currency":"usd","Currency":"jpy"}`, "two keys differ in case only"},
		"too deep":                 {strings.Repeat("[", 65) + strings.Repeat("]", 65), "it nests too deep"},
		"far too deep":             {strings.Repeat("[", 1_000_000), "it nests too deep"},
		"too deep in objects":      {strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), "it nests too deep"},
		"number too long":          {strings.Repeat("1", 129), "a number is too long"},
		"exponent too large":       {`1e1000`, "a number is too large"},
		"exponent far too large":   {`1e-99999999999999999999`, "a number is too large"},
		"exponent with zeros":      {`1e0001000`, "a number is too large"},
		"amount with a far number": {`{"amount":1` + strings.Repeat("0", 5000) + `}`, "a number is too long"},
	} {
		_, err := expression.ParseBody([]byte(tt.text))
		e, ok := errors.AsType[*expression.BodyError](err)
		if !ok || e.Reason != tt.reason || e.Offset > len(tt.text) {
			t.Errorf("%s: %v, want %s", name, err, tt.reason)
		}
	}
}

func TestParseBodyAccepts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`, `[]`, `""`, `0`, `-0`, ` null `, "\t\r\n[ 1 , 2 ]\n", `1e400`, `1E-400`, `1e0000400`, `123456789012345678901234567890`, strings.Repeat("1", 128),
		strings.Repeat("[", 64) + strings.Repeat("]", 64),
		`{"metadata":{"Size":"L","size":"XL"}}`, `{"Headers":{"A":1,"a":2}}`, // free dictionaries
		`{"id":5,"ID":5}`,                        // both readings are the same
		`{"a":{"b":1},"c":{"b":1}}`,              // the same key in two objects
		`"\ud83d"`, `"\ud83d\ud83d\ude00\u0000"`, // half a character
		`"` + strings.Repeat("é", 100_000) + `"`,
	} {
		if _, err := expression.ParseBody([]byte(text)); err != nil {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

func TestBodyIsACopy(t *testing.T) {
	t.Parallel()
	text := []byte(`{"a":"abc"}`)
	body, err := expression.ParseBody(text)
	if err != nil {
		t.Fatal(err)
	}
	copy(text, "XXXXXXXXXXX")
	p := mustCompile(t, mustEnv(t), `body.a`, expression.String)
	if got, err := p.String(t.Context(), &expression.Input{Body: body}); got != "abc" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// A scanner is used again for the next body: nothing of the last one may show.
func TestBodiesDoNotMix(t *testing.T) {
	t.Parallel()
	p := mustCompile(t, mustEnv(t), `body.v`, expression.Any)
	var bodies []expression.Body
	for i := range 50 {
		_, _ = expression.ParseBody([]byte(`{"v":["left","over"`)) // fails half way
		bodies = append(bodies, mustParse(t, fmt.Sprintf(`{"pad":%q,"v":%d}`, strings.Repeat("x", i), i)))
	}
	for i, b := range bodies {
		if out, _, err := p.AppendJSON(t.Context(), nil, &expression.Input{Body: b}); string(out) != fmt.Sprint(i) || err != nil {
			t.Errorf("%d: %s, %v", i, out, err)
		}
	}
}

// rebuild takes a body apart and puts it together again, so that every value goes through CEL.
const rebuild = `type(body) == map ? dyn(body.transformMap(k, v, type(v) == list ? dyn(v.map(x, x)) : v)) : type(body) == list ? body.map(x, x) : body`

// What is accepted means what encoding/json reads.
func FuzzParseBody(f *testing.F) {
	env := mustEnv(f)
	p := mustCompile(f, env, rebuild, expression.Any)
	for _, s := range []string{
		invoice, sample, `{"a":1,"A":2}`, `["\u00e9\ud83d\ude00\ud800","\/"]`, `[1e5,-0.0,1E+2,0.1e-3]`, `{"":{"":[]}}`, `"\u2028"`, "\"\u00e9\"", `[[[[1]]]]`,
		`{"a\u0000":1}`, `[18446744073709551615,18446744073709551616,-9223372036854775808,-9223372036854775809]`, `{"k":1,"K":1}`,
		`{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1,"7":1,"8":1,"9":1,"10":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		body, err := expression.ParseBody(text)
		var want any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		wantErr := d.Decode(&want)
		if err != nil {
			if e, ok := errors.AsType[*expression.BodyError](err); !ok || e.Offset < 0 || e.Offset > len(text) {
				t.Fatalf("%v", err)
			}
			return
		}
		if wantErr != nil || !json.Valid(text) {
			t.Fatalf("accepted what encoding/json refuses: %v", wantErr)
		}
		out, _, err := p.AppendJSON(t.Context(), nil, &expression.Input{Body: body})
		if err != nil {
			if strings.Contains(err.Error(), "limit") || strings.Contains(err.Error(), "too large") {
				return
			}
			t.Fatal(err)
		}
		var got any
		d = json.NewDecoder(bytes.NewReader(out))
		d.UseNumber()
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%v of %s", err, out)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %s\nwant %s", out, text)
		}
	})
}
