package pgstore_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/pipeline"
)

// silent is a port that nobody answers on.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	good := shared.url("postgres")
	change := func(from, to string) pgstore.Config {
		c := config(t.TempDir())
		if c.URL = strings.Replace(good, from, to, 1); c.URL == good {
			t.Fatalf("%q is not in the URL", from)
		}
		return c
	}
	_, hostAndPath, _ := strings.Cut(good, "@")
	host, _, _ := strings.Cut(hostAndPath, "/")
	shared.exec(t, `CREATE ROLE poor LOGIN PASSWORD 's3cr3t-poor'`)
	shared.exec(t, `CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`)
	behind := func(by time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(-by) } }
	for name, test := range map[string]struct {
		c    pgstore.Config
		want string
	}{
		"no URL":              {pgstore.Config{}, "no URL given"},
		"not a URL":           {change("@127", "@:::127"), "the URL cannot be understood"},
		"a bad port":          {change(host, "127.0.0.1:s3cr3t-p@x"), "the URL cannot be understood"},
		"nobody there":        {change(host, silent(t)), "cannot be reached"},
		"a wrong password":    {change("s3cr3t", "s3cr3t-wr0ng"), `refuses the user "tidewire": the password is wrong`},
		"an unknown user":     {change("//tidewire", "//nobody"), `refuses the user "nobody"`},
		"an unknown database": {change("/postgres", "/missing"), `has no database "missing": create it`},
		"another encoding":    {change("/postgres", "/latin"), "stores text as LATIN1, UTF8 is needed"},
		"no right to create":  {change("tidewire:"+url.QueryEscape(password), "poor:s3cr3t-poor"), `have it created for the user "poor"`},
		"a bad schema":        {pgstore.Config{URL: good, Schema: `x"; DROP`}, "is not made of"},
		"few connections":     {pgstore.Config{URL: good, MaxConnections: 1}, "1 connections are too few"},
		"a slow clock":        {pgstore.WithClock(config(t.TempDir()), behind(6900*time.Millisecond)), "clock is 6"},
		"a fast clock":        {pgstore.WithClock(config(t.TempDir()), behind(-7900*time.Millisecond)), "clock is 7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := pgstore.Open(t.Context(), test.c)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if text := err.Error(); !strings.Contains(text, test.want) || strings.Contains(text, "s3cr3t") || strings.Contains(text, "\n") {
				t.Errorf("the error is %q, want one line with %q and no password", text, test.want)
			}
			if away := pgstore.Away(err); away != (name == "nobody there") {
				t.Errorf("away: %v, for %v", away, err)
			}
		})
	}
	t.Run("a clock that is a little off", func(t *testing.T) {
		t.Parallel()
		openStore(t, pgstore.WithClock(config(t.TempDir()), behind(4*time.Second)))
	})
}

// TestWhatPassesIsAway sorts what servers answer.
func TestWhatPassesIsAway(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"57P03": true, "57P01": true, "53300": true, "25006": true, "08006": true, // starting, stopping, full, a standby, cut off
		"28P01": false, "28000": false, "3D000": false, "42501": false, "23505": false,
	} {
		if got := pgstore.Away(fmt.Errorf("open: %w", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("%s: %v", code, got)
		}
	}
	if pgstore.Away(nil) || pgstore.Away(errors.New("anything else")) || pgstore.Away(&net.OpError{Op: "remote error", Err: errors.New("tls: protocol version not supported")}) || pgstore.Away(&tls.CertificateVerificationError{Err: errors.New("unknown authority")}) {
		t.Error("something else is taken for away")
	}
}

func TestTablesOfANewerVersionAreRefused(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := openStore(t, c)
	mustSettle(t, s, dealt("", 1), outcome(pipeline.Delivered))
	s.Close()
	shared.exec(t, `INSERT INTO `+c.Schema+`.migrations (version_id, is_applied) VALUES (999, true)`)
	if _, err := pgstore.Open(t.Context(), c); !errors.Is(err, pgstore.ErrNewer) || !strings.Contains(err.Error(), "its version is 999") {
		t.Errorf("opened tables of a newer version: %v", err)
	}
	shared.exec(t, `DELETE FROM `+c.Schema+`.migrations WHERE version_id = 999`)
	if got, err := openStore(t, c).Admit(t.Context(), dealt("", 1)); got != pipeline.Settled || err != nil {
		t.Errorf("standing %v, %v", got, err)
	}
}

func TestHubsStartTogether(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	var all sync.WaitGroup
	for n := range int64(5) {
		all.Go(func() {
			s, err := pgstore.Open(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Settle(t.Context(), dealt("", n), outcome(pipeline.Delivered)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	b, err := openStore(t, c).Balance(t.Context())
	if err != nil || b["orders"][pipeline.Delivered] != 5 {
		t.Errorf("balance %v, %v", b, err)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	clock := time.Now
	var mu sync.Mutex
	c := pgstore.WithClock(config(t.TempDir()), func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return clock()
	})
	s := openStore(t, c)
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if leases, err := s.Leases(t.Context()); err != nil || len(leases) != 0 {
		t.Errorf("probing left %v, %v", leases, err)
	}
	mu.Lock()
	clock = func() time.Time { return time.Now().Add(10900 * time.Millisecond) }
	mu.Unlock()
	if err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "clock is 10") || !strings.Contains(err.Error(), "behind this machine's") {
		t.Errorf("a clock that has run away: %v", err)
	}
	mu.Lock()
	clock = time.Now
	mu.Unlock()
	shared.exec(t, `ALTER TABLE `+c.Schema+`.leases ADD CONSTRAINT no CHECK (false) NOT VALID`)
	if err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "does not write") {
		t.Errorf("a database that does not write: %v", err)
	}
}

// A server's default of not waiting for the disk does not count.
func TestCommitsWaitForTheDisk(t *testing.T) {
	t.Parallel()
	shared.exec(t, `CREATE DATABASE careless`)
	shared.exec(t, `ALTER DATABASE careless SET synchronous_commit TO off`)
	c := config(t.TempDir())
	c.URL = shared.url("careless")
	s := openStore(t, c)
	if got := s.Setting(t.Context(), "synchronous_commit"); got != "on" {
		t.Errorf("synchronous_commit is %s", got)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	registry := prometheus.NewRegistry()
	c.Registerer = registry
	s := openStore(t, c)
	mustSettle(t, s, dealt("k", 1), outcome(pipeline.Parked))
	mustSettle(t, s, dealt("", 2), outcome(pipeline.Delivered))
	found := make(map[string]bool)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		found[f.GetName()] = true
		for _, m := range f.GetMetric() {
			if f.GetName() == "tidewire_store_batch_rows" {
				for _, l := range m.GetLabel() {
					found[l.GetValue()] = m.GetHistogram().GetSampleCount() == 1
				}
			}
		}
	}
	for _, name := range []string{"tidewire_store_batch_rows", "tidewire_store_statement_seconds", "tidewire_store_connections", "tidewire_store_connections_busy",
		"tidewire_store_connections_max", "tidewire_store_connection_waits_total", "park", "settle"} {
		if !found[name] {
			t.Errorf("%s is missing", name)
		}
	}
	s.Close()
	if families, err := registry.Gather(); err != nil || len(families) != 0 {
		t.Errorf("%d metrics are left over, %v", len(families), err)
	}
}
