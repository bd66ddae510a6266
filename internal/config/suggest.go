package config

import (
	"cmp"
	"strings"
)

// This file guesses what a mistyped name was meant to be.

// named are the options that a key may have been meant for.
func named(options []Option) map[string]option {
	out := map[string]option{}
	for i := range options {
		out[options[i].Name] = option{}
	}
	return out
}

// nearest returns the candidate that a mistyped name was most likely meant
// for, or "".
func nearest(name string, candidates map[string]option) string {
	const longest = 64 // bytes; no option has as many
	if len(name) > longest {
		return ""
	}
	best, bestDistance := "", len(name)/2+1
	for c := range candidates {
		if d := distance(name, c); d < bestDistance || d == bestDistance && best != "" && c < best {
			best, bestDistance = c, d
		}
	}
	const far = 3 // letters: then a word that is the same is the better guess
	if best != "" && bestDistance <= far {
		return best
	}
	word := ""
	for c := range candidates { // such as class of device_class
		same := strings.HasSuffix(name, "_"+c) || strings.HasPrefix(name, c+"_")
		if same && (len(c) > len(word) || len(c) == len(word) && c < word) {
			word = c
		}
	}
	return cmp.Or(word, best)
}

// distance is the number of letters to change, add or take away.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for i := range row {
		row[i] = i
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for k := 1; k <= len(b); k++ {
			cost := diagonal
			if a[i-1] != b[k-1] {
				cost++
			}
			diagonal = row[k]
			row[k] = min(cost, row[k]+1, row[k-1]+1)
		}
	}
	return row[len(b)]
}

// Near is nearest for any list of names.
func Near(name string, candidates ...string) string {
	set := map[string]option{}
	for _, c := range candidates {
		set[c] = option{}
	}
	return nearest(name, set)
}
