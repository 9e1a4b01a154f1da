package expression_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/expression"
)

const sample = `{
	"price": 19.990, "big": 9007199254740993, "huge": 1e400, "n": 5, "uint": 18446744073709551615, "beyond": 123456789012345678901,
	"whole": 5.0, "s": "abc", "empty": "", "cur": "usd", "yes": true, "nil": null, "created": 1700000000,
	"list": [1, 2.50, {"p": 19.990}], "map": {"b": 1, "a": 2}, "prices": [1, 2.5, 3], "esc": "a\/\u0062\n",
	"many": {"k1":1,"k2":2,"k3":3,"k4":4,"k5":5,"k6":6,"k7":7,"k8":8,"k9":9,"Other":10}
}`

func event(t testing.TB) *expression.Input {
	t.Helper()
	return &expression.Input{
		Body: mustParse(t, sample), ID: "evt_1", Type: "invoice.paid", Source: "stripe", Subject: "in_1", Key: "cus_1",
		Time: time.Date(2024, 7, 25, 11, 33, 20, 0, time.FixedZone("", 7200)), Ext: map[string]string{"apiversion": "2024-06-20"},
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	env := mustEnv(t)
	in := event(t)
	for _, tt := range []struct{ text, want string }{
		// attributes
		{`[id, type, source, subject, key]`, `["evt_1","invoice.paid","stripe","in_1","cus_1"]`},
		{`time`, `"2024-07-25T09:33:20Z"`},
		{`ext.apiversion`, `"2024-06-20"`},
		{`has(ext.other)`, `false`},
		// numbers compare as people expect
		{`body.price == 19.99`, `true`},
		{`body.price > 19`, `true`},
		{`body.whole == 5 && body.whole == 5.0 && body.n == 5.0`, `true`},
		{`body.n in [5.0, 7.0]`, `true`},
		{`2.5 in body.prices`, `true`},
		{`[1, 2.5, 3] == body.prices && body.prices == [1, 2.5, 3]`, `true`},
		{`body.map == {"a": 2, "b": 1.0} && {"a": 2, "b": 1} == body.map`, `true`},
		{`body.map != body.map`, `false`},
		{`size(body.list) > 2.5 && int(body.n) < 5.5 && 5u < body.price`, `true`},
		{`body.uint > 1 && body.uint == 18446744073709551615u`, `true`},
		{`body.big + 1`, `9007199254740994`},
		{`body.price + 0.01`, `20`},
		{`double(body.n) * 1.5`, `7.5`},
		// and are exact as long as they are carried
		{`body.big`, `9007199254740993`},
		{`body.huge`, `1e400`},
		{`body.beyond`, `123456789012345678901`},
		{`[body.price, body.?price, body.?nope.orValue(body.price)]`, `[19.990,19.990,19.990]`},
		{`body.yes ? body.price : body.n`, `19.990`},
		{`body.list[2].p`, `19.990`},
		{`body.list.map(x, type(x) == map, x.p)`, `[19.990]`},
		{`body.prices.filter(x, x > 1)`, `[2.5,3]`},
		{`body.list`, `[1, 2.50, {"p": 19.990}]`},
		{`string(body.huge) + string(body.price)`, `"1e40019.990"`},
		{`{"price": body.price}["price"] + 1.0`, `20.99`},
		{`[body.price].map(p, p * 2.0)`, `[39.98]`},
		{`cel.bind(p, body.price, p * 2.0)`, `39.98`},
		// fields that may be missing
		{`has(body.n) && !has(body.nope)`, `true`},
		{`body.?map.?a.orValue(7)`, `2`},
		{`body.?map.?z.?y.orValue("x")`, `"x"`},
		{`body[?"nope"].hasValue()`, `false`},
		{`default(body.map.a, 7)`, `2`},
		{`default(body.nope.deeper["still"], 7)`, `7`},
		{`default(body.nil, "d")`, `"d"`},
		{`default(body.empty, "d")`, `""`},
		{`body.many.k9 + body.many["Other"]`, `19`},
		{`"k3" in body.many && !("K3" in body.many)`, `true`},
		{`size(body.many) + size(body.list)`, `13`},
		// money
		{`money(1999, "usd")`, `"19.99"`},
		{`money(body.created, "JPY")`, `"1700000000"`},
		{`money(1, "KWD") + " " + money(-5, "EUR") + " " + money(0, "usd") + " " + money(12345, "CLF")`, `"0.001 -0.05 0.00 1.2345"`},
		{`money(-9223372036854775808, "USD")`, `"-92233720368547758.08"`},
		{`money(body.uint, "USD")`, `"184467440737095516.15"`},
		{`money(500, "ISK") + " " + money(500, "ISK", "stripe") + " " + money(500, "UGX", "stripe") + " " + money(5, "MGA", "stripe")`, `"500 5.00 5.00 5"`},
		{`[minor("19.99", "USD"), minor("19.9900", "usd"), minor("-0.05", "EUR"), minor("500", "JPY"), minor("1.234", "KWD"), minor(20, "USD"), minor(body.price, "USD"), minor(19.99, "USD"), minor("5", "ISK", "stripe")]`,
			`[1999,1999,-5,500,1234,2000,1999,1999,500]`},
		// time
		{`unix(body.created)`, `"2023-11-14T22:13:20Z"`},
		{`unix(body.created).format("%Y-%m-%dT%H:%M:%S.%f%z %y %j %b %B %a %A %e %F %T %s %%")`, `"2023-11-14T22:13:20.000000+0000 23 318 Nov November Tue Tuesday 14 2023-11-14 22:13:20 1700000000 %"`},
		{`time.format("%H:%M")`, `"09:33"`},
		{`int(time)`, `1721900000`},
		{`time + duration("36h") > timestamp("2024-07-26T00:00:00Z")`, `true`},
		{`time - unix(1721896400)`, `"3600s"`},
		{`time.getFullYear()`, `2024`},
		// text, lists, digests
		{`body.esc`, `"a/b\n"`},
		{`"a-b-c".split("-").join("+").upperAscii().replace("B", "x")`, `"A+x+C"`},
		{`body.s.matches("^[a-c]{3}$") && body.s.contains("b") && body.s.startsWith("a")`, `true`},
		{`[3, 1, 2].sort().reverse()`, `[3,2,1]`},
		{`[1, 1, 2].distinct()`, `[1,2]`},
		{`[[1], [2, 3]].flatten()`, `[1,2,3]`},
		{`body.prices + [4]`, `[1,2.5,3,4]`},
		{`sets.contains([1, 2], [2])`, `true`},
		{`math.greatest(body.n, 7)`, `7`},
		{`body.prices.exists(p, p == 2.5) && body.prices.all(p, p > 0)`, `true`},
		{`body.map.map(k, k)`, `["b","a"]`},
		{`body.map.transformMap(k, v, v + 1)`, `{"a":3,"b":2}`},
		{`{"b": 1, "a": 2, ?"c": body.?nope}`, `{"b":1,"a":2}`},
		{`{1: "x", 2u: "y", true: "z"}`, `{"1":"x","2":"y","true":"z"}`},
		{`sha256hex("abc") == sha256hex(b"abc")`, `true`},
		{`base64.encode(b"abc") + string(base64.decode("YWJj"))`, `"YWJjabc"`},
		{`b"\xff\x00"`, `"/wA="`},
		{`"\u0000\"\\\t é"`, `"\u0000\"\\\t é"`},
		{`"%s %d".format([body.s, body.n])`, `"abc 5"`},
		{`[1e21, 1e20, 1.0e-7, -0.5, 3.0]`, `[1e+21,100000000000000000000,1e-07,-0.5,3]`},
		{`[duration("1.5s"), null, true]`, `["1.5s",null,true]`},
	} {
		p := mustCompile(t, env, tt.text, expression.Any)
		out, present, err := p.AppendJSON(t.Context(), []byte(">"), in)
		if err != nil || !present || string(out) != ">"+tt.want {
			t.Errorf("%s\n got %s, %v, %v\nwant %s", tt.text, out, present, err, tt.want)
		}
	}
}

func TestRunErrors(t *testing.T) {
	t.Parallel()
	env := mustEnv(t)
	in := event(t)
	for _, tt := range []struct{ text, want string }{
		{`body.map.c.d`, `no such field: c in body.map, at column 10 of "body.map.c.d"`},
		{`body.nil.x`, `no such field: x in body.nil, which is null, at column 10 of "body.nil.x"`},
		{`body.s.x`, `no such field: x in body.s, which is a text, at column 8 of "body.s.x"`},
		{"body.n +\n  body.nope", `no such field: nope in body, at line 2, column 8 of "body.n +\n  body.nope"`},
		{`body.list.map(x, x.p)`, `no such field: p in x, at column 20 of "body.list.map(x, x.p)"`},
		{`body[body.s]`, `no such key in body, at column 5 of "body[body.s]"`},
		{`body.list[7]`, `there is no such index in body.list[7], at column 10 of "body.list[7]"`},
		{`body.price * 2`, `the types do not fit in body.price * 2 (whole and decimal numbers do not mix: use int() or double(); string() makes a text), at column 12 of "body.price * 2"`},
		{`int(body.s)`, `the value cannot be converted in int(body.s), at column 1 of "int(body.s)"`},
		{`body.n / 0`, `division by zero in body.n / 0, at column 8 of "body.n / 0"`},
		{`9223372036854775807 + body.n`, `a whole number is out of range in 9223372036854775807 + body.n, at column 21 of "9223372036854775807 + body.n"`},
		{`body.huge > 1.0`, `a number is beyond what can be computed with; it can only be passed on, or made a text by string(), in "body.huge > 1.0"`},
		{`body.?nope.value()`, `the optional is empty in body.?nope.value(), at column 12 of "body.?nope.value()"`},
		{`money(1, body.s)`, `the currency is not one of ISO 4217, at column 1 of "money(1, body.s)"`},
		{`minor("19.999", "USD")`, `the amount has more decimal places than the currency, at column 1 of "minor(\"19.999\", \"USD\")"`},
		{`minor("1,000.00", "USD")`, `an amount is a number such as 19.99, without spaces, signs of currency or thousands, at column 1 of "minor(\"1,000.00\", \"USD\")"`},
		{`minor("92233720368547758.08", "USD")`, `the amount is too large, at column 1 of "minor(\"92233720368547758.08\", \"USD\")"`},
		{`unix(1700000000000)`, `unix() wants seconds between the years 1 and 9999; divide milliseconds by 1000, at column 1 of "unix(1700000000000)"`},
		{`0.0 / 0.0`, `the result is no finite number, in "0.0 / 0.0"`},
		{`{1: 2, "1": 3}`, `two keys of the result are the same text, in "{1: 2, \"1\": 3}"`},
		{`lists.range(400).map(a, lists.range(4000).map(b, a))`, `the expression costs more than its limit, in "lists.range(400).map(a, lists.range(4000).map(b, a))"`},
	} {
		p := mustCompile(t, env, tt.text, expression.Any)
		out, present, err := p.AppendJSON(t.Context(), []byte(">"), in)
		e, ok := errors.AsType[*expression.RunError](err)
		if !ok || e.Error() != tt.want || string(out) != ">" || present {
			t.Errorf("%s\n got %v (%s)\nwant %s", tt.text, err, out, tt.want)
		}
	}
	p := mustCompile(t, env, `body.n > 0`, expression.Bool)
	if _, err := p.Bool(t.Context(), &expression.Input{}); err == nil || !strings.HasPrefix(err.Error(), "the body is not JSON") {
		t.Errorf("without a body: %v", err)
	}
}

// Whatever fails, nothing of the body may be in the message: it goes to logs and dead letters.
func TestRunErrorsHoldNothingOfTheBody(t *testing.T) {
	t.Parallel()
	env := mustEnv(t)
	in := &expression.Input{Body: mustParse(t, `{"v":"MARKER","k":{"MARKER":1},"l":["MARKER"],"n":4711.25}`)}
	for _, text := range []string{
		`int(body.v)`, `uint(body.v)`, `double(body.v)`, `bool(body.v)`, `timestamp(body.v)`, `duration(body.v)`, `bytes(body.v) + body.v`,
		`body.k[body.v + "x"]`, `body[body.v]`, `body.l[body.v]`, `body.v + 1`, `-body.v`, `!body.v`, `body.v ? 1 : 2`, `body.v && true`,
		`money(1, body.v)`, `minor(body.v, "USD")`, `minor(1, "USD", body.v)`, `time.format(body.v + "%")`, `unix(body.v)`, `base64.decode(body.v + "!")`,
		`body.v.map(x, x)`, `body.l.map(x, int(x))`, `body.k.map(k, int(k))`, `"%d".format([body.v])`, `(body.v + "%d").format([])`, `body.v.charAt(99)`,
		`body.v.substring(5, 1)`, `body.l.join(body.n)`, `body.l.slice(3, 1)`, `math.greatest(body.v, 1)`, `lists.range(body.v)`, `int(body.n * 1e300)`,
		`body.v.x`, `body.v[0]`, `body.l.sort().x`, `sets.contains(body.v, body.l)`, `body.v > 1`, `body.v < body.l`, `body in body.v`,
		`time.getHours(body.v)`, `sha256hex(body.l)`, `size(body.n)`, `string(body.k)`, `optional.none().value()`, `{body.v: 1}.x`,
	} {
		p, err := env.Compile(text, expression.Any)
		if err != nil {
			t.Errorf("%s does not compile: %v", text, err)
			continue
		}
		_, _, err = p.AppendJSON(t.Context(), nil, in)
		if err == nil {
			t.Errorf("%s did not fail", text)
			continue
		}
		if strings.Contains(err.Error(), "MARKER") || strings.Contains(err.Error(), "4711") || len(err.Error()) > 600 {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	t.Parallel()
	env := mustEnv(t)
	for _, tt := range []struct {
		text string
		want expression.Kind
		err  string
	}{
		{``, expression.Any, `the expression is empty (line 1, column 1)`},
		{`bdy.a`, expression.Any, `unknown name bdy; did you mean body? (line 1, column 1)`},
		{`body.a && typ == "x"`, expression.Bool, `unknown name typ; did you mean type? (line 1, column 11)`},
		{"true &&\n  nope", expression.Bool, `unknown name nope (line 2, column 3)`},
		{`foo + bar`, expression.Any, `unknown name foo (line 1, column 1) and 1 more`},
		{`"a".startWith("b")`, expression.Any, `unknown name startWith; did you mean startsWith? (line 1, column 5)`},
		{`header("X")`, expression.Any, `unknown name header (line 1, column 1)`},
		{`now()`, expression.Any, `there is no now: an event must give the same result when it is replayed; use time (line 1, column 1)`},
		{`1 +`, expression.Any, `the expression ends too early (line 1, column 4)`},
		{`a b`, expression.Any, `the grammar is broken at b (line 1, column 3)`},
		{`"a" + 1`, expression.Any, `the types do not fit: + cannot take (string, int) (line 1, column 5)`},
		{`id`, expression.Bool, `the expression gives string, but this place wants true or false (line 1, column 1)`},
		{`[id]`, expression.String, `the expression gives list(string), but this place wants a text; string() makes one (line 1, column 1)`},
		{`1`, expression.Time, `the expression gives int, but this place wants a time; unix() makes one of seconds, timestamp() of a text (line 1, column 1)`},
		{`int`, expression.Any, `the expression gives type(int), but this place wants a value that JSON has (line 1, column 1)`},
		{`{"a": 1, "a": 2}`, expression.Any, `the key is there twice (line 1, column 10)`},
		{`id.matches(key)`, expression.Bool, `the pattern of matches() must be written out, not computed (line 1, column 12)`},
		{`id.matches("(")`, expression.Bool, "the pattern of matches() is no regular expression: error parsing regexp: missing closing ): `(` (line 1, column 12)"},
		{`id.matches("(a{1,100}){1,9}")`, expression.Bool, `the pattern of matches() is too large; use smaller counts in {} (line 1, column 12)`},
		{`money(1, "ABC")`, expression.Any, `the currency is not one of ISO 4217 (line 1, column 1)`},
		{`money(1, "USD", "paypal")`, expression.Any, `a convention of counting minor units is "iso" or "stripe" (line 1, column 1)`},
		{`time.format("%Q")`, expression.Any, `the form of a time holds a % with a letter that is not known; %Y-%m-%d %H:%M:%S are (line 1, column 13)`},
		{strings.Repeat("x", expression.MaxExpression+1), expression.Any, `an expression is UTF-8 and at most 16 KiB long (line 1, column 1)`},
		{"\"\xff\"", expression.Any, `an expression is UTF-8 and at most 16 KiB long (line 1, column 1)`},
	} {
		_, err := env.Compile(tt.text, tt.want)
		e, ok := errors.AsType[*expression.CompileError](err)
		if !ok || e.Error() != tt.err {
			t.Errorf("%.80s\n got %v\nwant %s", tt.text, err, tt.err)
		}
		if ok && len([]rune(e.Problems[0].Snippet)) > 120 {
			t.Errorf("%.80s: a snippet of %d bytes", tt.text, len(e.Problems[0].Snippet))
		}
	}
}

func TestTypes(t *testing.T) {
	t.Parallel()
	env := mustEnv(t)
	for _, tt := range []struct {
		text string
		want string // "*": any type
	}{
		{`type == "a"`, "a"},
		{`"a" == type && body.x > 0`, "a"},
		{`body.x > 0 && (type == "a" || type == "b")`, "a b"},
		{`type in ["b", "a", "b"] && true`, "a b"},
		{`type in []`, ""},
		{`type in ["a", "b"] && type in ["b", "c"]`, "b"},
		{`type == "a" && type == "b"`, ""},
		{`(type == "a" && body.x == 1) || (type == "b" && body.y == 2)`, "a b"},
		{`type == "a" || body.x == 1`, "*"},
		{`type != "a"`, "*"},
		{`!(type == "a")`, "*"},
		{`type == "a" ? true : false`, "*"},
		{`type.startsWith("a")`, "*"},
		{`type in body.types`, "*"},
		{`type == body.type`, "*"},
		{`body.type == "a"`, "*"},
		{`type in ["a", key]`, "*"},
		{`["a"].exists(type, type == "b")`, "*"},
		{`body.x`, "*"},
	} {
		p := mustCompile(t, env, tt.text, expression.Bool)
		only, ok := p.Types()
		if got := strings.Join(only, " "); ok != (tt.want != "*") || ok && got != tt.want {
			t.Errorf("%s: %v %v, want %s", tt.text, only, ok, tt.want)
		}
		// The promise: for another type it is false, without an error, whatever the body.
		if ok {
			in := &expression.Input{Type: "zzz"}
			if got, err := p.Bool(t.Context(), in); got || err != nil {
				t.Errorf("%s on another type: %v, %v", tt.text, got, err)
			}
		}
	}
}

func TestNeedsBody(t *testing.T) {
	t.Parallel()
	env := mustEnv(t)
	for text, want := range map[string]bool{`type == "a"`: false, `body.x`: true, `[1].map(x, body)`: true, `has(body.x)`: true, `"body"`: false, `default(body.a, 1)`: true} {
		if got := mustCompile(t, env, text, expression.Any).NeedsBody(); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestCalls(t *testing.T) {
	t.Parallel()
	env, err := expression.ForCalls()
	if err != nil {
		t.Fatal(err)
	}
	in := &expression.Input{
		Body:   mustParse(t, `{"customer":{"id":706405506930370084},"when":"2024-07-25T11:33:20+02:00","at":1721900000,"none":null,"beyond":123456789012345678901,"half":0.5}`),
		Header: http.Header{"X-Shopify-Topic": {"orders/paid", "second"}}, Query: url.Values{"id": {"q1", "q2"}},
	}
	for text, want := range map[string]string{
		`header("x-shopify-topic")`:   "orders/paid",
		`header("X-Other")`:           "",
		`query("id") + query("none")`: "q1",
		`string(body.customer.id)`:    "706405506930370084",
		`body.customer.id`:            "706405506930370084",
		`body.beyond`:                 "123456789012345678901",
		`body.none`:                   "",
		`body.?nope`:                  "",
		`body.?when`:                  "2024-07-25T11:33:20+02:00",
		`header("X-Other") != "" ? header("X-Other") : "other"`: "other",
		`[1].map(x, header("X-Shopify-Topic"))[0]`:              "orders/paid",
	} {
		if got, err := mustCompile(t, env, text, expression.String).String(t.Context(), in); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{`body.half`, `body.customer`} {
		if got, err := mustCompile(t, env, text, expression.String).String(t.Context(), in); err == nil {
			t.Errorf("%s as a text: %q", text, got)
		}
	}
	at := time.Date(2024, 7, 25, 9, 33, 20, 0, time.UTC)
	for text, want := range map[string]time.Time{`body.when`: at, `unix(body.at)`: at, `timestamp(body.when)`: at, `body.?nope`: {}, `body.none`: {}} {
		if got, err := mustCompile(t, env, text, expression.Time).Time(t.Context(), in); err != nil || !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{`body.at`, `header("X-Shopify-Topic")`} {
		if _, err := mustCompile(t, env, text, expression.Time).Time(t.Context(), in); err == nil {
			t.Errorf("%s as a time", text)
		}
	}
	if _, err := env.Compile(`type == "a"`, expression.Bool); err == nil {
		t.Error("a call has no type")
	}
}

func TestContextStopsARun(t *testing.T) {
	t.Parallel()
	p := mustCompile(t, mustEnv(t), `lists.range(300).all(a, lists.range(300).all(b, a + b >= 0))`, expression.Bool)
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	if _, err := p.Bool(ctx, &expression.Input{}); !errors.Is(err, stopped) {
		t.Errorf("got %v", err)
	}
}

// Programs and bodies are shared by all routes and workers.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	env := mustEnv(t)
	in := event(t)
	p := mustCompile(t, env, `body.list.map(x, type(x) == map, {"p": x.p, "n": body.many.k9})`, expression.Any)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if out, _, err := p.AppendJSON(context.Background(), nil, in); err != nil || string(out) != `[{"p":19.990,"n":9}]` {
					t.Errorf("%s, %v", out, err)
				}
				if _, err := env.Compile(`body.x > 1`, expression.Bool); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzCompile(f *testing.F) {
	env := mustEnv(f)
	for text := range hostile {
		f.Add(hostile[text])
	}
	for _, s := range []string{`body.?a[?"b"].orValue({?"x": body.?y})`, `default(default(body.a, 1), 2)`, `has(body.a.b)`, "`a`", `r"\\"`, `body.a.map(x, y, z)`, `cel.bind(a, 1, a)`} {
		f.Add(s)
	}
	body := mustParse(f, sample)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := env.Compile(text, expression.Any)
		if err != nil {
			if e, ok := errors.AsType[*expression.CompileError](err); !ok || len(e.Problems) == 0 || e.Problems[0].Line < 1 {
				t.Fatalf("%v", err)
			}
			return
		}
		in := &expression.Input{Body: body, Type: "zzz"}
		out, present, err := p.AppendJSON(t.Context(), nil, in)
		if err != nil && (len(out) > 0 || present) {
			t.Fatalf("an error and output: %v", err)
		}
		if only, ok := p.Types(); ok && !slices.Contains(only, "zzz") && err == nil && string(out) == "true" {
			t.Fatalf("true for a type that its guard leaves out")
		}
	})
}
