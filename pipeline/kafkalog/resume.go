package kafkalog

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// lost are the partitions of a group for which the cluster has no place and had one once, with where the group goes on in each.
type lost struct {
	at map[partition]int64
	// anew are those whose topic has been made anew since, or has lost records that it had confirmed: all that it holds is before the group.
	anew []partition
}

// resume finds out where a group goes on in partitions for which the cluster has no place of it. Those that are new to the group are left out.
func (s *Subscriber) resume(ctx context.Context, fresh []partition) (lost, error) {
	found := lost{at: make(map[partition]int64)}
	l := s.l
	if l.c.Places == nil || len(fresh) == 0 {
		return found, nil
	}
	places, err := l.c.Places.Kept(ctx, l.client.wire(s.c.Group))
	if err != nil {
		return found, fmt.Errorf("places that were kept of group %s: %w", s.c.Group, err)
	}
	kept := make(map[partition]KeptPlace)
	var ps []partition
	var topics []string
	for _, p := range fresh {
		i := slices.IndexFunc(places, func(k KeptPlace) bool { return k.Topic == l.client.wire(p.topic) && k.Partition == p.number })
		if i >= 0 {
			kept[p] = places[i]
			ps, topics = append(ps, p), append(topics, p.topic)
		}
	}
	if len(ps) == 0 {
		return found, nil
	}
	slices.Sort(topics)
	ids, err := l.client.topicIDs(ctx, slices.Compact(topics))
	if err != nil {
		return found, err
	}
	l.keeper.learned(ids)
	ends, err := l.client.offsets(ctx, ps, atEnd)
	if err != nil {
		return found, err
	}
	firsts, err := l.client.offsets(ctx, ps, atStart)
	if err != nil {
		return found, err
	}
	for _, p := range ps {
		k, id := kept[p], ids[p.topic]
		found.at[p] = k.Offset
		if k.Offset > ends[p] || k.TopicID != id && k.TopicID != (topicID{}) && id != (topicID{}) {
			found.at[p] = firsts[p]
			found.anew = append(found.anew, p)
		}
	}
	return found, nil
}

// tell says that the cluster had lost places of the group, once they are committed again.
func (s *Subscriber) tell(found lost) {
	if len(found.at) == 0 {
		return
	}
	log := s.l.c.Logger.With("group", s.c.Group)
	if n := len(found.at) - len(found.anew); n > 0 {
		log.Warn("Kafka has lost the place of a group; the group goes on from the place that was kept beside it", "partitions", n)
	}
	if len(found.anew) > 0 {
		log.Error("Kafka has lost the place of a group, and the topic has been made anew or has lost records; the group begins with the oldest record that is there",
			"partitions", len(found.anew), "first", found.anew[0].String())
	}
	s.l.reader.metrics.resumed.WithLabelValues(s.c.Group).Add(float64(len(found.at)))
	s.l.resumed.note(Resumption{Group: s.c.Group, Partitions: len(found.at), At: time.Now()})
}

// Resumption is that a group went on from places that were kept beside the cluster, because the cluster had lost them.
type Resumption struct {
	Group      string
	Partitions int
	At         time.Time
}

// Resumptions returns the last one of each group since the log was opened, by group.
func (l *Log) Resumptions() []Resumption {
	l.resumed.mu.Lock()
	defer l.resumed.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.resumed.last), func(a, b Resumption) int { return strings.Compare(a.Group, b.Group) })
}

type resumptions struct {
	mu   sync.Mutex
	last map[string]Resumption // by group
}

func (rs *resumptions) note(r Resumption) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.last == nil {
		rs.last = make(map[string]Resumption)
	}
	rs.last[r.Group] = r
}
