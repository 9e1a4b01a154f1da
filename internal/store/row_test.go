package store

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func FuzzClip(f *testing.F) {
	for _, seed := range []string{"", "plain", "\x00\x00", strings.Repeat("é", 40), "\xff\xfe\xfd", "a\xf0\x9f\x98", strings.Repeat("\xff", 64)} {
		f.Add(seed, 7)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		n &= 0xff
		got := Clip(s, n)
		if len(got) > n || !utf8.ValidString(got) || strings.Contains(got, "\x00") {
			t.Errorf("Clip(%q, %d) = %q", s, n, got)
		}
		if len(s) <= n && utf8.ValidString(s) && !strings.Contains(s, "\x00") && got != s {
			t.Errorf("Clip(%q, %d) = %q, though there was nothing to cut", s, n, got)
		}
	})
}

func TestTimesComeBack(t *testing.T) {
	t.Parallel()
	for _, want := range []time.Time{{}, time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC), time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got := Instant(Nanos(want)); !got.Equal(want) {
			t.Errorf("%s comes back as %s", want, got)
		}
	}
	if n := Nanos(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)); n != math.MaxInt64 {
		t.Errorf("the far future is %d", n)
	}
	if n := Nanos(time.Date(3, 1, 1, 0, 0, 0, 0, time.UTC)); n <= 0 || n > 10 {
		t.Errorf("the far past is %d, which is not a time that has come", n)
	}
}

// What the picture calls new must be new: marks may only be too many.
func TestMarksErrOnOneSide(t *testing.T) {
	t.Parallel()
	m := &marks{pages: make(map[int64]*[1 << pageBits / 64]uint64)}
	m.floor = 100
	marked := make(map[int64]bool)
	for i := range int64(3000) {
		offset := (i * 7919 * 997) % 5_000_000
		m.mark(offset)
		marked[offset] = true
		if len(m.pages) > maxPages {
			t.Fatalf("%d pages", len(m.pages))
		}
	}
	exact := 0
	for offset := range int64(5_000_000) {
		if marked[offset] && !m.has(offset) {
			t.Fatalf("%d was marked and is called new", offset)
		}
		if !marked[offset] && !m.has(offset) {
			exact++
		}
	}
	if exact < 200_000 {
		t.Errorf("only %d offsets are called new", exact)
	}
}
