package pipeline

import (
	"errors"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/internal/expression"
	"github.com/tidewire/tidewire/pipeline/mapping"
)

// Compile turns the config's routes into routes that can run: expressions compiled and checked, connections found to have the faces
// that the routes need. connections holds those that could be opened; a route that names another is left out
// without a word, because whoever could not open it has said why. All problems come back at once, as config.Problems.
func Compile(cfg *config.Config, env *expression.Env, connections map[string]connectors.Connection) ([]Route, error) {
	var routes []Route
	var problems []error
	for _, c := range cfg.Routes {
		r, err := compile(c, cfg.Root().Get("routes").Get(c.Name), env, connections)
		problems = append(problems, err)
		if err == nil && r.Target != nil {
			routes = append(routes, r)
		}
	}
	return routes, config.Join(problems...).Err()
}

func compile(c config.Route, at config.Node, env *expression.Env, connections map[string]connectors.Connection) (Route, error) {
	r := Route{
		Name: c.Name, From: c.From, To: c.To,
		Retry: Retry{
			Initial: c.Retry.Initial.Std(), MaxInterval: c.Retry.MaxInterval.Std(), Multiplier: c.Retry.Multiplier,
			Jitter: c.Retry.Jitter, MaxAge: c.Retry.MaxAge.Std(), MaxAttempts: c.Retry.MaxAttempts,
			MaxRetryAfter: c.Retry.MaxRetryAfter.Std(),
		},
		PerSecond: c.RateLimit.PerSecond(), Timeout: c.Timeout.Std(), Concurrency: c.Concurrency,
		FromEnd: c.Start == "now",
	}
	for _, d := range c.Retry.Schedule {
		r.Retry.Schedule = append(r.Retry.Schedule, time.Duration(d))
	}
	problems := []error{r.faces(at, connections)}
	if !c.When.IsZero() {
		r.WhenHidden = c.When.Expanded()
		var err error
		if r.When, err = env.Compile(c.When.Text, expression.Bool); err != nil {
			problems = append(problems, problemIn(c.When, err))
		}
	}
	if !c.Map.IsZero() {
		var err error
		if r.Map, err = mapping.Compile(env, c.Map); err != nil {
			problems = append(problems, err)
		}
	}
	return r, config.Join(problems...).Err()
}

// faces checks that the route's connections can do what it asks of them.
func (r *Route) faces(at config.Node, connections map[string]connectors.Connection) error {
	var problems []error
	for _, name := range r.From {
		connection, ok := connections[name]
		if _, receives := connection.(connectors.Receiver); ok && !receives {
			problems = append(problems, at.Get("from").Problem(
				fmt.Sprintf("connection %s takes no events: it has no webhook", name), "give it a webhook block, or take events from another connection"))
		}
	}
	connection, ok := connections[r.To]
	if !ok {
		return errors.Join(problems...)
	}
	target, sends := connection.(connectors.Target)
	if !sends {
		problems = append(problems, at.Get("to").Problem(
			fmt.Sprintf("connection %s cannot be sent to", r.To), "a target is a connection with an address, such as http with a url"))
	}
	r.Target = target
	return errors.Join(problems...)
}

// problemIn places the problems of an expression in the file.
func problemIn(e config.Expression, err error) error {
	bad, ok := errors.AsType[*expression.CompileError](err)
	if !ok {
		return e.Problem(0, 0, err.Error(), "")
	}
	var problems config.Problems
	for _, p := range bad.Problems {
		problems = append(problems, e.Problem(p.Line, p.Column, p.Message, ""))
	}
	return problems
}
