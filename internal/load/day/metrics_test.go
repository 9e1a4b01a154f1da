package day

import (
	"strings"
	"testing"
)

func TestReadMetrics(t *testing.T) {
	t.Parallel()
	const text = `# HELP tidewire_deliveries_total Deliveries.
# TYPE tidewire_deliveries_total counter
tidewire_deliveries_total{outcome="delivered",route="a"} 12
tidewire_deliveries_total{outcome="delivered",route="b \"x\", y}"} 3 1700000000000
tidewire_deliveries_total{outcome="dead",route="a"} 1
go_goroutines 1.2e+01
process_start_time_seconds{} 1.7e+09
nothing{a="b",} NaN
`
	s, err := readMetrics(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want   int
		name   string
		labels []string
	}{
		{12, metricDeliveries, []string{"route", "a", "outcome", "delivered"}},
		{3, metricDeliveries, []string{"route", `b "x", y}`}},
		{15, metricDeliveries, []string{"outcome", "delivered"}},
		{0, metricDeliveries, []string{"route", "c"}},
		{12, "go_goroutines", nil},
	} {
		if got := s.get(c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %d, want %d", c.name, c.labels, got, c.want)
		}
	}
	for _, bad := range []string{"x", "x{", `x{a="b"`, `x{a=b} 1`, "x y", `x{a="b"}`} {
		if _, err := readMetrics(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzReadMetrics(f *testing.F) {
	f.Add("a{b=\"c\"} 1\n")
	f.Add("a{b=\"c\",d=\"\\\"\"} +Inf 3\n# x\n{} 1")
	f.Fuzz(func(_ *testing.T, text string) {
		if s, err := readMetrics(strings.NewReader(text)); err == nil {
			s.get("a", "b", "c")
		}
	})
}

func TestMoney(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct {
		amount   int64
		currency string
	}{
		"49.00 EUR": {4900, "eur"}, "0.05 USD": {5, "usd"}, "7800 JPY": {7800, "jpy"}, "0.007 KWD": {7, "kwd"}, "15.250 KWD": {15250, "kwd"},
	} {
		if got := money(c.amount, c.currency); got != want {
			t.Errorf("%d %s is %q, want %q", c.amount, c.currency, got, want)
		}
	}
}
