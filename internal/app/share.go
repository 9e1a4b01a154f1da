package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/internal/admin"
	"github.com/tidewire/tidewire/pipeline"
)

// Checks implements storage. While the spool takes what Kafka does not, webhooks are accepted, and the hub is ready.
func (c *cluster) Checks() []admin.Check {
	log := admin.Check{Name: "log", Probe: c.reach, Note: c.resumedNote}
	if c.spool != nil {
		log.Probe = c.spool.Probe
		log.Note = c.spoolNote
	}
	return []admin.Check{log, {Name: "store", Probe: c.probeStore, Note: c.nameNote}}
}

// noteWithin bounds asking Kafka for a note.
const noteWithin = time.Second

// spoolNote says what the spool holds, and that Kafka is away also where nobody has noticed for want of events: then nothing is read either.
func (c *cluster) spoolNote() string {
	ctx, cancel := context.WithTimeout(context.Background(), noteWithin)
	defer cancel()
	if text := c.spool.State(ctx).String(); text != "" {
		return text
	}
	if err := c.reach(ctx); err != nil {
		return "events would go into the spool: " + err.Error()
	}
	return c.resumedNote()
}

// reach says whether Kafka takes events, or why it is not given any.
func (c *cluster) reach(ctx context.Context) error {
	kafka, _ := c.opened()
	if kafka == nil || !c.later.Opened() {
		return c.unopened()
	}
	return kafka.Probe(ctx)
}

func (c *cluster) probeStore(ctx context.Context) error {
	store, err := lateStore{c}.get()
	if err != nil {
		return err
	}
	return store.Probe(ctx)
}

// nameNote says that another hub has this one's name.
func (c *cluster) nameNote() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.strange == nil {
		return ""
	}
	return "the other hubs cannot be told that this one is there: " + c.strange.Error()
}

// Begun implements storage.
func (c *cluster) Begun() <-chan struct{} { return c.waits.begun }

// Missing implements storage.
func (c *cluster) Missing() (why error, bridged bool) {
	select {
	case <-c.connected:
		return nil, false
	default:
	}
	bridged = c.spool != nil || c.later.Opened()
	kafka, store := c.waits.kafka.why(), c.waits.store.why()
	switch {
	case kafka == nil:
		return store, bridged
	case store == nil:
		return kafka, bridged
	}
	return fmt.Errorf("%w; %w", kafka, store), bridged
}

// Holds implements storage.
func (c *cluster) Holds() map[string]admin.Group {
	kafka, _ := c.opened()
	if kafka == nil {
		return nil
	}
	held := make(map[string]map[string][]int32) // partitions by topic by group
	for _, p := range kafka.Holdings() {
		if held[p.Group] == nil {
			held[p.Group] = make(map[string][]int32)
		}
		held[p.Group][p.Topic] = append(held[p.Group][p.Topic], p.Partition)
	}
	groups := make(map[string]admin.Group)
	for _, m := range kafka.Memberships() {
		var parts []string
		for topic, partitions := range held[m.Group] {
			parts = append(parts, topic+" "+ranges(partitions))
		}
		slices.Sort(parts)
		groups[m.Group] = admin.Group{Membership: m.State, MembershipSince: m.Since, Holds: strings.Join(parts, "; ")}
	}
	return groups
}

// ranges writes numbers for people: 0-3, 7.
func ranges(numbers []int32) string {
	slices.Sort(numbers)
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		text := strconv.Itoa(int(numbers[i]))
		if j > i {
			text += "-" + strconv.Itoa(int(numbers[j]))
		}
		parts = append(parts, text)
		i = j + 1
	}
	return strings.Join(parts, ", ")
}

// Cluster implements storage.
func (c *cluster) Cluster(ctx context.Context) *admin.Cluster {
	all := &admin.Cluster{Hub: c.name, Hubs: []admin.Hub{}, Duties: []admin.Duty{}}
	if group, ok := c.Holds()[pipeline.IndexGroup]; ok {
		all.Index = &group
	}
	store, err := lateStore{c}.get()
	if err != nil {
		all.Unknown = err.Error()
		return all
	}
	hubs, err := store.Hubs(ctx)
	leases, leaseErr := store.Leases(ctx)
	if err := errors.Join(err, leaseErr); err != nil {
		all.Unknown = err.Error()
	}
	for _, h := range hubs {
		all.Hubs = append(all.Hubs, admin.Hub{Name: h.Instance, Started: h.Started, Seen: h.Seen})
	}
	for _, l := range leases {
		all.Duties = append(all.Duties, admin.Duty{Name: l.Name, Holder: l.Holder, Until: l.Until})
	}
	return all
}
