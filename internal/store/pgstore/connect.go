package pgstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// oldest is the first PostgreSQL that the store works with, as server_version_num has it.
	oldest = 140000
	// mostSkew is how far apart the hub's clock and the database's may be.
	mostSkew = 5 * time.Second
	// patience bounds connecting, where the URL says nothing of connect_timeout.
	patience = 5 * time.Second
	// statementLimit bounds a statement and its commit: a server that has gone silent is as good as gone.
	statementLimit = 20 * time.Second
)

// poolConfig reads the URL. What is wrong with it is not repeated: the driver's text may hold the password.
func poolConfig(c Config) (*pgxpool.Config, error) {
	if c.URL == "" {
		return nil, errors.New("no URL given; want postgres://user:password@host:port/database")
	}
	pc, err := parse(c.URL)
	if err != nil {
		return nil, errors.New("the URL cannot be understood (it is not shown because of its password); want postgres://user:password@host:port/database, with %-escapes for special characters in the password")
	}
	pc.MaxConns = int32(c.MaxConnections)
	pc.MinConns = 0
	pc.MaxConnIdleTime = 5 * time.Minute
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = patience
	}
	pc.PingTimeout = patience
	if pc.ConnConfig.RuntimeParams["application_name"] == "" {
		pc.ConnConfig.RuntimeParams["application_name"] = "tidewire " + c.Instance
	}
	schema := c.Schema
	pc.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return tune(ctx, conn, schema) }
	return pc, nil
}

// tune makes a connection ours. Plans are made once, by index: a partition that was empty when a plan was made must not be
// read whole for as long as the connection lasts. A commit waits for the disk, also where the server's default is not to.
func tune(ctx context.Context, conn *pgx.Conn, schema string) error {
	_, err := conn.Exec(ctx, `SET search_path TO `+pgx.Identifier{schema}.Sanitize()+`; SET plan_cache_mode TO force_generic_plan; SET jit TO off;
		SET enable_seqscan TO off; SET enable_hashjoin TO off; SET enable_mergejoin TO off; SET default_transaction_isolation TO 'read committed'; SET client_min_messages TO warning;
		SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`, pgx.QueryExecModeSimpleProtocol)
	return err
}

// failure is an error with a sentence of our own in front of people and the driver's error behind it for errors.Is and As.
type failure struct {
	text string
	err  error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

// explain says in one sentence why there is no connection.
func explain(c *pgx.ConnConfig, err error) error {
	if err == nil {
		return nil
	}
	at := "PostgreSQL at " + address(c)
	text := at + " cannot be reached: " + scrub(reason(err), c.Password)
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		text = at + " does not prove who it is: " + bad.Err.Error() + "; name its authority with sslrootcert, or correct the host in the URL"
	}
	if strings.Contains(err.Error(), "server refused TLS connection") {
		text = at + " does not speak TLS: turn it on there, or say sslmode=disable in the URL where nobody else is on the network between"
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "28P01":
			text = fmt.Sprintf("%s refuses the user %q: the password is wrong", at, c.User)
		case "28000":
			text = fmt.Sprintf("%s refuses the user %q: pg_hba.conf does not let the user in, or not this way (%s)", at, c.User, scrub(pg.Message, c.Password))
		case "3D000":
			text = fmt.Sprintf("%s has no database %q: create it, or correct the URL", at, c.Database)
		case "53300":
			text = at + " has no connection left: raise max_connections, or give the hubs fewer"
		default:
			text = at + " says: " + scrub(pg.Message, c.Password) + " (SQLSTATE " + pg.Code + ")"
		}
	}
	return &failure{text, err}
}

// Away reports whether an error, of Open or of a Store, says that the server cannot be reached, does not answer, or takes nothing at the moment: it is starting or stopping,
// has no connection left, or is a standby. That passes by itself or by somebody else's hand. A user, a password, a database, a certificate or a
// version that is refused does not, and is no such error.
func Away(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == "53300" || pg.Code == "25006") {
		return true
	}
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	op, ok := errors.AsType[*net.OpError](err)
	alert := ok && (op.Op == "remote error" || op.Op == "local error") // what crypto/tls calls an alert of either side
	if untrusted || plain || alert {
		return false
	}
	return faultOf(err) == faultLost || errors.Is(err, context.DeadlineExceeded)
}

// reason is the last cause of an error, on one line.
func reason(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

func address(c *pgx.ConnConfig) string {
	if strings.HasPrefix(c.Host, "/") {
		return c.Host
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
}

// scrub takes a secret out of a text. The driver keeps it out already; this is the second door.
func scrub(text, secret string) string {
	if len(secret) < 4 { // too short to be taken for anything else
		return text
	}
	return strings.ReplaceAll(text, secret, "***")
}

// server is what a server says of itself.
type server struct {
	version  int // server_version_num
	shown    string
	encoding string
	fsync    string
	skew     time.Duration // how far its clock is ahead of ours, at least; negative: behind
}

// querier is a connection or a pool.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ask reads a server's properties. Its clock was read between our two looks at ours, so the skew is known but for the time between them, which is
// given in the server's favour.
func ask(ctx context.Context, q querier, now func() time.Time) (v server, err error) {
	before := now()
	var at time.Time
	var number string
	err = q.QueryRow(ctx, sqlServer).Scan(&at, &number, &v.shown, &v.encoding, &v.fsync)
	after := now()
	if err != nil {
		return v, err
	}
	if v.version, err = strconv.Atoi(number); err != nil {
		return v, fmt.Errorf("the server's version %q is not a number", number)
	}
	switch {
	case at.Before(before):
		v.skew = at.Sub(before)
	case at.After(after):
		v.skew = at.Sub(after)
	}
	return v, nil
}

// check says what keeps the store from working with a server; nil when nothing does.
func (v server) check() error {
	switch {
	case v.version < oldest:
		return fmt.Errorf("PostgreSQL %s is too old, 14 or newer is needed", v.shown)
	case v.encoding != "UTF8":
		return fmt.Errorf("the database stores text as %s, UTF8 is needed: create it with ENCODING 'UTF8'", v.encoding)
	}
	return v.clock()
}

func (v server) clock() error {
	if v.skew.Abs() <= mostSkew {
		return nil
	}
	which := "ahead of"
	if v.skew < 0 {
		which = "behind"
	}
	return fmt.Errorf("the database's clock is %s %s this machine's, at most %s is allowed: set both by NTP",
		v.skew.Abs().Round(100*time.Millisecond), which, mostSkew)
}

// probeName is the lease that Probe writes, which has run out when it is written.
func probeName(instance string) string { return "probe " + instance }

// Probe reports whether the store can write: it connects, commits one small row and compares the clocks. For a readiness check; the
// error is one sentence without secrets.
func (s *Store) Probe(ctx context.Context) error {
	v, err := ask(ctx, s.pool, s.now)
	if err != nil {
		return fmt.Errorf("store: %w", explain(s.pool.Config().ConnConfig, err))
	}
	if err := v.clock(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if _, err := s.pool.Exec(ctx, sqlProbe, probeName(s.instance), s.instance); err != nil {
		return fmt.Errorf("store: PostgreSQL answers and does not write: %w", explain(s.pool.Config().ConnConfig, err))
	}
	return nil
}
