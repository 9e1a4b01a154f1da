package connectortest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/rest"
	"github.com/tidewire/tidewire/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const marker = "planted-secret-marker"

// probe is a connector that is right in everything but its fault.
type probe struct {
	fault  string
	secret config.Secret
	log    *slog.Logger
	client *rest.Client
	plain  *http.Client
	url    string
	to     *rest.Endpoint

	mu     sync.Mutex
	calls  int
	closed int
}

type probeSettings struct {
	URL    string        `yaml:"url,required"`
	Secret config.Secret `yaml:"secret,required"`
}

func suiteOf(t testing.TB, fault string) Suite {
	var open sync.WaitGroup
	t.Cleanup(open.Wait)
	faces := connectors.Faces{Send: true, Receive: true}
	if fault == "undeclared face" {
		faces.Receive = false
	}
	settings := "url: '{{url}}/'\nsecret: " + marker
	var grace time.Duration
	if fault == "does not listen" {
		grace = 300 * time.Millisecond
	}
	return Suite{
		Connector: connectors.Connector{
			Name: "probe", Title: "Probe", Settings: probeSettings{}, Faces: faces,
			Open: func(n config.Node, env connectors.Env) (connectors.Connection, error) {
				return openProbe(fault, n, env, t, &open)
			},
		},
		grace:   grace,
		Secrets: []string{marker},
		Bad:     []Bad{{Name: "no secret", Settings: "url: http://127.0.0.1:1/", Key: "secret"}},
		Send:    &Send{Settings: settings, HTTP: true, Key: func(r *http.Request, _ []byte) string { return r.Header.Get("Idempotency-Key") }},
		Receive: []Signed{{
			Name: "signed", Settings: settings, Secret: marker, Other: "another-secret", Make: probeCall, Body: []byte(`{"id":"e1"}`),
			Protected: []string{"X-Time", "X-Signature"}, Tolerance: time.Minute, IDs: []string{"e1"},
		}},
	}
}

func openProbe(fault string, n config.Node, env connectors.Env, t testing.TB, open *sync.WaitGroup) (connectors.Connection, error) {
	var s probeSettings
	err := n.Decode(&s)
	switch {
	case fault == "takes any settings":
	case fault == "plain error" && err != nil:
		return nil, errors.New("bad settings")
	case fault == "secret in settings error" && err != nil:
		return nil, config.Join(n.Get("no_such_setting").Problem("with "+marker, ""))
	case err != nil:
		return nil, err
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, err
	}
	p := &probe{fault: fault, secret: s.Secret, log: env.Logger, url: s.URL}
	p.client = rest.New(rest.Settings{AllowPrivate: true}, rest.Options{Secrets: []config.Secret{s.Secret}}, func(string, string, string) {})
	p.to, _ = rest.NewEndpoint("POST", u)
	p.plain = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	switch fault {
	case "connects in Open":
		if c, err := net.Dial("tcp", u.Host); err == nil {
			c.Close()
		}
	case "leaves a goroutine":
		stop := make(chan struct{})
		open.Go(func() { <-stop })
		t.Cleanup(func() { close(stop) })
	}
	return p, nil
}

func (p *probe) Check(context.Context) error { return nil }

func (p *probe) Close() error {
	p.client.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed++; p.closed > 1 && p.fault == "second Close fails" {
		return errors.New("closed already")
	}
	return nil
}

func (p *probe) Send(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
	key := d.IdempotencyKey
	switch p.fault {
	case "no key":
		key = ""
	case "a key for each attempt":
		key += strconv.Itoa(d.Attempt)
	case "logs the secret":
		p.log.Debug("sending", "with", p.secret.Reveal())
	case "does not listen":
		ctx = context.WithoutCancel(ctx)
	case "follows redirects", "reads it all":
		return p.sendPlain(ctx, d)
	}
	res, err := p.client.Do(ctx, rest.Request{Endpoint: p.to, Fields: []rest.Field{{Name: "Idempotency-Key", Value: key}}, Body: d.Body})
	if err != nil {
		if p.fault == "gives up on lost answers" {
			err = connectors.Permanent(err)
		}
		return connectors.Receipt{}, err
	}
	if err = res.Err(); err == nil && p.fault == "no code" {
		res.Code = 0
	}
	if err != nil {
		err = p.spoil(res, err)
	}
	return connectors.Receipt{Code: res.Code}, err
}

func (p *probe) spoil(res *rest.Response, err error) error {
	f := connectors.AsFailure(err)
	switch p.fault {
	case "all is permanent":
		return connectors.Permanent(err)
	case "nothing is permanent":
		return connectors.WithCode(errors.New("no"), res.Code)
	case "no failure code":
		return connectors.WithCode(err, 0)
	case "does not wait":
		if f.Wait > 0 {
			return connectors.WithCode(errors.New("no"), res.Code)
		}
	case "quotes answers":
		return connectors.WithCode(fmt.Errorf("%w: %s", err, res.Body), res.Code)
	case "control characters":
		return fmt.Errorf("a\x1b[31m: %w", err)
	}
	return err
}

