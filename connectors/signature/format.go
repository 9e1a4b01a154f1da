package signature

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxSignatures bounds how many signatures one call may list: each costs a comparison with every key.
const maxSignatures = 32

// place is where a signature is and how it is written.
type place struct {
	header   string // canonical
	query    string
	field    string
	format   Format
	encoding string // hex or base64
}

// found is what find took out of a call.
type found struct {
	values []string
	ts     string // the timestamp of the kv format
	form   []pair // the body, when it had to be parsed; else nil
}

// where names the place for people.
func (p *place) where() string {
	switch {
	case p.header != "":
		return "header " + p.header
	case p.query != "":
		return "query parameter " + p.query
	case p.field != "":
		return "field " + p.field
	}
	return "the body"
}

// find takes the signatures out of the call, appending to room.
func (p *place) find(c *Request, room []string) (found, error) {
	switch {
	case p.field != "":
		form, err := parseForm(c.Body)
		if err != nil {
			return found{}, err
		}
		value, err := field(form, p.field)
		return found{values: append(room, value), form: form}, err
	case p.query != "":
		value, err := queryParameter(c, p.query)
		if err != nil {
			return found{}, err
		}
		return p.read(value, room)
	}
	if p.format.MultiSep != "" {
		return p.readMany(c.Header[p.header], room)
	}
	value, err := single(c, p.header)
	if err != nil {
		return found{}, err
	}
	return p.read(value, room)
}

// read takes one value apart.
func (p *place) read(value string, room []string) (found, error) {
	var f found
	var err error
	switch p.format.Kind {
	case "prefix":
		bare, ok := strings.CutPrefix(value, p.format.Prefix)
		if !ok {
			return f, refuse(Malformed, "%s does not begin with %q", p.where(), p.format.Prefix)
		}
		f.values = append(room, bare)
	case "kv":
		f, err = p.readPairs(value, room)
	case "list":
		f, err = p.readList(value, room)
	default:
		f.values = append(room, value)
	}
	switch {
	case err != nil:
		return f, err
	case len(f.values) > maxSignatures:
		return f, refuse(Malformed, "%s lists more than %d signatures", p.where(), maxSignatures)
	}
	return f, nil
}

// readMany reads a header that may be repeated and may hold several values: entries without the prefix are ignored.
func (p *place) readMany(lines []string, room []string) (found, error) {
	f := found{values: room}
	if len(lines) == 0 {
		return f, refuse(Missing, "no header %s", p.header)
	}
	for _, line := range lines {
		for entry := range strings.SplitSeq(line, p.format.MultiSep) {
			bare, ok := strings.CutPrefix(strings.TrimLeft(entry, " "), p.format.Prefix)
			if ok && bare != "" {
				f.values = append(f.values, bare)
			}
		}
	}
	switch {
	case len(f.values) == 0:
		return f, refuse(Malformed, "%s holds no value that begins with %q", p.where(), p.format.Prefix)
	case len(f.values) > maxSignatures:
		return f, refuse(Malformed, "%s lists more than %d signatures", p.where(), maxSignatures)
	}
	return f, nil
}

// readPairs reads "t=…,v1=…,v1=…,v0=…": one timestamp, any number of signatures, other names ignored.
func (p *place) readPairs(value string, room []string) (found, error) {
	f := found{values: room}
	stamps := 0
	for entry := range strings.SplitSeq(value, p.format.PairSep) {
		name, v, ok := strings.Cut(entry, p.format.KVSep)
		if !ok || strings.Contains(v, p.format.KVSep) && p.encoding == encodingHex {
			return f, refuse(Malformed, "%s is not a list of name%svalue", p.where(), p.format.KVSep)
		}
		switch name {
		case p.format.TS:
			f.ts = v
			stamps++
		case p.format.Sig:
			f.values = append(f.values, v)
		}
	}
	switch {
	case p.format.TS != "" && stamps == 0:
		return f, refuse(Missing, "%s has no %s", p.where(), p.format.TS)
	case stamps > 1:
		return f, refuse(Malformed, "%s has %d times %s", p.where(), stamps, p.format.TS)
	case len(f.values) == 0:
		return f, refuse(Missing, "%s has no %s, the version of the signature that is accepted", p.where(), p.format.Sig)
	}
	return f, nil
}

