// Package http is the connector for any system that speaks HTTP: it receives webhooks that are signed in any way known to
// connectors/signature, and sends events as Standard Webhooks (https://www.standardwebhooks.com) that are CloudEvents in
// binary mode at the same time.
package http

import (
	"context"
	"errors"
	"strings"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
)

// Connector is the entry for connectors/all.
var Connector = connectors.Connector{
	Name:     "http",
	Title:    "HTTP: webhooks of any kind in, events to any address out",
	Docs:     "https://www.standardwebhooks.com",
	Settings: Settings{},
	Faces:    connectors.Faces{Receive: true, Send: true},
	Open:     open,
}

// Settings of an http connection. At least one of webhook and url is there; each asks for its face.
type Settings struct {
	// Webhook asks for the receiving face.
	Webhook *ReceiveSettings `yaml:"webhook" doc:"How webhooks of this system are verified and read. Makes the connection a source."`
	// SendSettings ask for the sending face once they have a URL.
	SendSettings `yaml:",inline"`
}

// The three shapes of a connection: it implements only the faces that its settings ask for.
type (
	receiveOnly struct{ *receiver }
	sendOnly    struct{ *sender }
	both        struct {
		*receiver
		*sender
	}
)

var (
	_ connectors.Connection = receiveOnly{}
	_ connectors.Receiver   = receiveOnly{}
	_ connectors.Limited    = receiveOnly{}
	_ connectors.Replier    = receiveOnly{}
	_ connectors.Greeter    = receiveOnly{}
	_ connectors.Connection = sendOnly{}
	_ connectors.Target     = sendOnly{}
	_ connectors.Connection = both{}
	_ connectors.Receiver   = both{}
	_ connectors.Target     = both{}
)

// Check has nothing to ask: webhooks come by themselves.
func (receiveOnly) Check(context.Context) error { return nil }

// Close has nothing to let go of.
func (receiveOnly) Close() error { return nil }

// Check asks whether the target can be reached.
func (b both) Check(ctx context.Context) error { return b.sender.Check(ctx) }

// Close lets go of the target's idle connections.
func (b both) Close() error { return b.sender.Close() }

func open(n config.Node, env connectors.Env) (connectors.Connection, error) {
	var s Settings
	problems := config.Join(n.Decode(&s))
	decoded := len(problems) == 0
	var r *receiver
	if s.Webhook != nil && decoded {
		var err error
		if r, err = newReceiver(env.Name, *s.Webhook); err != nil {
			problems = append(problems, placed(n.Get("webhook"), err)...)
		} else if env.Plain && r.scheme.Name == "mtls" {
			problems = append(problems, n.Get("webhook").Get("verify").Get("scheme").Problem("client certificates cannot come over a door without TLS, so every call would be refused",
				"set server.tls; a proxy in front of the hub must pass TLS through"))
		}
	}
	var t *sender
	if s.URL != "" || asksToSend(n) {
		t = newSender(s.SendSettings, n, env, &problems)
	}
	if r == nil && t == nil && len(problems) == 0 {
		problems = append(problems, n.Problem("neither url nor webhook is set, so nothing could come or go", "set url to send events there, webhook to receive from there, or both"))
	}
	if err := config.Join(problems).Err(); err != nil {
		return nil, err
	}
	switch {
	case t == nil:
		return receiveOnly{r}, nil
	case r == nil:
		return sendOnly{t}, nil
	}
	return both{r, t}, nil
}

// asksToSend reports whether any key is there that only makes sense with a url.
func asksToSend(n config.Node) bool {
	for _, f := range n.Fields() {
		if f.Key != "webhook" && f.Key != "connector" {
			return true
		}
	}
	return false
}

// placed gives problems whose paths are relative to n their place in the file.
func placed(n config.Node, err error) config.Problems {
	if f, ok := errors.AsType[config.Fault](err); ok {
		err = config.Problem{Path: f.Key, Message: f.Message, Fix: f.Fix}
	}
	found := config.Join(err)
	for i, p := range found {
		if p.Line > 0 {
			continue
		}
		at := n
		if p.Path != "" {
			for key := range strings.SplitSeq(p.Path, ".") {
				at = at.Get(key)
			}
		}
		found[i] = at.Problem(p.Message, p.Fix)
	}
	return found
}
