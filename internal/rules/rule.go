package rules

import (
	"fmt"
	"strconv"
	"sync/atomic"

	"event2mqtt/internal/config"
)

// This file is what tells rules apart: names, places and counters.

// Rule says which rule of the configuration it is.
type Rule struct {
	Index int    // from 0
	Name  string // empty if it has none
	// File is where the rule is written, at Line, which counts from 1. Without
	// a line it says what else the rule comes from, such as a variable.
	File string
	Line int
}

// Label is the rule's name, or its index if it has none. It is unique among
// the rules of a set.
func (r *Rule) Label() string {
	if r.Name != "" {
		return r.Name
	}
	return strconv.Itoa(r.Index)
}

// String is how messages name the rule: rules[3] "chatter" (config.yaml:41).
func (r *Rule) String() string {
	text := fmt.Sprintf("rules[%d]", r.Index)
	if r.Name != "" {
		text += fmt.Sprintf(" %q", r.Name)
	}
	switch {
	case r.Line > 0:
		text += fmt.Sprintf(" (%s:%d)", r.File, r.Line)
	case r.File != "":
		text += fmt.Sprintf(" (%s)", r.File)
	}
	return text
}

// maxName bounds the name of a rule, in bytes.
const maxName = 64

// checkName tells what is wrong with the name of a rule, as a KeyError.
func checkName(name string) error {
	switch {
	case name == "":
		return nil
	case len(name) > maxName:
		return config.Errorf("name", "has %d bytes; at most %d are allowed", len(name), maxName)
	}
	if err := config.CheckName(name); err != nil {
		return err
	}
	if _, err := strconv.ParseUint(name, 10, 64); err == nil {
		return config.Errorf("name", "%q is a number, and rules without a name are called by theirs; add a letter", name)
	}
	return nil
}

// counters count what became of events at one rule. They go over to the next
// set with its label.
type counters struct {
	matched  atomic.Uint64
	dropped  atomic.Uint64
	holds    atomic.Uint64
	replaced atomic.Uint64
	failed   atomic.Uint64
}

// follows reports whether the counters of an earlier rule are this one's.
func (r *rule) follows(old *rule) bool {
	if r.Name != "" {
		return r.Name == old.Name
	}
	return old.Name == "" && r.is.Index == old.is.Index && r.id == old.id
}

// Count is what became of events at one rule, since the program began or the
// rule changed; that of a rule with a name goes on when it changes.
type Count struct {
	Rule     Rule
	Matched  uint64 // events that it was for
	Dropped  uint64 // of these, that it dropped, or found repeated
	Held     uint64 // of these, that it held back
	Replaced uint64 // of those held, that newer ones took the place of
	Failed   uint64 // times that its expression failed
}

// Counts are those of all rules, in their order.
func (s *Set) Counts() []Count {
	out := make([]Count, len(s.rules))
	for i, r := range s.rules {
		out[i] = Count{*r.is, r.matched.Load(), r.dropped.Load(), r.holds.Load(), r.replaced.Load(), r.failed.Load()}
	}
	return out
}
