package kafkalog

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/segmentio/kafka-go"
)

// balancer shares out the partitions of topics among the members of a group. The shares depend on nothing but the names of the
// processes, the topic and its partitions: so a process gets the same partitions of a topic in all of its groups, and reads them once for all.
type balancer struct {
	instance string
	// layout is the partitions of a topic as the cluster names it; none when it does not exist.
	layout func(topic string) []int32

	mu     sync.Mutex
	shared map[string]int // how many partitions of each topic were shared out the last time this process did it
}

var _ kafka.GroupBalancer = (*balancer)(nil)

// ProtocolName implements kafka.GroupBalancer. All members of a group must share out in the same way: another way, another name.
func (b *balancer) ProtocolName() string { return "tidewire-1" }

// UserData implements kafka.GroupBalancer.
func (b *balancer) UserData() ([]byte, error) { return []byte(b.instance), nil }

// AssignGroups implements kafka.GroupBalancer. It does not use the partitions it is given: there are none of any topic when one of the topics does not
// exist.
func (b *balancer) AssignGroups(members []kafka.GroupMember, _ []kafka.Partition) kafka.GroupMemberAssignments {
	all := make(kafka.GroupMemberAssignments, len(members))
	readers := make(map[string][]kafka.GroupMember)
	for _, m := range members {
		all[m.ID] = make(map[string][]int, len(m.Topics))
		for _, topic := range m.Topics {
			readers[topic] = append(readers[topic], m)
		}
	}
	shared := make(map[string]int, len(readers))
	for topic, ms := range readers {
		ids := agents(ms)
		partitions := b.layout(topic)
		shared[topic] = len(partitions)
		for p, agent := range share(topic, slices.Collect(maps.Keys(ids)), partitions) {
			member := ids[agent]
			all[member][topic] = append(all[member][topic], int(p))
		}
	}
	for _, topics := range all {
		for _, ps := range topics {
			slices.Sort(ps)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shared = shared
	return all
}

// outdated reports whether there are other partitions now than those that were shared out here. The one who shared them out has to
// look: nobody else knows what there was.
func (b *balancer) outdated() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for topic, n := range b.shared {
		if now := len(b.layout(topic)); now != 0 && now != n {
			return true
		}
	}
	return false
}

// leave forgets what was shared out: from now on another member may do it.
func (b *balancer) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shared = nil
}

// agents names members so that the names survive a restart: by the process, and by their order where a process has several.
func agents(members []kafka.GroupMember) (ids map[string]string) {
	ms := slices.Clone(members)
	slices.SortFunc(ms, func(a, b kafka.GroupMember) int { return cmp.Compare(a.ID, b.ID) })
	seen := make(map[string]int)
	ids = make(map[string]string, len(ms))
	for _, m := range ms {
		instance := string(m.UserData)
		ids[instance+"\x00"+strconv.Itoa(seen[instance])] = m.ID
		seen[instance]++
	}
	return ids
}

// share gives each partition of a topic to one agent, and no agent two more than another. Of all pairs of an agent and a partition that are still
// possible, the one with the highest hash is taken, again and again: a pair that is good in one company is mostly good in another, so
// few partitions move when an agent comes or goes.
func share(topic string, agents []string, partitions []int32) map[int32]string {
	if len(agents) == 0 {
		return nil
	}
	type pair struct {
		agent     string
		partition int32
		score     uint64
	}
	pairs := make([]pair, 0, len(agents)*len(partitions))
	for _, a := range agents {
		for _, p := range partitions {
			pairs = append(pairs, pair{a, p, score(topic, a, p)})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.agent, b.agent), cmp.Compare(a.partition, b.partition))
	})
	least, more := len(partitions)/len(agents), len(partitions)%len(agents)
	given := make(map[int32]string, len(partitions))
	has := make(map[string]int, len(agents))
	for _, p := range pairs {
		if _, taken := given[p.partition]; taken {
			continue
		}
		switch n := has[p.agent]; {
		case n < least:
		case n == least && more > 0:
			more--
		default:
			continue
		}
		given[p.partition] = p.agent
		has[p.agent]++
	}
	return given
}

// score is the hash of an agent and a partition. It must never change while hubs of two versions may share a group.
func score(topic, agent string, partition int32) uint64 {
	h := fnv.New64a()
	h.Write([]byte(topic))
	h.Write([]byte{0})
	h.Write([]byte(agent))
	h.Write([]byte{0, byte(partition), byte(partition >> 8), byte(partition >> 16), byte(partition >> 24)})
	// FNV alone leaves the scores of neighbouring partitions close to one another.
	x := h.Sum64()
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
