package bridge

import (
	"crypto/rand"
	"encoding/json"
	"strings"
	"time"

	"event2mqtt/internal/health"
	"event2mqtt/internal/sinks"
)

// This file is what an announcer hears: that Home Assistant has started, or is
// gone, and that another program has this installation's id, since its state
// folder is a copy of this one's.

// note is what each run of the program keeps at the broker, under a topic of the
// installation's.
type note struct {
	Boot string `json:"boot"`
	At   int64  `json:"at"` // when it was published, in milliseconds since 1970
}

// randomID is an id of a run.
func randomID() string { return strings.ToLower(rand.Text()[:16]) }

// newNote is the note of this run.
func (a *announcer) newNote() []byte {
	text, err := json.Marshal(note{a.boot, time.Now().UnixMilli()})
	if err != nil {
		panic(err) // it can be encoded
	}
	return text
}

// listen has the sink hear what the plan says.
func (a *announcer) listen(talker sinks.Talker) {
	plan := a.plan()
	var wants subjects
	var filters []string
	if h := plan.HomeAssistant; h.Discovery {
		wants = subjects{h.BirthTopic, h.BirthPayload, h.Prefix + "/event2mqtt/" + a.id + "/note"}
		filters = append(filters, wants.note)
		if h.BirthTopic != "" {
			filters = append(filters, h.BirthTopic)
		}
	}
	a.mu.Lock()
	same := a.wants == wants && a.link == talker
	if !same { // what was said meanwhile was not heard here
		a.present(false)
		a.born = false
	}
	a.wants = wants
	a.mu.Unlock()
	if same {
		return
	}
	if a.link != nil && a.link != talker {
		a.ears.earOn(a.link, discoveryListens).Hear(nil, nil)
	}
	a.link = talker
	if talker != nil {
		a.ears.earOn(talker, discoveryListens).Hear(filters, a.take)
	}
}

// take takes a message. It does not wait.
func (a *announcer) take(in sinks.Incoming) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case len(in.Payload) == 0:
	case in.Topic == a.wants.note:
		a.compare(&in)
	case in.Own || in.Topic != a.wants.birth:
	case in.Retained: // it may be from long ago; who has just subscribed gets what is published here all the same
	case string(in.Payload) != a.wants.birthPayload:
		a.present(false)
	default:
		a.present(true)
		a.born = true
		a.poke()
	}
}

// compare looks whether a note is from another program with this id. mu is held.
// The note of an earlier run is there until this run has published its own; what
// is there after that, and newer, is of another that runs now.
func (a *announcer) compare(in *sinks.Incoming) {
	var n note
	if json.Unmarshal(in.Payload, &n) != nil || n.Boot == "" {
		return
	}
	if n.Boot == a.boot {
		a.noted = true
		return
	}
	booted := time.Now().Add(-time.Since(a.began)) // by a clock that may have been set since
	if in.Retained && (!a.noted || !time.UnixMilli(n.At).After(booted)) {
		return
	}
	if a.other.IsZero() {
		a.log.Error().Str("installation", a.id).Msg("another event2mqtt announces the same devices to Home Assistant: its state folder is a copy of this one's, as on a cloned card. Stop the copy, remove installation_id, client_id, homeassistant.json and *.retained.json from its state folder, give it a publish.base_topic of its own, and start it again")
		a.poke() // the other one is to hear of this one
	}
	a.other = time.Now()
}

// watchOther publishes the note again while there is another program with this
// id, for the other does so too, and notices when it has ended. It returns when
// to look again; 0 is never.
func (a *announcer) watchOther() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.other.IsZero():
		return 0
	case time.Since(a.other) > 3*a.pace.note:
		a.other, a.renoted = time.Time{}, time.Time{}
		a.log.Info().Str("installation", a.id).Msg("no other event2mqtt announces the same devices to Home Assistant any more")
		return 0
	case time.Since(a.renoted) >= a.pace.note:
		a.note, a.renoted = a.newNote(), time.Now()
	}
	return a.pace.note
}

// linkChanged takes it that the main sink is, or is no more, connected.
func (a *announcer) linkChanged(r health.Report) {
	if r.Level != health.Up {
		a.mu.Lock()
		a.present(false)
		a.mu.Unlock()
	}
	a.poke()
}
