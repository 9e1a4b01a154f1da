package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Near returns the word of known that a person most probably meant by word, or "" when none is close.
func Near(word string, known []string) string {
	best, bestDistance := "", len(word)/3+1
	if len(word) > 64 {
		return ""
	}
	for _, k := range known {
		if max(len(word)-len(k), len(k)-len(word)) > bestDistance+utf8.UTFMax { // not worth counting
			continue
		}
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if d < bestDistance || d == bestDistance && best == "" {
			best, bestDistance = k, d
		}
	}
	if len(best) <= bestDistance { // every letter would have to change
		return ""
	}
	return best
}

// Suggest is the advice for a word that is not one of known: what was probably meant, and what there is. Known words
// are listed in the order given, at most 20 of them; what says what they are, in the plural, such as "keys".
func Suggest(word, what string, known []string) string {
	var parts []string
	if near := Near(word, known); near != "" {
		parts = append(parts, fmt.Sprintf("did you mean %q?", near))
	}
	switch {
	case len(known) == 0:
		parts = append(parts, "there are no "+what)
	case len(known) > 20:
		parts = append(parts, fmt.Sprintf("%s: %s and %d more", what, strings.Join(known[:20], ", "), len(known)-20))
	default:
		parts = append(parts, fmt.Sprintf("%s: %s", what, strings.Join(known, ", ")))
	}
	return strings.Join(parts, " ")
}

// distance counts the letters to insert, remove, change or swap with their neighbour to make b of a.
func distance(a, b string) int {
	ra, rb := []rune(a), []rune(b)
	before, last := make([]int, len(rb)+1), make([]int, len(rb)+1)
	for j := range last {
		last[j] = j
	}
	for i := range ra {
		row := make([]int, len(rb)+1)
		row[0] = i + 1
		for j := range rb {
			cost := 1
			if ra[i] == rb[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && ra[i] == rb[j-1] && ra[i-1] == rb[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(rb)]
}

// sorted returns the words in alphabetical order, leaving the argument alone.
func sorted(words []string) []string {
	out := slices.Clone(words)
	slices.Sort(out)
	return out
}
