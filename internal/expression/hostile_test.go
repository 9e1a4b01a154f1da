package expression_test

import (
	"context"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/expression"
)

// nest binds a chain of n variables, each made of the one before, and ends in the last.
func nest(n int, first, step, last string) string {
	var b strings.Builder
	b.WriteString("cel.bind(v0, " + first + ", ")
	for i := 1; i <= n; i++ {
		v := "v" + string(rune('a'+i/10)) + string(rune('0'+i%10))
		u := "v0"
		if i > 1 {
			u = "v" + string(rune('a'+(i-1)/10)) + string(rune('0'+(i-1)%10))
		}
		b.WriteString("cel.bind(" + v + ", " + strings.ReplaceAll(step, "$", u) + ", ")
		if i == n {
			b.WriteString(strings.ReplaceAll(last, "$", v))
		}
	}
	return b.String() + strings.Repeat(")", n+1)
}

var hostile = map[string]string{
	"nested comprehensions":      `body.many.map(a, body.many.map(b, body.many.map(c, a + b + c)))`,
	"nested exists":              `body.many.all(a, body.many.all(b, body.many.all(c, body.many.all(d, a + b + c + d >= 0))))`,
	"text doubling":              nest(40, `"x"`, `$ + $`, `$`),
	"text doubling of a body":    nest(12, `body.text`, `$ + $`, `size($)`),
	"list doubling":              nest(45, `[1]`, `$ + $`, `$`),
	"list doubling and walk":     nest(45, `[1]`, `$ + $`, `$.map(x, x)`),
	"lists of lists, compared":   nest(40, `[1]`, `[$, $]`, `$ == $`),
	"lists of lists, contained":  nest(40, `[1]`, `[$, $]`, `$ in [$]`),
	"lists of lists, written":    nest(40, `[1]`, `[$, $]`, `$`),
	"lists of lists, flattened":  nest(40, `[[1]]`, `[$, $]`, `$.flatten(50)`),
	"maps of maps":               nest(40, `{"a": 1}`, `{"a": $, "b": $}`, `$ == $ ? 1 : 2`),
	"ranges":                     `lists.range(10000).map(a, lists.range(10000).map(b, a * b))`,
	"a range too far":            `lists.range(1000000000)`,
	"replace grows":              `body.text.replace("", body.text)`,
	"replace again and again":    nest(20, `"ab"`, `$.replace("a", $)`, `$`),
	"join grows":                 `body.many.map(x, "aaaaaaaaaa").join(body.text)`,
	"join of large":              `body.many.map(x, body.text).join()`,
	"split to letters":           `body.text.split("")`,
	"the same split a lot":       `body.many.map(x, body.text.substring(0, 9000).split(""))`,
	"one text split a lot":       `cel.bind(s, body.text.substring(0, 9000), body.many.map(x, s.split("")))`,
	"letters one by one":         `body.many.map(x, body.text.charAt(800000))`,
	"looking to the end":         `body.many.map(x, body.text.indexOf("b"))`,
	"copies side by side":        strings.Repeat(`body.text.substring(1) == "" || `, 17) + `true`,
	"folded side by side":        strings.Repeat(`body.text.lowerAscii() == "" || `, 20) + `true`,
	"regex of many states":       `body.text.matches("(a?){200}(a*)*b")`,
	"regex again and again":      `body.many.all(x, body.text.matches("(a|aa)+$") || true)`,
	"regex too large":            `"a".matches("((a{1,100}){1,100}){1,100}")`,
	"distinct":                   `lists.range(10000).distinct()`,
	"sets":                       `sets.contains(lists.range(10000), lists.range(10000))`,
	"body compared with itself":  `body.many.all(x, body == body)`,
	"body compared in a list":    `[body, body, body, body] == [body, body, body, body]`,
	"body as text":               `body.many.map(x, base64.encode(bytes(body.text)))`,
	"format":                     `body.many.map(x, "%s%s%s".format([body.many, body.many, body.text]))`,
	"format wide":                `"%.1000000000f".format([1.0])`,
	"digest":                     `body.many.map(x, sha256hex(body.text))`,
	"large output":               `body.many.map(x, body.text)`,
	"deep literal":               strings.Repeat("[", 300) + strings.Repeat("]", 300),
	"deep parentheses":           strings.Repeat("(", 3000) + "1" + strings.Repeat(")", 3000),
	"many terms":                 `1` + strings.Repeat("+1", 8000),
	"many texts":                 `size(body.text` + strings.Repeat(" + body.text", 1100) + `)`,
	"nots":                       strings.Repeat("!", 16000) + "true",
	"macros in macros":           strings.Repeat("[1].map(x, ", 60) + "1" + strings.Repeat(")", 60),
	"macros that multiply nodes": strings.Repeat("body.many.exists_one(x, ", 40) + "true" + strings.Repeat(")", 40),
	"sort with slow keys":        `body.many.sortBy(x, body.many.map(y, body.text + "a").join("")[0])`,
	"transform into maps":        `body.many.transformMap(i, v, body.many.transformMap(j, w, body.many))`,
}

