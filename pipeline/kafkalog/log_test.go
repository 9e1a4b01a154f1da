package kafkalog

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// createTopic creates a topic as somebody else would.
func createTopic(t testing.TB, l *Log, topic string, partitions int32, settings map[string]string) {
	t.Helper()
	req := &createtopics.Request{TimeoutMs: 1000, Topics: []createtopics.RequestTopic{
		{Name: l.client.wire(topic), NumPartitions: partitions, ReplicationFactor: 1},
	}}
	for name, value := range settings {
		req.Topics[0].Configs = append(req.Topics[0].Configs, createtopics.RequestConfig{Name: name, Value: value})
	}
	r, err := l.client.roundTrip(t.Context(), req)
	if err == nil {
		err = code(r.(*createtopics.Response).Topics[0].ErrorCode, "")
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestEnsureCreatesTopicsAsConfigured(t *testing.T) {
	t.Parallel()
	k := cluster(t, 3)
	var asked *kmsg.CreateTopicsRequest
	k.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		asked = req.(*kmsg.CreateTopicsRequest)
		return nil, nil, false
	})
	c := at(k)
	c.Partitions, c.Replication, c.Prefix = 5, 3, "tidewire."
	c.Retention = func(topic string) time.Duration {
		if topic == shop {
			return 36 * time.Hour
		}
		return 0
	}
	l := opened(t, c)
	ensured(t, l, shop, shop)
	want := map[string]string{"cleanup.policy": "delete", "min.insync.replicas": "2", "retention.ms": "129600000", "max.message.bytes": "8388608"}
	got := make(map[string]string)
	for _, s := range asked.Topics[0].Configs {
		got[s.Name] = *s.Value
	}
	if len(asked.Topics) != 1 || asked.Topics[0].Topic != "tidewire.events.shop" || asked.Topics[0].NumPartitions != 5 || asked.Topics[0].ReplicationFactor != 3 {
		t.Errorf("asked for %+v", asked.Topics)
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
	if numbers, err := l.client.layout(t.Context(), shop); err != nil || len(numbers) != 5 {
		t.Errorf("partitions %v, %v", numbers, err)
	}
	// Another process finds them as they are.
	other := opened(t, c)
	ensured(t, other, shop)
}

func TestEnsureRefusesTopicsThatWouldBreakThings(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	for _, c := range []struct {
		topic      string
		partitions int32
		settings   map[string]string
		want       string
	}{
		{"few", 2, nil, "topic few: it has 2 partitions and 3 are configured; configure as many as it has, or give it another name"},
		{"many", 4, nil, "topic many: it has 4 partitions and 3 are configured; configure as many as it has, or give it another name"},
		{"compacted", 3, map[string]string{"cleanup.policy": "compact"}, `topic compacted: its cleanup.policy is "compact", which removes records before their time; set it to delete`},
		{"both", 3, map[string]string{"cleanup.policy": "compact,delete"}, `topic both: its cleanup.policy is "compact,delete", which removes records before their time; set it to delete`},
	} {
		createTopic(t, l, c.topic, c.partitions, c.settings)
		err := l.Ensure(t.Context(), c.topic)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v\nwant %s", c.topic, err, c.want)
		}
		if err := l.Publish(c.topic, note(t.Context(), "a", "x")); err == nil {
			t.Errorf("%s takes messages", c.topic)
		}
	}
	if err := l.Ensure(t.Context(), "events/shop"); err == nil || !strings.Contains(err.Error(), "letters, digits") {
		t.Errorf("a name that Kafka does not take: %v", err)
	}
	c := at(k)
	c.Replication = 3
	if err := opened(t, c).Ensure(t.Context(), "replicated"); err == nil || !strings.Contains(err.Error(), "fewer brokers") {
		t.Errorf("more replicas than brokers: %v", err)
	}
}

func TestEnsureWarnsOfAnotherRetention(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	var out bytes.Buffer
	c := at(k)
	c.Logger = slog.New(slog.NewTextHandler(&out, nil))
	c.Retention = func(string) time.Duration { return time.Hour }
	l := opened(t, c)
	createTopic(t, l, "short", 3, map[string]string{"retention.ms": "60000"})
	createTopic(t, l, "right", 3, map[string]string{"retention.ms": "3600000"})
	ensured(t, l, "right")
	if out.Len() > 0 {
		t.Errorf("warned of %s", out.String())
	}
	ensured(t, l, "short")
	if !strings.Contains(out.String(), "topic=short has=1m0s configured=1h0m0s") {
		t.Errorf("warned of %q", out.String())
	}
}

