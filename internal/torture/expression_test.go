package torture

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// chained binds n variables, each made of the one before by step, where $ stands for that, and ends in last.
func chained(n int, first, step, last string) string {
	var b strings.Builder
	b.WriteString("cel.bind(v0, " + first + ", ")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "cel.bind(v%d, %s, ", i, strings.ReplaceAll(step, "$", "v"+strconv.Itoa(i-1)))
	}
	return b.String() + strings.ReplaceAll(last, "$", "v"+strconv.Itoa(n)) + strings.Repeat(")", n+1)
}

// hostileExpressions try to hold a hub up or to fill its memory, each in its own way. Those that do not compile are refused before a hub runs.
var hostileExpressions = []struct{ name, text string }{
	{"loops in loops", `body.many.map(a, body.many.map(b, body.many.map(c, a + b + c)))`},
	{"loops that make nothing", `body.many.all(a, body.many.all(b, body.many.all(c, body.many.all(d, a + b + c + d >= 0))))`},
	{"text doubled", chained(40, `"x"`, `$ + $`, `$`)},
	{"body doubled", chained(12, `body.text`, `$ + $`, `size($)`)},
	{"list doubled", chained(45, `[1]`, `$ + $`, `$`)},
	{"list doubled and walked", chained(45, `[1]`, `$ + $`, `$.map(x, x)`)},
	{"lists of lists", chained(40, `[1]`, `[$, $]`, `$`)},
	{"lists of lists compared", chained(40, `[1]`, `[$, $]`, `$ == $`)},
	{"maps of maps", chained(40, `{"a": 1}`, `{"a": $, "b": $}`, `$ == $ ? 1 : 2`)},
	{"deep output", chained(90, `[1]`, `[$]`, `$`)},
	{"flattening", chained(40, `[[1]]`, `[$, $]`, `$.flatten(50)`)},
	{"ranges", `lists.range(10000).map(a, lists.range(10000).map(b, a * b))`},
	{"a range too far", `lists.range(1000000000)`},
	{"replacing by the body", `body.text.replace("", body.text)`},
	{"replacing again and again", chained(20, `"ab"`, `$.replace("a", $)`, `$`)},
	{"joining by the body", `body.many.map(x, "aaaaaaaaaa").join(body.text)`},
	{"joining bodies", `body.many.map(x, body.text).join()`},
	{"splitting to letters", `body.text.split("")`},
	{"splitting a lot", `body.many.map(x, body.text.substring(0, 9000).split(""))`},
	{"one text split a lot", `cel.bind(s, body.text.substring(0, 9000), body.many.map(x, s.split("")))`},
	{"copies side by side", strings.Repeat(`body.text.substring(1) == "" || `, 17) + `true`},
	{"a pattern of many states", `body.text.matches("(a?){200}(a*)*b")`},
	{"a pattern again and again", `body.many.all(x, body.text.matches("(a|aa)+$") || true)`},
	{"a pattern too large", `"a".matches("((a{1,100}){1,100}){1,100}")`},
	{"distinct", `lists.range(10000).distinct()`},
	{"sets", `sets.contains(lists.range(10000), lists.range(10000))`},
	{"body compared", `body.many.all(x, body == body)`},
	{"body encoded", `body.many.map(x, base64.encode(bytes(body.text)))`},
	{"body hashed", `body.many.map(x, sha256hex(body.text))`},
	{"format", `body.many.map(x, "%s%s%s".format([body.many, body.many, body.text]))`},
	{"format wide", `"%.1000000000f".format([1.0])`},
	{"large output", `body.many.map(x, body.text)`},
	{"sorting by slow keys", `body.many.sortBy(x, body.many.map(y, body.text + "a").join("")[0])`},
	{"maps made of maps", `body.many.transformMap(i, v, body.many.transformMap(j, w, body.many))`},
	{"deep brackets", strings.Repeat("[", 300) + strings.Repeat("]", 300)},
	{"macros in macros", strings.Repeat("[1].map(x, ", 60) + "1" + strings.Repeat(")", 60)},
}

// compiles asks `tidewire validate` about an expression; a refusal has to come soon and cleanly.
func (b *bed) compiles(name, expression string) bool {
	b.t.Helper()
	file := filepath.Join(b.dir, "validate.yaml")
	y := connections("good") + anyone + fmt.Sprintf("routes: {one: {from: any, to: good, map: {x: %q}}}\n", expression)
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(y, "{sink}", b.sink.Address())), 0o600); err != nil {
		b.t.Fatal(err)
	}
	code, output, _ := b.exit(30*time.Second, b.bin, "validate", "--config", file)
	if code != 0 && code != 2 {
		b.fault("%s: validate ends with %d: %s", name, code, output)
	}
	return code == 0
}

func TestTortureHostileExpressions(t *testing.T) {
	t.Parallel()
	must(t, patiently(func() []string { return hostileExpressionsOn(t, hub) }))
}

// expressionCost is what one event and its expression cost a hub.
type expressionCost struct {
	cpu   time.Duration
	grown int64 // bytes of memory, at its most, beyond what the hub held before
}

