package pgstore_test

import (
	"testing"

	"github.com/tidewire/tidewire/internal/store/pgstore"
)

// What is written down is there for every hub, and of several that write first, one has the say.
func TestNotesAreShared(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	one, other := openStore(t, c), openStore(t, c)
	expect := func(s *pgstore.Store, want string) {
		t.Helper()
		if got, err := s.Note(t.Context(), "work"); got != want || err != nil {
			t.Errorf("the note is %q, %v, want %q", got, err, want)
		}
	}
	expect(one, "")
	for _, s := range []*pgstore.Store{one, other} {
		if got, err := s.FirstNote(t.Context(), "work", "first"); got != "first" || err != nil {
			t.Errorf("first is %q, %v", got, err)
		}
	}
	if got, err := other.FirstNote(t.Context(), "work", "second"); got != "first" || err != nil {
		t.Errorf("after the first came %q, %v", got, err)
	}
	if err := other.WriteNote(t.Context(), "work", "changed"); err != nil {
		t.Fatal(err)
	}
	expect(one, "changed")
	if err := one.RemoveNote(t.Context(), "work"); err != nil {
		t.Fatal(err)
	}
	expect(other, "")
}
