package leftover

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// This file decides where a device of the plugin has published. Whoever may
// announce something to Home Assistant may name any place for that, such as that
// of a camera of another program. So nothing is cleared by the word of one.

// agree is how many of the entities that the plugin always announces must name a
// place that OctoPrint's configuration does not. It has about 20 of them.
const agree = 3

// said is what the entities of one device say of one place.
type said struct {
	keys                             map[string]bool // of those that are always announced
	hass, control, temperature, will map[string]int  // how many say so
}

// hear notes what an entity says of where the plugin publishes.
func (d *found) hear(e *entity) {
	if !e.placed {
		return
	}
	s := d.said[e.base]
	if s == nil {
		s = &said{map[string]bool{}, map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}}
		d.said[e.base] = s
	}
	if !optional.MatchString(e.key) && (below(e.state, e.base) || below(e.command, e.base)) {
		s.keys[e.key] = true
	}
	before := func(text, end string, to map[string]int) {
		if start, ok := strings.CutSuffix(text, end); ok && start != "" && strings.HasPrefix(start, e.base) {
			to[start]++
		}
	}
	switch e.key {
	case "PRINTING", "PRINTING_S", "PRINTING_Z":
		before(e.state, "printing", s.hass)
	case "SOC":
		before(e.state, "soc", s.temperature)
	}
	before(e.command, strings.ToLower(e.key), s.control)
	if e.there != "" {
		s.will[e.there]++
	}
}

// below reports whether a topic is below a place.
func below(at, base string) bool { return len(at) > len(base) && strings.HasPrefix(at, base) }

// settle decides on the places of a device. configured are those that OctoPrint's
// configuration names.
func (d *found) settle(configured []Place) {
	for _, base := range slices.Sorted(maps.Keys(d.said)) {
		s := d.said[base]
		p := Place{Base: base}
		switch agreed := len(s.keys) >= agree; {
		case agreed:
			p.Hass, p.Control, p.Temperature = most(s.hass), most(s.control), most(s.temperature)
			delete(s.will, p.Hass+"is_printing")
			p.Will = most(s.will)
		case !slices.ContainsFunc(configured, func(c Place) bool { return c.Base == base }):
			d.keep(base+"#", fmt.Sprintf("only %d of the entities that the plugin always announces say that it publishes there; name OctoPrint's config.yaml if it does", len(s.keys)))
			continue
		}
		if len(d.places) >= maxList {
			d.keep(base+"#", fmt.Sprintf("the device has published in more than %d places; name OctoPrint's config.yaml", maxList))
			continue
		}
		d.places = append(d.places, p)
	}
}

// most is what is said most often; of equals, the first in the alphabet.
func most(of map[string]int) (best string) {
	for _, each := range slices.Sorted(maps.Keys(of)) {
		if best == "" || of[each] > of[best] {
			best = each
		}
	}
	return best
}

// filters are for all of a place.
func (p Place) filters() (all []string) {
	for _, each := range []struct {
		start string
		names []string
	}{{p.Hass, states}, {p.Control, controls}} {
		switch {
		case each.start == "":
		case strings.HasSuffix(each.start, "/"):
			all = append(all, each.start+"+")
		default: // + must have a level of its own
			for _, name := range each.names {
				all = append(all, each.start+name)
			}
		}
	}
	if p.Temperature != "" {
		all = append(all, p.Temperature+soc)
	}
	if p.Will != "" {
		all = append(all, p.Will)
	}
	return append(all, p.Base+camera)
}
