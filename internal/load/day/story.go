package day

import (
	"fmt"
	"strings"
)

// trick is what is special about a step.
type trick int

const (
	plain      trick = iota
	duplicate        // the step before once more, freshly signed, as a provider does that missed the answer
	forged           // signed with a secret that is not the hub's
	unmappable       // lacks a field that the route's map needs
	stumble          // the back office fails twice first
	away             // the back office is away for some seconds from here on
)

// step is one event of the day.
type step struct {
	clock  string // the story's time, "09:12"
	typ    string
	who    *customer
	amount int64 // in minor units; 0 where there is none
	object map[string]any
	trick  trick
	note   string // what a watcher should know, told before it
}

// customer is somebody who pays, and what the day has to remember of them.
type customer struct {
	id, name, email, country, currency string
	amount                             int64 // what they pay a month
	plan                               string
}

// cast are the day's customers. Their currencies have two decimals, none and three.
func cast(run string) []*customer {
	all := []*customer{
		{name: "Nordlicht Verlag", email: "buchhaltung@nordlicht.example", country: "DE", currency: "eur", amount: 4900, plan: "Team"},
		{name: "Maple & Sons", email: "ap@maple.example", country: "CA", currency: "cad", amount: 12900, plan: "Business"},
		{name: "Kōbe Ceramics", email: "keiri@kobe.example", country: "JP", currency: "jpy", amount: 7800, plan: "Team"},
		{name: "Atlas Freight", email: "finance@atlas.example", country: "US", currency: "usd", amount: 24900, plan: "Business"},
		{name: "Gulf Instruments", email: "accounts@gulf.example", country: "KW", currency: "kwd", amount: 15250, plan: "Team"},
		{name: "Bergamo Tessile", email: "conti@bergamo.example", country: "IT", currency: "eur", amount: 9900, plan: "Team"},
		{name: "Rio Café Ltda", email: "pagamentos@rio.example", country: "BR", currency: "usd", amount: 1900, plan: "Starter"},
		{name: "Porto Azulejos", email: "contas@porto.example", country: "PT", currency: "eur", amount: 4900, plan: "Team"},
		{name: "Wellington Wool", email: "accounts@wool.example", country: "NZ", currency: "nzd", amount: 6400, plan: "Team"},
		{name: "Oslo Kajakk", email: "faktura@oslo.example", country: "NO", currency: "nok", amount: 59000, plan: "Team"},
	}
	for i, c := range all {
		c.id = fmt.Sprintf("cus_%s%02d", run, i+1)
	}
	return all
}

// script collects the steps; each new one is a minute or so after the last.
type script struct {
	run    string
	minute int
	steps  []step
	ids    int
}

func (s *script) id(prefix string) string {
	s.ids++
	return fmt.Sprintf("%s_%s%04d", prefix, s.run, s.ids)
}

func (s *script) at(clock string) {
	var h, m int
	_, _ = fmt.Sscanf(clock, "%d:%d", &h, &m) // our own constants
	s.minute = h*60 + m
}

func (s *script) add(typ string, who *customer, amount int64, object map[string]any) *step {
	s.minute++
	s.steps = append(s.steps, step{
		clock: fmt.Sprintf("%02d:%02d", s.minute/60, s.minute%60), typ: typ, who: who, amount: amount, object: object,
	})
	return &s.steps[len(s.steps)-1]
}

// write tells the day of a shop that sells subscriptions. run makes its IDs differ from those of the days before.
func write(run string) []step {
	s := &script{run: run}
	c := cast(run)
	s.at("08:02")
	for _, who := range c[:3] {
		s.signUp(who)
	}
	s.at("09:00")
	first := s.invoice(c[0], nil)
	s.add("invoice.paid", c[0], c[0].amount, first).trick = duplicate
	s.noteLast("the provider did not see an answer and sends the last event again")
	s.invoice(c[1], nil)
	s.at("09:48")
	forgery := s.add("invoice.paid", c[3], 9_990_000, invoiceObject(s.id("in"), c[3], 9_990_000, "paid"))
	forgery.trick, forgery.note = forged, "somebody without the signing secret claims that a large invoice was paid"
	s.at("10:02")
	s.signUp(c[7])
	s.invoice(c[7], nil)
	s.at("10:25")
	s.invoice(c[2], func(p *step) {
		p.trick, p.note = stumble, "the back office fails twice on the next booking"
	})
	s.decline(c[6])
	s.at("11:40")
	s.invoice(c[3], nil)
	s.at("12:30")
	s.invoice(c[4], func(p *step) {
		p.trick, p.note = away, "the back office restarts: it is away for a few seconds"
	})
	s.invoice(c[5], nil)
	s.at("13:55")
	s.invoice(c[9], func(p *step) {
		p.trick, p.note = unmappable, "an invoice without an e-mail address, which the route's map needs"
		delete(p.object, "customer_email")
	})
	s.refund(c[0])
	s.at("15:20")
	s.dispute(c[3])
	s.at("17:10")
	s.invoice(c[8], nil)
	s.add("customer.updated", c[1], 0, customerObject(c[1]))
	s.invoice(c[6], nil)
	return s.steps
}

