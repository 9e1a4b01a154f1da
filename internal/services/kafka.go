package services

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
)

// KafkaOptions say what kind of cluster is wanted.
type KafkaOptions struct {
	// Dir is where data, properties and logs of the brokers lie, a folder for each. What is in it from an earlier StartKafka is used again, with its topics.
	// Default: a new temporary folder, which Close removes.
	Dir string
	// Brokers is how many; each is a controller as well. Default 1. With 3, topics are by default in three copies of which two must be written.
	Brokers int
	// Version of Apache Kafka. Default NewestKafka.
	Version string
	// Properties are added to server.properties of every broker, or replace what it has.
	Properties map[string]string
	// Java are options of the Java machine, after this package's own (of which the later wins).
	Java []string
	// TLS gives every broker a second listener, with a certificate for 127.0.0.1 and localhost; see SecureAddresses and TLS. Clients may show a
	// certificate, and must with the property ssl.client.auth=required.
	TLS bool
	// Users are names and passwords that the second listener asks for, with or without TLS, by PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 (PLAIN alone in versions
	// before 3.5, which have no SCRAM without ZooKeeper). Neither may hold quotes, backslashes, commas or brackets.
	Users map[string]string
	// Port is where the first broker listens if that is free; the others follow it. Default: any free ports.
	Port int
}

// Kafka is a cluster of Apache Kafka brokers (KRaft) on loopback, each a process of its own. Its methods may be called from several goroutines.
type Kafka struct {
	o          KafkaOptions
	java, jars string
	id         string // of the cluster
	made       string // temporary folder to remove
	issued     *issued
	brokers    []*broker
}

type broker struct {
	number int // from 0; its node id is one more
	dir    string
	ports  [3]int // for clients, for controllers, for clients by TLS or log-in

	mu      sync.Mutex
	process *process
}

// startWithin bounds a start whose context has no earlier deadline.
const startWithin = 90 * time.Second

