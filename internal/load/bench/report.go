package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Report is what one run found.
type Report struct {
	// Machine is one line about processor, cores, memory, kernel and Go.
	Machine string
	// Date is when the run began, Took how long it lasted.
	Date time.Time
	Took time.Duration
	// Settings is one line about how it was run.
	Settings string
	// Figures, in the order of the table.
	Figures []Figure
	// Faults are the verdicts of legs in which an event was lost, repeated, out of order or altered; empty when all is well.
	Faults []string
}

// Figure is one line of the table.
type Figure struct {
	// Name is unique in a report, such as "hub, events/s".
	Name string
	// Value and Unit as they are printed; a unit of "ms", "µs", "MiB", "events/s" or "" for a plain number.
	Value float64
	Unit  string
	// Ratio compares with another figure, which Of names; 0 when there is none.
	Ratio float64
	Of    string
	// Target is what is asked of Value or of Ratio, such as "≥ 0.6 of the limit"; empty when nothing is.
	Target string
	// Met says whether it is reached; true when nothing is asked.
	Met bool
}

// Figure returns the figure of that name.
func (r Report) Figure(name string) (Figure, bool) {
	for _, f := range r.Figures {
		if f.Name == name {
			return f, true
		}
	}
	return Figure{}, false
}

// Missed returns the figures that miss their target.
func (r Report) Missed() []Figure {
	var missed []Figure
	for _, f := range r.Figures {
		if !f.Met {
			missed = append(missed, f)
		}
	}
	return missed
}

// tally builds the figures from the rounds.
type tally struct {
	rounds  []round
	figures []Figure
}

