package kafkalog

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// KeptPlace is how far a group has got in a partition: everything before Offset is finished.
type KeptPlace struct {
	// Group and Topic are named as on the cluster, with Config.Prefix.
	Group, Topic string
	Partition    int32
	// TopicID tells the topic from others that had or will have its name. Zero where the brokers know no IDs.
	TopicID [16]byte
	Offset  int64
	// At is when the cluster had confirmed it, by this process's clock.
	At time.Time
}

// Places keeps the places of groups outside of the cluster, which forgets those of a group that has had no member for offsets.retention.minutes, and
// all of them when it loses __consumer_offsets. What is kept has been committed before, so it is never ahead of what the group has finished.
type Places interface {
	// Keep writes places down, each partition of a group at most once in a call. One that is kept is replaced by one that is further in the same
	// topic, or that was confirmed later. It is called every Config.KeepEvery at most, by one goroutine at a time.
	Keep(ctx context.Context, places []KeptPlace) error
	// Kept returns all places that were kept of a group, whose name has the prefix.
	Kept(ctx context.Context, group string) ([]KeptPlace, error)
}

const (
	// keepWithin bounds one call of Keep; the next KeepEvery tries again.
	keepWithin = 10 * time.Second
	// keepLast is the same for the last one, for which Close waits.
	keepLast = 2 * time.Second
)

// spotOf is a partition as a group reads it.
type spotOf struct {
	group string
	partition
}

// keeper gathers the places that were committed and has them kept now and then. Nobody waits for it: when what keeps them is away, it is
// done later. A nil keeper keeps nothing.
//
// A place is kept with the ID that its topic had before the commit, as far as is known here. Should the topic have been made anew
// since, the ID is that of the old one, and the place counts for nothing: that makes records come again, and passes over none.
type keeper struct {
	l      *Log
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	ids   map[string]topicID // by topic, as of the last look
	moved map[spotOf]KeptPlace
}

func newKeeper(l *Log) *keeper {
	if l.c.Places == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{l: l, cancel: cancel, ids: make(map[string]topicID), moved: make(map[spotOf]KeptPlace)}
	k.work.Go(func() { k.run(ctx) })
	return k
}

// meet learns the ID of a topic before places in it are committed. When that fails the keeper tries again later.
func (k *keeper) meet(ctx context.Context, topic string) {
	if k == nil {
		return
	}
	k.mu.Lock()
	_, known := k.ids[topic]
	k.mu.Unlock()
	if !known {
		k.learn(ctx, []string{topic})
	}
}

func (k *keeper) learn(ctx context.Context, topics []string) {
	ids, err := k.l.client.topicIDs(ctx, topics)
	if err != nil {
		k.l.c.Logger.Debug("which topics there are cannot be learned; trying again", "error", err)
		return
	}
	k.learned(ids)
}

// learned takes the IDs of topics as they are now.
func (k *keeper) learned(ids map[string]topicID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.Copy(k.ids, ids)
}

// note takes places of a group that are committed.
func (k *keeper) note(group string, places map[partition]int64) {
	if k == nil {
		return
	}
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for p, offset := range places {
		k.moved[spotOf{group, p}] = KeptPlace{
			Group: k.l.client.wire(group), Topic: k.l.client.wire(p.topic), Partition: p.number,
			TopicID: k.ids[p.topic], Offset: offset, At: now,
		}
	}
}

func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(k.l.c.KeepEvery)
	defer tick.Stop()
	var t trouble
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := k.keep(ctx, keepWithin)
		switch {
		case err == nil:
			t = trouble{}
		case ctx.Err() == nil:
			if t.note(); t.tell() {
				k.l.c.Logger.Warn("the places of groups cannot be kept beside Kafka; Kafka has them, and it is tried again", "error", err)
			}
		}
	}
}

// keep has the places kept that moved since the last time.
func (k *keeper) keep(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	k.mu.Lock()
	moved := k.moved
	k.moved = make(map[spotOf]KeptPlace)
	k.mu.Unlock()
	if len(moved) == 0 {
		return nil
	}
	var places []KeptPlace
	var topics []string
	// In one order in all processes, so that none waits for another that waits for it.
	spots := slices.SortedFunc(maps.Keys(moved), func(a, b spotOf) int {
		return cmp.Or(strings.Compare(a.group, b.group), compare(a.partition, b.partition))
	})
	for _, at := range spots {
		topics = append(topics, at.topic)
		if p := moved[at]; p.TopicID != (topicID{}) || !k.l.client.knowsIDs {
			places = append(places, p)
		}
	}
	var err error
	if len(places) > 0 {
		err = k.l.c.Places.Keep(ctx, places)
	}
	slices.Sort(topics)
	k.learn(ctx, slices.Compact(topics)) // for what is committed from now on
	k.putBack(moved, err == nil)
	return err
}

// putBack takes the places that are still to be kept, unless newer ones have come. Those without an ID of their topic get it: it was not known when
// they were committed.
func (k *keeper) putBack(moved map[spotOf]KeptPlace, kept bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for at, p := range moved {
		unknown := p.TopicID == (topicID{}) && k.l.client.knowsIDs
		if _, newer := k.moved[at]; newer || kept && !unknown {
			continue
		}
		if unknown {
			p.TopicID = k.ids[at.topic]
		}
		k.moved[at] = p
	}
}

// close has the last places kept, which are those of all subscribers, when they are closed.
func (k *keeper) close() {
	if k == nil {
		return
	}
	k.cancel()
	k.work.Wait()
	if err := k.keep(context.Background(), keepLast); err != nil {
		k.l.c.Logger.Warn("the last places of groups could not be kept beside Kafka; Kafka has them", "error", err)
	}
}
