package http

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/rest"
	"github.com/tidewire/tidewire/connectors/signature"
	"github.com/tidewire/tidewire/event"
)

// SendSettings say where events go and how.
type SendSettings struct {
	// URL asks for the sending face. It is taken for a secret beyond its host: many systems put a token into it.
	URL string `yaml:"url" doc:"Where events are sent. Makes the connection a target. Errors and logs show its host only."`
	// Method is POST when empty.
	Method string `yaml:"method" default:"POST" enum:"POST|PUT|PATCH" doc:"The HTTP method."`
	// Headers are sent with every request.
	Headers map[string]string `yaml:"headers" doc:"Further headers, the same in every request. Values from ${env:…} or ${file:…} are treated as secrets."`
	// Sign may be nil: nothing is signed then.
	Sign *signature.Signing `yaml:"sign" doc:"How requests are signed; not at all when absent."`

	rest.Settings `yaml:",inline"`
}

// sender sends events to one address.
type sender struct {
	client   *rest.Client
	endpoint *rest.Endpoint
	signer   *signature.Signer // nil: nothing is signed
	method   string
	url      string // as it is signed by schemes that sign it
	typed    bool   // the user has set Content-Type
}

// newSender makes a sender of the settings at n, which must not be used when a problem was added.
func newSender(s SendSettings, n config.Node, env connectors.Env, problems *config.Problems) *sender {
	report := rest.Reporter(n, problems)
	o := rest.Options{Own: env.Own}
	t := &sender{method: cmp.Or(s.Method, http.MethodPost), url: s.URL}
	signed := t.sign(s.Sign, n, problems)
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		f := rest.Field{Name: name, Value: s.Headers[name]}
		if err := rest.CheckField(f); err != nil {
			report("headers."+name, err.Error(), "header values are one line of printable text; a file often ends in a line break")
		} else if why := s.reserved(name, signed); why != "" {
			report("headers."+name, why, "remove it here")
		}
		if n.Get("headers").Get(name).Expanded() {
			o.Secrets = append(o.Secrets, config.NewSecret(f.Value))
		}
		switch strings.ToLower(name) {
		case "user-agent":
			o.UserAgent = f.Value
			continue
		case "content-type":
			t.typed = true
		}
		o.Fields = append(o.Fields, f)
	}
	if s.Sign != nil {
		o.Secrets = append(append(o.Secrets, s.Sign.Secret), s.Sign.Secrets...)
	}
	t.endpoint = s.endpoint(report, &o)
	t.client = rest.New(s.Settings, o, report)
	return t
}

// sign makes the signer, and returns the headers it sets, with some values.
func (t *sender) sign(s *signature.Signing, n config.Node, problems *config.Problems) http.Header {
	if s == nil {
		return nil
	}
	var err error
	if t.signer, err = signature.NewSigner(*s); err != nil {
		if len(*problems) == 0 { // else the decoder has said it, at its place
			*problems = append(*problems, placed(n.Get("sign"), err)...)
		}
		return nil
	}
	h, err := t.signer.Sign(signature.SignRequest{ID: "trial", At: time.Now(), Method: t.method, URL: t.url, Body: []byte("{}")})
	if err != nil {
		*problems = append(*problems, n.Get("sign").Problem(err.Error(), ""))
	}
	return h
}

// reserved says why a header cannot be the user's.
func (s *SendSettings) reserved(name string, signed http.Header) string {
	_, signs := signed[http.CanonicalHeaderKey(name)]
	name = strings.ToLower(name)
	switch {
	case strings.HasPrefix(name, "webhook-"), strings.HasPrefix(name, "ce-"), name == "idempotency-key", name == "traceparent":
		return "this header is set by the hub for every event"
	case name == "authorization" && s.Auth != nil:
		return "this header comes from auth"
	case signs:
		return "this header comes from sign"
	}
	return ""
}

func (s *SendSettings) endpoint(report rest.Report, o *rest.Options) *rest.Endpoint {
	if s.URL == "" {
		report("url", "missing", "say where events are sent: https://host/path")
		return nil
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		report("url", "not a URL", "write it as https://host/path")
		return nil
	}
	e, err := rest.NewEndpoint(cmp.Or(s.Method, http.MethodPost), u)
	if err != nil {
		report("url", err.Error(), "write it as https://host/path")
		return nil
	}
	e.Label = fmt.Sprintf("%s %s://%s", cmp.Or(s.Method, http.MethodPost), u.Scheme, u.Host)
	// What the address carries beyond its host may be a token, and an answer may quote it.
	for _, part := range append(strings.Split(u.Path, "/"), slices.Concat(slices.Collect(maps.Values(u.Query()))...)...) {
		if len(part) >= 16 {
			o.Secrets = append(o.Secrets, config.NewSecret(part))
		}
	}
	return e
}

