package kafkalog

import (
	"math/rand/v2"
	"testing"
)

// finishing runs random looks and finishes on a place, with a rule for where the place is, and reports whether it ever fell or
// passed something unfinished.
func finishing(seed uint64, settle func(p *place, looked int64)) (fell, passed bool) {
	rng := rand.New(rand.NewPCG(seed, 1))
	var p place
	p.start(100)
	looked, unfinished := int64(100), make(map[*item]bool)
	before := int64(100)
	for range 400 {
		switch rng.IntN(3) {
		case 0:
			looked += 1 + int64(rng.IntN(3)) // some records do not concern the group
			it := &item{r: &shared{record: record{offset: looked - 1, size: 10}}}
			p.add(it)
			unfinished[it] = true
		case 1:
			for it := range unfinished {
				p.finish(it)
				delete(unfinished, it)
				break
			}
		}
		settle(&p, looked)
		now := p.finished.Load()
		fell = fell || now < before
		before = now
		for it := range unfinished {
			passed = passed || it.r.offset < now
		}
	}
	for it := range unfinished {
		p.finish(it)
	}
	p.settle(looked)
	if p.finished.Load() != looked || p.size != 0 || p.unfinished() != 0 {
		return true, true
	}
	return fell, passed
}

func TestAPlaceNeverFallsAndNeverPassesWhatIsUnfinished(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		if fell, passed := finishing(seed, (*place).settle); fell || passed {
			t.Fatalf("seed %d: fell %v, passed something unfinished %v", seed, fell, passed)
		}
	}
}

// The bookkeeping of those who commit what was acked last passes what was not.
func TestCommittingTheLatestAckWouldPassWhatIsUnfinished(t *testing.T) {
	t.Parallel()
	latest := func(p *place, looked int64) {
		for _, it := range p.order {
			if it.done {
				p.finished.Store(max(p.finished.Load(), it.r.offset+1))
			}
		}
	}
	for seed := range uint64(300) {
		if _, passed := finishing(seed, latest); passed {
			return
		}
	}
	t.Error("the other test cannot fail")
}

func TestAPlaceIsWrittenOnce(t *testing.T) {
	t.Parallel()
	var p place
	p.start(5)
	if _, ok := p.due(); ok {
		t.Error("it is written already")
	}
	p.settle(9)
	if at, ok := p.due(); !ok || at != 9 {
		t.Errorf("due is %d, %v", at, ok)
	}
	p.wrote(9)
	p.wrote(7) // an answer that came late
	if _, ok := p.due(); ok {
		t.Error("it is written already")
	}
	p.restart(3)
	if at, ok := p.due(); !ok || at != 3 {
		t.Errorf("after a restart due is %d, %v", at, ok)
	}
}

// A log that has lost its end gives the same offsets again, to other records, while records that it had are still in hand.
func TestAPlaceThatIsPutBackDoesNotPassWhatComes(t *testing.T) {
	t.Parallel()
	at := func(offset int64) *item { return &item{r: &shared{record: record{offset: offset, size: 10}}} }
	var p place
	p.start(100)
	old := []*item{at(100), at(101)}
	for _, it := range old {
		p.add(it)
	}
	p.settle(102)
	p.restart(90)
	anew := at(90)
	p.add(anew)
	p.settle(91)
	if now := p.finished.Load(); now != 90 {
		t.Errorf("the place is %d, with 90 unfinished", now)
	}
	for _, it := range old {
		p.finish(it)
	}
	p.settle(91)
	if now := p.finished.Load(); now != 90 {
		t.Errorf("the place is %d when the old ones are finished, with 90 unfinished", now)
	}
	p.finish(anew)
	p.settle(91)
	if now := p.finished.Load(); now != 91 || p.size != 0 || p.unfinished() != 0 {
		t.Errorf("the place is %d when all is finished, with %d unfinished of %d bytes", now, p.unfinished(), p.size)
	}
	next := at(92)
	p.add(next)
	p.settle(93)
	if now := p.finished.Load(); now != 92 {
		t.Errorf("afterwards the place is %d, want 92", now)
	}
}
