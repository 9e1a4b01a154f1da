package kafkalog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/segmentio/kafka-go"
)

func numbers(n int) []int32 {
	ps := make([]int32, n)
	for i := range ps {
		ps[i] = int32(i)
	}
	return ps
}

// moved is how many partitions are not where they were.
func moved(before, after map[int32]string) (n int) {
	for p, a := range before {
		if after[p] != a {
			n++
		}
	}
	return n
}

// unfair says what is wrong with shares: a partition without an owner, or one agent with two more than another.
func unfair(given map[int32]string, agents []string, partitions int) string {
	has := make(map[string]int)
	for _, a := range agents {
		has[a] = 0
	}
	for p, a := range given {
		if !slices.Contains(agents, a) {
			return fmt.Sprintf("%d went to %q", p, a)
		}
		has[a]++
	}
	counts := slices.Sorted(maps.Values(has))
	switch {
	case len(given) != partitions:
		return fmt.Sprintf("%d of %d partitions are given", len(given), partitions)
	case counts[len(counts)-1]-counts[0] > 1:
		return fmt.Sprintf("shares are %v", counts)
	}
	return ""
}

func TestSharesAreFairAndFewMove(t *testing.T) {
	t.Parallel()
	var came, gone, least int
	for round := range 2000 {
		n, topic := 1+rand.IntN(40), fmt.Sprintf("topic-%d", round)
		var hubs []string
		for range 1 + rand.IntN(9) {
			hubs = append(hubs, fmt.Sprintf("hub-%d", rand.Uint32()))
		}
		all := share(topic, hubs, numbers(n))
		if why := unfair(all, hubs, n); why != "" {
			t.Fatalf("%d partitions for %v: %s", n, hubs, why)
		}
		shuffled := slices.Clone(hubs)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if again := share(topic, shuffled, numbers(n)); !maps.Equal(again, all) {
			t.Fatal("the order of the hubs decides")
		}
		if len(hubs) == 1 {
			continue
		}
		fewer := share(topic, hubs[1:], numbers(n))
		if why := unfair(fewer, hubs[1:], n); why != "" {
			t.Fatalf("%d partitions for %v: %s", n, hubs[1:], why)
		}
		came += moved(fewer, all)
		gone += moved(all, fewer)
		least += n / len(hubs) // that many have to move at least
	}
	t.Logf("%d moved when a hub came, %d when it went; %d had to", came, gone, least)
	if came > 2*least || gone > 2*least {
		t.Errorf("%d moved when a hub came, %d when it went, where %d had to", came, gone, least)
	}
}

// What is called a fair share by counting off moves nearly everything.
func TestCountingOffWouldMoveNearlyEverything(t *testing.T) {
	t.Parallel()
	countOff := func(agents []string, n int) map[int32]string {
		given := make(map[int32]string)
		for p := range n {
			given[int32(p)] = agents[p%len(agents)]
		}
		return given
	}
	hubs := []string{"a", "b", "c", "d"}
	if n := moved(countOff(hubs[:3], 24), countOff(hubs, 24)); n <= 2*24/4 {
		t.Errorf("only %d moved: the bound of the other test shows nothing", n)
	}
	if n := moved(share("t", hubs[:3], numbers(24)), share("t", hubs, numbers(24))); n > 2*24/4 {
		t.Errorf("%d moved", n)
	}
}

func member(id, instance string, topics ...string) kafka.GroupMember {
	return kafka.GroupMember{ID: id, Topics: topics, UserData: []byte(instance)}
}

func layouts(sizes map[string]int) func(string) []int32 {
	return func(topic string) []int32 { return numbers(sizes[topic]) }
}

func TestAProcessHoldsTheSamePartitionsForAllItsGroups(t *testing.T) {
	t.Parallel()
	b := &balancer{layout: layouts(map[string]int{"a": 12, "b": 7})}
	one := b.AssignGroups([]kafka.GroupMember{member("x1", "hub-1", "a"), member("x2", "hub-2", "a"), member("x3", "hub-3", "a")}, nil)
	two := b.AssignGroups([]kafka.GroupMember{member("z9", "hub-3", "b", "a"), member("z8", "hub-1", "a"), member("z7", "hub-2", "a", "b")}, nil)
	for _, pair := range [][2]string{{"x1", "z8"}, {"x2", "z7"}, {"x3", "z9"}} {
		if !reflect.DeepEqual(one[pair[0]]["a"], two[pair[1]]["a"]) {
			t.Errorf("%v holds %v in one group and %v in another", pair, one[pair[0]]["a"], two[pair[1]]["a"])
		}
	}
	if len(two["z8"]["b"]) != 0 || len(two["z7"]["b"])+len(two["z9"]["b"]) != 7 {
		t.Errorf("a topic went to one that did not ask for it: %v", two)
	}
}

func TestSeveralMembersOfAProcessShareToo(t *testing.T) {
	t.Parallel()
	b := &balancer{layout: layouts(map[string]int{"a": 5})}
	got := b.AssignGroups([]kafka.GroupMember{member("x1", "hub", "a"), member("x2", "hub", "a")}, nil)
	if n, m := len(got["x1"]["a"]), len(got["x2"]["a"]); n+m != 5 || min(n, m) != 2 {
		t.Errorf("they got %v", got)
	}
}

func TestATopicThatDoesNotExistHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	sizes := map[string]int{"a": 3}
	b := &balancer{layout: layouts(sizes)}
	// kafka-go gives no partitions at all then.
	got := b.AssignGroups([]kafka.GroupMember{member("x", "hub", "a", "gone")}, nil)
	if len(got["x"]["a"]) != 3 {
		t.Errorf("got %v", got)
	}
	if b.outdated() {
		t.Error("nothing has changed")
	}
	for topic, n := range map[string]int{"gone": 1, "a": 4} {
		before := sizes[topic]
		sizes[topic] = n
		if !b.outdated() {
			t.Errorf("%s has %d partitions now and nobody gets them", topic, n)
		}
		sizes[topic] = before
	}
	b.leave()
	if sizes["a"] = 9; b.outdated() {
		t.Error("it is for another member to look")
	}
}
