package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/app"
)

func TestMigrateRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	embedded := archive(dir, "127.0.0.1:0")
	cluster := strings.Replace(embedded, "\nconnections:", "\ncluster: {kafka: {brokers: [127.0.0.1:1]}, postgres: \"postgres://tidewire:hunter2secret@127.0.0.1:1/tidewire\"}\nconnections:", 1)
	spoolless := strings.Replace(strings.Replace(cluster, fmt.Sprintf("data_dir: %q\n", dir), "", 1), "cluster: {", "cluster: {spool: {enabled: false}, ", 1)
	for name, c := range map[string]struct {
		config string
		args   []string
		code   int
		want   string
	}{
		"no cluster":   {embedded, nil, exitUsage, "has no cluster block"},
		"no data_dir":  {spoolless, []string{"--yes"}, exitEnvironment, "--data-dir"},
		"no file":      {cluster, []string{"--yes"}, exitEnvironment, "there is no " + filepath.Join(dir, "tidewire.db")},
		"other folder": {cluster, []string{"--yes", "--data-dir", dir + "/else"}, exitEnvironment, "there is no " + filepath.Join(dir, "else", "tidewire.db")},
	} {
		got := call(t, "", append([]string{"migrate", "to-cluster", "-c", file(t, "tidewire.yaml", c.config)}, c.args...)...)
		if got.code != c.code || !strings.Contains(lastLine(got.err), c.want) || got.out != "" {
			t.Errorf("%s: exit %d %q\n%s", name, got.code, got.out, got.err)
		}
		if strings.Contains(got.err, "hunter2secret") {
			t.Errorf("%s: the password is told", name)
		}
	}
	// A hub that has run there, and a cluster that is not there.
	h := start(t, "-c", file(t, "tidewire.yaml", embedded))
	path := file(t, "cluster.yaml", cluster)
	got := call(t, "", "migrate", "to-cluster", "--yes", "-c", path)
	if got.code != exitEnvironment || !strings.Contains(got.err, "in use by another process") {
		t.Errorf("while a hub runs: exit %d %s", got.code, got.err)
	}
	h.stop()
	got = call(t, "", "migrate", "to-cluster", "--yes", "-c", path)
	if got.code != exitEnvironment || !strings.Contains(lastLine(got.err), "cluster.postgres") || strings.Contains(got.err, "hunter2secret") {
		t.Errorf("without a cluster: exit %d %s", got.code, got.err)
	}
}

func TestMigrateAsks(t *testing.T) {
	t.Parallel()
	found := app.Move{File: "/data/tidewire.db", Target: "Kafka cluster X", Counts: []app.Count{{What: "events", Found: 7}}}
	for answer, begins := range map[string]bool{"y\n": true, "Yes\n": true, "y": true, "n\n": false, "\n": false, "": false} {
		var asked strings.Builder
		m := migration{in: strings.NewReader(answer), err: &asked}
		if err := m.confirm(found); (err == nil) != begins {
			t.Errorf("%q: %v", answer, err)
		}
		if !strings.HasPrefix(asked.String(), "Carry from /data/tidewire.db into Kafka cluster X:\n  7 events\nBegin? [y/N] ") {
			t.Errorf("it asks %q", asked.String())
		}
	}
}

func TestMigratePrintsItsCounts(t *testing.T) {
	t.Parallel()
	result := app.Move{File: "f", Target: "k", Finished: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Counts: []app.Count{
		{What: "ledger entries", Found: 1200, Carried: 1200}, {What: "events", Found: 10, Carried: 9, Damaged: 1, Repeated: 4},
	}}
	again := result
	again.Already = true
	half := result
	half.Finished = time.Time{}
	const table = `                found  carried  damaged  repeated
ledger entries  1200   1200     0        0
events          10     9        1        4
`
	for _, c := range []struct {
		m      migration
		result app.Move
		want   string
	}{
		{migration{}, result, table + "finished: hubs may start on the cluster\n"},
		{migration{}, again, table + "nothing left to do: finished at 2026-01-02T03:04:05Z\n"},
		{migration{}, half, table},
		{migration{quiet: true}, result, ""},
		{migration{asJSON: true}, app.Move{File: "f", Target: "k", Resumed: true, Counts: []app.Count{{What: "events", Found: 2, Carried: 1, Repeated: 3}}}, `{
  "file": "f",
  "target": "k",
  "resumed": true,
  "already": false,
  "counts": [
    {
      "what": "events",
      "found": 2,
      "carried": 1,
      "damaged": 0,
      "repeated": 3
    }
  ]
}
`},
	} {
		var out strings.Builder
		c.m.out = &out
		if err := c.m.print(c.result); err != nil || out.String() != c.want {
			t.Errorf("%v, printed\n%s\nwant\n%s", err, out.String(), c.want)
		}
	}
}
