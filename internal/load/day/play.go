// Package day plays one day of a shop's payments at a running hub: signed Stripe events in the order in which such a day brings them, with
// a duplicate, a forgery, an event that its route cannot map, and a back office that fails and recovers. It shows what becomes of
// each, and closes the books from the hub's metrics and the back office's own records.
package day

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Names in the config that the day is played at, deploy/quickstart/tidewire.yaml.
const (
	RoutePaid    = "paid-invoices" // to the back office
	RouteBack    = "money-back"    // to the back office
	RouteJournal = "journal"       // everything, to the ledger file
)

// kindOf is the kind of booking that a route's map makes.
func kindOf(route string) string {
	if route == RoutePaid {
		return "payment"
	}
	return route
}

func routes() []string { return []string{RoutePaid, RouteBack, RouteJournal} }

// Config says where to play. The zero value of a field means its default.
type Config struct {
	// Hub and Admin are the hub's two doors, "host:port"; defaults "127.0.0.1:8080" and "127.0.0.1:8081".
	Hub, Admin string
	// Path is where Stripe's webhooks are received; default "/in/stripe".
	Path string
	// Secret is the connection's webhook secret.
	Secret string
	// Office is the back office that the hub delivers to. It stays open.
	Office *BackOffice
	// Ledger is the file that the journal route writes; empty: it is not looked at.
	Ledger string
	// Pace is the pause between two events; default 250 ms, so that the day takes about 25 seconds.
	Pace time.Duration
	// Away is how long the back office's absence lasts; default 3 s.
	Away time.Duration
	// Settle bounds the wait for what is still under way at the end; default 30 s.
	Settle time.Duration
	// Color uses ANSI colours. See Terminal.
	Color bool
}

func (c Config) withDefaults() Config {
	text := func(v *string, def string) {
		if *v == "" {
			*v = def
		}
	}
	span := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	text(&c.Hub, "127.0.0.1:8080")
	text(&c.Admin, "127.0.0.1:8081")
	text(&c.Path, "/in/stripe")
	span(&c.Pace, 250*time.Millisecond)
	span(&c.Away, 3*time.Second)
	span(&c.Settle, 30*time.Second)
	return c
}

// Terminal reports whether w is a terminal that wants colours (https://no-color.org).
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// How long to look for what has become of an event before its line is shown: watchFor when the back office has failed on it and it
// will come again, slowHub when nothing is known of it yet.
const (
	watchFor   = 400 * time.Millisecond
	slowHub    = 10 * time.Second
	watchEvery = 10 * time.Millisecond
	postTries  = 10
)

// player plays one day.
type player struct {
	Config
	paper
	run    string
	client *http.Client
	posted int // numbers the events
	base   scrape
	books  Summary
	last   sentEvent // what a duplicate repeats
	late   []lateEvent
}

// sentEvent is an event that was posted.
type sentEvent struct {
	step
	id   string
	body []byte
	at   time.Time
}

// lateEvent is an event that a back office route has not settled when its line is shown.
type lateEvent struct {
	sentEvent
	route string
}

// Play posts the day's events, writes a line on each to w, and returns the day's books. An error means that the day could not be played
// (no hub, the books cannot be read, ctx is done); books that do not add up are in Summary.Problems.
func Play(ctx context.Context, w io.Writer, c Config) (Summary, error) {
	c = c.withDefaults()
	if c.Office == nil || c.Secret == "" {
		return Summary{}, errors.New("play the day: a back office and the webhook secret are needed")
	}
	begin := time.Now()
	p := &player{
		Config: c, paper: paper{w: w, color: c.Color},
		// The time in base 36 makes a run's IDs differ from those of the days before in the same store.
		run:    "1Q" + strconv.FormatInt(begin.UnixMilli(), 36),
		client: &http.Client{Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 4}, Timeout: 10 * time.Second},
	}
	defer p.client.CloseIdleConnections()
	var err error
	if p.base, err = scrapeHub(ctx, p.client, c.Admin); err != nil {
		return Summary{}, fmt.Errorf("play the day: %w", err)
	}
	office := c.Office.Records()
	steps := write(p.run)
	p.title(len(steps))
	for _, s := range steps {
		if err := pause(ctx, c.Pace); err != nil {
			return p.books, err
		}
		if err := p.play(ctx, s); err != nil {
			return p.books, fmt.Errorf("play the day: %w", err)
		}
		p.catchUp()
	}
	if err := p.close(ctx, office); err != nil {
		return p.books, fmt.Errorf("close the day's books: %w", err)
	}
	p.books.Took = time.Since(begin)
	p.summary(p.books)
	return p.books, nil
}

