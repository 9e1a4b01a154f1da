package config_test

import (
	"strings"
	"testing"

	"github.com/tidewire/tidewire/config"
)

// Each text holds one expression at key e with the letter X in it once: the place of X in the expression must map back
// to its place in the file.
func TestPlacesInsideExpressions(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"plain":                      "e: a + X",
		"plain, umlauts before":      `{ä: "ö", e: ü + X}`,
		"plain over lines":           "e: a +\n   b +\n\n     X",
		"single quotes with X":       `e: 'a == ''b'' && X'`,
		"single quotes over lines":   "e: 'a ==\n\n  ''b''\n  && X'",
		"double quotes":              `e: "a == \"b\" && X"`,
		"double quotes with escapes": `e: "\t\u00e9\x41\U0001F600 \\ X"`,
		"double quotes over lines":   "e: \"a\n  b \\\n   c\n  X\"",
		"double quotes with newline": `e: "a\nb\n X"`,
		"literal block":              "e: |\n  a &&\n    b &&\n\n  c && X\n",
		"literal block, stripped":    "e: |-\n\n\n    a\n      X",
		"literal block, indicator":   "e: |2\n    a\n   X\n",
		"folded block":               "e: >-\n  a &&\n  b\n\n  c && X\n",
		"folded block, deeper":       "e: >\n  a\n    b\n    c\n  X\n",
		"after a reference":          `e: a == "${env:WORD}" && X`,
		"after references":           `e: '${env:EMPTY}${env:WORD}$${ X ${env:WORD}'`,
		"reference in a block":       "e: |\n  a == '${env:WORD}'\n  && X",
		"windows lines":              "e: |\r\n  a\r\n  X\r\n",
		"in a list":                  "e:\n  - a\n  - b + X",
		"after a byte order mark":    "\uFEFFe: a + X",
	} {
		n, err := config.ParseNode("c.yaml", []byte(text), surroundings())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n = n.Get("e"); n.Kind() == config.List {
			n = n.Items()[1]
		}
		e := n.Expression()
		line, column, found := position(e.Text)
		if !found {
			t.Fatalf("%s: no X in %q", name, e.Text)
		}
		wantLine, wantColumn, _ := position(strings.ReplaceAll(strings.TrimPrefix(text, "\uFEFF"), "\r", ""))
		got := e.At(line, column)
		if got.Line != wantLine || got.Column != wantColumn {
			t.Errorf("%s: X at %d:%d of the expression is at %v, want %d:%d", name, line, column, got, wantLine, wantColumn)
		}
		p := e.Problem(line, column, "undeclared reference", "")
		if p.Line != wantLine || !strings.Contains(p.Source, "X") {
			t.Errorf("%s: the problem shows %q", name, p.Source)
		}
		equal(t, name+": a place past the end", e.At(99, 99).Line >= 1, true)
	}
}

func position(text string) (line, column int, found bool) {
	for i, l := range strings.Split(text, "\n") {
		if at := strings.Index(l, "X"); at >= 0 {
			return i + 1, len([]rune(l[:at])) + 1, true
		}
	}
	return 0, 0, false
}
