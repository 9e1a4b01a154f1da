package kafkalog

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestOnlyACrowdWaitsForCompany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			took    time.Duration // by the request
			records int
			want    time.Duration
		}{{0, 1, 0}, {0, crowd - 1, 0}, {time.Millisecond, crowd, pace - time.Millisecond}, {pace, 100, 0}, {time.Second, 100, 0}} {
			began := time.Now()
			time.Sleep(c.took)
			before := time.Now()
			breathe(t.Context(), began, c.records)
			if got := time.Since(before); got != c.want {
				t.Errorf("after a request of %d that took %s: %s, want %s", c.records, c.took, got, c.want)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		if breathe(ended, began, 100); time.Since(began) != 0 {
			t.Error("whoever ends waits")
		}
	})
}
