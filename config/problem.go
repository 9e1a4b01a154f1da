package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Pos is a place in a config file.
type Pos struct {
	// File is the name that was given to Load or Parse.
	File string `json:"file"`
	// Line and Column count from 1; Column counts characters, not bytes. 0 means unknown.
	Line   int `json:"line"`
	Column int `json:"column"`
}

// String is "file:line:column", without the parts that are not known.
func (p Pos) String() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d", p.Line)
		if p.Column > 0 {
			s += fmt.Sprintf(":%d", p.Column)
		}
	}
	return s
}

// mostProblems bounds what one pass over a file reports: a person mends a few and asks again, and a file that is wrong
// in every character must not cost a problem each.
const (
	mostProblems = 200
	tooMany      = "too many mistakes: the rest is not listed"
	tooManyFix   = "mend those before this one, then look again"
)

// Problem is one mistake in a config file. It never holds the value of a secret.
type Problem struct {
	// File, Line and Column say where, as in Pos. A problem that has no place in a file leaves them zero.
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	// Path is the setting's address, such as "routes.paid.when" or "connections.shop.webhook.secrets[1]"; empty for the file as a whole.
	Path string `json:"path,omitempty"`
	// Source is the offending line with secrets masked; long lines are cut around the column.
	Source string `json:"source,omitempty"`
	// Message says what is wrong, in one sentence that starts with a lower-case letter.
	Message string `json:"message"`
	// Fix says what to do about it; may be empty.
	Fix string `json:"fix,omitempty"`

	caret int       // column of the caret under Source, from 1
	doc   *document // to mask Source again once more secrets are known; nil for problems made by hand
}

// Error is the problem in one line: place, path, what is wrong and what to do.
func (p Problem) Error() string {
	var b strings.Builder
	if place := p.place(); place != "" {
		b.WriteString(place + ": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

func (p Problem) place() string { return Pos{p.File, p.Line, p.Column}.String() }

// show is the problem for a person: three or four lines with a caret under the offending text.
func (p Problem) show(b *strings.Builder) {
	if place := p.place(); place != "" {
		b.WriteString(place + ": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message + "\n")
	if p.Source != "" {
		fmt.Fprintf(b, "%6d | %s\n", p.Line, p.Source)
		if p.caret > 0 {
			fmt.Fprintf(b, "       | %s^\n", indentLike(p.Source, p.caret-1))
		}
	}
	if p.Fix != "" {
		b.WriteString("       = " + p.Fix + "\n")
	}
}

// indentLike is n columns of white space that line up under line: tabs stay tabs.
func indentLike(line string, n int) string {
	var b strings.Builder
	for _, r := range line {
		if n--; n < 0 {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	if n > 0 {
		b.WriteString(strings.Repeat(" ", n))
	}
	return b.String()
}

// Problems are mistakes sorted by place. As an error they print all of them for a person; they marshal to JSON as a list.
type Problems []Problem

// Error prints every problem: the place and what is wrong, the offending line with a caret under the text, what to do.
func (ps Problems) Error() string {
	if len(ps) == 0 {
		return "no problems"
	}
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte('\n')
		}
		p.show(&b)
	}
	if len(ps) > 1 {
		fmt.Fprintf(&b, "\n%d problems\n", len(ps))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Err returns the problems as an error, or nil when there are none.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Join gathers the problems of many errors: those that are Problem or Problems, joined or wrapped, with their places,
// and any other error as a problem without a place. They come sorted by place, each once, with lines masked by all
// that is now known of secrets. Nil errors are left out; no problems is nil.
func Join(errs ...error) Problems {
	var out Problems
	for _, err := range errs {
		out = flatten(out, err)
	}
	for i := range out {
		if out[i].doc != nil {
			out[i].Source, out[i].caret = out[i].doc.source(out[i].Line, out[i].Column)
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	seen := make(map[Problem]bool, len(out))
	return slices.DeleteFunc(out, func(p Problem) bool {
		p.doc, p.caret, p.Source = nil, 0, ""
		again := seen[p]
		seen[p] = true
		return again
	})
}

func flatten(out Problems, err error) Problems {
	switch e := err.(type) { //nolint:errorlint // it unwraps step by step
	case nil:
		return out
	case Problem:
		return append(out, e)
	case *Problem:
		return append(out, *e)
	case Problems:
		return append(out, e...)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			out = flatten(out, inner)
		}
		return out
	}
	if inner := errors.Unwrap(err); inner != nil && hasProblems(inner) {
		return flatten(out, inner)
	}
	return append(out, Problem{Message: err.Error()})
}

func hasProblems(err error) bool {
	if _, ok := errors.AsType[Problems](err); ok {
		return true
	}
	_, ok := errors.AsType[Problem](err)
	return ok
}

// quote shows a value in a message, cut when it is long, masked where it looks like a secret.
func quote(s string) string {
	const most = 60
	runes := []rune(s)
	if len(runes) > 4*most {
		runes = runes[:4*most]
	}
	spans := looksSecret(runes)
	slices.SortFunc(spans, func(a, b span) int { return a.start - b.start })
	runes, _ = maskSpans(runes, spans, 0)
	if len(runes) > most {
		runes = append(runes[:most:most], '…')
	}
	return fmt.Sprintf("%q", string(runes))
}
