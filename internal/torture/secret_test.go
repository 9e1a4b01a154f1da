package torture

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/load"
)

func TestTortureSecretsStaySecret(t *testing.T) {
	t.Parallel()
	must(t, secretsStaySecret(t, hub))
}

// markers are planted words by where they were planted. Each occurs nowhere else.
type markers struct {
	dir string
	// secrets must be nowhere at all, not even in the data; bodies may be where the events are kept, and there only.
	secrets, bodies map[string]string
	env             []string
}

func (m *markers) word(where string) string {
	return fmt.Sprintf("planted%02dof%x", len(m.secrets)+len(m.bodies)+10, []byte(where)[:min(6, len(where))])
}

// secret plants a word that must be nowhere.
func (m *markers) secret(where string) string {
	w := m.word(where)
	m.secrets[where] = w
	return w
}

// body plants a word in an event.
func (m *markers) body(where string) string {
	w := m.word(where)
	m.bodies[where] = w
	return w
}

// env plants a word in the environment, and returns how a config names it.
func (m *markers) variable(where string) string {
	return m.named(where, m.secret(where))
}

func (m *markers) named(where, value string) string {
	m.secrets[where] = value
	name := fmt.Sprintf("PLANTED_%d", len(m.secrets))
	m.env = append(m.env, name+"="+value)
	return "${env:" + name + "}"
}