// play posts one event and shows what became of it.
func (p *player) play(ctx context.Context, s step) error {
	if s.note != "" {
		p.note(s.clock, s.note)
	}
	switch s.trick {
	case stumble:
		p.Office.FailNext(2)
	case away:
		p.Office.GoAway(p.Away)
	default:
	}
	e := sentEvent{step: s}
	if s.trick == duplicate {
		e.id, e.body = p.last.id, p.last.body
	} else {
		p.posted++
		e.id = fmt.Sprintf("evt_%s%04d", p.run, p.posted)
		var err error
		if e.body, err = eventBody(e.id, s.typ, s.object, time.Now()); err != nil {
			return err
		}
	}
	before, err := scrapeHub(ctx, p.client, p.Admin)
	if err != nil {
		return err
	}
	e.at = time.Now()
	status, err := p.post(ctx, e)
	if err != nil {
		return err
	}
	p.books.Sent++
	accepted := status >= 200 && status <= 299
	switch {
	case accepted && s.trick == duplicate:
		p.books.Duplicates++
		return p.showDuplicate(ctx, e, before)
	case accepted:
		p.books.Accepted++
		if s.trick == forged {
			p.books.problem("%s was forged and accepted", e.id)
		}
		p.last = e
		return p.show(ctx, e, before)
	case status >= 400 && status <= 499:
		p.books.Refused++
		if s.trick != forged {
			p.books.problem("%s was refused with %d", e.id, status)
		}
		p.line(s, outcome{bad, fmt.Sprintf("refused with %d: not signed by the provider; nothing stored", status)})
	default:
		p.books.problem("%s was answered %d", e.id, status)
		p.line(s, outcome{bad, fmt.Sprintf("answered %d", status)})
	}
	return nil
}

// post sends an event until there is an answer other than 429 and 5xx, as a provider would, but within seconds.
func (p *player) post(ctx context.Context, e sentEvent) (status int, err error) {
	secret := p.Secret
	if e.trick == forged {
		secret = "whsec_a_guess"
	}
	for range postTries {
		if status, err = p.try(ctx, e.body, secret); err == nil && status != http.StatusTooManyRequests && status < 500 {
			return status, nil
		}
		if pauseErr := pause(ctx, 200*time.Millisecond); pauseErr != nil {
			return 0, pauseErr
		}
	}
	return status, err
}

