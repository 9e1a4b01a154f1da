package kafkalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/leavegroup"
)

const (
	// gatherFor is how long a member waits for more subscriptions before it joins: each that comes later makes it join again.
	gatherFor = 50 * time.Millisecond
	// leaveWithin is how long leaving a group may take before its connections are cut. A member that could not say goodbye is missed after its
	// session time-out.
	leaveWithin = time.Second
	// quietFor is for how long a group that cannot be joined is not worth a warning: a coordinator may be about to start.
	quietFor = 15 * time.Second
	// commitWithin bounds one commit: the end of a generation waits for it.
	commitWithin = 2 * time.Second
	// layoutEvery is how often the one who shared out the partitions looks whether there are more.
	layoutEvery = 10 * time.Second
)

// generation is the time between two times that the partitions of a group are shared out.
//
// When it ends, the member stops handing out, waits for what is in hand, commits, and only then joins the group again; the coordinator waits for
// it with giving its partitions to others. So what others get is finished or was never begun, and nothing is out of order. The wait is bounded, below the time-outs
// of the group: a message that is in hand for longer is cancelled, its ack ignored, and it is handed out again elsewhere while its handler may still be about to
// notice. The same goes for a process that was stopped for longer than the session time-out: it hands out nothing when it
// wakes until the coordinator has answered, and cannot commit any more, but what was in hand goes on until then. It is for the
// one who handles messages to see that a message is handled twice.
type generation struct {
	gen      *kafka.Generation
	s        *Subscriber
	since    time.Time
	holdings []*holding
	terms    map[*subscription]*term
	depart   chan struct{} // closed when the member is to leave
	drained  chan struct{} // closed when it has done so and may be taken out of the group
	over     chan struct{} // closed when the generation has ended
	trouble  trouble       // with commits

	coordinator int32 // noCoordinator until it is known; used by serve alone
}

// run is a member for as long as there is something to read, until the subscriber closes.
func (s *Subscriber) run() {
	defer close(s.done)
	for {
		topics := s.gather()
		if topics == nil {
			return
		}
		s.belong(topics)
		s.enter(stateIdle, nil)
	}
}

// gather waits until topics are subscribed to, and a moment for others; nil when the subscriber closes.
func (s *Subscriber) gather() []string {
	for {
		select {
		case <-s.quit:
			return nil
		case <-s.changed:
		}
		for quiet := false; !quiet; {
			timer := time.NewTimer(gatherFor)
			select {
			case <-s.quit:
				timer.Stop()
				return nil
			case <-s.changed:
				timer.Stop()
			case <-timer.C:
				quiet = true
			}
		}
		if topics := s.topics(); len(topics) > 0 {
			return topics
		}
	}
}

// belong is a member of the group for some topics, until others are subscribed to or the subscriber closes.
func (s *Subscriber) belong(topics []string) {
	ls := newLinks(s)
	cg, err := kafka.NewConsumerGroup(s.groupConfig(topics, ls))
	if err != nil {
		s.l.c.Logger.Error("a consumer group cannot be joined", "group", s.c.Group, "error", err)
		return
	}
	defer func() {
		s.enter(stateLeaving, nil)
		s.balancer.leave()
		ls.within(leaveWithin)
		cg.Close() //nolint:errcheck // it is always nil
		ls.end()
	}()
	leave, stop := s.until(topics)
	defer stop()
	s.enter(stateJoining, nil)
	var (
		t     trouble
		began = time.Now()
		last  string // the name of this member in the last generation, if it may still be in the group under it
		away  sync.WaitGroup
	)
	defer away.Wait()
	for {
		gen, err := cg.Next(leave)
		if leave.Err() != nil {
			return
		}
		if err != nil {
			s.enter(stateWaiting, nil)
			if last != "" && !errors.Is(err, kafka.RebalanceInProgress) {
				member := last
				away.Go(func() { s.sayGoodbye(leave, member) })
				last = ""
			}
			if d := t.note(); t.tell() && time.Since(began) > quietFor {
				s.l.c.Logger.Warn("a consumer group cannot be joined; trying again", "group", s.c.Group, "error", err)
				wait(leave, d)
			} else {
				wait(leave, d)
			}
			continue
		}
		t, began, last = trouble{}, time.Now(), gen.MemberID
		g := &generation{
			gen: gen, s: s, since: time.Now(), terms: make(map[*subscription]*term),
			depart: make(chan struct{}), drained: make(chan struct{}), over: make(chan struct{}),
			coordinator: noCoordinator,
		}
		s.hear(time.Now())
		s.l.reader.metrics.rebalances.WithLabelValues(s.c.Group).Inc()
		gen.Start(g.serve)
		select {
		case <-g.over:
			s.enter(stateJoining, nil)
		case <-leave.Done():
			close(g.depart)
			select {
			case <-g.drained:
			case <-g.over:
			}
			return
		}
	}
}

