package http

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/signature"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/expression"
)

// defaultType is the type of an event of which neither the settings nor the scheme knows one.
const defaultType = "webhook"

// ReceiveSettings say how webhooks are verified and read. An expression sees method, header("Name"), query("name") and body: the
// JSON of the call or, where a call carries several events, of the one; a form's fields where the call is a form; an object of the query's parameters
// where all that a call says is in its query. What is not set comes from the verification scheme.
type ReceiveSettings struct {
	Verify verification `yaml:"verify,required" doc:"How a call proves where it comes from: a named scheme, or one spelled out. {scheme: none} has to be said."`
	// Methods other than POST make no two calls of the same body equal: what is deleted is not what was changed.
	Methods []string          `yaml:"methods,one" enum:"GET|POST|PUT|PATCH|DELETE" doc:"Methods that deliveries come by; one or a list. Default: the scheme's, mostly POST alone. Calls by others are answered 405. Most schemes sign the body and not the method: whoever has seen a call could send it again by another of these. The event of a GET without a body has the query's parameters as its body, a JSON object of texts."`
	ID      config.Expression `yaml:"id" doc:"Expression for the event's identity: the same for the same fact, however often it is sent. Default: the scheme's, else a fingerprint of the body, and of method and query for a call by another method than POST."`
	Type    config.Expression `yaml:"type" doc:"Expression for the event's type. Default: the scheme's, else webhook."`
	Key     config.Expression `yaml:"key" doc:"Expression for the ordering key: events with equal keys reach a target in order. Default: the scheme's, else none."`
	Time    config.Expression `yaml:"time" doc:"Expression for when the fact happened, a timestamp or a text by RFC 3339. Default: the scheme's, else when the call came."`
	Subject config.Expression `yaml:"subject" doc:"Expression for what the fact is about. Default: the scheme's, else nothing."`
	// Items is for calls with many events; each is then an event of its own, with its own bytes as the body.
	Items     string      `yaml:"items" doc:"Path to the list of events in the body, such as events or data.items, where a call carries several; a dot alone where the body is the list. Default: the scheme's."`
	MaxBody   config.Size `yaml:"max_body" default:"1MiB" range:"1KiB..7MiB" doc:"The largest call that is taken; a larger one is answered 413."`
	RateLimit config.Rate `yaml:"rate_limit" doc:"How many calls are taken, such as 100/s; no limit when absent. More are answered 429."`
	// Compressed is off because a small call could then cost much.
	Compressed bool `yaml:"compressed" doc:"Take calls with Content-Encoding gzip or deflate, expanded up to max_body and at most 100 times; refused otherwise."`
}

// verification is the verify block, checked where it stands in the file.
type verification struct {
	signature.Settings `yaml:",inline"`
}

// UnmarshalNode reads the block, finds what is wrong with it, and warns of what lets anybody in.
func (v *verification) UnmarshalNode(n config.Node) error {
	if err := n.Decode(&v.Settings); err != nil {
		return err
	}
	if v.Scheme == "none" {
		n.Warn("anybody who knows the address can post events here", "use a scheme that proves where calls come from, or keep the address secret and set allow")
	}
	_, err := signature.New(v.Settings)
	return err
}

// receiver reads the webhooks of one connection. Immutable.
type receiver struct {
	name     string
	verifier *signature.Verifier
	scheme   signature.Scheme
	limits   connectors.Limits

	id, kind, key, time, subject *reading
	// needsQuery: an expression looks at the query, which is only then taken apart.
	needsQuery bool

	many  bool
	items []string
	// itemsSet: the path is the user's, and a body without it is a mistake.
	itemsSet bool
}

// reading is one attribute's expression.
type reading struct {
	name    string
	program *expression.Program
	// own: the user wrote it. Where it fails the call is refused; where a scheme's default does, the attribute is taken for absent.
	own bool
	// hidden: its text holds values from outside the file, and errors must not show it.
	hidden bool
}

// callEnv is made once: it is immutable, and making it costs milliseconds.
var callEnv = sync.OnceValues(expression.ForCalls)

