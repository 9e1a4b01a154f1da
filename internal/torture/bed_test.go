package torture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// Secrets of the hubs under test.
const (
	stripeSecret = "whsec_of_the_torture_room"
	sendSecret   = "whsec_dGhlIHRvcnR1cmUgcm9vbSdzIG93biBzaWduaW5nIGtleQ=="
)

// bed is one hub with its config, its data and a sink for its targets.
type bed struct {
	t             *testing.T
	bin           string
	dir, data     string
	listen, admin string
	config        string // path
	output        string // path of what the hub said
	storage       string // of the config: where the hub keeps what it has
	rack          *rack  // of a hub of a cluster; nil for one by itself
	sink          *load.Sink
	faults        []string
}

// newBed writes a config. settings is the YAML from "connections:" on, where {sink} stands for the sink's address and {dir} for the
// bed's folder; an empty one is one route "all" from stripe to the path /all.
func newBed(t *testing.T, bin string, rules map[string]load.Rule, settings string) *bed {
	t.Helper()
	dir := t.TempDir()
	b := &bed{
		t: t, bin: bin, dir: dir, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "tidewire.yaml"), output: filepath.Join(dir, "output"),
		listen: load.FreeAddress(t.Context()), admin: load.FreeAddress(t.Context()), storage: "data_dir: {data}\n",
	}
	var err error
	if b.sink, err = load.NewSink(load.SinkConfig{Rules: rules}); err != nil {
		t.Fatal(err)
	}
	sink := b.sink // a scenario may go on with another
	t.Cleanup(func() { _ = sink.Close() })
	if settings == "" {
		settings = oneRoute()
	}
	b.configure(settings)
	return b
}

// connections is the YAML of a stripe connection and of one http target for each path of the sink.
func connections(paths ...string) string {
	var y strings.Builder
	fmt.Fprintf(&y, "connections:\n  stripe: {connector: stripe, webhook: {secret: %s}}\n", stripeSecret)
	for _, p := range paths {
		fmt.Fprintf(&y, "  %s: {connector: http, url: \"http://{sink}/%s\", allow_private: true, sign: {scheme: standard-webhooks, secret: %s}}\n", p, p, sendSecret)
	}
	return y.String()
}

// oneRoute is the YAML of one route "all" from stripe to the path /all.
func oneRoute() string {
	return connections("all") + "routes:\n  all: {from: stripe, to: all}\n"
}

func (b *bed) configure(settings string) {
	b.t.Helper()
	head := "server: {listen: \"{listen}\", admin: \"{admin}\", shutdown_timeout: 5s}\n" + b.storage
	text := strings.NewReplacer("{listen}", b.listen, "{admin}", b.admin, "{data}", b.data, "{dir}", b.dir, "{sink}", b.sink.Address()).Replace(head + settings)
	if err := os.WriteFile(b.config, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) fault(format string, args ...any) {
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

func (b *bed) command(env ...string) load.Command {
	return load.Command{
		Args: []string{b.bin, "serve", "--config", b.config}, Env: env, Output: b.output,
		ReadyURL: "http://" + b.admin + "/readyz", Within: b.bear(15 * time.Second),
	}
}

// start starts the hub and waits until it is ready.
func (b *bed) start(env ...string) *load.Child {
	b.t.Helper()
	child, err := load.Start(b.t.Context(), b.command(env...))
	if err != nil {
		b.t.Fatalf("%v\n%s", err, b.said())
	}
	b.t.Cleanup(child.Kill)
	return child
}

// said is the end of what the hub wrote.
func (b *bed) said() string {
	data, err := os.ReadFile(b.output)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4000):])
}

// stop stops the hub gracefully; anything but an exit code of 0 in time is a violation.
func (b *bed) stop(child *load.Child) {
	if err := child.Stop(10 * time.Second); err != nil {
		b.fault("graceful stop: %v; it said %s", err, b.said())
	}
}

// generator posts to the bed's stripe connection.
func (b *bed) generator(source string) load.Generator {
	return load.Generator{
		Address: b.listen, Path: "/in/stripe", Secret: stripeSecret, Source: source,
		Connections: 16, KeysPerConnection: 4, Tries: 10_000, Grace: time.Minute,
	}
}

// post runs a generator to its end.
func (b *bed) post(g load.Generator) *load.Sent {
	b.t.Helper()
	sent, err := g.Run(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return sent
}

// background runs a generator until stop is called, which returns its record.
func (b *bed) background(g load.Generator) (stop func() *load.Sent) {
	ctx, cancel := context.WithCancel(b.t.Context())
	g.Duration = time.Hour
	type ended struct {
		sent *load.Sent
		err  error
	}
	connected := make(chan struct{})
	g.Connected = func() { close(connected) }
	done := make(chan ended, 1)
	go func() { // ends when ctx does; stop or the clean-up waits for it
		sent, err := g.Run(ctx)
		done <- ended{sent, err}
		close(done)
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
	// A hub that is killed before it is connected to is no fault under load.
	select {
	case <-connected:
	case e := <-done:
		b.t.Fatal(e.err)
	}
	return func() *load.Sent {
		cancel()
		e := <-done
		if e.err != nil {
			b.t.Fatal(e.err)
		}
		return e.sent
	}
}

// check compares what was posted with what came to a path.
func (b *bed) check(sent *load.Sent, path string, duplicates int) load.Verdict {
	v := load.Check(sent, b.sink.Receipts(path), load.Expect{})
	if !v.Clean(duplicates) {
		b.fault("%s: %s (allowed duplicates: %d)", path, v, duplicates)
	}
	return v
}

// metrics reads the samples of /metrics by their full names.
func (b *bed) metrics() (map[string]float64, error) {
	code, body, err := b.get("http://" + b.admin + "/metrics")
	if err != nil || code != http.StatusOK {
		return nil, errors.Join(err, fmt.Errorf("/metrics answered %d", code))
	}
	m := make(map[string]float64)
	for s := bufio.NewScanner(strings.NewReader(body)); s.Scan(); {
		name, value, ok := strings.Cut(s.Text(), " ")
		if at := strings.LastIndex(s.Text(), "} "); at >= 0 {
			name, value = s.Text()[:at+1], s.Text()[at+2:]
		}
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			m[name] = v
		}
	}
	return m, nil
}

// client keeps no connections: hubs come and go at their addresses.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}

func (b *bed) get(url string) (code int, body string, err error) {
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// exit runs a hub that is expected to end by itself.
func (b *bed) exit(within time.Duration, args ...string) (code int, output string, took time.Duration) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), within)
	defer cancel()
	begin := time.Now()
	text, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	took = time.Since(begin)
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		b.t.Fatal(err)
	}
	if ctx.Err() != nil {
		return -1, string(text), took
	}
	if err != nil {
		return err.(*exec.ExitError).ExitCode(), string(text), took //nolint:errorlint // checked above
	}
	return 0, string(text), took
}

// pause waits, or until the test ends.
func pause(t *testing.T, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal("the test has ended")
	}
}

// await polls until ok holds, and reports whether it did within the time.
func await(t *testing.T, within time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(within); !ok(); pause(t, 5*time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
