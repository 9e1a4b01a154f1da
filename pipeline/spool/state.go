package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
)

// State is what the spool holds.
type State struct {
	// Spooling says that publishes go into the spool, Since when, and Cause why.
	Spooling bool
	Since    time.Time
	Cause    error
	// Waiting is how many records wait for the shared log, Bytes what they take on disk, with what was refused, and
	// Oldest when the first was appended; zero when there is none.
	Waiting int64
	Bytes   int64
	Oldest  time.Time
	// Refused is how many records the shared log refused for good, which are kept.
	Refused int64
}

// State returns what the spool holds. ctx bounds looking up the oldest.
func (s *Spool) State(ctx context.Context) State {
	s.mu.Lock()
	st := State{Spooling: s.way != straight, Waiting: s.waiting, Bytes: s.bytes, Refused: s.refused}
	var lanes []string
	if st.Spooling {
		st.Since, st.Cause = s.since, s.cause
		for topic := range s.lanes {
			lanes = append(lanes, topic)
		}
	}
	s.mu.Unlock()
	for _, topic := range lanes {
		// What cannot be read is told where it is drained.
		if _, at, err := s.c.Local.Lag(ctx, topic, group); err == nil && at.Unix() > 0 && (st.Oldest.IsZero() || at.Before(st.Oldest)) {
			st.Oldest = at
		}
	}
	return st
}

// String is a sentence for the person on call; empty when there is nothing to say.
func (st State) String() string {
	text := ""
	if st.Spooling {
		text = fmt.Sprintf("events go into the spool since %s, %d wait (%d bytes); the shared log does not take them: %v",
			st.Since.UTC().Format(time.RFC3339), st.Waiting, st.Bytes, st.Cause)
	}
	if st.Refused > 0 {
		if text != "" {
			text += "; "
		}
		text += fmt.Sprintf("%d events were refused by the shared log for good and are kept in the spool", st.Refused)
	}
	return text
}

// Probe returns nil while publishes are taken, into the shared log or into the spool, and otherwise why they are not: the spool is full, or
// cannot be written. It does no I/O.
func (s *Spool) Probe(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.way == straight:
		return nil
	case s.full:
		return errors.Join(s.fullError(), s.cause)
	case s.broken != nil:
		return errors.Join(fmt.Errorf("the spool cannot be written: %w", s.broken), s.cause)
	}
	return nil
}

const (
	// pageBytes is the size of the file's pages, of which a cell takes at most pageRoom.
	pageBytes = 4096
	pageRoom  = pageBytes - 16
	// rowBytes is what a record takes beside UUID, metadata and payload: its header, offset, time and sum, and its share of the bookkeeping of appends.
	rowBytes = 96
)

// charge is what a record of so many bytes takes in the file, at most. Records that fit into a page share it with their like.
func charge(bytes int) int64 {
	n := int64(bytes) + rowBytes
	if n <= pageRoom {
		return pageBytes / (pageRoom / n)
	}
	return (n/pageRoom + 2) * pageBytes
}

func chargeAll(messages []*message.Message) (total int64) {
	for _, m := range messages {
		total += chargeOf(m)
	}
	return total
}

// chargeOf is charge for a message; the log stores metadata as length-prefixed pairs.
func chargeOf(m *message.Message) int64 {
	n := len(m.UUID) + len(m.Payload) + prefix(len(m.Metadata))
	for k, v := range m.Metadata {
		n += prefix(len(k)) + len(k) + prefix(len(v)) + len(v)
	}
	return charge(n)
}

// prefix is the length of a varint.
func prefix(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// metrics are what the spool tells of itself. None has labels.
type metrics struct {
	registerer                prometheus.Registerer
	spooled, drained, refused prometheus.Counter
	all                       []prometheus.Collector
}

// scrapeWithin bounds what a scrape may ask of the file.
const scrapeWithin = time.Second

func newMetrics(s *Spool, registerer prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string, value func(State) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), scrapeWithin)
			defer cancel()
			return value(s.State(ctx))
		})
	}
	m := &metrics{
		registerer: registerer,
		spooled:    counter("tidewire_spool_spooled_total", "Records that were stored in the spool because the shared log did not take them."),
		drained:    counter("tidewire_spool_drained_total", "Records of the spool that the shared log has confirmed."),
		refused:    counter("tidewire_spool_refused_total", "Records of the spool that the shared log refused for good; they are kept in the spool's file."),
	}
	most := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tidewire_spool_max_bytes", Help: "What the records in the spool may take on disk at most."})
	most.Set(float64(s.c.MaxBytes))
	m.all = []prometheus.Collector{m.spooled, m.drained, m.refused, most,
		gauge("tidewire_spool_records", "Records that wait in the spool for the shared log.", func(st State) float64 { return float64(st.Waiting) }),
		gauge("tidewire_spool_bytes", "What the records in the spool take on disk.", func(st State) float64 { return float64(st.Bytes) }),
		gauge("tidewire_spool_oldest_seconds", "Age of the oldest record that waits in the spool; 0 when there is none.", func(st State) float64 {
			if st.Oldest.IsZero() {
				return 0
			}
			return max(0, time.Since(st.Oldest).Seconds())
		}),
	}
	if registerer == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := registerer.Register(c); err != nil {
			for _, c := range m.all[:i] {
				registerer.Unregister(c)
			}
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}
