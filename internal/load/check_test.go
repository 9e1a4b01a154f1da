package load_test

import (
	"strings"
	"testing"

	"github.com/tidewire/tidewire/internal/load"
)

// records is a run of 3 events each for 2 customers, delivered once each in order, the last of them refused.
func records() (*load.Sent, []load.Receipt) {
	sent := &load.Sent{Source: "r"}
	var got []load.Receipt
	for seq := uint32(1); seq <= 3; seq++ {
		for key := range uint32(2) {
			p := load.Post{Key: key, Seq: seq, State: load.Accepted, Hash: uint64(seq)}
			r := load.Receipt{Path: "/t", ID: load.ID{Source: "r", Key: key, Seq: seq}, Status: 200, Hash: p.Hash, WebhookID: "w"}
			if key == 1 && seq == 3 {
				p.State, p.Kind = load.Refused, load.Forged
			} else {
				got = append(got, r)
			}
			sent.Posts = append(sent.Posts, p)
		}
	}
	return sent, got
}

func TestCheckFindsWhatWasPlanted(t *testing.T) {
	t.Parallel()
	refused := load.ID{Source: "r", Key: 1, Seq: 3}
	for name, c := range map[string]struct {
		plant   func(*load.Sent, *[]load.Receipt)
		want    load.Verdict // the faults only
		example string
	}{
		"nothing": {plant: func(*load.Sent, *[]load.Receipt) {}},
		"a failed first try": {plant: func(_ *load.Sent, got *[]load.Receipt) {
			first := (*got)[0]
			first.Status = 500
			*got = append([]load.Receipt{first}, *got...)
		}},
		"another run's": {plant: func(_ *load.Sent, got *[]load.Receipt) {
			*got = append(*got, load.Receipt{ID: load.ID{Source: "q"}, Status: 200})
		}},
		"a loss": {
			plant: func(_ *load.Sent, got *[]load.Receipt) { *got = (*got)[1:] },
			want:  load.Verdict{Lost: 1}, example: "lost evt_r_000000_00000001",
		},
		"only ever failing": {
			plant: func(_ *load.Sent, got *[]load.Receipt) { (*got)[0].Status = 500 },
			want:  load.Verdict{Lost: 1}, example: "lost evt_r_000000_00000001",
		},
		"a duplicate": {
			plant: func(_ *load.Sent, got *[]load.Receipt) { *got = append(*got, (*got)[0]) },
			want:  load.Verdict{Duplicates: 1}, example: "duplicate evt_r_000000_00000001",
		},
		"a duplicate under another id": {
			plant: func(_ *load.Sent, got *[]load.Receipt) { r := (*got)[0]; r.WebhookID = "other"; *got = append(*got, r) },
			want:  load.Verdict{Duplicates: 1, DuplicateIDs: 1}, example: "duplicate evt_r_000000_00000001",
		},
		"an inversion": {
			plant: func(_ *load.Sent, got *[]load.Receipt) { (*got)[0], (*got)[2] = (*got)[2], (*got)[0] },
			want:  load.Verdict{Inversions: 1}, example: "out of order evt_r_000000_00000001",
		},
		"an altered body": {
			plant: func(_ *load.Sent, got *[]load.Receipt) { (*got)[3].Hash++ },
			want:  load.Verdict{Altered: 1}, example: "altered evt_r_000001_00000002",
		},
		"an altered body in a failed try": {
			plant: func(_ *load.Sent, got *[]load.Receipt) {
				r := (*got)[3]
				r.Hash++
				r.Status = 500
				*got = append(*got, r)
			},
			want: load.Verdict{Altered: 1}, example: "altered evt_r_000001_00000002",
		},
		"refused but delivered": {
			plant: func(_ *load.Sent, got *[]load.Receipt) {
				*got = append(*got, load.Receipt{ID: refused, Status: 200, Hash: 3})
			},
			want: load.Verdict{RefusedDelivered: 1}, example: "refused but delivered evt_r_000001_00000003",
		},
		"refused but tried": {
			plant: func(_ *load.Sent, got *[]load.Receipt) {
				*got = append(*got, load.Receipt{ID: refused, Status: 500, Hash: 3})
			},
			want: load.Verdict{RefusedDelivered: 1}, example: "refused but delivered evt_r_000001_00000003",
		},
		"a stranger": {
			plant: func(_ *load.Sent, got *[]load.Receipt) {
				*got = append(*got, load.Receipt{ID: load.ID{Source: "r", Key: 9, Seq: 9}, Status: 200})
			},
			want: load.Verdict{Strangers: 1}, example: "stranger evt_r_000009_00000009",
		},
		"forged but accepted": {
			plant: func(sent *load.Sent, got *[]load.Receipt) {
				sent.Posts[5].State = load.Accepted
				*got = append(*got, load.Receipt{ID: refused, Status: 200, Hash: 3, WebhookID: "w"})
			},
			want: load.Verdict{ForgedAccepted: 1}, example: "forged but accepted evt_r_000001_00000003",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent, got := records()
			c.plant(sent, &got)
			v := load.Check(sent, got, load.Expect{})
			faults := load.Verdict{
				Lost: v.Lost, RefusedDelivered: v.RefusedDelivered, Strangers: v.Strangers, ForgedAccepted: v.ForgedAccepted,
				Duplicates: v.Duplicates, DuplicateIDs: v.DuplicateIDs, Inversions: v.Inversions, Altered: v.Altered,
			}
			if faults.String() != c.want.String() {
				t.Errorf("verdict %s\nwant    %s", faults, c.want)
			}
			if clean := c.example == ""; v.Clean(0) != clean {
				t.Errorf("clean is %t", !clean)
			}
			if v.Clean(1) != (v.Clean(0) || name == "a duplicate") {
				t.Errorf("one duplicate allowed: clean is %t", v.Clean(1))
			}
			if !strings.Contains(v.String(), c.example) {
				t.Errorf("%q does not name %q", v, c.example)
			}
		})
	}
}