func TestSeveralEnsureAtOnce(t *testing.T) {
	t.Parallel()
	k := cluster(t, 3)
	var ensuring sync.WaitGroup
	for range 4 {
		l := opened(t, at(k))
		for range 4 {
			ensuring.Go(func() {
				if err := l.Ensure(t.Context(), "a", "b", "c"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	ensuring.Wait()
}

// secret must never be in an error.
const secret = "hunter2-secret"

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	certificate, roots := authority(t)
	scrams := func(user, password string) sasl.Mechanism {
		m, err := scram.Mechanism(scram.SHA512, user, password)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	open := cluster(t, 1)
	locked := cluster(t, 1, kfake.EnableSASL(), kfake.Superuser("PLAIN", "tide", "right"), kfake.Superuser("SCRAM-SHA-512", "tide", "right"))
	sealed := cluster(t, 1, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}}))
	old := cluster(t, 1, kfake.MaxVersions(kversion.V2_0_0()))
	denying := cluster(t, 1, kfake.EnableSASL(), kfake.Superuser("PLAIN", "tide", "right"))
	denying.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		denying.KeepControl()
		r := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		r.ErrorCode, r.ErrorMessage = int16(kafka.SASLAuthenticationFailed), kmsg.StringPtr("Authentication failed: Invalid username or password")
		return r, nil, true
	})
	away := cluster(t, 1)
	announce(away, shop, 7)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	for name, c := range map[string]struct {
		cluster *kfake.Cluster
		change  func(*Config)
		want    string // "" is that it opens
		kind    string // of error: away, closed or ""
	}{
		"as it should":        {open, func(*Config) {}, "", ""},
		"no brokers":          {open, func(c *Config) { c.Brokers = nil }, "no Kafka brokers are named", ""},
		"nobody there":        {open, func(c *Config) { c.Brokers = []string{"127.0.0.1:1"} }, "no broker of the Kafka cluster at 127.0.0.1:1 can be reached", "away"},
		"one of two there":    {open, func(c *Config) { c.Brokers = append([]string{"127.0.0.1:1"}, c.Brokers...) }, "", ""},
		"nobody answers":      {open, func(c *Config) { c.Brokers, c.RequestTimeout = []string{mute.Addr().String()}, 200*time.Millisecond }, "does not answer in time", "away"},
		"announced elsewhere": {away, func(*Config) {}, "broker 7, which announces itself as 127.0.0.1:1, cannot be reached", "away"},
		"too old":             {old, func(*Config) {}, "Apache Kafka 3.4 or newer is needed", ""},
		"PLAIN":               {locked, func(c *Config) { c.SASL = plain.Mechanism{Username: "tide", Password: "right"} }, "", ""},
		"SCRAM":               {locked, func(c *Config) { c.SASL = scrams("tide", "right") }, "", ""},
		"PLAIN, wrong":        {denying, func(c *Config) { c.SASL = plain.Mechanism{Username: "tide", Password: secret} }, "does not accept the user name or password", ""},
		"PLAIN, cut off":      {locked, func(c *Config) { c.SASL = plain.Mechanism{Username: "tide", Password: secret} }, "user name or password may not be as it wants", "closed"},
		"SCRAM, wrong":        {locked, func(c *Config) { c.SASL = scrams("tide", secret) }, "user name or password may not be as it wants", "closed"},
		"SCRAM not offered":   {denying, func(c *Config) { c.SASL = unheard{} }, "does not offer the SASL mechanism OAUTHBEARER", ""},
		"SASL left out":       {locked, func(*Config) {}, "it may want TLS or SASL", "closed"},
		"TLS":                 {sealed, func(c *Config) { c.TLS = &tls.Config{RootCAs: roots} }, "", ""},
		"TLS, not trusted":    {sealed, func(c *Config) { c.TLS = &tls.Config{} }, "is not trusted; set tls.ca to its authority", ""},
		"TLS left out":        {sealed, func(*Config) {}, "TLS", "closed"},
		"TLS for nothing":     {open, func(c *Config) { c.TLS, c.RequestTimeout = &tls.Config{RootCAs: roots}, 300*time.Millisecond }, "it may not speak TLS on this port", "away"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := at(c.cluster)
			c.change(&conf)
			l, err := Open(t.Context(), conf)
			if err == nil {
				defer l.Close()
				ensured(t, l, "hello")
				err = errors.Join(l.Publish("hello", note(t.Context(), "a", "x")), l.Probe(t.Context()))
			}
			switch {
			case (err == nil) != (c.want == ""):
				t.Errorf("%v", err)
			case err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "\n")):
				t.Errorf("%q\nshould say %q in one sentence, without secrets", err, c.want)
			}
			if got := map[bool]string{true: "away"}[Away(err)] + map[bool]string{true: "closed"}[Closed(err)]; got != c.kind {
				t.Errorf("%v is taken for %q, want %q", err, got, c.kind)
			}
		})
	}
}