// StartKafka starts a cluster and returns when all its brokers answer and know of one another. The context is for the start alone; the cluster runs until Close or
// Stop, or dies with this process. Java and Maven must be installed, else the error is an ErrMissing; the first start of a version downloads it (45 MB).
func StartKafka(ctx context.Context, o KafkaOptions) (_ *Kafka, err error) {
	if o.Brokers == 0 {
		o.Brokers = 1
	}
	if o.Version == "" {
		o.Version = NewestKafka
	}
	k := &Kafka{o: o}
	if k.java, k.jars, err = kafkaFiles(ctx, o.Version); err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	if k.o.Dir == "" {
		if k.o.Dir, err = os.MkdirTemp("", "tidewire-kafka-"); err != nil {
			return nil, fmt.Errorf("start Kafka: %w", err)
		}
		k.made = k.o.Dir
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for range 3 {
		if err = k.start(ctx); !errors.Is(err, errPortTaken) {
			break
		}
		k.kill()
	}
	if err != nil {
		k.Close()
		return nil, fmt.Errorf("start Kafka %s: %w", o.Version, err)
	}
	return k, nil
}

func (k *Kafka) start(ctx context.Context) (err error) {
	if k.o.Dir, err = filepath.Abs(k.o.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(k.o.Dir, 0o700); err != nil {
		return err
	}
	if k.id, err = clusterID(filepath.Join(k.o.Dir, "cluster-id")); err != nil {
		return err
	}
	if k.o.TLS {
		files, err := issue(k.o.Dir)
		if err != nil {
			return err
		}
		k.issued = &files
	}
	if err := k.place(ctx); err != nil {
		return err
	}
	if err := k.each(func(b *broker) error { return k.prepare(ctx, b) }); err != nil {
		return err
	}
	if err := k.each(k.launch); err != nil {
		return err
	}
	return k.each(func(b *broker) error { return k.await(ctx, b, k.o.Brokers) })
}

// place gives every broker its folder and its ports.
func (k *Kafka) place(ctx context.Context) error {
	n := k.o.Brokers
	var preferred []int
	for i := range n {
		if k.o.Port != 0 {
			preferred = append(preferred, k.o.Port+i)
		}
	}
	ports, err := freePorts(ctx, 3*n, preferred...)
	if err != nil {
		return err
	}
	k.brokers = nil
	for i := range n {
		b := &broker{number: i, dir: filepath.Join(k.o.Dir, fmt.Sprintf("broker-%d", i+1)), ports: [3]int{ports[i], ports[n+i], ports[2*n+i]}}
		k.brokers = append(k.brokers, b)
	}
	return nil
}

// clusterID is the id in a file, which is made if it is not there: 16 bytes in base64url, as Kafka has them.
func clusterID(file string) (string, error) {
	if text, err := os.ReadFile(file); err == nil {
		return string(text), nil
	}
	var id [16]byte
	_, _ = rand.Read(id[:])  // never fails
	id[0], id[8] = 'T', 0x80 // the first character must not be a dash, which Kafka's tool would take for an option
	text := base64.RawURLEncoding.EncodeToString(id[:])
	return text, os.WriteFile(file, []byte(text), 0o600)
}

// each does something for all brokers at once.
func (k *Kafka) each(do func(*broker) error) error {
	errs := make([]error, len(k.brokers))
	var all sync.WaitGroup
	for i, b := range k.brokers {
		all.Go(func() { errs[i] = do(b) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// launch starts a broker's process unless it runs.
func (k *Kafka) launch(b *broker) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.process.running() {
		return nil
	}
	p, err := start(command{
		args: append(k.javaCommand(b.dir), "kafka.Kafka", b.propertiesFile()), dir: b.dir, log: b.logFile(), orphaned: syscall.SIGKILL,
	})
	b.process = p
	return err
}

// await returns when a broker answers and lists itself and at least so many brokers.
func (k *Kafka) await(ctx context.Context, b *broker, atLeast int) error {
	b.mu.Lock()
	p := b.process
	b.mu.Unlock()
	return p.await(ctx, b.name(), func(ctx context.Context) error {
		known, err := metadata(ctx, address(b.ports[0]))
		switch {
		case err != nil:
			return err
		case known.ClusterID != k.id:
			return errors.New("a broker of another cluster answers on its port")
		}
		if itself := slices.ContainsFunc(known.Brokers, func(o kafka.Broker) bool { return o.ID == b.number+1 }); !itself || len(known.Brokers) < atLeast {
			return fmt.Errorf("it knows %d brokers of %d, itself: %t", len(known.Brokers), atLeast, itself)
		}
		return nil
	})
}

// metadata asks a broker what it knows.
func metadata(ctx context.Context, at string) (*kafka.MetadataResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	transport := &kafka.Transport{MetadataTopics: []string{}}
	defer transport.CloseIdleConnections()
	return (&kafka.Client{Transport: transport}).Metadata(ctx, &kafka.MetadataRequest{Addr: kafka.TCP(at)})
}

func (b *broker) name() string           { return fmt.Sprintf("broker %d", b.number+1) }
func (b *broker) logFile() string        { return filepath.Join(b.dir, "kafka.log") }
func (b *broker) propertiesFile() string { return filepath.Join(b.dir, "server.properties") }

// Addresses are where the brokers listen, host:port, without TLS and log-in. They stay the same when a broker is started again.
func (k *Kafka) Addresses() []string { return k.addresses(0) }

// SecureAddresses are where they listen with TLS or log-in as asked for in the options; none otherwise.
func (k *Kafka) SecureAddresses() []string {
	if !k.secure() {
		return nil
	}
	return k.addresses(2)
}

func (k *Kafka) addresses(which int) []string {
	all := make([]string, len(k.brokers))
	for i, b := range k.brokers {
		all[i] = address(b.ports[which])
	}
	return all
}

func (k *Kafka) secure() bool { return k.o.TLS || len(k.o.Users) > 0 }

// TLS is what a client of SecureAddresses needs; empty without the option.
func (k *Kafka) TLS() Files {
	if k.issued == nil {
		return Files{}
	}
	return k.issued.Files
}

// Kill kills broker i (from 0) at once, as kill -9 does, and waits until it is gone.
func (k *Kafka) Kill(i int) error {
	return k.with(i, func(p *process) error { p.kill(); return nil })
}

// Pause stops broker i without ending it: connections stay open and nothing answers.
func (k *Kafka) Pause(i int) error {
	return k.with(i, func(p *process) error { return p.cmd.Process.Signal(syscall.SIGSTOP) })
}

// Resume lets a paused broker go on.
func (k *Kafka) Resume(i int) error {
	return k.with(i, func(p *process) error { return p.cmd.Process.Signal(syscall.SIGCONT) })
}

// with does something to a broker that runs.
func (k *Kafka) with(i int, do func(*process) error) error {
	b := k.brokers[i]
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.process.running() {
		return fmt.Errorf("%s does not run; the end of %s:\n%s", b.name(), b.logFile(), tail(b.logFile()))
	}
	return do(b.process)
}

// Start starts broker i again, where it was and with its data, and returns when it answers and lists itself. It does nothing to one that runs.
func (k *Kafka) Start(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	b := k.brokers[i]
	if err := k.launch(b); err != nil {
		return err
	}
	return k.await(ctx, b, 1)
}

// AwaitInSync returns when every partition of every topic has a leader and all its copies are in sync: when it is time to kill the next broker.
func (k *Kafka) AwaitInSync(ctx context.Context) error {
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for {
		err := k.inSync(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("brokers are not in sync: %w (%w)", err, ctx.Err())
		case <-pause.C:
		}
	}
}

func (k *Kafka) inSync(ctx context.Context) (err error) {
	for _, at := range k.Addresses() {
		var known *kafka.MetadataResponse
		if known, err = metadata(ctx, at); err != nil {
			continue // this one is down; what it should have is told by the next
		}
		for _, t := range known.Topics {
			for _, p := range t.Partitions {
				if p.Error != nil {
					return fmt.Errorf("partition %d of %s: %w", p.ID, t.Name, p.Error)
				}
				if len(p.Isr) < len(p.Replicas) {
					return fmt.Errorf("partition %d of %s has %d copies of %d in sync", p.ID, t.Name, len(p.Isr), len(p.Replicas))
				}
			}
		}
		return nil
	}
	return err
}

// Log is the path of broker i's log.
func (k *Kafka) Log(i int) string { return k.brokers[i].logFile() }

// Process is the process id of broker i, 0 when it does not run.
func (k *Kafka) Process(i int) int {
	b := k.brokers[i]
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.process.running() {
		return 0
	}
	return b.process.cmd.Process.Pid
}

// Stop ends the brokers in order, so that the next start is quick. One that does not end within ten seconds is killed, as happens to the last of several: they wait for
// a controller that is gone already. No data is lost by that.
func (k *Kafka) Stop() error {
	return k.each(func(b *broker) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.process.running() {
			_ = b.process.cmd.Process.Signal(syscall.SIGCONT)
			b.process.end(syscall.SIGTERM, 10*time.Second)
		}
		return nil
	})
}

// Close kills what runs, and removes the folder if StartKafka made it. It may be called more than once.
func (k *Kafka) Close() {
	k.kill()
	if k.made != "" {
		_ = os.RemoveAll(k.made)
	}
}

func (k *Kafka) kill() {
	_ = k.each(func(b *broker) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.process.running() {
			b.process.kill()
		}
		return nil
	})
}
