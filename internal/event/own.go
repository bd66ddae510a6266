package event

import (
	"slices"
	"strings"
)

// EventLevel is the level below the base topic that events go to by default. No
// source has its name, so that what is below it is no source's.
const EventLevel = "event"

// OwnPlace tells below which place a topic is the program's own, such as
// {base}/bridge, or {base}/SOURCE/set of any source; "" if it is not. Of the
// levels directly below base, the given ones count.
func OwnPlace(base, topic string, levels ...string) string {
	rest, inside := strings.CutPrefix(topic, base+"/")
	if !inside {
		return ""
	}
	first, rest, deeper := strings.Cut(rest, "/")
	switch second, _, _ := strings.Cut(rest, "/"); {
	case slices.Contains(levels, first):
		return "{base}/" + first
	case first != EventLevel && deeper && ReservedLevel(second):
		return "{base}/SOURCE/" + second
	}
	return ""
}
