package kafkalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tidewire/tidewire/internal/services"
)

// shelf keeps places in memory, as long as it is not away.
type shelf struct {
	mu     sync.Mutex
	places map[string]KeptPlace
	calls  int
	away   error
	hang   bool // Kept waits until its context ends
	asked  chan struct{}
}

func newShelf() *shelf {
	return &shelf{places: make(map[string]KeptPlace), asked: make(chan struct{}, 1024)}
}

func (s *shelf) Keep(_ context.Context, places []KeptPlace) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	for _, p := range places {
		if s.away == nil {
			s.places[fmt.Sprint(p.Group, " ", p.Topic, " ", p.Partition)] = p
		}
	}
	return s.away
}

func (s *shelf) Kept(ctx context.Context, group string) ([]KeptPlace, error) {
	s.asked <- struct{}{}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hang {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return nil, ctx.Err()
	}
	return slices.DeleteFunc(slices.Collect(maps.Values(s.places)), func(p KeptPlace) bool { return p.Group != group }), s.away
}

func (s *shelf) set(change func(*shelf)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// of is what is kept of a group in the first partition; -1 when nothing is.
func (s *shelf) of(group string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.places[group+" "+orders+" 0"]; ok {
		return p.Offset
	}
	return -1
}

// shelved is a config that keeps places on a shelf all the time, and what is told above a level.
func shelved(c Config, told slog.Level) (Config, *shelf, *heard) {
	s, h := newShelf(), new(heard)
	c.CommitEvery, c.HeartbeatInterval, c.KeepEvery = 5*time.Millisecond, 50*time.Millisecond, 5*time.Millisecond
	c.Places, c.Logger = s, slog.New(slog.NewTextHandler(h, &slog.HandlerOptions{Level: told}))
	return c, s, h
}

// heard is what was logged.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(b)
}

func (h *heard) times(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.text.String(), what)
}

// forget has the cluster lose a group's places, as it does when the group was empty for too long.
func forget(t testing.TB, l *Log, group string) {
	t.Helper()
	until(t, "the group is forgotten", func() bool {
		c := kafka.Client{Addr: kafka.TCP(l.c.Brokers...), Transport: l.client.transport}
		r, err := c.DeleteGroups(t.Context(), &kafka.DeleteGroupsRequest{GroupIDs: []string{l.client.wire(group)}})
		return err == nil && r.Errors[l.client.wire(group)] == nil
	})
	if at := placeOf(t, l, group, 0); at != -1 {
		t.Fatalf("the group still has the place %d", at)
	}
}

// anew deletes a topic and has another made of its name.
func anew(t testing.TB, l *Log) {
	t.Helper()
	c := kafka.Client{Addr: kafka.TCP(l.c.Brokers...), Transport: l.client.transport}
	if r, err := c.DeleteTopics(t.Context(), &kafka.DeleteTopicsRequest{Topics: []string{l.client.wire(orders)}}); err != nil || r.Errors[l.client.wire(orders)] != nil {
		t.Fatal(err, r)
	}
	until(t, "the topic is made anew", func() bool {
		l.mu.Lock()
		delete(l.topics, orders)
		l.mu.Unlock()
		l.client.refresh()
		return l.Ensure(t.Context(), orders) == nil
	})
}

// letters adds records named by the letters.
func letters(t testing.TB, l *Log, names string) {
	t.Helper()
	for _, n := range names {
		add(t, l, msg(string(n), ""))
	}
}

// A group whose places the cluster has lost goes on where it was, wherever new groups begin; that is told once.
func TestAGroupGoesOnFromTheKeptPlace(t *testing.T) {
	t.Parallel()
	for _, fromEnd := range []bool{false, true} {
		t.Run(fmt.Sprint("from the end ", fromEnd), func(t *testing.T) {
			t.Parallel()
			c := alone(cluster(t, 1))
			c.Prefix = "p."
			goesOn(t, c, fromEnd)
		})
	}
}

func TestAGroupGoesOnFromTheKeptPlaceOnApacheKafka(t *testing.T) {
	t.Parallel()
	c, _ := real(t, services.NewestKafka)
	c.PartitionKey = keyed
	for i, fromEnd := range []bool{false, true} {
		c.Prefix = fmt.Sprint("p", i, ".")
		goesOn(t, c, fromEnd)
	}
}

