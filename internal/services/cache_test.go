package services

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestADownloadIsMadeOnce has several want the same folder at once, with one that was left half full by a process that was killed.
func TestADownloadIsMadeOnce(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", base)
	half := filepath.Join(base, "tidewire", "kafka-0.part-1")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	var fills atomic.Int32
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			dir, err := cached(t.Context(), "kafka-0", func(dir string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(dir, "a.jar"), []byte("jar"), 0o600)
			})
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "a.jar")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if fills.Load() != 1 {
		t.Errorf("filled %d times", fills.Load())
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("what was left half full is there")
	}
}

func TestADownloadThatFailsLeavesNothing(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", base)
	broken := errors.New("no network")
	_, err := cached(t.Context(), "kafka-0", func(dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "a.jar"), []byte("j"), 0o600), broken)
	})
	left, _ := filepath.Glob(filepath.Join(base, "tidewire", "kafka-0*"))
	if !errors.Is(err, broken) || len(left) != 1 || filepath.Base(left[0]) != "kafka-0.lock" {
		t.Errorf("%v; left: %q", err, left)
	}
}

// TestWhatIsNotInstalledIsNamed looks for programs where there are none.
func TestWhatIsNotInstalledIsNamed(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	t.Setenv("JAVA_HOME", "")
	_, err := StartKafka(t.Context(), KafkaOptions{})
	if !errors.Is(err, ErrMissing) {
		t.Errorf("without Java: %v", err)
	}
	t.Setenv("JAVA_HOME", javaThatSays(t, "17.0.1"))
	if _, err = StartKafka(t.Context(), KafkaOptions{}); !errors.Is(err, ErrMissing) {
		t.Errorf("without Maven: %v", err)
	}
	for _, version := range []string{"1.8.0_402", "11.0.2"} {
		t.Setenv("JAVA_HOME", javaThatSays(t, version))
		if _, err := findJava(t.Context()); !errors.Is(err, ErrMissing) {
			t.Errorf("Java %s is good enough: %v", version, err)
		}
	}
	t.Setenv("JAVA_HOME", javaThatSays(t, "25"))
	if _, err := findJava(t.Context()); err != nil {
		t.Errorf("Java 25: %v", err)
	}
}

func javaThatSays(t *testing.T, version string) (home string) {
	t.Helper()
	home = t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho 'openjdk version \"" + version + "\" 2026-01-01' >&2\n"
	if err := os.WriteFile(filepath.Join(home, "bin", "java"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return home
}

// judge is a testing.TB that keeps how a test ended.
type judge struct {
	testing.TB
	verdict string
}

func (j *judge) Helper()              {}
func (j *judge) Skip(...any)          { j.end("skipped") }
func (j *judge) Skipf(string, ...any) { j.end("skipped") }
func (j *judge) Fatal(...any)         { j.end("failed") }
func (j *judge) end(verdict string)   { j.verdict = verdict; runtime.Goexit() }

// TestOnCINothingIsLeftOut holds what happens to a test whose server cannot be had.
func TestOnCINothingIsLeftOut(t *testing.T) {
	for _, c := range []struct {
		ci, want, short string
		err             error
	}{
		{"", "skipped", "skipped", ErrMissing},
		{"true", "failed", "skipped", ErrMissing},
		{"", "failed", "skipped", errors.New("it does not start")},
		{"true", "", "skipped", nil},
	} {
		t.Setenv("CI", c.ci)
		j := &judge{TB: t}
		var done sync.WaitGroup
		done.Go(func() { needed(j, func() (int, error) { return 1, c.err }) })
		done.Wait()
		if want := map[bool]string{false: c.want, true: c.short}[testing.Short()]; j.verdict != want {
			t.Errorf("CI=%q, %v: %q, want %q", c.ci, c.err, j.verdict, want)
		}
	}
}

func TestPortsAreNotGivenTwice(t *testing.T) {
	t.Parallel()
	first, err := freePorts(t.Context(), 50)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]bool)
	for _, p := range first {
		if seen[p] || p < 1024 || p >= 32_768 {
			t.Errorf("port %d", p)
		}
		seen[p] = true
	}
	if same, err := freePorts(t.Context(), 2, first[0], first[0]); err != nil || same[0] != first[0] || same[1] == first[0] {
		t.Errorf("preferred %d: %v, %v", first[0], same, err)
	}
}
