// Package app is the only room that knows all rooms: it turns a config into a plan and a plan into a running hub.
package app

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/all"
	"github.com/tidewire/tidewire/internal/expression"
	"github.com/tidewire/tidewire/pipeline"
)

// Plan is a config that has been checked to the end: every connection opened, every expression compiled. "validate" makes one and
// says so; "serve" makes one and runs it.
type Plan struct {
	Config *config.Config
	// Connections by name.
	Connections map[string]connectors.Connection
	Routes      []pipeline.Route
	// Warnings are what works but deserves a look.
	Warnings config.Problems
}

// Load reads and checks a config file; nothing is asked over the network and nothing is written. All mistakes come back at once, as config.Problems.
// newLogger makes the hub's logger from the config's log block, which has its defaults when the file could not be read that far.
func Load(path string, newLogger func(config.Log) *slog.Logger) (*Plan, error) {
	cfg, err := config.Load(path, config.Options{})
	if cfg == nil {
		return nil, err
	}
	// Connections and routes that could be read are checked although others could not: all mistakes at once.
	problems := []error{err}
	logger := newLogger(cfg.Log)
	p := &Plan{Config: cfg, Connections: make(map[string]connectors.Connection)}
	for _, c := range cfg.Connections {
		connection, err := open(c, connectors.Env{Name: c.Name, Logger: logger.With("connection", c.Name), Own: own(cfg.Server), Plain: cfg.Server.TLS == nil})
		if err != nil {
			problems = append(problems, err)
			continue
		}
		p.Connections[c.Name] = connection
	}
	env, err := expression.ForEvents()
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	routes, err := pipeline.Compile(cfg, env, p.Connections)
	problems = append(problems, err)
	if all := config.Join(problems...); len(all) > 0 {
		_ = p.Close() // nothing has been used: there is nothing to lose, and the problems matter more
		return nil, all
	}
	p.Routes, p.Warnings = routes, cfg.Warnings()
	return p, nil
}

// Close lets go of the connections.
func (p *Plan) Close() error {
	var errs []error
	for name, c := range p.Connections {
		if err := c.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close connection %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// sources are the names of the connections that events come from.
func (p *Plan) sources() []string { return slices.Sorted(maps.Keys(p.receivers())) }

// receivers are the connections that take webhooks.
func (p *Plan) receivers() map[string]connectors.Receiver {
	m := make(map[string]connectors.Receiver)
	for name, c := range p.Connections {
		if r, ok := c.(connectors.Receiver); ok {
			m[name] = r
		}
	}
	return m
}

func open(c config.Connection, env connectors.Env) (connectors.Connection, error) {
	known := all.Connectors()
	i := slices.IndexFunc(known, func(k connectors.Connector) bool { return k.Name == c.Connector })
	if i < 0 {
		names := make([]string, len(known))
		for i, k := range known {
			names[i] = k.Name
		}
		return nil, c.Node.Get("connector").Problem(
			fmt.Sprintf("there is no connector %q", c.Connector), "known connectors: "+strings.Join(names, ", "))
	}
	return known[i].Open(c.Node, env)
}

// own are the hub's own doors, which no connection may send to. A door on another named host than localhost has no address before the name is
// looked up; it is left out.
func own(s config.Server) []netip.AddrPort {
	var doors []netip.AddrPort
	for _, address := range []string{s.Listen, s.Admin} {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			continue // config has said so
		}
		hosts := []string{host}
		switch host {
		case "":
			hosts = []string{"::"}
		case "localhost":
			hosts = []string{"127.0.0.1", "::1"}
		}
		for _, h := range hosts {
			if door, err := netip.ParseAddrPort(net.JoinHostPort(h, port)); err == nil {
				doors = append(doors, door)
			}
		}
	}
	return doors
}

// ConnectorSettings lists the connectors with their settings, for the config's JSON Schema.
func ConnectorSettings() []config.ConnectorSchema {
	var list []config.ConnectorSchema
	for _, c := range all.Connectors() {
		list = append(list, config.ConnectorSchema{Name: c.Name, Settings: c.Settings})
	}
	return list
}