// A hostile expression, on a hostile body, ends early: it allocates at most 16 MiB in all, so that it cannot make a hub larger by more, where
// unbounded it would be gigabytes. The times are measured by BenchmarkHostile. Not parallel: it counts what the process allocates.
func TestHostileExpressionsEnd(t *testing.T) {
	env := mustEnv(t)
	body := mustParse(t, hostileBody())
	for name, text := range hostile {
		p, err := env.Compile(text, expression.Any)
		if err != nil {
			continue // refused before it ran
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		peak := allocated(func() {
			out, _, err := p.AppendJSON(ctx, nil, &expression.Input{Body: body})
			if err == nil && len(out) > expression.MaxOutput {
				t.Errorf("%s: made %d bytes", name, len(out))
			}
			if ctx.Err() != nil {
				t.Errorf("%s: did not end", name)
			}
		})
		cancel()
		if peak > 16<<20+detector {
			t.Errorf("%s: allocated %d MiB", name, peak>>20)
		}
	}
}

// What one operation is given is looked at before it runs.
func TestOperationsAreBounded(t *testing.T) {
	t.Parallel()
	env := mustEnv(t)
	in := &expression.Input{Body: mustParse(t, hostileBody())}
	const (
		large = "a value is too large for this operation"
		long  = "the text that this makes is longer than 1 MiB"
		many  = "the list is too long for this operation"
		// What was refused is charged all the same, or one could ask for it a thousand times.
		costly = "the expression costs more than its limit"
	)
	for text, want := range map[string]string{
		`body.text + body.text`:                 long,
		`body.text.replace("a", "aa")`:          long,
		`[body.text, body.text].join()`:         long,
		`body.many.map(x, "a").join(body.text)`: long,
		`body.text.split("")`:                   many,
		`body.many.distinct()`:                  costly,
		`sets.intersects(body.many, body.many)`: costly,
		`lists.range(10000).map(x, 1) + lists.range(10000).map(x, 1) + lists.range(10000).map(x, 1) + lists.range(10000).map(x, 1) + lists.range(10000).map(x, 1) + [1]`: many,
		`[body, body] == [body, body]`:                    large,
		`[body] in [[body, body]]`:                        large,
		`[body.text, body.text, body.text].reverse()`:     large,
		`body.text.matches("^(a|b|c|d|e|f|g|h|i|j|k)*$")`: costly,
		`[body.text, body.text]`:                          "the result is larger than 1 MiB",
		`base64.encode(bytes(body.text))`:                 "the result is larger than 1 MiB",
	} {
		p := mustCompile(t, env, text, expression.Any)
		_, _, err := p.AppendJSON(t.Context(), nil, in)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func hostileBody() string {
	return `{"many":[` + strings.Repeat("1,", 2999) + `1],"text":"` + strings.Repeat("a", 900_000) + `"}`
}

// allocated is how many bytes f allocates in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func BenchmarkHostile(b *testing.B) {
	env := mustEnv(b)
	body := mustParse(b, hostileBody())
	for name, text := range hostile {
		b.Run(name, func(b *testing.B) {
			before := cpu()
			defer func() { b.ReportMetric(float64((cpu()-before).Milliseconds())/float64(b.N), "cpu-ms/op") }()
			for b.Loop() {
				p, err := env.Compile(text, expression.Any)
				if err != nil {
					continue
				}
				_, _, _ = p.AppendJSON(context.Background(), nil, &expression.Input{Body: body})
			}
		})
	}
}

// cpu is the processor time of this process: what a run costs even when the machine is busy with something else.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