// sayGoodbye takes a member out of the group that kafka-go has given up without being able to say so: it joins as a new one, and the coordinator would
// wait for the old one until its session time-out.
func (s *Subscriber) sayGoodbye(ctx context.Context, member string) {
	// However long the coordinator is away: it begins the old member's session anew when it is back.
	for ; ctx.Err() == nil; wait(ctx, backoffMost/4) {
		m, err := s.l.client.roundTrip(ctx, &leavegroup.Request{
			GroupID: s.l.client.wire(s.c.Group), MemberID: member, Members: []leavegroup.RequestMember{{MemberID: member}},
		})
		if err != nil {
			continue
		}
		switch err := code(farewell(m.(*leavegroup.Response)), ""); {
		case err == nil, !retriable(err): // not known any more, above all
			return
		}
	}
}

// farewell is what the coordinator says to a goodbye. kafka-go looks for the code of the whole answer two bytes too early, where the time to wait stands,
// and so an answer of "not the coordinator" looks like one without an error. But it names no member, as one that was obeyed does.
func farewell(r *leavegroup.Response) int16 {
	if len(r.Members) > 0 {
		return r.Members[0].ErrorCode
	}
	return cmp.Or(r.ErrorCode, int16(r.ThrottleTimeMS))
}

// until returns a context that ends when other topics than these are subscribed to or the subscriber closes.
func (s *Subscriber) until(topics []string) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.quit:
				return
			case <-s.changed:
				if !slices.Equal(s.topics(), topics) {
					s.change() // for gather
					return
				}
			}
		}
	}()
	return ctx, func() { cancel(); <-done }
}

func (s *Subscriber) groupConfig(topics []string, ls *links) kafka.ConsumerGroupConfig {
	c := &s.l.c
	var wires []string
	for _, t := range slices.Compact(slices.Clone(topics)) {
		wires = append(wires, s.l.client.wire(t))
	}
	return kafka.ConsumerGroupConfig{
		ID: s.l.client.wire(s.c.Group), Brokers: c.Brokers, Topics: wires,
		Dialer: &kafka.Dialer{
			ClientID: c.ClientID, Timeout: min(5*time.Second, c.RequestTimeout), DialFunc: ls.dial, TLS: c.TLS, SASLMechanism: c.SASL,
		},
		GroupBalancers:    []kafka.GroupBalancer{s.balancer},
		HeartbeatInterval: c.HeartbeatInterval, SessionTimeout: c.SessionTimeout, RebalanceTimeout: c.RebalanceTimeout,
		JoinGroupBackoff: time.Millisecond, // belong waits, longer each time
		StartOffset:      kafka.FirstOffset,
		Timeout:          min(5*time.Second, c.RequestTimeout),
	}
}

