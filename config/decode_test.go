package config_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
)

// shared is what several connectors' settings have in common.
type shared struct {
	Timeout config.Duration `yaml:"timeout" default:"10s" range:"1ms..1m"`
}

type auth struct {
	Token config.Secret `yaml:"token"`
	User  string        `yaml:"user" default:"hub"`
}

func (a *auth) Check() error {
	if a.Token.IsZero() == (a.User == "hub") {
		return nil
	}
	return errors.Join(
		config.Fault{Key: "token", Message: "a user without a token", Fix: "set both"},
		fmt.Errorf("and this: %w", config.Fault{Key: "user", Message: "a token without a user", Fix: "set both"}),
	)
}

// shout decodes itself.
type shout string

func (s *shout) UnmarshalNode(n config.Node) error {
	if n.Value() == "" {
		return errors.New("nothing to shout")
	}
	*s = shout(strings.ToUpper(n.Value()))
	return nil
}

type settings struct {
	shared  `yaml:",inline"`
	URL     string            `yaml:"url,required" doc:"Where to."`
	Hash    string            `yaml:"hash" default:"sha256" enum:"sha256|sha512"`
	On      bool              `yaml:"on" default:"true"`
	Pointer *bool             `yaml:"pointer"`
	Count   int8              `yaml:"count" default:"3" range:"1..100"`
	Small   int8              `yaml:"small"`
	Share   float64           `yaml:"share" range:"0..1"`
	Words   []string          `yaml:"words,one" default:"a" enum:"a|b|c"`
	Pairs   map[string]string `yaml:"pairs"`
	Nets    []netip.Prefix    `yaml:"nets"`
	Auth    auth              `yaml:"auth"`
	Maybe   *auth             `yaml:"maybe"`
	Each    []auth            `yaml:"each"`
	Rest    config.Node       `yaml:"raw"`
	When    config.Expression `yaml:"when"`
	Rate    config.Rate       `yaml:"rate" range:"1/s..100/s"`
	Shout   shout             `yaml:"shout"`
	derived int               //nolint:unused // it shows that what is not exported is no setting
	Ignored int
}

func (s *settings) Defaults() { s.Share = 0.5 }

func decode(t *testing.T, text string) (settings, error) {
	t.Helper()
	n, err := config.ParseNode("c.yaml", []byte(text), surroundings())
	if err != nil {
		t.Fatal(err)
	}
	var s settings
	err = n.Decode(&s)
	return s, err
}

func TestSettingsAreDecodedOverTheirDefaults(t *testing.T) {
	t.Parallel()
	s, err := decode(t, "url: x")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "default of an embedded struct", s.Timeout.Std(), 10*time.Second)
	equal(t, "default of an absent struct", s.Auth.User, "hub")
	equal(t, "bool", s.On, true)
	equal(t, "list", strings.Join(s.Words, ","), "a")
	equal(t, "Defaults", s.Share, 0.5)
	equal(t, "absent pointer", s.Maybe == nil && s.Pointer == nil, true)

	s, err = decode(t, `
url: ${env:WORD}/${env:NONE:-x}$${y}
hash: sha512
on: false
pointer: False
count: ${env:NONE:-7}
share: 0
words: [b, c]
pairs: {"a b": "1", c: "${file:/etc/hub/key}"}
nets: [10.0.0.0/8]
auth: {}
maybe: {token: "${env:SET}", user: hub2}
each: [{user: hub, token: ""}]
raw: [1, 2]
when: true
rate: 50/s
timeout: 1s
shout: hey
`)
	if err == nil || !strings.Contains(err.Error(), "each[0].token: the secret is empty") || strings.Count(err.Error(), "c.yaml:") != 1 {
		t.Fatalf("want one problem about an empty secret, got %v", err)
	}
	equal(t, "url", s.URL, "planted-secret/x${y}")
	equal(t, "hash", s.Hash, "sha512")
	equal(t, "on", s.On, false)
	equal(t, "pointer", *s.Pointer, false)
	equal(t, "count", s.Count, 7)
	equal(t, "share", s.Share, 0)
	equal(t, "words", strings.Join(s.Words, ","), "b,c")
	equal(t, "pairs", s.Pairs["a b"]+s.Pairs["c"], "1from a file")
	equal(t, "nets", s.Nets[0], netip.MustParsePrefix("10.0.0.0/8"))
	equal(t, "maybe", s.Maybe.Token.Reveal(), "planted-secret")
	equal(t, "raw", s.Rest.Items()[1].Value(), "2")
	equal(t, "when", s.When.Text, "true")
	equal(t, "timeout", s.Timeout.Std(), time.Second)
	equal(t, "shout", s.Shout, "HEY")
}

