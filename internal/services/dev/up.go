package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tidewire/tidewire/internal/services"
)

// Where the servers listen unless another has the port.
const (
	kafkaPort    = 19092
	postgresPort = 15432
)

// up starts a keeper unless there is one, waits until it says where the servers are, and prints that. Zero brokers are as many as run, or else one.
func up(ctx context.Context, p place, brokers int, out io.Writer) error {
	if lacking := services.Missing(ctx); len(lacking) > 0 {
		return errors.New(strings.Join(lacking, "\n"))
	}
	if err := os.MkdirAll(p.dir, 0o755); err != nil { //nolint:gosec // the server's own user has to get through it when this is root
		return err
	}
	free, err := p.free()
	if err != nil {
		return err
	}
	keeper := 0
	if free {
		p.clear()
		if keeper, err = p.begin(ctx, max(brokers, 1)); err != nil {
			return fmt.Errorf("start the keeper: %w", err)
		}
	}
	s, err := p.await(ctx, keeper)
	if err != nil {
		return fmt.Errorf("the servers did not start: %w", err)
	}
	if brokers != 0 && len(s.Kafka) != brokers {
		return fmt.Errorf("the servers run already, with another number of brokers (%s): deploy/dev/down, then this again", strings.Join(s.Kafka, ", "))
	}
	if err := s.answers(ctx); err != nil {
		return fmt.Errorf("a server that was started before does not answer: %w; deploy/dev/down, then this again", err)
	}
	return announce(out, p, s)
}

// free reports whether no keeper is alive.
func (p place) free() (bool, error) {
	lock := p.lock()
	free, err := lock.TryLock()
	return free, errors.Join(err, lock.Close())
}

// begin starts this program again as the keeper, apart from the terminal and in a session of its own, and returns its process id.
func (p place) begin(ctx context.Context, brokers int) (int, error) {
	program, err := os.Executable()
	if err != nil {
		return 0, err
	}
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // the folder is the caller's own
	if err != nil {
		return 0, err
	}
	defer log.Close()
	keeper := exec.CommandContext(context.WithoutCancel(ctx), program, "keep", "--dir", p.dir, "--brokers", strconv.Itoa(brokers)) //nolint:gosec // this program
	keeper.Stdout, keeper.Stderr = log, log
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keeper.Start(); err != nil {
		return 0, err
	}
	id := keeper.Process.Pid // Release forgets it
	return id, keeper.Process.Release()
}

// await returns the state when it says where the servers are. It waits for as long as the keeper lives: the process that was started, or else the one that the state names.
func (p place) await(ctx context.Context, keeper int) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for {
		s, err := p.read()
		if err != nil || len(s.Kafka) > 0 {
			return s, err
		}
		if who := cmp.Or(keeper, s.Process); who != 0 && began(who) == "" {
			text, _ := os.ReadFile(p.log()) //nolint:gosec // as above
			return s, errors.New(strings.TrimSpace("the keeper ended\n" + string(text)))
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("%w; %s may say more", ctx.Err(), p.log())
		case <-pause.C:
		}
	}
}

// answers connects to each of the servers.
func (s state) answers(ctx context.Context) error {
	at, err := url.Parse(s.URL)
	if err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	for _, address := range append([]string{at.Host}, s.Kafka...) {
		c, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	return nil
}

func announce(out io.Writer, p place, s state) error {
	_, err := fmt.Fprintf(out, `Kafka %s runs on %s, PostgreSQL on %s (data and logs in %s).

cluster:
  kafka: {brokers: [%s], replication: %d}
  postgres: %s

deploy/dev/down stops them; what they have stays. To start from nothing, remove %s then.
`, services.NewestKafka, strings.Join(s.Kafka, ", "), s.URL, p.dir, quoted(s.Kafka), len(s.Kafka), s.URL, p.dir)
	return err
}

func quoted(all []string) string { return `"` + strings.Join(all, `", "`) + `"` }

// down asks the keeper to end, and waits until it has.
func down(ctx context.Context, p place, out io.Writer) error {
	if _, err := os.Stat(p.dir); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(out, "nothing runs")
		return nil
	}
	free, err := p.free()
	if err != nil {
		return err
	}
	if free {
		p.clear()
		fmt.Fprintln(out, "nothing runs")
		return nil
	}
	s, err := p.read()
	if err != nil {
		return err
	}
	// The lock says that a keeper is alive, the time that this number is still its own.
	if s.Process == 0 || began(s.Process) != s.Began {
		return fmt.Errorf("another process has the lock in %s, and it is not the keeper of the servers: nothing was stopped", p.dir)
	}
	if err := syscall.Kill(s.Process, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop process %d: %w", s.Process, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	lock := p.lock()
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return fmt.Errorf("process %d has not ended: %w", s.Process, err)
	}
	fmt.Fprintln(out, "Kafka and PostgreSQL are stopped")
	return lock.Close()
}

// keep is the keeper: it has the lock and the servers, until it is told to end.
func keep(ctx context.Context, p place, brokers int) error {
	lock := p.lock()
	if free, err := lock.TryLock(); err != nil || !free {
		return errors.Join(errors.New("there is a keeper already"), err)
	}
	defer func() { _ = lock.Close() }()
	s := state{Process: os.Getpid(), Began: began(os.Getpid())}
	if err := p.write(s); err != nil {
		return err
	}
	k, db, err := servers(ctx, p, brokers)
	if err == nil {
		s.Kafka, s.URL = k.Addresses(), db.URL()
		if err = p.write(s); err == nil {
			<-ctx.Done()
		}
	}
	// In order, so that the next start is quick.
	var both sync.WaitGroup
	if k != nil {
		both.Go(func() { _ = k.Stop() })
	}
	if db != nil {
		both.Go(func() { _ = db.Stop(services.Fast) })
	}
	both.Wait()
	p.clear()
	return err
}

// servers starts both at once. Clusters of one and of three brokers have data of their own.
func servers(ctx context.Context, p place, brokers int) (k *services.Kafka, db *services.Postgres, err error) {
	var kafkaErr, postgresErr error
	var both sync.WaitGroup
	both.Go(func() {
		k, kafkaErr = services.StartKafka(ctx, services.KafkaOptions{
			Dir: p.file(fmt.Sprintf("kafka-%d", brokers)), Brokers: brokers, Port: kafkaPort,
		})
	})
	both.Go(func() {
		o := services.PostgresOptions{Dir: p.file("postgres"), Port: postgresPort}
		if db, postgresErr = services.StartPostgres(ctx, o); errors.Is(postgresErr, services.ErrClosed) {
			o.Dir = filepath.Join(p.elsewhere(), "postgres")
			if postgresErr = os.MkdirAll(p.elsewhere(), 0o755); postgresErr == nil { //nolint:gosec // the server's user has to get through it
				db, postgresErr = services.StartPostgres(ctx, o)
			}
		}
	})
	both.Wait()
	return k, db, errors.Join(kafkaErr, postgresErr)
}
