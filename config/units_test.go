package config_test

import (
	"encoding"
	"fmt"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
)

func TestDurations(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "500ms": 500 * time.Millisecond, "10s": 10 * time.Second, "1.5h": 90 * time.Minute, "1h30m": 90 * time.Minute,
		"7d": 7 * day, "1d12h": 36 * time.Hour, "2w": 14 * day, "1w1d1h1ms": 8*day + time.Hour + time.Millisecond, "106751d": 106751 * day,
	} {
		var d config.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.Std() != want {
			t.Errorf("%s: got %v (%v), want %v", text, d.Std(), err, want)
		}
		var again config.Duration
		if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
			t.Errorf("%s: printed as %s, which reads as %v (%v)", text, d, again, err)
		}
	}
	refused(t, new(config.Duration), "", "10", "-5s", "1d-5s", "-1d", "5x", "d", "1.5d", "1d2d", "1d2w", "d5s", "106752d", "106751d24h", "999999999999w", "9223372036854775808ns", "1 d", " 5s", "+5s ", "١s")
	equal(t, "days first", config.Duration(36*time.Hour+90*time.Second).String(), "1d12h1m30s")
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.Size{
		"0": 0, "4096": 4096, "1MiB": 1 << 20, "512KiB": 512 << 10, "2GiB": 2 << 30, "1TiB": 1 << 40, "1MB": 1e6, "500kB": 5e5, "1.5KiB": 1536, "1 MiB": 1 << 20, "7B": 7,
	} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: got %d (%v), want %d", text, s, err, want)
		}
		var again config.Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s: printed as %s, which reads as %d (%v)", text, s, again, err)
		}
	}
	refused(t, new(config.Size), "", "64K", "1mib", "-1", "-1MiB", "MiB", "1e3", "1..5KiB", "0x10", "9223372036854775808", "8388608TiB", "NaN", "InfB", "1 M iB")
}

func TestRates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"50/s": 50, "3000/m": 50, "3600/h": 1, "0.5/s": 0.5, "30 / min": 0.5, "1/second": 1, "1000000/s": 1e6} {
		var r config.Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r.PerSecond() != want {
			t.Errorf("%s: got %v (%v), want %v a second", text, r.PerSecond(), err, want)
		}
		var again config.Rate
		if err := again.UnmarshalText([]byte(r.String())); err != nil || again != r {
			t.Errorf("%s: printed as %s, which reads as %v (%v)", text, r, again, err)
		}
	}
	refused(t, new(config.Rate), "", "50", "/s", "0/s", "-1/s", "50/d", "1e3/s", "Inf/s", "NaN/s", "1000001/s", "50/s/s", "fifty/s")
	equal(t, "no rate", fmt.Sprint(config.Rate{}, config.Rate{}.PerSecond()), " 0")
}

func refused(t *testing.T, u encoding.TextUnmarshaler, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := u.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%T: %q was accepted as %v", u, text, u)
		}
	}
}
