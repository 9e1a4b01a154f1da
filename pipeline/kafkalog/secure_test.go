package kafkalog

import (
	"crypto/tls"
	"testing"

	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/twmb/franz-go/pkg/kfake"
)

// The connections of a group are not those of the rest of the log; they are encrypted and logged in as well.
func TestGroupsSpeakTLSWithAUserName(t *testing.T) {
	t.Parallel()
	certificate, roots := authority(t)
	c := alone(cluster(t, 1, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}}),
		kfake.EnableSASL(), kfake.Superuser("PLAIN", "tide", "right")))
	c.TLS, c.SASL, c.Prefix = &tls.Config{RootCAs: roots}, plain.Mechanism{Username: "tide", Password: "right"}, "tidewire."
	l := opened(t, c)
	out, s := subscribe(t, l, SubscriberConfig{Group: "g"})
	add(t, l, msg("a", ""))
	receive(t, out).Ack()
	until(t, "the place is written", func() bool { return placeOf(t, l, "g", 0) == 1 })
	closed(t, s)
}
