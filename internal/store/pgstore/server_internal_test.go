package pgstore

import (
	"strings"
	"testing"
	"time"
)

func TestServersThatWillNotDo(t *testing.T) {
	t.Parallel()
	good := server{version: 140000, shown: "14.0", encoding: "UTF8", skew: 5 * time.Second}
	if err := good.check(); err != nil {
		t.Errorf("the oldest server was refused: %v", err)
	}
	for want, change := range map[string]func(*server){
		"PostgreSQL 13.9 is too old, 14 or newer is needed": func(v *server) { v.version, v.shown = 130009, "13.9" },
		"stores text as SQL_ASCII":                          func(v *server) { v.encoding = "SQL_ASCII" },
		"5.1s ahead":                                        func(v *server) { v.skew = 5*time.Second + 100*time.Millisecond },
		"1h0m0s behind":                                     func(v *server) { v.skew = -time.Hour },
	} {
		v := good
		change(&v)
		if err := v.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestSpansHaveNoGapsAndDoNotOverlap(t *testing.T) {
	t.Parallel()
	day := int64(24 * time.Hour)
	p := newSpans("x", 24*time.Hour, 0)
	list := []span{{from: 2 * day, until: 3 * day}, {from: 3*day + day/2, until: 5 * day}}
	for at, want := range map[int64][2]int64{
		0:                 {0, day},
		2*day - 1:         {day, 2 * day},
		3 * day:           {3 * day, 3*day + day/2}, // clipped: the width was another before
		3*day + day/2 - 1: {3 * day, 3*day + day/2},
		5 * day:           {5 * day, 6 * day},
		-1:                {-day, 0},
		9*day + 7:         {9 * day, 10 * day},
	} {
		if got, missing := p.next(list, at); !missing || got.from != want[0] || got.until != want[1] {
			t.Errorf("for %d: %d to %d (%v), want %d to %d", at, got.from, got.until, missing, want[0], want[1])
		}
	}
	for _, at := range []int64{2 * day, 3*day - 1, 3*day + day/2, 5*day - 1} {
		if got, missing := p.next(list, at); missing {
			t.Errorf("for %d, which has a partition: %+v", at, got)
		}
	}
}
