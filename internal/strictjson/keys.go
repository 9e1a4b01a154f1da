package strictjson

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hashSeed differs per process, so that nobody can write keys that all fall on one place of a table.
var hashSeed = maphash.MakeSeed()

// names checks an object's keys against one another, and files them when they are many. It returns what is wrong.
func (s *scanner) names(n *span, all []span) (reason string) {
	if len(all) <= maxSmall {
		for i := 1; i < len(all); i++ {
			for j := range i {
				if reason, _ := s.clash(n, &all[i], &all[j]); reason != "" {
					return reason
				}
			}
		}
		return ""
	}
	size := tableSize(len(all))
	n.table = uint32(len(s.doc.tables))
	s.doc.tables = append(s.doc.tables, make([]uint32, size)...)
	table := s.doc.tables[n.table:]
	for i := range all {
		at := uint32(hashFolded(s.doc.key(&all[i]))) & (size - 1)
		spellings := 1
		for ; table[at] != 0; at = (at + 1) & (size - 1) {
			reason, alike := s.clash(n, &all[i], &all[table[at]-1])
			if alike {
				spellings++
			}
			switch {
			case reason != "":
				return reason
			case spellings > MaxSpellings:
				return "too many keys differ in case only"
			}
		}
		table[at] = uint32(i) + 1
	}
	return ""
}

// clash says what is wrong with two members of the object n side by side; alike, that nothing is although their names differ in case only.
func (s *scanner) clash(n, a, b *span) (reason string, alike bool) {
	keyA, keyB := s.doc.key(a), s.doc.key(b)
	switch {
	case keyA == keyB:
		return "a key is there twice", false
	// Letters that differ in case only may differ in length: k has one byte and the Kelvin sign three.
	case len(keyA) > 3*len(keyB) || len(keyB) > 3*len(keyA) || !strings.EqualFold(keyA, keyB):
		return "", false
	case s.src[a.at:a.end] == s.src[b.at:b.end] || freeForm(s.doc.key(n)):
		return "", true
	}
	return "two keys differ in case only", false
}

// freeForm reports whether an object under this name holds keys of a user's making rather than a provider's fields.
func freeForm(name string) bool {
	switch strings.ToLower(name) {
	case "metadata", "headers", "labels", "tags", "custom_fields":
		return true
	}
	return false
}

// tableSize is the length of the table for count members: a power of two, at least half of it empty.
func tableSize(count int) uint32 { return 1 << bits.Len32(uint32(count)*2-1) }

// hashFolded is the same for names that differ in case only.
func hashFolded(name string) uint64 {
	for i := range len(name) {
		if c := name[i]; c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf {
			var room [64]byte
			folded := room[:0]
			for _, r := range name {
				folded = utf8.AppendRune(folded, fold(r))
			}
			return maphash.Bytes(hashSeed, folded)
		}
	}
	return maphash.String(hashSeed, name)
}

// fold is one letter for all that differ in case only: a small Latin one where there is one.
func fold(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	if least >= 'A' && least <= 'Z' {
		return least + 'a' - 'A'
	}
	return least
}