// Send posts one event. See connectors.Target.
func (t *sender) Send(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
	var room [16]rest.Field
	f, err := t.fields(room[:0], &d, time.Now())
	if err != nil {
		return connectors.Receipt{}, connectors.Permanent(fmt.Errorf("%s: %w", t.endpoint.Label, err))
	}
	res, err := t.client.Do(ctx, rest.Request{Endpoint: t.endpoint, Fields: f, Body: d.Body})
	if err != nil {
		return connectors.Receipt{}, err
	}
	if err := res.Err(); err != nil {
		return connectors.Receipt{Code: res.Code}, err
	}
	return connectors.Receipt{Code: res.Code, TargetID: created(res)}, nil
}

// fields are the headers of one attempt. The ID is the delivery's key, the same on every try; the time is that of the try.
func (t *sender) fields(f []rest.Field, d *connectors.Delivery, now time.Time) ([]rest.Field, error) {
	id, at := false, false
	if t.signer != nil {
		r := signature.SignRequest{ID: d.IdempotencyKey, At: now, Method: t.method, URL: t.url, Body: d.Body}
		err := t.signer.SignTo(r, func(name, value string) {
			f = append(f, rest.Field{Name: name, Value: value})
			id, at = id || name == "Webhook-Id", at || name == "Webhook-Timestamp"
		})
		if err != nil {
			return nil, err
		}
	}
	if !id {
		f = append(f, rest.Field{Name: "Webhook-Id", Value: d.IdempotencyKey})
	}
	if !at {
		f = append(f, rest.Field{Name: "Webhook-Timestamp", Value: strconv.FormatInt(now.Unix(), 10)})
	}
	f = append(f, rest.Field{Name: "Idempotency-Key", Value: d.IdempotencyKey})
	if !t.typed && d.ContentType != "" {
		f = append(f, rest.Field{Name: "Content-Type", Value: d.ContentType})
	}
	if trace := d.Event.Extensions["traceparent"]; trace != "" {
		f = append(f, rest.Field{Name: "traceparent", Value: headerText(trace)})
	}
	return cloudEvent(f, &d.Event), nil
}

// cloudEvent adds the event's attributes as the HTTP binding of CloudEvents 1.0 writes them in binary mode.
func cloudEvent(f []rest.Field, e *event.Event) []rest.Field {
	f = append(f,
		rest.Field{Name: "ce-specversion", Value: "1.0"},
		rest.Field{Name: "ce-id", Value: headerText(e.ID)},
		rest.Field{Name: "ce-source", Value: headerText(e.Source)},
		rest.Field{Name: "ce-type", Value: headerText(e.Type)},
	)
	if e.Subject != "" {
		f = append(f, rest.Field{Name: "ce-subject", Value: headerText(e.Subject)})
	}
	if !e.Time.IsZero() {
		f = append(f, rest.Field{Name: "ce-time", Value: e.Time.UTC().Format(time.RFC3339Nano)})
	}
	return f
}

// headerText percent-encodes what the CloudEvents HTTP binding (3.1.3.2) does not let into a header: spaces, quotes, percent signs and everything that is
// not printable ASCII. Most texts need nothing.
func headerText(s string) string {
	for i := range len(s) {
		if !headerByte(s[i]) {
			return encoded(s)
		}
	}
	return s
}

func headerByte(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }

func encoded(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; headerByte(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// created is the target's own identity of what it made: the last part of the Location of a 201. Empty when it does not say.
func created(res *rest.Response) string {
	if res.Code != http.StatusCreated {
		return ""
	}
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil || u.Path == "" || u.Path == "/" {
		return ""
	}
	id := path.Base(u.Path)
	if len(id) > event.MaxID {
		return ""
	}
	return headerText(id)
}

// Check connects to the target, with TLS where it has it, and asks for an OAuth token where one is needed. It sends the target nothing.
func (t *sender) Check(ctx context.Context) error { return t.client.Reach(ctx, t.endpoint) }

// Close lets go of idle connections.
func (t *sender) Close() error {
	t.client.Close()
	return nil
}
