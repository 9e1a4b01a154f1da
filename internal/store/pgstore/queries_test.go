package pgstore_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/pipeline"
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
	if len(found) < 40 {
		t.Fatalf("found only %d queries", len(found))
	}
	return found
}

// What is asked often, or of a table that grows, must not read it all: a plan made while a table is empty is kept when it has grown.
func TestQueriesUseIndexes(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := openStore(t, c)
	mustSettle(t, s, dealt("", 1), outcome(pipeline.Delivered))
	// Small tables, removal in pieces, or audits; and the list of the latest, which is for people.
	whole := map[string]bool{
		"sqlServer": true, "sqlRoutes": true, "sqlSources": true, "sqlPartitions": true, "sqlBalance": true, "sqlForget": true, "sqlForgetIndex": true,
		"sqlLeases": true, "sqlExpireHubs": true, "sqlOtherHub": true, "sqlHubs": true, "sqlCount": true,
		"sqlParkedDeliveries": true, "sqlDeadDeliveries": true, // by number from the end, as many as asked for
	}
	parameter := regexp.MustCompile(`\$(\d+)`)
	all := queries(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		highest := 0
		for _, m := range parameter.FindAllStringSubmatch(all[name], -1) {
			n, _ := strconv.Atoi(m[1])
			highest = max(highest, n)
		}
		nulls := "(" + strings.TrimSuffix(strings.Repeat("NULL,", highest), ",") + ")"
		if highest == 0 {
			nulls = ""
		}
		plan := s.Explain(t.Context(), all[name], nulls)
		if !strings.Contains(plan, "cost=") {
			t.Errorf("%s: %s", name, plan)
		}
		for line := range strings.Lines(plan) {
			if !whole[name] && (strings.Contains(line, "Seq Scan") || strings.Contains(line, "Hash Join") || strings.Contains(line, "Merge Join")) {
				t.Errorf("%s: the plan has %s", name, strings.TrimSpace(line))
			}
		}
	}
}

// The other hub's names are known as one's own.
func TestNamesOfAnotherHub(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	a, b := openStore(t, c), openStore(t, c)
	settled, parked := dealt("", 1), dealt("k", 2)
	mustSettle(t, a, settled, outcome(pipeline.Delivered))
	mustSettle(t, a, parked, outcome(pipeline.Parked))
	expectStanding(t, b, settled, pipeline.Settled)
	expectStanding(t, b, parked, pipeline.Held)
	parked.At.Offset, parked.Event.ID = 3, "evt_3"
	expectStanding(t, b, parked, pipeline.Behind)
	other := dealt("", 4)
	other.Route, other.At.Partition = "ledger", 9
	mustSettle(t, a, other, outcome(pipeline.Parked))
	ds, err := b.Due(t.Context(), outcome(pipeline.Parked).At, map[string]int{"ledger": 5}, 0)
	if err != nil || len(ds) != 1 || ds[0].Route != "ledger" || ds[0].At != other.At {
		t.Errorf("due are %+v, %v", ds, err)
	}
	if n, err := b.Count(t.Context()); err != nil || n["ledger"].Parked != 1 {
		t.Errorf("counted %v, %v", n, err)
	}
}
