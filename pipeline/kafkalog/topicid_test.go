package kafkalog

import (
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// idsAnswer is a broker's answer that names two topics.
func idsAnswer() []byte {
	r := kmsg.NewPtrMetadataResponse()
	r.Version = idsVersion
	for i, host := range []string{"kafka-1", "kafka-2"} {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = int32(i), host, 9092
		if i > 0 {
			b.Rack = kmsg.StringPtr("rack")
		}
		b.UnknownTags.Set(uint32(9), []byte("from a newer one"))
		r.Brokers = append(r.Brokers, b)
	}
	r.ClusterID = kmsg.StringPtr("cluster")
	for i, name := range []string{"t.events.shop", "t.events.other"} {
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic, topic.TopicID = kmsg.StringPtr(name), [16]byte{0: byte(i) + 1, 15: 0xff}
		for n := range int32(3) {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Replicas, p.ISR, p.OfflineReplicas = n, []int32{1, 2, 3}, []int32{1, 2}, []int32{3}
			topic.Partitions = append(topic.Partitions, p)
		}
		r.Topics = append(r.Topics, topic)
	}
	b := binary.BigEndian.AppendUint32(nil, idsCorrelation)
	return r.AppendTo(append(b, 0))
}

func TestTopicIDsAreRead(t *testing.T) {
	t.Parallel()
	ids, err := readIDs(idsAnswer())
	if err != nil || len(ids) != 2 {
		t.Fatal(ids, err)
	}
	for name, want := range map[string]string{"t.events.shop": "010000000000000000000000000000ff", "t.events.other": "020000000000000000000000000000ff"} {
		if id := ids[name]; hex.EncodeToString(id[:]) != want {
			t.Errorf("%s is %x, want %s", name, id, want)
		}
	}
	whole := idsAnswer()
	for n := range whole {
		if _, err := readIDs(whole[:n]); err == nil && n < len(whole)-1 {
			t.Errorf("an answer cut off at %d of %d bytes was read", n, len(whole))
		}
	}
}

// The request is what another's code reads from it.
func TestTopicIDsAreAskedForByName(t *testing.T) {
	t.Parallel()
	b := (&idsRequest{clientID: "hub", topics: []string{"a", "events.shop"}}).bytes()
	if n := binary.BigEndian.Uint32(b); int(n) != len(b)-4 {
		t.Errorf("it says that it has %d bytes and has %d", n, len(b)-4)
	}
	r := kmsg.NewPtrMetadataRequest()
	r.Version = idsVersion
	if err := r.ReadFrom(b[4+2+2+4+2+len("hub")+1:]); err != nil {
		t.Fatal(err)
	}
	if len(r.Topics) != 2 || *r.Topics[1].Topic != "events.shop" || r.Topics[1].TopicID != [16]byte{} || r.AllowAutoTopicCreation {
		t.Errorf("read %+v", r)
	}
}

func FuzzTopicIDs(f *testing.F) {
	f.Add(idsAnswer())
	f.Add([]byte{0, 0, 0, 1, 0})
	f.Add([]byte{0, 0, 0, 1, 1, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, answer []byte) {
		ids, err := readIDs(answer)
		if err == nil && len(ids) > len(answer) {
			t.Errorf("%d topics in %d bytes", len(ids), len(answer))
		}
	})
}
