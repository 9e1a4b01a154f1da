package kafkalog

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/internal/services"
)

// real is a config for one broker of Apache Kafka, which ends with the test and may be killed.
func real(t *testing.T, version string) (Config, *services.Kafka) {
	t.Helper()
	k := services.NewKafka(t, services.KafkaOptions{Version: version})
	c := Config{
		Brokers: k.Addresses(), Partitions: 1, Replication: 1, Logger: slogQuiet(),
		CloseTimeout: 2 * time.Second, RequestTimeout: 5 * time.Second,
	}
	return c, k
}

// restarter has the broker killed and started again whenever somebody connects to it, who is told by the end of the connection that it is
// over. It returns a command that does so.
func restarter(t *testing.T, k *services.Kafka) []string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := k.Kill(0); err != nil {
				t.Error(err)
			}
			if err := k.Start(ctx, 0); err != nil {
				t.Error(err)
			}
			c.Close()
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		serving.Wait()
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return []string{"bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%s; read -u 3; true", port)}
}

// The suite has run on brokers within this process by now; with -short that is all.
func TestWatermillSuiteOnApacheKafka(t *testing.T) {
	onPromised(t, func(t *testing.T, version string) {
		c, k := real(t, version)
		restart := restarter(t, k)
		if raced {
			restart = nil // Watermill's reconnect test reads what another goroutine of its own still writes; "make test" runs it without the detector
		}
		watermillSuite(t, onKafkaGo{opened(t, hurried(c))}, restart)
	})
}

// onPromised runs a test on the newest and the oldest Apache Kafka that are promised, side by side. Under the race detector, which is there for our side
// alone, it is the newest.
func onPromised(t *testing.T, test func(t *testing.T, version string)) {
	versions := []string{services.NewestKafka}
	if !raced {
		versions = append(versions, services.OldestKafka)
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}

// A broker that is killed and comes back loses nothing of what was acknowledged, and no hub has to be started again.
func TestGroupsGoOnAfterABrokerWasKilled(t *testing.T) {
	const keys, each = 10, 40
	c, k := real(t, services.NewestKafka)
	c.Partitions, c.NackDelay, c.NackDelayMax = 3, time.Millisecond, 5*time.Millisecond
	c.PartitionKey = keyed
	l := opened(t, c)
	ensured(t, l, orders)
	led := newLedger(t)
	out, s := subscribe(t, l, SubscriberConfig{Group: "g", InHand: 8, Key: keyed})
	var running sync.WaitGroup
	running.Go(func() { led.work(out) })
	until(t, "it is a member", func() bool { return s.membership().State == stateMember })
	for n := range each {
		if n == each/2 {
			if err := k.Kill(0); err != nil {
				t.Fatal(err)
			}
			running.Go(func() {
				if err := k.Start(context.Background(), 0); err != nil {
					t.Error(err)
				}
			})
		}
		for key := range keys {
			m := message.NewMessage(fmt.Sprintf("k%d-%d", key, n), nil)
			m.Metadata.Set("key", fmt.Sprint("k", key))
			for deadline := time.Now().Add(time.Minute); l.Publish(orders, m) != nil; {
				if time.Now().After(deadline) {
					t.Fatal("the broker does not take messages any more")
				}
			}
		}
	}
	until(t, "all are acked", func() bool { return led.done() == keys*each })
	until(t, "no lag", func() bool { return behind(t, l, "g") == 0 })
	closed(t, s)
	running.Wait()
	t.Logf("%d messages came again after they were acked", led.dups)
}
