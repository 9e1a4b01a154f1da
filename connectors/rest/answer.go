package rest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
)

// Err is what the answer means for the delivery: nil for 2xx, else an error with the code, and with at most 256 bytes of the answer's body.
//
//	408, 425, 429, 5xx   try again; not before Retry-After when it says so
//	410                  Gone
//	other 4xx            Permanent
//	3xx                  try again: it is not followed; the address in the settings is what has to change, and no delivery should die of that
func (r *Response) Err() error {
	if r.Code >= 200 && r.Code < 300 {
		return nil
	}
	return judge(r.Code, r.Header, r.describe(), time.Now())
}

// judge is the one place where a status becomes an outcome.
func judge(code int, h http.Header, err error, now time.Time) error {
	err = connectors.WithCode(err, code)
	switch {
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		if wait, ok := RetryAfter(h, now); ok {
			return connectors.RetryAfter(err, wait)
		}
		return err
	case code == http.StatusGone:
		return connectors.Gone(err)
	case code >= 400:
		return connectors.Permanent(err)
	}
	return err
}

func (r *Response) describe() error {
	text := fmt.Sprintf("%s: answered %d", r.label, r.Code)
	if name := http.StatusText(r.Code); name != "" {
		text += " " + name
	}
	if r.Code >= 300 && r.Code < 400 {
		text += ", which is not followed; set the address to where it leads"
		if to, err := url.Parse(r.Header.Get("Location")); err == nil && to.Hostname() != "" {
			text += ": host " + r.secret.clean(to.Hostname(), 128)
		}
		return errors.New(text)
	}
	if e := r.excerpt(); e != "" {
		text += ": " + e
	}
	return errors.New(text)
}

// excerpt is the start of the body, fit to be logged.
func (r *Response) excerpt() string {
	if r.Header.Get("Content-Encoding") != "" {
		return "" // compressed though nobody asked
	}
	const enough = 16 << 10
	body := r.Body[:min(len(r.Body), enough)]
	if r.Truncated || len(r.Body) > enough { // what was cut off may have been the second half of a secret
		body = body[:max(0, len(body)-r.secret.longest)]
	}
	text := string(body)
	if r.token != "" {
		token := newScrubber([]config.Secret{config.NewSecret(r.token)})
		text = token.mask(text)
	}
	return r.secret.clean(text, 256)
}

// RetryAfter reads how long a server asks to be left alone: seconds, or a date, which is taken by the server's own clock when the
// answer tells it. ok is false when it does not say or cannot be understood; never negative, at most a year.
func RetryAfter(h http.Header, now time.Time) (wait time.Duration, ok bool) {
	const most = 365 * 24 * time.Hour
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0, false
	}
	if strings.Trim(v, "0123456789") == "" {
		s, err := strconv.ParseInt(v, 10, 64)
		if err != nil || s > int64(most/time.Second) {
			return most, true
		}
		return time.Duration(s) * time.Second, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	if theirs, err := http.ParseTime(h.Get("Date")); err == nil {
		now = theirs
	}
	return min(max(at.Sub(now), 0), most), true
}

// scrubber takes secrets out of texts that others wrote.
type scrubber struct {
	forms   []string // longest first, so that a secret within a secret does not save the rest of it
	longest int
}

// newScrubber knows each secret in the forms in which an answer can echo it. Texts of less than four bytes are left alone: they are in every text.
func newScrubber(secrets []config.Secret) scrubber {
	var s scrubber
	for _, secret := range secrets {
		text := secret.Reveal()
		if len(text) < 4 {
			continue
		}
		quoted, err := json.Marshal(text)
		if err != nil {
			quoted = []byte(`""`)
		}
		for _, form := range []string{
			text, strings.Trim(string(quoted), `"`), url.QueryEscape(text), url.PathEscape(text), base64.StdEncoding.EncodeToString([]byte(text)),
			base64.RawURLEncoding.EncodeToString([]byte(text)),
		} {
			if len(form) >= 4 && !slices.Contains(s.forms, form) {
				s.forms = append(s.forms, form)
			}
		}
	}
	slices.SortFunc(s.forms, func(a, b string) int { return len(b) - len(a) })
	if len(s.forms) > 0 {
		s.longest = len(s.forms[0])
	}
	return s
}

func (s *scrubber) mask(text string) string {
	for _, f := range s.forms {
		text = strings.ReplaceAll(text, f, "***")
	}
	return text
}

// clean returns at most limit bytes of text, without secrets, in printable characters on one line.
func (s *scrubber) clean(text string, limit int) string {
	text = s.mask(text)
	var b strings.Builder
	space := false
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) || r == ' ' {
			space = b.Len() > 0
			continue
		}
		if n := utf8.RuneLen(r); b.Len()+n+1 > limit {
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
