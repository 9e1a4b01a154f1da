package rest

import (
	"net"
	"time"

	"github.com/tidewire/tidewire/config"
)

// WithResolver lets tests be the name server.
func WithResolver(o Options, r *net.Resolver) Options {
	o.resolver = r
	return o
}

// Judge is the map from statuses to outcomes, with the clock in the test's hand.
var Judge = judge

// Idle is how many connections are kept.
func (c *Client) Idle() int {
	w := c.via.(*wire)
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.idle)
}

// Age makes kept connections look as old as d.
func (c *Client) Age(d time.Duration) {
	w := c.via.(*wire)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.idle {
		i.since = i.since.Add(-d)
	}
}

// Clean takes a secret out of a text.
func Clean(secret, text string, limit int) string {
	s := newScrubber([]config.Secret{config.NewSecret(secret)})
	return s.clean(text, limit)
}
