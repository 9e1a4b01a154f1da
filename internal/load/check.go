package load

import (
	"fmt"
	"strings"
)

// Verdict is what a comparison of both ends' records found about one target. The first five counts describe the run;
// the others are faults, and zero when all is well.
type Verdict struct {
	// Sent is how many events were posted that this target should get when they are accepted, of which so many were
	// Accepted, Refused, or are Unknown (posted, but never answered: the hub may or may not have them).
	Sent, Accepted, Refused, Unknown int
	// Delivered counts the accepted and unknown events that the target took (answered 2xx).
	Delivered int

	// Lost counts accepted events that the target never took.
	Lost int
	// RefusedDelivered counts refused events that were brought to the target nevertheless, and Strangers events that this
	// target should not have seen at all.
	RefusedDelivered, Strangers int
	// ForgedAccepted counts events with a wrong or stale signature that were accepted.
	ForgedAccepted int
	// Duplicates counts the times the target took an event beyond the first; DuplicateIDs those of them whose
	// webhook-id was not the one of the first time.
	Duplicates, DuplicateIDs int
	// Inversions counts events that the target took for the first time after a younger event of the same key.
	Inversions int
	// Altered counts requests whose body was not the body that was posted.
	Altered int
	// Examples names up to ten events with a fault, such as "lost evt_a_000001_00000002".
	Examples []string
}

// maxExamples bounds Verdict.Examples.
const maxExamples = 10

// Expect says what a target was promised. The zero value: every event, and a customer's in the order in which they were accepted.
type Expect struct {
	// Wanted says which posts the target should get; nil means all.
	Wanted func(Post) bool
	// OrderByType asks for order only among a customer's events of one type: what several routes that each take
	// one type to one target promise together.
	OrderByType bool
}

// Check compares what was sent with what one target received. Receipts of other sources (other runs) are passed over. Bodies are
// compared by their hash, so Altered means something only where the route has no map. A crash allows duplicates and
// nothing else; see Clean.
func Check(sent *Sent, received []Receipt, expect Expect) Verdict {
	var v Verdict
	type track struct {
		post      *Post
		wanted    bool
		taken     int
		webhookID string
	}
	events := make(map[ID]*track, len(sent.Posts))
	fault := func(kind string, id ID, n *int) {
		*n++
		if len(v.Examples) < maxExamples {
			v.Examples = append(v.Examples, kind+" "+id.String())
		}
	}
	for i := range sent.Posts {
		p := &sent.Posts[i]
		t := &track{post: p, wanted: expect.Wanted == nil || expect.Wanted(*p)}
		events[sent.ID(*p)] = t
		if !t.wanted {
			continue
		}
		v.Sent++
		switch p.State {
		case Accepted:
			v.Accepted++
			if p.Kind != Genuine {
				fault("forged but accepted", sent.ID(*p), &v.ForgedAccepted)
			}
		case Refused:
			v.Refused++
		case Unknown:
			v.Unknown++
		}
	}
	type lane struct {
		key uint32
		typ uint16
	}
	newest := make(map[lane]uint32) // the highest Seq taken so far
	for i := range received {
		r := &received[i]
		if r.ID.Source != sent.Source {
			continue
		}
		t := events[r.ID]
		if t == nil || !t.wanted {
			fault("stranger", r.ID, &v.Strangers)
			continue
		}
		if t.post.State == Refused {
			fault("refused but delivered", r.ID, &v.RefusedDelivered)
		}
		if r.Hash != t.post.Hash {
			fault("altered", r.ID, &v.Altered)
		}
		if r.Status < 200 || r.Status > 299 {
			continue
		}
		if t.taken++; t.taken > 1 {
			fault("duplicate", r.ID, &v.Duplicates)
			if r.WebhookID != t.webhookID {
				v.DuplicateIDs++
			}
			continue
		}
		t.webhookID = r.WebhookID
		if t.post.State != Refused {
			v.Delivered++
		}
		in := lane{key: r.ID.Key}
		if expect.OrderByType {
			in.typ = t.post.Type
		}
		if r.ID.Seq < newest[in] {
			fault("out of order", r.ID, &v.Inversions)
		}
		newest[in] = max(newest[in], r.ID.Seq)
	}
	for i := range sent.Posts { // in posting order, so that the examples are the first ones
		p := &sent.Posts[i]
		if t := events[sent.ID(*p)]; t.wanted && p.State == Accepted && t.taken == 0 {
			fault("lost", sent.ID(*p), &v.Lost)
		}
	}
	return v
}

// Add sums two targets' verdicts.
func (v Verdict) Add(o Verdict) Verdict {
	v.Sent += o.Sent
	v.Accepted += o.Accepted
	v.Refused += o.Refused
	v.Unknown += o.Unknown
	v.Delivered += o.Delivered
	v.Lost += o.Lost
	v.RefusedDelivered += o.RefusedDelivered
	v.Strangers += o.Strangers
	v.ForgedAccepted += o.ForgedAccepted
	v.Duplicates += o.Duplicates
	v.DuplicateIDs += o.DuplicateIDs
	v.Inversions += o.Inversions
	v.Altered += o.Altered
	v.Examples = append(v.Examples[:len(v.Examples):len(v.Examples)], o.Examples...)
	v.Examples = v.Examples[:min(len(v.Examples), maxExamples)]
	return v
}

// Clean reports whether there is no fault, apart from up to duplicates repeated deliveries under the same ID, which
// a crash between sending and settling may cause.
func (v Verdict) Clean(duplicates int) bool {
	return v.Lost+v.RefusedDelivered+v.Strangers+v.ForgedAccepted+v.DuplicateIDs+v.Inversions+v.Altered == 0 &&
		v.Duplicates <= duplicates
}

// String is one line, with examples at the end when there are faults.
func (v Verdict) String() string {
	s := fmt.Sprintf("sent %d = accepted %d + refused %d + unknown %d; delivered %d; lost %d, refused but delivered %d, strangers %d, "+
		"forged but accepted %d, duplicates %d (%d under another id), out of order %d, altered %d",
		v.Sent, v.Accepted, v.Refused, v.Unknown, v.Delivered, v.Lost, v.RefusedDelivered, v.Strangers,
		v.ForgedAccepted, v.Duplicates, v.DuplicateIDs, v.Inversions, v.Altered)
	if len(v.Examples) > 0 {
		s += ": " + strings.Join(v.Examples, ", ")
	}
	return s
}