// file plants a word in a file, and returns how a config names it.
func (m *markers) file(t *testing.T, where string) string {
	t.Helper()
	path := filepath.Join(m.dir, fmt.Sprintf("secret-%d", len(m.secrets)))
	if err := os.WriteFile(path, []byte(m.secret(where)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "${file:" + path + "}"
}

// signing plants a signing secret in the form that Standard Webhooks wants.
func (m *markers) signing(where string) string {
	return m.named(where, "whsec_"+base64.StdEncoding.EncodeToString([]byte((m.word(where) + strings.Repeat(".", 32))[:32])))
}

// spellings are the forms in which a word might get out.
func spellings(word string) []string {
	bare := strings.TrimPrefix(word, "whsec_")
	return []string{
		word, bare, url.QueryEscape(word), hex.EncodeToString([]byte(word)), base64.StdEncoding.EncodeToString([]byte(word)),
		base64.StdEncoding.EncodeToString([]byte("user:" + word)), base64.StdEncoding.EncodeToString([]byte("client:" + word)),
	}
}

// hits are the words that are in a text.
func hits(words map[string]string, where, text string) (found []string) {
	for _, name := range slices.Sorted(maps.Keys(words)) {
		for _, s := range spellings(words[name]) {
			if i := strings.Index(text, s); i >= 0 {
				found = append(found, fmt.Sprintf("%s is in %s: %q", name, where, text[max(0, i-150):i+len(s)]))
				break
			}
		}
	}
	return found
}

// provocateur is a set of targets, each of which fails in a way of its own. All tell what they were sent, as debug pages do.
type provocateur struct {
	t    *testing.T
	m    *markers
	echo *httptest.Server
}

func (p *provocateur) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var all strings.Builder
	_ = r.ParseForm()
	_ = r.Header.Write(&all)
	fmt.Fprintln(&all, r.URL.String(), r.Form.Encode())
	_, kind, _ := strings.Cut(r.URL.Path, "/")
	kind, _, _ = strings.Cut(kind, "/")
	switch kind {
	case "e302":
		w.Header().Set("Location", "http://user:"+p.m.secrets["redirect's password"]+"@127.0.0.1:1/"+p.m.secrets["redirect's path"]+"?q="+p.m.secrets["redirect's query"])
	case "retry":
		w.Header().Set("Retry-After", p.m.secrets["Retry-After"])
	case "token-refuses":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(400)
		_, password, _ := r.BasicAuth()
		fmt.Fprintf(w, `{"error":"invalid_client %s","error_description":"%s %s"}`, password, password, p.m.secrets["token endpoint's words"])
		return
	case "token-broken":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"%s","expires_in":`, p.m.secrets["token that cannot be read"])
		return
	case "token-odd":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"%s\u0000","token_type":"Bearer","expires_in":3600}`, p.m.secrets["token that is none"])
		return
	case "token-good":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"%s","token_type":"Bearer","expires_in":3600}`, p.m.secrets["token that is good"])
		return
	}
	status := map[string]int{"e500": 500, "e400": 400, "e302": 302, "e410": 410, "e429": 429, "retry": 503}[kind]
	w.WriteHeader(max(status, 200))
	_, _ = w.Write([]byte(all.String()))
}

// raw is a target that answers with the bytes that say makes of the request, and hangs up.
func (p *provocateur) raw(say func(request string) string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			var head strings.Builder
			for r := bufio.NewReader(c); ; {
				line, err := r.ReadString('\n')
				head.WriteString(strings.TrimSpace(line) + " ")
				if err != nil || line == "\r\n" {
					break
				}
			}
			_, _ = c.Write([]byte(say(head.String())))
			_ = c.Close()
		}
	}()
	p.t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// settings is the YAML of targets that fail in every way, with a route to each from stripe.
func (p *provocateur) settings() (connections, routes string, names []string) {
	m, t := p.m, p.t
	t.Helper()
	for _, where := range []string{"redirect's password", "redirect's path", "redirect's query", "Retry-After", "token endpoint's words",
		"token that cannot be read", "token that is none", "token that is good"} {
		m.secret(where)
	}
	p.echo = httptest.NewServer(p)
	t.Cleanup(p.echo.Close)
	secure := httptest.NewUnstartedServer(p) // nobody trusts its certificate
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	slow := make(chan struct{})
	mute := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-slow }))
	t.Cleanup(mute.Close)
	t.Cleanup(func() { close(slow) })
	echo := p.echo.URL
	var y, r strings.Builder
	add := func(name, base, more string) {
		names = append(names, name)
		fmt.Fprintf(&y, "  %s:\n    connector: http\n    url: \"%s%s?token=%s\"\n    allow_private: true\n    headers: {X-Planted: \"%s\"}\n    sign: {scheme: standard-webhooks, secret: \"%s\"}\n    %s\n",
			name, base, m.variable("path of "+name), m.variable("query of "+name), m.variable("header of "+name), m.signing("signing secret of "+name), more)
		fmt.Fprintf(&r, "  to-%s: {from: stripe, to: %s, timeout: 300ms, retry: {schedule: [50ms], max_retry_after: 100ms}}\n", name, name)
	}
	bearer := func(of string) string {
		return `auth: {scheme: bearer, token: "` + m.variable("bearer token of "+of) + `"}`
	}
	oauth := func(of, path string) string {
		return fmt.Sprintf(`auth: {scheme: oauth2, token_url: "%s/%s/%s", client_id: client, client_secret: "%s"}`,
			echo, path, m.variable("token address of "+of), m.variable("client secret of "+of))
	}
	add("e500", echo+"/e500/", bearer("e500"))
	add("e400", echo+"/e400/", `auth: {scheme: basic, username: user, password: "`+m.file(t, "password of e400")+`"}`)
	add("e302", echo+"/e302/", `auth: {scheme: api_key, key: "`+m.variable("key of e302")+`", header: X-Key}`)
	add("e410", echo+"/e410/", `auth: {scheme: api_key, key: "`+m.variable("key of e410")+`", query: key}`)
	add("e429", echo+"/e429/", bearer("e429"))
	add("retry", echo+"/retry/", bearer("retry"))
	add("mute", mute.URL+"/", bearer("mute"))
	add("closed", "http://"+load.FreeAddress(t.Context())+"/", bearer("closed"))
	add("plain", strings.Replace(echo, "http:", "https:", 1)+"/", bearer("plain"))
	add("untrusted", secure.URL+"/", bearer("untrusted"))
	add("nowhere", "http://no-such-host.invalid/", bearer("nowhere"))
	add("refuses", echo+"/ok/", oauth("refuses", "token-refuses"))
	add("broken", echo+"/ok/", oauth("broken", "token-broken"))
	add("odd", echo+"/ok/", oauth("odd", "token-odd"))
	add("granted", echo+"/e400/", oauth("granted", "token-good"))
	add("nonsense", "http://"+p.raw(func(q string) string { return "NONSENSE " + q + "\r\n" })+"/", bearer("nonsense"))
	add("garbled", "http://"+p.raw(func(q string) string { return "HTTP/1.1 200 OK\r\n" + q + "\r\nContent-Length: " + q + "\r\n\r\n" })+"/", bearer("garbled"))
	add("cut", "http://"+p.raw(func(q string) string { return "HTTP/1.1 500 " + q + "\r\nContent-Length: 100000\r\n\r\n" + q })+"/", bearer("cut"))
	add("proxied", "http://shop.example/", `proxy: "http://user:`+m.variable("proxy's password")+`@`+p.raw(func(q string) string {
		return "HTTP/1.1 407 " + q + "\r\nContent-Length: 0\r\n\r\n"
	})+`"`)
	r.WriteString("  mapped: {from: any, to: e400, map: {x: body.nothing.here, y: 'body.secret + \"" + m.variable("text of a map") + "\"'}}\n")
	r.WriteString("  filtered: {from: any, to: e400, when: 'int(body.secret) > size(\"" + m.variable("text of a filter") + "\")'}\n")
	return y.String(), r.String(), names
}

