package pipeline

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Retry says when a failed delivery is tried again and when it is given up. Built from the route's "retry" block,
// whose defaults are config's.
type Retry struct {
	// Initial is the first wait; each further one is Multiplier times longer, up to MaxInterval.
	Initial, MaxInterval time.Duration
	Multiplier           float64
	// Schedule replaces the growing waits by a list; when the list is used up the delivery is given up.
	Schedule []time.Duration
	// Jitter spreads each wait by up to this part of it, both ways: 0.2 is ±20 %.
	Jitter float64
	// MaxAge gives a delivery up when this much time has passed since its first attempt.
	MaxAge time.Duration
	// MaxAttempts gives a delivery up after so many tries; 0 is no limit.
	MaxAttempts int
	// MaxRetryAfter caps how long a target may ask to be left alone.
	MaxRetryAfter time.Duration
}

// wait is the pause after a delivery has been parked `parks` times before. asked is the target's own wish (Retry-After), obeyed up
// to the cap when it is longer than the schedule's wait.
func (r Retry) wait(parks int, asked time.Duration) time.Duration {
	d := r.planned(parks)
	if r.Jitter > 0 {
		d += time.Duration((rand.Float64()*2 - 1) * r.Jitter * float64(d))
	}
	return max(d, min(asked, r.MaxRetryAfter))
}

// planned is the schedule without jitter.
func (r Retry) planned(parks int) time.Duration {
	if n := len(r.Schedule); n > 0 {
		return r.Schedule[min(parks, n-1)]
	}
	b := backoff.ExponentialBackOff{
		InitialInterval: r.Initial,
		Multiplier:      r.Multiplier,
		MaxInterval:     r.MaxInterval,
		Stop:            backoff.Stop,
		Clock:           backoff.SystemClock,
	}
	b.Reset()
	d := b.NextBackOff()
	// The interval stops changing at its maximum: no need to count a delivery's thousandth wait.
	for i := 0; i < parks && d < r.MaxInterval; i++ {
		d = b.NextBackOff()
	}
	return d
}

// spent reports whether a delivery that has just failed has had its tries or its time.
func (r Retry) spent(d Delivery, now time.Time) bool {
	if r.MaxAttempts > 0 && d.Attempts >= r.MaxAttempts {
		return true
	}
	if n := len(r.Schedule); n > 0 && d.Parks >= n {
		return true
	}
	return r.MaxAge > 0 && now.Sub(d.First) >= r.MaxAge
}

// Quick tries: a failure that passes by itself (a connection that broke, a target that restarts) is not worth a park. They all happen
// while the key and a slot are held, so they are few and short.
const (
	quickTries  = 3
	quickWithin = 2 * time.Second
	quickFirst  = 100 * time.Millisecond
)

// quick returns the pauses between the tries of a delivery's first round, which began that long ago; backoff.Stop when it is over.
func quick(ago time.Duration) backoff.BackOff {
	if ago >= quickWithin {
		return &backoff.StopBackOff{}
	}
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(quickFirst),
		backoff.WithMultiplier(4),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxElapsedTime(quickWithin-ago),
	)
}
