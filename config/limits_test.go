package config_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/config"
)

// Files made to cost more than they weigh are refused, and refusing them costs little.
func TestBombsAreRefusedCheaply(t *testing.T) {
	const n = config.MaxFile
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'z'; c++ {
		laughs += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	for name, bomb := range map[string]struct{ text, want string }{
		"one byte too many":    {strings.Repeat("#", n+1), "more than 1048576 bytes"},
		"aliases of aliases":   {laughs, "a YAML alias or anchor"},
		"an alias of itself":   {"a: &a [*a]", "a YAML alias or anchor"},
		"many anchors":         {"a: [" + strings.Repeat("&a b,", 10_000) + "]", "a YAML alias or anchor"},
		"many tags":            {"a: [" + strings.Repeat("!!x b,", 10_000) + "]", "a YAML tag"},
		"many merge keys":      {"a: {" + strings.Repeat("<<: b,", 10_000) + "}", "a YAML merge key"},
		"a list of a million":  {"a: [" + strings.Repeat("a,", n/2-10) + "]", "more than 100000 parts"},
		"a million keys":       {strings.Repeat("a:\n", n/3), "more than 100000 parts"},
		"brackets":             {strings.Repeat("[", n), "more than 100000 parts"},
		"fewer brackets":       {strings.Repeat("[", 50_000), "nested deeper than 64 levels"},
		"closed brackets":      {"a: " + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000), "nested deeper than 64 levels"},
		"dashes":               {strings.Repeat("- ", 5_000), "nested deeper than 64 levels"},
		"question marks":       {strings.Repeat("? ", 5_000), "a key that is a list or a mapping"},
		"documents":            {strings.Repeat("---\n", 10_000), "a second YAML document"},
		"references":           {`a: "` + strings.Repeat("${env:NONE}", 15_000) + `"`, "the environment variable NONE is not set"},
		"unknown keys":         {"server: {" + numbered(10_000) + "}", "too many mistakes: the rest is not listed"},
		"the same key":         {strings.Repeat("a: 1\n", 10_000), "too many mistakes: the rest is not listed"},
		"a line of a mebibyte": {"server: {listen: 1, x: " + strings.Repeat("a", n-100) + "}", "want a text, got a whole number"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := config.Parse("c.yaml", []byte(bomb.text), surroundings())
		runtime.ReadMemStats(&after)
		switch {
		case err == nil:
			t.Errorf("%s: accepted", name)
		case !strings.Contains(err.Error(), bomb.want):
			t.Errorf("%s: got %.200s, want %q", name, err, bomb.want)
		case len(err.Error()) > 200_000:
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
		// All that was ever allocated, freed or not: the live heap is a fraction of it.
		if spent := (after.TotalAlloc - before.TotalAlloc) >> 20; spent > 64 {
			t.Errorf("%s: cost %d MiB", name, spent)
		}
	}
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: 1,", i)
	}
	return b.String()
}

// A config as large as they come is read.
func TestALargeConfigIsAccepted(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("connections:\n  shop: {connector: http}\nroutes:\n")
	const routes = 3000
	for i := range routes {
		fmt.Fprintf(&b, "  route-%d:\n    from: shop\n    to: shop\n    when: type == \"invoice.paid\" && body.data.object.amount_paid > %d # some words about why\n    map:\n      id: body.data.object.id\n      total: money(body.data.object.amount_paid, body.data.object.currency)\n", i, i)
	}
	c := parse(t, b.String())
	equal(t, "routes", len(c.Routes), routes)
	equal(t, "the last", c.Routes[routes-1].When.Line, 4+7*(routes-1)+3)
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"connections:\n  shop: {connector: http}\n", "a: &a [*a]", "? [a]\n: b", "{\"a\": \"\\ud83d\\/\"}", "a: \"${env:SET}${file:/etc/hub/key}\"", "a: |2\n   b\n",
		"\uFEFF# x\n---\na: 'b\n\n  c'\n...\n", "a: \"b\\\n  c\"", "routes:\n  a: {from: [b], to: c, when: >-\n    x\n}", "server: {listen: 1", "a:\t1", "\r\na: 1\r\n",
		"cluster: {kafka: {brokers: [a]}, postgres: ${env:SET}}", "- ", "!!binary aGk=", "<<: {a: b}", "a: ${", "%YAML 1.2\n---\na: 1", "a: 0x1F", "api_key: hunter2 # secret",
	} {
		f.Add([]byte(text))
	}
	type settings struct {
		Secret  config.Secret            `yaml:"secret"`
		Secrets []config.Secret          `yaml:"secrets,one"`
		Map     map[string]config.Secret `yaml:"map"`
		URL     string                   `yaml:"url"`
		Count   int                      `yaml:"count" range:"1..9"`
		When    config.Expression        `yaml:"when"`
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := config.Parse("c.yaml", text, surroundings())
		errs := []error{err}
		for _, connection := range c.Connections {
			errs = append(errs, connection.Node.Decode(&settings{}))
		}
		for _, route := range c.Routes {
			for i := range 5 {
				if at := route.When.At(1, 1+7*i); at.Line < 0 || at.Line > strings.Count(string(text), "\n")+1 {
					t.Errorf("a place outside of the file: %v", at)
				}
			}
			walk(route.Map)
		}
		problems := config.Join(append(errs, c.Warnings().Err(), c.Embedded())...)
		if strings.Contains(problems.Error(), "planted-secret") {
			t.Errorf("a secret is shown: %v", problems)
		}
		for _, p := range problems {
			if p.Message == "" || p.Line < 0 || p.Line > strings.Count(string(text), "\n")+1 {
				t.Errorf("a problem without words or outside of the file: %+v", p)
			}
		}
		if again := config.Join(problems); len(again) != len(problems) {
			t.Errorf("joined again, %d problems are %d", len(problems), len(again))
		}
	})
}

func walk(n config.Node) {
	_ = n.Problem(n.Value(), "").Error()
	for _, f := range n.Fields() {
		walk(f.Value)
	}
	for _, item := range n.Items() {
		walk(item)
	}
}
