package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// place is a folder with what the servers have and with what is known of their keeper.
type place struct{ dir string }

// state is what the keeper writes down: who it is at once, where the servers are when they answer.
type state struct {
	Process int      `json:"process"`
	Began   string   `json:"began"` // the kernel's word for when the process began: a number is given to another process one day
	Kafka   []string `json:"kafka,omitempty"`
	URL     string   `json:"postgres,omitempty"`
}

func placeAt(dir string) (place, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return place{}, err
	}
	return place{dir}, nil
}

func (p place) file(name string) string { return filepath.Join(p.dir, name) }
func (p place) lock() *flock.Flock      { return flock.New(p.file("lock")) }
func (p place) log() string             { return p.file("log") }

// elsewhere is a folder for PostgreSQL when this place is closed to it: the checkout of root, who it does not run as, lies in his home.
func (p place) elsewhere() string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(p.dir))
	return fmt.Sprintf("/var/tmp/tidewire-dev-%x", h.Sum64())
}

// write replaces the state as a whole, and the addresses for shells.
func (p place) write(s state) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if len(s.Kafka) > 0 {
		env := fmt.Sprintf("TIDEWIRE_KAFKA=%s\nTIDEWIRE_POSTGRES='%s'\n", s.Kafka[0], s.URL)
		if err := os.WriteFile(p.file("env"), []byte(env), 0o600); err != nil { //nolint:gosec // the folder is the caller's own
			return err
		}
	}
	if err := os.WriteFile(p.file("state.new"), text, 0o600); err != nil { //nolint:gosec // as above
		return err
	}
	return os.Rename(p.file("state.new"), p.file("state")) //nolint:gosec // as above
}

// read is the state; without a file an empty one.
func (p place) read() (s state, err error) {
	text, err := os.ReadFile(p.file("state")) //nolint:gosec // as above
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%s: %w", p.file("state"), err)
	}
	return s, nil
}

// clear forgets the keeper.
func (p place) clear() {
	_ = os.Remove(p.file("state")) //nolint:gosec // as above
	_ = os.Remove(p.file("env"))   //nolint:gosec // as above
}

// began is when a process began, in the kernel's ticks since the machine did; "" when there is no such process, or one that has ended
// and is not waited for by who started it.
func began(process int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process)) //nolint:gosec // a number
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19] // the 22nd of all (man 5 proc), the name and the number before it not counted
}
