package main

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// clusterRooms are where the metrics are declared that only a hub in cluster mode has.
var clusterRooms = []string{"pipeline", "pipeline/kafkalog", "pipeline/spool", "internal/store/pgstore", "internal/app"}

// metricNames looks like the name of a metric, with its selector.
var metricNames = regexp.MustCompile(`\b(tidewire|process)_[a-z_]+(\{[^}]*\})?`)

// exposed knows the metrics of hubs: those of one that runs in embedded mode as it shows them, and those of cluster mode as the code declares them.
type exposed struct {
	metrics  string
	declared map[string][]string // by name, the labels that metrics in its file have
	texts    map[string]bool     // all that the code says in quotation marks: also the names that records have for what they bear
}

// expose starts a hub, has it refuse a call, and reads the code.
func expose(t *testing.T) exposed {
	t.Helper()
	h := start(t, "-c", file(t, "tidewire.yaml", archive(t.TempDir(), "127.0.0.1:0")))
	refused(t, h)
	code, metrics := get(t, "http://"+h.admin+"/metrics")
	if code != http.StatusOK {
		t.Fatalf("metrics: %d", code)
	}
	e := exposed{metrics, make(map[string][]string), make(map[string]bool)}
	for _, room := range clusterRooms {
		files, err := filepath.Glob(filepath.Join("..", "..", room, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", room, len(files), err)
		}
		for _, path := range files {
			if !strings.HasSuffix(path, "_test.go") {
				e.read(t, path)
			}
		}
	}
	return e
}

// labels are those of a metric, which may be asked for with a selector. ok is false when no hub has it.
func (e exposed) labels(asked string) (labels []string, ok bool) {
	found := seriesOf(e.metrics, asked)
	for _, line := range found {
		for _, m := range regexp.MustCompile(`([a-z]+)="`).FindAllStringSubmatch(line, -1) {
			labels = append(labels, m[1])
		}
	}
	name, _, _ := strings.Cut(asked, "{")
	for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
		if of, declared := e.declared[strings.TrimSuffix(name, suffix)]; declared && name == asked {
			return append(labels, of...), true
		}
	}
	return labels, len(found) > 0
}

// read notes the metrics that a file declares, with the labels that metrics in it have. A name is that of a collector's options, or the first argument of a
// function that makes the collector; of such a function's own, the first half may be said in it once and the second by its callers.
func (e exposed) read(t *testing.T, path string) {
	t.Helper()
	parsed, err := parser.ParseFile(gotoken.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names, halves, called, labels []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			e.texts[text(n)] = true
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Name" {
				names = append(names, text(n.Value))
				if sum, ok := n.Value.(*ast.BinaryExpr); ok {
					halves = append(halves, text(sum.X))
				}
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && f.Obj != nil && len(n.Args) > 0 {
				called = append(called, text(n.Args[0]))
			}
		case *ast.CompositeLit:
			if list, ok := n.Type.(*ast.ArrayType); ok && list.Len == nil {
				for _, element := range n.Elts {
					labels = append(labels, text(element))
				}
			}
		}
		return true
	})
	for _, half := range halves {
		for _, c := range called {
			names = append(names, half+c)
		}
	}
	for _, name := range append(names, called...) {
		if strings.HasPrefix(name, "tidewire_") {
			e.declared[name] = labels
		}
	}
}

// text is what a literal says; "" for anything else.
func text(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == gotoken.STRING {
		if s, err := strconv.Unquote(l.Value); err == nil {
			return s
		}
	}
	return ""
}

// TestOperationsExplainsTheMetrics holds the pages against the code: none names a metric that no hub has, and the table in docs/operations.md has all that a
// hub in either mode shows.
func TestOperationsExplainsTheMetrics(t *testing.T) {
	t.Parallel()
	e := expose(t)
	for _, page := range []string{"README.md", "docs/operations.md", "docs/architecture.md", "docs/decisions.md", "docs/reliability.md"} {
		data, err := os.ReadFile(filepath.Join("..", "..", page))
		if err != nil {
			t.Fatal(err)
		}
		if page == "docs/operations.md" {
			e.explainedBy(t, string(data))
		}
		for _, name := range regexp.MustCompile(`tidewire_[a-z_]+[a-z]\b`).FindAllString(string(data), -1) {
			if _, ok := e.labels(name); !ok && !e.begins(name) && !e.texts[name] {
				t.Errorf("%s: a hub has no %s", page, name)
			}
		}
	}
}

// explainedBy looks for each metric in a page.
func (e exposed) explainedBy(t *testing.T, page string) {
	t.Helper()
	for line := range strings.Lines(e.metrics) {
		if name, found := strings.CutPrefix(line, "# TYPE tidewire_"); found {
			e.declared["tidewire_"+strings.Fields(name)[0]] = nil
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.declared)) {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("docs/operations.md does not explain %s", name)
		}
	}
}

// begins reports whether a histogram has that name.
func (e exposed) begins(name string) bool { return strings.Contains(e.metrics, "\n"+name+"_bucket{") }
