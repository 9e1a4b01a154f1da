package pgstore

import (
	"crypto/tls"
	"testing"
)

// What is said of sslmode holds; where nothing is said, a server beyond this machine has to prove who it is.
func TestAServerElsewhereProvesWhoItIs(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	t.Setenv("PGSERVICE", "")
	for text, want := range map[string]struct{ proven, named bool }{
		"postgres://u:p@db.example/x":                              {true, true},
		"postgresql://u:p@192.0.2.7:5433/x?application_name=a%20b": {true, true},
		"postgres://u:p@db.example,localhost/x":                    {true, true},
		"postgres://u:p@localhost,db.example/x":                    {true, true},
		"host=db.example user=u dbname=x":                          {true, true},
		"postgres://u:p@db.example/x?sslmode=verify-full":          {true, true},
		"postgres://u:p@db.example/x?sslmode=verify-ca":            {true, false},
		"postgres://u:p@db.example/x?sslmode=require":              {false, false},
		"postgres://u:p@db.example/x?sslmode=prefer":               {false, false},
		"postgres://u:p@db.example/x?sslmode=disable":              {false, false},
		"host=db.example user=u dbname=x sslmode=allow":            {false, false},
		"postgres://u:p@127.0.0.1:5432/x":                          {false, false},
		"postgres://u:p@[::1]/x":                                   {false, false},
		"postgres://u:p@localhost/x":                               {false, false},
		"host=/var/run/postgresql user=u dbname=x":                 {false, false},
		"postgres://u:p@127.0.0.1:5432/x?sslmode=verify-full":      {true, true},
	} {
		pc, err := poolConfig(Config{URL: text, MaxConnections: 4})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		c := pc.ConnConfig
		named := c.TLSConfig != nil && !c.TLSConfig.InsecureSkipVerify && c.TLSConfig.ServerName != ""
		if t := c.TLSConfig; t != nil && t.MinVersion != 0 && t.MinVersion < tls.VersionTLS12 || named && t.ServerName != c.Host {
			named = false
		}
		if proven(c) != want.proven || named != want.named {
			t.Errorf("%s: it has to prove who it is: %v, and its name: %v; want %v and %v", text, proven(c), named, want.proven, want.named)
		}
		if c.User != "u" || c.Database != "x" {
			t.Errorf("%s: user %q, database %q", text, c.User, c.Database)
		}
	}
	t.Setenv("PGSSLMODE", "disable")
	if pc, err := poolConfig(Config{URL: "postgres://u:p@db.example/x", MaxConnections: 4}); err != nil || pc.ConnConfig.TLSConfig != nil {
		t.Errorf("PGSSLMODE does not hold: %v", err)
	}
}
