package services

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresOptions say what kind of server is wanted.
type PostgresOptions struct {
	// Dir is where its data and its log lie. What is in it from an earlier StartPostgres is used again. When this process is root, the server runs as the user
	// postgres or nobody, who must be able to get into Dir's parents and gets Dir for his own. Default: a new temporary folder, which Close removes.
	Dir string
	// Password of the user tidewire, asked for by SCRAM-SHA-256. Default: none is asked for.
	Password string
	// Settings are those of postgresql.conf, after this package's own. Fsync is on unless it is switched off here.
	Settings map[string]string
	// TLS gives the server a certificate for 127.0.0.1 and localhost, and refuses connections without TLS; URL asks for it and verifies it.
	TLS bool
	// Port is where it listens if that is free. Default: any free port.
	Port int
	// Version is one that is on Maven Central, such as OldestPostgres. Default: the newest that is installed, or the system's package.
	Version string
}

// Postgres is a real PostgreSQL server on loopback, a process of its own. Its methods may be called from several goroutines.
type Postgres struct {
	o      PostgresOptions
	made   string // temporary folder to remove
	files  binaries
	packed string // what is to be unpacked into Dir first; "": nothing
	user   *syscall.Credential
	port   int
	issued *issued

	mu        sync.Mutex
	process   *process
	databases int // made by Database
}

// StopMode is how PostgreSQL is asked to end.
type StopMode int

// Fast ends sessions and writes a checkpoint; Immediate ends without writing anything, so that the next start recovers as after a crash; KillNine is kill -9.
const (
	Fast StopMode = iota
	Immediate
	KillNine
)

const databaseUser = "tidewire"