// serve is the generation: it hands out until the generation ends or the member is to leave.
func (g *generation) serve(ctx context.Context) {
	defer close(g.over)
	s := g.s
	if !g.begin(ctx) {
		return
	}
	s.enter(stateMember, g)
	tick := time.NewTicker(s.l.c.CommitEvery)
	defer tick.Stop()
	looked := time.Now()
	for {
		select {
		case <-ctx.Done():
			g.stop()
			if !g.fenced(g.commit()) {
				g.await(context.Background(), g.patience())
			}
			g.end()
			g.commit() //nolint:errcheck // reported
			return
		case <-g.depart:
			g.stop()
			g.await(ctx, s.l.c.CloseTimeout)
			g.end()
			g.commit() //nolint:errcheck // reported
			close(g.drained)
			<-ctx.Done()
			return
		case <-tick.C:
			if g.fenced(g.commit()) {
				g.end()
				return
			}
			g.watch()
			if time.Since(looked) > layoutEvery {
				looked = time.Now()
				if s.balancer.outdated() {
					s.l.c.Logger.Info("a topic has other partitions than before; sharing them out anew", "group", s.c.Group)
					g.stop()
					g.await(ctx, s.l.c.CloseTimeout)
					g.end()
					g.commit() //nolint:errcheck // reported
					return
				}
			}
		}
	}
}

// begin finds out where the group is in each partition, makes that durable where it was not yet decided, and starts handing out.
func (g *generation) begin(ctx context.Context) bool {
	s := g.s
	at := make(map[string]map[int32]int64)
	known := make(map[partition]int64)
	var fresh []partition
	for wire, as := range g.gen.Assignments {
		topic := strings.TrimPrefix(wire, s.l.c.Prefix)
		at[topic] = make(map[int32]int64, len(as))
		for _, a := range as {
			at[topic][int32(a.ID)] = a.Offset
			if p := (partition{topic, int32(a.ID)}); a.Offset < 0 {
				fresh = append(fresh, p)
			} else {
				known[p] = a.Offset
			}
		}
	}
	s.l.keeper.note(s.c.Group, known) // also of partitions in which nothing moves
	ctx, stop := g.staying(ctx)
	defer stop()
	for len(fresh) > 0 {
		err := g.choose(ctx, fresh, at)
		if err == nil {
			break
		}
		d := g.trouble.note()
		if g.trouble.tell() {
			s.l.c.Logger.Warn("where a group begins cannot be decided; trying again", "group", s.c.Group, "error", err)
		}
		if wait(ctx, d); ctx.Err() != nil || g.fenced(err) {
			return false
		}
	}
	for topic, places := range at {
		subs := s.of(topic)
		if len(subs) == 0 {
			continue
		}
		split := make([]map[int32]int64, len(subs))
		n := 0
		for number, offset := range places {
			if split[n%len(subs)] == nil {
				split[n%len(subs)] = make(map[int32]int64)
			}
			split[n%len(subs)][number] = offset
			n++
		}
		for i, sub := range subs {
			if t := sub.begin(split[i], s.live); t != nil {
				g.terms[sub] = t
				g.holdings = append(g.holdings, t.holdings...)
			}
		}
	}
	return true
}

// staying ends with ctx, and when the member is to leave: what is asked may be away for long.
func (g *generation) staying(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-g.depart:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(); watch.Wait() }
}

// choose decides where a group begins that has no place yet, and commits that.
func (g *generation) choose(ctx context.Context, fresh []partition, at map[string]map[int32]int64) error {
	s := g.s
	which := atStart
	if s.c.FromEnd {
		which = atEnd
	}
	found, err := s.l.client.offsets(ctx, fresh, which)
	if err != nil {
		return err
	}
	back, err := s.resume(ctx, fresh)
	if err != nil {
		return err
	}
	places := make(map[partition]int64)
	for _, p := range fresh {
		offset := found[p]
		s.mu.Lock()
		if start, ok := s.starts[p]; ok && s.c.FromEnd {
			offset = min(offset, start)
		}
		s.mu.Unlock()
		if place, ok := back.at[p]; ok {
			offset = place
		}
		at[p.topic][p.number] = offset
		places[p] = offset
	}
	if err := g.write(ctx, places); err != nil {
		return err
	}
	s.l.keeper.note(s.c.Group, places)
	s.tell(back)
	return nil
}

