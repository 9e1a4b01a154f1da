package pgstore_test

import (
	"context"
	"net/url"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/internal/services"
)

// server is a real PostgreSQL.
type server struct{ *services.Postgres }

// password is one that has to be escaped in a URL.
const password = "s3cr3t-p@ss/w:rd"

// newServer starts one; with TIDEWIRE_TEST_POSTGRES=oldest in the environment it is the oldest that is promised.
func newServer(ctx context.Context) (*server, error) {
	o := services.PostgresOptions{
		Password: password,
		Settings: map[string]string{"max_connections": "300", "recovery_init_sync_method": "syncfs"},
	}
	if os.Getenv("TIDEWIRE_TEST_POSTGRES") == "oldest" {
		o.Version = services.OldestPostgres
	}
	p, err := services.StartPostgres(ctx, o)
	return &server{p}, err
}

func (s *server) url(database string) string {
	u, err := url.Parse(s.URL())
	if err != nil {
		panic(err)
	}
	u.Path = "/" + database
	return u.String()
}

// exec runs SQL beside the store.
func (s *server) exec(tb testing.TB, sql string, args ...any) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), s.url("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(tb.Context()))
	if _, err := conn.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatal(err)
	}
}
