package signature_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/tidewire/tidewire/connectors/signature"
)

// evaluator reads the default expressions the way a webhook is read: body and header.
func evaluator(t *testing.T, header http.Header) *cel.Env {
	t.Helper()
	env, err := cel.NewEnv(ext.Strings(), cel.Variable("body", cel.DynType), cel.Variable("method", cel.StringType),
		cel.Function("header", cel.Overload("header_string", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(header.Get(string(v.(types.String)))) }))))
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// Every default expression compiles, and has the type that is asked of it as far as that is known before a body is.
func TestDefaultsCompile(t *testing.T) {
	t.Parallel()
	env := evaluator(t, nil)
	for _, s := range signature.Schemes() {
		d := s.Defaults
		for what, source := range map[string]string{"id": d.ID, "type": d.Type, "key": d.Key, "time": d.Time, "subject": d.Subject} {
			if source == "" {
				continue
			}
			ast, issues := env.Compile(source)
			if issues.Err() != nil {
				t.Errorf("%s: %s: %v", s.Name, what, issues.Err())
				continue
			}
			want := cel.StringType
			if what == "time" {
				want = cel.TimestampType
			}
			if out := ast.OutputType(); !out.IsExactType(want) && !out.IsExactType(cel.DynType) {
				t.Errorf("%s: %s is %s, want %s", s.Name, what, out, want)
			}
		}
	}
}

