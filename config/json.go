package config

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// plainJSON rewrites the two escapes of JSON strings that the YAML parser does not know, \/ and pairs of surrogates, as
// the characters they stand for. Anything but valid JSON is returned as it is. The rewritten text is then the text in
// all respects, so that places and masks agree with what is shown.
func plainJSON(text []byte) []byte {
	if !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) || !bytes.ContainsRune(text, '\\') || !json.Valid(text) {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' { // in valid JSON only strings hold backslashes
			out = append(out, text[i])
			continue
		}
		switch unit := codeUnit(text[i:]); {
		case text[i+1] == '/':
			out = append(out, '/')
			i++
		case utf16.IsSurrogate(unit):
			r := utf16.DecodeRune(unit, codeUnit(text[i+6:]))
			out = utf8.AppendRune(out, r) // U+FFFD for half a pair
			i += 5
			if r != utf8.RuneError {
				i += 6
			}
		default:
			out = append(out, text[i], text[i+1])
			i++
		}
	}
	return out
}

// codeUnit reads the \uXXXX that text starts with; 0 when it starts with something else.
func codeUnit(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(n)
}
