package config

import (
	"slices"
	"strings"
	"sync"
	"unicode"
)

// document is one config file's text and what has been learned about it. Nodes point to it; the mutex guards what
// decoding adds, so that connections may be opened side by side.
type document struct {
	name  string
	lines []string // without their ends
	o     Options
	root  *tree // nil until the text has been read

	// Used while reading only.
	read  map[string]fileText
	grown int // bytes that references stand for

	mu       sync.Mutex
	masked   map[int][]span // by line, counted from 1
	seen     map[int]shownLine
	marked   map[*tree]bool
	warnings Problems
}

// span is a part of a line, in characters counted from 0, end not included.
type span struct{ start, end int }

// fileText is what came of reading a file that the config names.
type fileText struct {
	text string
	err  error
}

// shownLine is a line that a problem has shown: work done once, as many problems can share a line.
type shownLine struct {
	runes []rune
	spans []span // what looks like a secret
}

// widest is how much of a line a problem shows, in characters.
const widest = 120

func newDocument(name, text string, o Options) *document {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return &document{name: name, lines: lines, o: o, read: map[string]fileText{}, masked: map[int][]span{}, seen: map[int]shownLine{}, marked: map[*tree]bool{}}
}

// problem builds a Problem at a place.
func (d *document) problem(line, column int, path, message, fix string) Problem {
	if line > len(d.lines) { // the parser's place for what is missing at the end
		line = len(d.lines)
		column = len([]rune(d.lines[line-1])) + 1
	}
	p := Problem{File: d.name, Line: line, Column: column, Path: path, Message: message, Fix: fix, doc: d}
	p.Source, p.caret = d.source(line, column)
	return p
}

// warn keeps a problem that does not stop the hub; the same one only once.
func (d *document) warn(p Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	same := func(o Problem) bool {
		return o.Line == p.Line && o.Column == p.Column && o.Path == p.Path && o.Message == p.Message
	}
	if !slices.ContainsFunc(d.warnings, same) {
		d.warnings = append(d.warnings, p)
	}
}

// source returns a line as a problem may show it, secrets masked and cut to the part around column, and the column of
// the caret in what is shown (0 for none).
func (d *document) source(line, column int) (text string, caret int) {
	if line < 1 || line > len(d.lines) {
		return "", 0
	}
	runes, spans := d.line(line)
	// A line can be a whole file: look only at what can be shown, however much masks shorten it.
	start := max(0, min(column-1-widest/3, len(runes)-widest))
	var near []span
	for _, s := range spans {
		if s.end > start {
			near = append(near, span{max(0, s.start-start), s.end - start})
		}
	}
	shown, caret := maskSpans(runes[start:min(len(runes), start+4*widest)], near, max(0, column-start))
	for i, r := range shown {
		if r != '\t' && !unicode.IsPrint(r) {
			shown[i] = '\uFFFD'
		}
	}
	if start > 0 && len(shown) > 0 {
		shown[0] = '…'
	}
	if len(shown) > widest {
		shown = shown[:widest]
		shown[widest-1] = '…'
	}
	return strings.TrimRightFunc(string(shown), unicode.IsSpace), caret
}

// line returns a line's characters and what of it is to be masked, sorted.
func (d *document) line(number int) ([]rune, []span) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen, ok := d.seen[number]
	if !ok {
		seen.runes = []rune(d.lines[number-1])
		seen.spans = looksSecret(seen.runes)
		d.seen[number] = seen
	}
	spans := append(slices.Clone(d.masked[number]), seen.spans...)
	slices.SortFunc(spans, func(a, b span) int { return a.start - b.start })
	return seen.runes, spans
}

// maskSpans replaces the spans, sorted, of a line by the mask and moves the column along.
func maskSpans(line []rune, spans []span, column int) (shown []rune, caret int) {
	at := 0
	caret = column
	for _, s := range spans {
		s.start, s.end = max(s.start, at), min(s.end, len(line))
		if s.end <= s.start {
			continue
		}
		shown = append(shown, line[at:s.start]...)
		switch {
		case column-1 >= s.end:
			caret += len(mask) - (s.end - s.start)
		case column-1 >= s.start:
			caret = len(shown) + 1
		}
		shown = append(shown, []rune(mask)...)
		at = s.end
	}
	return append(shown, line[at:]...), caret
}

// conceal makes sure that no problem shows the text of t or of what is below it. References to the environment or to
// files stay readable: they are the remedy, not the secret.
func (d *document) conceal(t *tree) {
	if t == nil {
		return
	}
	for _, item := range t.items {
		d.conceal(item)
	}
	if t.kind == List || t.kind == Map || t.kind == Null || t.raw == "" || onlyReferences(t.raw) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.marked[t] {
		return
	}
	d.marked[t] = true
	from, to := d.extent(t)
	for line := from.line; line <= to.line && line <= len(d.lines); line++ {
		runes := []rune(d.lines[line-1])
		s := span{0, len(runes)}
		for s.start < len(runes) && blank(runes[s.start]) {
			s.start++
		}
		if line == from.line {
			s.start = from.column - 1
		}
		if line == to.line {
			s.end = to.column - 1
		}
		if s.end > s.start {
			d.masked[line] = append(d.masked[line], s)
		}
	}
}

