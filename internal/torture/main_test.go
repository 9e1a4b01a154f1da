package torture

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/services"
)

// The programs under test, built once by TestMain.
var (
	hub      string // as users get it
	armedHub string // with the tag "failpoints"
	root     string // of the module
	scratch  string // for what lives as long as the test process
	seed     uint64

	servers services.Shared // Kafka and PostgreSQL for the tests that do not harm them
)

// notShort are the tests that take longer than a developer wants to wait on each save; -short leaves them out, by name and in the open.
const notShort = "Mutant|DiskFull|HealthyTargets|Hostile|Parked|DeadFsync|BitFlips|DamagedNames|Schedule|Poison|Migration|CutAtEachByte|Oversized|Bombs|SlowCallers|SecretsStay|PowerCut|Cluster"

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() && flag.Lookup("test.skip").Value.String() == "" {
		if err := flag.Set("test.skip", notShort); err != nil {
			panic(err)
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	err := prepare()
	defer func() { _ = os.RemoveAll(scratch) }()
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		return 1
	}
	code := m.Run()
	servers.Close()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

func prepare() (err error) {
	if scratch, err = os.MkdirTemp("", "tidewire-torture-"); err != nil {
		return err
	}
	if root, err = filepath.Abs(filepath.Join("..", "..")); err != nil {
		return err
	}
	seed = uint64(time.Now().UnixNano())
	if text := os.Getenv("TIDEWIRE_TORTURE_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			return fmt.Errorf("TIDEWIRE_TORTURE_SEED: %w", err)
		}
	}
	if hub, err = build("hub"); err != nil {
		return err
	}
	armedHub, err = build("armed", "-tags", "failpoints")
	return err
}

// build makes a hub and returns where it is.
func build(name string, flags ...string) (string, error) {
	out := filepath.Join(scratch, name)
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), "./cmd/tidewire")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, text)
	}
	return out, nil
}

// long reports whether the long campaigns were asked for.
func long() bool { return os.Getenv("TIDEWIRE_TORTURE") == "full" }

// rounds is how often something is done: in a short, an everyday and a full run.
func rounds(short, everyday, full int) int {
	switch {
	case long():
		return full
	case testing.Short():
		return short
	}
	return everyday
}

// choices is a source of randomness of its own for each test, repeatable by the seed.
func choices(t *testing.T) *rand.Rand {
	var n uint64
	for _, c := range t.Name() {
		n = n*31 + uint64(c)
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, n))
}

// figure is one line of a full run's record.
type figure struct {
	Fault     string `json:"fault"`
	Runs      int    `json:"runs"`
	Invariant string `json:"invariant"`
	Value     any    `json:"value"`
	Seed      uint64 `json:"seed"`
}

// tell writes down what a campaign measured: to the test's log, and in a full run as JSON.
func tell(t *testing.T, fault string, runs int, invariant string, value any) {
	t.Helper()
	t.Logf("%s (%d): %s = %v", fault, runs, invariant, value)
	if long() {
		line, err := json.Marshal(figure{fault, runs, invariant, value, seed})
		if err != nil {
			t.Error(err)
		}
		fmt.Println(string(line))
	}
}

// must fails the test for each violation of a scenario that the hub has to pass.
func must(t *testing.T, faults []string) {
	t.Helper()
	for _, f := range faults {
		t.Error(f)
	}
}
