package signature

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tidewire/tidewire/config"
)

// Methods are those that can carry deliveries. HEAD and OPTIONS ask about an address and bring no fact.
func Methods() []string {
	return []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
}

// Delivers returns nil when calls by a method can be deliveries under these settings, and otherwise a config.Fault with the
// key "methods": for a method that is none of Methods, and for a GET of which the scheme could not prove what it says.
func (v *Verifier) Delivers(method string) error {
	fault := func(message, fix string) error { return config.Fault{Key: "methods", Message: message, Fix: fix} }
	if !slices.Contains(Methods(), method) {
		return fault(quoted(method)+" is not a method that deliveries come by", config.Suggest(method, "methods", Methods()))
	}
	if method != http.MethodGet {
		return nil
	}
	const post = "remove GET, and have the provider send with POST"
	switch {
	case v.scheme.Handshake == Probe:
		return fault("scheme "+v.scheme.Name+" answers every GET as a test of the address, so that none could be a delivery", post)
	case v.place.field != "":
		return fault("scheme "+v.scheme.Name+" reads "+v.place.where()+" in the body, and a GET has none", post)
	case !v.provesQuery():
		return fault("a GET says what it has to say in its query, which scheme "+v.scheme.Name+" does not sign: anybody who saw one call could make others of it", post)
	case v.signed.has(urlPart) && !v.texts(func(t template) bool { return t.urlLast() || t.methodFirst() }):
		return fault("scheme "+v.scheme.Name+" signs more after the URL, and no method before it, so that the end of a GET's query could be moved into a POST's body", post)
	}
	return nil
}

// provesQuery reports whether what a call's query says is proved: it is signed, or it is the caller that the scheme proves and not what it says.
func (v *Verifier) provesQuery() bool {
	switch v.set.Scheme {
	case kindToken, kindBasic, kindMTLS, kindIPAllow, kindNone:
		return true
	case kindJWT: // without either claim a JWT is a token
		return v.set.URLHashClaim != "" || v.set.BodyHashClaim == ""
	}
	return v.texts(func(t template) bool { return t.has(urlPart) })
}

// texts reports whether something holds for every text that a signature may be of: a caller chooses among them.
func (v *Verifier) texts(holds func(t template) bool) bool {
	return holds(v.signed) && (v.alt == nil || holds(v.alt))
}

// Query returns the call's query as it came, without the parameter that holds the signature or token; "" where the scheme does not prove
// what the query says, or has it from public_url.
func (v *Verifier) Query(c Request) string {
	if !v.provesQuery() || v.signed.has(urlPart) && !v.texts(func(t template) bool { return t.urlLast() || t.bare(&c) }) {
		return ""
	}
	query := rawQuery(c.URL)
	if v.place.query == "" {
		return query
	}
	var rest []string
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err != nil || plain != v.place.query {
			rest = append(rest, pair)
		}
	}
	return strings.Join(rest, "&")
}

// Moment is what a call that Verify has passed is signed with beside its content, and what tells one call without any from the
// next: its timestamp, or what its token says where that is a JWT. "" where the scheme signs neither.
func (v *Verifier) Moment(c Request) string {
	if v.set.Scheme != kindJWT && !v.signed.has(tsPart) {
		return ""
	}
	f, err := v.place.find(&c, nil)
	if err != nil {
		return ""
	}
	if v.set.Scheme == kindJWT {
		// Without the signature, of which there may be several that fit: whoever has one ECDSA signature can write another.
		return f.values[0][:max(0, strings.LastIndexByte(f.values[0], '.'))]
	}
	ts, _, err := v.ts.read(&c, f.ts)
	if err != nil {
		return ""
	}
	return ts
}

// bare reports whether nothing of the call's own is signed after its URL, so that its query may be any: a GET, which has no body, where the method is
// signed before the URL and no other call's bytes can become its own.
func (t template) bare(c *Request) bool {
	return c.Method == http.MethodGet && t.methodFirst()
}

// methodFirst reports whether the method is signed, before the URL.
func (t template) methodFirst() bool {
	method := slices.IndexFunc(t, func(p part) bool { return p.kind == methodPart })
	return method >= 0 && method < slices.IndexFunc(t, func(p part) bool { return p.kind == urlPart })
}
