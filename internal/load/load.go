// Package load is the harness that puts Tidewire under load and proves what it did. A Generator posts signed
// webhooks and records what was accepted, a Sink plays the target systems and records every request, and Check
// compares the two records: what was lost, repeated, out of order or altered. RunLimit is the yardstick, the
// least that any durable relay has to do, and Process and Child start and measure what is under test.
//
// Generator and Sink speak HTTP/1.1 by hand over plain TCP, because they share a machine with what they measure
// and must cost little beside it. Both are for loopback and trusted peers: they are no general HTTP client or server.
package load

import (
	"fmt"
	"strconv"
	"strings"
)

// ID is the identity of a generated event. In text it is "evt_<source>_<key>_<seq>", with key and seq in
// decimal, zero-padded to fixed widths so that a request can be patched in place.
type ID struct {
	// Source names the run of the generator: 1 to 16 lower-case letters and digits.
	Source string
	// Key numbers the customer; Seq counts the events of that customer from 1, in the order in which they were posted.
	Key, Seq uint32
}

const (
	keyDigits = 6
	seqDigits = 8
	idPrefix  = "evt_"
)

// String returns the event ID as it stands in the body.
func (id ID) String() string {
	return fmt.Sprintf("%s%s_%0*d_%0*d", idPrefix, id.Source, keyDigits, id.Key, seqDigits, id.Seq)
}

// ParseID is the inverse of String.
func ParseID(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, idPrefix)
	source, rest, ok2 := strings.Cut(rest, "_")
	key, seq, ok3 := strings.Cut(rest, "_")
	k, err := strconv.ParseUint(key, 10, 32)
	q, err2 := strconv.ParseUint(seq, 10, 32)
	if !ok || !ok2 || !ok3 || err != nil || err2 != nil || !validSource(source) {
		return ID{}, fmt.Errorf("event id %.60q is not evt_<source>_<key>_<seq>", s)
	}
	return ID{Source: source, Key: uint32(k), Seq: uint32(q)}, nil
}

func validSource(s string) bool {
	if s == "" || len(s) > 16 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
