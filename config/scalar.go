package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// scalar fills a bool, number or string.
func (d *decoder) scalar(n Node, v reflect.Value, s setting) {
	k := n.Kind()
	if k == String && n.Expanded() { // what comes from the environment is text; the field says what it means
		if v.Kind() != reflect.String {
			k = plainKind(n.Value())
		}
	}
	switch v.Kind() {
	case reflect.String:
		if k != String {
			d.wrong(n, "a text", `put quotes around it`)
			return
		}
		if d.listed(n, n.Value(), s) {
			v.SetString(n.Value())
		}
	case reflect.Bool:
		if k != Bool {
			d.wrong(n, "true or false", "write true or false, without quotes")
			return
		}
		v.SetBool(strings.EqualFold(n.Value(), "true"))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if k != Int {
			d.wrong(n, "a whole number", "write digits only, without quotes"+rangeHint(s.bounds))
			return
		}
		if leadingZeros.MatchString(n.Value()) {
			d.wrongText(n, "a number with leading zeros", "octal to some readers and decimal to others: write it without them")
			return
		}
		x, err := strconv.ParseInt(strings.TrimPrefix(n.Value(), "+"), 0, 64)
		if err != nil || v.OverflowInt(x) {
			d.wrongText(n, "out of range", strings.TrimPrefix(rangeHint(s.bounds), "; "))
			return
		}
		v.SetInt(x)
		d.within(n, float64(x), s, func(bound string) (float64, error) { return strconv.ParseFloat(bound, 64) })
	case reflect.Float32, reflect.Float64:
		x, err := strconv.ParseFloat(n.Value(), 64)
		if k != Int && k != Float || err != nil || x != x || x > 1e300 || x < -1e300 {
			d.wrong(n, "a number", "write a number such as 0.2, without quotes"+rangeHint(s.bounds))
			return
		}
		v.SetFloat(x)
		d.within(n, x, s, func(bound string) (float64, error) { return strconv.ParseFloat(bound, 64) })
	default:
		panic(fmt.Sprintf("config: settings of type %s (%s) are not supported", v.Type(), n.path))
	}
}

var leadingZeros = regexp.MustCompile(`^[-+]?0[0-9]`)

// text fills a type that reads itself from text.
func (d *decoder) text(n Node, v reflect.Value, u encoding.TextUnmarshaler, s setting) {
	k := n.Kind()
	if k <= Null || k >= List {
		d.wrong(n, textual(v.Type()), "write it as one text")
		return
	}
	if err := u.UnmarshalText([]byte(n.Value())); err != nil {
		if e, ok := errors.AsType[*unitError](err); ok {
			d.wrongText(n, e.message, e.fix+rangeHint(s.bounds))
			return
		}
		// Errors of other types' parsers quote what they were given.
		d.wrongText(n, "not "+textual(v.Type()), textualFix(v.Type()))
		return
	}
	if s.bounds != "" {
		d.within(n, magnitude(v), s, func(bound string) (float64, error) {
			other := reflect.New(v.Type())
			err := other.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(bound))
			return magnitude(other.Elem()), err
		})
	}
	d.listed(n, n.Value(), s)
}

// wrongText reports a text that does not say what it should.
func (d *decoder) wrongText(n Node, message, fix string) {
	if !n.doc.hidden(n.tree) {
		message += ": " + quote(n.tree.raw)
	}
	d.fail(n, message, fix)
}

// magnitude is what a range compares.
func magnitude(v reflect.Value) float64 {
	switch {
	case v.CanInt():
		return float64(v.Int())
	case v.Type() == reflect.TypeFor[Rate]():
		return v.Interface().(Rate).PerSecond()
	}
	panic(fmt.Sprintf("config: a range on settings of type %s", v.Type()))
}

// textual says what a type's text is.
func textual(t reflect.Type) string {
	switch t.String() {
	case "config.Duration":
		return "a duration"
	case "config.Size":
		return "a size"
	case "config.Rate":
		return "a rate"
	case "netip.Prefix":
		return "a network"
	case "netip.Addr":
		return "an IP address"
	case "netip.AddrPort":
		return "an IP address with a port"
	}
	return "a " + t.Name()
}

func textualFix(t reflect.Type) string {
	switch t.String() {
	case "netip.Prefix":
		return "write an address and a length, such as 10.0.0.0/8 or 192.0.2.1/32"
	case "netip.Addr":
		return "write an address such as 192.0.2.1 or 2001:db8::1"
	case "netip.AddrPort":
		return "write an address and a port, such as 192.0.2.1:8080"
	}
	return ""
}

// listed checks an enum tag.
func (d *decoder) listed(n Node, value string, s setting) bool {
	if len(s.enum) == 0 || slices.Contains(s.enum, value) {
		return true
	}
	d.wrongText(n, "not one of the values this can have", Suggest(value, "values", s.enum))
	return false
}

// within checks a range tag, "low..high"; an empty end is open.
func (d *decoder) within(n Node, x float64, s setting, parse func(string) (float64, error)) {
	if s.bounds == "" {
		return
	}
	low, high, _ := strings.Cut(s.bounds, "..")
	for _, end := range [...]struct {
		bound string
		sign  float64
	}{{low, 1}, {high, -1}} {
		if end.bound == "" {
			continue
		}
		limit, err := parse(end.bound)
		if err != nil {
			panic(fmt.Sprintf("config: the range %q of %s cannot be read", s.bounds, n.path))
		}
		if (x-limit)*end.sign < 0 {
			d.wrongText(n, "out of range", strings.TrimPrefix(rangeHint(s.bounds), "; "))
			return
		}
	}
}

// rangeHint says in words what a range tag allows.
func rangeHint(bounds string) string {
	low, high, _ := strings.Cut(bounds, "..")
	switch {
	case bounds == "":
		return ""
	case low == "":
		return "; at most " + high
	case high == "":
		return "; at least " + low
	}
	return "; from " + low + " to " + high
}
