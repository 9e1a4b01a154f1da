package pgstore_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/store/pgstore"
)

// TestRecallKnowsFirstBodies asks one hub what another has indexed, one at a time and together.
func TestRecallKnowsFirstBodies(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	a, b := openStore(t, c), openStore(t, c)
	if hashes, err := b.Recall(t.Context(), "shop", []string{"evt_0"}); err != nil || len(hashes) != 1 || hashes[0] != nil {
		t.Errorf("before there is any: %x, %v", hashes, err)
	}
	now := time.Now().Round(0)
	events := []pgstore.Indexed{indexed("evt_0", 2, 7, now.Add(-time.Hour), "elder"), indexed("evt_0", 2, 8, now, "younger")}
	for i := range int64(100) {
		events = append(events, indexed(fmt.Sprint("evt_", i+1), 0, i, now, fmt.Sprint("body ", i+1)))
	}
	if _, err := a.Index(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	hash := func(body string) []byte { h := sha256.Sum256([]byte(body)); return h[:] }
	hashes, err := b.Recall(t.Context(), "shop", []string{"evt_3", "nobody", "evt_0"})
	if err != nil || len(hashes) != 3 || !bytes.Equal(hashes[0], hash("body 3")) || hashes[1] != nil || !bytes.Equal(hashes[2], hash("elder")) {
		t.Errorf("several: %x, %v", hashes, err)
	}
	if hashes, err := b.Recall(t.Context(), "crm", []string{"evt_3"}); err != nil || len(hashes) != 1 || hashes[0] != nil {
		t.Errorf("of another connection: %x, %v", hashes, err)
	}
	var all sync.WaitGroup
	for i := range 101 {
		all.Go(func() {
			want := hash(fmt.Sprint("body ", i))
			if i == 0 {
				want = hash("elder")
			}
			hashes, err := b.Recall(t.Context(), "shop", []string{fmt.Sprint("evt_", i)})
			if err != nil || len(hashes) != 1 || !bytes.Equal(hashes[0], want) {
				t.Errorf("evt_%d: %x, %v", i, hashes, err)
			}
		})
	}
	all.Wait()
}
