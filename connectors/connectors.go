// Package connectors is the contract between Tidewire and the systems it connects. A connector is a package
// that knows one kind of system; a connection is one configured account of it. A connection has up to three
// faces, each an interface of its own: it receives webhooks (Receiver), it is pulled from, it is sent to (Target).
package connectors

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/event"
)

// Connector describes one kind of system. Values are immutable and listed in connectors/all.
type Connector struct {
	// Name is the word users write after "connector:"; also the package's name.
	Name string
	// Title and Docs are one line for people and the vendor's page.
	Title, Docs string
	// Settings is the zero value of the struct that the connection's YAML is decoded into. Its tags and
	// comments generate the JSON Schema.
	Settings any
	// Faces says what a connection of this connector can do once its settings ask for it.
	Faces Faces
	// Open checks settings and builds a connection. It does no I/O and starts no goroutine, so that
	// "validate" can call it offline. All mistakes in settings come back at once, as config.Problems.
	Open func(settings config.Node, env Env) (Connection, error)
}

// Faces says which of the optional interfaces connections of a connector implement.
type Faces struct{ Receive, Pull, Send bool }

// Env is what a connection gets from the hub.
type Env struct {
	// Name is the connection's name in the YAML; it is the Source of its events.
	Name string
	// Logger carries the connection's name already. Never nil.
	Logger *slog.Logger
	// Own are the hub's own listeners. Nothing is ever sent to them, also where private addresses are allowed; an unspecified
	// address stands for every address of this machine. May be nil.
	Own []netip.AddrPort
	// Plain says that the hub's public door speaks no TLS itself, so that no call can bring a client certificate.
	Plain bool
}

// Connection is one configured account. Beside these methods it implements Receiver or Target or both.
type Connection interface {
	// Check asks the system whether it can be reached and the credentials are good. It changes nothing there.
	Check(ctx context.Context) error
	// Close lets go of idle network connections and files. Safe to call twice; no goroutine outlives it.
	Close() error
}

// Call is one HTTP request of a provider, read once: Body is what came over the wire, byte for byte (after
// decompression where Limits allow it). Receivers must not change it.
type Call struct {
	Method string
	// URL is the request's target as it came: path and query. The public URL that some schemes sign is a setting, never rebuilt from Host.
	URL    *url.URL
	Header http.Header
	Body   []byte
	// Remote is the address of the peer, after trusted proxies.
	Remote netip.Addr
	// TLS is nil on a plain connection. Its peer certificates have been verified only when a receiver says so.
	TLS *tls.ConnectionState
	// Received is when the call came, in UTC. Signature timestamps are judged against it.
	Received time.Time
}

// Receiver is the face that reads webhooks.
type Receiver interface {
	// Verify judges the call's signature over its exact bytes. Any error is a refusal: the provider is told
	// nothing but no. The error's text is for the hub's own log; it must not hold secrets or the expected signature.
	Verify(ctx context.Context, c *Call) error
	// Events reads the facts out of a call that Verify has passed. Pure: same call, same events, same IDs. No events and no
	// error means that there is nothing to keep (a provider's ping). An error means that the call cannot be
	// understood: 400 or 422, nothing stored.
	Events(c *Call) ([]event.Event, error)
}

// Limited is a Receiver with limits of its own on what the ear lets in before Verify.
type Limited interface{ Limits() Limits }

// Limits bound what one connection's webhooks may be and cost. The zero value of a field means its default.
type Limits struct {
	// Methods are those that deliveries come by; default POST alone. Calls by others are answered 405, unless they are a handshake.
	Methods []string
	// MaxBody in bytes, after decompression; default 1 MiB. More is answered 413 and never cut short.
	MaxBody int64
	// Rate is how many calls a second are taken, with bursts of up to twice that; 0 is no limit. More is answered 429 with Retry-After.
	Rate float64
	// Compressed allows Content-Encoding gzip and deflate; expanded up to MaxBody and at most 100 times. Default: refused with 415.
	Compressed bool
}

// Verdict is what became of a call.
type Verdict int

// The verdicts, in the order in which a call can meet them.
const (
	Refused     Verdict = iota // Verify said no
	Invalid                    // Events could not read it
	Conflict                   // the same ID came before with another body
	Unavailable                // not durable: the provider shall try again
	Accepted                   // durable, or nothing to keep
)

// Reply is an answer to a provider.
type Reply struct {
	Status      int
	ContentType string
	Body        []byte
	Header      http.Header // may be nil
}

// Replier is a Receiver whose provider wants particular words ("[accepted]", "success", 498). ok false
// means the ear's own answer: 200 without a body, or problem+json.
type Replier interface {
	Reply(c *Call, v Verdict) (r Reply, ok bool)
}

// Greeter is a Receiver whose provider tests the address before it uses it. Greet is asked on the methods of Greetings before anything
// else, also where deliveries come by them too, and on others after Verify; ok false means that the call is no handshake. It stores nothing.
type Greeter interface {
	// Greetings are those of GET, HEAD and OPTIONS that the provider's test may come by; none where it comes as a delivery does, or not at all.
	Greetings() []string
	Greet(c *Call) (r Reply, ok bool)
}

// Delivery is what a Target is asked to send: one event on one route, mapped.
type Delivery struct {
	// Route is the route's name.
	Route string
	// Event is the event as it was accepted. Its Body is not what is to be sent: Body below is.
	Event event.Event
	// Body is the mapped payload, or the event's own body where the route has no map.
	Body []byte
	// ContentType is Body's media type.
	ContentType string
	// IdempotencyKey is the same on every attempt of this delivery; a replay has a fresh one.
	IdempotencyKey string
	// Attempt counts from 1.
	Attempt int
}

// Receipt is what the target system said of a delivery it took.
type Receipt struct {
	// Code is the system's status code, such as 200; 0 where it has none.
	Code int
	// TargetID is the target's own identity of what was written, when it tells; may be empty.
	TargetID string
}

// Target is the face that is sent to.
type Target interface {
	// Send carries one delivery into the system and returns when the system has taken it. It obeys ctx and makes a
	// single try: retries are the pipeline's. A plain error means try again; Permanent, RetryAfter and
	// Gone say otherwise. Safe for concurrent use.
	Send(ctx context.Context, d Delivery) (Receipt, error)
}
