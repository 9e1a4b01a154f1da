package torture

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// edit replaces old by new wherever it stands in file.
type edit struct{ file, old, new string }

// mutant is a hub with one deliberate mistake.
type mutant struct {
	// In file, old is replaced by new wherever it stands; then the same with what is in also.
	file, old, new string
	also           []edit
	// caught is the scenario that has to find violations.
	caught func(t *testing.T, bin string) []string
}

var mutants = map[string]mutant{
	"answers before it is durable": {
		file: "webhooks/door.go",
		old:  "err := e.intake.Accept(ctx, events...)",
		new:  "var err error; go func() { _ = e.intake.Accept(context.WithoutCancel(ctx), events...) }()",
		caught: func(t *testing.T, bin string) []string {
			return dieAt(t, bin, "before-commit", 40, choices(t))
		},
	},
	"commits past what is unfinished": {
		file: "pipeline/sqlitelog/subscription.go",
		old:  "s.place.advance(s.l, s.order[0].r.offset)",
		new:  "s.place.advance(s.l, s.pos)",
		caught: func(t *testing.T, bin string) []string {
			return failedAmongSuccesses(t, alone(bin), 400)
		},
	},
	"settles before it sends": {
		file: "pipeline/deliver.go",
		old:  "failpoint.Hit(\"before-map\")",
		new:  "_ = r.settle(in, d, Outcome{State: Delivered, At: now()}); failpoint.Hit(\"before-map\")",
		caught: func(t *testing.T, bin string) []string {
			return dieAt(t, bin, "before-send", 30, choices(t))
		},
	},
	"does not ask the ledger": {
		file: "pipeline/route.go",
		old:  "standing, err := r.ledger.Admit(in.take, d)",
		new:  "standing, err := Unknown, error(nil)",
		caught: func(t *testing.T, bin string) []string {
			return campaign{bin: bin, ends: 4, rate: 2000}.run(t, choices(t))
		},
	},
	"does not keep keys in order": {
		file: "pipeline/route.go",
		old:  "return e.Key\n",
		new:  "return e.Key[:0]\n",
		caught: func(t *testing.T, bin string) []string {
			return campaign{bin: bin, ends: 3, fewKeys: true}.run(t, choices(t))
		},
	},
	"does not wait for what is under way when it stops": {
		file: "internal/app/hub.go",
		old:  "grace := h.plan.Config.Server.ShutdownTimeout.Std()",
		new:  "grace := time.Duration(0)",
		caught: func(t *testing.T, bin string) []string {
			return campaign{bin: bin, ends: 5, rate: 1500, graceful: true}.run(t, choices(t))
		},
	},
	"appends a dead letter after it is settled": {
		file: "pipeline/deliver.go",
		old:  "if o.State == Dead {\n\t\tfailpoint.Hit(\"before-dead-letter\")",
		new:  "if o.State == Dead {\n\t\tif err := r.ledger.Settle(ctx, d, o); err != nil {\n\t\t\treturn err\n\t\t}\n\t\tfailpoint.Hit(\"before-dead-letter\")",
		caught: func(t *testing.T, bin string) []string {
			return dieAt(t, bin, "before-dead-letter", 3, choices(t))
		},
	},
	"goes on after a failed fsync": {
		file:   "internal/sqlite/errors.go",
		old:    "return !isFull(err) && zsqlite.ErrCode(err).ToPrimary() == zsqlite.ResultIOErr",
		new:    "return err == nil",
		caught: deadFsync,
	},
	"takes what is written for what is on the disk": {
		file: "internal/sqlite/sqlite.go", old: "PRAGMA synchronous=FULL", new: "PRAGMA synchronous=NORMAL",
		caught: func(t *testing.T, bin string) []string { return powerCut(t, bin, "tidewire.db", 20) },
	},
	"takes a full disk for a broken one": {
		file:   "internal/sqlite/errors.go",
		old:    "return code.ToPrimary() == zsqlite.ResultFull || code == zsqlite.ResultIOErrSHMSize",
		new:    "return code == zsqlite.ResultIOErrSHMSize",
		caught: diskFull,
	},
	"does not check checksums": {
		file: "pipeline/sqlitelog/record.go",
		old:  "got != want {",
		new:  "got != want && false {",
		caught: func(t *testing.T, bin string) []string {
			return alteredBodies(t, bin, 3)
		},
	},
	"takes another body for a known event": {
		file:   "pipeline/intake.go",
		old:    "return bytes.Equal(stored.Payload, offered.Payload)",
		new:    "return true || bytes.Equal(stored.Payload, offered.Payload)",
		caught: func(t *testing.T, bin string) []string { return oneFactOneEvent(t, alone(bin)) },
	},
	"ignores Retry-After": {
		file:   "pipeline/retry.go",
		old:    "return max(d, min(asked, r.MaxRetryAfter))",
		new:    "return d",
		caught: func(t *testing.T, bin string) []string { return parkedThroughKill(t, alone(bin), 200) },
	},
	"ignores the lock on its data": {
		file:   "internal/sqlite/sqlite.go",
		old:    "if !got {",
		new:    "if !got && false {",
		caught: twoHubs,
	},
	"tells the whole address": {
		file:   "connectors/http/send.go",
		old:    "cmp.Or(s.Method, http.MethodPost), u.Scheme, u.Host)",
		new:    "cmp.Or(s.Method, http.MethodPost), u.Scheme, u.Host+u.String())",
		caught: secretsStaySecret,
	},
	"lets one target's failures stop all": {
		file: "pipeline/pipeline.go",
		old:  "p.rests[r.To]",
		new:  "p.rests[\"\"]",
		also: []edit{{"pipeline/resting.go", "c.ConsecutiveFailures >= restAfterFailures", "c.TotalFailures > 0"}},
		caught: func(t *testing.T, bin string) []string {
			return healthyTargets(t, alone(bin), rounds(500, 2000, 20_000))
		},
	},
	"lets an expression cost forty times as much": {
		file: "internal/expression/cost.go", old: "CostLimit = 500_000", new: "CostLimit = 20_000_000",
		caught: hostileExpressionsOn,
	},
	"unpacks a bomb to see how large it is": {
		file:   "webhooks/body.go",
		old:    "size, err := io.Copy(io.Discard, io.LimitReader(z, limit+1))",
		new:    "all, err := io.ReadAll(z); size := int64(len(all))",
		caught: bombs,
	},
	"has no end to what it reads of an answer": {
		file: "connectors/rest/wire.go",
		old:  "c.left = 2*p.max + maxHeader",
		new:  "p.max = 1 << 40; c.left = 1 << 41",
		caught: func(t *testing.T, bin string) []string {
			return hostileTargets(t, alone(bin), rounds(200, 1000, 5000), 256<<20)
		},
	},
}

