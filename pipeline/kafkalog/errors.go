package kafkalog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/segmentio/kafka-go"
)

// ErrClosed is returned by everything that is called after Close.
var ErrClosed = errors.New("the log is closed")

// ErrNoRecord is returned by Read when the log does not hold the record, or no longer.
var ErrNoRecord = errors.New("the log does not hold the record")

// refusedError says that a message is not stored and never will be.
type refusedError struct{ topic, why string }

func (e *refusedError) Error() string { return "append to " + e.topic + ": " + e.why }

// Refused marks the error for those who do not know its type.
func (e *refusedError) Refused() bool { return true }

// unknownError says that a request was sent and what became of it is not known: the message is stored, or will be, or never.
type unknownError struct {
	topic string
	err   error
}

func (e *unknownError) Error() string {
	return fmt.Sprintf("append to %s: whether the message is stored is not known: %v", e.topic, e.err)
}

func (e *unknownError) Unwrap() error { return e.err }

// Unknown marks the error for those who do not know its type.
func (e *unknownError) Unknown() bool { return true }

// unsentError says that a message is not stored and was withdrawn; trying again may help.
type unsentError struct {
	topic string
	err   error
}

func (e *unsentError) Error() string {
	return fmt.Sprintf("append to %s: the message is not stored: %v", e.topic, e.err)
}

func (e *unsentError) Unwrap() error { return e.err }

// severalError is the error of a call with several messages.
type severalError struct {
	topic  string
	of     int
	failed []error
}

func (e *severalError) Error() string {
	return fmt.Sprintf("%d of %d messages failed, the first: %v", len(e.failed), e.of, e.failed[0])
}

func (e *severalError) Unwrap() []error { return e.failed }

// Refused says that the call would be refused again and that nothing of it is stored.
func (e *severalError) Refused() bool {
	return len(e.failed) == e.of && e.count(resultRefused) > 0 && !e.Unknown()
}

// Unknown says that something of the call may be stored that is not known to be.
func (e *severalError) Unknown() bool { return e.count(resultUnknown) > 0 }

func (e *severalError) count(which string) (n int) {
	for _, err := range e.failed {
		if result(err) == which {
			n++
		}
	}
	return n
}

// code makes an error of a code in an answer; nil when it is 0.
func code(c int16, message string) error {
	switch {
	case c == 0:
		return nil
	case message == "":
		return kafka.Error(c)
	}
	return fmt.Errorf("%w: %s", kafka.Error(c), message)
}

// displaced reports whether an error says that a request went to a broker that does not lead the partition, or not yet.
func displaced(err error) bool {
	for _, e := range []kafka.Error{
		kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.ReplicaNotAvailable, kafka.UnknownTopicOrPartition,
		kafka.BrokerNotAvailable, kafka.FencedLeaderEpoch, kafka.UnknownLeaderEpoch, kafka.KafkaStorageError, kafka.NotController,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// diagnose says in one sentence why a cluster cannot be used, as far as the error tells.
func diagnose(c *Config, err error) error {
	at := strings.Join(c.Brokers, ", ")
	switch {
	case errors.Is(err, kafka.SASLAuthenticationFailed), isCredentials(err):
		return fmt.Errorf("the Kafka cluster at %s does not accept the user name or password: %w", at, err)
	case errors.Is(err, kafka.UnsupportedSASLMechanism):
		return fmt.Errorf("the Kafka cluster at %s does not offer the SASL mechanism %s: %w", at, c.SASL.Name(), err)
	case errors.Is(err, kafka.IllegalSASLState):
		return fmt.Errorf("the Kafka cluster at %s asks for no user name on this port; leave SASL out or use another port: %w", at, err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("the Kafka cluster at %s does not speak TLS on this port; leave TLS out or use another port: %w", at, err)
	}
	if isCertificate(err) {
		return fmt.Errorf("the certificate of the Kafka cluster at %s is not trusted; set tls.ca to its authority, or have it renewed with the right names: %w", at, err)
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return fmt.Errorf("the Kafka cluster at %s ended the TLS handshake; it may ask for a client certificate: %w", at, err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return fmt.Errorf("no broker of the Kafka cluster at %s can be reached: %w", at, err)
	}
	switch {
	case strings.Contains(err.Error(), "expecting TLS"):
		return fmt.Errorf("the Kafka cluster at %s wants TLS on this port; configure TLS: %w", at, err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		why := "it may want TLS or SASL"
		switch {
		case c.SASL != nil:
			why = "TLS, user name or password may not be as it wants"
		case c.TLS != nil:
			why = "it may not speak TLS on this port, or want SASL"
		}
		return fmt.Errorf("the Kafka cluster at %s ended the connection before it answered; %s: %w", at, why, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		if c.TLS != nil {
			return fmt.Errorf("the Kafka cluster at %s does not answer in time; it may not speak TLS on this port: %w", at, err)
		}
		return fmt.Errorf("the Kafka cluster at %s does not answer in time: %w", at, err)
	}
	return fmt.Errorf("the Kafka cluster at %s cannot be used: %w", at, err)
}

// Away reports whether an error, of Open or of a Log, says that no broker can be reached or none answers in time, or that the cluster is about to
// elect a leader: what passes by itself or by somebody else's hand. Credentials, certificates, topics or versions that are refused do not.
//
// Closed tells the case in between: the connection was made and ended without an answer. That is what brokers do with a client that speaks TLS or SASL
// where they do not, or the other way round, and what a proxy does whose brokers are away.
func Away(err error) bool {
	if err == nil || isCertificate(err) || isCredentials(err) {
		return false
	}
	if k, ok := errors.AsType[kafka.Error](err); ok {
		return k.Temporary()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op == "dial" || op.Timeout()
	}
	_, unresolved := errors.AsType[*net.DNSError](err)
	return unresolved || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// Closed reports whether an error says that a connection was made and ended without an answer; see Away.
func Closed(err error) bool {
	return !Away(err) && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) &&
		!strings.Contains(err.Error(), "expecting TLS")
}

func isCertificate(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	_, ok := errors.AsType[x509.UnknownAuthorityError](err)
	return ok
}

// isCredentials knows what the SCRAM client says of a server that stops in the middle of the exchange.
func isCredentials(err error) bool {
	return strings.Contains(strings.ToLower(err.Error()), "authentication failed")
}