func TestSettingsAreDecodedStrictly(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{}":                                  `url: "url" is missing`,
		"{ulr: x}":                            `ulr: unknown key "ulr"`,
		"{url: x, Url: y}":                    `Url: unknown key "Url"`,
		"{url: x, ignored: 1}":                `ignored: unknown key`,
		"{url: x, derived: 1}":                `derived: unknown key`,
		"{url: x, on: yes}":                   `on: want true or false, got a text ("yes")`,
		"{url: x, on: 1}":                     `on: want true or false, got a whole number ("1")`,
		"{url: x, small: 128}":                `small: out of range: "128"`,
		"{url: x, small: -129}":               `small: out of range: "-129"`,
		"{url: x, count: 128}":                `count: out of range: "128"`,
		"{url: x, count: 101}":                `count: out of range: "101"`,
		"{url: x, count: 1_0}":                `count: want a whole number, got a text ("1_0")`,
		"{url: x, count: 0x10}":               ``,
		"{url: x, count: 1e1}":                `count: want a whole number, got a number ("1e1")`,
		"{url: x, count: 12:30}":              `count: want a whole number, got a text ("12:30")`,
		"{url: x, share: .nan}":               `share: want a number, got a number (".nan")`,
		"{url: x, share: .inf}":               `share: want a number, got a number (".inf")`,
		"{url: x, share: 1.01}":               `share: out of range: "1.01"`,
		"{url: x, words: d}":                  `words: not one of the values this can have: "d"`,
		"{url: x, words: [a, [b]]}":           `words[1]: want a text, got a list`,
		"{url: x, words: [a, d]}":             `words[1]: not one of the values this can have: "d"`,
		"{url: x, words: {a: b}}":             `words: want a list, got a mapping`,
		"{url: x, pairs: [a]}":                `pairs: want a mapping, got a list`,
		"{url: x, pairs: {a: 1}}":             `pairs.a: want a text, got a whole number ("1")`,
		"{url: x, nets: [10.0.0.0/33]}":       `nets[0]: not a network: "10.0.0.0/33"`,
		"{url: x, nets: 10.0.0.0/8}":          `nets: want a list, got a text ("10.0.0.0/8")`,
		"{url: 2026-01-01, auth: {}}":         ``,
		"{url: ~}":                            `url: want a text, got nothing`,
		"{url: x, rate: 101/s}":               `rate: out of range: "101/s"`,
		"{url: x, timeout: 2m}":               `timeout: out of range: "2m"`,
		"{url: x, timeout: 1s, time: 1}":      `time: unknown key "time"`,
		"{url: x, shout: ''}":                 `shout: nothing to shout`,
		"{url: x, auth: {user: me}}":          "auth.token: a user without a token",
		"{url: x, maybe: {user: me}}":         "maybe.user: a token without a user",
		"{url: x, auth: {user: me, nope: 1}}": `auth.nope: unknown key "nope"`,
		"{url: x, when: '  '}":                `when: the expression is empty`,
		"{url: x, when: {a: b}}":              `when: want an expression, got a mapping`,
		"{url: x, raw: }":                     ``,
	} {
		n, err := config.ParseNode("c.yaml", []byte(text), surroundings())
		if err != nil {
			t.Fatal(err)
		}
		var s settings
		err = n.Decode(&s)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: refused: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q in it", text, err, want)
		}
	}
}

func TestWhatParseReportedIsReportedOnce(t *testing.T) {
	t.Parallel()
	c, err := config.Parse("c.yaml", []byte(`
connections:
  shop: {connector: http, url: "${env:NONE}", auth: &a {token: x}, count: 1000}
`), surroundings())
	var s settings
	all := config.Join(fmt.Errorf("config: %w", err), fmt.Errorf("open shop: %w", c.Connections[0].Node.Decode(&s)), errors.New("no place for this"))
	var got []string
	for _, p := range all {
		got = append(got, p.Path+": "+p.Message)
	}
	const want = `: no place for this
connections.shop.url: the environment variable NONE is not set
connections.shop.auth: a YAML alias or anchor
connections.shop.count: out of range: "1000"`
	equal(t, "problems", strings.Join(got, "\n"), want)
	if config.Join(nil, nil).Err() != nil {
		t.Error("nothing is a problem")
	}
}

