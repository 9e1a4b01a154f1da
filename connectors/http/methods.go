package http

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/internal/expression"
)

// method is the call's; POST where nobody said.
func method(c *connectors.Call) string {
	if c.Method == "" {
		return http.MethodPost
	}
	return c.Method
}

// deliveries settles the methods that deliveries come by: those that are set, else the scheme's. Those of a scheme's that its
// settings do not allow are left out.
func (r *receiver) deliveries(set []string) config.Problems {
	if len(set) == 0 {
		r.limits.Methods = slices.DeleteFunc(r.scheme.Deliveries(), func(m string) bool { return r.verifier.Delivers(m) != nil })
		return nil
	}
	var problems config.Problems
	for i, m := range set {
		f, wrong := errors.AsType[config.Fault](r.verifier.Delivers(m))
		switch {
		case wrong:
			problems = append(problems, config.Problem{Path: "methods", Message: f.Message, Fix: f.Fix})
		case slices.Contains(set[:i], m):
			problems = append(problems, config.Problem{Path: "methods", Message: m + " is there twice", Fix: "remove one"})
		}
	}
	r.limits.Methods = slices.Clone(set)
	return problems
}

// fingerprint is the identity of an event that nothing else gives one. A POST is what its body says. Of other calls, and of a POST without a body, method
// and query say something too, as far as the scheme proves the query; and where there is neither body nor query, the moment that is signed. Calls that
// are equal in all of that are one fact, as bodies that are equal are. Of the query counts what it says and not how it is escaped: some providers sign it
// in one spelling and send it in another, so that a call could come again in a third.
func (r *receiver) fingerprint(c *connectors.Call, text []byte) string {
	m := method(c)
	if m == http.MethodPost && len(text) > 0 {
		return event.Fingerprint(text)
	}
	req := request(c)
	query := r.verifier.Query(req)
	moment := ""
	if len(c.Body) == 0 && query == "" {
		moment = r.verifier.Moment(req)
	}
	if m == http.MethodPost && query == "" && moment == "" {
		return event.Fingerprint(text)
	}
	said := []byte(query)
	if object, err := parameters(query); err == nil {
		said = object
	}
	return event.Fingerprint([]byte(m), said, []byte(moment), text)
}

// values are a query's parameters as expressions see them; what is escaped wrongly is left out. What is not signed must not change them: a number sign ends
// the URL that is, and a semicolon, which one provider escapes before it signs and another does not, is a character like others.
func values(query string) url.Values {
	query, _, _ = strings.Cut(query, "#")
	out := make(url.Values)
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		n, err := url.QueryUnescape(name)
		v, errValue := url.QueryUnescape(value)
		if pair != "" && err == nil && errValue == nil {
			out.Add(n, v)
		}
	}
	return out
}

// asked makes the one event of a call whose query is all that it says.
func asked(query string) (parts, error) {
	text, err := parameters(query)
	if err != nil {
		return parts{}, err
	}
	parsed, err := expression.ParseBody(text)
	if err != nil {
		return parts{}, fmt.Errorf("the query cannot be read: %w", err)
	}
	return parts{each: []part{{text: text, parsed: parsed}}, contentType: "application/json"}, nil
}

// parameters is a query as a JSON object: the parameters in their order, each a text, or a list of texts where it comes several times.
func parameters(query string) ([]byte, error) {
	type parameter struct {
		name   string
		values []string
	}
	var all []parameter
	at := make(map[string]int)
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		n, err := url.QueryUnescape(name)
		v, errValue := url.QueryUnescape(value)
		if err != nil || errValue != nil || !utf8.ValidString(n) || !utf8.ValidString(v) {
			return nil, errors.New("the query cannot be read: something in it is escaped wrongly, or is not UTF-8")
		}
		i, known := at[n]
		if !known {
			i = len(all)
			at[n], all = i, append(all, parameter{name: n})
		}
		all[i].values = append(all[i].values, v)
	}
	text := []byte{'{'}
	for i, p := range all {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(expression.AppendString(text, p.name), ':')
		if len(p.values) > 1 {
			text = append(text, '[')
		}
		for j, v := range p.values {
			if j > 0 {
				text = append(text, ',')
			}
			text = expression.AppendString(text, v)
		}
		if len(p.values) > 1 {
			text = append(text, ']')
		}
	}
	return append(text, '}'), nil
}
