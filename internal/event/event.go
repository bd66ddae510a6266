// Package event holds the two kinds of thing that the bridge carries and what
// makes them fit to publish: an Event happened once and is delivered in order;
// a State is what is true now and is replaced by the next. It knows nothing of
// where they come from, how they are stored, or where they go.
package event

import "time"

// Event is something that happened once. It is stored, sent in order, and
// not retained by a broker, unless a rule wants that.
type Event struct {
	// Name is what the source called it, spelled exactly so.
	Name string
	// Source is the configured name of the source that saw it.
	Source string
	// Time is when it happened, as far as the source can tell; zero is when it
	// is stored.
	Time time.Time
	// Payload is JSON. Before Normalise it may be any JSON value or nothing;
	// after it, always an object that begins with the event's name and time.
	Payload []byte
	// Checked is set by a source that has put the payload through Check
	// itself and not changed it but by this package's functions.
	Checked bool
	// Position, if set, is where the source read the event.
	Position Position
	// Route is where rules send the event.
	Route Route
	// Only is the name of the one sink that gets the event; empty is all that
	// want it. It is for an event that this sink alone has refused.
	Only string
}

// Route is how an event is published where that is other than configured for
// all. The zero value changes nothing.
type Route struct {
	Topic string // instead of what the template gives
	// Outside says that Topic has a part that the event's sender chose, such as
	// its name: it may then not be one of the program's own.
	Outside bool `json:",omitempty"`
	QoS     *byte
	Retain  bool
	// Expiry is how many seconds a broker may keep the message for subscribers
	// that are away; 0 is as configured for all.
	Expiry uint32 `json:",omitempty"`
	// Raw is set for an event that stands for a message which is published as
	// it is: see RawPayload.
	Raw bool `json:",omitempty"`
}

// IsZero reports whether the route changes nothing.
func (r Route) IsZero() bool { return r == Route{} }

// Position says how far a source had read when it saw an event. It is stored
// with the event, so that after a restart the source goes on exactly where
// the stored events end.
type Position struct {
	// Key names what is being read, such as one file among many. A source has
	// one newest position for each key.
	Key string
	// Value is the source's own encoding; nothing else interprets it.
	Value []byte
}

// State is what is true now, under a key of its source. Only the newest
// matters: it is retained by the broker, sent again after each connect, and
// never queued.
type State struct {
	// Source is the configured name of the source that reports it, whose keys
	// are its own; OwnSource is this program itself.
	Source string
	// Key names the state among those of its source, such as "temperature/bed".
	Key string
	// Payload is published as it is; an empty one removes the state.
	Payload []byte
	// Topic is published to instead of what the template makes of the rest.
	Topic string
	// Presence says that the state tells whether the source's thing is there, on a
	// topic that may be that of this program's own will: the broker then says so
	// when the program dies. Topic is set then.
	Presence bool
}

// Command asks a source to do something.
type Command struct {
	Source  string // which source
	Name    string // what to do, such as pause
	Payload []byte
	// From says who asks, as far as is known, such as a broker's user name.
	From string
}
