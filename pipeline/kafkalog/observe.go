package kafkalog

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Holding is a partition that this process reads for a group.
type Holding struct {
	Group, Topic string
	Partition    int32
	// Position is the offset before which the group has finished everything.
	Position int64
	// Since is when the partition was given to this process.
	Since time.Time
}

// Holdings are the partitions that this process reads now, by group, topic and partition.
func (l *Log) Holdings() []Holding {
	var all []Holding
	for _, s := range l.subscribers() {
		all = append(all, s.holdings()...)
	}
	slices.SortFunc(all, func(a, b Holding) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return all
}

// Membership is how this process stands in a group.
type Membership struct {
	Group string
	// State is "member" or says what is waited for.
	State string
	// Since is when that began.
	Since time.Time
}

// The states of a membership.
const (
	stateIdle    = "idle: nothing is subscribed to"
	stateJoining = "joining the group"
	stateMember  = "member"
	stateWaiting = "waiting for the group coordinator"
	stateLeaving = "leaving the group"
)

// Memberships says of each subscriber how it stands in its group, by group.
func (l *Log) Memberships() []Membership {
	var all []Membership
	for _, s := range l.subscribers() {
		all = append(all, s.membership())
	}
	slices.SortFunc(all, func(a, b Membership) int { return cmp.Compare(a.Group, b.Group) })
	return all
}

// subscribers are those that are open.
func (l *Log) subscribers() []*Subscriber {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var all []*Subscriber
	for p := range l.parts {
		if s, ok := p.(*Subscriber); ok {
			all = append(all, s)
		}
	}
	return all
}

// readMetrics count what the consuming side does.
type readMetrics struct {
	reg        prometheus.Registerer
	all        []prometheus.Collector
	held       *prometheus.GaugeVec
	rebalances *prometheus.CounterVec
	gaps       *prometheus.CounterVec
	overdue    *prometheus.CounterVec
	commits    *prometheus.CounterVec
	resumed    *prometheus.CounterVec
	failed     prometheus.Counter
	damaged    prometheus.Counter
}

func newReadMetrics(reg prometheus.Registerer) (*readMetrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidewire_kafka_" + name, Help: help}, []string{"group"})
	}
	m := &readMetrics{
		reg: reg,
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tidewire_kafka_partitions_held", Help: "Partitions that this hub reads, by group.",
		}, []string{"group"}),
		rebalances: counter("rebalances_total", "How often the partitions of a group were given out anew with this hub in it."),
		gaps:       counter("gap_records_total", "Records that retention removed before the group had read them."),
		overdue:    counter("overdue_total", "Messages that were in hand for longer than they should be."),
		commits:    counter("commit_errors_total", "Commits of a group's places that failed."),
		resumed:    counter("places_resumed_total", "Partitions in which Kafka had lost the place of the group, which went on from the one kept beside it."),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidewire_kafka_fetch_errors_total", Help: "Fetches that failed, or failed for a partition.",
		}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidewire_kafka_damaged_records_total", Help: "Records that could not be read as they were written.",
		}),
	}
	m.all = []prometheus.Collector{m.held, m.rebalances, m.gaps, m.overdue, m.commits, m.resumed, m.failed, m.damaged}
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, err
		}
	}
	return m, nil
}

func (m *readMetrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