// commit writes the places that have moved. It is called by serve alone.
func (g *generation) commit() error {
	places := make(map[partition]int64)
	moved := make(map[*holding]int64)
	for _, h := range g.holdings {
		if at, ok := h.due(); ok {
			places[h.partition], moved[h] = at, at
		}
	}
	if len(moved) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitWithin)
	defer cancel()
	if err := g.write(ctx, places); err != nil {
		g.s.l.reader.metrics.commits.WithLabelValues(g.s.c.Group).Inc()
		g.trouble.note()
		if g.trouble.tell() {
			g.s.l.c.Logger.Warn("places of a group cannot be written; after a crash it sees again what it finished since", "group", g.s.c.Group, "error", err)
		}
		return fmt.Errorf("commit the places of group %s: %w", g.s.c.Group, err)
	}
	g.trouble = trouble{}
	for h, at := range moved {
		h.wrote(at)
	}
	g.s.l.keeper.note(g.s.c.Group, places)
	return nil
}

// fenced reports whether a commit was refused because the member is no longer one: others may have its partitions.
func (g *generation) fenced(err error) bool {
	return errors.Is(err, kafka.UnknownMemberId) || errors.Is(err, kafka.IllegalGeneration) || errors.Is(err, kafka.FencedInstanceID)
}

// patience is how long the end of a generation may wait for what is in hand: others wait for this member to come back, and the coordinator not longer
// than the time-outs, of which half is left for the way back.
func (g *generation) patience() time.Duration {
	c := &g.s.l.c
	d := min(c.CloseTimeout, c.RebalanceTimeout/2, c.SessionTimeout/2)
	return min(d, max(0, c.SessionTimeout-g.s.silence()))
}

// stop ends the handing out.
func (g *generation) stop() {
	for sub, t := range g.terms {
		sub.stop(t)
	}
}

// await waits until nothing is in hand, no longer than within. ctx is the generation while it lives: when it ends, less patience is left.
func (g *generation) await(ctx context.Context, within time.Duration) {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	ending := ctx.Done()
	for _, t := range g.terms {
		for waiting := true; waiting; {
			select {
			case <-t.idle:
				waiting = false
			case <-t.ended:
				waiting = false
			case <-ending:
				ending = nil
				deadline.Reset(min(within, g.patience()))
			case <-deadline.C:
				g.s.l.c.Logger.Warn("messages are still in hand and their partitions have to be given back; they will be handed out again", "group", g.s.c.Group)
				return
			}
		}
	}
}

// end ends what was handed out: acks do not count any more.
func (g *generation) end() {
	for sub, t := range g.terms {
		sub.end(t)
	}
}

// watch looks for what should not be: messages that nobody finishes, and subscriptions that were stalled and need not be any more.
func (g *generation) watch() {
	s := g.s
	wake := s.live() && s.stalled.Swap(false)
	var oldest *item
	var since time.Time
	overdue := 0
	for sub := range g.terms {
		if wake {
			sub.wake()
		}
		sub.late(s.l.c.HandlingLimit, func(it *item) {
			s.l.reader.metrics.overdue.WithLabelValues(s.c.Group).Inc()
			if overdue++; oldest == nil || it.since.Before(since) {
				oldest, since = it, it.since
			}
		})
	}
	if oldest != nil { // one line for all: while a target rests, hundreds may wait for it
		s.l.c.Logger.Error("messages have been in hand for too long: their handler neither acks nor nacks them, and what is behind them has to wait",
			"group", s.c.Group, "messages", overdue, "topic", oldest.h.topic, "partition", oldest.h.number, "offset", oldest.r.offset,
			"uuid", oldest.r.uuid, "since", since)
	}
}