func goesOn(t *testing.T, c Config, fromEnd bool) {
	c, s, h := shelved(c, slog.LevelWarn)
	c.KeepEvery = time.Hour // so that closing has to do it
	group := SubscriberConfig{Group: "g", FromEnd: fromEnd}
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	out, _ := subscribe(t, l, group)
	letters(t, l, "abcdef")
	if got := drain(t, out, 4); fmt.Sprint(got) != "[a b c d]" {
		t.Fatal(got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if s.calls != 1 || len(s.places) != 1 || s.places[c.Prefix+"g "+c.Prefix+orders+" 0"].Offset != 4 {
		t.Fatalf("in %d calls was kept %+v", s.calls, s.places)
	}
	l = opened(t, c)
	forget(t, l, "g")
	letters(t, l, "gh")
	out, sub := subscribe(t, l, group)
	if got := drain(t, out, 4); fmt.Sprint(got) != "[e f g h]" {
		t.Errorf("went on with %s", got)
	}
	closed(t, sub)
	letters(t, l, "i")
	out, _ = subscribe(t, l, group) // the cluster has the place
	if got := receive(t, out); got.UUID != "i" {
		t.Errorf("went on with %s", got.UUID)
	}
	if n := h.times("lost the place of a group"); n != 1 {
		t.Errorf("told %d times: %s", n, &h.text)
	}
	if n := worth(t, l.reader.metrics.resumed.WithLabelValues("g")); n != 1 {
		t.Errorf("%v partitions by the metric", n)
	}
	if got := l.Resumptions(); len(got) != 1 || got[0].Group != "g" || got[0].Partitions != 1 || time.Since(got[0].At) > time.Hour {
		t.Errorf("resumptions: %+v", got)
	}
}

// A group that is new begins where new groups begin, and nothing is told.
func TestANewGroupBeginsWhereNewOnesDo(t *testing.T) {
	t.Parallel()
	c, s, h := shelved(alone(cluster(t, 1)), slog.LevelWarn)
	l := opened(t, c)
	ensured(t, l, orders)
	letters(t, l, "abc")
	s.places["another"] = KeptPlace{Group: "another", Topic: orders, Offset: 2}
	s.places["elsewhere"] = KeptPlace{Group: "g", Topic: "events.other", Offset: 2}
	out, sub := subscribe(t, l, SubscriberConfig{Group: "g"})
	if got := drain(t, out, 3); fmt.Sprint(got) != "[a b c]" {
		t.Error(got)
	}
	closed(t, sub)
	out, _ = subscribe(t, l, SubscriberConfig{Group: "end", FromEnd: true})
	letters(t, l, "d")
	if got := receive(t, out); got.UUID != "d" {
		t.Error(got.UUID)
	}
	if h.text.Len() > 0 || len(l.Resumptions()) > 0 {
		t.Errorf("told %s", &h.text)
	}
}

// While other members hold the group, one that starts at the end and gets a partition without a place goes on from the kept one too.
func TestAMemberGoesOnFromTheKeptPlaceWhileTheGroupLives(t *testing.T) {
	t.Parallel()
	c, s, _ := shelved(alone(cluster(t, 1)), slog.LevelWarn)
	l := opened(t, c)
	ensured(t, l, orders, "events.other")
	letters(t, l, "abcd")
	id, err := l.client.topicIDs(t.Context(), []string{orders})
	if err != nil {
		t.Fatal(err)
	}
	_, first := subscribe(t, l, SubscriberConfig{Group: "g", FromEnd: true})
	until(t, "it is a member", func() bool { return len(l.Holdings()) == 1 })
	// The cluster loses the group's places under its feet: here by another group of the same members' making.
	s.set(func(s *shelf) { s.places["h"] = KeptPlace{Group: "h", Topic: orders, TopicID: id[orders], Offset: 1} })
	other, err := l.Subscriber(SubscriberConfig{Group: "h", FromEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Subscribe(t.Context(), "events.other"); err != nil {
		t.Fatal(err)
	}
	until(t, "the group lives", func() bool { return len(l.Holdings()) == 2 })
	out, _ := subscribe(t, l, SubscriberConfig{Group: "h", FromEnd: true})
	if got := drain(t, out, 3); fmt.Sprint(got) != "[b c d]" {
		t.Error(got)
	}
	closed(t, first)
}

// The place of a group in which nothing moves is kept as well: it may have been there before anything was kept.
func TestPlacesThatDoNotMoveAreKept(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	plain := opened(t, alone(k))
	ensured(t, plain, orders)
	letters(t, plain, "abc")
	out, sub := subscribe(t, plain, SubscriberConfig{Group: "g"})
	drain(t, out, 3)
	closed(t, sub)
	c, s, _ := shelved(alone(k), slog.LevelWarn)
	l := opened(t, c)
	subscribe(t, l, SubscriberConfig{Group: "g"})
	subscribe(t, l, SubscriberConfig{Group: "new"})
	subscribe(t, l, SubscriberConfig{Group: "end", FromEnd: true})
	until(t, "all are kept", func() bool { return s.of("g") == 3 && s.of("new") >= 0 && s.of("end") == 3 })
}

// What retention took between the kept place and the oldest record is told as what it is.
func TestRetentionThatOvertookAKeptPlaceIsReported(t *testing.T) {
	t.Parallel()
	for _, fromEnd := range []bool{false, true} {
		k := cluster(t, 1)
		var found gaps
		c, s, _ := shelved(alone(k), slog.LevelError+1)
		c.OnGap = found.note
		l := opened(t, c)
		ensured(t, l, orders)
		out, sub := subscribe(t, l, SubscriberConfig{Group: "g", FromEnd: fromEnd})
		letters(t, l, "abcdef")
		drain(t, out, 2)
		closed(t, sub)
		until(t, "the place is kept", func() bool { return s.of("g") == 2 })
		forget(t, l, "g")
		if err := k.DeleteRecords(orders, 0, 5); err != nil {
			t.Fatal(err)
		}
		out, _ = subscribe(t, l, SubscriberConfig{Group: "g", FromEnd: fromEnd})
		if got := receive(t, out); got.UUID != "f" {
			t.Errorf("got %s, want f", got.UUID)
		}
		if got := found.String(); got != "[events.orders g 0 2 5]" {
			t.Errorf("reported %s", got)
		}
	}
}

// A topic that was made anew is read from its first record on, also by a group that starts at the end: none of it has been seen. It does not matter whether it is
// longer by now than the place that was kept in the old one; where brokers do not tell topics apart, it does.
func TestATopicMadeAnewIsReadFromItsFirstRecord(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fromEnd, ids bool
		records      string
	}{{false, true, "vwxyz"}, {true, true, "vwxyz"}, {true, true, "z"}, {true, false, "z"}} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			t.Parallel()
			c, s, h := shelved(alone(cluster(t, 1)), slog.LevelWarn)
			madeAnew(t, c, s, h, test.fromEnd, test.ids, test.records)
		})
	}
}

