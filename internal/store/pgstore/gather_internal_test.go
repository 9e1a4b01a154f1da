package pgstore

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// While much is going on batches are some time apart; a caller that comes alone goes at once.
func TestOnlyACrowdWaitsForCompany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const took = pace / 4
		var sizes []int
		var at []time.Duration
		start := time.Now()
		g := gather(1, 512, func(_ context.Context, batch []*call[int]) {
			sizes, at = append(sizes, len(batch)), append(at, time.Since(start))
			time.Sleep(took)
		})
		var all sync.WaitGroup
		come := func(n int) {
			for range n {
				all.Go(func() {
					if err := g.do(t.Context(), 0); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		come(1)     // goes at once
		come(crowd) // goes when the first is back
		time.Sleep(took + took/2)
		come(2) // waits for company
		time.Sleep(took)
		come(3) // is that
		all.Wait()
		come(1) // after a small one nobody waits
		all.Wait()
		g.close()
		want := []time.Duration{0, took, took + pace, took + pace + took}
		if len(at) != len(want) || sizes[0] != 1 || sizes[1] != crowd || sizes[2] != 5 || sizes[3] != 1 {
			t.Fatalf("batches of %v at %v, want 1, %d, 5 and 1 at %v", sizes, at, crowd, want)
		}
		for i := range want {
			if at[i] != want[i] {
				t.Errorf("batches of %v at %v, want at %v", sizes, at, want)
			}
		}
	})
}
