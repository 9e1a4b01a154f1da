package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/all"
	"github.com/tidewire/tidewire/connectors/signature"
)

// judge is who judges a captured request: a verifier, and what is known of the connection it belongs to.
type judge struct {
	verifier *signature.Verifier
	// connection is its name; "" where a scheme was named instead.
	connection string
	// methods are those that the connection's deliveries come by; nil without a connection.
	methods []string
}

// explain judges a request as the hub does: the method first, then a handshake, then the signature.
func (j judge) explain(c signature.Request) signature.Explanation {
	x := j.verifier.Explain(c)
	var before []signature.Step
	if j.connection != "" {
		before = append(before, signature.Step{Name: "connection", OK: true, Text: fmt.Sprintf("%s verifies by scheme %s", j.connection, x.Scheme)})
	}
	_, greeting := j.verifier.Greet(c, false)
	switch {
	case greeting && (!x.Accepted || c.Method != http.MethodPost):
		before = append(before, signature.Step{Name: "handshake", OK: true, Text: "the provider tests the address: the hub answers that without a signature, and stores nothing"})
		x.Accepted, x.Code, x.Reason, x.Steps, x.Hints = true, "", "", nil, nil
	case j.methods != nil && !slices.Contains(j.methods, c.Method):
		reason := fmt.Sprintf("deliveries come by %s, and this is a %s", strings.Join(j.methods, ", "), c.Method)
		hint := "the hub answers 405 before it looks at the signature"
		if j.verifier.Delivers(c.Method) == nil {
			hint += fmt.Sprintf("; to take it, add %s to webhook.methods of connection %s", c.Method, j.connection)
		}
		x.Accepted, x.Code, x.Reason = false, signature.Method, reason
		before = append(before, signature.Step{Name: "method", Text: fmt.Sprintf("%s (%s)", reason, signature.Method)})
		x.Hints = append([]string{hint}, x.Hints...)
	case j.methods != nil:
		before = append(before, signature.Step{Name: "method", OK: true, Text: c.Method})
	}
	if door := "/in/" + j.connection; j.connection != "" && !x.Accepted && path(c.URL) != door {
		x.Hints = append(x.Hints, fmt.Sprintf("the request was sent to another path than %s: is it this connection's?", door))
	}
	x.Steps = append(before, x.Steps...)
	return x
}

// path is a request's target without its query.
func path(target string) string {
	p, _, _ := strings.Cut(target, "?")
	return p
}

// configured is the judge of a connection in a config. Only what is wrong with that connection counts: the secrets of the
// others need not be at hand where a request is looked at.
func configured(file, name string) (judge, error) {
	if file == "-" {
		return judge{}, usageError{errors.New("--config - and the request cannot both be standard input; name the config's file")}
	}
	cfg, err := config.Load(file, config.Options{})
	problems, invalid := errors.AsType[config.Problems](err)
	if cfg == nil || err != nil && !invalid {
		return judge{}, err
	}
	c, found := cfg.Connection(name)
	if !found {
		if invalid && len(cfg.Connections) == 0 {
			return judge{}, problems
		}
		names := make([]string, len(cfg.Connections))
		for i, c := range cfg.Connections {
			names[i] = c.Name
		}
		return judge{}, usageError{fmt.Errorf("--connection: %s has no connection %q; %s", file, name, config.Suggest(name, "connections", names))}
	}
	opened, err := openConnection(c)
	at := "connections." + name
	mine := slices.DeleteFunc(config.Join(err, problems), func(p config.Problem) bool { return p.Path != at && !strings.HasPrefix(p.Path, at+".") })
	if err := mine.Err(); err != nil {
		return judge{}, err
	}
	if err != nil {
		return judge{}, err
	}
	defer opened.Close() //nolint:errcheck // nothing has been used
	v, ok := opened.(interface{ Verifier() *signature.Verifier })
	if !ok {
		return judge{}, usageError{fmt.Errorf("--connection: %s receives no webhooks: it has no webhook block", name)}
	}
	j := judge{verifier: v.Verifier(), connection: name, methods: []string{"POST"}}
	if l, ok := opened.(connectors.Limited); ok && len(l.Limits().Methods) > 0 {
		j.methods = l.Limits().Methods
	}
	return j, nil
}

// openConnection opens one connection as the hub does, which asks nothing over the network.
func openConnection(c config.Connection) (connectors.Connection, error) {
	for _, k := range all.Connectors() {
		if k.Name == c.Connector {
			return k.Open(c.Node, connectors.Env{Name: c.Name, Logger: slog.New(slog.DiscardHandler)})
		}
	}
	return nil, c.Node.Get("connector").Problem(fmt.Sprintf("there is no connector %q", c.Connector), "")
}