// middle is the median over the rounds; the mean of the two middle ones when their number is even.
func (t *tally) middle(get func(round) float64) float64 {
	var all []float64
	for _, r := range t.rounds {
		all = append(all, get(r))
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func (t *tally) add(f Figure, get func(round) float64) *Figure {
	f.Value, f.Met = t.middle(get), true
	t.figures = append(t.figures, f)
	return &t.figures[len(t.figures)-1]
}

// atMost asks that the value be no more than bound.
func (f *Figure) atMost(bound float64) {
	f.Target, f.Met = fmt.Sprintf("≤ %s", number(bound, f.Unit)), f.Value <= bound
}

// ratio compares, round by round, with another figure; sign says which way is good.
func (t *tally) ratio(f *Figure, of string, get, base func(round) float64, sign string, bound float64) {
	f.Of = of
	f.Ratio = t.middle(func(r round) float64 { return get(r) / base(r) })
	switch sign {
	case "≥":
		f.Met = f.Ratio >= bound
	case "≤":
		f.Met = f.Ratio <= bound
	}
	if sign != "" {
		f.Target = fmt.Sprintf("%s %g of %s", sign, bound, of)
	}
}

// summarize makes the table.
func summarize(c Config, rounds []round) Report {
	t := &tally{rounds: rounds}
	speed := func(leg func(round) result) func(round) float64 {
		return func(r round) float64 { return leg(r).perSecond }
	}
	cpu := func(leg func(round) result) func(round) float64 {
		return func(r round) float64 { return leg(r).cpuPerEvent }
	}
	limit := func(r round) result { return r.limit }
	hub := func(r round) result { return r.hub }
	const perSecond, each = "events/s", "µs"

	t.add(Figure{Name: "bare durable limit", Unit: perSecond}, speed(limit))
	t.ratio(t.add(Figure{Name: "hub, one route", Unit: perSecond}, speed(hub)), "the limit", speed(hub), speed(limit), "≥", 0.6)
	t.add(Figure{Name: "bare durable limit, CPU per event", Unit: each}, cpu(limit))
	t.ratio(t.add(Figure{Name: "hub, CPU per event", Unit: each}, cpu(hub)), "the limit", cpu(hub), cpu(limit), "≤", 1.8)
	t.add(Figure{Name: "generator and sink, CPU per event", Unit: each}, func(r round) float64 { return r.hub.harnessPerEvent })
	t.paced(c.Rate)
	for _, v := range []struct {
		name  string
		leg   func(round) result
		of    string
		base  func(round) result
		sign  string
		bound float64
	}{
		{"hub, 1 % of deliveries fail at first", func(r round) result { return r.failing }, "one route", hub, "", 0},
		{"hub, 100 routes of which one matches", func(r round) result { return r.routes100 }, "one route", hub, "≥", 0.3},
		{"hub, 4 healthy targets", func(r round) result { return r.healthy }, "one route", hub, "", 0},
		{"hub, 3 healthy targets beside a tarpit", func(r round) result { return r.tarpit }, "4 healthy", func(r round) result { return r.healthy }, "≥", 0.9},
	} {
		t.ratio(t.add(Figure{Name: v.name, Unit: perSecond}, speed(v.leg)), v.of, speed(v.leg), speed(v.base), v.sign, v.bound)
	}
	t.stored(c.Stored)
	t.memory()
	if c.Cluster != nil {
		t.cluster()
	}
	report := Report{Figures: t.figures, Settings: fmt.Sprintf("%d rounds, %s a leg, %d connections post over loopback, about 1 KiB an event",
		c.Rounds, c.Duration, c.Connections)}
	report.account(rounds)
	return report
}

// paced are the latencies at the fixed rate.
func (t *tally) paced(rate float64) {
	for _, l := range []struct {
		name     string
		leg      func(round) result
		p50, p99 float64
	}{
		{"limit", func(r round) result { return r.limitPaced }, 0, 0},
		{"hub", func(r round) result { return r.hubPaced }, 2, 30},
	} {
		ms := func(get func(result) time.Duration) func(round) float64 {
			return func(r round) float64 { return float64(get(l.leg(r))) / float64(time.Millisecond) }
		}
		at := fmt.Sprintf(" at %g/s, ", rate)
		p50 := t.add(Figure{Name: l.name + at + "ack p50", Unit: "ms"}, ms(func(r result) time.Duration { return r.ackP50 }))
		if l.p50 > 0 {
			p50.atMost(l.p50)
		}
		p99 := t.add(Figure{Name: l.name + at + "ack p99", Unit: "ms"}, ms(func(r result) time.Duration { return r.ackP99 }))
		if l.p99 > 0 {
			p99.atMost(l.p99)
		}
		t.add(Figure{Name: l.name + at + "delivered p50", Unit: "ms"}, ms(func(r result) time.Duration { return r.throughP50 }))
		t.add(Figure{Name: l.name + at + "delivered p99", Unit: "ms"}, ms(func(r result) time.Duration { return r.throughP99 }))
		t.add(Figure{Name: l.name + at + "CPU per event", Unit: "µs"}, func(r round) float64 { return l.leg(r).cpuPerEvent })
	}
}

// stored are the figures with a full store; none when no legs ran.
func (t *tally) stored(n int) {
	if !t.rounds[0].stored.ran {
		return
	}
	full := func(r round) float64 { return r.stored.perSecond }
	f := t.add(Figure{Name: fmt.Sprintf("hub, %s events stored", thousands(n)), Unit: "events/s"}, full)
	t.ratio(f, "one route", full, func(r round) float64 { return r.hub.perSecond }, "≥", 0.9)
	t.add(Figure{Name: fmt.Sprintf("start to ready, %s stored", thousands(n)), Unit: "ms"}, func(r round) float64 {
		return float64(r.stored.ready) / float64(time.Millisecond)
	}).atMost(500)
}

// memory is the resident size: idle after a start, and the peak of the saturated legs with one route.
func (t *tally) memory() {
	const mib = 1 << 20
	t.add(Figure{Name: "resident, idle", Unit: "MiB"}, func(r round) float64 {
		return float64(max(r.hub.idle, r.stored.idle)) / mib
	}).atMost(50)
	t.add(Figure{Name: "resident, peak under load", Unit: "MiB"}, func(r round) float64 {
		return float64(max(r.hub.peak, r.stored.peak)) / mib
	}).atMost(150)
	t.add(Figure{Name: "resident, peak with 100 routes", Unit: "MiB"}, func(r round) float64 { return float64(r.routes100.peak) / mib })
}

// account adds up what became of every event of every hub leg.
func (r *Report) account(rounds []round) {
	var accepted, lost, duplicates, inversions, altered, failed int
	for n, one := range rounds {
		for _, l := range []struct {
			name string
			result
		}{
			{"limit", one.limit}, {"limit, paced", one.limitPaced},
			{"hub, one route", one.hub}, {"hub, paced", one.hubPaced}, {"hub, failing", one.failing}, {"hub, 100 routes", one.routes100},
			{"hub, 4 healthy", one.healthy}, {"hub, tarpit", one.tarpit}, {"hub, stored", one.stored},
			{"cluster: limit", one.clusterLimit}, {"cluster: limit, paced", one.clusterLimitPaced},
			{"cluster: hub", one.clusterHub}, {"cluster: two hubs", one.clusterTwo}, {"cluster: hub, paced", one.clusterPaced}, {"cluster: hub, 20 routes", one.cluster20},
		} {
			if l.faults() > 0 {
				r.Faults = append(r.Faults, fmt.Sprintf("round %d, %s: %s", n+1, l.name, l.verdict))
			}
			if !l.ordered {
				continue
			}
			v := l.verdict
			accepted += v.Accepted
			lost += v.Lost
			duplicates += v.Duplicates
			inversions += v.Inversions
			altered += v.Altered
			failed += v.Refused + v.Unknown + v.Strangers + v.RefusedDelivered
		}
	}
	r.Figures = append(r.Figures, Figure{Name: "hub, deliveries due in all legs", Value: float64(accepted), Met: true})
	for _, f := range []struct {
		name string
		n    int
	}{
		{"of these lost", lost}, {"delivered twice", duplicates}, {"out of order", inversions}, {"altered", altered},
		{"not accepted or misdelivered", failed},
	} {
		r.Figures = append(r.Figures, Figure{Name: f.name, Value: float64(f.n), Target: "0", Met: f.n == 0})
	}
}

// machine describes what this runs on, as far as the system tells.
func machine() string {
	parts := []string{fmt.Sprintf("%d cores", runtime.NumCPU())}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				parts = append([]string{strings.TrimSpace(value)}, parts...)
				break
			}
		}
	}
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kib); err == nil {
			parts = append(parts, fmt.Sprintf("%d GiB memory", (kib+1<<19)>>20))
		}
	}
	if out, err := exec.Command("uname", "-sr").Output(); err == nil {
		parts = append(parts, strings.TrimSpace(string(out)))
	}
	return strings.Join(append(parts, runtime.Version()+" "+runtime.GOARCH), ", ")
}
