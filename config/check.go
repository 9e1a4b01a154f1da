package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// DefaultDataDir is where the database is in embedded mode, and the spool in cluster mode, when data_dir is absent.
const DefaultDataDir = "./data"

// Embedded returns nil when the config asks for embedded mode, and a Problem at its cluster section otherwise: what a
// program that has no cluster mode calls before it starts.
func (c *Config) Embedded() error {
	if c.Cluster == nil {
		return nil
	}
	p := c.Root().keyed("cluster")
	p.Message = "this hub runs in embedded mode only; cluster mode is not part of it"
	p.Fix = "remove cluster, and set data_dir to a folder for the database"
	return p
}

// keyed is a problem at a key, without words yet.
func (n Node) keyed(key string) Problem {
	for _, f := range n.Fields() {
		if f.Key == key {
			return n.doc.problem(f.KeyPos.Line, f.KeyPos.Column, f.Value.path, "", "")
		}
	}
	return n.Get(key).Problem("", "")
}

// check looks at what concerns more than one section; before is what has been found so far.
func (c *Config) check(root Node, before Problems) Problems {
	var found Problems
	found = append(found, c.checkMode(root)...)
	found = append(found, c.checkServer(root.Get("server"))...)
	reported := slices.ContainsFunc(before, func(p Problem) bool { return strings.HasPrefix(p.Path, "connections") })
	if n := root.Get("connections"); len(n.Fields()) == 0 && !reported {
		found = append(found, n.Problem("no connections: there is nothing to receive from or send to", "add one, such as connections: {shop: {connector: http, …}}"))
	}
	found = append(found, c.checkRoutes(root, len(before) == 0)...)
	return found
}

func (c *Config) checkMode(root Node) Problems {
	given := !root.Get("data_dir").IsZero()
	switch {
	case !given && c.DataDir == "":
		c.DataDir = DefaultDataDir
	case given && c.DataDir == "" && !root.Get("data_dir").tree.broken && root.Get("data_dir").Kind() == String:
		return Problems{root.Get("data_dir").Problem("data_dir is empty", "name a folder, such as ./data, or remove the line")}
	}
	return nil
}

func (c *Config) checkServer(server Node) Problems {
	var found Problems
	for _, a := range [...]struct{ key, value string }{{"listen", c.Server.Listen}, {"admin", c.Server.Admin}} {
		n := server.Get(a.key)
		if n.Kind() != String || n.tree.broken {
			continue
		}
		if fix := checkAddress(a.value); fix != "" {
			found = append(found, n.Problem("not an address: "+quote(n.tree.raw), fix))
		}
	}
	_, port, _ := net.SplitHostPort(c.Server.Listen)
	if len(found) == 0 && c.Server.Listen != "" && c.Server.Listen == c.Server.Admin && port != "0" {
		found = append(found, server.Get("admin").Problem("the admin door has the address of the public door", "give it a port of its own"))
	}
	if host, _, err := net.SplitHostPort(c.Server.Admin); err == nil && len(found) == 0 {
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
			server.Get("admin").Warn("the admin door is open to other machines", "listen on 127.0.0.1, or see to it that only those who should can reach it")
		}
	}
	for _, prefix := range c.Server.TrustedProxies {
		if prefix.Bits() == 0 {
			server.Get("trusted_proxies").Warn("every client is a trusted proxy and can say that it is anybody", "name the networks of your proxies only")
		}
	}
	if c.Server.TLS != nil {
		found = append(found, server.Get("tls").unreadable("certificate", "key")...)
	}
	return found
}

// unreadable reports the files that the keys name and that cannot be read.
func (n Node) unreadable(keys ...string) Problems {
	var found Problems
	for _, key := range keys {
		at := n.Get(key)
		if at.Kind() != String || at.tree.broken {
			continue
		}
		if _, err := n.doc.o.ReadFile(at.Value()); err != nil {
			found = append(found, at.Problem(fmt.Sprintf("the file %s cannot be read: %s", quote(at.tree.raw), reason(err)), "create it, and let the user that the hub runs as read it"))
		}
	}
	return found
}

func (c *Config) checkRoutes(root Node, clean bool) Problems {
	var found Problems
	var names []string
	for _, connection := range c.Connections {
		names = append(names, connection.Name)
	}
	used := map[string]bool{}
	point := func(n Node, name string) {
		used[name] = true
		if name != "" && !slices.Contains(names, name) {
			p := n.Problem("there is no connection "+quote(n.tree.raw), Suggest(name, "connections", names))
			found = append(found, p)
		}
	}
	for i, field := range root.Get("routes").Fields() {
		n, route := field.Value, c.Routes[i] // in the same order
		if to := n.Get("to"); to.Kind() == String && !to.tree.broken {
			point(to, route.To)
		}
		from := n.Get("from")
		nodes := from.Items()
		if from.Kind() != List {
			nodes = []Node{from}
		} else if len(nodes) == 0 {
			found = append(found, from.Problem("no connections to take events from", "name at least one"))
		}
		seen := map[string]bool{}
		for _, item := range nodes {
			if item.Kind() != String || item.tree.broken {
				continue
			}
			if seen[item.Value()] {
				found = append(found, item.Problem("the connection "+quote(item.tree.raw)+" is there twice", "remove one of them"))
			}
			seen[item.Value()] = true
			point(item, item.Value())
		}
		if m := n.Get("map"); m.Kind() == Null {
			found = append(found, m.Problem("the map is empty", "write one, or remove the line to send the body as it came"))
		}
		found = append(found, checkRetry(n.Get("retry"))...)
	}
	for _, field := range root.Get("connections").Fields() {
		if !used[field.Key] && clean && len(found) == 0 { // a slip in a route's from is the better explanation
			field.Value.Warn("no route names this connection", "add a route from it or to it, or remove it")
		}
	}
	return found
}

// checkRetry refuses settings that a schedule leaves without effect.
func checkRetry(n Node) Problems {
	var found Problems
	if n.Get("schedule").IsZero() {
		return nil
	}
	for _, key := range [...]string{"initial", "multiplier", "max_interval"} {
		if !n.Get(key).IsZero() {
			p := n.keyed(key)
			p.Message = key + " together with schedule"
			p.Fix = "a schedule says every wait by itself: remove one of them"
			found = append(found, p)
		}
	}
	if n.Get("schedule").Kind() == List && len(n.Get("schedule").Items()) == 0 {
		found = append(found, n.Get("schedule").Problem("an empty schedule", "name the waits, such as [5s, 1m, 10m, 1h], or remove the line"))
	}
	return found
}
