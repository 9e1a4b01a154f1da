package bench

import (
	"strings"
	"testing"
)

func TestTwoHubsAreHeldToWhatOneCosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		both  float64
		apart bool
		met   bool
		where string
	}{
		{110, true, true, "each in a network namespace"},
		{130, false, false, "on loopback ports"},
	} {
		one := round{clusterHub: result{perSecond: 1000, cpuPerEvent: 100}, clusterTwo: result{perSecond: 900, cpuPerEvent: c.both, apart: c.apart}}
		tally := tally{rounds: []round{one}}
		tally.two(func(r round) float64 { return r.clusterHub.perSecond })
		speed, cost := tally.figures[0], tally.figures[1]
		if !strings.HasSuffix(speed.Name, c.where) || speed.Ratio != 0.9 || !speed.Met {
			t.Errorf("speed %+v", speed)
		}
		if cost.Met != c.met || cost.Ratio != c.both/100 {
			t.Errorf("cost %+v", cost)
		}
	}
}
