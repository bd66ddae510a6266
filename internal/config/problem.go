package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// This file is what is wrong with a configuration, and how it is told.

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Where is the file, line and column, or the environment variable.
	Where string
	// Key is the path of the option, such as mqtt.tls.ca or sources[0].type.
	Key string
	// Text says what was found and what is allowed.
	Text string

	at place
	// unread is that the value was of no use: what else is said of the option
	// is about its default. other is an option that the problem is about, too.
	unread bool
	other  string
}

// Place returns where the problem is in a file; line is 0 if it is in none.
func (p Problem) Place() (file string, line, column int) { return p.at.file, p.at.line, p.at.column }

func (p Problem) String() string {
	s := p.Text
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	if p.Where != "" {
		s = p.Where + ": " + s
	}
	return s
}

// Problems is the error for a configuration that cannot be used.
type Problems []Problem

// Sort orders problems by their place, and drops those that say the same, and
// what nobody would read to the end.
// What follows from an option that could not be read is not told.
func (p *Problems) Sort() {
	slices.SortStableFunc(*p, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.at.file, b.at.file), a.at.line-b.at.line, a.at.column-b.at.column)
	})
	if n := len(*p); n > maxProblems {
		*p = append((*p)[:maxProblems:maxProblems], Problem{Text: fmt.Sprintf("and %d more like these", n-maxProblems)})
	}
	var unread []string
	for _, problem := range *p {
		if problem.unread {
			unread = append(unread, problem.Key)
		}
	}
	*p = slices.DeleteFunc(*p, func(a Problem) bool {
		return !a.unread && slices.ContainsFunc(unread, func(key string) bool { return follows(a.Key, key) || a.other != "" && follows(a.other, key) })
	})
	*p = slices.CompactFunc(*p, func(a, b Problem) bool { return a.String() == b.String() })
}

// follows reports whether a problem at key may be there only since the option
// unread was not read: which is key itself, or above it, or a part of it where
// key is a list or an item of one.
func follows(key, unread string) bool {
	return key == unread || parent(unread) == key && (strings.HasSuffix(key, "]") || strings.HasSuffix(unread, "]")) ||
		strings.HasPrefix(key, unread) && strings.IndexAny(key[len(unread):], ".[") == 0
}

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// KeyError is how a component says which of its options is wrong.
type KeyError struct {
	Key   string // relative to the component
	Other string // with which Key does not go together; as a rule ""
	Err   error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// Errorf returns a KeyError.
func Errorf(key, format string, args ...any) error {
	return &KeyError{Key: key, Err: fmt.Errorf(format, args...)}
}

// Relation returns a KeyError for an option that does not go together with
// another.
func Relation(key, other, format string, args ...any) error {
	return &KeyError{key, other, fmt.Errorf(format, args...)}
}

// Errors gathers what a component finds wrong with its options.
type Errors []error

// Bad adds a KeyError.
func (e *Errors) Bad(key, format string, args ...any) { *e = append(*e, Errorf(key, format, args...)) }

// Relation adds a KeyError for two options that do not go together.
func (e *Errors) Relation(key, other, format string, args ...any) {
	*e = append(*e, Relation(key, other, format, args...))
}

// Add adds what another check found; nil is nothing.
func (e *Errors) Add(err error) {
	if err != nil {
		*e = append(*e, err)
	}
}

// Err returns all of them, or nil.
func (e Errors) Err() error { return errors.Join(e...) }

// Problem places a text at a key.
func (d *Document) Problem(key, text string) Problem {
	p := Problem{Key: key, Text: text}
	if origin, ok := d.origins[key]; ok {
		p.Where = origin
		return p
	}
	for k := key; k != ""; k = parent(k) {
		if at, ok := d.places[k]; ok {
			p.Where, p.at = at.String(), at
			return p
		}
	}
	p.Where = d.path
	return p
}

// Explain turns a component's error into problems: each KeyError in it is
// placed below path.
func (d *Document) Explain(path string, err error) Problems {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all Problems
		for _, e := range joined.Unwrap() {
			all = append(all, d.Explain(path, e)...)
		}
		return all
	}
	if problems, ok := errors.AsType[Problems](err); ok {
		return problems
	}
	if key, ok := errors.AsType[*KeyError](err); ok {
		p := d.Problem(join(path, key.Key), key.Err.Error())
		if key.Other != "" {
			p.other = join(path, key.Other)
		}
		return Problems{p}
	}
	return Problems{d.Problem(path, err.Error())}
}
