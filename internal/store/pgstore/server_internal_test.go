package pgstore

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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

// slowServer answers a question about itself with its clock as it stands halfway.
type slowServer struct {
	took, ahead time.Duration
	clock       *time.Time
}

func (s slowServer) QueryRow(context.Context, string, ...any) pgx.Row { return s }

func (s slowServer) Scan(into ...any) error {
	*s.clock = s.clock.Add(s.took / 2)
	*into[0].(*time.Time), *into[1].(*string) = s.clock.Add(s.ahead), "150000"
	*s.clock = s.clock.Add(s.took / 2)
	return nil
}

// The time that the question takes is not held against the server.
func TestASlowNetworkIsNoSkew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ took, ahead, want time.Duration }{
		{0, 0, 0}, {8 * time.Second, 0, 0}, {8 * time.Second, 3 * time.Second, 0}, {8 * time.Second, -3 * time.Second, 0},
		{2 * time.Second, 7 * time.Second, 6 * time.Second}, {2 * time.Second, -7 * time.Second, -6 * time.Second},
	} {
		clock := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		v, err := ask(t.Context(), slowServer{c.took, c.ahead, &clock}, func() time.Time { return clock })
		if err != nil || v.skew != c.want {
			t.Errorf("a clock %s ahead, asked within %s: %s, %v, want %s", c.ahead, c.took, v.skew, err, c.want)
		}
	}
}