// secretsStaySecret provokes every way in which a target, a caller, a config and an expression can fail, at log level debug, and looks for what was planted in
// all that the hub says and keeps.
func secretsStaySecret(t *testing.T, bin string) []string {
	t.Helper()
	m := &markers{dir: t.TempDir(), secrets: map[string]string{}, bodies: map[string]string{}}
	p := &provocateur{t: t, m: m}
	targets, routes, names := p.settings()
	stripe := m.named("stripe's webhook secret", "whsec_planted4stripe7webhook")
	head := "log: {level: debug}\nconnections:\n  stripe: {connector: stripe, api_key: \"" + m.variable("stripe's api key") + "\", webhook: {secret: \"" + stripe + "\"}}\n" +
		"  any: {connector: http, webhook: {verify: {scheme: token, header: X-Token, secret: \"" + m.file(t, "callers' token") + "\"}, id: 'string(body.id)', max_body: 1KiB}}\n" +
		"  basic: {connector: http, webhook: {verify: {scheme: basic, username: user, password: \"" + m.variable("callers' password") + "\"}}}\n"
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, head+targets+"routes:\n"+routes)
	said := b.badConfigs(m)
	maps.Copy(said, b.verifies(m))
	child := b.start(m.env...)
	said["answers to callers"] = b.badCalls(m)
	g := b.generator("z")
	g.Secret, g.Events, g.Connections, g.KeysPerConnection = m.secrets["stripe's webhook secret"], 3, 1, 3
	if sent := b.post(g); sent.Count(load.Accepted) != 3 {
		t.Fatalf("%d of 3 accepted\n%s", sent.Count(load.Accepted), b.said())
	}
	b.failuresCame(names)
	for _, path := range []string{"/", "/metrics", "/readyz", "/healthz", "/nowhere?token=" + m.secret("query of an admin call"), "/api/v1/" + m.secret("path of an admin call")} {
		code, text, err := b.get("http://" + b.admin + path)
		said["admin "+strings.SplitN(path, "planted", 2)[0]] = strings.ReplaceAll(fmt.Sprint(code, text, err), path, "") // what was asked may be said again
	}
	_ = child.Stop(10 * time.Second)
	said["the hub's own log"] = b.everything()
	said["error texts of rows and the records' attributes"] = b.kept()
	var found []string
	for where, text := range said {
		found = append(append(found, hits(m.secrets, where, text)...), hits(m.bodies, where, text)...)
	}
	err := filepath.WalkDir(b.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found = append(found, hits(m.secrets, filepath.Base(path), string(data))...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		b.fault("what was planted as %s", f)
	}
	if n := len(m.secrets) + len(m.bodies); n < 50 {
		b.fault("only %d words were planted", n)
	}
	tell(t, "planted words", len(m.secrets)+len(m.bodies), "hits", len(found))
	return b.faults
}

// failuresCame waits until the routes have met their failures: dead letters, or what else stands for it.
func (b *bed) failuresCame(targets []string) {
	b.t.Helper()
	missing := ""
	if !await(b.t, 30*time.Second, func() bool {
		m, err := b.metrics()
		log := b.everything()
		missing = ""
		for _, name := range targets {
			if m[`tidewire_dead{route="to-`+name+`"}`] == 0 && (name != "e410" || !strings.Contains(log, "route=to-e410")) {
				missing += " " + name
			}
		}
		for _, route := range []string{"mapped", "filtered"} {
			if m[`tidewire_dead{route="`+route+`"}`] < 1 {
				missing += " " + route
			}
		}
		return err == nil && missing == ""
	}) {
		b.fault("these failures did not come about:%s; the hub said %s", missing, b.said())
	}
}

