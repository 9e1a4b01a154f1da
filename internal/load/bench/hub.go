package bench

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/tidewire/tidewire/internal/load"
)

// Secrets of the measured hubs. They reach them through the environment, as a user's would.
const (
	stripeSecret = "whsec_of_the_benchmark"
	envStripe    = "TIDEWIRE_BENCH_STRIPE"
	envSigning   = "TIDEWIRE_BENCH_SIGNING"
)

func secrets() []string {
	signing := "whsec_" + base64.StdEncoding.EncodeToString([]byte("the benchmark's own signing key."))
	return []string{envStripe + "=" + stripeSecret, envSigning + "=" + signing}
}

// target is a connection that is sent to: one path of the sink.
type target struct {
	name string
	rule load.Rule
}

// route is one of a measured hub's routes.
type route struct {
	name string
	only string // event type; "": all
	to   target
}

func oneRoute() []route { return []route{{name: Route, to: target{name: Target}}} }

func failingRoute() []route {
	return []route{{name: Route, to: target{name: Target, rule: load.Rule{Share: 0.01, Fail: 1}}}}
}

// hundredRoutes read one connection and each take one type, so that each event matches one of them.
func hundredRoutes() []route { return typedRoutes(100) }

// typedRoutes are so many of them.
func typedRoutes(n int) []route {
	var routes []route
	for i, typ := range load.StripeTypes()[:n] {
		routes = append(routes, route{name: fmt.Sprintf("r%02d", i), only: typ, to: target{name: Target}})
	}
	return routes
}

// fourRoutes take each event to four targets; the last may be a tarpit.
func fourRoutes(tarpit bool) []route {
	var routes []route
	for i := range 4 {
		name := fmt.Sprintf("t%d", i)
		t := target{name: name, rule: load.Rule{Tarpit: tarpit && i == 3}}
		routes = append(routes, route{name: "to-" + name, to: t})
	}
	return routes
}

// targets are the different targets of some routes.
func targets(routes []route) []target {
	var all []target
	seen := make(map[string]bool)
	for _, r := range routes {
		if !seen[r.to.name] {
			seen[r.to.name] = true
			all = append(all, r.to)
		}
	}
	return all
}

func (l leg) hasTarpit() bool {
	for _, r := range l.routes {
		if r.to.rule.Tarpit {
			return true
		}
	}
	return false
}

// healthyPaths are the paths of the sink on which every event must arrive. Of four targets it is the first three,
// whether the fourth is a tarpit or not, so that both legs are measured alike.
func (l leg) healthyPaths() []string {
	if l.limit {
		return []string{"/" + Target}
	}
	all := targets(l.routes)
	if len(all) == 4 {
		all = all[:3]
	}
	var paths []string
	for _, t := range all {
		paths = append(paths, "/"+t.name)
	}
	return paths
}

// types are the event types to post: those the routes ask for.
func (l leg) types() []string {
	var types []string
	for _, r := range l.routes {
		if r.only != "" {
			types = append(types, r.only)
		}
	}
	return types
}

// hubConfig is a config file as a user would write it: everything that is not said has its default.
func hubConfig(listen, admin, data string, in *room, routes []route, url func(path string) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `server:
  listen: %q
  admin: %q
  shutdown_timeout: 5s
data_dir: %q
%sconnections:
  %s:
    connector: stripe
    webhook: {secret: "${env:%s}"}
`, listen, admin, data, in.config(), Connection, envStripe)
	for _, t := range targets(routes) {
		fmt.Fprintf(&b, `  %s:
    connector: http
    url: %q
    allow_private: true
    sign: {scheme: standard-webhooks, secret: "${env:%s}"}
`, t.name, url("/"+t.name), envSigning)
	}
	b.WriteString("routes:\n")
	for _, r := range routes {
		fmt.Fprintf(&b, "  %s:\n    from: %s\n    to: %s\n", r.name, Connection, r.to.name)
		if r.only != "" {
			fmt.Fprintf(&b, "    when: type == %q\n", r.only)
		}
	}
	return b.String()
}
