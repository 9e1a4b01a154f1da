package app_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
	"github.com/tidewire/tidewire/internal/admin"
	"github.com/tidewire/tidewire/internal/app"
)

// quickstart is the example's config, with its addresses and folders moved into the test.
func quickstart(t *testing.T, dir, office string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "quickstart", "tidewire.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	moved := string(text)
	for old, replacement := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:0", "127.0.0.1:8081": "127.0.0.1:0", "http://127.0.0.1:9400": office, "./data/quickstart": dir,
	} {
		if !strings.Contains(moved, old) {
			t.Fatalf("the quickstart has no %s", old)
		}
		moved = strings.ReplaceAll(moved, old, replacement)
	}
	return moved
}

const (
	quickstartSecret = "whsec_quickstart_only"
	officeSecret     = "whsec_cXVpY2tzdGFydC1vbmx5LW5vdC1hLXNlY3JldC0wMDE="
)

// TestTheQuickstartCarriesAnEvent is the whole journey: a signed webhook in, a mapped and signed call out, a line in a file, counts that agree,
// and none of it again after a restart.
func TestTheQuickstartCarriesAnEvent(t *testing.T) { bothModes(t, theQuickstartCarriesAnEvent) }

func theQuickstartCarriesAnEvent(t *testing.T, in mode) {
	t.Helper()
	office, dir := receiving(t, nil), t.TempDir()
	text := in(quickstart(t, dir, office.URL))
	h := serve(t, text)
	if code := h.post(t, stripeEvent("evt_1", "cus_1"), quickstartSecret); code != http.StatusOK {
		t.Fatalf("a signed event was answered %d", code)
	}
	if code := h.post(t, stripeEvent("evt_2", "cus_1"), "whsec_of_somebody_else"); code != http.StatusUnauthorized {
		t.Fatalf("a forged event was answered %d", code)
	}
	got := office.next(t)
	wantJSON(t, got.body, `{"event": "evt_1", "kind": "payment", "invoice": "in_evt_1", "customer": "Ada", "email": "ada@shop.example",
		"total": "19.99", "currency": "eur", "lines": [{"text": "Tea", "quantity": 2}]}`)
	v, err := signature.New(signature.Settings{Scheme: "standard-webhooks", Secret: config.NewSecret(officeSecret)})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Verify(signature.Request{Method: http.MethodPost, Header: got.header, Body: []byte(got.body), At: time.Now()}); err != nil {
		t.Errorf("what the back office got is not signed as it should be: %v", err)
	}
	for name, want := range map[string]string{"Idempotency-Key": "evt_1:stripe:paid-invoices", "Webhook-Id": "evt_1:stripe:paid-invoices", "Ce-Id": "evt_1", "Ce-Type": "invoice.paid"} {
		if got := got.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	delivered := func(route string) string {
		return `tidewire_deliveries_total{outcome="delivered",route="` + route + `"}`
	}
	for _, route := range []string{"paid-invoices", "journal"} {
		until(t, route+" counts its delivery", func() bool { return h.metric(t, delivered(route)) == "1" })
		until(t, route+" has finished", func() bool { return h.metric(t, `tidewire_route_lag_events{route="`+route+`"}`) == "0" })
	}
	if got := h.metric(t, delivered("money-back")); got != "0" {
		t.Errorf("money-back counts %s deliveries", got)
	}
	ready(t, h, "journal", "money-back", "paid-invoices")
	if err := h.stop(); err != nil {
		t.Fatalf("stopping: %v", err)
	}
	journal, err := os.ReadFile(filepath.Join(dir, "ledger.jsonl"))
	if err != nil || strings.Count(string(journal), "\n") != 1 || !strings.Contains(string(journal), "evt_1") {
		t.Errorf("the journal holds %q (%v)", journal, err)
	}
	if strings.Contains(h.log.String(), quickstartSecret) || strings.Contains(h.log.String(), officeSecret) {
		t.Error("the log shows a secret")
	}

	again := serve(t, text)
	if code := again.post(t, stripeEvent("evt_1", "cus_1"), quickstartSecret); code != http.StatusOK {
		t.Errorf("a repeat was answered %d", code)
	}
	if code := again.post(t, stripeEvent("evt_3", "cus_1"), quickstartSecret); code != http.StatusOK {
		t.Errorf("the next event was answered %d", code)
	}
	if got := office.next(t).header.Get("Ce-Id"); got != "evt_3" {
		t.Errorf("after the restart %s was delivered", got)
	}
}

// ready checks the answer of /readyz against the routes that have to be in it.
func ready(t *testing.T, h *running, routes ...string) {
	t.Helper()
	code, text := h.ask(t, "/readyz")
	var r admin.Readiness
	if err := json.Unmarshal([]byte(text), &r); err != nil || code != http.StatusOK || !r.Ready {
		t.Fatalf("readyz: %d %v %s", code, err, text)
	}
	var names []string
	for _, state := range r.Routes {
		if names = append(names, state.Route); state.State != "running" {
			t.Errorf("route %s is %s: %s", state.Route, state.State, state.Reason)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, routes) {
		t.Errorf("readyz lists %v", names)
	}
}

func wantJSON(t *testing.T, got, want string) {
	t.Helper()
	normal := func(s string) string {
		var v any
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			t.Fatalf("%v in %s", err, s)
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if normal(got) != normal(want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// TestStoppingFinishesWhatIsInHand stops a hub whose target is thinking: the delivery is finished, written down and not made again.
func TestStoppingFinishesWhatIsInHand(t *testing.T) { bothModes(t, stoppingFinishesWhatIsInHand) }

func stoppingFinishesWhatIsInHand(t *testing.T, in mode) {
	t.Helper()
	arrived, answer := make(chan struct{}, 1), make(chan struct{})
	office := receiving(t, func(call) int {
		arrived <- struct{}{}
		<-answer
		return http.StatusOK
	})
	answered := sync.OnceFunc(func() { close(answer) })
	t.Cleanup(answered) // also when the test fails: the target waits for its calls
	text := in(simple(t.TempDir(), office.URL, ""))
	h := serve(t, text)
	h.post(t, stripeEvent("evt_1", "cus_1"), stripeSecret)
	<-arrived
	h.cancel()
	until(t, "the hub says that it stops", func() bool { return strings.Contains(h.log.String(), "hub is stopping") })
	answered()
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	again := serve(t, text)
	again.post(t, stripeEvent("evt_2", "cus_1"), stripeSecret)
	for _, want := range []string{"evt_1", "evt_2"} {
		if got := office.next(t).header.Get("Ce-Id"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestStoppingIsBounded stops a hub whose target never answers: it ends, and the delivery is made after the next start, under the same key.
func TestStoppingIsBounded(t *testing.T) {
	t.Parallel()
	keys, release := make(chan string, 10), make(chan struct{})
	office := receiving(t, func(c call) int {
		keys <- c.header.Get("Idempotency-Key")
		<-release
		return http.StatusOK
	})
	released := sync.OnceFunc(func() { close(release) })
	t.Cleanup(released)
	text := strings.Replace(simple(t.TempDir(), office.URL, ", timeout: 5m"), "shutdown_timeout: 5s", "shutdown_timeout: 50ms", 1)
	h := serve(t, text)
	h.post(t, stripeEvent("evt_1", "cus_1"), stripeSecret)
	first := <-keys
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	released()
	serve(t, text)
	if second := <-keys; second != first {
		t.Errorf("first sent as %s, then as %s", first, second)
	}
}

func TestAPortThatIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, door := range []string{"listen", "admin"} {
		dir, log := filepath.Join(t.TempDir(), "data"), new(lines)
		text := strings.Replace(simple(dir, "http://127.0.0.1:1/", ""), door+`: "127.0.0.1:0"`, door+`: "`+taken.Addr().String()+`"`, 1)
		plan := planOf(t, text, log)
		err := app.Serve(t.Context(), plan, app.Options{Logger: log.logger(config.Log{})})
		if !errors.Is(err, app.ErrEnvironment) || !strings.Contains(err.Error(), "server."+door+": cannot listen on "+taken.Addr().String()) {
			t.Errorf("%s: %v", door, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the data_dir was touched (%v)", door, err)
		}
	}
}

func TestASecondHubOnTheSameData(t *testing.T) {
	t.Parallel()
	text := simple(t.TempDir(), "http://127.0.0.1:1/", "")
	h := serve(t, text)
	log := new(lines)
	err := app.Serve(t.Context(), planOf(t, text, log), app.Options{Logger: log.logger(config.Log{})})
	if !errors.Is(err, app.ErrEnvironment) || !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), app.File) {
		t.Errorf("the second hub says: %v", err)
	}
	if code := h.post(t, stripeEvent("evt_1", "cus_1"), stripeSecret); code != http.StatusOK {
		t.Errorf("after that the first hub answers %d", code)
	}
}

func TestADataDirThatCannotBe(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log := new(lines)
	err := app.Serve(t.Context(), planOf(t, simple(filepath.Join(file, "data"), "http://127.0.0.1:1/", ""), log), app.Options{Logger: log.logger(config.Log{})})
	if !errors.Is(err, app.ErrEnvironment) || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

// TestTheHubDoesNotSendToItself routes events back to the hub's own doors, by several of their names.
func TestTheHubDoesNotSendToItself(t *testing.T) {
	t.Parallel()
	for name, doors := range map[string]struct{ listen, url string }{
		"by address":    {"127.0.0.1:%d", "http://127.0.0.1:%d/in/stripe"},
		"all addresses": {":%d", "http://127.0.0.1:%d/in/stripe"},
		"by name":       {"localhost:%d", "http://127.0.0.1:%d/in/stripe"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := new(lines)
			text := simple(t.TempDir(), strings.ReplaceAll(doors.url, "%d", "PORT"), ", retry: {schedule: [1h]}")
			text = strings.Replace(text, `listen: "127.0.0.1:0"`, `listen: "`+strings.ReplaceAll(doors.listen, "%d", "PORT")+`"`, 1)
			h := onFreePort(t, text, log)
			h.post(t, stripeEvent("evt_1", "cus_1"), stripeSecret)
			until(t, "the delivery is refused", func() bool { return strings.Contains(log.String(), "this hub's own listener") })
			if got := h.metric(t, `tidewire_events_received_total{connection="stripe",result="unauthorized"}`); got != "" && got != "0" {
				t.Errorf("the hub has called itself: %s", got)
			}
		})
	}
}

// onFreePort runs a hub with PORT in its config replaced by a port that is free; another process may take it meanwhile, then with another.
func onFreePort(t *testing.T, text string, log *lines) *running {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	h := run(t, planOf(t, strings.ReplaceAll(text, "PORT", port), log), log)
	h.listen = net.JoinHostPort("127.0.0.1", port)
	return h
}

func TestLoadTellsAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	path := written(t, `
server: {listen: "127.0.0.1:0", port: 1}
connections:
  stripe: {connector: stripe, webhook: {secret: whsec_not_to_be_seen, tolerance: -1}}
  shop: {connector: htttp}
  office: {connector: http, url: "ftp://office"}
routes:
  one: {from: stripe, when: "type =", to: office}
  two: {from: nowhere, to: office}
  three: {from: office, to: stripe}
`)
	plan, err := app.Load(path, func(config.Log) *slog.Logger { return slog.New(slog.DiscardHandler) })
	problems, ok := errors.AsType[config.Problems](err)
	if !ok || plan != nil {
		t.Fatalf("got %v, %v", plan, err)
	}
	text := problems.Error()
	for _, want := range []string{"port", `there is no connector "htttp"`, "known connectors: file, http, stripe", "tolerance", "url", "when", "nowhere"} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing about %s in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "whsec_not_to_be_seen") {
		t.Errorf("the secret is shown:\n%s", text)
	}
	for _, p := range problems {
		if p.Line == 0 {
			t.Errorf("a problem without a place: %v", p)
		}
	}
}
