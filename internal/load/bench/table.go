package bench

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Table is the report for a terminal.
func (r Report) Table() string {
	rows := [][]string{{"figure", "value", "ratio", "target", ""}}
	for _, f := range r.Figures {
		rows = append(rows, f.cells())
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 1 {
				line.WriteString(gap + cell + "  ")
			} else {
				line.WriteString(cell + gap + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	for _, f := range r.Faults {
		b.WriteString("fault: " + f + "\n")
	}
	return b.String()
}

func (f Figure) cells() []string {
	ratio, met := "", ""
	if f.Ratio > 0 {
		ratio = fmt.Sprintf("%.2f of %s", f.Ratio, f.Of)
	}
	if f.Target != "" {
		met = "met"
		if !f.Met {
			met = "missed"
		}
	}
	return []string{f.Name, number(f.Value, f.Unit), ratio, f.Target, met}
}

// Markdown is the page for docs.
func (r Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

Measured %s by `+"`make bench`"+` in %s, everything on one machine: hub, load generator and target.

- Machine: %s
- Settings: %s

| figure | value | ratio | target | |
|---|---:|---|---|---|
`, r.Date.Format("2006-01-02 15:04 UTC"), r.Took.Round(time.Second), r.Machine, r.Settings)
	for _, f := range r.Figures {
		b.WriteString("| " + strings.Join(f.cells(), " | ") + " |\n")
	}
	if len(r.Faults) > 0 {
		b.WriteString("\nFaults:\n\n")
		for _, f := range r.Faults {
			b.WriteString("- " + f + "\n")
		}
	}
	b.WriteString(reading)
	return b.String()
}

const reading = `
## How to read it

**The bare durable limit** is a program that does the least any durable relay has to do: it takes a post, appends the body
to a file, makes a group of them durable with one fsync, only then answers 200, and posts each body on. It checks no
signature, keeps no order, no ledger and no retries that survive a crash. It uses the same HTTP server and client as the hub. What it
carries on a machine is what that machine's disk, network stack and processors allow; compare the hub with it and not with
figures from other machines. Limit and hub run in turn in each round; values are medians over the rounds, ratios are
taken within a round and then their median.

**events/s** counts accepted events from the first post to the last delivery at the target, so a hub that only accepts quickly
gains nothing. At saturation each of the connections posts its next signed event as soon as the last was answered.

**At a fixed rate** events are sent at their times whatever the hub does, and latency counts from the time an event was meant to be
sent. *ack* ends with the full 200 to the provider, *delivered* with the target having read the request.

**CPU per event** is user and system time of the measured process over the events of the leg. Generator and sink have a line of their own: they
take their share of the same processors from limit and hub alike.

**100 routes** read one connection, each takes one of 100 event types, so each event matches one route. **4 targets** get every event each;
in the leg with a tarpit the fourth target reads requests and never answers, and the figure is that of the other three.
**Stored** events have been delivered before the leg starts; the figures show that a full store costs nothing.

**Cluster** legs run on one Apache Kafka broker and one PostgreSQL on the same machine, which take their share of its processors. *The bare Kafka loop* is the
durable limit with Kafka in place of its file: it takes a post, produces it with the others that wait in one request for all 12 partitions (acks from all replicas), only then
answers 200, fetches all partitions with one request, posts each body on, and commits offsets; no ledger. Kafka does not fsync each record: its durability is its replicas.

**Two hubs** share one topic prefix and one database, the connections of the generator go to them in turn, and each reads half the partitions. Where the machine lets the bench make them, each runs in a network
namespace of its own, in which there is nothing but the ways to Kafka, PostgreSQL and the target; these and the spreading of connections are the bench's work. On one machine two hubs have the processors of one, so
it is not events/s that shows whether more hubs carry more, but what an event costs them: while it costs two together what it costs one, the processors of a second machine add to those of the first.

**Every event is accounted for**: generator and target record what they sent and saw, and the records are compared after each leg.
`

func number(v float64, unit string) string {
	switch unit {
	case "ms":
		return fmt.Sprintf("%.2f ms", v)
	case "%":
		return fmt.Sprintf("%.1f %%", v)
	case "µs", "MiB":
		return fmt.Sprintf("%.0f %s", v, unit)
	case "":
		return thousands(int(v))
	}
	return thousands(int(v+0.5)) + " " + unit
}

// thousands writes 5000000 as 5,000,000.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func millis(d time.Duration) string { return number(float64(d)/float64(time.Millisecond), "ms") }

func mebi(bytes int64) string { return number(float64(bytes)/(1<<20), "MiB") }
