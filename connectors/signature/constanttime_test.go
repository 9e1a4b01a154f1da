package signature_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// secretLike are names of values that prove something: comparing them must not tell by its time how much of a guess was right.
var secretLike = regexp.MustCompile(`(?i)^(secret|secrets|mac|sig|sigs|signature|token|password|digest|sum|hash|want|got|value|values|expected|presented|claimed|claim|tag|key|bytes|text|user|id|public|challenge)$`)

// harmless are comparisons of settings with themselves or with words of this package, each looked at by hand.
var harmless = map[string]string{
	`strings.TrimSpace(s.text) != s.text`:            "a setting's own white space, at start-up",
	`strings.EqualFold(value[:len(prefix)], prefix)`: "the word Basic",
	`rule != v.set.Key`:                              "a setting's word: utf8, hex or base64",
	`cmp.Compare(a.value, b.value)`:                  "putting a form's fields in order",
}

// TestOnlyConstantTimeComparisons reads this package's code for comparisons of secret-like values that are not made by crypto/subtle,
// hmac.Equal or a public key.
func TestOnlyConstantTimeComparisons(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	used := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range leakyComparisons(fset, file) {
			text := found[strings.Index(found, ": ")+2:]
			if harmless[text] != "" {
				used[text] = true
				continue
			}
			t.Errorf("%s\n\tcompare with same, hmac.Equal or crypto/subtle", found)
		}
	}
	for text := range harmless {
		if !used[text] {
			t.Errorf("%s is excused and not there", text)
		}
	}
}

// The reader itself finds what it is for, and leaves alone what is fine.
func TestLeakyComparisonsAreFound(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]int{
		`secret == c.token`: 1, `c.Body.sig != want`: 1, `bytes.Equal(mac, got)`: 1, `strings.EqualFold(x, k.Secret)`: 1, `slices.Contains(tokens, token)`: 1,
		`string(sum[:]) == other`: 1, `k.secret.Reveal() == x`: 1, `reflect.DeepEqual(digest, x)`: 1, `strings.HasPrefix(token, secret)`: 1,
		`m[0] == signature[0]`: 1, `f(func() bool { return password != x })`: 1,
		`secret == ""`: 0, `len(secret) == 3`: 0, `err != nil`: 0, `hmac.Equal(mac, want)`: 0, `same(token, secret)`: 0, `kind == "token"`: 0,
		`subtle.ConstantTimeCompare(mac, want) == 1`: 0, `sig == nil`: 0, `i == j`: 0,
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "x.go", "package x\nvar _ = "+code, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := leakyComparisons(fset, file); len(got) != want {
			t.Errorf("%s: %d findings %v, want %d", code, len(got), got, want)
		}
	}
}

func leakyComparisons(fset *token.FileSet, file *ast.File) []string {
	var found []string
	report := func(n ast.Node) {
		var b bytes.Buffer
		_ = printer.Fprint(&b, fset, n)
		found = append(found, fmt.Sprintf("%s: %s", fset.Position(n.Pos()), strings.Join(strings.Fields(b.String()), " ")))
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if (n.Op == token.EQL || n.Op == token.NEQ) && !constant(n.X) && !constant(n.Y) && (holdsSecret(n.X) || holdsSecret(n.Y)) {
				report(n)
			}
		case *ast.CallExpr:
			if leakyCall(n) {
				report(n)
			}
		case *ast.SwitchStmt:
			if n.Tag != nil && holdsSecret(n.Tag) {
				report(n.Tag)
			}
		case *ast.IndexExpr: // a map asked by a secret compares it
			if id, ok := n.Index.(*ast.Ident); ok && regexp.MustCompile(`(?i)secret|token|password|sig`).MatchString(id.Name) {
				report(n)
			}
		}
		return true
	})
	return found
}

// leakyCall reports a function that compares and may stop early, on something secret-like.
func leakyCall(n *ast.CallExpr) bool {
	sel, ok := n.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return false
	}
	leaky := map[string]string{
		"bytes": "Equal EqualFold Compare HasPrefix HasSuffix", "strings": "EqualFold Compare HasPrefix HasSuffix", "reflect": "DeepEqual",
		"slices": "Equal Compare Contains Index", "cmp": "Compare",
	}[pkg.Name]
	if leaky == "" || !strings.Contains(" "+leaky+" ", " "+sel.Sel.Name+" ") {
		return false
	}
	for _, a := range n.Args {
		if constant(a) {
			return false
		}
	}
	for _, a := range n.Args {
		if holdsSecret(a) {
			return true
		}
	}
	return false
}

// constant reports a literal, nil, or one of this package's own words: nothing to guess.
func constant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.Ident:
		return e.Name == "nil" || e.Name == "true" || e.Name == "false" || strings.HasPrefix(e.Name, "kind") || strings.HasPrefix(e.Name, "encoding")
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		return ok && (x.Name == "jwt" || x.Name == "ed25519")
	case *ast.UnaryExpr:
		return constant(e.X)
	}
	return false
}

// holdsSecret looks for a secret-like name in an expression, but not in lengths and not in the comparisons it is the result of.
func holdsSecret(e ast.Expr) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "len" || id.Name == "same" || id.Name == "constant") {
				return false
			}
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "ConstantTimeCompare" || sel.Sel.Name == "Equal" || sel.Sel.Name == "Size" || sel.Sel.Name == "IsZero") {
				return false
			}
		case *ast.BinaryExpr:
			return n.Op != token.EQL && n.Op != token.NEQ
		case *ast.FuncLit:
			return false
		case *ast.Ident:
			found = found || secretLike.MatchString(n.Name)
		}
		return true
	})
	return found
}
