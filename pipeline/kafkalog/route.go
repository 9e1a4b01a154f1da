package kafkalog

import (
	"slices"
	"time"
)

// route is the router: it finds out who leads the partitions of lost lines, and hands the lines to the senders.
func (p *publisher) route() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var t trouble
	for {
		select {
		case <-p.search:
		case <-timer.C:
		case <-p.quit:
			return
		}
		lines, wait := p.due()
		if len(lines) > 0 {
			p.find(lines, &t)
			wake(p.search) // see what is left
			continue
		}
		timer.Reset(wait)
	}
}

// due takes the lost lines whose pause is over, and says when the next one's will be. Lines whose messages were all withdrawn are lost no
// longer.
func (p *publisher) due() (lines []*line, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	wait = time.Hour
	p.lost = slices.DeleteFunc(p.lost, func(ln *line) bool {
		ln.queue = slices.DeleteFunc(ln.queue, func(d *draft) bool { return d.state == draftSettled })
		if len(ln.queue) == 0 {
			ln.busy = false
			return true
		}
		if ln.after.After(now) {
			wait = min(wait, ln.after.Sub(now))
			return false
		}
		lines = append(lines, ln)
		return true
	})
	return lines, wait
}

// find hands lines to the senders of those who lead their partitions; those that nobody leads are lost again.
func (p *publisher) find(lines []*line, t *trouble) {
	of := make(map[partition]*line, len(lines))
	ps := make([]partition, len(lines))
	for i, ln := range lines {
		ps[i], of[ln.p] = ln.p, ln
	}
	groups, leaderless, err := p.l.client.byLeader(p.ctx, ps)
	if err != nil {
		if t.note(); t.tell() {
			p.l.c.Logger.Warn("the leaders of partitions cannot be found; messages wait", "partitions", len(ps), "error", err)
		}
		leaderless = ps
	} else {
		*t = trouble{}
	}
	if len(leaderless) > 0 {
		p.l.client.refresh()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range leaderless {
		p.lose(of[id])
	}
	for leader, ps := range groups {
		var behind []*line
		for _, id := range ps {
			ln := of[id]
			if ln.fence {
				behind = append(behind, ln)
				continue
			}
			ln.broker, ln.busy = leader, false
			p.list(ln)
		}
		if len(behind) > 0 {
			p.work.Go(func() { p.pass(leader, behind) })
		}
	}
}

// pass lets lines go on whose last result is unknown, when their leader has answered a question about each of them.
func (p *publisher) pass(leader int32, lines []*line) {
	ps := make([]partition, len(lines))
	for i, ln := range lines {
		ps[i] = ln.p
	}
	_, err := p.l.client.offsets(p.ctx, ps, atEnd)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ln := range lines {
		if err != nil {
			p.lose(ln)
			continue
		}
		ln.fence, ln.tries, ln.busy = false, 0, false
		ln.broker = leader
		p.list(ln)
	}
}
