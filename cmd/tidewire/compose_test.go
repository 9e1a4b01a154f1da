package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composed is what the tests look at of deploy/compose.yaml.
type composed struct {
	Services map[string]struct {
		Image       string
		User        string
		Build       map[string]string
		Volumes     []string
		Ports       []string
		Healthcheck struct{ Test []string }
		Environment map[string]string
	}
	Volumes map[string]any
}

func compose(t *testing.T) (c composed, text string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(deploy, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c, string(data)
}

// TestComposeHoldsTogether looks at what only we know: that what is mounted is there, versions are fixed, nobody is root, and hubs get what their config asks for.
func TestComposeHoldsTogether(t *testing.T) {
	t.Parallel()
	c, _ := compose(t)
	for _, name := range []string{"kafka", "postgres", "hub-1", "hub-2", "prometheus", "grafana"} {
		if c.Services[name].Image == "" {
			t.Errorf("there is no service %s", name)
		}
	}
	pinned := regexp.MustCompile(`^[a-z/]+:v?\d+\.\d+(\.\d+)?$`)
	used := make(map[string]bool)
	for name, s := range c.Services {
		if len(s.Build) == 0 && (!pinned.MatchString(s.Image) || s.User == "" || s.User == "root" || len(s.Healthcheck.Test) == 0) {
			t.Errorf("%s: image %q without a version, user %q, or no healthcheck", name, s.Image, s.User)
		}
		for _, v := range s.Volumes {
			from, to, _ := strings.Cut(v, ":")
			if _, named := c.Volumes[from]; !named {
				if _, err := os.Stat(filepath.Join(deploy, from)); err != nil || !strings.HasPrefix(from, "./") || !strings.HasSuffix(to, ":ro") {
					t.Errorf("%s mounts %s, which is no volume, or not there, or can be written: %v", name, v, err)
				}
			}
			used[from] = true
		}
	}
	for name := range c.Volumes {
		if !used[name] {
			t.Errorf("nobody has the volume %s", name)
		}
	}
	config, err := os.ReadFile(filepath.Join(deploy, "cluster", "tidewire.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\$\{env:([A-Z_]+)`).FindAllStringSubmatch(string(config), -1) {
		for _, hub := range []string{"hub-1", "hub-2"} {
			if c.Services[hub].Environment[m[1]] == "" {
				t.Errorf("%s has no %s, which its config wants", hub, m[1])
			}
		}
	}
	scraped, err := os.ReadFile(filepath.Join(deploy, "prometheus", "prometheus.yaml"))
	if err != nil || !strings.Contains(string(scraped), `["hub-1:8081", "hub-2:8081"]`) || !strings.Contains(string(config), `admin: ":8081"`) {
		t.Errorf("Prometheus does not ask both hubs where they answer: %v", err)
	}
}

// TestComposeAsksForSecrets holds the example of an environment against the file: each secret has to be given, none has a default.
func TestComposeAsksForSecrets(t *testing.T) {
	t.Parallel()
	_, text := compose(t)
	var asked []string
	for _, m := range regexp.MustCompile(`\$\{([A-Z_]+)(:[?-])?`).FindAllStringSubmatch(text, -1) {
		if m[1] != "KAFKA_CLUSTER_ID" && m[2] != ":?" {
			t.Errorf("%s may be left out", m[1])
		}
		if m[2] == ":?" && !slices.Contains(asked, m[1]) {
			asked = append(asked, m[1])
		}
	}
	example, err := os.ReadFile(filepath.Join(deploy, "compose.env.example"))
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for line := range strings.Lines(string(example)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			named = append(named, name)
			if value != "" {
				t.Errorf("%s has a value in the example", name)
			}
		}
	}
	slices.Sort(asked)
	slices.Sort(named)
	if len(asked) == 0 || !slices.Equal(asked, named) {
		t.Errorf("asked for %q, the example has %q", asked, named)
	}
	if testing.Short() {
		return // what follows downloads a library
	}
	judge := func(path string, environment ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "-C", filepath.Join(deploy, "dev", "compose"), ".", path}, environment...)...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return ""
		}
		return string(out) + err.Error()
	}
	var given []string
	for _, name := range asked {
		given = append(given, name+"=something")
	}
	if said := judge("../../compose.yaml", given...); said != "" {
		t.Errorf("Docker Compose's own library refuses the file:\n%s", said)
	}
	for i, name := range asked {
		if said := judge("../../compose.yaml", slices.Delete(slices.Clone(given), i, i+1)...); !strings.Contains(said, name) {
			t.Errorf("without %s it says %q", name, said)
		}
	}
	broken := file(t, "compose.yaml", strings.Replace(text, "depends_on: [prometheus]", "depends_on: [nobody]", 1))
	if said := judge(broken, given...); !strings.Contains(said, "nobody") {
		t.Errorf("a service that depends on nobody is good enough: %q", said)
	}
}

// TestTheDashboardAsksForMetricsThatExist holds the names in Grafana's dashboard against a hub that runs, and those of cluster mode against the code.
func TestTheDashboardAsksForMetricsThatExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(deploy, "grafana", "dashboards", "tidewire.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title, Description string
			Datasource         struct{ UID string }
			Targets            []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(deploy, "grafana", "datasource.yaml"))
	if err != nil || len(dashboard.Panels) == 0 {
		t.Fatalf("%d panels, %v", len(dashboard.Panels), err)
	}
	e := expose(t)
	for _, p := range dashboard.Panels {
		if p.Description == "" || len(p.Targets) == 0 || !strings.Contains(string(source), "uid: "+p.Datasource.UID+" ") {
			t.Errorf("%s: no description, no query, or another data source %q", p.Title, p.Datasource.UID)
		}
		for _, q := range p.Targets {
			for _, name := range metricNames.FindAllString(q.Expr, -1) {
				name, _, _ = strings.Cut(name, "{") // the labels are Prometheus' own, too
				if _, ok := e.labels(name); !ok {
					t.Errorf("%s: a hub has no %s", p.Title, name)
				}
			}
		}
	}
}
