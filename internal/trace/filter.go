package trace

import (
	"fmt"
	"path"
	"slices"
)

// Filter chooses records: those that fit each of its fields that is not empty.
// Patterns are those of path.Match, which takes no long time for any of them.
type Filter struct {
	Sources  []string // patterns of names
	Events   []string // patterns of names, as they are or as the source gave them
	Sinks    []string // names; records that are of no sink fit
	Verdicts []Verdict
}

// maxPatterns bounds each field of a filter that is checked.
const maxPatterns = 32

// Check tells what is wrong with a filter that comes from outside, in words for
// people. A pattern that is none fits nothing.
func (f *Filter) Check() error {
	for _, field := range []struct {
		of    string
		texts []string
	}{{"sources", f.Sources}, {"events", f.Events}, {"sinks", f.Sinks}} {
		if len(field.texts) > maxPatterns {
			return fmt.Errorf("%d %s are named; at most %d are allowed", len(field.texts), field.of, maxPatterns)
		}
		for _, text := range field.texts {
			if len(text) > MaxText {
				return fmt.Errorf("one of the %s has %d bytes; at most %d are allowed", field.of, len(text), MaxText)
			}
			if _, err := path.Match(text, ""); err != nil && field.of != "sinks" {
				return fmt.Errorf("%q is not a pattern of %s; write for example Print*", text, field.of)
			}
		}
	}
	for _, v := range f.Verdicts {
		if !slices.Contains(allVerdicts, v) {
			return fmt.Errorf("%q is no verdict; there are %s", v, allVerdicts)
		}
	}
	return nil
}

var allVerdicts = []Verdict{Refused, Dropped, Repeated, Held, Replaced, Stored, Delivered, Skipped}

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
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// clone is a filter that the caller cannot change.
func (f *Filter) clone() Filter {
	return Filter{slices.Clone(f.Sources), slices.Clone(f.Events), slices.Clone(f.Sinks), slices.Clone(f.Verdicts)}
}
