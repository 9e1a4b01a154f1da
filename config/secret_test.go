package config_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tidewire/tidewire/config"
)

const planted = "sk_live_planted0123456789"

// holder has secrets where other people's structs have them: exported, hidden, behind pointers, in collections.
type holder struct {
	Shown   config.Secret
	hidden  config.Secret
	Pointer *config.Secret
	List    []config.Secret
	Map     map[string]config.Secret
	Any     any
	inner   struct{ deep config.Secret }
}

func newHolder() holder {
	s := config.NewSecret(planted)
	h := holder{Shown: s, hidden: s, Pointer: &s, List: []config.Secret{s}, Map: map[string]config.Secret{"k": s}, Any: s}
	h.inner.deep = s
	return h
}

func TestNoPrintingOfASecretShowsIt(t *testing.T) {
	t.Parallel()
	s := config.NewSecret(planted)
	check := func(how, out string) {
		t.Helper()
		for _, leak := range []string{planted, fmt.Sprintf("%x", planted), fmt.Sprintf("%X", planted), fmt.Sprintf("%v", []byte(planted)), "planted"} {
			if strings.Contains(out, leak) {
				t.Errorf("%s shows the secret: %s", how, out)
			}
		}
	}
	for _, value := range []any{s, &s, newHolder(), new(newHolder()), []any{s}, map[string]any{"a": s}, struct{ s config.Secret }{s}} {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "20", ".40", "+#"} {
			for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
				format := "%" + flags + string(verb)
				check(fmt.Sprintf("fmt of %T with %s", value, format), fmt.Sprintf(format, value))
			}
		}
		check("Sprint", fmt.Sprint(value))
		check("Sprintln", fmt.Sprintln(value))
		if text, err := json.Marshal(value); err == nil {
			check("JSON", string(text))
		}
		if text, err := yaml.Marshal(value); err == nil {
			check("YAML", string(text))
		}
		for _, handler := range []func(*bytes.Buffer) slog.Handler{
			func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var b bytes.Buffer
			log := slog.New(handler(&b))
			log.Info("started", "value", value, slog.Group("group", "inner", value))
			log.With("value", value).Info("again")
			check("slog", b.String())
		}
		check("an error", fmt.Errorf("open shop: %v: %w", value, errors.New("refused")).Error())
	}
	if text, err := xml.Marshal(struct{ S config.Secret }{s}); err == nil {
		check("XML", string(text))
	}
	equal(t, "a secret", fmt.Sprintf("%v %s %d %#v", s, s, s, s), "*** *** *** ***")
	equal(t, "no secret", fmt.Sprintf("%v|%q", config.Secret{}, config.Secret{}), "|")
	text, _ := json.Marshal(struct{ A, B config.Secret }{A: s})
	equal(t, "JSON", string(text), `{"A":"***","B":""}`)
}

func TestSecretsAreComparedByText(t *testing.T) {
	t.Parallel()
	s := config.NewSecret("open sesame")
	equal(t, "the same", s.Equal("open sesame"), true)
	equal(t, "another", s.Equal("open sesamf"), false)
	equal(t, "longer", s.Equal("open sesame "), false)
	equal(t, "nothing", s.Equal(""), false)
	equal(t, "no secret, nothing presented", config.Secret{}.Equal(""), false)
	equal(t, "no secret", config.NewSecret("").IsZero(), true)
	equal(t, "text", s.Reveal(), "open sesame")
}

