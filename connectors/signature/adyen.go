package signature

import (
	"encoding/json"
	"strings"
)

// maxItems bounds how many items of one notification are checked; Adyen sends one, and never more than a few.
const maxItems = 1000

// adyenText is Adyen's text: eight fields of an item, read from the body already, joined by colons.
func adyenText() template { return template{{kind: bodyPart}} }

// judgeAdyen checks every item of a standard notification. The signature is inside the item and covers eight of its fields: what else
// the item says is not protected.
func judgeAdyen(v *Verifier, c *Request, t *trace) error {
	items, err := adyenItems(c.Body)
	if err != nil {
		return t.refused("items", err)
	}
	t.passed("items", "%d in the body, each with a signature of its own", len(items))
	place := place{field: "hmacSignature", encoding: encodingBase64}
	matched := -1
	for i, item := range items {
		signed, signature, err := adyenItem(item)
		if err != nil {
			return t.refused("item", err)
		}
		e := env{c: &Request{Body: []byte(signed), At: c.At, Header: c.Header}, set: &v.set, urls: noURL}
		own := Verifier{scheme: v.scheme, set: v.set, keys: v.keys, signed: adyenText(), place: place}
		t.text(&own, &e)
		index, err := own.compare(&e, []string{signature})
		if err != nil {
			r := AsRefusal(err)
			return t.refused("item", refuse(r.Code, "item %d of %d: %s", i+1, len(items), r.Text))
		}
		matched = max(matched, index)
	}
	t.matched(v, matched)
	return nil
}

// adyenItems returns the items of a notification, at least one.
func adyenItems(body []byte) ([]map[string]json.RawMessage, error) {
	top, err := object(body)
	if err != nil {
		return nil, refuse(Malformed, "the body cannot be read: %v", err)
	}
	var list []json.RawMessage
	if json.Unmarshal(top["notificationItems"], &list) != nil || len(list) == 0 {
		return nil, refuse(Missing, "the body has no notificationItems")
	}
	if len(list) > maxItems {
		return nil, refuse(Malformed, "the body has more than %d items", maxItems)
	}
	var items []map[string]json.RawMessage
	for _, raw := range list {
		wrapper, err := object(raw)
		if err != nil {
			return nil, refuse(Malformed, "an item cannot be read: %v", err)
		}
		item, err := object(wrapper["NotificationRequestItem"])
		if err != nil {
			return nil, refuse(Malformed, "an item's NotificationRequestItem cannot be read: %v", err)
		}
		items = append(items, item)
	}
	return items, nil
}

// adyenItem returns what is signed of an item, and its signature. Fields are joined without escaping, so a colon is taken in
// merchantReference alone, which is the merchant's own text: elsewhere it could shift the fields against each other.
func adyenItem(item map[string]json.RawMessage) (signed, signature string, err error) {
	data, err := object(item["additionalData"])
	if err != nil {
		return "", "", refuse(Missing, "an item has no additionalData with a signature")
	}
	signature, ok := text(data, "hmacSignature")
	if !ok || signature == "" {
		return "", "", refuse(Missing, "an item's additionalData has no hmacSignature")
	}
	amount := map[string]json.RawMessage{}
	if raw, there := item["amount"]; there && string(raw) != "null" {
		if amount, err = object(raw); err != nil {
			return "", "", refuse(Malformed, "an item's amount cannot be read: %v", err)
		}
	}
	value := string(amount["value"])
	if value == "null" {
		value = ""
	}
	if strings.Trim(strings.TrimPrefix(value, "-"), "0123456789") != "" {
		return "", "", refuse(Malformed, "an item's amount.value is not a whole number")
	}
	fields := make([]string, 0, 8)
	for _, f := range []struct {
		of   map[string]json.RawMessage
		name string
	}{
		{item, "pspReference"}, {item, "originalReference"}, {item, "merchantAccountCode"}, {item, "merchantReference"},
		{nil, "value"}, {amount, "currency"}, {item, "eventCode"}, {item, "success"},
	} {
		if f.of == nil {
			fields = append(fields, value)
			continue
		}
		s, ok := text(f.of, f.name)
		if !ok || strings.Contains(s, ":") && f.name != "merchantReference" {
			return "", "", refuse(Malformed, "an item's %s is not a text without colons", f.name)
		}
		fields = append(fields, s)
	}
	return strings.Join(fields, ":"), signature, nil
}
