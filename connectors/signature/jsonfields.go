package signature

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// object reads a JSON object strictly: a key that comes twice, or twice but for upper and lower case, could be read in one way here and in
// another way where the event is used.
func object(raw []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	first, err := dec.Token()
	if err != nil {
		return nil, errors.New("not JSON")
	}
	if first != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	out, folded := map[string]json.RawMessage{}, map[string]bool{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		key, ok := name.(string)
		if !ok {
			return nil, errors.New("not JSON")
		}
		fold := strings.ToLower(key)
		if folded[fold] {
			return nil, errors.New("a key comes twice")
		}
		folded[fold] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errors.New("not JSON")
		}
		out[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return out, nil
}

// text returns a string field; "" when it is absent or null.
func text(o map[string]json.RawMessage, name string) (string, bool) {
	raw, there := o[name]
	if !there || string(raw) == "null" {
		return "", true
	}
	var s *string
	if json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

// jsonText returns a string field of a JSON body.
func jsonText(body []byte, name string) (string, error) {
	o, err := object(body)
	if err != nil {
		return "", refuse(Malformed, "the body cannot be read: %v", err)
	}
	s, ok := text(o, name)
	switch {
	case !ok:
		return "", refuse(Malformed, "field %s is not a text", name)
	case s == "":
		return "", refuse(Missing, "no field %s in the body", name)
	}
	return s, nil
}
