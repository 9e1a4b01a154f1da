package torture

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// TestTortureExits: what is wrong with the config or around the hub ends it at once, with its own code and a reason.
func TestTortureExits(t *testing.T) {
	t.Parallel()
	b := newBed(t, hub, map[string]load.Rule{"/all": {}}, "")
	running := b.start()
	write := func(name, text string) string {
		path := filepath.Join(b.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := strings.Replace(string(good), b.data, filepath.Join(b.dir, "elsewhere"), 1)
	file := write("a-file", "")
	for name, c := range map[string]struct {
		config string
		code   int
		says   string
	}{
		"unknown key":    {write("unknown.yaml", string(good)+"conections: {}\n"), 2, "conections"},
		"no YAML":        {write("broken.yaml", "connections: ["), 2, "broken.yaml"},
		"no such file":   {filepath.Join(b.dir, "missing.yaml"), 2, "missing.yaml"},
		"port taken":     {write("taken.yaml", elsewhere), 3, "cannot listen on " + b.listen},
		"data is a file": {write("file.yaml", strings.NewReplacer(b.data, file, b.listen, "127.0.0.1:0", b.admin, "127.0.0.1:0").Replace(string(good))), 3, file},
	} {
		code, output, took := b.exit(5*time.Second, hub, "serve", "--config", c.config)
		if code != c.code || !strings.Contains(output, c.says) {
			b.fault("%s: exit %d, want %d with %q: %s", name, code, c.code, c.says, output)
		}
		if took > 3*time.Second {
			b.fault("%s: it took %s", name, took)
		}
	}
	b.stop(running)
	must(t, b.faults)
}
