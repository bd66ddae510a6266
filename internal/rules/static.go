package rules

import "event2mqtt/internal/event"

// This file is what can be said of rules before there are events.

// Filters are subscriptions that have all topics which rules give to events of a
// source.
func (s *Set) Filters(source string) (all []string) {
	for _, r := range s.rules {
		if r.Topic != "" && r.fits(source) {
			all = append(all, r.topic.Filter(source))
		}
	}
	return all
}

// Diverts returns the rule that gives all events of a source with this name
// another name or topic. "" is any name. nil is none, or that it depends on more
// than the name. Events that are dropped are not diverted.
func (s *Set) Diverts(source, name string) *Rule {
	e := &event.Event{Name: name, Source: source}
	for _, r := range s.rules {
		if r.when != nil || !s.matches(r, e, nil) {
			continue
		}
		switch {
		case r.Keep, r.Drop:
			return nil
		case r.Topic != "", r.Rename != "" && r.Rename != name:
			return r.is
		}
	}
	return nil
}

// Retains reports whether a rule, by its index, retains events of a source.
func (s *Set) Retains(index int, source string) bool {
	r := s.rules[index]
	return r.Retain && r.fits(source)
}

// fits reports whether a rule is for events of a source.
func (r *rule) fits(source string) bool { return r.Source == "" || match(r.Source, source) }