// No problem and no printing of a config shows a secret, wherever it stands and whatever is wrong beside it.
func TestNoProblemShowsASecret(t *testing.T) {
	t.Parallel()
	type inner struct {
		Key  config.Secret   `yaml:"key"`
		Keys []config.Secret `yaml:"keys,one"`
	}
	type settings struct {
		Wand    config.Secret            `yaml:"wand"`
		Wands   []config.Secret          `yaml:"wands"`
		Spells  map[string]config.Secret `yaml:"spells"`
		Inner   inner                    `yaml:"inner"`
		Inners  []inner                  `yaml:"inners"`
		Pointer *inner                   `yaml:"pointer"`
		Count   int                      `yaml:"count"`
	}
	const hush = "abracadabra-open"
	for _, text := range []string{
		"wand: HUSH\ncount: x",
		"{wand: HUSH, count: x}",
		"{wand: 'HUSH', count: x, bogus: 1}",
		`{"wand": "HUSH", "count": "x"}`,
		`{"wand": "\u0061bracadabra-open", "count": "x"}`,
		"{wands: [HUSH, HUSH], count: x}",
		"{wands: HUSH, count: x}",
		"{wands: {a: HUSH}, count: x}",
		"{spells: {a: HUSH}, count: x}",
		"{spells: HUSH, count: x}",
		"{spells: [HUSH], count: x}",
		"{inner: {key: HUSH}, count: x}",
		"{inner: {keys: HUSH}, count: x}",
		"{inner: HUSH, count: x}",
		"{inner: [HUSH], count: x}",
		"{inners: [{key: HUSH}, HUSH], count: x}",
		"{pointer: {key: HUSH, kee: HUSH}, count: x}",
		"{wnad: HUSH, count: x}",
		"{inner: {kye: [HUSH]}, count: x}",
		"{wand: [HUSH], count: x}",
		"{wand: {a: HUSH}, count: x}",
		"wand:\n  - HUSH\ncount: x",
		"wand: |\n  HUSH\n  HUSH\nbogus: 1",
		"wand: >-\n\n  HUSH\n\n  HUSH\nbogus: 1",
		"wand: ${env:NONE:-HUSH}",
		"{wand: \"${env:NONE:-HUSH}\", count: x}",
		"{wand: \"${env:HUSH-NAME}HUSH\", count: x}",
		"{count: HUSH, wand: HUSH}",
		"count: ${env:SECRET}",
		"wand: ${env:SECRET}\nbogus: 1",
		"{wand: \"é\\\n  HUSH\", bogus: 1}",
	} {
		o := config.Options{Getenv: func(string) (string, bool) { return hush, true }}
		n, err := config.ParseNode("c.yaml", []byte(strings.ReplaceAll(text, "HUSH", hush)+"\n"), o)
		var s settings
		err = config.Join(err, n.Decode(&s)).Err()
		if text == "{count: HUSH, wand: HUSH}" {
			continue // a number that is not one is shown; what it says is the user's to know
		}
		out := fmt.Sprintf("%v %+v %#v", err, n, n)
		if err != nil {
			marshalled, _ := json.Marshal(err)
			out += string(marshalled)
		}
		if strings.Contains(out, "abracadabra") || strings.Contains(out, "dabra-open") {
			t.Errorf("%q: shown in %s", text, out)
		}
	}
}

func TestSecretsInTheFileAreWarnedOf(t *testing.T) {
	t.Parallel()
	type settings struct {
		Literal config.Secret `yaml:"literal"`
		Open    config.Secret `yaml:"open"`
		Closed  config.Secret `yaml:"closed"`
		Env     config.Secret `yaml:"env"`
		URL     string        `yaml:"url"`
	}
	c := parse(t, `connections:
  shop:
    connector: http
    literal: hunter2
    open: ${file:/etc/hub/open}
    closed: ${file:/etc/hub/key}
    env: ${env:SET}
    url: ${file:/etc/hub/open}
routes:
  all: {from: shop, to: shop}
`)
	for range 2 { // opened again after a reload: the same warnings, once
		var s settings
		if err := c.Connections[0].Node.Decode(&s); err != nil {
			t.Fatal(err)
		}
		equal(t, "one newline is taken off a file", s.Closed.Reveal(), "from a file")
	}
	c.Connections[0].Node.Get("url").Warn("an address without TLS", "use https")
	const want = `tidewire.yaml:4:14: connections.shop.literal: a secret is written in the file
     4 |     literal: ***
       |              ^
       = keep it out of the file: ${env:NAME} or ${file:/path}

tidewire.yaml:5:11: connections.shop.open: the secret in /etc/hub/open can be read or changed by others (mode 0644)
     5 |     open: ${file:/etc/hub/open}
       |           ^
       = chmod 600 /etc/hub/open

tidewire.yaml:8:10: connections.shop.url: an address without TLS
     8 |     url: ${file:/etc/hub/open}
       |          ^
       = use https

3 problems`
	equal(t, "warnings", c.Warnings().Error(), want)
}
