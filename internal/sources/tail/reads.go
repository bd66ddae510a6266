package tail

import (
	"slices"

	"github.com/bmatcuk/doublestar/v4"
)

// Reads reports whether a file at a path would be read. Nobody may write
// there what comes of reading it.
func (c *Config) Reads(path string) bool {
	return !c.excludes(path) && slices.ContainsFunc(c.Paths, func(p string) bool {
		ok, _ := doublestar.PathMatch(p, path) // the pattern was checked
		return ok || p == path
	})
}
