package services_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/tidewire/tidewire/internal/services"
)

// client speaks to brokers for one test.
func client(t *testing.T, transport *kafka.Transport, addresses ...string) *kafka.Client {
	t.Helper()
	transport.MetadataTTL = 100 * time.Millisecond
	t.Cleanup(transport.CloseIdleConnections)
	return &kafka.Client{Addr: kafka.TCP(addresses...), Transport: transport, Timeout: 10 * time.Second}
}

// create tries until the topic is there: on a busy machine a broker that has just started may be held for dead for a moment.
func create(t *testing.T, c *kafka.Client, topic string, copies int) {
	t.Helper()
	eventually(t, "make topic "+topic, func(ctx context.Context) error {
		made, err := c.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 1, ReplicationFactor: copies}}})
		if err == nil {
			err = made.Errors[topic]
		}
		if errors.Is(err, kafka.TopicAlreadyExists) {
			return nil // an answer was lost
		}
		return err
	})
}

// produce tries until the record is with all copies that are in sync, as a leader may be on its way.
func produce(t *testing.T, c *kafka.Client, topic, value string) {
	t.Helper()
	eventually(t, "produce", func(ctx context.Context) error {
		res, err := c.Produce(ctx, &kafka.ProduceRequest{
			Topic: topic, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(kafka.Record{Value: kafka.NewBytes([]byte(value))}),
		})
		if err != nil {
			return err
		}
		return res.Error
	})
}

// first is the value of a topic's first record.
func first(t *testing.T, c *kafka.Client, topic string) (value string) {
	t.Helper()
	eventually(t, "fetch", func(ctx context.Context) error {
		res, err := c.Fetch(ctx, &kafka.FetchRequest{Topic: topic, Offset: 0, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Second})
		if err != nil {
			return err
		}
		if res.Error != nil {
			return res.Error
		}
		record, err := res.Records.ReadRecord()
		if err != nil {
			return err
		}
		text, err := io.ReadAll(record.Value)
		value = string(text)
		return err
	})
	return value
}

// eventually asks until the answer is nil, for a minute.
func eventually(t *testing.T, what string, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-pause.C:
		}
	}
}

// keeps produces, kills the broker, starts it again and reads.
func keeps(t *testing.T, o services.KafkaOptions) {
	t.Helper()
	k := services.NewKafka(t, o)
	at := k.Addresses()[0]
	c := client(t, &kafka.Transport{}, at)
	create(t, c, "books", 1)
	produce(t, c, "books", "kept")
	before := k.Process(0)
	if err := k.Kill(0); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", at); err == nil {
		conn.Close()
		t.Error("a killed broker listens")
	}
	if err := k.Kill(0); err == nil || k.Process(0) != 0 {
		t.Errorf("a broker that does not run was killed, process %d", k.Process(0))
	}
	if err := k.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if now := k.Process(0); now == 0 || now == before || k.Addresses()[0] != at {
		t.Errorf("started again it is process %d (it was %d) at %s (it was at %s)", now, before, k.Addresses()[0], at)
	}
	if got := first(t, client(t, &kafka.Transport{}, at), "books"); got != "kept" {
		t.Errorf("after kill -9 it has %q", got)
	}
}

func TestABrokerKeepsItsRecordsOverAKill(t *testing.T) {
	t.Parallel()
	keeps(t, services.KafkaOptions{})
}

func TestTheOldestKafkaRunsAsWell(t *testing.T) {
	t.Parallel()
	keeps(t, services.KafkaOptions{Version: services.OldestKafka})
}

func TestAClusterGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	o := services.KafkaOptions{Dir: t.TempDir()}
	k := services.NewKafka(t, o)
	c := client(t, &kafka.Transport{}, k.Addresses()...)
	create(t, c, "books", 1)
	produce(t, c, "books", "kept")
	if err := k.Stop(); err != nil || k.Process(0) != 0 {
		t.Fatalf("stop: %v", err)
	}
	again := services.NewKafka(t, o)
	if got := first(t, client(t, &kafka.Transport{}, again.Addresses()...), "books"); got != "kept" {
		t.Errorf("a new cluster in the same folder has %q", got)
	}
}