func (p *player) try(ctx context.Context, body []byte, secret string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.Hub+p.Path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	r.Header.Set("Stripe-Signature", "t="+stamp+",v1="+hex.EncodeToString(mac.Sum(nil)))
	answer, err := p.client.Do(r)
	if err != nil {
		return 0, fmt.Errorf("post to the hub: %w", err)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	return answer.StatusCode, err
}

// fate is what has become of an event on one route.
type fate int

const (
	underWay fate = iota
	filtered
	delivered
	dead
)

// fates compares two readings. Events are posted one after the other, so what is newly filtered or dead is this event; what the back
// office has booked it knows by the event's ID, because older deliveries may recover at the same time.
func (p *player) fates(e sentEvent, before, after scrape) map[string]fate {
	f := make(map[string]fate, 3)
	for _, r := range routes() {
		rose := func(outcome string) bool { return after.outcome(r, outcome) > before.outcome(r, outcome) }
		switch {
		case rose("filtered"):
			f[r] = filtered
		case rose("dead"):
			f[r] = dead
		case r == RouteJournal && rose("delivered"), r != RouteJournal && !p.Office.of(e.id, kindOf(r)).booked.IsZero():
			f[r] = delivered
		}
	}
	return f
}

// open counts the routes on which an event has no end yet, and those of them on which the back office has seen it.
func (p *player) open(e sentEvent, f map[string]fate) (open, tried int) {
	for _, r := range routes() {
		if f[r] != underWay {
			continue
		}
		open++
		if r != RouteJournal && p.Office.of(e.id, kindOf(r)).tries > 0 {
			tried++
		}
	}
	return open, tried
}

// show waits a moment for the event's fate on each route, and writes its line.
func (p *player) show(ctx context.Context, e sentEvent, before scrape) error {
	var f map[string]fate
	for begin := time.Now(); ; {
		after, err := scrapeHub(ctx, p.client, p.Admin)
		if err != nil {
			return err
		}
		f = p.fates(e, before, after)
		if open, tried := p.open(e, f); open == 0 || tried == open && time.Since(begin) > watchFor || time.Since(begin) > min(slowHub, p.Settle) {
			break
		}
		if err := pause(ctx, watchEvery); err != nil {
			return err
		}
	}
	var told []outcome
	for _, r := range []string{RoutePaid, RouteBack} {
		switch f[r] {
		case delivered:
			k := p.Office.of(e.id, kindOf(r))
			told = append(told, outcome{good, fmt.Sprintf("%s → back office booked it (200, try %d, %s)", r, k.tries, short(k.booked.Sub(e.at)))})
		case dead:
			told = append(told, outcome{bad, r + " → dead letter: " + deadReason(e.step)})
		case underWay:
			told = append(told, p.waiting(e, r))
		case filtered:
		}
	}
	if f[RouteJournal] == delivered {
		told = append(told, outcome{quiet, RouteJournal + " → ledger"})
	} else {
		told = append(told, outcome{waits, RouteJournal + " → under way"})
	}
	if f[RoutePaid] == filtered && f[RouteBack] == filtered {
		told = append(told, outcome{quiet, "filtered on the others"})
	}
	p.line(e.step, told...)
	return nil
}

func (p *player) waiting(e sentEvent, route string) outcome {
	p.late = append(p.late, lateEvent{e, route})
	switch k := p.Office.of(e.id, kindOf(route)); {
	case k.last == http.StatusServiceUnavailable:
		return outcome{waits, route + " → back office is away (503, Retry-After 1): parked"}
	case k.last != 0:
		return outcome{waits, fmt.Sprintf("%s → back office failed (%d, try %d): tried again", route, k.last, k.tries)}
	}
	return outcome{waits, route + " → waits for its turn"}
}

func deadReason(s step) string {
	if s.trick == unmappable {
		return "its map asks for customer_email, this invoice has none"
	}
	return "see the hub's log"
}

// showDuplicate watches that nothing is delivered again.
func (p *player) showDuplicate(ctx context.Context, e sentEvent, before scrape) error {
	if err := pause(ctx, watchFor/2); err != nil {
		return err
	}
	after, err := scrapeHub(ctx, p.client, p.Admin)
	if err != nil {
		return err
	}
	if after.outcome(RouteJournal, "delivered") > before.outcome(RouteJournal, "delivered") {
		p.books.problem("%s was delivered again", e.id)
		p.line(e.step, outcome{bad, "delivered again"})
		return nil
	}
	p.line(e.step, outcome{good, "duplicate: answered 200, known by its id, nothing delivered again"})
	return nil
}

// catchUp tells of late deliveries that have come through since.
func (p *player) catchUp() {
	rest := p.late[:0]
	for _, e := range p.late {
		if k := p.Office.of(e.id, kindOf(e.route)); k.booked.IsZero() {
			rest = append(rest, e)
		} else {
			p.line(e.step, outcome{good, fmt.Sprintf("%s → recovered: back office booked it (200, try %d, after %s)", e.route, k.tries, short(k.booked.Sub(e.at)))})
		}
	}
	p.late = rest
}

// short rounds a duration for a person.
func short(d time.Duration) string {
	if d < time.Millisecond {
		return "< 1 ms"
	}
	if d < time.Second {
		return strings.Replace(d.Round(time.Millisecond).String(), "ms", " ms", 1)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
