package config_test

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/config"
)

var update = flag.Bool("update", false, "write what comes out as what is expected")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// surroundings are the environment and the files that test configs refer to.
func surroundings() config.Options {
	environment := map[string]string{"SET": "planted-secret", "EMPTY": "", "WORD": "planted-secret", "ZERO": "0", "PORT": "9090"}
	files := map[string]string{"/certs/hub.pem": "planted-secret\n", "/etc/hub/key": "from a file\r\n", "/etc/hub/open": "planted-secret"}
	modes := map[string]fs.FileMode{"/etc/hub/key": 0o600, "/etc/hub/open": 0o644}
	return config.Options{
		Getenv: func(name string) (string, bool) { v, ok := environment[name]; return v, ok },
		ReadFile: func(path string) ([]byte, error) {
			if text, ok := files[path]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("no such file or directory")}
		},
		Mode: func(path string) (fs.FileMode, error) { return modes[path], nil },
	}
}

// Each file in testdata/bad is named after its mistake and has beside it what a person is told.
func TestEveryMistakeIsToldExactly(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 45 {
		t.Fatalf("found %d bad configs (%v)", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Parse(filepath.Base(file), text, surroundings())
			if err == nil {
				t.Fatal("this config was accepted")
			}
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			for _, secret := range []string{"hunter2", "planted-secret", "31337"} {
				if strings.Contains(got, secret) {
					t.Errorf("a secret is shown:\n%s", got)
				}
			}
		})
	}
}