func TestATopicMadeAnewIsReadFromItsFirstRecordOnApacheKafka(t *testing.T) {
	t.Parallel()
	c, _ := real(t, services.NewestKafka)
	c.PartitionKey = keyed
	c, s, h := shelved(c, slog.LevelWarn)
	madeAnew(t, c, s, h, true, true, "vwxyz")
}

func madeAnew(t *testing.T, c Config, s *shelf, h *heard, fromEnd, ids bool, records string) {
	l := opened(t, c)
	l.client.knowsIDs = ids
	group := SubscriberConfig{Group: "g", FromEnd: fromEnd}
	out, sub := subscribe(t, l, group)
	letters(t, l, "abc")
	drain(t, out, 3)
	closed(t, sub)
	until(t, "the place is kept", func() bool { return s.of("g") == 3 })
	anew(t, l)
	forget(t, l, "g")
	letters(t, l, records)
	out, sub = subscribe(t, l, group)
	var want []string
	for _, r := range records {
		want = append(want, string(r))
	}
	if got := drain(t, out, len(records)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := h.times("made anew"); n != 1 {
		t.Errorf("told %d times: %s", n, &h.text)
	}
	// What is kept from now on belongs to the new topic.
	closed(t, sub)
	until(t, "the place is kept", func() bool { return s.of("g") == int64(len(records)) })
	forget(t, l, "g")
	letters(t, l, "!")
	out, _ = subscribe(t, l, group)
	if got := receive(t, out); ids && got.UUID != "!" {
		t.Errorf("went on with %s", got.UUID)
	}
}

// A group that somebody has set back takes what is kept with it: the place must not be ahead of what the group has finished this time.
func TestAKeptPlaceGoesBackWithTheGroup(t *testing.T) {
	t.Parallel()
	c, s, _ := shelved(alone(cluster(t, 1)), slog.LevelWarn)
	l := opened(t, c)
	ensured(t, l, orders)
	letters(t, l, "abcdef")
	out, sub := subscribe(t, l, SubscriberConfig{Group: "g"})
	drain(t, out, 6)
	closed(t, sub)
	until(t, "the place is kept", func() bool { return s.of("g") == 6 })
	client := kafka.Client{Addr: kafka.TCP(c.Brokers...), Transport: l.client.transport}
	if _, err := client.OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{
		GroupID: "g", GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{orders: {{Partition: 0, Offset: 1}}},
	}); err != nil {
		t.Fatal(err)
	}
	out, sub = subscribe(t, l, SubscriberConfig{Group: "g"})
	m := receive(t, out)
	if m.UUID != "b" {
		t.Fatalf("got %s", m.UUID)
	}
	until(t, "the kept place is back too", func() bool { return s.of("g") == 1 })
	closed(t, sub)
}

