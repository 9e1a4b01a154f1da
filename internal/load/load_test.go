package load_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "whsec_test_secret_of_the_harness"

func sink(t *testing.T, c load.SinkConfig) *load.Sink {
	t.Helper()
	s, err := load.NewSink(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func run(t *testing.T, g load.Generator) *load.Sent {
	t.Helper()
	sent, err := g.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

func TestGeneratorAndSinkAddUp(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]load.Rule{
		"all well":                  {},
		"some fail twice":           {Share: 0.3, Fail: 2},
		"some are asked to wait":    {Share: 0.02, Fail: 1, Status: 429, RetryAfter: time.Second},
		"some are reset after read": {Share: 0.1, Fail: 1, Reset: true},
		"huge answers":              {HugeBody: 300_000},
		"slow":                      {Delay: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sink(t, load.SinkConfig{Rules: map[string]load.Rule{"/in/x": rule}})
			sent := run(t, load.Generator{
				Address: s.Address(), Path: "/in/x", Secret: secret, Source: "a1",
				Connections: 8, KeysPerConnection: 4, Events: 200, Types: load.StripeTypes(), Seed: 1,
			})
			if got := sent.Count(load.Accepted); got != 200 {
				t.Errorf("accepted %d of 200", got)
			}
			if got := sent.Ack.Count(); got != 200 {
				t.Errorf("%d latencies for 200 events", got)
			}
			v := load.Check(sent, s.Receipts("/in/x"), load.Expect{})
			if !v.Clean(0) || v.Delivered != 200 {
				t.Errorf("verdict: %s", v)
			}
			if fails := rule.Fail > 0; fails != (sent.Resent > 0) {
				t.Errorf("resent %d", sent.Resent)
			}
			if rule.Reset != (sent.Reconnects > 0) {
				t.Errorf("reconnects %d", sent.Reconnects)
			}
		})
	}
}

func TestGeneratorKeepsItsPace(t *testing.T) {
	t.Parallel()
	s := sink(t, load.SinkConfig{Rules: map[string]load.Rule{"/in/x": {}}})
	sent := run(t, load.Generator{
		Address: s.Address(), Path: "/in/x", Source: "a1", Connections: 4, Rate: 400, Duration: 500 * time.Millisecond,
	})
	if n := len(sent.Posts); n != 200 {
		t.Errorf("400 a second for half a second gave %d events, want 200", n)
	}
	last := int64(0)
	for _, p := range sent.Posts {
		last = max(last, p.Due)
	}
	if got, want := time.Duration(last-sent.Start.UnixNano()), 199*time.Second/400; (got - want).Abs() > time.Microsecond {
		t.Errorf("the last event was due after %s, want %s", got, want)
	}
}

// A slow hub must not look fast because the generator waited for it.
func TestLatencyCountsFromTheIntendedTime(t *testing.T) {
	t.Parallel()
	s := sink(t, load.SinkConfig{Rules: map[string]load.Rule{"/in/x": {Delay: 20 * time.Millisecond}}})
	sent := run(t, load.Generator{
		Address: s.Address(), Path: "/in/x", Source: "a1", Connections: 1, Rate: 1000, Events: 20,
	})
	// The 20th is due after 19 ms and cannot be answered before 20 answers of 20 ms each.
	if got := sent.Ack.Max(); got < 20*20*time.Millisecond-19*time.Millisecond {
		t.Errorf("longest latency %s leaves out the time spent waiting to be sent", got)
	}
}

func TestGeneratorRecordsRefusals(t *testing.T) {
	t.Parallel()
	s := sink(t, load.SinkConfig{Rules: map[string]load.Rule{"/in/x": {Fail: 1, Status: 401}}})
	sent := run(t, load.Generator{Address: s.Address(), Path: "/in/x", Source: "a1", Connections: 2, Events: 10})
	if got := sent.Count(load.Refused); got != 10 || sent.Resent != 0 {
		t.Errorf("refused %d of 10, resent %d", got, sent.Resent)
	}
}

func TestGeneratorGivesUpInBounds(t *testing.T) {
	t.Parallel()
	s := sink(t, load.SinkConfig{Rules: map[string]load.Rule{"/in/x": {Fail: 1000, Status: 503}}})
	sent := run(t, load.Generator{Address: s.Address(), Path: "/in/x", Source: "a1", Connections: 2, Events: 2, Tries: 3})
	if got := sent.Count(load.Unknown); got != 2 || sent.Posts[0].Tries != 3 {
		t.Errorf("unknown %d of 2 after %d tries", got, sent.Posts[0].Tries)
	}
}

func TestGeneratorMixesInBadEvents(t *testing.T) {
	t.Parallel()
	s := sink(t, load.SinkConfig{Rules: map[string]load.Rule{"/in/x": {}}})
	sent := run(t, load.Generator{
		Address: s.Address(), Path: "/in/x", Secret: secret, Source: "a1", Connections: 4, Events: 1000, Seed: 7,
		Duplicates: 0.1, Forged: 0.1, Stale: 0.1,
	})
	var kinds [3]int
	repeats := 0
	for _, p := range sent.Posts {
		kinds[p.Kind]++
		repeats += int(p.Repeats)
	}
	for kind, n := range kinds[1:] {
		if n < 50 || n > 200 {
			t.Errorf("%d events of bad kind %d among 1000, want about 100", n, kind+1)
		}
	}
	// The sink looks at no signature, so all of them are accepted, and the repeats are taken twice: just what a check must find.
	v := load.Check(sent, s.Receipts(), load.Expect{})
	if repeats < 30 || v.Duplicates != repeats || v.ForgedAccepted != kinds[load.Forged]+kinds[load.Stale] {
		t.Errorf("%d repeats; verdict: %s", repeats, v)
	}
}

func TestGeneratorRefusesBadSettings(t *testing.T) {
	t.Parallel()
	for want, g := range map[string]load.Generator{
		"source":              {Source: "A_b", Events: 1},
		"neither a duration":  {Source: "a"},
		"keys":                {Source: "a", Events: 1, Connections: 1000, KeysPerConnection: 1000},
		"connect to the hub:": {Source: "a", Events: 1, Address: closedAddress(t)},
	} {
		if _, err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func closedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestSinkTarpitReadsAndNeverAnswers(t *testing.T) {
	t.Parallel()
	s := sink(t, load.SinkConfig{Rules: map[string]load.Rule{"/": {Tarpit: true}}})
	client := &http.Client{Transport: &http.Transport{}, Timeout: 50 * time.Millisecond}
	defer client.CloseIdleConnections()
	if _, err := client.Post(s.URL("/"), "text/plain", strings.NewReader("hello")); err == nil {
		t.Error("the tarpit answered")
	}
	if got := s.Receipts(); len(got) != 1 || got[0].Status != 0 {
		t.Errorf("receipts %+v", got)
	}
}

func TestSinkAnswersUnknownPaths(t *testing.T) {
	t.Parallel()
	s := sink(t, load.SinkConfig{})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	// A body of unknown length goes out in chunks.
	answer, err := client.Post(s.URL("/nowhere?x=1"), "text/plain", struct{ *strings.Reader }{strings.NewReader(strings.Repeat("y", 100_000))})
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if got := s.Receipts(); answer.StatusCode != 404 || len(got) != 1 || got[0].Path != "/nowhere" {
		t.Errorf("answer %d, receipts %+v", answer.StatusCode, got)
	}
}

func TestSinkJournalHoldsEveryAnsweredRequest(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "journal")
	s := sink(t, load.SinkConfig{Journal: file, Rules: map[string]load.Rule{"/in/x": {Share: 0.5, Fail: 1}}})
	sent := run(t, load.Generator{Address: s.Address(), Path: "/in/x", Source: "a1", Connections: 4, Events: 50})
	// A kill may leave the last line unfinished.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("99\t17000"); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	got, err := load.ReadJournal(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(s.Receipts()) || len(got) <= 50 {
		t.Errorf("%d lines for %d requests", len(got), len(s.Receipts()))
	}
	if v := load.Check(sent, got, load.Expect{}); !v.Clean(0) || v.Delivered != 50 {
		t.Errorf("verdict: %s", v)
	}
	if err := os.WriteFile(file, []byte("1\t2\t3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load.ReadJournal(file); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("error %v for a damaged line", err)
	}
}

func TestSinkWaitSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := sink(t, load.SinkConfig{Rules: map[string]load.Rule{"/in/x": {}}})
	run(t, load.Generator{Address: s.Address(), Path: "/in/x", Source: "a1", Connections: 1, Events: 3})
	if err := s.Wait(t.Context(), 3, time.Second, "/in/x"); err != nil {
		t.Error(err)
	}
	if err := s.Wait(t.Context(), 4, 10*time.Millisecond, "/in/x"); err == nil || !strings.Contains(err.Error(), "3 of 4") {
		t.Errorf("error %v", err)
	}
}
