package signature

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Explanation says, for a person, what became of a call and why. It holds no secret and no expected signature.
type Explanation struct {
	// Scheme is the name of the scheme the call was judged by.
	Scheme   string `json:"scheme"`
	Accepted bool   `json:"accepted"`
	// Code and Reason are the refusal's; empty when the call was accepted.
	Code   Code   `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Steps are what was looked at, in order.
	Steps []Step `json:"steps"`
	// Hints are mistakes that would explain the refusal, the likeliest first. One that says "fits" has been tried and made the signature right.
	Hints []string `json:"hints,omitempty"`
}

// String is the explanation as lines of text.
func (x Explanation) String() string {
	var b strings.Builder
	for _, s := range x.Steps {
		mark := "ok  "
		if !s.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(&b, "%s %s: %s\n", mark, s.Name, s.Text)
	}
	if x.Accepted {
		fmt.Fprintf(&b, "accepted by scheme %s\n", x.Scheme)
	} else {
		fmt.Fprintf(&b, "refused by scheme %s: %s (%s)\n", x.Scheme, x.Reason, x.Code)
	}
	for _, h := range x.Hints {
		fmt.Fprintf(&b, "hint: %s\n", h)
	}
	return b.String()
}

// Explain judges a call as Verify does and writes down each step. When the call is refused it tries the mistakes that people and
// proxies make and says which of them would explain it. Slow; not for the hot path.
func (v *Verifier) Explain(c Request) Explanation {
	t := &trace{}
	err := v.verify(&c, t)
	x := Explanation{Scheme: v.scheme.Name, Accepted: err == nil, Steps: t.steps}
	r := AsRefusal(err)
	if r == nil {
		return x
	}
	x.Code, x.Reason = r.Code, r.Text
	if v.set.Scheme == kindMTLS && c.TLS == nil {
		x.Hints = append(x.Hints, "a captured request does not hold the client certificate it came with, so nothing of mtls can be told from one: "+
			"try the address itself with the certificate, such as with curl --cert and --key")
		return x
	}
	// The library that reads tokens looks at their times once their signature fits.
	if hint := v.untimely(r, &c, t.steps); hint != "" {
		x.Hints = append(x.Hints, hint)
		return x
	}
	for _, g := range v.guesses(&c) {
		if g.v != nil && fits(g.v, g.c) && !slices.Contains(x.Hints, g.hint) {
			x.Hints = append(x.Hints, g.hint)
		}
	}
	x.Hints = append(x.Hints, v.elsewhere(&c)...)
	if len(x.Hints) == 0 && r.Code == Mismatch {
		x.Hints = append(x.Hints, "nothing that usually goes wrong explains it: most probably "+v.another())
	}
	return x
}

// untimely is the hint for a call of which everything is right but a time; "" for others.
func (v *Verifier) untimely(r *Refusal, c *Request, steps []Step) string {
	const clocks = ": for a captured call say when it came, otherwise set the clocks of both machines by NTP"
	switch {
	case r.Code != Expired && r.Code != Future:
		return ""
	case compared(steps):
		return "the signature itself is right, only the clock is off" + clocks
	case !v.set.SecretsUntil.IsZero() && c.At.After(v.set.SecretsUntil):
		return "the sender still has the old secret: give it the new one, or move secrets_until"
	case v.set.Scheme == kindJWT: // the library that reads tokens looks at their times once their signature fits
		return "the token's signature is right, only its times do not fit" + clocks
	}
	return ""
}

// another says which other credential the sender most probably has.
func (v *Verifier) another() string {
	const altered = " is right, the body was altered on the way: hold its SHA-256 against the sender's"
	if len(v.keys) > 0 && v.keys[0].public != nil {
		return "the sender signs with another key than the one whose " + strings.ReplaceAll(v.keySetting(), "_", " ") + " is set; where the key" + altered
	}
	if v.set.Scheme == kindBasic {
		return "the user name or the password is another one"
	}
	const secret = "the secret is another one; test and live mode, and every address at the provider, have secrets of their own"
	if v.signed.has(bodyPart, formPart, formKVPart) {
		return secret + "; where the secret" + altered
	}
	return secret
}

// keySetting is the setting that a public key came from.
func (v *Verifier) keySetting() string {
	if v.set.Certificate != "" {
		return "certificate"
	}
	return "public_key"
}

// compared reports whether the signature was compared and fitted.
func compared(steps []Step) bool {
	return slices.ContainsFunc(steps, func(s Step) bool { return s.Name == "comparison" && s.OK })
}

// fits reports whether a call's signature is right, whatever the clock says.
func fits(v *Verifier, c Request) bool {
	t := &trace{}
	r := AsRefusal(v.verify(&c, t))
	return r == nil || compared(t.steps) && (r.Code == Expired || r.Code == Future)
}

// guess is a mistake to try: the verifier and the call as they would be without it.
type guess struct {
	hint string
	v    *Verifier
	c    Request
}

func (v *Verifier) guesses(c *Request) []guess {
	return slices.Concat(v.guessSecrets(c), v.guessKeys(c), v.guessBodies(c), v.guessURLs(c), v.guessMethods(c), v.guessForm(c))
}

// vary is the verifier with other rules and other secrets; nil when no key can be made that way.
func (v *Verifier) vary(rules func(*Settings), secret func(string) string) *Verifier {
	other := *v
	rules(&other.set)
	if other.set.Encoding != v.set.Encoding {
		other.place.encoding = other.set.Encoding
	}
	other.keys = nil
	for _, k := range v.keys {
		if k.public != nil {
			other.keys = append(other.keys, k)
			continue
		}
		text := secret(k.text)
		next, err := secretKey(other.set, text, k.hash)
		if next.until = k.until; err == nil && len(next.bytes) > 0 {
			other.keys = append(other.keys, next)
		}
	}
	if len(other.keys) == 0 {
		return nil
	}
	return &other
}

func sameRules(*Settings)         {}
func sameSecret(s string) string  { return s }
func unquoted(s string) string    { return strings.Trim(s, `"'`) }
func noLineEnd(s string) string   { return strings.TrimRight(s, "\r\n") }
func withLineEnd(s string) string { return s + "\n" }

// guessSecrets tries what happens to secrets when they are copied.
func (v *Verifier) guessSecrets(c *Request) []guess {
	var out []guess
	for _, g := range []struct {
		hint   string
		secret func(string) string
	}{
		{"it fits when white space around the secret is removed: the secret was copied with a space or line end", strings.TrimSpace},
		{"it fits with a line end after the secret: the sender's copy has one", withLineEnd},
		{"it fits with a carriage return and line end after the secret: the sender's copy has one", func(s string) string { return s + "\r\n" }},
		{"it fits with a space after the secret: the sender's copy has one", func(s string) string { return s + " " }},
		{"it fits with a space before the secret: the sender's copy has one", func(s string) string { return " " + s }},
		{"it fits without the quotes around the secret", unquoted},
		{"it fits when whsec_ is removed from the secret", func(s string) string { return strings.TrimPrefix(s, "whsec_") }},
		{"it fits with whsec_ before the secret: copy it whole, with its prefix", func(s string) string { return "whsec_" + s }},
		{"it fits with the secret in lower case", strings.ToLower},
		{"it fits with the secret in upper case", strings.ToUpper},
	} {
		out = append(out, guess{g.hint, v.vary(sameRules, g.secret), *c})
	}
	return out
}

// guessKeys tries other ways of making bytes of the secret, and of reading the signature.
func (v *Verifier) guessKeys(c *Request) []guess {
	var out []guess
	for _, rule := range []string{"utf8", "hex", "base64"} {
		if rule != v.set.Key {
			out = append(out, guess{fmt.Sprintf("it fits when the key is read from the secret as %s: is this the right scheme, and the right kind of secret?", rule),
				v.vary(func(s *Settings) { s.Key, s.KeyStrip = rule, "" }, sameSecret), *c})
			out = append(out, guess{fmt.Sprintf("it fits when the key is read from the secret as %s, with whsec_ removed: is this the right scheme?", rule),
				v.vary(func(s *Settings) { s.Key, s.KeyStrip = rule, "whsec_" }, sameSecret), *c})
		}
	}
	for _, encoding := range []string{encodingHex, encodingBase64} {
		if v.place.encoding != "" && encoding != v.place.encoding {
			out = append(out, guess{fmt.Sprintf("it fits when the signature is read as %s, where this scheme writes %s: is this the right scheme?", encoding, v.place.encoding),
				v.vary(func(s *Settings) { s.Encoding = encoding }, sameSecret), *c})
		}
	}
	return out
}

// guessBodies tries what proxies and tools do to bodies.
func (v *Verifier) guessBodies(c *Request) []guess {
	body := string(c.Body)
	lf := strings.ReplaceAll(body, "\r\n", "\n")
	bom := "\ufeff"
	variants := []struct{ hint, body string }{
		{"it fits with a line end after the body: something on the way removed it", body + "\n"},
		{"it fits without the line end after the body: something on the way, or the tool that saved it, added it", strings.TrimSuffix(body, "\n")},
		{"it fits with a carriage return and line end after the body: something on the way removed them", body + "\r\n"},
		{"it fits without the line end after the body: something on the way, or the tool that saved it, added it", noLineEnd(body)},
		{"it fits when line ends are LF: something on the way made them CRLF", lf},
		{"it fits when line ends are CRLF: something on the way made them LF", strings.ReplaceAll(lf, "\n", "\r\n")},
		{"it fits without the byte order mark before the body", strings.TrimPrefix(body, bom)},
		{"it fits with a byte order mark before the body", bom + body},
	}
	const again = "it fits when the JSON is written %s: something on the way parsed the body and wrote it again; pass the raw bytes on"
	for _, w := range rewritten(c.Body) {
		variants = append(variants, struct{ hint, body string }{fmt.Sprintf(again, w.how), w.body})
	}
	var out []guess
	tried := map[string]bool{body: true}
	for _, g := range variants {
		if !tried[g.body] {
			tried[g.body] = true
			other := *c
			other.Body = []byte(g.body)
			out = append(out, guess{g.hint, v, other})
		}
	}
	return out
}

type rewriting struct{ how, body string }

// rewritten is a JSON body as other programs would write it, keys in their order.
func rewritten(body []byte) []rewriting {
	var compact, two, four, tab bytes.Buffer
	if json.Compact(&compact, body) != nil {
		return nil
	}
	_ = json.Indent(&two, compact.Bytes(), "", "  ")
	_ = json.Indent(&four, compact.Bytes(), "", "    ")
	_ = json.Indent(&tab, compact.Bytes(), "", "\t")
	return []rewriting{
		{"without spaces", compact.String()}, {"with a space after colons and commas", spaced(compact.String())},
		{"indented by two spaces", two.String()}, {"indented by four spaces", four.String()}, {"indented by tabs", tab.String()},
		{"with / escaped", strings.ReplaceAll(compact.String(), "/", `\/`)}, {"without / escaped", strings.ReplaceAll(compact.String(), `\/`, "/")},
	}
}

// spaced puts a space after every colon and comma outside of texts.
func spaced(compact string) string {
	var b strings.Builder
	quoted, escaped := false, false
	for i := range len(compact) {
		ch := compact[i]
		b.WriteByte(ch)
		switch {
		case escaped:
			escaped = false
		case ch == '\\':
			escaped = true
		case ch == '"':
			quoted = !quoted
		case !quoted && (ch == ':' || ch == ','):
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// guessURLs tries other spellings of the registered address, where it is signed.
func (v *Verifier) guessURLs(c *Request) []guess {
	u := v.set.PublicURL
	if u == "" {
		return nil
	}
	base, query, _ := strings.Cut(u, "?")
	if query != "" {
		query = "?" + query
	}
	variants := []struct{ hint, url string }{
		{"with a slash at its end", base + "/" + query}, {"without the slash at its end", strings.TrimSuffix(base, "/") + query},
		{"with https", "https" + strings.TrimPrefix(u, "http")}, {"with http", "http" + strings.TrimPrefix(u, "https")},
		{"without its port", withPort(u, "")}, {"with the default port", withPort(u, "default")},
		{"with www before its host", strings.Replace(u, "://", "://www.", 1)}, {"without www", strings.Replace(u, "://www.", "://", 1)},
		{"without its query", base}, {"with the call's query", base + "?" + rawQuery(c.URL)},
		{"with the call's path", origin(u) + c.URL},
	}
	if host := c.Header.Get("Host"); host != "" {
		variants = append(variants, struct{ hint, url string }{"with the call's host", "https://" + host + c.URL})
	}
	var out []guess
	for _, g := range variants {
		if g.url == u {
			continue
		}
		other, call := *v, *c
		other.set.PublicURL = g.url
		// What the provider signed is tried; that the call's query is the same has been looked at before.
		_, want, _ := strings.Cut(g.url, "?")
		call.URL = "/?" + want
		out = append(out, guess{"it fits when public_url is written " + g.hint, &other, call})
	}
	return out
}

// guessMethods tries other methods, where the method is signed.
func (v *Verifier) guessMethods(c *Request) []guess {
	if !v.signed.has(methodPart) {
		return nil
	}
	var out []guess
	for _, method := range Methods() {
		if method != c.Method {
			other := *c
			other.Method = method
			out = append(out, guess{"it fits when the method is " + method + ": something on the way, or whoever saved the call, changed it", v, other})
		}
	}
	return out
}

// origin is scheme and host of an address.
func origin(u string) string {
	scheme, rest, _ := strings.Cut(u, "://")
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host
}

// guessForm tries other units of the timestamp.
func (v *Verifier) guessForm(c *Request) []guess {
	if !v.ts.on() {
		return nil
	}
	var out []guess
	for _, unit := range []struct{ name, text string }{{"s", "seconds"}, {"ms", "milliseconds"}, {"rfc3339", "an RFC 3339 time"}} {
		if unit.name != v.ts.unit {
			other := *v
			other.ts.unit = unit.name
			out = append(out, guess{"it fits when the timestamp is read as " + unit.text + ": is this the right scheme, and the right version of it?", &other, *c})
		}
	}
	return out
}

// elsewhere looks for the headers of other schemes in a call that lacks this one's.
func (v *Verifier) elsewhere(c *Request) []string {
	if v.place.header == "" || len(c.Header[v.place.header]) > 0 {
		return nil
	}
	var hints []string
	for _, s := range Schemes() {
		if h := canonical(s.Rules.Header); h != "" && h != "Authorization" && len(c.Header[http.CanonicalHeaderKey(h)]) > 0 {
			hints = append(hints, fmt.Sprintf("the call has the header %s, which scheme %s reads", s.Rules.Header, s.Name))
		}
	}
	if len(hints) > 0 {
		return hints
	}
	var like []string
	for _, name := range slices.Sorted(maps.Keys(c.Header)) {
		low := strings.ToLower(name)
		if strings.Contains(low, "sign") || strings.Contains(low, "hmac") || strings.Contains(low, "token") {
			like = append(like, name)
		}
	}
	if len(like) > 0 {
		return []string{fmt.Sprintf("the call has no header %s, but has %s", v.place.header, strings.Join(like, ", "))}
	}
	if v.set.Scheme == kindBasic || v.set.Scheme == kindToken {
		return []string{fmt.Sprintf("the call has no header %s: is it set at the provider, and does every proxy pass it on?", v.place.header)}
	}
	return []string{fmt.Sprintf("the call has no header %s: is signing switched on at the provider, and does every proxy pass the header on?", v.place.header)}
}
