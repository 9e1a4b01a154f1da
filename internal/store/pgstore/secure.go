package pgstore

import (
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// namesMode finds sslmode, or a service file that may name it, in a connection string of keywords and values.
var namesMode = regexp.MustCompile(`(^|\s)(sslmode|service)\s*=`)

// parse reads a connection string. Where it says nothing of sslmode the driver would take prefer, as libpq does: whatever certificate there is, and no
// TLS at all with whoever says that he has none. Beyond this machine that protects from nobody, so there it means verify-full, and less has to be said.
func parse(text string) (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(text)
	if err != nil || local(pc.ConnConfig) || os.Getenv("PGSSLMODE") != "" || os.Getenv("PGSERVICE") != "" {
		return pc, err
	}
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
		if namesMode.MatchString(text) {
			return pc, nil
		}
		return pgxpool.ParseConfig(text + " sslmode=verify-full")
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	q := u.Query()
	if q.Has("sslmode") || q.Has("service") {
		return pc, nil
	}
	q.Set("sslmode", "verify-full")
	u.RawQuery = q.Encode()
	return pgxpool.ParseConfig(u.String())
}

// local reports whether all servers of a config are on this machine.
func local(c *pgx.ConnConfig) bool {
	hosts := []string{c.Host}
	for _, f := range c.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	for _, host := range hosts {
		ip, err := netip.ParseAddr(host)
		if !strings.HasPrefix(host, "/") && host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
			return false
		}
	}
	return true
}

// proven reports whether every server has to prove who it is before anything is said to it.
func proven(c *pgx.ConnConfig) bool {
	// The driver verifies by a function of its own where the name does not count.
	if c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify && c.TLSConfig.VerifyPeerCertificate == nil {
		return false
	}
	for _, f := range c.Fallbacks {
		if f.TLSConfig == nil || f.TLSConfig.InsecureSkipVerify && f.TLSConfig.VerifyPeerCertificate == nil {
			return false
		}
	}
	return true
}