func TestCheckCountsOnlyWhatATargetShouldGet(t *testing.T) {
	t.Parallel()
	sent, got := records()
	odd := func(p load.Post) bool { return p.Seq%2 == 1 }
	v := load.Check(sent, got, load.Expect{Wanted: odd})
	if v.Sent != 4 || v.Accepted != 3 || v.Refused != 1 || v.Delivered != 3 || v.Strangers != 2 {
		t.Errorf("verdict: %s", v)
	}
	sum := v.Add(v)
	if sum.Accepted != 6 || sum.Strangers != 4 || len(sum.Examples) != 4 {
		t.Errorf("sum: %s", sum)
	}
}

// An event whose fate the generator never learned may be delivered or not.
func TestCheckTakesUnknownEitherWay(t *testing.T) {
	t.Parallel()
	sent, got := records()
	sent.Posts[4].State = load.Unknown
	if v := load.Check(sent, got, load.Expect{}); !v.Clean(0) || v.Unknown != 1 || v.Delivered != 5 {
		t.Errorf("delivered: %s", v)
	}
	if v := load.Check(sent, got[:4], load.Expect{}); !v.Clean(0) || v.Delivered != 4 {
		t.Errorf("not delivered: %s", v)
	}
}

// Where each type has a route of its own, a customer's events of different types may pass one another.
func TestCheckKeepsOrderByType(t *testing.T) {
	t.Parallel()
	sent, got := records()
	got[0], got[2] = got[2], got[0] // the first two events of customer 0
	byType := load.Expect{OrderByType: true}
	if v := load.Check(sent, got, byType); v.Inversions != 1 {
		t.Errorf("of one type: %s", v)
	}
	sent.Posts[0].Type = 1
	if v := load.Check(sent, got, byType); !v.Clean(0) {
		t.Errorf("of two types: %s", v)
	}
}
