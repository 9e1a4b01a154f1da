package torture

import (
	"encoding/base64"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

func TestTortureSecretsStaySecret(t *testing.T) {
	t.Parallel()
	must(t, secretsStaySecret(t, hub))
}

// planted are the secrets of the config; each is a word that occurs nowhere else.
var planted = map[string]string{
	"stripe webhook secret": "whsec_planted4stripe7webhook",
	"signing secret":        "whsec_" + base64.StdEncoding.EncodeToString([]byte("planted signing secret of 32 b..")),
	"bearer token":          "planted0bearer1token2of3some4length",
	"basic password":        "planted0basic1password2of3length",
	"api key":               "planted0api1key2of3some4length",
	"token in the path":     "planted0path1token2of3some4length",
	"token in the query":    "planted0query1token2of3some4length",
	"header value":          "planted0header1value2of3some4length",
	"call token":            "planted0call1token2of3some4length",
	"called with":           "planted0by1a2stranger3as4signature",
}

// secretsStaySecret provokes every way in which a target and a caller can fail, at log level debug, and looks for the secrets in all that
// the hub says and keeps. Targets answer with what they were sent, as debug pages do.
func secretsStaySecret(t *testing.T, bin string) []string {
	t.Helper()
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var all strings.Builder
		_ = r.Header.Write(&all)
		status := map[string]int{"/e500/": 500, "/e400/": 400, "/e302/": 302, "/e410/": 410, "/e429/": 429}[r.URL.Path[:min(6, len(r.URL.Path))]]
		if status == 302 {
			w.Header().Set("Location", "http://127.0.0.1:1"+r.URL.String())
		}
		w.WriteHeader(max(status, 200))
		_, _ = w.Write([]byte(r.URL.String() + " " + all.String()))
	}))
	defer echo.Close()
	slow := make(chan struct{})
	mute := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-slow }))
	defer mute.Close()
	defer close(slow)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	secret := func(name string) string {
		return "${env:PLANTED_" + strings.ToUpper(strings.ReplaceAll(name, " ", "_")) + "}"
	}
	var env []string
	for name, value := range planted {
		env = append(env, "PLANTED_"+strings.ToUpper(strings.ReplaceAll(name, " ", "_"))+"="+value)
	}
	y := "log: {level: debug}\nconnections:\n  stripe: {connector: stripe, webhook: {secret: \"" + secret("stripe webhook secret") + "\"}}\n" +
		"  any: {connector: http, webhook: {verify: {scheme: token, header: X-Token, secret: \"" + secret("call token") + "\"}, id: 'string(body.id)'}}\n"
	routes := "routes:\n"
	auth := []string{
		`{scheme: bearer, token: "` + secret("bearer token") + `"}`,
		`{scheme: basic, username: user, password: "` + secret("basic password") + `"}`,
		`{scheme: api_key, key: "` + secret("api key") + `", header: X-Key}`,
		`{scheme: api_key, key: "` + secret("api key") + `", query: key}`,
	}
	for i, base := range []string{
		echo.URL + "/e500/", echo.URL + "/e400/", echo.URL + "/e302/", echo.URL + "/e410/", echo.URL + "/e429/", echo.URL + "/ok/",
		mute.URL + "/", "http://" + closed.Addr().String() + "/", strings.Replace(echo.URL, "http:", "https:", 1) + "/", "http://no-such-host.invalid/",
	} {
		name := "t" + string(rune('a'+i))
		y += "  " + name + ":\n    connector: http\n    url: \"" + base + secret("token in the path") + "?token=" + secret("token in the query") + "\"\n" +
			"    allow_private: true\n    headers: {X-Planted: \"" + secret("header value") + "\"}\n    auth: " + auth[i%len(auth)] + "\n" +
			"    sign: {scheme: standard-webhooks, secret: \"" + secret("signing secret") + "\"}\n"
		routes += "  to-" + name + ": {from: stripe, to: " + name + ", timeout: 300ms, retry: {schedule: [50ms], max_retry_after: 100ms}}\n"
	}
	routes += "  broken: {from: any, to: tf, map: {x: body.nothing.here}}\n"
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, y+routes)
	child := b.start(env...)
	for i := range 3 {
		b.call("/in/stripe", []byte(`{"id":"evt_forged"}`), map[string]string{"Stripe-Signature": "t=1700000000,v1=" + planted["called with"]})
		b.call("/in/any", []byte(`{"id":1}`), map[string]string{"X-Token": planted["called with"]})
		b.call("/in/any", []byte(`{"id":`), map[string]string{"X-Token": planted["call token"]})
		b.call("/in/any", []byte(`{"id":"`+string(rune('a'+i))+`"}`), map[string]string{"X-Token": planted["call token"]})
		b.call("/in/nobody?token="+planted["called with"], nil, nil)
	}
	g := b.generator("z")
	g.Secret, g.Events, g.Connections, g.KeysPerConnection = planted["stripe webhook secret"], 6, 2, 3
	sent := b.post(g)
	if n := sent.Count(load.Accepted); n != 6 {
		t.Fatalf("%d of 6 accepted\n%s", n, b.said())
	}
	if !await(t, 20*time.Second, func() bool {
		m, err := b.metrics()
		return err == nil && m[`tidewire_dead{route="to-ta"}`] == 6 && m[`tidewire_dead{route="to-tg"}`] > 0 && m[`tidewire_dead{route="broken"}`] == 3
	}) {
		b.fault("the failures did not come about: %s", b.said())
	}
	said := map[string]string{}
	for _, path := range []string{"/metrics", "/readyz", "/healthz"} {
		_, said[path], _ = b.get("http://" + b.admin + path)
	}
	_ = child.Stop(10 * time.Second)
	said["the hub's own log"] = b.everything()
	err = filepath.WalkDir(b.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		said[filepath.Base(path)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	hits := 0
	for where, text := range said {
		for name, value := range planted {
			spellings := []string{value, base64.StdEncoding.EncodeToString([]byte("user:" + value)), strings.TrimPrefix(value, "whsec_")}
			for _, s := range spellings {
				if i := strings.Index(text, s); i >= 0 {
					hits++
					b.fault("the %s is in %s: %q", name, where, text[max(0, i-150):i+len(s)])
					break
				}
			}
		}
	}
	tell(t, "planted secrets", len(planted), "hits", hits)
	return b.faults
}