func (s *script) noteLast(note string) { s.steps[len(s.steps)-1].note = note }

func (s *script) signUp(who *customer) {
	s.add("customer.created", who, 0, customerObject(who))
	s.add("payment_method.attached", who, 0, map[string]any{
		"id": s.id("pm"), "object": "payment_method", "customer": who.id, "type": "card",
		"card": map[string]any{"brand": "visa", "exp_month": 11, "exp_year": 2030, "last4": "4242", "country": who.country},
	})
	s.add("customer.subscription.created", who, who.amount, map[string]any{
		"id": s.id("sub"), "object": "subscription", "customer": who.id, "status": "active", "currency": who.currency,
		"items": map[string]any{"object": "list", "data": []any{map[string]any{"price": price(who), "quantity": 1}}},
	})
}

// invoice goes from a draft to the money; paid may change the last step.
func (s *script) invoice(who *customer, paid func(*step)) map[string]any {
	id := s.id("in")
	s.add("invoice.created", who, who.amount, invoiceObject(id, who, who.amount, "draft"))
	s.add("invoice.finalized", who, who.amount, invoiceObject(id, who, who.amount, "open"))
	s.pay(who)
	o := invoiceObject(id, who, who.amount, "paid")
	p := s.add("invoice.paid", who, who.amount, o)
	if paid != nil {
		paid(p)
	}
	return o
}

func (s *script) pay(who *customer) {
	intent := s.id("pi")
	s.add("payment_intent.created", who, who.amount, intentObject(intent, who, "requires_payment_method"))
	s.add("payment_intent.succeeded", who, who.amount, intentObject(intent, who, "succeeded"))
	s.add("charge.succeeded", who, who.amount, chargeObject(s.id("ch"), intent, who, 0))
}

// decline is an invoice whose card is refused first.
func (s *script) decline(who *customer) {
	s.add("customer.created", who, 0, customerObject(who))
	o := invoiceObject(s.id("in"), who, who.amount, "open")
	o["attempt_count"] = 1
	s.add("payment_intent.payment_failed", who, who.amount, intentObject(s.id("pi"), who, "requires_payment_method"))
	s.add("invoice.payment_failed", who, who.amount, o)
}

func (s *script) refund(who *customer) {
	s.at("14:30")
	charge := chargeObject(s.id("ch"), s.id("pi"), who, who.amount)
	s.add("charge.refunded", who, who.amount, charge)
	s.add("refund.created", who, who.amount, map[string]any{
		"id": s.id("re"), "object": "refund", "amount": who.amount, "charge": charge["id"], "customer": who.id,
		"currency": who.currency, "reason": "requested_by_customer", "status": "succeeded",
	})
}

func (s *script) dispute(who *customer) {
	id := s.id("dp")
	of := func(status string) map[string]any {
		return map[string]any{
			"id": id, "object": "dispute", "amount": who.amount, "charge": "ch_" + s.run + "0000", "customer": who.id,
			"currency": who.currency, "reason": "product_not_received", "status": status,
		}
	}
	s.add("charge.dispute.created", who, who.amount, of("needs_response"))
	s.at("16:45")
	s.add("charge.dispute.closed", who, who.amount, of("won"))
}

// money writes minor units for a person, such as "49.00 EUR".
func money(amount int64, currency string) string {
	decimals := 2
	switch currency {
	case "jpy", "krw", "vnd":
		decimals = 0
	case "kwd", "bhd", "jod", "omr", "tnd":
		decimals = 3
	}
	text := fmt.Sprintf("%0*d", decimals+1, amount)
	if decimals > 0 {
		text = text[:len(text)-decimals] + "." + text[len(text)-decimals:]
	}
	return text + " " + strings.ToUpper(currency)
}