func (p *probe) sendPlain(ctx context.Context, d connectors.Delivery) (connectors.Receipt, error) {
	r, _ := http.NewRequestWithContext(ctx, "POST", p.url, bytes.NewReader(d.Body))
	res, err := p.plain.Do(r)
	if err != nil {
		return connectors.Receipt{}, errors.New("no answer")
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	if res.StatusCode >= 300 {
		return connectors.Receipt{}, connectors.WithCode(errors.New("no"), res.StatusCode)
	}
	return connectors.Receipt{Code: res.StatusCode}, nil
}

func probeSignature(secret, ts string, body []byte) string {
	m := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(m, "%s.%s", ts, body)
	return hex.EncodeToString(m.Sum(nil))
}

func probeCall(secret string, body []byte, at time.Time) *connectors.Call {
	ts := strconv.FormatInt(at.Unix(), 10)
	return &connectors.Call{Method: "POST", URL: &url.URL{Path: "/"}, Body: bytes.Clone(body), Received: at,
		Header: http.Header{"X-Time": {ts}, "X-Signature": {probeSignature(secret, ts, body)}}}
}

func (p *probe) Verify(_ context.Context, c *connectors.Call) error {
	ts := c.Header.Get("X-Time")
	unix, err := strconv.ParseInt(ts, 10, 64)
	body := c.Body
	switch p.fault {
	case "accepts everything":
		return nil
	case "refuses everything":
		return errors.New("no")
	case "leaves the body out":
		body = []byte(`{"id":"e1"}`)
	case "changes the body":
		defer func() { c.Body = append(c.Body, '\n') }()
	}
	want := probeSignature(p.secret.Reveal(), ts, body)
	if !hmac.Equal([]byte(want), []byte(c.Header.Get("X-Signature"))) {
		if p.fault == "secret in refusal" {
			return errors.New("not signed with " + p.secret.Reveal())
		}
		return errors.New("the signature does not fit")
	}
	off := c.Received.Sub(time.Unix(unix, 0))
	if p.fault == "believes the future" && off < 0 || p.fault == "has no clock" {
		off = 0
	}
	if err != nil || off.Abs() > time.Minute {
		return errors.New("too far from our time")
	}
	return nil
}

func (p *probe) Events(c *connectors.Call) ([]event.Event, error) {
	e := event.Event{ID: "e1", Source: "suite", Type: "t", Time: c.Received, Body: c.Body}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	switch p.fault {
	case "another ID each time":
		e.ID = fmt.Sprintf("e%p%d", p, p.calls)
	case "another time each time":
		e.Time = time.Now()
	case "touches the header":
		c.Header.Set("X-Seen", "1")
	}
	return []event.Event{e}, nil
}

// recorder takes what a check says of a connector without failing this test.
type recorder struct {
	testing.TB
	mu   sync.Mutex
	said []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

// stopped is what Fatalf throws, since the recorder's checks run in the test's own goroutine.
type stopped struct{}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	panic(stopped{})
}

func record(t *testing.T, fault string) map[string][]string {
	found := map[string][]string{}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			r := &recorder{TB: t}
			t.Cleanup(func() { found[c.name] = r.said }) // runs after the checks' own clean-ups, which also say things
			defer func() {
				if e := recover(); e != nil && e != (stopped{}) {
					panic(e)
				}
			}()
			c.run(r, suiteOf(t, fault))
		})
	}
	return found
}

func TestRightConnectorPasses(t *testing.T) {
	for check, said := range record(t, "") {
		for _, s := range said {
			t.Errorf("%s: %s", check, s)
		}
	}
	Run(t, suiteOf(t, ""))
}

// Every fault is found by the check that is there for it.
func TestWrongConnectorsFail(t *testing.T) {
	for fault, check := range map[string]string{
		"undeclared face":          "declared faces are tested",
		"takes any settings":       "wrong settings are refused by name",
		"plain error":              "wrong settings are refused by name",
		"secret in settings error": "wrong settings are refused by name",
		"connects in Open":         "wrong settings are refused by name",
		"refuses everything":       "signed calls pass",
		"changes the body":         "signed calls pass",
		"accepts everything":       "changed calls are refused",
		"leaves the body out":      "changed calls are refused",
		"secret in refusal":        "changed calls are refused",
		"believes the future":      "the clock is judged",
		"has no clock":             "the clock is judged",
		"another ID each time":     "the same call gives the same events",
		"another time each time":   "the same call gives the same events",
		"touches the header":       "the same call gives the same events",
		"all is permanent":         "statuses become outcomes",
		"nothing is permanent":     "statuses become outcomes",
		"no failure code":          "statuses become outcomes",
		"no code":                  "statuses become outcomes",
		"does not wait":            "statuses become outcomes",
		"quotes answers":           "statuses become outcomes",
		"control characters":       "statuses become outcomes",
		"logs the secret":          "statuses become outcomes",
		"gives up on lost answers": "lost answers are tried again",
		"does not listen":          "answers are bounded",
		"reads it all":             "answers are bounded",
		"follows redirects":        "redirects are not followed",
		"no key":                   "the idempotency key reaches the system",
		"a key for each attempt":   "the idempotency key reaches the system",
		"second Close fails":       "closing is clean",
		"leaves a goroutine":       "closing is clean",
	} {
		t.Run(fault, func(t *testing.T) {
			found := runOne(t, fault, check)
			if len(found) == 0 {
				t.Errorf("a connector that %q passes the check %q", fault, check)
			}
		})
	}
}

// runOne records a single check.
func runOne(t *testing.T, fault, check string) (said []string) {
	for _, c := range checks {
		if c.name != check {
			continue
		}
		r := &recorder{TB: t}
		t.Run(c.name, func(t *testing.T) {
			r.TB = t
			defer func() {
				if e := recover(); e != nil && e != (stopped{}) {
					panic(e)
				}
			}()
			c.run(r, suiteOf(t, fault))
		})
		return r.said
	}
	t.Fatalf("there is no check %q", check)
	return nil
}