// StartPostgres starts a server whose owner is the user "tidewire", and returns when it answers a query. The context is for the start alone; the server runs until
// Close or Stop, or dies with this process. Programs of PostgreSQL 14 or newer are used where they are; else, on Debian and its like, the package is unpacked into
// the cache, or installed by root; else the error is an ErrMissing. Another Version is downloaded by Maven, once, and unpacked into Dir.
func StartPostgres(ctx context.Context, o PostgresOptions) (_ *Postgres, err error) {
	p := &Postgres{o: o}
	if o.Version != "" {
		p.packed, err = archivedPostgres(ctx, o.Version)
	} else {
		p.files, err = findPostgres(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for range 3 {
		if err = p.prepare(ctx); err == nil {
			err = p.Start(ctx)
		}
		if !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return p, nil
}

// prepare makes the folder, finds a port, and has initdb make the data.
func (p *Postgres) prepare(ctx context.Context) (err error) {
	if p.user, err = ordinaryUser(); err != nil {
		return err
	}
	if p.o.Dir == "" {
		if p.o.Dir, err = os.MkdirTemp("", "tidewire-postgres-"); err != nil {
			return err
		}
		p.made = p.o.Dir
	}
	if p.o.Dir, err = filepath.Abs(p.o.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(p.o.Dir, 0o700); err != nil {
		return err
	}
	if closed := closedTo(p.user, p.o.Dir); closed != "" {
		return fmt.Errorf("%w: it does not run as root, and another user cannot get into %s: have its data elsewhere, or run this as an ordinary user", ErrClosed, closed)
	}
	if p.o.TLS {
		files, err := issue(p.o.Dir)
		if err != nil {
			return err
		}
		p.issued = &files
		if err := os.WriteFile(p.hba(), []byte("hostssl all all 127.0.0.1/32 "+p.method()+"\n"), 0o600); err != nil {
			return err
		}
	}
	ports, err := freePorts(ctx, 1, p.preferred()...)
	if err != nil {
		return err
	}
	p.port = ports[0]
	if err := p.own(); err != nil {
		return err
	}
	if p.packed != "" {
		if p.files, err = unarchive(ctx, p.packed, filepath.Join(p.o.Dir, "postgres-"+p.o.Version)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		return nil
	}
	return p.initialise(ctx)
}

func (p *Postgres) preferred() []int {
	if p.o.Port == 0 {
		return nil
	}
	return []int{p.o.Port}
}

func (p *Postgres) initialise(ctx context.Context) error {
	args := []string{
		filepath.Join(p.files.dir, "initdb"), "-D", p.data(), "-U", databaseUser, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions",
	}
	args = append(args, "-A", p.method())
	if p.o.Password != "" {
		file := filepath.Join(p.o.Dir, "password")
		if err := os.WriteFile(file, []byte(p.o.Password+"\n"), 0o600); err != nil {
			return err
		}
		defer func() { _ = os.Remove(file) }()
		if err := p.own(); err != nil {
			return err
		}
		args = append(args, "--pwfile", file)
	}
	if err := run(ctx, command{args: args, env: p.files.env, dir: p.o.Dir, user: p.user}); err != nil {
		return fmt.Errorf("make a database: %w", err)
	}
	return nil
}

// method is how the user logs in.
func (p *Postgres) method() string {
	if p.o.Password == "" {
		return "trust"
	}
	return "scram-sha-256"
}

// ordinaryUser is whom the server runs as when this process is root, which PostgreSQL refuses to run as; nil otherwise.
func ordinaryUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil //nolint:nilnil // nobody else than who runs this
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody: run this as an ordinary user")
}

// ErrClosed is wrapped by the error of a StartPostgres as root whose Dir lies where the user that the server runs as cannot get.
var ErrClosed = errors.New("PostgreSQL's folder is closed to it")

// closedTo is the first of a folder's parents that a user cannot get into; "" when there is none, or no other user.
func closedTo(user *syscall.Credential, dir string) string {
	if user == nil {
		return ""
	}
	for parent := filepath.Dir(dir); parent != "/"; parent = filepath.Dir(parent) {
		var s syscall.Stat_t
		if err := syscall.Stat(parent, &s); err != nil {
			return parent
		}
		if s.Mode&0o001 == 0 && (s.Uid != user.Uid || s.Mode&0o100 == 0) && (s.Gid != user.Gid || s.Mode&0o010 == 0) {
			return parent
		}
	}
	return ""
}

// own gives the files to the user that the server runs as.
func (p *Postgres) own() error {
	if p.user == nil {
		return nil
	}
	dir, err := os.OpenRoot(p.o.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	for _, name := range []string{".", "data", "password", "hba.conf", "ca.pem", "server.pem", "server-key.pem"} {
		if err := dir.Lchown(name, int(p.user.Uid), int(p.user.Gid)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Start starts the server again, on its port and with its data, and returns when it answers a query. It does nothing to one that runs.
func (p *Postgres) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		err := p.try(ctx)
		// What a killed server left running ends by itself, a moment later.
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "shared memory block") {
			return err
		}
	}
}

func (p *Postgres) try(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process.running() {
		return nil
	}
	var err error
	// SIGQUIT has the server end its own processes at once, which would outlive it otherwise.
	if p.process, err = start(command{args: p.args(), env: p.files.env, dir: p.o.Dir, log: p.Log(), user: p.user, orphaned: syscall.SIGQUIT}); err != nil {
		return err
	}
	return p.process.await(ctx, "PostgreSQL", p.ask)
}

func (p *Postgres) args() []string {
	args := []string{filepath.Join(p.files.dir, "postgres"), "-D", p.data()}
	settings := [][2]string{
		{"listen_addresses", "127.0.0.1"}, {"port", strconv.Itoa(p.port)},
		// No socket file: its path would have to be short, and URL needs none.
		{"unix_socket_directories", ""},
		{"fsync", "on"}, {"synchronous_commit", "on"},
		{"shared_buffers", "64MB"}, {"max_wal_size", "256MB"}, {"jit", "off"},
		// In the data folder, so that a kill leaves nothing elsewhere.
		{"dynamic_shared_memory_type", "mmap"},
		{"timezone", "UTC"}, {"log_timezone", "UTC"},
	}
	if p.issued != nil {
		settings = append(settings, [][2]string{
			{"ssl", "on"}, {"ssl_cert_file", p.issued.serverCertificate}, {"ssl_key_file", p.issued.serverKey}, {"ssl_ca_file", p.issued.CA},
			{"hba_file", p.hba()},
		}...)
	}
	for _, s := range settings {
		args = append(args, "-c", s[0]+"="+s[1])
	}
	for name, value := range p.o.Settings {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

func (p *Postgres) ask(ctx context.Context) error {
	return p.session(ctx, func(ctx context.Context, c *pgx.Conn) error {
		var data string
		if err := c.QueryRow(ctx, "SHOW data_directory").Scan(&data); err != nil {
			return err
		}
		if data != p.data() {
			return errors.New("another server answers on its port")
		}
		return nil
	})
}

// session is a short connection of the server's owner.
func (p *Postgres) session(ctx context.Context, do func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	return do(ctx, c)
}

// URL is how to connect to the database postgres as its owner: postgres://tidewire@127.0.0.1:PORT/postgres, with the password and TLS if asked for.
func (p *Postgres) URL() string { return p.url("postgres") }

func (p *Postgres) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(databaseUser), Host: address(p.port), Path: "/" + database, RawQuery: "sslmode=disable"}
	if p.o.Password != "" {
		u.User = url.UserPassword(databaseUser, p.o.Password)
	}
	if p.issued != nil {
		u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {p.issued.CA}}.Encode()
	}
	return u.String()
}

// Database makes a new, empty database, and returns how to connect to it: one server is enough for all tests of a binary.
func (p *Postgres) Database(ctx context.Context) (string, error) {
	p.mu.Lock()
	p.databases++
	name := fmt.Sprintf("tidewire_%d_%d", os.Getpid(), p.databases)
	p.mu.Unlock()
	err := p.session(ctx, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "CREATE DATABASE "+name)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("make a database: %w", err)
	}
	return p.url(name), nil
}

// TerminateBackends ends all sessions of clients but its own, as an administrator would, and returns how many.
func (p *Postgres) TerminateBackends(ctx context.Context) (n int, err error) {
	err = p.session(ctx, func(ctx context.Context, c *pgx.Conn) error {
		const query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
		return c.QueryRow(ctx, query).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("end the sessions: %w", err)
	}
	return n, nil
}

// Stop ends the server and waits until it is gone; for Fast and Immediate half a minute, after which it is killed and an error returned. It does nothing to one that does not run.
func (p *Postgres) Stop(mode StopMode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.process.running() {
		return nil
	}
	signal := map[StopMode]syscall.Signal{Fast: syscall.SIGINT, Immediate: syscall.SIGQUIT, KillNine: syscall.SIGKILL}[mode]
	if !p.process.end(signal, 30*time.Second) {
		return fmt.Errorf("PostgreSQL did not end within 30 s and was killed; the end of %s:\n%s", p.Log(), tail(p.Log()))
	}
	return nil
}

// Close ends the server at once, and removes the folder if StartPostgres made it. It may be called more than once.
func (p *Postgres) Close() {
	p.mu.Lock()
	killed := p.process != nil && !p.process.running()
	p.mu.Unlock()
	if _, err := os.Stat(filepath.Join(p.data(), "postmaster.pid")); killed && err == nil {
		// A killed server leaves a piece of System V memory behind, which the next one in its folder takes over and, at its end, gives back.
		_ = p.Start(context.Background()) // when that fails, the piece is 56 bytes
	}
	_ = p.Stop(Immediate) // whether it had to be killed is all the same now
	if p.made != "" {
		_ = os.RemoveAll(p.made)
	}
}

// Log is the path of the server's log.
func (p *Postgres) Log() string { return filepath.Join(p.o.Dir, "postgres.log") }

// TLS is what a client needs, by the option TLS; empty without it.
func (p *Postgres) TLS() Files {
	if p.issued == nil {
		return Files{}
	}
	return p.issued.Files
}

// Process is the id of the server's first process, 0 when it does not run.
func (p *Postgres) Process() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.process.running() {
		return 0
	}
	return p.process.cmd.Process.Pid
}

func (p *Postgres) hba() string  { return filepath.Join(p.o.Dir, "hba.conf") }
func (p *Postgres) data() string { return filepath.Join(p.o.Dir, "data") }
