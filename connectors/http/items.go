package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/signature"
	"github.com/tidewire/tidewire/internal/expression"
)

// part is one event's bytes and what expressions see of them.
type part struct {
	text   []byte
	parsed expression.Body
}

// parts are the events of a call.
type parts struct {
	each        []part
	contentType string
	// listed: they came as a list.
	listed bool
}

// maxItems bounds the events of one call. The most that a known provider sends is 1,000.
const maxItems = 10_000

const formType = "application/x-www-form-urlencoded"

// parts takes a call apart. Nothing is made of a body that no expression looks at and that carries one event, but JSON is read all the same: one
// that two readers may read differently is no fact.
func (r *receiver) parts(c *connectors.Call) (parts, error) {
	if len(c.Body) == 0 && method(c) != http.MethodPost {
		if query := r.verifier.Query(request(c)); query != "" {
			return asked(query)
		}
	}
	out := parts{contentType: c.Header.Get("Content-Type")}
	way := r.scheme.Body
	media, _, _ := mime.ParseMediaType(out.contentType)
	if media == formType && (way == signature.JSON || way == "") {
		way = signature.Form
	}
	needed := r.needsBody()
	switch {
	case way == signature.XML || !needed && !r.many && !structured(c.Body):
		out.each = []part{{text: c.Body}}
		return out, nil
	case way == signature.Form:
		out.each = []part{{text: c.Body}}
		if !needed {
			return out, nil
		}
		parsed, err := form(c.Body)
		if errors.Is(err, errNoForm) && !r.ownNeedBody() {
			err = nil
		}
		out.each[0].parsed = parsed
		return out, err
	}
	text := c.Body
	if way == signature.FormJSON {
		fields, err := url.ParseQuery(string(c.Body))
		if err != nil || len(fields[r.scheme.BodyField]) != 1 {
			return out, fmt.Errorf("the body is not a form with one field %s", r.scheme.BodyField)
		}
		text, out.contentType = []byte(fields.Get(r.scheme.BodyField)), "application/json"
	}
	parsed, err := expression.ParseBody(text)
	if err != nil {
		// A body that no expression of the user's looks at may be anything but JSON that can be read in two ways.
		if r.ownNeedBody() || r.itemsSet || json.Valid(text) || way == signature.FormJSON {
			return out, err
		}
		out.each = []part{{text: c.Body}}
		return out, nil
	}
	if !r.many {
		out.each = []part{{text, parsed}}
		return out, nil
	}
	return r.split(out, text, parsed, needed)
}

// split makes a part of each element of the list that items names, or of the body where it is a list.
func (r *receiver) split(out parts, text []byte, parsed expression.Body, needed bool) (parts, error) {
	path := r.items
	if first := bytes.TrimLeft(text, " \t\r\n"); len(first) > 0 && first[0] == '[' {
		path = nil
	}
	list, found := elements(text, path)
	if !found {
		if r.itemsSet {
			return out, errors.New("items: the body has no list there")
		}
		out.each = []part{{text, parsed}} // the provider sends something else too; nothing is thrown away
		return out, nil
	}
	if len(list) > maxItems {
		return out, fmt.Errorf("the call carries more than %d events", maxItems)
	}
	out.listed = true
	out.each = make([]part, len(list))
	for i, element := range list {
		out.each[i].text = element
		if needed {
			var err error
			if out.each[i].parsed, err = expression.ParseBody(element); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// structured reports whether a body may be a JSON object or list.
func structured(body []byte) bool {
	first := bytes.TrimLeft(body, " \t\r\n")
	return len(first) > 0 && (first[0] == '{' || first[0] == '[')
}

func (r *receiver) readings() []*reading {
	return []*reading{r.id, r.kind, r.key, r.time, r.subject}
}

func (r *receiver) needsBody() bool {
	return slices.ContainsFunc(r.readings(), func(x *reading) bool { return x != nil && x.program.NeedsBody() })
}

func (r *receiver) ownNeedBody() bool {
	return slices.ContainsFunc(r.readings(), func(x *reading) bool { return x != nil && x.own && x.program.NeedsBody() })
}

var errNoForm = errors.New("the body is not a form")

// form makes an object of a form's fields. A field that is there twice is refused: two readers would take two values.
func form(body []byte) (expression.Body, error) {
	fields, err := url.ParseQuery(string(body))
	if err != nil {
		return expression.Body{}, errNoForm
	}
	text := []byte{'{'}
	for name, values := range fields {
		if len(values) > 1 {
			return expression.Body{}, errors.New("the body is a form in which a field is there twice")
		}
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = expression.AppendString(text, name)
		text = append(text, ':')
		text = expression.AppendString(text, values[0])
	}
	return expression.ParseBody(append(text, '}'))
}

// elements returns the elements of the list at path in text, each as the bytes it has there. text is valid JSON: ParseBody has taken it.
func elements(text []byte, path []string) (list [][]byte, found bool) {
	w := walker{text: text}
	w.space()
	for _, step := range path {
		if !w.enter(step) {
			return nil, false
		}
	}
	if w.at >= len(text) || text[w.at] != '[' {
		return nil, false
	}
	w.at++
	for w.space(); w.at < len(text) && text[w.at] != ']'; w.space() {
		start := w.at
		w.value()
		list = append(list, text[start:w.at:w.at])
		w.space()
		if w.at < len(text) && text[w.at] == ',' {
			w.at++
		}
	}
	return list, true
}

// walker steps over valid JSON without reading it.
type walker struct {
	text []byte
	at   int
}

func (w *walker) space() {
	for w.at < len(w.text) && (w.text[w.at] == ' ' || w.text[w.at] == '\t' || w.text[w.at] == '\r' || w.text[w.at] == '\n') {
		w.at++
	}
}

// enter goes to the value of a key of the object at hand.
func (w *walker) enter(key string) bool {
	if w.at >= len(w.text) || w.text[w.at] != '{' {
		return false
	}
	w.at++
	for w.space(); w.at < len(w.text) && w.text[w.at] == '"'; w.space() {
		start := w.at
		w.string()
		name := w.text[start:w.at]
		w.space()
		w.at++ // the colon
		w.space()
		if named(name, key) {
			return true
		}
		w.value()
		w.space()
		w.at++ // the comma, or the closing brace
	}
	return false
}

// named compares a key as it is written with a name.
func named(raw []byte, name string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1:len(raw)-1]) == name
	}
	var s string
	return json.Unmarshal(raw, &s) == nil && s == name
}

func (w *walker) string() {
	for w.at++; w.at < len(w.text) && w.text[w.at] != '"'; w.at++ {
		if w.text[w.at] == '\\' {
			w.at++
		}
	}
	w.at++
}

// value steps over any value.
func (w *walker) value() {
	switch w.text[w.at] {
	case '"':
		w.string()
	case '{', '[':
		for depth := 0; w.at < len(w.text); {
			switch w.text[w.at] {
			case '"':
				w.string()
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			w.at++
			if depth == 0 {
				return
			}
		}
	default:
		for w.at < len(w.text) && !ends(w.text[w.at]) {
			w.at++
		}
	}
}

// ends reports whether a number or a word is over.
func ends(c byte) bool {
	switch c {
	case ',', ']', '}', ' ', '\t', '\r', '\n':
		return true
	}
	return false
}
