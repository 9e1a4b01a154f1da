package store

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	zsqlite "zombiezen.com/go/sqlite"

	"github.com/tidewire/tidewire/internal/sqlite"
)

// queries reads every query from the file they are in.
func queries(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "queries.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range v.Names {
			text, err := strconv.Unquote(v.Values[i].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			found[name.Name] = text
		}
		return true
	})
	if len(found) < 30 {
		t.Fatalf("found only %d queries", len(found))
	}
	return found
}

// SQLite numbers "$1" by where it first occurs, so the first occurrences must be in order, without gaps.
func TestParametersFirstOccurInOrder(t *testing.T) {
	t.Parallel()
	parameter := regexp.MustCompile(`\$(\d+)`)
	for name, text := range queries(t) {
		highest := 0
		for _, m := range parameter.FindAllStringSubmatch(text, -1) {
			n, err := strconv.Atoi(m[1])
			if err != nil || n > highest+1 {
				t.Errorf("%s: $%d occurs before $%d", name, n, highest+1)
			}
			highest = max(highest, n)
		}
	}
}

// What is asked often, or of a table that grows, must not read it all.
func TestQueriesUseIndexes(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "plan.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Open(t.Context(), Config{DB: db}); err != nil {
		t.Fatal(err)
	}
	// Small tables, or read once at the start, or an audit.
	whole := map[string]bool{
		"sqlRangeBefore": true, // sorts two rows; TestRangesAreSought looks at where they come from
		"sqlRoutes":      true, "sqlSources": true, "sqlPartitions": true, "sqlTallies": true, "sqlWithParked": true, "sqlParkedKeys": true, "sqlBalance": true,
	}
	all := queries(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		err := db.Read(t.Context(), func(conn *zsqlite.Conn) error {
			return query(conn, "EXPLAIN QUERY PLAN "+all[name], func(row *zsqlite.Stmt) error {
				step := row.ColumnText(3)
				if !whole[name] && (strings.HasPrefix(step, "SCAN ") && step != "SCAN CONSTANT ROW" || strings.Contains(step, "TEMP B-TREE")) {
					return fmt.Errorf("the plan has %q", step)
				}
				return nil
			})
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// At every start the end of each range is looked for: by seeks, also where there is no range before the one given. A comparison of pairs
// (route_id, partition_id) < (?, ?) bounds the search by its first half only and reads the rest of the route.
func TestRangesAreSought(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "plan.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Open(t.Context(), Config{DB: db}); err != nil {
		t.Fatal(err)
	}
	var reads []string
	err = db.Read(t.Context(), func(conn *zsqlite.Conn) error {
		return query(conn, "EXPLAIN QUERY PLAN "+sqlRangeBefore, func(row *zsqlite.Stmt) error {
			if step := row.ColumnText(3); strings.Contains(step, " deliveries") {
				reads = append(reads, step)
			}
			return nil
		})
	})
	want := []string{
		"SEARCH deliveries USING PRIMARY KEY (route_id=? AND partition_id<?)",
		"SEARCH deliveries USING PRIMARY KEY (route_id<?)",
	}
	if err != nil || !slices.Equal(reads, want) {
		t.Errorf("the ranges are read by %q, want %q (%v)", reads, want, err)
	}
}