// extent returns where the text of a scalar starts and ends (the character after it).
func (d *document) extent(t *tree) (from, to place) {
	at, end, ok := d.align(t)
	if ok && len(at) > 0 {
		return at[0], end
	}
	// The text could not be followed: everything up to the next line that is not deeper than this one belongs to it.
	from = place{t.line, t.column}
	to = place{t.line, len([]rune(d.lines[t.line-1])) + 1}
	depth := indentation(d.lines[t.line-1])
	for line := t.line + 1; line <= len(d.lines); line++ {
		text := d.lines[line-1]
		if strings.TrimSpace(text) != "" && indentation(text) <= depth {
			break
		}
		to = place{line, len([]rune(text)) + 1}
	}
	return from, to
}

func indentation(line string) int { return len(line) - len(strings.TrimLeft(line, " \t")) }

// secretWords are the parts of key names whose values are concealed before any connector has said which of its settings
// are secrets. Settings of type Secret are concealed whatever they are called.
var secretWords = [...]string{
	"secret", "password", "passwd", "passphrase", "token", "api_key", "apikey", "private_key", "access_key", "signing_key",
	"credential", "authorization", "cookie", "postgres", "dsn",
}

// secretStarts are the first letters that providers give to their secrets so that they are recognised.
var secretStarts = [...]string{"sk_", "rk_", "whsec_", "whsk_", "xoxb-", "xoxp-", "ghp_", "github_pat_", "pat-", "shpat_", "shpss_", "EAAA", "SG.", "Bearer ", "Basic ", "-----BEGIN"}

// looksSecret finds literal values in a line that are probably secrets: what follows a telling key or starts as
// providers' secrets do, and passwords inside URLs. It knows no YAML, so that it also serves for lines that could not be read.
func looksSecret(line []rune) []span {
	text := string(line)
	lower := strings.ToLower(text)
	var out []span
	for _, w := range secretWords {
		for from := 0; ; {
			i := strings.Index(lower[from:], w)
			if i < 0 || len(lower) != len(text) {
				break
			}
			from += i + len(w)
			if s, ok := valueAfterKey(text, from); ok {
				out = append(out, runeSpan(text, s))
			}
		}
	}
	for _, w := range secretStarts {
		for from := 0; ; {
			i := strings.Index(text[from:], w)
			if i < 0 {
				break
			}
			start := from + i
			from = start + len(w)
			end := from + valueEnd(text[from:])
			if start > 0 && wordByte(text[start-1]) || end-from < 4 {
				continue
			}
			out = append(out, runeSpan(text, span{start, end}))
		}
	}
	if i := strings.Index(text, "://"); i >= 0 {
		rest := text[i+3:]
		host, _, found := strings.Cut(rest, "@")
		if found && !strings.ContainsAny(host, "/ \"'${") && strings.Contains(host, ":") {
			_, password, _ := strings.Cut(host, ":")
			end := i + 3 + len(host)
			out = append(out, runeSpan(text, span{end - len(password), end}))
		}
	}
	return out
}

// valueAfterKey finds the value of a key that a telling word is part of: from is the byte after the word.
func valueAfterKey(text string, from int) (span, bool) {
	for from < len(text) && wordByte(text[from]) {
		from++
	}
	rest := strings.TrimLeft(text[from:], `"' `)
	if !strings.HasPrefix(rest, ":") {
		return span{}, false
	}
	rest = strings.TrimLeft(rest[1:], " \t")
	list := strings.HasPrefix(rest, "[")
	rest = strings.TrimLeft(rest, "[ \t\"'")
	start := len(text) - len(rest)
	end := start + valueEnd(rest)
	if list {
		if i := strings.IndexByte(rest, ']'); i >= 0 {
			end = start + i
		} else {
			end = len(text)
		}
	}
	if start >= end || text[start] == '{' || strings.ContainsAny(text[start:start+1], "|>#") || strings.HasPrefix(rest, "${") {
		return span{}, false
	}
	return span{start, end}, true
}

// valueEnd is the length of the value that s starts with, judged by what can end one.
func valueEnd(s string) int {
	if i := strings.IndexAny(s, "\"',}]"); i >= 0 {
		s = s[:i]
	}
	if i := strings.Index(s, " #"); i >= 0 {
		s = s[:i]
	}
	return len(strings.TrimRight(s, " \t"))
}

func wordByte(c byte) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func runeSpan(text string, s span) span {
	start := len([]rune(text[:s.start]))
	return span{start, start + len([]rune(text[s.start:s.end]))}
}
