package scenarios

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	nearMost = 3 // words that are offered
	nearPart = 3 // a word counts as a part of another one from this length on
)

// unknown is the error about a word that names no scenario, with those that were perhaps meant.
func unknown(word string, known []string) error {
	hint := ""
	if meant := near(word, known); len(meant) > 0 {
		hint = fmt.Sprintf(": did you mean %s?", strings.Join(meant, " or "))
	}
	return fmt.Errorf("no scenario or family is called %q%s ('chaos list' names them all)", word, hint)
}

// near picks the known words that differ from a word in few letters, or have it as a part, the nearest first.
func near(word string, known []string) []string {
	word = strings.ToLower(word)
	type candidate struct {
		name string
		far  int
	}
	var found []candidate
	for _, k := range known {
		far := distance(word, k)
		switch {
		case len(word) < nearPart:
		case strings.HasPrefix(k, word):
			far = 0
		case strings.Contains(k, word):
			far = min(far, 1)
		}
		if far <= len(word)/nearPart {
			found = append(found, candidate{k, far})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return cmp.Compare(a.far, b.far) })
	var names []string
	for _, c := range found[:min(len(found), nearMost)] {
		names = append(names, c.name)
	}
	return names
}

// distance is how many letters must be put in, left out or changed to make b of a: V. Levenshtein, "Binary codes capable of correcting deletions, insertions and
// reversals", Soviet Physics Doklady 10 (1966).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
