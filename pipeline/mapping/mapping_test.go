package mapping_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/expression"
	"github.com/tidewire/tidewire/pipeline/mapping"
)

func env(t testing.TB) *expression.Env {
	t.Helper()
	e, err := expression.ForEvents()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func node(t testing.TB, yaml string) config.Node {
	t.Helper()
	n, err := config.ParseNode("map.yaml", []byte("map:\n"+yaml), config.Options{Getenv: func(name string) (string, bool) {
		return "geheim_" + strings.ToLower(name), name == "SHOP"
	}})
	if err != nil {
		t.Fatalf("%s: %v", yaml, err)
	}
	return n.Get("map")
}

func input(t testing.TB, body string) *expression.Input {
	t.Helper()
	b, err := expression.ParseBody([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return &expression.Input{
		Body: b, ID: "evt_1", Type: "invoice.paid", Source: "stripe", Subject: "in_1", Key: "cus_1",
		Time: time.Date(2024, 7, 25, 9, 33, 20, 123_000_000, time.UTC), Ext: map[string]string{"apiversion": "2024-06-20"},
	}
}

// Each file in testdata holds a map, a line of dashes, a body, a line of dashes, and what comes of it: the JSON, or the
// problems of the map, or after "error: " why it made nothing of this body.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	e := env(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split(string(text), "\n---\n")
			if len(parts) != 3 {
				t.Fatalf("%d parts", len(parts))
			}
			got := outcome(t, e, parts[0], strings.TrimSpace(parts[1]))
			if want := strings.TrimSuffix(parts[2], "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func outcome(t *testing.T, e *expression.Env, yaml, body string) string {
	t.Helper()
	m, err := mapping.Compile(e, node(t, yaml))
	if err != nil {
		if _, ok := errors.AsType[config.Problems](err); !ok {
			t.Errorf("a %T, not config.Problems", err)
		}
		return err.Error()
	}
	out, err := m.Run(t.Context(), input(t, body))
	if err != nil {
		return "error: " + err.Error()
	}
	if !json.Valid(out) {
		t.Errorf("not JSON: %s", out)
	}
	return string(out)
}

func TestNoMapIsNil(t *testing.T) {
	t.Parallel()
	for _, yaml := range []string{"", "  null"} {
		m, err := mapping.Compile(env(t), node(t, yaml))
		if m != nil || err != nil || m.NeedsBody() {
			t.Errorf("%q: %v, %v", yaml, m, err)
		}
	}
}

func TestNeedsBodyOnlyWhenAnExpressionLooksAtIt(t *testing.T) {
	t.Parallel()
	for yaml, want := range map[string]bool{"  a: id\n  b: 1": false, "  a: id\n  b: {c: [body.x]}": true} {
		m, err := mapping.Compile(env(t), node(t, yaml))
		if err != nil || m.NeedsBody() != want {
			t.Errorf("%s: %v, %v", yaml, m.NeedsBody(), err)
		}
	}
	m, _ := mapping.Compile(env(t), node(t, "  a: id"))
	if out, err := m.Run(t.Context(), &expression.Input{ID: "e1"}); err != nil || string(out) != `{"a":"e1"}` {
		t.Errorf("%s, %v", out, err)
	}
}

func TestMarkersFromOutsideTheFileAreNotInErrors(t *testing.T) {
	t.Parallel()
	_, err := mapping.Compile(env(t), node(t, "  a: ${env:SHOP}\n"))
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("compile: %v", err)
	}
	m, err := mapping.Compile(env(t), node(t, "  a: 'body[\"${env:SHOP}\"]'\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Run(t.Context(), input(t, `{"password":"plaintext"}`))
	if err == nil || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "plaintext") {
		t.Errorf("run: %v", err)
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	m, err := mapping.Compile(env(t), node(t, "  a: body.x\n  b: body.x\n  c: body.x\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Run(t.Context(), input(t, `{"x":"`+strings.Repeat("x", 400_000)+`"}`))
	if e, ok := errors.AsType[*mapping.Error](err); !ok || e.Path != "map.c" {
		t.Errorf("got %v", err)
	}
}

func TestTooManyLeaves(t *testing.T) {
	t.Parallel()
	_, err := mapping.Compile(env(t), node(t, "  ["+strings.Repeat("id,", mapping.MaxLeaves+1)+"]"))
	if err == nil || !strings.Contains(err.Error(), "1001 expressions") {
		t.Errorf("got %v", err)
	}
}

func TestDoneContextIsNoMappingError(t *testing.T) {
	t.Parallel()
	m, err := mapping.Compile(env(t), node(t, "  a: body.l.map(x, body.l.map(y, x + y))\n"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = m.Run(ctx, input(t, `{"l":[`+strings.Repeat("1,", 500)+`1]}`))
	if _, ok := errors.AsType[*mapping.Error](err); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzRun(f *testing.F) {
	e := env(f)
	for _, s := range []string{"  a: body.x", "  - body\n  - 0x1F", "  a: {b: [1.50, ~, true, 'time']}", "  body.?x", "  a: 'body.map(x, x)'"} {
		f.Add(s, `{"x":[1,{"y":2.50}]}`)
	}
	f.Fuzz(func(t *testing.T, yaml, body string) {
		n, err := config.ParseNode("fuzz.yaml", []byte("map:\n"+yaml), config.Options{Getenv: func(string) (string, bool) { return "", false }})
		if err != nil {
			return
		}
		m, err := mapping.Compile(e, n.Get("map"))
		if err != nil || m == nil {
			return
		}
		b, _ := expression.ParseBody([]byte(body))
		out, err := m.Run(t.Context(), &expression.Input{Body: b})
		if err == nil && (!json.Valid(out) || len(out) > mapping.MaxOutput+len(yaml)*2) {
			t.Errorf("%d bytes of %.200s", len(out), out)
		}
	})
}

const designMap = `
  invoice: body.data.object.id
  email: body.data.object.customer_email
  total: money(body.data.object.amount_paid, body.data.object.currency)
  lines: 'body.data.object.lines.data.map(l, {"sku": l.price.id, "qty": l.quantity})'
`

func BenchmarkMap(b *testing.B) {
	m, err := mapping.Compile(env(b), node(b, designMap))
	if err != nil {
		b.Fatal(err)
	}
	in := input(b, `{"data":{"object":{"id":"in_1PgZ2k","customer_email":"jenny.rosen@example.com","amount_paid":5997,"currency":"usd",
		"lines":{"data":[{"quantity":1,"price":{"id":"price_basic"}},{"quantity":2,"price":{"id":"price_extra"}}]}}}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Run(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}
