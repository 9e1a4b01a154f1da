package day

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The hub's metrics that the day's books are made of.
const (
	metricDeliveries = "tidewire_deliveries_total" // by route and outcome
	metricParked     = "tidewire_parked"           // by route, now
	// metricConflicts is kept by hubs whose log keeps repeats.
	metricConflicts = "tidewire_log_conflicts_total"
)

// sample is one line of a scrape.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// scrape is one reading of a hub's metrics.
type scrape []sample

// readMetrics reads Prometheus' text format; lines that are not understood are an error, because books that leave
// something out are worse than none.
func readMetrics(r io.Reader) (scrape, error) {
	data, err := io.ReadAll(io.LimitReader(r, 16<<20))
	if err != nil {
		return nil, err
	}
	var all scrape
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := readSample(line)
		if err != nil {
			return nil, fmt.Errorf("metrics line %.80q: %w", line, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func readSample(line string) (sample, error) {
	end := strings.IndexAny(line, "{ ")
	if end <= 0 {
		return sample{}, errors.New("it has no value")
	}
	s := sample{name: line[:end], labels: make(map[string]string)}
	rest := line[end:]
	if rest[0] == '{' {
		rest = rest[1:]
		for !strings.HasPrefix(rest, "}") {
			name, after, ok := strings.Cut(rest, "=")
			quoted, err := strconv.QuotedPrefix(after)
			if !ok || err != nil {
				return sample{}, errors.New("its labels are not name=\"value\"")
			}
			value, err := strconv.Unquote(quoted)
			if err != nil {
				return sample{}, err
			}
			s.labels[strings.Trim(name, ", ")] = value
			rest = strings.TrimPrefix(after[len(quoted):], ",")
		}
		rest = rest[1:]
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return sample{}, errors.New("it has no value")
	}
	var err error
	s.value, err = strconv.ParseFloat(fields[0], 64)
	return s, err
}

// get adds up the samples of that name whose labels are as given, in pairs of name and value.
func (s scrape) get(name string, labels ...string) int {
	sum := 0.0
	for _, one := range s {
		if one.name != name {
			continue
		}
		match := true
		for i := 0; i+1 < len(labels); i += 2 {
			match = match && one.labels[labels[i]] == labels[i+1]
		}
		if match {
			sum += one.value
		}
	}
	return int(sum)
}

// has reports whether there is a sample of that name.
func (s scrape) has(name string) bool {
	return slices.ContainsFunc(s, func(one sample) bool { return one.name == name })
}

// outcome is how often a route has had an outcome so far.
func (s scrape) outcome(route, outcome string) int {
	return s.get(metricDeliveries, "route", route, "outcome", outcome)
}

// scrapeHub reads http://admin/metrics.
func scrapeHub(ctx context.Context, client *http.Client, admin string) (scrape, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("read the hub's metrics: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the hub's metrics: it answers %d", answer.StatusCode)
	}
	s, err := readMetrics(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("read the hub's metrics: %w", err)
	}
	return s, nil
}
