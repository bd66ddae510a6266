package trace

import (
	"slices"

	"github.com/bmatcuk/doublestar/v4"
)

// Filter chooses records: those that fit each of its fields that is not empty.
type Filter struct {
	Sources  []string // patterns of names, with * and ? as in rules
	Events   []string // patterns of names, as they are or as the source gave them
	Sinks    []string // names; records that are of no sink fit
	Verdicts []Verdict
}

// lets reports whether the filter lets a record through.
func (f *Filter) lets(r *Record) bool {
	return (len(f.Verdicts) == 0 || slices.Contains(f.Verdicts, r.Verdict)) &&
		(len(f.Sinks) == 0 || r.Sink == "" || slices.Contains(f.Sinks, r.Sink)) &&
		matches(f.Sources, r.Source) &&
		(matches(f.Events, r.Event) || r.Offered != "" && matches(f.Events, r.Offered))
}

// matches reports whether one of the patterns, if there are any, fits a name.
func matches(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := doublestar.Match(p, name)
		return ok && err == nil
	})
}

// clone is a filter that the caller cannot change.
func (f *Filter) clone() Filter {
	return Filter{slices.Clone(f.Sources), slices.Clone(f.Events), slices.Clone(f.Sinks), slices.Clone(f.Verdicts)}
}
