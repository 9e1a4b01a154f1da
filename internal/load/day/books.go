package day

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Summary is the day's books.
type Summary struct {
	// Sent counts the events posted: Accepted new ones, Duplicates that were recognised, and Refused ones.
	Sent, Accepted, Duplicates, Refused int
	// Routes is how many routes each accepted event meets. Delivered, Filtered, Dead and Parked are the hub's own counts of what
	// became of them there.
	Routes                            int
	Delivered, Filtered, Dead, Parked int
	// Repeated is how often a route recognised a repeat. It does in cluster mode, where the log keeps repeats and each of them meets every
	// route again; an embedded hub's log drops them.
	Repeated int
	// Office is what the back office itself recorded, and Ledger the lines of this day in the ledger file (-1: not looked at).
	Office Records
	Ledger int
	// Took is how long the day lasted.
	Took time.Duration
	// Problems says what does not add up; empty when all is well.
	Problems []string

	toOffice, toLedger int  // delivered on those routes, by the hub's count
	kept               bool // the log keeps repeats
}

// due is how many outcomes the routes owe for the day.
func (s *Summary) due() int {
	if s.kept {
		return (s.Accepted + s.Duplicates) * s.Routes
	}
	return s.Accepted * s.Routes
}

func (s *Summary) problem(format string, args ...any) {
	s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
}

// close waits until everything that was accepted has an end, and checks the books.
func (p *player) close(ctx context.Context, office Records) error {
	for end := time.Now().Add(p.Settle); ; {
		now, err := scrapeHub(ctx, p.client, p.Admin)
		if err != nil {
			return err
		}
		p.catchUp() // after the reading: what the hub counts as delivered has been booked
		p.count(now)
		settled := p.books.Delivered + p.books.Filtered + p.books.Dead + p.books.Repeated
		if settled >= p.books.due() || time.Now().After(end) {
			break
		}
		if err := pause(ctx, 10*watchEvery); err != nil {
			return err
		}
	}
	now := p.Office.Records()
	p.books.Office = Records{
		Booked: now.Booked - office.Booked, Repeats: now.Repeats - office.Repeats,
		BadSignatures: now.BadSignatures - office.BadSignatures, Failures: now.Failures - office.Failures,
	}
	p.books.Ledger = -1
	if p.Ledger != "" {
		lines, err := countLines(p.Ledger, `{"id":"evt_`+p.run)
		if err != nil {
			return err
		}
		p.books.Ledger = lines
	}
	p.books.check()
	return nil
}

// count takes the hub's counts of this day from a reading.
func (p *player) count(now scrape) {
	since := func(route, outcome string) int { return now.outcome(route, outcome) - p.base.outcome(route, outcome) }
	b := &p.books
	b.Routes, b.Delivered, b.Filtered, b.Dead, b.Parked, b.Repeated = len(routes()), 0, 0, 0, 0, 0
	b.kept = now.has(metricConflicts)
	for _, r := range routes() {
		b.Delivered += since(r, "delivered")
		b.Filtered += since(r, "filtered")
		b.Dead += since(r, "dead")
		b.Repeated += since(r, "duplicate")
		b.Parked += now.get(metricParked, "route", r) - p.base.get(metricParked, "route", r)
	}
	b.toLedger = since(RouteJournal, "delivered")
	b.toOffice = b.Delivered - b.toLedger
}

// check holds each count against another one.
func (s *Summary) check() {
	if s.Sent != s.Accepted+s.Duplicates+s.Refused {
		s.problem("%d sent are not %d accepted + %d duplicates + %d refused", s.Sent, s.Accepted, s.Duplicates, s.Refused)
	}
	if sum := s.Delivered + s.Filtered + s.Dead + s.Parked + s.Repeated; sum != s.due() {
		s.problem("%d accepted on %d routes are %d, the hub accounts for %d", s.Accepted, s.Routes, s.due(), sum)
	}
	if s.Office.Booked != s.toOffice {
		s.problem("the hub delivered %d to the back office, which booked %d", s.toOffice, s.Office.Booked)
	}
	if s.Office.BadSignatures > 0 {
		s.problem("the back office refused %d signatures", s.Office.BadSignatures)
	}
	if s.Office.Repeats > 0 {
		s.problem("the back office got %d deliveries again", s.Office.Repeats)
	}
	if s.Ledger >= 0 && s.Ledger != s.toLedger {
		s.problem("the hub delivered %d to the ledger, which has %d lines of this day", s.toLedger, s.Ledger)
	}
}

// countLines counts the lines of a file that start with prefix; a file that is not there has none.
func countLines(file, prefix string) (int, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), prefix) {
			n++
		}
	}
	return n, lines.Err()
}
