package expression_test

import (
	"testing"

	"github.com/tidewire/tidewire/internal/expression"
)

// invoice is a Stripe event of 1 KiB, in Stripe's own layout.
const invoice = `{
  "id": "evt_1PgZ2mLkdIwHu7ixnDbE9Vx3",
  "object": "event",
  "api_version": "2024-06-20",
  "created": 1721900000,
  "livemode": false,
  "pending_webhooks": 1,
  "request": {"id": "req_4bSPJ8r0N6bAsa", "idempotency_key": null},
  "type": "invoice.paid",
  "data": {
    "object": {
      "id": "in_1PgZ2kLkdIwHu7ixlJyqQm5S",
      "object": "invoice",
      "amount_due": 5997,
      "amount_paid": 5997,
      "amount_remaining": 0,
      "currency": "usd",
      "customer": "cus_QXjPzW1l2YsO7F",
      "customer_email": "jenny.rosen@example.com",
      "lines": {
        "object": "list",
        "data": [
          {"id": "il_1PgZ2k", "quantity": 1, "amount": 1999, "price": {"id": "price_basic", "unit_amount": 1999}},
          {"id": "il_2PgZ2k", "quantity": 2, "amount": 3998, "price": {"id": "price_extra", "unit_amount": 1999}}
        ],
        "has_more": false
      },
      "metadata": {"order": "A-1047"},
      "status": "paid"
    }
  }
}`

func mustEnv(t testing.TB) *expression.Env {
	t.Helper()
	env, err := expression.ForEvents()
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func mustCompile(t testing.TB, env *expression.Env, text string, want expression.Kind) *expression.Program {
	t.Helper()
	p, err := env.Compile(text, want)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func mustParse(t testing.TB, text string) expression.Body {
	t.Helper()
	body, err := expression.ParseBody([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func BenchmarkParseBody(b *testing.B) {
	text := []byte(invoice)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := expression.ParseBody(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWhen(b *testing.B) {
	p := mustCompile(b, mustEnv(b), `type == "invoice.paid" && body.data.object.amount_paid > 0`, expression.Bool)
	in := &expression.Input{Body: mustParse(b, invoice), Type: "invoice.paid"}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := p.Bool(b.Context(), in); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkWhenOtherType(b *testing.B) {
	p := mustCompile(b, mustEnv(b), `type == "invoice.paid" && body.data.object.amount_paid > 0`, expression.Bool)
	in := &expression.Input{Body: mustParse(b, invoice), Type: "customer.created"}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := p.Bool(b.Context(), in); err != nil || ok {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	for _, bb := range []struct{ name, text string }{
		{"field", `body.data.object.customer_email`},
		{"money", `money(body.data.object.amount_paid, body.data.object.currency)`},
		{"lines", `body.data.object.lines.data.map(l, {"sku": l.price.id, "qty": l.quantity})`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p := mustCompile(b, mustEnv(b), bb.text, expression.Any)
			in := &expression.Input{Body: mustParse(b, invoice), Type: "invoice.paid"}
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if buf, _, err = p.AppendJSON(b.Context(), buf[:0], in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	env := mustEnv(b)
	for b.Loop() {
		mustCompile(b, env, `type == "invoice.paid" && body.data.object.amount_paid > 0`, expression.Bool)
	}
}

func BenchmarkEnv(b *testing.B) {
	for b.Loop() {
		mustEnv(b)
	}
}
