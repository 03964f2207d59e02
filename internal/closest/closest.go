// Package closest finds the word that someone may have meant.
package closest

import (
	"strings"
	"unicode/utf8"
)

// To returns the candidate that is nearest to word in spelling, or the empty
// string if none is near.
func To(word string, candidates []string) string {
	best, bestDistance := "", Limit(word)+1
	for _, c := range candidates {
		if d := Distance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// Limit is the largest distance from word at which another is still near.
func Limit(word string) int { return 1 + utf8.RuneCountInString(word)/4 }

// Distance is the number of letters to insert, delete, replace or swap with
// their neighbour to make one word of the other, in lower case (the optimal
// string alignment distance).
func Distance(a, b string) int {
	s, t := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	before, previous, current := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(s); i++ {
		current[0] = i
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(t)]
}