// hostileExpressionsOn runs each expression on a large body in a hub that carries its neighbours' events meanwhile. Each ends; the hub's memory
// hardly grows beyond what such a body takes anyway; the neighbours get everything, in order.
//
// Processor time stands for time: the machine may be busy. An expression may take 300 ms, and so may what is read of it; 1 s is the bound, where without limits
// it would be minutes.
func hostileExpressionsOn(t *testing.T, bin string) []string {
	t.Helper()
	b := newBed(t, bin, map[string]load.Rule{"/good": {}, "/out": {}}, "")
	var y strings.Builder
	y.WriteString(connections("good", "out") + strings.Replace(anyone, "id: 'header", "type: 'header(\"X-Type\")', id: 'header", 1))
	y.WriteString("routes:\n  good: {from: stripe, to: good}\n  plain: {from: any, to: out, when: 'type == \"plain\" && size(body.text) > 0', map: {x: 'body.many.map(x, x + 1)'}}\n")
	running := 0
	for i, e := range hostileExpressions {
		if b.compiles(e.name, e.text) {
			running++
			fmt.Fprintf(&y, "  h%d: {from: any, to: out, when: 'type == \"h%d\"', map: {x: %q}}\n", i, i, e.text)
			fmt.Fprintf(&y, "  f%d: {from: any, to: out, when: %q}\n", i, fmt.Sprintf(`type == "f%d" && [%s].size() == 2`, i, e.text))
		}
	}
	if running < 20 {
		b.fault("only %d hostile expressions compile", running)
	}
	b.configure(y.String())
	child := b.start()
	g := b.generator("n")
	g.Rate = 100
	stop := b.background(g)
	body := []byte(`{"many":[` + strings.Repeat("1,", 2999) + `1],"text":"` + strings.Repeat("a", 900_000) + `"}`)
	n := 0
	run := func(kind string) expressionCost {
		n++
		return b.expression(child, kind, n, body)
	}
	// Such a body and a plain expression take memory too: first until the hub has what it gathers between two collections, then so much again.
	for range 20 {
		run("plain")
	}
	var base int64
	for range 5 {
		base = max(base, run("plain").grown)
	}
	var worst expressionCost
	for i, e := range hostileExpressions {
		if !strings.Contains(y.String(), fmt.Sprintf("  h%d: ", i)) || len(b.faults) > 3 {
			continue
		}
		for _, kind := range []string{"h", "f"} {
			cost := run(kind + strconv.Itoa(i))
			t.Logf("%s (%s): %s of processor time, %+d KiB", e.name, kind, cost.cpu, cost.grown>>10)
			if cost.cpu > time.Second {
				b.fault("%s: it took %s of processor time", e.name, cost.cpu)
			}
			if cost.grown > max(base, 0)+16<<20 {
				b.fault("%s: %s %d MiB", e.name, hubGrew, cost.grown>>20)
			}
			worst = expressionCost{max(worst.cpu, cost.cpu), max(worst.grown, cost.grown)}
		}
	}
	sent := stop()
	b.drained(30*time.Second, "good", "plain")
	b.check(sent, "/good", 0)
	tell(t, "hostile expressions", 2*running, "most processor time ms", worst.cpu.Milliseconds())
	tell(t, "hostile expressions", 2*running, "memory grown by a plain one KiB", base>>10)
	tell(t, "hostile expressions", 2*running, "memory grown MiB", worst.grown>>20)
	tell(t, "hostile expressions", 2*running, "neighbours' events", sent.Count(load.Accepted))
	b.stop(child)
	return b.faults
}

// expression posts the n-th event for a route and waits until it has an outcome there.
func (b *bed) expression(child *load.Child, route string, n int, body []byte) expressionCost {
	b.t.Helper()
	before, err := child.CPU()
	if err != nil {
		b.t.Fatal(err)
	}
	resident := b.resetPeak(child)
	began := time.Now()
	if code, _ := b.call("/in/any", body, map[string]string{"X-Token": anyToken, "X-Id": strconv.Itoa(n), "X-Type": route}); code != 200 {
		b.fault("the event for %s is answered %d", route, code)
		return expressionCost{}
	}
	settled := func() bool {
		m, err := b.metrics()
		sum := 0.0
		for _, outcome := range []string{"delivered", "dead", "filtered"} { // each event has one outcome on every route
			sum += m[`tidewire_deliveries_total{outcome="`+outcome+`",route="`+route+`"}`]
		}
		return err == nil && sum >= float64(n)
	}
	if !await(b.t, 20*time.Second, settled) {
		b.fault("the expression of %s has not ended after %s; the hub said %s", route, time.Since(began), b.said())
	}
	after, err := child.CPU()
	if err != nil {
		b.t.Fatal(err)
	}
	return expressionCost{cpu: after - before, grown: b.peak(child) - resident}
}

// resetPeak lets a hub's peak of memory begin anew, and returns what it holds now.
func (b *bed) resetPeak(child *load.Child) int64 {
	b.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", int(child.Process)), []byte("5"), 0); err != nil {
		b.t.Fatal(err)
	}
	m, err := child.Memory()
	if err != nil {
		b.t.Fatal(err)
	}
	return m.RSS
}

// peak is the most memory that a hub has held since resetPeak.
func (b *bed) peak(child *load.Child) int64 {
	b.t.Helper()
	m, err := child.Memory()
	if err != nil {
		b.t.Fatal(err)
	}
	return m.Peak
}
