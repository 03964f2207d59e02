// Package closest finds the words that someone may have meant.
package closest

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Finder keeps the candidates that are nearest to a word, however many it is
// shown. It is for use by one goroutine.
type Finder struct {
	word  []rune
	limit int // how many to keep
	best  []candidate
	row   [3][]int
}

type candidate struct {
	name string
	cost int
}

// New makes a finder that keeps at most limit candidates.
func New(word string, limit int) *Finder {
	return &Finder{word: []rune(strings.ToLower(word)), limit: limit}
}

// bound is how many edits may lie between a word and one that is meant.
func (c *Finder) bound() int {
	bound := min(3, (len(c.word)+1)/3)
	if len(c.best) == c.limit {
		bound = min(bound, c.best[len(c.best)-1].cost)
	}
	return bound
}

// Show offers a candidate.
func (c *Finder) Show(name string) {
	bound := c.bound()
	lower := strings.ToLower(name)
	cost := bound + 1
	switch n := utf8.RuneCountInString(lower); {
	case len(c.word) >= 3 && strings.HasPrefix(lower, string(c.word)):
		cost = 1
	case n-len(c.word) <= bound && len(c.word)-n <= bound:
		cost = c.distance([]rune(lower))
	}
	if cost > bound || slices.ContainsFunc(c.best, func(b candidate) bool { return b.name == name }) {
		return
	}
	at, _ := slices.BinarySearchFunc(c.best, candidate{name, cost}, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.name, b.name))
	})
	c.best = slices.Insert(c.best, at, candidate{name, cost})
	c.best = c.best[:min(len(c.best), c.limit)]
}

// distance is how many letters must be added, left out, replaced or swapped
// with their neighbour to make the word of name (optimal string alignment).
func (c *Finder) distance(name []rune) int {
	before, last, row := c.row[0], c.row[1], c.row[2]
	last = last[:0]
	for j := range len(name) + 1 {
		last = append(last, j)
	}
	for i, a := range c.word {
		row = append(row[:0], i+1)
		for j, b := range name {
			cost := last[j]
			if a != b {
				cost = 1 + min(last[j], last[j+1], row[j])
			}
			if i > 0 && j > 0 && a == name[j-1] && b == c.word[i-1] {
				cost = min(cost, before[j-1]+1)
			}
			row = append(row, cost)
		}
		before, last, row = last, row, before
	}
	c.row = [3][]int{before, last, row}
	return last[len(name)]
}

// Names are the candidates that were kept, nearest first.
func (c *Finder) Names() []string {
	names := make([]string, len(c.best))
	for i, b := range c.best {
		names[i] = b.name
	}
	return names
}

// To is the candidate that is nearest to a word, empty if none is near.
func To(word string, candidates []string) string {
	c := New(word, 1)
	for _, name := range candidates {
		c.Show(name)
	}
	if len(c.best) == 0 {
		return ""
	}
	return c.best[0].name
}
