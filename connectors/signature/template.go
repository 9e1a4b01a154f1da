package signature

import (
	"cmp"
	"crypto"
	"fmt"
	"hash/crc32"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tidewire/tidewire/config"
)

// template is a compiled Settings.Signed: the text that is signed, in parts.
type template []part

type part struct {
	kind partKind
	text string // the literal, or the header's canonical name
	name string // the placeholder as it was written
	stop string // for a header: the literal after it, which its value must not contain
	skip []string
}

type partKind int

const (
	literal partKind = iota
	bodyPart
	tsPart
	methodPart
	urlPart
	secretPart
	crcPart
	headerPart
	webhookIDPart
	formPart   // every pair sorted, names and values run together
	formKVPart // every pair but some, sorted, k=v joined by &
)

// placeholders are the words between braces that stand alone, in the order the documentation lists them.
var placeholders = []struct {
	name string
	kind partKind
}{
	{"body", bodyPart}, {"ts", tsPart}, {"method", methodPart}, {"url", urlPart}, {"secret", secretPart}, {"crc32", crcPart},
	{"cfg:webhook_id", webhookIDPart}, {"form_sorted", formPart}, {"form_kv_sorted", formKVPart},
}

// parseTemplate compiles a text with placeholders. The error says what is wrong and how to put it right.
func parseTemplate(s string) (template, error) {
	var out template
	for s != "" {
		before, rest, found := strings.Cut(s, "{")
		if before != "" {
			out = append(out, part{kind: literal, text: before})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, fmt.Errorf("the brace before %q is not closed", rest)
		}
		p, err := parsePlaceholder(name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
		s = after
	}
	// A header's value that contained the separator could be read in two ways, so that bytes would move from one part
	// to its neighbour under the same signature.
	for i := range out[:max(len(out)-1, 0)] {
		if out[i].kind == headerPart && out[i+1].kind == literal {
			out[i].stop = out[i+1].text
		}
	}
	return out, nil
}

func parsePlaceholder(name string) (part, error) {
	if header, ok := strings.CutPrefix(name, "h:"); ok && header != "" {
		return part{kind: headerPart, text: header, name: name}, nil
	}
	base, list, listed := strings.Cut(name, ":")
	if listed && base == "form_kv_sorted" {
		p := part{kind: formKVPart, name: name}
		for field := range strings.SplitSeq(list, ",") {
			field, minus := strings.CutPrefix(field, "-")
			if !minus || field == "" {
				return part{}, fmt.Errorf("in {%s} each field to leave out is written with a minus: {form_kv_sorted:-sign,-sign_type}", name)
			}
			p.skip = append(p.skip, field)
		}
		return p, nil
	}
	known := []string{"h:NAME"}
	for _, p := range placeholders {
		if p.name == name {
			return part{kind: p.kind, name: name}, nil
		}
		known = append(known, p.name)
	}
	return part{}, fmt.Errorf("{%s} is not a placeholder; %s", name, config.Suggest(name, "placeholders", known))
}

// has reports whether one of the kinds is among the parts.
func (t template) has(kinds ...partKind) bool {
	return slices.ContainsFunc(t, func(p part) bool { return slices.Contains(kinds, p.kind) })
}

// urlLast reports whether nothing is signed after the URL, so that its end cannot be moved into what follows.
func (t template) urlLast() bool {
	return len(t) > 0 && t[len(t)-1].kind == urlPart
}

// env is what a template is filled from.
type env struct {
	c       *Request
	set     *Settings
	ts      string
	headers []pair   // of the template's header parts
	urls    []string // the URL's accepted spellings, at least one entry
	url     string   // the one in turn
	form    []pair
}

type pair struct{ name, value string }

func (e *env) header(name string) string {
	for _, h := range e.headers {
		if h.name == name {
			return h.value
		}
	}
	return ""
}

// noURL is the list of spellings for templates without a URL.
var noURL = []string{""}

// prepare reads from the call what the verifier's texts need beside body and timestamp.
func (e *env) prepare(v *Verifier, form []pair) error {
	e.form, e.urls = form, noURL
	for _, t := range [...]template{v.signed, v.alt} {
		for _, p := range t {
			switch p.kind {
			case headerPart:
				value, err := single(e.c, p.text)
				if err != nil {
					return err
				}
				if p.stop != "" && strings.Contains(value, p.stop) {
					return refuse(Malformed, "header %s contains the separator %q", p.text, p.stop)
				}
				e.headers = append(e.headers, pair{p.text, value})
			case formPart, formKVPart:
				if e.form == nil {
					var err error
					if e.form, err = parseForm(e.c.Body); err != nil {
						return err
					}
				}
				if p.kind == formKVPart {
					if err := noRepeats(e.form); err != nil {
						return err
					}
				}
			case urlPart:
				bare := t.bare(e.c)
				if bare && len(e.c.Body) > 0 {
					return refuse(Malformed, "a GET with a body: where its query ends and the body begins is not signed")
				}
				u, err := signedURL(v.set.PublicURL, e.c.URL, bare || t.urlLast())
				if err != nil {
					return err
				}
				e.urls = spellings(u, v.variants)
			default: // the other kinds need nothing before the text is made
			}
		}
	}
	return nil
}

// feed writes the text to w in as few pieces as its parts allow: small parts are gathered in buf, the body goes as it is.
func (t template) feed(w func([]byte), buf []byte, secret string, e *env) []byte {
	buf = buf[:0]
	for _, p := range t {
		switch p.kind {
		case literal:
			buf = append(buf, p.text...)
		case bodyPart:
			if len(buf) > 0 {
				w(buf)
				buf = buf[:0]
			}
			w(e.c.Body)
		case tsPart:
			buf = append(buf, e.ts...)
		case methodPart:
			buf = append(buf, e.c.Method...)
		case urlPart:
			buf = append(buf, e.url...)
		case secretPart:
			buf = append(buf, secret...)
		case crcPart:
			buf = strconv.AppendUint(buf, uint64(crc32.ChecksumIEEE(e.c.Body)), 10)
		case headerPart:
			buf = append(buf, e.header(p.text)...)
		case webhookIDPart:
			buf = append(buf, e.set.WebhookID...)
		case formPart:
			buf = appendFormSorted(buf, e.form)
		case formKVPart:
			buf = appendFormKV(buf, e.form, p.skip)
		}
	}
	if len(buf) > 0 {
		w(buf)
	}
	return buf
}

// build returns the whole text; {secret} is left out.
func (t template) build(e *env) []byte {
	var out []byte
	t.feed(func(b []byte) { out = append(out, b...) }, nil, "", e)
	return out
}

// digest returns the hash of the text. Only for schemes without {secret}.
func (t template) digest(h crypto.Hash, e *env) []byte {
	d := h.New()
	t.feed(func(b []byte) { d.Write(b) }, nil, "", e)
	return d.Sum(nil)
}

// parseForm reads an application/x-www-form-urlencoded body in the order in which it came. Unlike url.ParseQuery it gives up on the first mistake.
func parseForm(body []byte) ([]pair, error) {
	out := []pair{}
	for piece := range strings.SplitSeq(string(body), "&") {
		if piece == "" {
			continue
		}
		name, value, _ := strings.Cut(piece, "=")
		n, err := url.QueryUnescape(name)
		if err != nil {
			return nil, refuse(Malformed, "the body is not a form: a name is escaped wrongly")
		}
		v, err := url.QueryUnescape(value)
		if err != nil {
			return nil, refuse(Malformed, "the body is not a form: a value is escaped wrongly")
		}
		if len(out) >= maxFields {
			return nil, refuse(Malformed, "the form has more than %d fields", maxFields)
		}
		out = append(out, pair{n, v})
	}
	return out, nil
}

// maxFields bounds what sorting a stranger's form may cost.
const maxFields = 10_000

func noRepeats(form []pair) error {
	names := make(map[string]bool, len(form))
	for _, p := range form {
		if names[p.name] {
			return refuse(Malformed, "the form has a field twice")
		}
		names[p.name] = true
	}
	return nil
}

// field returns the one value of a form field.
func field(form []pair, name string) (string, error) {
	value, count := "", 0
	for _, p := range form {
		if p.name == name {
			value = p.value
			count++
		}
	}
	switch {
	case count > 1:
		return "", refuse(Malformed, "form field %s comes %d times", name, count)
	case value == "":
		return "", refuse(Missing, "no form field %s", name)
	}
	return value, nil
}

// sortedForm orders by name, then value, by bytes.
func sortedForm(form []pair) []pair {
	out := slices.Clone(form)
	slices.SortStableFunc(out, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.value, b.value))
	})
	return out
}

// appendFormSorted is Twilio's and Mandrill's text. Equal values of one name count once, as in Twilio's libraries.
func appendFormSorted(buf []byte, form []pair) []byte {
	for _, p := range slices.Compact(sortedForm(form)) {
		buf = append(buf, p.name...)
		buf = append(buf, p.value...)
	}
	return buf
}

// appendFormKV is Alipay's text. Fields with an empty value stay in.
func appendFormKV(buf []byte, form []pair, skip []string) []byte {
	first := true
	for _, p := range sortedForm(form) {
		if slices.Contains(skip, p.name) {
			continue
		}
		if !first {
			buf = append(buf, '&')
		}
		first = false
		buf = append(append(append(buf, p.name...), '='), p.value...)
	}
	return buf
}
