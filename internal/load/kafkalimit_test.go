package load

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func fakeKafka(t *testing.T, brokers int) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestLimitOnKafkaAcceptsPostsOnAndCommits(t *testing.T) {
	t.Parallel()
	cluster := fakeKafka(t, 2)
	s, err := NewSink(SinkConfig{Rules: map[string]Rule{"/t": {Share: 0.1, Fail: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var produced, partitions, acks atomic.Int64
	cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		p := r.(*kmsg.ProduceRequest)
		produced.Add(1)
		for _, t := range p.Topics {
			partitions.Add(int64(len(t.Partitions)))
		}
		if p.Acks == -1 {
			acks.Add(1)
		}
		return nil, nil, false
	})
	address, stop := startLimit(t, LimitConfig{Target: s.URL("/t"), Brokers: cluster.ListenAddrs(), Topic: "limit", Clients: 4, Queue: 8})
	sent, err := Generator{Address: address, Path: "/in/x", Source: "l", Connections: 32, Events: 600}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context(), 600, 5*time.Second, "/t"); err != nil {
		t.Error(err)
	}
	v := Check(sent, s.Receipts("/t"), Expect{})
	v.Inversions = 0 // the limit keeps no order
	if !v.Clean(0) || v.Delivered != 600 {
		t.Errorf("verdict: %s", v)
	}
	if produced.Load() != acks.Load() || partitions.Load() <= produced.Load() {
		t.Errorf("%d produce requests for %d partitions, %d of them ask for all replicas", produced.Load(), partitions.Load(), acks.Load())
	}
	client := &kafka.Client{Addr: kafka.TCP(cluster.ListenAddrs()...), Transport: &kafka.Transport{}}
	defer client.Transport.(*kafka.Transport).CloseIdleConnections()
	committed := int64(0)
	for begin := time.Now(); committed < 600 && time.Since(begin) < 10*time.Second; {
		all := make([]int, limitPartitions)
		for i := range all {
			all[i] = i
		}
		got, err := client.OffsetFetch(t.Context(), &kafka.OffsetFetchRequest{GroupID: limitGroup, Topics: map[string][]int{"limit": all}})
		if err != nil {
			t.Fatal(err)
		}
		committed = 0
		for _, p := range got.Topics["limit"] {
			committed += max(p.CommittedOffset, 0)
		}
	}
	if committed != 600 {
		t.Errorf("%d are committed", committed)
	}
	stop()
}

func TestLimitOnKafkaRefusesWhatIsNotConfirmed(t *testing.T) {
	t.Parallel()
	cluster := fakeKafka(t, 1)
	s, err := NewSink(SinkConfig{Rules: map[string]Rule{"/t": {}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer := r.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range r.(*kmsg.ProduceRequest).Topics {
			one := kmsg.ProduceResponseTopic{Topic: topic.Topic, TopicID: topic.TopicID}
			for _, p := range topic.Partitions {
				one.Partitions = append(one.Partitions, kmsg.ProduceResponseTopicPartition{Partition: p.Partition, ErrorCode: kerr.NotEnoughReplicas.Code})
			}
			answer.Topics = append(answer.Topics, one)
		}
		return answer, nil, true
	})
	address, stop := startLimit(t, LimitConfig{Target: s.URL("/t"), Brokers: cluster.ListenAddrs(), Topic: "limit"})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Post("http://"+address, "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("answered %d", answer.StatusCode)
	}
	stop()
	if got := s.Seen("/t"); got != 0 {
		t.Errorf("%d bodies were posted on that are not stored", got)
	}
}

func TestLimitOnKafkaArgsReadBack(t *testing.T) {
	t.Parallel()
	c := LimitConfig{Listen: "127.0.0.1:9", Target: "http://127.0.0.1:8/t", Brokers: []string{"a:1", "b:2"}, Topic: "limit"}
	got, err := ParseLimit(c.Args())
	if err != nil || got.Topic != c.Topic || !slices.Equal(got.Brokers, c.Brokers) || got.File != "" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]string{
		{"--target", "x", "--brokers", "a:1"}, {"--target", "x", "--topic", "t"}, {"--target", "x", "--brokers", "a:1", "--topic", "t", "--file", "f"},
	} {
		if _, err := ParseLimit(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
