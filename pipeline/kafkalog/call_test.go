package kafkalog

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A writer that gave each batch a second to fill would need most of a minute.
func TestNobodyWaitsForCompany(t *testing.T) {
	t.Parallel()
	l := opened(t, at(cluster(t, 1)))
	ensured(t, l, shop)
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	for i := range 50 {
		if err := l.Publish(shop, note(ctx, named("id", i), "x")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACallOfSeveral(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.MaxRecord = 4000
	l := opened(t, c)
	ensured(t, l, shop)
	good, large := note(t.Context(), "a", "x"), note(t.Context(), "b", strings.Repeat("x", 5000))
	if err := l.Publish(shop, good, large); !isRefused(err) {
		t.Errorf("one too large: %v", err)
	}
	if got := bodies(stored(t, l, shop)); len(got) != 0 {
		t.Errorf("a refused call stored %q", got)
	}
	// One partition refuses, the others store: that is no refusal of the call.
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		return refusal(req, kafka.InvalidRecord), nil, true
	})
	if err := l.Publish(shop, good, note(t.Context(), "c", "y")); !isRefused(err) || isUnknown(err) {
		t.Errorf("all refused: %v", err)
	}
	no, late, lost := &refusedError{shop, "no"}, &unsentError{shop, errors.New("late")}, &unknownError{shop, errors.New("lost")}
	for _, mixed := range [][]error{{no, nil}, {no, lost}, {late, late}, {late, nil}} {
		if isRefused(several(shop, mixed)) {
			t.Errorf("counts as refused: %v", mixed)
		}
	}
	if err := several(shop, []error{late, no}); !isRefused(err) {
		t.Errorf("does not count as refused: %v", err)
	}
	if err := several(shop, []error{nil, &unknownError{shop, errors.New("late")}}); !isUnknown(err) {
		t.Errorf("does not count as unknown: %v", err)
	}
}

// A caller who is told that his call failed publishes it again: nothing of it may come later.
func TestWhatFailsTakesTheRestOfItsCallAlong(t *testing.T) {
	t.Parallel()
	k := cluster(t, 1)
	c := at(k)
	c.PartitionKey = byKey
	l := opened(t, c)
	ensured(t, l, shop)
	later, never := "a", "b"
	for spread(never, 3) == spread(later, 3) {
		never += "b"
	}
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		r := refusal(req, kafka.NotLeaderForPartition)
		for i, p := range r.Topics[0].Partitions {
			if p.Partition == spread(never, 3) {
				r.Topics[0].Partitions[i].ErrorCode = int16(kafka.InvalidRecord)
			}
		}
		return r, nil, true // and from then on all is taken
	})
	if err := l.Publish(shop, note(t.Context(), later+"-1", "later"), note(t.Context(), never+"-1", "never")); !isRefused(err) {
		t.Errorf("one refused, one to be sent again: %v", err)
	}
	if err := l.Publish(shop, note(t.Context(), later+"-2", "next")); err != nil {
		t.Fatal(err)
	}
	if got := bodies(stored(t, l, shop)); !slices.Equal(got, []string{"next"}) {
		t.Errorf("stored are %q, want the next call's alone", got)
	}
}

func TestACallLargerThanTheQueueGoesAlone(t *testing.T) {
	t.Parallel()
	c := at(cluster(t, 1))
	c.QueueBytes, c.MaxRecord = 20_000, 10_000
	l := opened(t, c)
	ensured(t, l, shop)
	var ms []*message.Message
	for i := range 5 {
		ms = append(ms, note(t.Context(), named("id", i), strings.Repeat("x", 8000)))
	}
	if err := l.Publish(shop, ms...); err != nil {
		t.Errorf("a call of 40 kB with a queue of 20 kB: %v", err)
	}
	if got := bodies(stored(t, l, shop)); len(got) != len(ms) {
		t.Errorf("%d are stored, want %d", len(got), len(ms))
	}
}
