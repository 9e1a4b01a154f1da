package day

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// The objects are shaped like Stripe's at API version 2024-06-20, without the fields that nothing here looks at.

func customerObject(who *customer) map[string]any {
	return map[string]any{
		"id": who.id, "object": "customer", "name": who.name, "email": who.email, "currency": who.currency, "balance": 0,
		"address":    map[string]any{"country": who.country},
		"delinquent": false, "livemode": false, "metadata": map[string]any{"plan": who.plan},
	}
}

func price(who *customer) map[string]any {
	return map[string]any{
		"id": "price_" + who.plan + "_" + who.currency, "object": "price", "currency": who.currency, "unit_amount": who.amount,
		"recurring": map[string]any{"interval": "month", "interval_count": 1},
	}
}

func invoiceObject(id string, who *customer, amount int64, status string) map[string]any {
	paid := int64(0)
	if status == "paid" {
		paid = amount
	}
	return map[string]any{
		"id": id, "object": "invoice", "account_country": "DE", "account_name": "Example Subscriptions GmbH",
		"amount_due": amount, "amount_paid": paid, "amount_remaining": amount - paid, "attempt_count": 0,
		"billing_reason": "subscription_cycle", "collection_method": "charge_automatically", "currency": who.currency,
		"customer": who.id, "customer_email": who.email, "customer_name": who.name, "livemode": false,
		"lines": map[string]any{"object": "list", "data": []any{map[string]any{
			"id": "il_" + id[len("in_"):], "object": "line_item", "amount": amount, "currency": who.currency,
			"description": fmt.Sprintf("1 × %s plan, monthly", who.plan), "price": price(who), "quantity": 1,
		}}},
		"number": "EX-" + id[len(id)-4:], "paid": status == "paid", "status": status, "subtotal": amount, "total": amount,
	}
}

func intentObject(id string, who *customer, status string) map[string]any {
	return map[string]any{
		"id": id, "object": "payment_intent", "amount": who.amount, "currency": who.currency, "customer": who.id,
		"capture_method": "automatic", "confirmation_method": "automatic", "livemode": false, "status": status,
	}
}

func chargeObject(id, intent string, who *customer, refunded int64) map[string]any {
	return map[string]any{
		"id": id, "object": "charge", "amount": who.amount, "amount_captured": who.amount, "amount_refunded": refunded,
		"currency": who.currency, "customer": who.id, "paid": true, "payment_intent": intent, "refunded": refunded > 0,
		"billing_details": map[string]any{"email": who.email, "name": who.name}, "status": "succeeded",
	}
}

// eventBody wraps an object into an event, printed as Stripe prints it.
func eventBody(id, typ string, object map[string]any, at time.Time) ([]byte, error) {
	object["created"] = at.Unix()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err := e.Encode(map[string]any{
		"id": id, "object": "event", "api_version": "2024-06-20", "created": at.Unix(), "type": typ,
		"data": map[string]any{"object": object}, "livemode": false, "pending_webhooks": 1,
		"request": map[string]any{"id": nil, "idempotency_key": nil},
	})
	return bytes.TrimSpace(b.Bytes()), err
}
