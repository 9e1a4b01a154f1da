package load

import (
	"bytes"
	"fmt"
	"strings"
)

// StripeTypes returns 100 event types of Stripe's. The first is "invoice.paid".
func StripeTypes() []string {
	var types []string
	for _, family := range strings.Fields(`
		invoice:paid,created,finalized,updated,payment_failed,payment_succeeded,payment_action_required,sent,upcoming,voided,marked_uncollectible,finalization_failed,deleted
		customer:updated,created,deleted
		customer.subscription:created,updated,deleted,paused,resumed,pending_update_applied,pending_update_expired,trial_will_end
		customer.source:created,updated,deleted,expiring
		customer.discount:created,updated,deleted
		customer.tax_id:created,updated,deleted
		charge:succeeded,failed,captured,pending,refunded,expired,updated
		charge.dispute:created,updated,closed,funds_withdrawn,funds_reinstated
		charge.refund:updated
		payment_intent:succeeded,created,processing,canceled,payment_failed,requires_action,amount_capturable_updated,partially_funded
		payment_method:attached,detached,updated,automatically_updated
		setup_intent:created,succeeded,canceled,setup_failed,requires_action
		checkout.session:completed,expired,async_payment_succeeded,async_payment_failed
		invoiceitem:created,deleted
		quote:created,finalized,accepted,canceled
		subscription_schedule:created,updated,released,completed,canceled,aborted,expiring
		credit_note:created,updated,voided
		mandate:updated
		order:created
		promotion_code:created,updated
		source:chargeable,failed,canceled,mandate_notification
		tax_rate:created,updated
		cash_balance:funds_available
		review:opened,closed
		radar.early_fraud_warning:created,updated
		refund:created,updated`) {
		name, verbs, _ := strings.Cut(family, ":")
		for _, verb := range strings.Split(verbs, ",") {
			types = append(types, name+"."+verb)
		}
	}
	return types[:100]
}

// template is one type's body with the places where an event differs from the next.
type template struct {
	typ      string
	body     []byte
	id       int   // offset of the event ID
	keys     []int // offsets of the customer's number
	created  []int // offsets of the ten-digit time
	sequence int   // offset of the sequence number in the object's own ID
}

// newTemplate renders a body of about size bytes for events of one source. The shape is Stripe's: printed over
// several lines, the changed object inside, its customer as the ordering key.
func newTemplate(source, typ string, size int) template {
	id := ID{Source: source}.String()
	customer := fmt.Sprintf("cus_%s%0*d", source, keyDigits, 0)
	object := typ[:strings.LastIndexByte(typ, '.')]
	if i := strings.LastIndexByte(object, '.'); i >= 0 {
		object = object[i+1:]
	}
	own := fmt.Sprintf(`"id": "%.2s_%s%0*d%0*d",`, object, source, keyDigits, 0, seqDigits, 0)
	who := fmt.Sprintf("\n      \"customer\": \"%s\",", customer)
	if object == "customer" {
		own, who = fmt.Sprintf(`"id": "%s",`, customer), ""
	}
	text := fmt.Sprintf(`{
  "id": "%s",
  "object": "event",
  "api_version": "2024-06-20",
  "created": 0000000000,
  "data": {
    "object": {
      %s
      "object": "%s",
      "account_country": "DE",
      "amount_due": 4900,
      "amount_paid": 4900,
      "amount_remaining": 0,
      "attempt_count": 1,
      "created": 0000000000,
      "currency": "eur",%s
      "customer_email": "ap@%s.example",
      "description": "Team plan, monthly %s",
      "livemode": false,
      "metadata": {
        "account": "%s"
      },
      "status": "paid",
      "total": 4900
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": null,
    "idempotency_key": null
  },
  "type": "%s"
}`, id, own, object, who, customer, "\x00", customer, typ)
	// Fill up to the size asked for with plain words, as descriptions on real invoices do.
	words := "(seats, support and usage of the month before, see the contract for details) "
	pad := max(size-len(text)+1, 0)
	text = strings.Replace(text, "\x00", strings.Repeat(words, pad/len(words)+1)[:pad], 1)

	t := template{typ: typ, body: []byte(text), id: strings.Index(text, id), sequence: -1}
	t.keys = append(t.keys, t.id+len(idPrefix)+len(source)+1)
	for _, at := range indexAll(text, customer) {
		t.keys = append(t.keys, at+len("cus_")+len(source))
	}
	t.created = indexAll(text, "0000000000,")
	if who != "" {
		at := strings.Index(text, own) + len(own) - len(`",`) - seqDigits
		t.sequence = at
		t.keys = append(t.keys, at-keyDigits)
	}
	// The zeros of the object's own ID may look like a time; a time stands alone after its colon.
	t.created = keep(t.created, func(at int) bool { return text[at-1] == ' ' })
	return t
}

func indexAll(s, sub string) []int {
	var at []int
	for from := 0; ; {
		i := strings.Index(s[from:], sub)
		if i < 0 {
			return at
		}
		at = append(at, from+i)
		from += i + len(sub)
	}
}

func keep(all []int, ok func(int) bool) []int {
	var out []int
	for _, v := range all {
		if ok(v) {
			out = append(out, v)
		}
	}
	return out
}

// render patches body, a copy of the template's, to be one event.
func (t *template) render(body []byte, source string, key, seq uint32, created int64) {
	for _, at := range t.keys {
		digits(body[at:at+keyDigits], uint64(key))
	}
	for _, at := range t.created {
		digits(body[at:at+10], uint64(created))
	}
	digits(body[t.id+len(idPrefix)+len(source)+1+keyDigits+1:][:seqDigits], uint64(seq))
	if t.sequence >= 0 {
		digits(body[t.sequence:t.sequence+seqDigits], uint64(seq))
	}
}

// digits writes v in decimal into the whole of b, zero-padded.
func digits(b []byte, v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
}

// StripeBody returns the body of one generated event, for those who fill a store without posting. created is
// in seconds since 1970, size in bytes (0: 1024).
func StripeBody(id ID, typ string, created int64, size int) []byte {
	if size == 0 {
		size = defaultBody
	}
	t := newTemplate(id.Source, typ, size)
	t.render(t.body, id.Source, id.Key, id.Seq, created)
	return t.body
}

// findID reads the identity of a generated event out of a body; ok is false when there is none. It looks for the
// first quoted string that starts with "evt_", so it also finds the ID in a mapped body that carries it.
func findID(body []byte) (source []byte, key, seq uint32, ok bool) {
	i := bytes.Index(body, []byte(`"evt_`))
	if i < 0 {
		return nil, 0, 0, false
	}
	rest := body[i+5:]
	j := bytes.IndexByte(rest[:min(len(rest), 17)], '_')
	if j <= 0 || len(rest) < j+1+keyDigits+1+seqDigits+1 {
		return nil, 0, 0, false
	}
	k, ok1 := number(rest[j+1 : j+1+keyDigits])
	s, ok2 := number(rest[j+2+keyDigits : j+2+keyDigits+seqDigits])
	end := rest[j+2+keyDigits+seqDigits]
	return rest[:j], k, s, ok1 && ok2 && rest[j+1+keyDigits] == '_' && end == '"'
}

func number(b []byte) (uint32, bool) {
	var v uint32
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint32(c-'0')
	}
	return v, true
}
