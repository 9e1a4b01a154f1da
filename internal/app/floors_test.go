package app_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tidewire/tidewire"

// floors lists what each package of ours may import of ours. Imports run down only: a package stands below
// everything that lists it. A new package needs a line here, and a reason.
var floors = map[string][]string{
	// F1: nothing of ours, or other F1 rooms below them.
	"event":               {},
	"config":              {},
	"internal/failpoint":  {},
	"internal/sqlite":     {"internal/failpoint"},
	"internal/strictjson": {},
	"internal/expression": {"internal/strictjson"},

	// F2: the contract and the connectors. Never one another, never the log, never the store.
	"connectors":               {"event", "config"},
	"connectors/signature":     {"config"},
	"connectors/rest":          {"config", "connectors"},
	"connectors/connectortest": {"event", "config", "connectors"},
	"connectors/file":          {"event", "config", "connectors"},
	"connectors/http":          {"event", "config", "connectors", "connectors/rest", "connectors/signature", "internal/expression"},
	"connectors/stripe":        {"event", "config", "connectors", "connectors/rest", "connectors/signature", "internal/strictjson"},
	"connectors/all":           {"connectors", "connectors/file", "connectors/http", "connectors/stripe"},

	// F3: the ear and the heart.
	"webhooks":           {"event", "connectors", "internal/failpoint"},
	"pipeline/sqlitelog": {"internal/sqlite", "internal/failpoint"},
	"pipeline/kafkalog":  {"internal/failpoint"},
	"pipeline/spool":     {"pipeline/sqlitelog", "internal/sqlite"},
	"pipeline/mapping":   {"event", "config", "internal/expression"},
	"pipeline":           {"event", "config", "connectors", "internal/expression", "internal/failpoint", "pipeline/mapping", "pipeline/sqlitelog", "pipeline/kafkalog", "pipeline/spool"},

	// F4
	"internal/store":           {"event", "pipeline", "internal/sqlite", "internal/failpoint"},
	"internal/store/storetest": {"event", "pipeline", "internal/store"},
	"internal/store/pgstore":   {"event", "pipeline", "internal/store", "internal/failpoint"},
	"internal/admin":           {},
	"internal/load":            {"connectors/signature"},
	"internal/load/bench":      {"internal/load"},
	"internal/load/day":        {},
	"internal/app": {"event", "config", "connectors", "connectors/all", "webhooks", "pipeline", "pipeline/sqlitelog", "pipeline/kafkalog", "pipeline/spool",
		"pipeline/mapping", "internal/expression", "internal/sqlite", "internal/store", "internal/store/pgstore", "internal/admin"},

	// What tests and contributors start: real services, as processes.
	"internal/services":     {},
	"internal/services/dev": {"internal/services"},

	// F5. The crash tests are tests alone and meet the hub as its users do: as a process.
	"internal/torture": {},
	"cmd/tidewire":     {"config", "connectors", "connectors/all", "connectors/signature", "internal/app", "internal/load", "internal/load/bench", "internal/load/day"},
}

// watermillRooms are the only places that may know Watermill.
const watermillRooms = "pipeline"

type listed struct {
	ImportPath string
	Imports    []string
}

// TestFloors fails on an import that runs up or sideways, and on a package that has no floor.
func TestFloors(t *testing.T) {
	t.Parallel()
	for _, problem := range misplaced(list(t), floors) {
		t.Error(problem)
	}
}

// TestFloorsAreChecked shows that the check itself can fail.
func TestFloorsAreChecked(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]listed{
		"up":        {ImportPath: module + "/event", Imports: []string{module + "/pipeline"}},
		"sideways":  {ImportPath: module + "/connectors/http", Imports: []string{module + "/connectors/stripe"}},
		"unknown":   {ImportPath: module + "/helpers"},
		"watermill": {ImportPath: module + "/webhooks", Imports: []string{"github.com/ThreeDotsLabs/watermill/message"}},
	} {
		if got := misplaced([]listed{p}, floors); len(got) != 1 {
			t.Errorf("%s: got %q, want one problem", name, got)
		}
	}
}

func misplaced(packages []listed, floors map[string][]string) []string {
	var problems []string
	for _, p := range packages {
		room := strings.TrimPrefix(p.ImportPath, module+"/")
		allowed, ok := floors[room]
		if !ok {
			problems = append(problems, room+" has no floor: give it a line in floors_test.go, or do without it")
			continue
		}
		for _, i := range p.Imports {
			switch ours, found := strings.CutPrefix(i, module+"/"); {
			case found && !slices.Contains(allowed, ours):
				problems = append(problems, room+" may not import "+ours)
			case strings.HasPrefix(i, "github.com/ThreeDotsLabs/watermill") && room != watermillRooms && !strings.HasPrefix(room, watermillRooms+"/"):
				problems = append(problems, room+" may not know Watermill: "+i)
			}
		}
	}
	return problems
}

// list asks the go command, so that build tags and ignored files count as they do in a build.
func list(t *testing.T) []listed {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-tags", "failpoints", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
