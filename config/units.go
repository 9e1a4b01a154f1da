package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time as people write it: "500ms", "10s", "15m", "1h30m", "7d", "2w". A day is 24 hours, a
// week seven days. Never negative. Convert with time.Duration(d) or Std.
type Duration time.Duration

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes d the way it is read, with the largest units that fit: "7d", "1h30m", "250ms"; zero is "0s".
func (d Duration) String() string {
	if d == 0 {
		return "0s"
	}
	var b strings.Builder
	rest := time.Duration(d)
	if rest < 0 {
		return rest.String()
	}
	for _, u := range [...]struct {
		name string
		unit time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}} {
		if n := rest / u.unit; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10))
			b.WriteString(u.name)
			rest %= u.unit
		}
	}
	if rest > 0 {
		b.WriteString(rest.String())
	}
	return b.String()
}

// MarshalText returns String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration as described at Duration.
func (d *Duration) UnmarshalText(text []byte) error {
	const fix = `write a number and a unit, such as 500ms, 10s, 15m, 1h30m or 7d`
	s := string(text)
	if s == "0" {
		*d = 0
		return nil
	}
	if plainNumber(s) {
		return &unitError{"a duration without a unit", fmt.Sprintf("say which unit is meant, such as %ss or %sm", s, s)}
	}
	total := time.Duration(0)
	rest := s
	// time.ParseDuration knows no days and weeks: take those off the front, hand on what is left.
	for _, u := range [...]struct {
		name string
		unit time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		before, after, found := strings.Cut(rest, u.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(before, 10, 32)
		if err != nil || time.Duration(n) > (math.MaxInt64-total)/u.unit {
			return &unitError{"not a duration", fix}
		}
		total += time.Duration(n) * u.unit
		rest = after
	}
	if rest == "" && s != "" {
		*d = Duration(total)
		return nil
	}
	tail, err := time.ParseDuration(rest)
	switch {
	case err != nil:
		return &unitError{"not a duration", fix}
	case tail < 0 || strings.HasPrefix(rest, "-"):
		return &unitError{"a negative duration", "durations start at 0s"}
	case tail > math.MaxInt64-total:
		return &unitError{"not a duration", fix}
	}
	*d = Duration(total + tail)
	return nil
}

// Size is a number of bytes: "512KiB", "1MiB", "2GiB" (powers of 1024), "500kB", "1MB" (powers of 1000), or a plain number of bytes.
type Size int64

var sizeUnits = [...]struct {
	name string
	unit int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// Int64 returns s in bytes.
func (s Size) Int64() int64 { return int64(s) }

// String writes s with the largest power of 1024 that divides it: "1MiB", "1536KiB"; otherwise in bytes: "1000B".
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if s != 0 && int64(s)%u.unit == 0 {
			return strconv.FormatInt(int64(s)/u.unit, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText returns String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a size as described at Size.
func (s *Size) UnmarshalText(text []byte) error {
	bad := &unitError{"not a size", "write a number of bytes or a number and a unit, such as 512KiB, 1MiB or 2GiB"}
	number, unit := string(text), int64(1)
	for _, u := range sizeUnits {
		if before, found := strings.CutSuffix(number, u.name); found {
			number, unit = strings.TrimSpace(before), u.unit
			break
		}
	}
	if whole, err := strconv.ParseUint(number, 10, 63); err == nil {
		if int64(whole) > math.MaxInt64/unit {
			return bad
		}
		*s = Size(int64(whole) * unit)
		return nil
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !plainNumber(number) || n*float64(unit) >= math.MaxInt64 {
		return bad
	}
	*s = Size(math.Round(n * float64(unit)))
	return nil
}

// Rate is how often something may happen: "50/s", "3000/m", "10/h". The zero value means no limit.
type Rate struct {
	// Count is how many in each Per; more than 0 unless the Rate is zero.
	Count float64
	// Per is one second, one minute or one hour.
	Per time.Duration
}

// IsZero reports whether no limit is set.
func (r Rate) IsZero() bool { return r.Count <= 0 || r.Per <= 0 }

// PerSecond is the rate in events a second; 0 when no limit is set.
func (r Rate) PerSecond() float64 {
	if r.IsZero() {
		return 0
	}
	return r.Count / r.Per.Seconds()
}

// String writes r the way it is read; no limit is "".
func (r Rate) String() string {
	if r.IsZero() {
		return ""
	}
	unit := "s"
	switch r.Per {
	case time.Minute:
		unit = "m"
	case time.Hour:
		unit = "h"
	}
	return strconv.FormatFloat(r.Count, 'f', -1, 64) + "/" + unit
}

// MarshalText returns String.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a rate as described at Rate. At most a million a second.
func (r *Rate) UnmarshalText(text []byte) error {
	bad := &unitError{"not a rate", "write how many per second, minute or hour, such as 50/s, 3000/m or 10/h"}
	number, unit, found := strings.Cut(string(text), "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !found || err != nil || !plainNumber(strings.TrimSpace(number)) {
		return bad
	}
	var per time.Duration
	switch strings.TrimSpace(unit) {
	case "s", "sec", "second":
		per = time.Second
	case "m", "min", "minute":
		per = time.Minute
	case "h", "hour":
		per = time.Hour
	default:
		return bad
	}
	if n <= 0 || n/per.Seconds() > 1e6 {
		return &unitError{"a rate out of range", "rates are above 0 and at most 1000000/s; to set no limit, remove the line"}
	}
	*r = Rate{Count: n, Per: per}
	return nil
}

// unitError is a text that could not be read. It does not hold the text, which may have come from the environment.
type unitError struct{ message, fix string }

func (e *unitError) Error() string { return e.message + ": " + e.fix }

// plainNumber reports whether s is digits with at most one point: no sign, exponent, "inf" or hexadecimal.
func plainNumber(s string) bool {
	digits, points := 0, 0
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c == '.':
			points++
		default:
			return false
		}
	}
	return digits > 0 && points <= 1
}
