package pipeline

import (
	"testing"
	"time"
)

func TestRetryPlan(t *testing.T) {
	t.Parallel()
	growing := Retry{Initial: 5 * time.Second, Multiplier: 3, MaxInterval: time.Hour}
	listed := Retry{Schedule: []time.Duration{5 * time.Second, time.Minute, 10 * time.Minute}}
	for name, c := range map[string]struct {
		retry Retry
		want  []time.Duration
	}{
		"growing": {growing, []time.Duration{5 * time.Second, 15 * time.Second, 45 * time.Second, 135 * time.Second, 405 * time.Second, 1215 * time.Second, time.Hour, time.Hour}},
		"listed":  {listed, []time.Duration{5 * time.Second, time.Minute, 10 * time.Minute}},
		"half":    {Retry{Initial: time.Second, Multiplier: 1.5, MaxInterval: time.Minute}, []time.Duration{time.Second, 1500 * time.Millisecond, 2250 * time.Millisecond}},
	} {
		for parks, want := range c.want {
			if got := c.retry.planned(parks); got != want {
				t.Errorf("%s: wait %d is %s, want %s", name, parks, got, want)
			}
		}
		if got, want := c.retry.planned(1_000_000), c.retry.planned(60); got != want {
			t.Errorf("%s: the millionth wait is %s, want %s", name, got, want)
		}
	}
}

func TestRetryJitter(t *testing.T) {
	t.Parallel()
	r := Retry{Initial: 10 * time.Second, Multiplier: 3, MaxInterval: time.Hour, Jitter: 0.2}
	seen := map[time.Duration]bool{}
	for range 200 {
		d := r.wait(1, 0)
		if d < 24*time.Second || d > 36*time.Second {
			t.Fatalf("waited %s, want 30s give or take a fifth", d)
		}
		seen[d] = true
	}
	if len(seen) < 100 {
		t.Errorf("200 waits had only %d lengths", len(seen))
	}
}

func TestRetryAfterIsObeyedUpToItsCap(t *testing.T) {
	t.Parallel()
	r := Retry{Initial: time.Second, Multiplier: 2, MaxInterval: time.Hour, MaxRetryAfter: time.Hour}
	for asked, want := range map[time.Duration]time.Duration{
		0: time.Second, time.Millisecond: time.Second, time.Minute: time.Minute, 48 * time.Hour: time.Hour,
	} {
		if got := r.wait(0, asked); got != want {
			t.Errorf("asked to wait %s: waited %s, want %s", asked, got, want)
		}
	}
}

func TestRetrySpent(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := Delivery{Attempts: 5, Parks: 2, First: at}
	for name, c := range map[string]struct {
		retry Retry
		after time.Duration
		want  bool
	}{
		"young":           {Retry{MaxAge: time.Hour}, 59 * time.Minute, false},
		"too old":         {Retry{MaxAge: time.Hour}, time.Hour, true},
		"tries left":      {Retry{MaxAttempts: 6}, 0, false},
		"no tries left":   {Retry{MaxAttempts: 5}, 0, true},
		"waits left":      {Retry{Schedule: []time.Duration{1, 2, 3}}, 0, false},
		"no waits left":   {Retry{Schedule: []time.Duration{1, 2}}, 0, true},
		"no limits":       {Retry{}, 1000 * time.Hour, false},
		"clock went back": {Retry{MaxAge: time.Hour}, -24 * time.Hour, false},
	} {
		if got := c.retry.spent(d, at.Add(c.after)); got != c.want {
			t.Errorf("%s: spent is %v", name, got)
		}
	}
}