// badCalls calls in every way that is refused, and in some that are not, and returns all answers.
func (b *bed) badCalls(m *markers) string {
	b.t.Helper()
	var answers strings.Builder
	call := func(path, body string, headers map[string]string) {
		r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, "http://"+b.listen+path, strings.NewReader(body))
		if err != nil {
			b.t.Fatal(err)
		}
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		answer, err := client.Do(r)
		if err != nil {
			fmt.Fprintln(&answers, path, "no answer")
			return
		}
		defer answer.Body.Close()
		fmt.Fprint(&answers, answer.Status, answer.Header)
		_, _ = bufio.NewReader(answer.Body).WriteTo(&answers)
	}
	good := map[string]string{"X-Token": m.secrets["callers' token"]}
	with := func(key, value string) map[string]string {
		h := maps.Clone(good)
		h[key] = value
		return h
	}
	call("/in/stripe", `{"id":"evt_forged","x":"`+m.secret("body of a forged call")+`"}`, map[string]string{"Stripe-Signature": "t=1700000000,v1=" + m.secret("forged signature")})
	call("/in/stripe", `{"id":"evt_forged"}`, map[string]string{"Stripe-Signature": m.secret("signature that is none")})
	call("/in/any", `{"id":1}`, map[string]string{"X-Token": m.secret("wrong token")})
	call("/in/any?token="+m.secret("query of a call without a token"), `{"id":1}`, nil)
	call("/in/basic", `{}`, map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+m.secret("wrong password")))})
	call("/in/basic", `{}`, map[string]string{"Authorization": "Bearer " + m.secret("bearer token of a stranger")})
	call("/in/nobody?token="+m.secret("query of a call to nobody"), "", map[string]string{"Cookie": m.secret("cookie")})
	call("/in/"+m.secret("name of nobody"), "", nil)
	call("/"+m.secret("path of nothing"), "", nil)
	call("/in/any", `{"id":"cut","x":"`+m.secret("body that is no JSON")+`"`, good)
	call("/in/any", `{"id":"a","id":"b","x":"`+m.secret("body that says two things")+`"}`, good)
	call("/in/any", `{"no":"`+m.secret("body without an id")+`"}`, good)
	call("/in/any", strings.Repeat(m.secret("body that is too large"), 200), good)
	call("/in/any", `{"id":"zip"}`, with("Content-Encoding", m.secret("content encoding")))
	call("/in/any?sig="+m.secret("query of a good call"), `{"id":"one","secret":"`+m.body("body whose map fails")+`"}`, with("X-Forwarded-For", m.secret("forwarded for")))
	call("/in/any", `{"id":"two","secret":"`+m.body("body whose filter fails")+`","nothing":"`+m.body("body with another shape")+`"}`, with("Authorization", m.secret("authorization of a good call")))
	call("/in/any", `{"id":"two","secret":"`+m.secret("another body under a known id")+`"}`, with("User-Agent", m.secret("user agent")))
	return answers.String()
}

// badConfigs has configs checked, and started, that are wrong in a way that touches a secret.
func (b *bed) badConfigs(m *markers) map[string]string {
	b.t.Helper()
	said := make(map[string]string)
	before := len(m.env)
	for name, y := range map[string]string{
		"user in an address":    `{connector: http, url: "http://user:` + m.variable("password in an address") + `@shop.example/"}`,
		"no address":            `{connector: http, url: "` + m.variable("address that is none") + `"}`,
		"a header's line break": `{connector: http, url: "http://shop.example/", headers: {X-Key: "` + m.variable("header with a break") + "\\r\\nX: y\"}}",
		"no key":                `{connector: http, url: "https://shop.example/", tls: {certificate: "` + m.variable("certificate that is none") + `", key: "` + m.variable("key that is none") + `"}}`,
		"no authority":          `{connector: http, url: "https://shop.example/", tls: {ca: "` + m.variable("authority that is none") + `"}}`,
		"no proxy":              `{connector: http, url: "http://shop.example/", proxy: "` + m.variable("proxy that is none") + `:x"}`,
		"no signing secret":     `{connector: http, url: "http://shop.example/", sign: {scheme: standard-webhooks, secret: "` + m.variable("signing secret that is none") + `"}}`,
		"no public key":         `{connector: http, webhook: {verify: {scheme: paypal, certificate: "` + m.variable("public key that is none") + `"}}}`,
		"a rate":                `{connector: http, webhook: {verify: {scheme: token, secret: "` + m.variable("token beside a mistake") + `"}, rate_limit: "` + m.variable("rate that is none") + `"}}`,
		"an expression":         `{connector: http, webhook: {verify: {scheme: token, header: X, secret: "` + m.variable("token beside an expression") + `"}, id: 'body.id + ` + m.variable("text of an expression") + `'}}`,
		"a file's lines":        `{connector: http, url: "http://shop.example/", auth: {scheme: bearer, token: "` + m.file(b.t, "token from a file") + "\\n\"}}",
	} {
		said["config: "+name] = b.says(m, "connections: {shop: "+y+"}\n")
	}
	said["config: database"] = b.says(m, "connections: {shop: {connector: http, url: \"http://shop.example/\"}}\n"+
		"cluster: {kafka: {brokers: [nowhere.invalid:9092], sasl: {mechanism: plain, username: hub, password: \""+m.variable("password of a broker")+"\"}}, postgres: \"postgres://hub:"+
		m.variable("password of a database")+"@nowhere.invalid:none/hub?sslmode=nonsense\"}\n")
	if len(m.env) == before {
		b.t.Fatal("nothing was planted")
	}
	return said
}

