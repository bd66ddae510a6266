package octoprint

import (
	"encoding/json"
	"slices"

	"event2mqtt/internal/event"
)

// positionKey is the key of this source's one position.
const positionKey = "octoprint"

// maxPosition bounds the texts of a position, in bytes each.
const maxPosition = 1024

// position is what of OctoPrint's doings has been told, as of an event that it
// is stored with. By it a later connection finds what it missed.
type position struct {
	// Marked is the time of the newest marking all before which are accounted
	// for; 0 is none.
	Marked float64 `json:"marked"`
	// Told are events that came, and whose markings are still to be seen.
	Told []told `json:"told,omitempty"`
	// Open is the print whose end is still to be told.
	Open *job `json:"open,omitempty"`
	// Connected is whether the printer was said to be connected.
	Connected bool `json:"connected"`
	// Online is whether OctoPrint was said to be there.
	Online bool `json:"online"`
	// Firmware is what the printer said of itself last.
	Firmware *firmware `json:"firmware,omitempty"`
}

// told is an event that was told.
type told struct {
	Type string `json:"type"` // of its marking
	// seen is how many snapshots came since, without it. Clocks are set; and a
	// snapshot may be worked on long after it was made.
	seen int
}

// job is a print.
type job struct {
	Name   string  `json:"name,omitempty"`
	Path   string  `json:"path,omitempty"`
	Origin string  `json:"origin,omitempty"`
	Size   int64   `json:"size,omitempty"`
	Since  float64 `json:"since,omitempty"`
}

// firmware is what a printer is.
type firmware struct {
	Name  string `json:"name,omitempty"`
	Model string `json:"model,omitempty"`
}

// maxTold bounds the events whose markings are awaited. There are as a rule
// two at most.
const maxTold = 32

func parsePosition(b []byte) (p position, ok bool) {
	if len(b) == 0 || json.Unmarshal(b, &p) != nil {
		return position{}, false
	}
	return p, true
}

// stored is the position as it is kept with an event.
func (p *position) stored() event.Position {
	value, err := json.Marshal(p)
	if err != nil {
		return event.Position{} // there is nothing in it that could fail
	}
	return event.Position{Key: positionKey, Value: value}
}

// tell notes an event whose marking is to come.
func (p *position) tell(kind string) {
	p.Told = append(p.Told, told{Type: kind})
	if n := len(p.Told); n > maxTold {
		p.Told = slices.Clone(p.Told[n-maxTold:])
	}
}

// account takes the event of a marking off those that were told, and reports
// whether there was one.
func (p *position) account(kind string) bool {
	i := slices.IndexFunc(p.Told, func(t told) bool { return t.Type == kind })
	if i < 0 {
		return false
	}
	p.Told = slices.Delete(p.Told, i, i+1)
	return true
}

// expire notes that a snapshot was looked through, and forgets events whose
// markings were in none of so many.
func (p *position) expire() {
	for i := range p.Told {
		p.Told[i].seen++
	}
	p.Told = slices.DeleteFunc(p.Told, func(t told) bool { return t.seen >= expireAfter })
}
