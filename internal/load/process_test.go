package load_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const good = "4242 (tide) wire (x)) S 1 4242 4242 0 -1 4194560 2500 0 0 0 731 269 5 6 20 0 9 0 1234 0 0\n"
	got, err := load.ParseStat([]byte(good))
	if err != nil || got != 10*time.Second {
		t.Errorf("%s, %v, want 10 s", got, err)
	}
	for _, bad := range []string{"", "4242 (x) S 1 2", strings.Replace(good, "731", "many", 1)} {
		if _, err := load.ParseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	const good = "Name:\ttidewire\nVmPeak:\t 99 kB\nVmHWM:\t   81920 kB\nVmRSS:\t   40960 kB\nThreads:\t9\n"
	got, err := load.ParseStatus([]byte(good))
	if err != nil || got.RSS != 40<<20 || got.Peak != 80<<20 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "VmRSS:\t1 kB\n", "VmRSS:\tx kB\nVmHWM:\t1 kB\n"} {
		if _, err := load.ParseStatus([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestProcessMeasuresThisProcess(t *testing.T) {
	t.Parallel()
	p := load.Process(os.Getpid())
	before, err := p.CPU()
	if err != nil {
		t.Fatal(err)
	}
	for x, begin := 1, time.Now(); ; x++ { // use time until it shows; the test's own bound ends it if it never does
		if x%1_000_000 != 0 {
			continue
		}
		now, err := p.CPU()
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("ten busy seconds used no time")
		}
	}
	m, err := p.Memory()
	if err != nil || m.RSS < 1<<20 || m.Peak < m.RSS {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := load.Process(1 << 30).CPU(); err == nil {
		t.Error("a process that does not exist was measured")
	}
}

func TestStartSaysWhyAProcessIsNotReady(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]load.Command{
		"ended before it was ready": {Args: []string{"sh", "-c", "echo the port is taken; exit 3"}},
		"not ready at":              {Args: []string{"sh", "-c", "echo the port is taken; exec sleep 60"}, Within: 200 * time.Millisecond},
	} {
		c.Output = filepath.Join(t.TempDir(), "out")
		c.ReadyURL = "http://" + closedAddress(t) + "/readyz"
		_, err := load.Start(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "the port is taken") {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := load.Start(t.Context(), load.Command{Args: []string{"/nowhere/x"}, Output: os.DevNull}); err == nil {
		t.Error("a program that does not exist was started")
	}
}