func TestALeaderMovesWhenItsBrokerIsKilled(t *testing.T) {
	t.Parallel()
	k := services.NewKafka(t, services.KafkaOptions{Brokers: 3})
	c := client(t, &kafka.Transport{}, k.Addresses()...)
	create(t, c, "books", 3)
	produce(t, c, "books", "kept")
	if err := k.AwaitInSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	// leader is the number of the broker that leads, asked of one that runs; -1 when there is none.
	leader := func(ctx context.Context, at string) (int, error) {
		m, err := client(t, &kafka.Transport{}, at).Metadata(ctx, &kafka.MetadataRequest{Topics: []string{"books"}})
		if err != nil {
			return -1, err
		}
		return m.Topics[0].Partitions[0].Leader.ID - 1, nil
	}
	old, err := leader(t.Context(), k.Addresses()[0])
	if err != nil || old < 0 {
		t.Fatalf("leader %d, %v", old, err)
	}
	if err := k.Kill(old); err != nil {
		t.Fatal(err)
	}
	alive := (old + 1) % 3
	eventually(t, "a new leader", func(ctx context.Context) error {
		now, err := leader(ctx, k.Addresses()[alive])
		if err == nil && (now < 0 || now == old) {
			err = errors.New("the leader is still the one that was killed, or none")
		}
		return err
	})
	rest := client(t, &kafka.Transport{}, k.Addresses()[alive], k.Addresses()[(old+2)%3])
	produce(t, rest, "books", "while one is away")
	if got := first(t, rest, "books"); got != "kept" {
		t.Errorf("the others have %q", got)
	}
	if err := k.Start(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if err := k.AwaitInSync(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAPausedBrokerAnswersNothing(t *testing.T) {
	t.Parallel()
	k := services.NewKafka(t, services.KafkaOptions{})
	if err := k.Pause(0); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", k.Addresses()[0])
	if err != nil {
		t.Fatalf("it does not listen while paused: %v", err)
	}
	defer conn.Close()
	// ApiVersions, version 0, without a client id: the shortest question that Kafka answers.
	if _, err := conn.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("paused it answers %d bytes, %v", n, err)
	}
	if err := k.Resume(0); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 8)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[7] != 7 {
		t.Errorf("resumed it answers % x, %v", answer, err)
	}
}

func TestTheSecondListenerWantsTLSAndALogIn(t *testing.T) {
	t.Parallel()
	k := services.NewKafka(t, services.KafkaOptions{TLS: true, Users: map[string]string{"hub": "a password", "other": "another"}})
	at := k.SecureAddresses()[0]
	trusting := authority(t, k.TLS().CA)
	ask := func(trust *tls.Config, login sasl.Mechanism) error {
		_, err := client(t, &kafka.Transport{TLS: trust, SASL: login}, at).Metadata(t.Context(), &kafka.MetadataRequest{})
		return err
	}
	logins := map[string]func(password string) sasl.Mechanism{
		"plain":         func(password string) sasl.Mechanism { return plain.Mechanism{Username: "hub", Password: password} },
		"scram-sha-256": func(password string) sasl.Mechanism { return scrammed(t, scram.SHA256, password) },
		"scram-sha-512": func(password string) sasl.Mechanism { return scrammed(t, scram.SHA512, password) },
	}
	for name, login := range logins {
		if err := ask(trusting, login("a password")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := ask(trusting, login("another")); err == nil || !strings.Contains(err.Error(), "SASL Authentication failed") {
			t.Errorf("%s with a wrong password: %v", name, err)
		}
	}
	if err := ask(&tls.Config{}, logins["plain"]("a password")); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("the system's authorities are good enough: %v", err)
	}
	if err := ask(trusting, nil); err == nil {
		t.Error("it answers without a log-in")
	}
}

func TestAListenerCanWantAClientsCertificate(t *testing.T) {
	t.Parallel()
	k := services.NewKafka(t, services.KafkaOptions{TLS: true, Properties: map[string]string{"ssl.client.auth": "required"}})
	trust := authority(t, k.TLS().CA)
	ask := func(trust *tls.Config) error {
		_, err := client(t, &kafka.Transport{TLS: trust}, k.SecureAddresses()...).Metadata(t.Context(), &kafka.MetadataRequest{})
		return err
	}
	if err := ask(trust); err == nil {
		t.Error("it answers a client without a certificate")
	}
	own, err := tls.LoadX509KeyPair(k.TLS().Certificate, k.TLS().Key)
	if err != nil {
		t.Fatal(err)
	}
	trust = trust.Clone()
	trust.Certificates = []tls.Certificate{own}
	if err := ask(trust); err != nil {
		t.Error(err)
	}
}

func scrammed(t *testing.T, algorithm scram.Algorithm, password string) sasl.Mechanism {
	t.Helper()
	m, err := scram.Mechanism(algorithm, "hub", password)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// authority is a client's TLS config that trusts one authority alone.
func authority(t *testing.T, path string) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("not a certificate")
	}
	return &tls.Config{RootCAs: pool}
}
