package pgstore_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/services"
	"github.com/tidewire/tidewire/internal/store/pgstore"
	"github.com/tidewire/tidewire/internal/store/storetest"
)

// shared is the server of this test binary; each test has a schema of its own.
var shared *server

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run leaves all out where there is no PostgreSQL on a person's machine; on CI that is a failure.
func run(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		fmt.Println("left out by -short: the store needs a real PostgreSQL")
		return 0
	}
	var err error
	shared, err = newServer(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "left out:", err)
		if errors.Is(err, services.ErrMissing) && os.Getenv("CI") == "" {
			return 0
		}
		return 1
	}
	code := m.Run()
	shared.Close()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// features are what the store on PostgreSQL declares.
var features = storetest.Features{MatchesByID: true, LeasesEndOnOpen: false}

// schemaOf is the schema that stands for a directory.
func schemaOf(dir string) string { return fmt.Sprintf("t%x", sha256.Sum256([]byte(dir)))[:16] }

func config(dir string) pgstore.Config {
	return pgstore.Config{URL: shared.url("postgres"), Schema: schemaOf(dir), Logger: slog.New(slog.DiscardHandler), MaxConnections: 4}
}

func open(tb testing.TB, dir string) (storetest.Ledger, func()) {
	s := openStore(tb, config(dir))
	return s, func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	}
}

func openStore(tb testing.TB, c pgstore.Config) *pgstore.Store {
	tb.Helper()
	s, err := pgstore.Open(tb.Context(), c)
	if err != nil {
		tb.Fatalf("open the store: %v", err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func TestStoreKeepsItsPromises(t *testing.T) {
	t.Parallel()
	storetest.Run(t, features, open)
}