func TestDefaultsOnCalls(t *testing.T) {
	t.Parallel()
	type result struct{ id, kind, key, time string }
	want := map[string]result{
		"stripe":            {`evt_1RelayTest0001`, `payment_intent.succeeded`, `pi_1RelayTest`, `2025-12-31T23:59:58Z`},
		"github":            {"72d3162e-cc78-11e3-81ab-4c9367dc0958", "pull_request.opened", "acme/erp", ""},
		"gitlab-signing":    {"f5e5f430-f57b-4e6e-9fac-d9128cd7232f", "Push Hook", "15", "2025-12-31T23:59:58Z"},
		"shopify":           {"98880550-7158-44d4-b7cd-2c97c8a091b5", "orders/create", "820982911946154508", "2026-01-01T00:00:00.123456789Z"},
		"gocardless":        {`EV0RELAY1`, `payments.confirmed`, `PM1`, `2026-01-01T00:00:00Z`},
		"hubspot-v3":        {`3816279480.22.1767225598123`, `contact.propertyChange`, `1246965`, `2025-12-31T23:59:58Z`},
		"adyen-standard":    {`REFUND.9915555555555555.true`, `REFUND`, `Order:77\A`, `2025-12-31T23:59:58Z`},
		"alipay-rsa2":       {"2026010100222080000000000000000001", "trade_status_sync", "A-1001", "2026-01-01T00:00:02Z"},
		"frappe":            {"SAL-ORD-2026-00001.", "frappe.document", "SAL-ORD-2026-00001", ""},
		"espocrm":           {"c1.2026-01-01 00:00:00", "espocrm.record", "c1", ""},
		"jwt-evolution":     {"messages.upsert.relay1.3EB0RELAY1", "messages.upsert", "4915112345678@s.whatsapp.net", "2025-12-31T23:59:58Z"},
		"checkout":          {`evt_caxmnvuvbe4elkbdx2imwbnjxu`, `payment_captured`, `pay_1`, `2026-01-01T00:00:00.8821546Z`},
		"mollie-nextgen":    {`event_GvJ8WHrp5isUdRub9CJyH`, `payment-link.paid`, `pl_qng5gbbv8NAZ5gpM5ZYgx`, `2026-01-01T00:00:00Z`},
		"sendgrid":          {"RELAYSG1", "delivered", "a@b.test", "2025-12-31T23:59:58Z"},
		"square":            {`6a8f5f28-54a1-4eb0-a98a-3111513fd4fc`, `payment.updated`, `P1`, `2026-01-01T00:00:00Z`},
		"mandrill":          {`exampleaaaaaaaaaaaaaaaaaaaaaaaaa.send.1767225598`, `send`, `exampleaaaaaaaaaaaaaaaaaaaaaaaaa`, `2025-12-31T23:59:58Z`},
		"quickbooks":        {`88cd52aa-33b6-4351-9aa4-47572edbd068`, `qbo.invoice.created.v1`, `95`, `2026-01-01T00:00:00Z`},
		"woocommerce":       {`a1b2c3`, `order.updated`, `727`, `2026-01-01T00:00:00Z`},
		"zendesk":           {`123`, `ticket.updated`, ``, `2021-03-25T05:09:27Z`},
		"twilio-form":       {`SM0123456789abcdef0123456789abcdef.received`, `message.received`, `SM0123456789abcdef0123456789abcdef`, ``},
		"intercom":          {`notif_1`, `conversation.user.created`, `1`, `2025-12-31T23:59:58Z`},
		"twilio-json":       {`EZ1`, `com.twilio.messaging`, ``, ``},
		"standard-webhooks": {"msg_2Relay0001", "contact.updated", "", ""},
	}
	seen := map[string]bool{}
	for _, x := range vectors(t, "testdata/signed.json") {
		w, known := want[x.Verifier]
		if !known || x.Expect != "valid" || seen[x.Verifier] {
			continue
		}
		if x.Headers["X-GitHub-Event"] == "" && x.Verifier == "github" {
			x = vector{ID: x.ID, Verifier: "github", Headers: map[string]string{"X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "X-GitHub-Event": "pull_request"},
				Body: `{"action":"opened","repository":{"full_name":"acme/erp"}}`}
		}
		seen[x.Verifier] = true
		scheme, _ := signature.Lookup(x.Verifier)
		header := http.Header{}
		for n, v := range x.Headers {
			header.Set(n, v)
		}
		env := evaluator(t, header)
		body := item(t, scheme, x.Body)
		for _, c := range []struct{ what, source, want string }{
			{"id", scheme.Defaults.ID, w.id}, {"type", scheme.Defaults.Type, w.kind}, {"key", scheme.Defaults.Key, w.key}, {"time", scheme.Defaults.Time, w.time},
		} {
			if c.want == "" {
				continue
			}
			got := eval(t, env, c.source, body)
			if !strings.HasPrefix(got, c.want) || got == "" {
				t.Errorf("%s: %s is %q, want %q", x.ID, c.what, got, c.want)
			}
		}
	}
	for name := range want {
		if !seen[name] {
			t.Errorf("no call of %s", name)
		}
	}
}

// item is the first event of a body, parsed as the scheme says.
func item(t *testing.T, s signature.Scheme, body string) any {
	t.Helper()
	if s.Body == signature.Form {
		form, err := url.ParseQuery(body)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]any{}
		for n, v := range form {
			out[n] = v[0]
		}
		return out
	}
	if s.Body == signature.FormJSON {
		form, err := url.ParseQuery(body)
		if err != nil {
			t.Fatal(err)
		}
		body = form.Get(s.BodyField)
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(body)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil // an example that is not JSON: its expressions are not asked
	}
	v = whole(v)
	if list, ok := v.([]any); ok && s.Many {
		return list[0]
	}
	if s.Many && s.Items != "" {
		if m, ok := v.(map[string]any); ok {
			if list, ok := m[s.Items].([]any); ok && len(list) > 0 {
				return list[0]
			}
		}
	}
	return v
}

// whole keeps whole numbers whole.
func whole(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = whole(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = whole(v[k])
		}
	}
	return v
}

func eval(t *testing.T, env *cel.Env, source string, body any) string {
	t.Helper()
	ast, issues := env.Compile(source)
	if issues.Err() != nil {
		t.Fatal(issues.Err())
	}
	program, err := env.Program(ast)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := program.Eval(map[string]any{"body": body, "method": "POST"})
	if err != nil {
		return "error: " + err.Error()
	}
	switch v := out.Value().(type) {
	case string:
		return v
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	}
	return ""
}
