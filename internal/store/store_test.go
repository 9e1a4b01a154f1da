package store_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/sqlite"
	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// features are what the store on SQLite declares.
var features = storetest.Features{MatchesByID: false, LeasesEndOnOpen: true}

// open opens the store on SQLite under dir.
func open(tb testing.TB, dir string) (storetest.Ledger, func()) {
	s, _, closeIt := openStore(tb, dir)
	return s, closeIt
}

func openStore(tb testing.TB, dir string) (*store.Store, *sqlite.DB, func()) {
	tb.Helper()
	logger := slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(tb.Context(), sqlite.Options{Path: filepath.Join(dir, "tidewire.db"), Logger: logger})
	if err != nil {
		tb.Fatalf("open the file: %v", err)
	}
	s, err := store.Open(tb.Context(), store.Config{DB: db, Logger: logger})
	if err != nil {
		tb.Fatalf("open the store: %v", err)
	}
	return s, db, func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close the file: %v", err)
		}
	}
}

func TestStoreKeepsItsPromises(t *testing.T) {
	t.Parallel()
	storetest.Run(t, features, open)
}
