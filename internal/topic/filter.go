package topic

import "strings"

// This file is topic filters (MQTT 5, section 4.7).

// ValidFilter reports whether a topic filter is well formed (4.7.1).
func ValidFilter(filter string) bool {
	if filter == "" {
		return false
	}
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if strings.Contains(level, "#") && (level != "#" || more) || strings.Contains(level, "+") && level != "+" {
			return false
		}
	}
	return true
}

// Matches reports whether a filter, which is well formed, matches a topic (4.7).
func Matches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	return Covers(filter, topic)
}

// Covers reports whether a filter matches all that another matches, if that
// does not begin with $.
func Covers(filter, other string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		o, orest, omore := strings.Cut(other, "/")
		if f != o && (f != "+" || o == "#") {
			return false
		}
		switch {
		case !fmore && !omore:
			return true
		case !omore:
			return frest == "#" // the parent level itself
		case !fmore:
			return false
		}
		filter, other = frest, orest
	}
}
