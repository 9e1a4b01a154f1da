package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/config"
)

func TestReferences(t *testing.T) {
	t.Parallel()
	environment := map[string]string{"A": "alpha", "EMPTY": "", "YAML": "x: [1, 2]\ny: *z", "NESTED": "${env:A}", "SPACE": "  a  "}
	files := map[string]string{"/one": "1\n", "/two": "1\n\n", "/dos": "1\r\n", "/none": "1"}
	o := config.Options{
		Getenv: func(name string) (string, bool) { v, ok := environment[name]; return v, ok },
		ReadFile: func(path string) ([]byte, error) {
			if text, ok := files[path]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		},
	}
	for text, want := range map[string]string{
		"${env:A}": "alpha", "<${env:A}|${env:A}>": "<alpha|alpha>", "${env:NONE:-d}": "d", "${env:EMPTY:-d}": "d", "${env:EMPTY}": "",
		"${env:NONE:-}": "", "${env:NONE:-a:-b}": "a:-b", "$${env:A}": "${env:A}", "$$${env:A}": "$${env:A}", "$${env:A}${env:A}$": "${env:A}alpha$",
		"$A $(A) {A} $": "$A $(A) {A} $", "${env:YAML}": environment["YAML"], "${env:NESTED}": "${env:A}", "${env:SPACE}": "  a  ",
		"${file:/one}": "1", "${file:/two}": "1\n", "${file:/dos}": "1", "${file:/none}": "1", "${file:/one}${file:/one}": "11",
	} {
		for _, quoted := range []string{"a: " + text, `a: "` + text + `"`, "a: '" + text + "'", "a: |-\n  " + text} {
			n, err := config.ParseNode("c.yaml", []byte(quoted), o)
			if err != nil {
				t.Errorf("%s: %v", quoted, err)
				continue
			}
			equal(t, quoted, n.Get("a").Value(), want)
			equal(t, quoted+" is a text", n.Get("a").Kind(), config.String)
		}
	}
}

func TestReferencesCannotGrowWithoutBound(t *testing.T) {
	t.Parallel()
	reads := 0
	o := config.Options{ReadFile: func(string) ([]byte, error) { reads++; return make([]byte, config.MaxFile), nil }}
	_, err := config.ParseNode("c.yaml", []byte(`a: "`+strings.Repeat("${file:/big}", 10_000)+`"`), o)
	if err == nil || !strings.Contains(err.Error(), "references in this file stand for more than 8MiB") {
		t.Errorf("got %v", err)
	}
	equal(t, "reads of one file", reads, 1)
	o.ReadFile = func(string) ([]byte, error) { return make([]byte, config.MaxFile+1), nil }
	_, err = config.ParseNode("c.yaml", []byte(`a: ${file:/bigger}`), o)
	if err == nil || !strings.Contains(err.Error(), "the file /bigger cannot be read: it has more than 1 MiB") {
		t.Errorf("got %v", err)
	}
}

// The operating system's own files: what may be read, and whose modes matter.
func TestSecretFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("hush\n"), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("mounted/..data/key", 0o644)
	mounted := filepath.Join(dir, "mounted/key")
	if err := os.Symlink("..data/key", mounted); err != nil {
		t.Fatal(err)
	}
	for path, warned := range map[string]bool{
		write("own", 0o600): false, write("readonly", 0o400): false, write("group", 0o640): false, write("group-writes", 0o660): true,
		write("world", 0o644): true, mounted: false,
	} {
		c, err := config.Parse("c.yaml", []byte("connections:\n  shop: {connector: http, key: \"${file:"+path+"}\"}\nroutes: {a: {from: shop, to: shop}}\n"), config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var s struct {
			Key config.Secret `yaml:"key"`
		}
		if err := c.Connections[0].Node.Decode(&s); err != nil {
			t.Fatal(err)
		}
		equal(t, path, s.Key.Reveal(), "hush")
		equal(t, path+" is warned of", len(c.Warnings()) == 1, warned)
	}
	for path, want := range map[string]string{dir: "it is a directory", "/dev/zero": "it is not a regular file", filepath.Join(dir, "none"): "no such file or directory"} {
		_, err := config.ParseNode("c.yaml", []byte("a: ${file:"+path+"}"), config.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tidewire.yaml")
	if err := os.WriteFile(path, []byte("connections:\n  shop: {connector: http}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path, config.Options{})
	if err != nil || c.File != path {
		t.Fatalf("got %v, %v", c, err)
	}
	connection, found := c.Connection("shop")
	equal(t, "connection", connection.Connector, "http")
	equal(t, "found", found, true)
	_, found = c.Connection("nope")
	equal(t, "not found", found, false)

	c, err = config.Load(path+".none", config.Options{})
	if c != nil || err == nil || !strings.Contains(err.Error(), "the file cannot be read: no such file or directory") {
		t.Errorf("got %v, %v", c, err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("#", config.MaxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = config.Load(path, config.Options{}); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("got %v", err)
	}
}
