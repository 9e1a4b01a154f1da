package expression

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Problem is one mistake in the text of an expression.
type Problem struct {
	// Line and Column say where, from 1; Column counts characters.
	Line, Column int
	// Message says what is wrong, in one sentence that starts with a lower-case letter.
	Message string
	// Snippet is the offending line, at most 120 characters of it around the place.
	Snippet string
}

// CompileError is what is wrong with the text of an expression: at least one problem, sorted by place, at most ten.
type CompileError struct{ Problems []Problem }

// Error is the first problem and how many follow.
func (e *CompileError) Error() string {
	p := e.Problems[0]
	s := fmt.Sprintf("%s (line %d, column %d)", p.Message, p.Line, p.Column)
	if more := len(e.Problems) - 1; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// ErrHidden is told in place of a RunError where the expression's text holds values from outside the file, which an error must not show.
var ErrHidden = errors.New("the expression failed; it holds values from outside the file (${…}), so it is not shown")

// RunError is why an expression gave no value for an event. It holds no value of the event's body: names of fields
// and functions come from the expression's own text.
type RunError struct {
	// Text is the expression, cut to 200 characters.
	Text string
	// Line and Column say where in the expression, from 1; Column counts characters. 0 when the expression failed as a whole.
	Line, Column int
	// Message says what is wrong, in a sentence that starts with a lower-case letter, such as "no such field: customer in body.data.object".
	Message string
}

// Error is the message, the expression and the place in it.
func (e *RunError) Error() string {
	if e.Column == 0 {
		return fmt.Sprintf("%s, in %q", e.Message, e.Text)
	}
	if e.Line > 1 {
		return fmt.Sprintf("%s, at line %d, column %d of %q", e.Message, e.Line, e.Column, e.Text)
	}
	return fmt.Sprintf("%s, at column %d of %q", e.Message, e.Column, e.Text)
}

// refusal is an error of one of our own functions. Its text is fixed and may be shown, unlike those of CEL, which quote values.
type refusal string

func (r refusal) Error() string { return string(r) }

func failure(message string) ref.Val { return types.WrapErr(refusal(message)) }

// cut shortens s to n characters.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// snippet is line from the text, at most 120 characters around column.
func snippet(text string, line, column int) string {
	lines := strings.Split(text, "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	r := []rune(strings.TrimRight(lines[line-1], "\r"))
	const width = 120
	if len(r) > width {
		from := min(max(column-width/2, 0), len(r)-width)
		r = r[from : from+width]
	}
	return string(r)
}