func TestAPartialConfigComesWithItsProblems(t *testing.T) {
	t.Parallel()
	c, err := config.Parse("c.yaml", []byte("log: {level: loud}\nconnections:\n  shop: {connector: http}\n"), surroundings())
	if err == nil || c == nil || len(c.Connections) != 1 {
		t.Fatalf("got %+v and %v", c, err)
	}
	if _, ok := errors.AsType[config.Problems](err); !ok {
		t.Errorf("the error is a %T", err)
	}
	for _, text := range []string{"", "{", "log: 1", "log: {level: loud}", "log: !x {}", "log: {level: [a], format: &a json}"} {
		c, err := config.Parse("c.yaml", []byte(text+"\n"), surroundings())
		if err == nil {
			t.Errorf("%q was accepted", text)
		}
		equal(t, text, c.Log, config.Log{Level: "info", Format: "text"})
	}
}

func TestTheZeroNodeIsHarmless(t *testing.T) {
	t.Parallel()
	var n config.Node
	equal(t, "kind", n.Get("a").Items() == nil && n.Fields() == nil && n.IsZero() && n.Value() == "", true)
	n.Warn("nobody", "listens")
	err := n.Decode(&settings{})
	if err == nil || !strings.Contains(err.Error(), `"url" is missing`) {
		t.Errorf("got %v", err)
	}
	equal(t, "expression", n.Expression().At(1, 1), config.Pos{})
	equal(t, "fault", config.Fault{Key: "a.b", Message: "m", Fix: "f"}.Error()+config.Fault{Message: "m"}.Error(), "a.b: m; fm")
	equal(t, "problem", n.Expression().Problem(1, 1, "m", "f").Error(), "m; f")
}

func TestKindsFollowTheCoreSchema(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.Kind{
		"1": config.Int, "-1": config.Int, "+1": config.Int, "0o17": config.Int, "0x1F": config.Int, "007": config.Int, "9007199254740993": config.Int,
		"+": config.String, "0o": config.String, "0o8": config.String, "0x": config.String, "0xg": config.String, "-0x1": config.String,
		"1_000": config.String, "1:30": config.String, "2026-01-01": config.String, "1.2.3": config.String, "1e": config.String, ".": config.String,
		"1.": config.Float, ".5": config.Float, "-1.5e-3": config.Float, "1e3": config.Float, ".inf": config.Float, "-.INF": config.Float, ".nan": config.Float,
		"true": config.Bool, "FALSE": config.Bool, "yes": config.String, "on": config.String, "n": config.String, "tRUE": config.String,
		"null": config.Null, "~": config.Null, "": config.Null, "nULL": config.String, "'1'": config.String, "[]": config.List, "{}": config.Map,
	} {
		n, err := config.ParseNode("c.yaml", []byte("a: "+text), config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Get("a").Kind(); got != want {
			t.Errorf("%s is %v, want %v", text, got, want)
		}
	}
}

func TestNearWords(t *testing.T) {
	t.Parallel()
	known := []string{"listen", "admin", "max_connections", "from", "to", "when", "timeout"}
	for word, want := range map[string]string{
		"listn": "listen", "lsiten": "listen", "Listen": "listen", "form": "from", "max_conections": "max_connections", "max-connections": "max_connections",
		"wen": "when", "doo": "", "time_out": "timeout", "zzz": "", "colour": "", "": "", "x": "", strings.Repeat("listen", 1000): "",
	} {
		equal(t, word, config.Near(word, known), want)
	}
	equal(t, "advice", config.Suggest("b", "keys", nil), "there are no keys")
}

func TestOneNodeCanBeDecodedByManyAtOnce(t *testing.T) {
	t.Parallel()
	c := parse(t, "connections:\n  shop: {connector: http, user: me, token: hunter2, bogus: 1}\nroutes: {a: {from: shop, to: shop}}\n")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var a auth
			if err := c.Connections[0].Node.Decode(&a); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
			_ = c.Warnings().Error()
		})
	}
	wg.Wait()
	equal(t, "warnings", len(c.Warnings()), 1)
}
