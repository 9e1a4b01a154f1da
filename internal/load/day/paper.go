package day

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// shade is how an outcome is shown.
type shade int

const (
	good shade = iota
	waits
	bad
	quiet
)

// outcome is one thing that became of an event.
type outcome struct {
	shade shade
	text  string
}

// paper is what the day is written on. Its writer's errors are passed over: the books do not depend on who reads along.
type paper struct {
	w     io.Writer
	color bool
}

func (p paper) paint(s shade, text string) string {
	if !p.color {
		return text
	}
	return [...]string{good: "\x1b[32m", waits: "\x1b[33m", bad: "\x1b[31m", quiet: "\x1b[2m"}[s] + text + "\x1b[0m"
}

func (p paper) say(format string, args ...any) { _, _ = fmt.Fprintf(p.w, format+"\n", args...) }

func (p paper) title(n int) {
	p.say("A day of payments: %d signed Stripe events, three routes, one back office.\n", n)
	p.say("%s", p.paint(quiet, fmt.Sprintf("%-5s  %-29s %-17s %13s  %s", "time", "event", "customer", "amount", "what became of it")))
}

func (p paper) note(clock, text string) {
	p.say("%s", p.paint(quiet, clock+"  · "+text))
}

func (p paper) line(s step, told ...outcome) {
	amount := ""
	if s.amount > 0 {
		amount = money(s.amount, s.who.currency)
	}
	var parts []string
	for _, o := range told {
		parts = append(parts, p.paint(o.shade, o.text))
	}
	p.say("%-5s  %-29s %s %13s  %s", s.clock, s.typ, fit(s.who.name, 17), amount, strings.Join(parts, " · "))
}

// fit pads a name to a width in characters.
func fit(s string, width int) string {
	return s + strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0))
}

func (p paper) summary(s Summary) {
	p.say("")
	p.say("The day's books")
	p.say("  %d sent = %d accepted + %d duplicate + %d refused", s.Sent, s.Accepted, s.Duplicates, s.Refused)
	if s.kept {
		p.say("  %d accepted and duplicate × %d routes = %d = %d delivered + %d filtered + %d dead + %d parked + %d recognised as repeats   (the hub's metrics)",
			s.Accepted+s.Duplicates, s.Routes, s.due(), s.Delivered, s.Filtered, s.Dead, s.Parked, s.Repeated)
	} else {
		p.say("  %d accepted × %d routes = %d = %d delivered + %d filtered + %d dead + %d parked   (the hub's metrics)",
			s.Accepted, s.Routes, s.due(), s.Delivered, s.Filtered, s.Dead, s.Parked)
	}
	p.say("  the back office booked %d; it saw %d repeats and %d bad signatures, and answered %d tries with 500 or 503   (its own records)",
		s.Office.Booked, s.Office.Repeats, s.Office.BadSignatures, s.Office.Failures)
	if s.Ledger >= 0 {
		p.say("  the ledger file has %d lines of this day", s.Ledger)
	}
	if len(s.Problems) == 0 {
		p.say("  %s", p.paint(good, "It adds up."))
	}
	for _, problem := range s.Problems {
		p.say("  %s", p.paint(bad, "It does not add up: "+problem))
	}
}

// Next says what somebody who has seen the day can try while the hub runs. command is how tidewire is called there, file its config.
func Next(w io.Writer, c Config, command, file string) {
	c = c.withDefaults()
	p := paper{w: w}
	p.say("\nThe hub is still running. Try:")
	for _, t := range [][2]string{
		{"curl -s http://" + c.Admin + "/readyz", "is it well, and how is each route doing"},
		{"curl -s http://" + c.Admin + "/metrics | grep tidewire_deliveries_total", "the counts the books are made of"},
		{"tail -n 3 " + c.Ledger, "what the ledger route keeps"},
		{"curl -i http://" + c.Hub + c.Path + " -d '{}'", "an unsigned webhook is refused"},
		{command + " validate --config " + file, "change the file, then check it before you use it"},
	} {
		if !strings.HasSuffix(t[0], " ") { // no ledger file
			p.say("  %s\n      %s", t[0], t[1])
		}
	}
	p.say("Ctrl-C stops it. Nothing that was accepted is lost: start it again and it goes on where it was.")
}