// readList reads "v1,… v1,… v1a,…": entries of other versions are ignored.
func (p *place) readList(value string, room []string) (found, error) {
	f := found{values: room}
	for entry := range strings.SplitSeq(value, p.format.Sep) {
		version, v, ok := strings.Cut(entry, p.format.VersionSep)
		if ok && version == p.format.Version {
			f.values = append(f.values, v)
		}
	}
	if len(f.values) == 0 {
		return f, refuse(Missing, "%s has no signature of version %s", p.where(), p.format.Version)
	}
	return f, nil
}

const (
	encodingHex    = "hex"
	encodingBase64 = "base64"
)

// strictBase64 refuses padding bits that are not zero.
var strictBase64 = base64.StdEncoding.Strict()

// fromBase64 reads base64 strictly, without the line ends that the standard library skips.
func fromBase64(buf []byte, value string) ([]byte, bool) {
	if strings.ContainsAny(value, "\r\n") {
		return buf, false
	}
	out, err := strictBase64.AppendDecode(buf, []byte(value))
	return out, err == nil
}

// decode reads a signature strictly into buf: the whole value, padded as it should be, without white space.
func (p *place) decode(buf []byte, value string) ([]byte, bool) {
	if value == "" || len(value) > 4096 {
		return buf, false
	}
	if p.encoding == encodingBase64 {
		return fromBase64(buf, value)
	}
	out, err := hex.AppendDecode(buf, []byte(value))
	return out, err == nil
}

// timestamp is where a call's clock is and how far it may be from ours.
type timestamp struct {
	header    string // canonical; "" when the signature's own header holds it
	unit      string // s, ms, rfc3339; "" when the scheme has no timestamp
	enforce   bool
	tolerance time.Duration
}

// on reports whether the scheme has a timestamp at all.
func (t *timestamp) on() bool { return t.unit != "" }

// read returns the timestamp as it is signed. late is the refusal when it is outside the tolerance, on either side; err when it cannot be read.
func (t *timestamp) read(c *Request, inHeader string) (ts string, late *Refusal, err error) {
	if !t.on() {
		return "", nil, nil
	}
	ts = inHeader
	if t.header != "" {
		if ts, err = single(c, t.header); err != nil {
			return "", nil, err
		}
	}
	at, err := t.parse(ts)
	if err != nil || !t.enforce {
		return ts, nil, err
	}
	switch age := c.At.Sub(at); {
	case age > t.tolerance:
		late = refuse(Expired, "its timestamp is %s old, more than the tolerance of %s", age.Round(time.Second), t.tolerance)
	case -age > t.tolerance:
		late = refuse(Future, "its timestamp is %s ahead of our clock, more than the tolerance of %s", (-age).Round(time.Second), t.tolerance)
	}
	return ts, late, nil
}

// parse reads a timestamp. Seconds are ten digits and milliseconds thirteen (the years 2001 to 2286): a shorter or longer
// number would be one whose end was moved into its neighbour in the signed text.
func (t *timestamp) parse(ts string) (time.Time, error) {
	switch t.unit {
	case "rfc3339":
		at, err := time.Parse(time.RFC3339Nano, ts)
		if err != nil {
			return at, refuse(Malformed, "its timestamp is not an RFC 3339 time")
		}
		return at, nil
	case "ms":
		n, ok := digits(ts, 13)
		if !ok {
			return time.Time{}, refuse(Malformed, "its timestamp is not milliseconds: 13 digits")
		}
		return time.UnixMilli(n), nil
	}
	n, ok := digits(ts, 10)
	if !ok {
		return time.Time{}, refuse(Malformed, "its timestamp is not seconds: 10 digits")
	}
	return time.Unix(n, 0), nil
}

// digits reads exactly n decimal digits, no sign and no other script's.
func digits(s string, n int) (int64, bool) {
	if len(s) != n {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil
}

// canonical is http.CanonicalHeaderKey, but "" stays "".
func canonical(header string) string { return http.CanonicalHeaderKey(header) }
