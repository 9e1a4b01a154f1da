package torture

import (
	"strings"
	"testing"
)

// TestFindSearchesAllOfALargeText: the search for secrets misses no word, wherever it stands.
func TestFindSearchesAllOfALargeText(t *testing.T) {
	t.Parallel()
	const length = 3 << 20
	for _, at := range []int{0, 1<<20 - 5, 1<<20 - 1, 1 << 20, 2<<20 - 1030, length - 6} {
		text := strings.Repeat("x", at) + "secret" + strings.Repeat("y", length-at-6)
		n, found, err := find(strings.NewReader(text), []string{"other", "secret"})
		if err != nil || !strings.HasSuffix(found, `secret"`) || n <= int64(at) {
			t.Errorf("at %d: %d bytes, found %q, %v", at, n, found, err)
		}
	}
	n, found, err := find(strings.NewReader(strings.Repeat("sekret", length/6)), []string{"secret"})
	if n != length || found != "" || err != nil {
		t.Errorf("without it: %d bytes, found %q, %v", n, found, err)
	}
}
