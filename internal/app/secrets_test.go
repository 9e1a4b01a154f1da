package app_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPlantedSecretsAreNowhere plants a secret in every place that a config has for one, goes the ways on which errors come
// about, and looks for the secrets in all that the hub says and keeps.
func TestPlantedSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	refusing := receiving(t, func(c call) int {
		if strings.Contains(c.body, "gone") {
			return http.StatusNotFound
		}
		return http.StatusInternalServerError
	})
	free := receiving(t, nil)
	dead := free.URL
	free.Close() // nobody listens there any more
	h := serve(t, fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", shutdown_timeout: 5s}
data_dir: %[1]q
log: {level: debug}
connections:
  stripe: {connector: stripe, api_key: planted-01, webhook: {secret: %[2]s}}
  plain: {connector: http, webhook: {verify: {scheme: hmac, secrets: [%[3]s, planted-02], header: X-Sig}}}
  basic: {connector: http, webhook: {verify: {scheme: basic, username: hub, password: planted-03}}}
  token: {connector: http, webhook: {verify: {scheme: token, secret: planted-04, query: code}}}
  refusing: {connector: http, url: "%[4]s/planted-05?key=planted-06", allow_private: true, headers: {X-Key: "${file:%[6]s}"}, sign: {scheme: standard-webhooks, secret: whsec_cGxhbnRlZC0wOHBsYW50ZWQtMDhwbGFudGVkLTA4}}
  dead: {connector: http, url: "%[5]s/planted-09", allow_private: true, auth: {scheme: bearer, token: planted-10}}
  inside: {connector: http, url: "http://localhost:9/planted-11", auth: {scheme: basic, username: hub, password: planted-12}}
  query: {connector: http, url: "%[4]s/", allow_private: true, auth: {scheme: api_key, query: k, key: planted-13}}
  oauth: {connector: http, url: "%[4]s/", allow_private: true, auth: {scheme: oauth2, token_url: "https://localhost:9/planted-14", client_id: hub, client_secret: planted-15}}
  proxied: {connector: http, url: "http://shop.example/planted-16", proxy: "http://hub:planted-17@127.0.0.1:9"}
routes:
  refusing: {from: [stripe, plain, basic, token], to: refusing, retry: {schedule: [10ms]}}
  dead: {from: stripe, to: dead, retry: {schedule: [10ms]}}
  inside: {from: stripe, to: inside, retry: {schedule: [10ms]}}
  query: {from: stripe, to: query, retry: {schedule: [10ms]}}
  oauth: {from: stripe, to: oauth, retry: {schedule: [10ms]}}
  proxied: {from: stripe, to: proxied, retry: {schedule: [10ms]}}
  unmapped: {from: stripe, map: {x: body.data.object.missing}, to: refusing}
`, dir, stripeSecret, plainSecret, refusing.URL, dead, planted(t)))
	answers := new(strings.Builder)
	say := func(door, body string, change func(*http.Request)) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.listen+"/in/"+door, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		change(req)
		code, text := do(t, h.client, req)
		fmt.Fprintln(answers, door, code, text)
	}
	stripe := stripeEvent("evt_1", "cus_planted-20")
	say("stripe", stripe, func(r *http.Request) { r.Header = signedBy("stripe", stripe, time.Now()) })
	say("stripe", stripe, func(r *http.Request) { r.Header = signedBy("stripe", stripe+" ", time.Now()) })
	say("plain", "planted-20", func(r *http.Request) { r.Header.Set("X-Sig", "planted-21") })
	say("plain", "gone", func(r *http.Request) { r.Header = signedBy("plain", "gone", time.Now()) })
	say("basic", "planted-20", func(r *http.Request) { r.SetBasicAuth("hub", "planted-22") })
	say("basic", "a", func(r *http.Request) { r.SetBasicAuth("hub", "planted-03") })
	say("token", "planted-20", func(r *http.Request) { r.URL.RawQuery = "code=planted-23" })
	say("token", "b", func(r *http.Request) { r.URL.RawQuery = "code=planted-04" })
	for _, route := range []string{"refusing", "dead", "inside", "query", "oauth", "proxied", "unmapped"} {
		until(t, "route "+route+" has given up", func() bool {
			return strings.Contains(h.log.String(), "route="+route) && h.dead(t, route) > 0
		})
	}
	_, metrics := h.ask(t, "/metrics")
	_, ready := h.ask(t, "/readyz")
	secrets := []string{stripeSecret, plainSecret, "cGxhbnRlZC0w", "planted-0", "planted-1", "planted-2"}
	for where, text := range map[string]string{"the log": h.log.String(), "answers": answers.String(), "metrics": metrics, "readyz": ready} {
		for _, s := range secrets {
			if at := strings.Index(text, s); at >= 0 {
				t.Errorf("%s is in %s: …%s…", s, where, text[max(0, at-200):min(len(text), at+50)])
			}
		}
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	kept := everythingKept(t, dir)
	for _, s := range secrets[:len(secrets)-1] { // the events that were signed are kept
		if at := strings.Index(kept, s); at >= 0 {
			t.Errorf("%s is in the data: …%q…", s, kept[max(0, at-100):min(len(kept), at+50)])
		}
	}
}

// planted is a file with a secret in it.
func planted(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("planted-07\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// dead is how many deliveries of a route have become dead letters.
func (h *running) dead(t *testing.T, route string) int {
	t.Helper()
	n, _ := strconv.Atoi(h.metric(t, fmt.Sprintf("tidewire_deliveries_total{outcome=%q,route=%q}", "dead", route)))
	return n
}
