// Package stripe connects Stripe: its webhooks, snapshot events and thin events of any API version, become events of the hub.
package stripe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/rest"
	"github.com/tidewire/tidewire/connectors/signature"
)

// Connector describes Stripe.
var Connector = connectors.Connector{
	Name:     "stripe",
	Title:    "Stripe payments",
	Docs:     "https://docs.stripe.com/webhooks",
	Settings: Settings{},
	Faces:    connectors.Faces{Receive: true},
	Open:     open,
}

// Settings are what a user writes for a Stripe account.
type Settings struct {
	// APIKey is asked for by Check alone.
	APIKey config.Secret `yaml:"api_key,omitempty" doc:"Secret or restricted API key, sk_… or rk_…. Webhooks need none; with it, the connection's check asks Stripe whether it is good."`
	// Webhook is required.
	Webhook Webhook `yaml:"webhook,required" doc:"How Stripe's webhooks are received, at /in/ and the connection's name."`
	// APIURL is https://api.stripe.com unless changed.
	APIURL string `yaml:"api_url,omitempty" default:"https://api.stripe.com" doc:"Address of Stripe's API; another one is for tests."`
	// AllowPrivate lets api_url be on a private address.
	AllowPrivate bool `yaml:"allow_private,omitempty" doc:"Allow api_url to be on a private or loopback address."`
	// Proxy is for requests to the API.
	Proxy config.Secret `yaml:"proxy,omitempty" doc:"Address of an HTTP proxy for requests to the API."`
}

// Webhook is how calls are received.
type Webhook struct {
	Secret       config.Secret   `yaml:"secret,omitempty" doc:"The endpoint's signing secret, whsec_…, from Stripe's dashboard."`
	Secrets      []config.Secret `yaml:"secrets,omitempty" doc:"Several signing secrets instead of one, the new one first, while a secret is being rolled."`
	SecretsUntil time.Time       `yaml:"secrets_until,omitempty" doc:"Time (RFC 3339) from which only the first of secrets is good."`
	Tolerance    config.Duration `yaml:"tolerance,omitempty" default:"5m" range:"1s..24h" doc:"How far a call's timestamp may be from the hub's clock, ahead or behind."`
	Allow        []string        `yaml:"allow,omitempty" doc:"Addresses and networks that calls may come from; any when absent."`
	MaxBody      config.Size     `yaml:"max_body,omitempty" default:"1MiB" range:"1KiB..7MiB" doc:"The largest call that is taken; a larger one is answered 413."`
	RateLimit    config.Rate     `yaml:"rate_limit,omitempty" doc:"How many calls are taken, such as 100/s; no limit when absent. More are answered 429 and sent again by Stripe."`
}

// Check finds what is wrong with the secrets and addresses.
func (w *Webhook) Check() error {
	_, err := signature.New(w.rules())
	return err
}

func (w *Webhook) rules() signature.Settings {
	return signature.Settings{
		Scheme: "stripe", Secret: w.Secret, Secrets: w.Secrets, SecretsUntil: w.SecretsUntil, Tolerance: w.Tolerance, Allow: w.Allow,
	}
}

// connection is one Stripe account.
type connection struct {
	name     string
	verifier *signature.Verifier
	limits   connectors.Limits
	api      *rest.Client
	balance  *rest.Endpoint
	hasKey   bool
}

var (
	_ connectors.Connection = (*connection)(nil)
	_ connectors.Receiver   = (*connection)(nil)
	_ connectors.Limited    = (*connection)(nil)
)

func open(settings config.Node, env connectors.Env) (connectors.Connection, error) {
	var s Settings
	problems := config.Join(settings.Decode(&s))
	if pull := settings.Get("pull"); !pull.IsZero() {
		for i := range problems {
			if problems[i].Path == pull.Path() {
				problems[i].Message = "pull is not available in this version"
				problems[i].Fix = "remove it; Stripe sends an event again for up to three days until its webhook is accepted"
			}
		}
	}
	report := rest.Reporter(settings, &problems)
	c := &connection{name: env.Name, hasKey: !s.APIKey.IsZero()}
	c.limits = connectors.Limits{MaxBody: int64(s.Webhook.MaxBody), Rate: s.Webhook.RateLimit.PerSecond()}
	c.openAPI(s, report)
	if err := config.Join(problems).Err(); err != nil {
		return nil, err
	}
	var err error
	if c.verifier, err = signature.New(s.Webhook.rules()); err != nil {
		return nil, fmt.Errorf("stripe: %w", err)
	}
	return c, nil
}

// openAPI makes the client that Check asks with.
func (c *connection) openAPI(s Settings, report rest.Report) {
	balance, err := url.Parse(strings.TrimSuffix(s.APIURL, "/") + "/v1/balance")
	if err == nil {
		c.balance, err = rest.NewEndpoint(http.MethodGet, balance)
	}
	if err != nil {
		report("api_url", "is not an address that requests can be made to", "write it as https://api.stripe.com, or remove it")
		return
	}
	if balance.Scheme != "https" && !s.AllowPrivate {
		report("api_url", "is not https: the API key would be readable on the way", "write it as https://…")
	}
	r := rest.Settings{AllowPrivate: s.AllowPrivate, Proxy: s.Proxy}
	if c.hasKey {
		r.Auth = &rest.Auth{Scheme: "bearer", Token: s.APIKey}
	}
	c.api = rest.New(r, rest.Options{}, func(key, message, fix string) {
		report(strings.Replace(key, "auth.token", "api_key", 1), message, fix)
	})
}

// Check asks Stripe whether the API key is good. Without a key there is nothing to ask: webhooks come by themselves.
func (c *connection) Check(ctx context.Context) error {
	if !c.hasKey {
		return nil
	}
	res, err := c.api.Do(ctx, rest.Request{Endpoint: c.balance})
	if err != nil {
		return fmt.Errorf("stripe: %w", err)
	}
	switch res.Code {
	case http.StatusForbidden: // a restricted key that may not see the balance is a good key
		return nil
	case http.StatusUnauthorized:
		return errors.New("stripe: the API key is not accepted; check api_key, or make a new one in the dashboard")
	}
	if err := res.Err(); err != nil {
		return fmt.Errorf("stripe: %w", err)
	}
	return nil
}

// Close lets go of connections to the API.
func (c *connection) Close() error {
	c.api.Close()
	return nil
}
