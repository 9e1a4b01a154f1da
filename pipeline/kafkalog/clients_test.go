package kafkalog

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tidewire/tidewire/internal/services"
)

// pairs runs a test with every client before every other, on one cluster each time.
func pairs(t *testing.T, at func(*testing.T) Config, test func(t *testing.T, c Config, one, other opener)) {
	t.Parallel()
	for first, one := range clients() {
		for second, other := range clients() {
			if first != second {
				t.Run(first+" and "+second, func(t *testing.T) {
					t.Parallel()
					c := at(t)
					c.Prefix = strings.NewReplacer("/", ".", "_", "-").Replace(t.Name()) + "."
					test(t, c, one, other)
				})
			}
		}
	}
}

// inProcess is a config for brokers in this process.
func inProcess(t *testing.T) Config { return lively(cluster(t, 2)) }

func TestWhatOneClientWritesTheOtherReads(t *testing.T) {
	pairs(t, inProcess, oneWritesTheOtherReads)
}

// A group's place, and what it may not cover, is the same whichever client's members wrote it.
func TestAGroupGoesOnWithTheOtherClient(t *testing.T) {
	pairs(t, inProcess, goesOnWithTheOther)
}

func TestClientsMeetOnApacheKafka(t *testing.T) {
	c, _ := real(t, services.NewestKafka)
	hurry := func(*testing.T) Config {
		c := c
		c.HeartbeatInterval, c.CommitEvery, c.CloseTimeout = 20*time.Millisecond, 5*time.Millisecond, 500*time.Millisecond
		c.PartitionKey = keyed
		return c
	}
	for name, test := range map[string]func(t *testing.T, c Config, one, other opener){"records": oneWritesTheOtherReads, "places": goesOnWithTheOther} {
		t.Run(name, func(t *testing.T) { pairs(t, hurry, test) })
	}
}

func oneWritesTheOtherReads(t *testing.T, c Config, one, other opener) {
	writer, reader := newBed(t, one, c), newBed(t, other, c)
	want := make(map[string]*message.Message)
	for i := range 40 {
		m := msg(fmt.Sprintf("%c%02d", 'a'+i%4, i), fmt.Sprint("\x00\xff", i))
		m.Metadata["ce_type"], m.Metadata[""] = "invoice.paid", "\xff"
		want[m.UUID] = m
		// In turn, so that those of a key are in order only if both choose the same partition.
		if by := []bed{writer, reader}[i/4%2]; by.Publish(orders, m) != nil {
			t.Fatal("it was not published")
		}
	}
	last := make(map[string]string)
	out, _ := reads(t, reader, SubscriberConfig{Group: "g", InHand: 4, Key: keyed})
	for range want {
		m := receive(t, out)
		w := want[m.UUID]
		if w == nil || string(w.Payload) != string(m.Payload) || !maps.Equal(w.Metadata, m.Metadata) {
			t.Fatalf("got %s %v %q", m.UUID, m.Metadata, m.Payload)
		}
		key := m.Metadata["key"]
		if m.UUID <= last[key] {
			t.Errorf("%s came after %s", m.UUID, last[key])
		}
		last[key] = m.UUID
		m.Ack()
	}
}

func goesOnWithTheOther(t *testing.T, c Config, one, other opener) {
	c.Partitions, c.CloseTimeout = 1, 100*time.Millisecond
	l, next := newBed(t, one, c), newBed(t, other, c)
	for i := range 9 {
		l.add(t, msg(fmt.Sprint(i), ""))
	}
	out, s := reads(t, l, SubscriberConfig{Group: "g", InHand: 5, Key: unordered})
	for range 5 {
		if m := receive(t, out); m.UUID != "2" {
			m.Ack()
		}
	}
	ended(t, s)
	if at := placeOf(t, l.judge, "g", 0); at != 2 {
		t.Errorf("the place is %d, want 2", at)
	}
	out, s = reads(t, next, SubscriberConfig{Group: "g"})
	for i := 2; i < 7; i++ {
		m := receive(t, out)
		if m.UUID != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", m.UUID, i)
		}
		m.Ack()
	}
	m := receive(t, out) // in hand, and given back
	ended(t, s)
	out, s = reads(t, l, SubscriberConfig{Group: "g"})
	if again := receive(t, out); again.UUID != m.UUID || m.UUID != "7" {
		t.Errorf("got %s, then %s", m.UUID, again.UUID)
	}
	ended(t, s)
}
