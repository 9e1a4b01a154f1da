package pgstore_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/internal/services"
	"github.com/tidewire/tidewire/internal/store/pgstore"
)

// TestSpeaksTLSWithWhomItKnows logs in over TLS to a server whose authority is known, and to no other way of reaching it.
func TestSpeaksTLSWithWhomItKnows(t *testing.T) {
	t.Parallel()
	const password = "hunter2-of-the-store"
	server := services.NewPostgres(t, services.PostgresOptions{TLS: true, Password: password})
	stranger := services.NewPostgres(t, services.PostgresOptions{TLS: true})
	for name, tc := range map[string]struct {
		change func(url.Values)
		want   string // in the error; empty: it works
	}{
		"known":                {func(url.Values) {}, ""},
		"an unknown authority": {func(q url.Values) { q.Set("sslrootcert", stranger.TLS().CA) }, "does not prove who it is"},
		"the system's alone":   {func(q url.Values) { q.Del("sslrootcert") }, "does not prove who it is"},
		"without TLS":          {func(q url.Values) { q.Set("sslmode", "disable"); q.Del("sslrootcert") }, "pg_hba.conf"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(server.URL())
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			tc.change(q)
			u.RawQuery = q.Encode()
			s, err := pgstore.Open(t.Context(), pgstore.Config{URL: u.String(), Schema: "tls", Instance: "hub-1"})
			if err == nil {
				defer func() { _ = s.Close() }()
			}
			if works := name == "known"; works != (err == nil) {
				t.Fatalf("got %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("it says %v", err)
			}
		})
	}
}
