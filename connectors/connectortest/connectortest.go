// Package connectortest is the suite that every connector passes. A connector declares its faces in a Suite, and the suite tests exactly those.
//
// Call Run from a test that is not parallel: it looks for goroutines that were left behind.
package connectortest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
)

// Suite declares what a connector promises. In every Settings text {{url}} stands for the address of the suite's server and {{dir}} for a fresh folder;
// keys stand one to a line, so that the suite can add its own.
type Suite struct {
	Connector connectors.Connector
	// Secrets are the secrets that the Settings texts below hold. They must be told apart from everything else: plant markers of at least eight characters.
	Secrets []string
	// Bad are settings that Open must refuse.
	Bad []Bad
	// Receive are signed calls, for connectors with that face.
	Receive []Signed
	// Send is for connectors with that face.
	Send *Send

	grace time.Duration // for the tests of the suite itself; 0 means the constant
}

// Bad is a mistake in settings.
type Bad struct {
	// Name says what the mistake is.
	Name string
	// Settings is YAML.
	Settings string
	// Key is the setting that the problem must name, such as "auth.token". Empty where a whole section is meant.
	Key string
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.run(t, s) })
	}
}

// checks are what Run does, in order.
var checks = []struct {
	name string
	run  func(t testing.TB, s Suite)
}{
	{"declared faces are tested", declared},
	{"wrong settings are refused by name", refused},
	{"signed calls pass", passes},
	{"changed calls are refused", changed},
	{"the clock is judged", clock},
	{"the same call gives the same events", same},
	{"statuses become outcomes", statuses},
	{"lost answers are tried again", lost},
	{"answers are bounded", bounded},
	{"redirects are not followed", redirects},
	{"the idempotency key reaches the system", keys},
	{"closing is clean", closing},
}

func declared(t testing.TB, s Suite) {
	c := s.Connector
	if c.Name == "" || c.Title == "" || c.Settings == nil || c.Open == nil {
		t.Errorf("connector %q lacks a name, a title, settings or Open", c.Name)
	}
	if c.Faces.Receive != (len(s.Receive) > 0) {
		t.Errorf("receive: declared %v, but the suite has %d signed calls", c.Faces.Receive, len(s.Receive))
	}
	if c.Faces.Send != (s.Send != nil) {
		t.Errorf("send: declared %v, but the suite has settings for it: %v", c.Faces.Send, s.Send != nil)
	}
	if c.Faces == (connectors.Faces{}) {
		t.Errorf("connector %s has no face at all", c.Name)
	}
}

// each calls f with every good settings text of the suite.
func (s Suite) each(f func(settings string)) {
	for _, r := range s.Receive {
		f(r.Settings)
	}
	if s.Send != nil {
		f(s.Send.Settings)
	}
}

func refused(t testing.TB, s Suite) {
	w := newWorld(t, s)
	s.each(func(settings string) {
		if c, err := w.try(settings); err != nil {
			t.Errorf("good settings are refused: %v\n%s", err, settings)
		} else if err := c.Close(); err != nil {
			t.Errorf("closing what was never used: %v", err)
		}
		_, err := w.try(strings.TrimRight(settings, "\n") + "\nno_such_setting: 1\n")
		w.named(err, "no_such_setting", "an unknown key")
	})
	for _, b := range s.Bad {
		c, err := w.try(b.Settings)
		if err == nil {
			c.Close()
		}
		w.named(err, b.Key, b.Name)
	}
	if n, err := w.server.connections(); n > 0 || err != nil {
		t.Errorf("opening made %d connections (%v)", n, err)
	}
}

// named wants a problem that names a key.
func (w *world) named(err error, key, what string) {
	w.Helper()
	if err == nil {
		w.Errorf("%s: accepted", what)
		return
	}
	w.clean(what, err.Error())
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		w.Errorf("%s: the error is a %T, want config.Problems: %v", what, err, err)
		return
	}
	for _, p := range problems {
		if p.Path == key || strings.HasSuffix(p.Path, "."+key) || key != "" && strings.HasPrefix(p.Path, key+".") {
			return
		}
	}
	w.Errorf("%s: no problem names %q: %v", what, key, err)
}

// world is what one check works in: a server, a folder, a log, and everything that was said.
type world struct {
	testing.TB
	suite  Suite
	server *server
	dir    string
	log    safeBuffer
}

func newWorld(t testing.TB, s Suite) *world {
	w := &world{TB: t, suite: s, server: newServer(t, s), dir: t.TempDir()}
	t.Cleanup(func() { w.clean("the log", w.log.String()) })
	return w
}

// try opens a connection of settings.
func (w *world) try(settings string) (connectors.Connection, error) {
	settings = strings.NewReplacer("{{url}}", w.server.url, "{{dir}}", w.dir).Replace(settings)
	n, err := config.ParseNode("suite.yaml", []byte(settings), config.Options{})
	if err != nil {
		return nil, err
	}
	return w.suite.Connector.Open(n, connectors.Env{
		Name:   "suite",
		Logger: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
}

// open is try for settings that must be good. The connection is closed with the test.
func (w *world) open(settings string) connectors.Connection {
	w.Helper()
	c, err := w.try(settings)
	if err != nil {
		w.Fatalf("open: %v", err)
	}
	w.Cleanup(func() {
		if err := c.Close(); err != nil {
			w.Errorf("close: %v", err)
		}
	})
	return c
}

// clean wants text to hold no secret in any form that it could have taken on its way.
func (w *world) clean(what, text string) {
	w.Helper()
	for _, secret := range w.suite.Secrets {
		for _, form := range []string{
			secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
			hex.EncodeToString([]byte(secret)),
		} {
			if strings.Contains(text, form) {
				w.Errorf("%s shows a secret (%.3s…): %q", what, secret, text)
				return
			}
		}
	}
}

func closing(t testing.TB, s Suite) {
	before := goleak.IgnoreCurrent()
	w := newWorld(t, s)
	s.each(func(settings string) {
		c, err := w.try(settings)
		if err != nil {
			t.Errorf("open: %v", err)
			return
		}
		if target, ok := c.(connectors.Target); ok {
			w.server.say(answer{code: 200})
			ctx, cancel := withTimeout(t)
			if _, err := s.send(ctx, target, delivery("closing")); err != nil {
				t.Errorf("send: %v", err)
			}
			if err := c.Check(ctx); err != nil {
				t.Errorf("check: %v", err)
			}
			cancel()
		}
		for i := range 2 {
			if err := c.Close(); err != nil {
				t.Errorf("close, time %d: %v", i+1, err)
			}
		}
	})
	w.server.close()
	if err := goleak.Find(before); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// safeBuffer is a log that many write.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
