package config

import "strings"

// place is a line and a column, both counted from 1, columns in characters.
type place struct{ line, column int }

func blank(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' }

// reader walks over the source text of one scalar.
type reader struct {
	lines [][]rune
	first int // line number of lines[0]
	line  int // index into lines
	col   int // index into the line
}

func (r *reader) place() place { return place{r.first + r.line, r.col + 1} }

// next returns the character under the cursor; '\n' at the end of a line and 0 at the end of the text.
func (r *reader) next() rune {
	switch {
	case r.line >= len(r.lines):
		return 0
	case r.col >= len(r.lines[r.line]):
		return '\n'
	}
	return r.lines[r.line][r.col]
}

func (r *reader) advance() {
	if r.line >= len(r.lines) {
		return
	}
	if r.col >= len(r.lines[r.line]) {
		r.line, r.col = r.line+1, 0
		return
	}
	r.col++
}

// align finds where in the file each character of a scalar's text stands, and the place after the last one. YAML folds
// lines, strips indentation and unescapes; white space is therefore matched in runs, and everything else one to one.
// ok is false when the two could not be brought together; at then holds what could.
func (d *document) align(t *tree) (at []place, end place, ok bool) {
	if t.line < 1 || t.line > len(d.lines) {
		return nil, place{}, false
	}
	r := &reader{first: t.line, col: t.column - 1}
	// No more lines than the text can possibly fill: the rest of the file is none of its business.
	for _, line := range d.lines[t.line-1 : min(len(d.lines), t.line+strings.Count(t.raw, "\n")*2+len(t.raw)+1)] {
		r.lines = append(r.lines, []rune(line))
		if len(r.lines) > 1 && t.style == plainStyle && !strings.ContainsAny(t.raw, " \n") {
			break
		}
	}
	switch t.style {
	case doubleQuoted, singleQuoted:
		r.advance()
	case block:
		r.line, r.col = r.line+1, 0
	case plainStyle: // begins with its text
	}
	end = r.place()
	gap := t.style == block // white space may be skipped before the next character
	for _, c := range t.raw {
		if blank(c) {
			at, gap = append(at, r.place()), true
			continue
		}
		skipBlank(r, t.style, gap)
		gap = false
		at = append(at, r.place())
		if !match(r, t.style, c) {
			return at, end, false
		}
		end = r.place()
	}
	return at, end, true
}

// skipBlank moves over white space, and in double quotes over the escapes that stand for it.
func skipBlank(r *reader, s style, gap bool) {
	for {
		c := r.next()
		switch {
		case gap && blank(c) && r.line < len(r.lines):
			r.advance()
		case s == doubleQuoted && c == '\\' && r.line < len(r.lines):
			line := r.lines[r.line]
			if r.col+1 == len(line) { // an escaped end of line: it and the next line's indentation vanish
				r.advance()
				r.advance()
				gap = true
				continue
			}
			if !gap || !strings.ContainsRune("ntr \t", line[r.col+1]) {
				return
			}
			r.advance()
			r.advance()
		default:
			return
		}
	}
}

// match moves over the source of one character.
func match(r *reader, s style, want rune) bool {
	c := r.next()
	switch {
	case s == doubleQuoted && c == '\\':
		r.advance()
		length := map[rune]int{'x': 3, 'u': 5, 'U': 9}[r.next()]
		for range max(1, length) {
			r.advance()
		}
		return true
	case s == singleQuoted && c == '\'':
		r.advance()
		r.advance()
		return true
	case c != want:
		return false
	}
	r.advance()
	return true
}
