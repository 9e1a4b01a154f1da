package services_test

import (
	"context"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/internal/services"
)

func connect(t *testing.T, at string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func TestADatabaseKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	p := services.NewPostgres(t, services.PostgresOptions{})
	at, err := p.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if other, err := p.Database(t.Context()); err != nil || other == at {
		t.Errorf("a second database: %s, %v", other, err)
	}
	if _, err := connect(t, at).Exec(t.Context(), "CREATE TABLE kept (mode int)"); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []services.StopMode{services.Fast, services.Immediate, services.KillNine} {
		c := connect(t, at)
		if _, err := c.Exec(t.Context(), "INSERT INTO kept VALUES ($1)", mode); err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(mode); err != nil {
			t.Fatal(err)
		}
		// A session's process outlives a killed server for as long as it takes to notice; nobody else is let in.
		if again, err := pgx.Connect(t.Context(), at); err == nil || p.Process() != 0 {
			t.Errorf("stopped by mode %d it lets %v in, process %d", mode, again, p.Process())
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var rows int
		if err := connect(t, at).QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&rows); err != nil || rows != int(mode)+1 {
			t.Errorf("after mode %d there are %d rows, %v", mode, rows, err)
		}
	}
	log, err := os.ReadFile(p.Log())
	if err != nil || !strings.Contains(string(log), "was not properly shut down") {
		t.Errorf("no recovery in the log: %v", err)
	}
	var fsync string
	if err := connect(t, at).QueryRow(t.Context(), "SHOW fsync").Scan(&fsync); err != nil || fsync != "on" {
		t.Errorf("fsync is %q, %v", fsync, err)
	}
}

func TestAServerGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "tidewire-postgres-again-") // a test's own folder is closed to the user that root's server runs as
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o := services.PostgresOptions{Dir: dir, Settings: map[string]string{"max_connections": "17"}}
	p := services.NewPostgres(t, o)
	if _, err := connect(t, p.URL()).Exec(t.Context(), "CREATE TABLE kept ()"); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(services.Fast); err != nil {
		t.Fatal(err)
	}
	c := connect(t, services.NewPostgres(t, o).URL())
	var limit string
	if err := c.QueryRow(t.Context(), "SELECT current_setting('max_connections') WHERE to_regclass('kept') IS NOT NULL").Scan(&limit); err != nil || limit != "17" {
		t.Errorf("max_connections %q, %v", limit, err)
	}
}

func TestSessionsCanBeEnded(t *testing.T) {
	t.Parallel()
	p := services.NewPostgres(t, services.PostgresOptions{})
	a, b := connect(t, p.URL()), connect(t, p.URL())
	if n, err := p.TerminateBackends(t.Context()); err != nil || n != 2 {
		t.Errorf("%d sessions were ended, %v", n, err)
	}
	for _, c := range []*pgx.Conn{a, b} {
		if err := c.Ping(t.Context()); err == nil {
			t.Error("a session that was ended answers")
		}
	}
}

func TestALogInAndTLSAreWanted(t *testing.T) {
	t.Parallel()
	p := services.NewPostgres(t, services.PostgresOptions{Password: "a password: €", TLS: true})
	var encrypted bool
	if err := connect(t, p.URL()).QueryRow(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted); err != nil || !encrypted {
		t.Errorf("encrypted %t, %v", encrypted, err)
	}
	for want, change := range map[string]func(*url.URL){
		"password authentication failed": func(u *url.URL) { u.User = url.UserPassword("tidewire", "another") },
		"no encryption":                  func(u *url.URL) { u.RawQuery = "sslmode=disable" },
		"x509":                           func(u *url.URL) { u.RawQuery = "sslmode=verify-full" },
	} {
		u, err := url.Parse(p.URL())
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		c, err := pgx.Connect(t.Context(), u.String())
		if err == nil {
			c.Close(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestABadSettingIsToldWithTheLog(t *testing.T) {
	t.Parallel()
	good := services.NewPostgres(t, services.PostgresOptions{}) // says whether there is a PostgreSQL at all
	_, err := services.StartPostgres(t.Context(), services.PostgresOptions{Settings: map[string]string{"no_such_setting": "on"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("want the server's own words: %v", err)
	}
	if good.TLS() != (services.Files{}) {
		t.Error("files of TLS without TLS")
	}
}

func TestTheOldestPostgresRunsAsWell(t *testing.T) {
	t.Parallel()
	p := services.NewPostgres(t, services.PostgresOptions{Version: services.OldestPostgres})
	var version string
	if err := connect(t, p.URL()).QueryRow(t.Context(), "SHOW server_version").Scan(&version); err != nil || version != strings.TrimSuffix(services.OldestPostgres, ".0") {
		t.Errorf("it is %s, %v", version, err)
	}
}