// build makes the mutant. A mistake that can no longer be made is a failure: the test would prove nothing.
func (m mutant) build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	replace, texts := make(map[string]string), make(map[string]string)
	for i, e := range append([]edit{{m.file, m.old, m.new}}, m.also...) {
		file := filepath.Join(root, filepath.FromSlash(e.file))
		if texts[file] == "" {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts[file], replace[file] = string(text), filepath.Join(dir, strconv.Itoa(i)+".go")
		}
		if !strings.Contains(texts[file], e.old) {
			t.Fatalf("%s no longer holds %q: find the place where this mistake would be made now", e.file, e.old)
		}
		texts[file] = strings.ReplaceAll(texts[file], e.old, e.new)
		if err := os.WriteFile(replace[file], []byte(texts[file]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	bin, err := build("mutant-"+strings.ReplaceAll(t.Name(), "/", "-"), "-tags", "failpoints", "-overlay", overlay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(bin) })
	return bin
}

// TestTortureMutants: hubs that make one mistake each do not pass the scenario that is about it.
func TestTortureMutants(t *testing.T) {
	t.Parallel()
	for name, m := range mutants {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			faults := m.caught(t, m.build(t))
			if len(faults) == 0 {
				t.Errorf("a hub that %s passes", name)
				return
			}
			first, _, _ := strings.Cut(faults[0], "\n")
			t.Logf("seen: %.300s", first)
		})
	}
}