// says is what `tidewire validate` says of a config, in both forms.
func (b *bed) says(m *markers, y string) string {
	b.t.Helper()
	file := filepath.Join(m.dir, "bad.yaml")
	if err := os.WriteFile(file, []byte(y), 0o600); err != nil {
		b.t.Fatal(err)
	}
	var all strings.Builder
	for _, args := range [][]string{{"validate", "--config", file}, {"validate", "--json", "--config", file}} {
		cmd := exec.CommandContext(b.t.Context(), b.bin, args...)
		cmd.Env = append(os.Environ(), m.env...)
		text, _ := cmd.CombinedOutput()
		all.Write(text)
	}
	if !strings.Contains(all.String(), "bad.yaml") {
		b.fault("validate says nothing of %s: %s", strings.Split(y, "{")[1], all.String())
	}
	return all.String()
}

// verifies has captured calls explained that are refused.
func (b *bed) verifies(m *markers) map[string]string {
	b.t.Helper()
	said := make(map[string]string)
	for scheme, header := range map[string]string{
		"stripe": "Stripe-Signature: t=1700000000,v1={}", "github": "X-Hub-Signature-256: sha256={}", "gitlab-token": "X-Gitlab-Token: {}",
		"slack": "X-Slack-Signature: v0={}\nX-Slack-Request-Timestamp: 1700000000", "basic": "Authorization: Basic {}", "shopify": "X-Shopify-Hmac-Sha256: {}",
	} {
		file := filepath.Join(m.dir, "verify-"+scheme)
		if err := os.WriteFile(file, []byte(m.secret("secret to verify "+scheme)), 0o600); err != nil {
			b.t.Fatal(err)
		}
		request := "POST /in/x?q=" + m.secret("query to verify "+scheme) + " HTTP/1.1\n" + strings.ReplaceAll(header, "{}", m.secret("proof to verify "+scheme)) +
			"\nAuthorization: " + m.secret("authorization to verify "+scheme) + "\n\n{\"x\":\"" + m.secret("body to verify "+scheme) + "\"}"
		for _, form := range []string{"--json=false", "--json"} {
			args := []string{"verify", form, "--scheme", scheme, "--secret-file", file, "--at", "2023-11-14T22:13:20Z"}
			if scheme == "basic" {
				args = append(args, "--username", "user")
			}
			cmd := exec.CommandContext(b.t.Context(), b.bin, args...)
			cmd.Stdin = strings.NewReader(request)
			text, _ := cmd.CombinedOutput()
			if !strings.Contains(string(text), scheme) {
				b.fault("verify says nothing of %s: %s", scheme, text)
			}
			said["verify "+scheme+" "+form] = string(text)
		}
	}
	return said
}

// kept is what a stopped hub has written down beside events: all texts of the store's rows, and the attributes of the log's records. The bodies are left out.
func (b *bed) kept() string {
	b.t.Helper()
	conn, err := zsqlite.OpenConn(filepath.Join(b.data, "tidewire.db"), zsqlite.OpenReadWrite)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	var all strings.Builder
	var tables []string
	read := func(query string, f func(*zsqlite.Stmt)) {
		if err := sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{ResultFunc: func(s *zsqlite.Stmt) error { f(s); return nil }}); err != nil {
			b.t.Fatal(err)
		}
	}
	read("SELECT name FROM sqlite_schema WHERE type = 'table'", func(s *zsqlite.Stmt) { tables = append(tables, s.ColumnText(0)) })
	errors := 0
	for _, table := range tables {
		read(`SELECT * FROM "`+table+`"`, func(s *zsqlite.Stmt) {
			for i := range s.ColumnCount() {
				name := s.ColumnName(i)
				if name == "payload" || name == "body" {
					continue
				}
				if name == "error" || name == "history" {
					errors++
				}
				fmt.Fprintln(&all, table, name, s.ColumnText(i))
			}
		})
	}
	if errors == 0 {
		b.fault("no error texts were found in the store")
	}
	return all.String()
}