// While places cannot be kept, groups commit and go on; afterwards the latest are kept.
func TestNothingWaitsForPlacesToBeKept(t *testing.T) {
	t.Parallel()
	c, s, h := shelved(alone(cluster(t, 1)), slog.LevelWarn)
	s.away = errors.New("the database is away")
	l := opened(t, c)
	out, _ := subscribe(t, l, SubscriberConfig{Group: "known"})
	letters(t, l, "abc")
	var wait sync.WaitGroup // the group is new, and whether it is cannot be known yet
	wait.Go(func() {
		drain(t, out, 3)
	})
	for range 3 {
		<-s.asked
	}
	if at := placeOf(t, l, "known", 0); at != -1 {
		t.Errorf("it was decided to begin at %d", at)
	}
	s.set(func(s *shelf) { s.away = nil })
	wait.Wait()
	until(t, "the place is kept", func() bool { return s.of("known") == 3 })
	s.set(func(s *shelf) { s.away, s.calls = errors.New("the database is away"), 0 })
	letters(t, l, "def")
	drain(t, out, 3)
	until(t, "the place is written to the cluster", func() bool { return placeOf(t, l, "known", 0) == 6 })
	until(t, "it was tried several times and told", func() bool { return h.times("cannot be kept") == 1 })
	if at := s.of("known"); at != 3 {
		t.Errorf("kept %d", at)
	}
	s.set(func(s *shelf) { s.away = nil })
	until(t, "the latest place is kept", func() bool { return s.of("known") == 6 })
}

// A member that waits for the answer to where its group was can leave.
func TestAMemberThatWaitsForItsPlaceCanLeave(t *testing.T) {
	t.Parallel()
	c, s, _ := shelved(alone(cluster(t, 1)), slog.LevelError)
	s.hang = true
	l := opened(t, c)
	_, sub := subscribe(t, l, SubscriberConfig{Group: "g"})
	<-s.asked
	closed(t, sub)
}

// The ID of a topic is learned later where it could not be when the group began.
func TestPlacesWaitForTheIDOfTheirTopic(t *testing.T) {
	t.Parallel()
	c, s, _ := shelved(alone(cluster(t, 1)), slog.LevelError)
	c.KeepEvery = time.Hour
	l := opened(t, c)
	out, _ := subscribe(t, l, SubscriberConfig{Group: "g"})
	letters(t, l, "a")
	l.keeper.mu.Lock()
	id := l.keeper.ids[orders]
	clear(l.keeper.ids)
	clear(l.keeper.moved)
	l.keeper.mu.Unlock()
	drain(t, out, 1)
	until(t, "the place moved", func() bool {
		l.keeper.mu.Lock()
		defer l.keeper.mu.Unlock()
		return l.keeper.moved[spotOf{"g", partition{orders, 0}}].Offset == 1
	})
	for _, want := range []int64{-1, 1} {
		if err := l.keeper.keep(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		if at := s.of("g"); at != want {
			t.Errorf("kept %d, want %d", at, want)
		}
	}
	if got := s.places["g "+orders+" 0"].TopicID; got != id || id == (topicID{}) {
		t.Errorf("kept with the ID %x, the topic has %x", got, id)
	}
}

// A place that a group is given before anybody reads for it is kept.
func TestAPlaceIsKeptWithoutAMember(t *testing.T) {
	t.Parallel()
	c, s, _ := shelved(alone(cluster(t, 1)), slog.LevelError)
	c.KeepEvery = time.Hour
	l := opened(t, c)
	ensured(t, l, orders)
	letters(t, l, "abc")
	sub, err := l.Subscriber(SubscriberConfig{Group: "g", FromEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SubscribeInitialize(orders); err != nil {
		t.Fatal(err)
	}
	closed(t, sub)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if at := s.of("g"); at != 3 {
		t.Errorf("kept %d", at)
	}
}
