package config

import (
	"errors"
	"fmt"
)

// Connection is one configured account of a connector. Everything but its name and connector is the connector's to decode.
type Connection struct {
	Name      string `yaml:",name"`
	Connector string `yaml:"connector,required" doc:"Which kind of system this is, such as stripe or http."`
	// Node holds the keys other than connector.
	Node Node `yaml:",rest"`
}

// Route is a named way from connections to a connection.
type Route struct {
	Name string   `yaml:",name"`
	From []string `yaml:"from,required,one" doc:"The connection whose events are taken, or a list of them."`
	// When is empty when every event is taken.
	When Expression `yaml:"when" doc:"CEL expression that is true for the events to take. Default: all."`
	// Map is zero when the body goes as it came.
	Map         Node     `yaml:"map" doc:"Shape of what is sent: a mapping or list whose every text is a CEL expression, or one expression. Default: the body as it came, byte for byte."`
	To          string   `yaml:"to,required" doc:"The connection that is sent to."`
	Retry       Retry    `yaml:"retry" doc:"When a failed delivery is tried again."`
	RateLimit   Rate     `yaml:"rate_limit" doc:"Most attempts per second, minute or hour, such as 50/s. Default: no limit."`
	Timeout     Duration `yaml:"timeout" default:"10s" range:"1ms..10m" doc:"How long one attempt may take."`
	Concurrency int      `yaml:"concurrency" default:"32" range:"1..4096" doc:"How many deliveries may be under way at once. Those with the same key never are."`
	Start       string   `yaml:"start" default:"now" enum:"now|beginning" doc:"Where a new route begins: with the events that come after it was added, or with the oldest the log still has."`
}

// Retry is the schedule of a route's attempts. A delivery is given up (a dead letter) when MaxAge or MaxAttempts is
// reached, or when Schedule is used up.
type Retry struct {
	Initial     Duration `yaml:"initial" default:"5s" range:"1ms..7d" doc:"Wait after the first failed attempt."`
	Multiplier  float64  `yaml:"multiplier" default:"3" range:"1..100" doc:"Each wait is this many times the one before; 1 keeps it constant."`
	MaxInterval Duration `yaml:"max_interval" default:"1h" range:"1ms..30d" doc:"Longest wait."`
	MaxAge      Duration `yaml:"max_age" default:"72h" range:"1ms..365d" doc:"How long after the first attempt a delivery is given up."`
	// Jitter is a share: a wait w becomes a random one between w-w*Jitter and w+w*Jitter.
	Jitter      float64 `yaml:"jitter" default:"0.2" range:"0..1" doc:"Share by which each wait is randomly made shorter or longer, so that failures do not come back all at once."`
	MaxAttempts int     `yaml:"max_attempts" range:"0..10000" doc:"Attempts before a delivery is given up; 0 (the default) leaves it to max_age."`
	// Schedule, when not empty, replaces Initial, Multiplier and MaxInterval.
	Schedule      []Duration `yaml:"schedule" range:"1ms..30d" doc:"The waits one by one instead of initial, multiplier and max_interval, such as [5s, 1m, 10m, 1h]. After the last the delivery is given up."`
	MaxRetryAfter Duration   `yaml:"max_retry_after" default:"1h" range:"0s..30d" doc:"Longest wait that a target can ask for with Retry-After; more counts as this."`
}

// Check sees to it that the times fit together.
func (r *Retry) Check() error {
	var errs []error
	if len(r.Schedule) > 100 {
		errs = append(errs, Fault{"schedule", fmt.Sprintf("%d waits", len(r.Schedule)), "at most 100; use initial, multiplier and max_interval for more"})
	}
	if len(r.Schedule) == 0 {
		if r.MaxInterval < r.Initial {
			errs = append(errs, Fault{"max_interval", fmt.Sprintf("the longest wait (%s) is shorter than the first (%s)", r.MaxInterval, r.Initial), "make max_interval at least as long as initial"})
		}
		if r.MaxAge < r.Initial {
			errs = append(errs, Fault{"max_age", fmt.Sprintf("deliveries are given up after %s, before the first retry at %s", r.MaxAge, r.Initial), "make max_age longer than initial"})
		}
	} else if r.MaxAge < r.Schedule[0] {
		errs = append(errs, Fault{"max_age", fmt.Sprintf("deliveries are given up after %s, before the first retry at %s", r.MaxAge, r.Schedule[0]), "make max_age longer than the first wait"})
	}
	return errors.Join(errs...)
}