// unheard is a mechanism that the brokers do not have.
type unheard struct{}

func (unheard) Name() string { return "OAUTHBEARER" }

func (unheard) Start(context.Context) (sasl.StateMachine, []byte, error) {
	return nil, nil, errors.New("not reached")
}

// authority makes a certificate for loopback and what trusts it.
func authority(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func TestProbeSaysWhenAPartitionHasNoLeader(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	ensured(t, l, shop)
	if err := l.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	announce(k, shop, -1)
	if err := l.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "3 of 3 partitions have no leader") {
		t.Errorf("%v", err)
	}
	k.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := l.Probe(ctx); err == nil || strings.Contains(err.Error(), "leader") {
		t.Errorf("without brokers: %v", err)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	k := cluster(t, 2)
	c := at(k)
	c.Prefix = "tidewire."
	c.PartitionKey = byKey
	l := opened(t, c)
	ensured(t, l, shop)
	for i := range 5 {
		m := note(t.Context(), named("a", i), named("body", i))
		m.Metadata.Set("ce_type", "invoice.paid")
		if err := l.Publish(shop, m); err != nil {
			t.Fatal(err)
		}
	}
	n := spread("a", 3)
	for i := range 5 {
		m, err := l.Read(t.Context(), shop, n, int64(i))
		if err != nil || m.UUID != named("a", i) || string(m.Payload) != named("body", i) || len(m.Metadata) != 1 || m.Metadata["ce_type"] != "invoice.paid" {
			t.Errorf("offset %d: %v, %v", i, m, err)
		}
	}
	for _, offset := range []int64{5, 100} {
		if _, err := l.Read(t.Context(), shop, n, offset); !errors.Is(err, ErrNoRecord) {
			t.Errorf("offset %d: %v", offset, err)
		}
	}
	if err := k.MoveTopicPartition(c.Prefix+shop, n, 1-k.LeaderFor(c.Prefix+shop, n)); err != nil {
		t.Fatal(err)
	}
	if m, err := l.Read(t.Context(), shop, n, 3); err != nil || m.UUID != named("a", 3) {
		t.Errorf("after the partition moved: %v, %v", m, err)
	}
}

func TestOffsetsOfManyPartitionsTakeOneRequestForEachBroker(t *testing.T) {
	t.Parallel()
	k := cluster(t, 2)
	c := at(k)
	c.Partitions, c.Prefix = 12, "tidewire."
	l := opened(t, c)
	ensured(t, l, shop, "events.till")
	ms := 0
	for i := range 40 {
		if err := l.Publish(shop, note(t.Context(), named("id", i), "x")); err != nil {
			t.Fatal(err)
		}
		ms++
	}
	requests := 0
	k.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		requests++
		return nil, nil, false
	})
	var ps []partition
	for _, topic := range []string{shop, "events.till"} {
		for n := range int32(12) {
			ps = append(ps, partition{topic, n})
		}
	}
	ends, err := l.client.offsets(t.Context(), ps, atEnd)
	sum := int64(0)
	for p, end := range ends {
		if p.topic == shop {
			sum += end
		}
	}
	if err != nil || len(ends) != 24 || sum != int64(ms) || requests != 2 {
		t.Errorf("%d ends, %d records, %d requests, %v", len(ends), sum, requests, err)
	}
}

func TestNothingIsLeftOfAThousandLogs(t *testing.T) {
	times := 1000
	if testing.Short() {
		times = 100
	}
	k := cluster(t, 2)
	c := at(k)
	before := 0
	for i := range times {
		l, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := l.Publish(shop, note(t.Context(), "a", "x")); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if i == 10 {
			before = runtime.NumGoroutine()
		}
	}
	until(t, "goroutines are as few as after ten", func() bool { return runtime.NumGoroutine() <= before+2 })
}

func TestEnsureSaysWhichPartitionHasNoLeader(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	l := opened(t, at(k))
	announce(k, shop, -1)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := l.Ensure(ctx, shop); !Away(err) || !strings.Contains(err.Error(), "3 partitions have no leader, "+shop+"/0 among them") {
		t.Errorf("%v", err)
	}
}