// newReceiver builds the receiving face. Its errors are config.Problems.
func newReceiver(name string, s ReceiveSettings) (*receiver, error) {
	v, err := signature.New(s.Verify.Settings)
	if err != nil {
		return nil, err
	}
	r := &receiver{
		name: name, verifier: v, scheme: v.Scheme(),
		limits: connectors.Limits{MaxBody: int64(s.MaxBody), Rate: s.RateLimit.PerSecond(), Compressed: s.Compressed},
	}
	r.many, r.itemsSet = r.scheme.Many, s.Items != ""
	items := cmp.Or(s.Items, r.scheme.Items)
	if r.itemsSet {
		r.many = true
	}
	var problems config.Problems
	problems = append(problems, r.deliveries(s.Methods)...)
	if items != "" && items != "." {
		r.items = strings.Split(items, ".")
		for _, step := range r.items {
			if step == "" {
				problems = append(problems, config.Problem{Path: "items", Message: "the path has an empty step",
					Fix: "write the names of the fields with a dot between them, such as data.items"})
				break
			}
		}
	}
	env, err := callEnv()
	if err != nil {
		return nil, fmt.Errorf("http: expressions: %w", err)
	}
	d := r.scheme.Defaults
	for _, f := range []struct {
		into     **reading
		name     string
		own      config.Expression
		fallback string
		want     expression.Kind
	}{
		{&r.id, "id", s.ID, d.ID, expression.String}, {&r.kind, "type", s.Type, d.Type, expression.String},
		{&r.key, "key", s.Key, d.Key, expression.String}, {&r.time, "time", s.Time, d.Time, expression.Time},
		{&r.subject, "subject", s.Subject, d.Subject, expression.String},
	} {
		text := cmp.Or(f.own.Text, f.fallback)
		if text == "" {
			continue
		}
		p, err := env.Compile(text, f.want)
		if err != nil {
			problems = append(problems, misspelt(f.own, f.name, err)...)
			continue
		}
		*f.into = &reading{name: f.name, program: p, own: !f.own.IsZero(), hidden: f.own.Expanded()}
		r.needsQuery = r.needsQuery || strings.Contains(text, "query")
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return r, nil
}

// misspelt gives an expression's mistakes their places.
func misspelt(x config.Expression, name string, err error) config.Problems {
	c, ok := errors.AsType[*expression.CompileError](err)
	if !ok || x.IsZero() {
		return config.Problems{{Path: name, Message: err.Error()}}
	}
	var out config.Problems
	for _, p := range c.Problems {
		out = append(out, x.Problem(p.Line, p.Column, p.Message, `an expression sees method, header("Name"), query("name") and body`))
	}
	return out
}

// Verifier judges the calls, for whoever wants to explain one.
func (r *receiver) Verifier() *signature.Verifier { return r.verifier }

// Limits are the webhook's settings.
func (r *receiver) Limits() connectors.Limits { return r.limits }

// refusal is a signature's, with its word for metrics.
type refusal struct{ *signature.Refusal }

// Reason is one of signature's codes.
func (r refusal) Reason() string { return string(r.Code) }

func request(c *connectors.Call) signature.Request {
	req := signature.Request{Method: c.Method, Header: c.Header, Body: c.Body, Remote: c.Remote, TLS: c.TLS, At: c.Received}
	if c.URL != nil {
		req.URL = c.URL.RequestURI()
	}
	return req
}

// Verify judges the call by the scheme. A provider's unsigned test of the address passes; Greet answers it and Events finds nothing in it.
func (r *receiver) Verify(_ context.Context, c *connectors.Call) error {
	req := request(c)
	err := r.verifier.Verify(req)
	if err == nil {
		return nil
	}
	if _, greeting := r.verifier.Greet(req, false); greeting {
		return nil
	}
	if f := signature.AsRefusal(err); f != nil {
		return refusal{f}
	}
	return err
}

// Greetings are the methods of the scheme's handshake.
func (r *receiver) Greetings() []string { return r.verifier.Greetings() }

// Greet answers the scheme's handshake.
func (r *receiver) Greet(c *connectors.Call) (connectors.Reply, bool) {
	a, ok := r.verifier.Greet(request(c), c.Method == http.MethodPost)
	return reply(a), ok
}

// Reply is the provider's wish, where it has one.
func (r *receiver) Reply(_ *connectors.Call, v connectors.Verdict) (connectors.Reply, bool) {
	var a signature.Answer
	switch v {
	case connectors.Accepted:
		a = r.scheme.Answers.Accepted
	case connectors.Refused:
		a = r.scheme.Answers.Refused
	case connectors.Invalid:
		a = r.scheme.Answers.Invalid
	case connectors.Conflict, connectors.Unavailable: // no provider has words of its own for these
	}
	return reply(a), !a.IsZero()
}

func reply(a signature.Answer) connectors.Reply {
	out := connectors.Reply{Status: a.Status, ContentType: a.ContentType}
	if a.Body != "" {
		out.Body = []byte(a.Body)
	}
	if len(a.Header) > 0 {
		out.Header = make(http.Header, len(a.Header))
		for name, value := range a.Header {
			out.Header.Set(name, value)
		}
	}
	return out
}

// Events reads the call as the settings say. An event without an ID of its own has the fingerprint of its bytes; where many come
// in one call and the ID is the call's, each has its place in the list added. An event of another method than POST has that in the extension "method".
func (r *receiver) Events(c *connectors.Call) ([]event.Event, error) {
	if _, greeting := r.verifier.Greet(request(c), false); greeting {
		return nil, nil
	}
	parts, err := r.parts(c)
	if err != nil {
		return nil, err
	}
	in := expression.Input{Method: method(c), Header: c.Header}
	if r.needsQuery && c.URL != nil {
		in.Query = values(c.URL.RawQuery)
	}
	events := make([]event.Event, 0, len(parts.each))
	for i, p := range parts.each {
		in.Body = p.parsed
		e, err := r.event(c, &in, p.text)
		if err != nil {
			return nil, err
		}
		e.ContentType = parts.contentType
		if parts.listed && e.ID != "" && !r.id.program.NeedsBody() {
			e.ID = fmt.Sprintf("%s.%d", e.ID, i)
		}
		if e.ID = event.StableID(e.ID); e.ID == "" {
			e.ID = r.fingerprint(c, p.text)
		}
		events = append(events, e)
	}
	return events, nil
}

// event reads one event's attributes. Its ID is still as the provider wrote it.
func (r *receiver) event(c *connectors.Call, in *expression.Input, body []byte) (e event.Event, err error) {
	e.Source, e.Body, e.Recorded = r.name, body, c.Received
	if m := method(c); m != http.MethodPost {
		e.Extensions = map[string]string{"method": m}
	}
	// Whoever writes the expression knows the system; the providers whose IDs are known count their attempts in the body, some of them.
	e.Restated = r.id != nil && !r.id.own
	if e.ID, err = r.id.text(in); err != nil {
		return e, err
	}
	if e.Type, err = r.kind.text(in); err != nil {
		return e, err
	}
	if e.Key, err = r.key.text(in); err != nil {
		return e, err
	}
	if e.Subject, err = r.subject.text(in); err != nil {
		return e, err
	}
	e.Type = cmp.Or(header(e.Type), defaultType)
	e.Key, e.Subject = header(e.Key), header(e.Subject)
	e.Time = c.Received
	if r.time == nil {
		return e, nil
	}
	t, err := r.time.program.Time(context.Background(), in)
	if err != nil && r.time.own {
		return e, r.time.failure(err)
	}
	if err == nil && t.Year() >= 1 && t.Year() <= 9999 && !t.IsZero() {
		e.Time = t
	}
	return e, nil
}

// text runs an expression, if there is one.
func (x *reading) text(in *expression.Input) (string, error) {
	if x == nil {
		return "", nil
	}
	// An expression ends by its cost limit: there is nothing to cancel.
	s, err := x.program.String(context.Background(), in)
	if err == nil {
		return strings.Clone(s), nil // it may be a part of the parsed body, which would stay in memory as long as the event does
	}
	if x.own {
		return "", x.failure(err)
	}
	return "", nil
}

func (x *reading) failure(err error) error {
	if x.hidden {
		err = expression.ErrHidden
	}
	return fmt.Errorf("%s: %w", x.name, err)
}

// maxAttribute bounds an attribute's length in bytes.
const maxAttribute = 1024

// header returns s when a header line can carry it, and its fingerprint when not: equal keys stay equal.
func header(s string) string {
	if len(s) <= maxAttribute && utf8.ValidString(s) && strings.IndexFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }) < 0 {
		return s
	}
	return event.Fingerprint([]byte(s))
}
