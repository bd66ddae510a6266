// Package sinks holds the contract between the bridge and the places that
// events go to. Each kind of sink has a package of its own below this one;
// none knows another.
package sinks

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
)

// Type is a kind of sink. Its package exports one, as Type.
type Type struct {
	Name string // as in the option type
	// Options returns new ones, to be decoded into.
	Options func() Options
}

// Options are the configuration of one sink: a pointer to a struct whose tags
// describe the options, with Common embedded and squashed.
type Options interface {
	// Base returns the options that all sinks have; Common implements it.
	Base() *Common
	// Check tells what is wrong that tags do not, as config.KeyErrors. It
	// touches nothing outside but to look whether it is there.
	Check() error
	// Fingerprint returns what a sink that runs cannot change: equal ones, as
	// reflect.DeepEqual has it, ask for the same sink. It holds the sums of
	// files that are read, such as certificates.
	Fingerprint() any
	// Build makes the sink. The error is that of Check, with its keys.
	Build(Deps) (Sink, error)
}

// Deps are what sinks are built with.
type Deps struct {
	// ID makes the id of an event, which stays the same when it is sent twice.
	ID func(seq uint64) string
	// ClientID is this installation's, for this sink alone.
	ClientID string
	// Broker is the bundled one; nil if it does not run.
	Broker Broker
	// StateDir is the program's folder, for what a sink must know after a
	// restart, in a file that is named after the sink; "" keeps nothing.
	StateDir string
	// Refused keeps what the destination will never take.
	Refused Keeper
	Log     zerolog.Logger // names the sink already
}

// Broker is the bundled broker, as far as sinks need it.
type Broker interface {
	// Publish returns when every subscriber's queue has the message. The error
	// wraps ErrNeverTaken if it would be the same the next time.
	Publish(ctx context.Context, m Outgoing) (Receipt, error)
	// Subscribe gives what is retained for a filter, and what is published from
	// then on, to use on one goroutine, until cancel returns. What use does
	// not take in time is dropped. The error says what is wrong with the filter.
	Subscribe(filter string, use func(Incoming)) (cancel func(), err error)
}

// Outgoing is a message that a sink publishes. Its payload is not changed.
type Outgoing struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	// SaveLater says that the sink retains the message again after a crash, so
	// that a broker need not have it on disk before it acknowledges it.
	SaveLater bool
}

// Incoming is a message that others have published for this program.
type Incoming struct {
	Topic   string
	Payload []byte // must not be changed
	// QoS is that of the delivery. Only Listen of package mqtt tells.
	QoS byte
	// Retained is whether it may be an old one: it was retained before this
	// connection subscribed to it (section 3.3.1.3 of MQTT 3.1.1). The bundled
	// broker also says so of one that was published with the retain flag later;
	// MQTT 3.1.1 cannot.
	Retained bool
	// Own is whether this program has published it. Only the bundled broker
	// tells.
	Own bool
	// User and Client are the user name and the client id of who published it.
	// Only the bundled broker tells: User is empty for an anonymous client.
	User, Client string
	// Received is when the broker had read it, if it is the bundled one, and
	// otherwise when it came here. It is zero for what was retained at the
	// bundled broker before the program started.
	Received time.Time
}

// Talker is a sink to whose destination others can say something as well.
type Talker interface {
	// Hear replaces what the sink subscribes to, on each connection and also on
	// the one that there is. Filters are topics, or end in the level "+"; they
	// have no other wildcard. No message to a topic that matches one that ends
	// in "+" is ever published by the sink. use is given the messages, one at a time, and should return
	// soon: few are kept meanwhile, and more are skipped. It may be called a
	// last time after Hear was called with another.
	Hear(filters []string, use func(Incoming))
	// Say publishes a message, not retained, beside the events: it is not
	// stored. The error is why it was not, such as that there is no connection.
	Say(ctx context.Context, topic string, payload []byte) error
}

// Retainer is a sink whose destination keeps states.
type Retainer interface {
	// Has reports whether the destination is certain to have all states of a
	// source as they are now, but those that it refuses, and no others of it. It
	// is false while there is no connection.
	Has(source string) bool
}

// ErrNeverTaken says that a destination refuses a message for what it is.
var ErrNeverTaken = errors.New("the broker does not take it")

// Receipt is the bundled broker's promise to keep a message.
type Receipt interface {
	// Wait returns when a crash cannot take the message any more.
	Wait() error
}

// Keeper keeps events that are skipped. Once Keep has returned nil, the sink
// forgets the event.
type Keeper interface {
	Keep(refused.Event) error
}

// Sink takes events to a destination. Run reads them through its cursor, in
// order, and acknowledges those that the destination has; a sink that can keep
// states keeps the destination's copy of them up to date. Run returns when ctx
// ends, or with the error that stopped it; the supervisor then starts it again.
// A destination that is away is no such error: the sink waits for it, and tells
// so. An event that the destination will never take is kept in Deps.Refused,
// counted, and skipped: it never stops those behind it.
type Sink interface {
	Run(ctx context.Context, in *journal.Cursor, states *event.States, tell func(health.Status)) error
}

// Adjuster is a sink that can take what has changed beside its fingerprint
// while it runs. The error is that of Check.
type Adjuster interface {
	Adjust(Options) error
}

// Prober is a sink that can be tried out without running it. The detail says what
// was found; the error is what is wrong, in words for people.
type Prober interface {
	Probe(ctx context.Context) (detail string, err error)
}

// Counter is a sink that counts the events it has skipped since the start.
type Counter interface {
	Skipped() uint64
}

// Connector is a sink that counts the connections it has made since the start.
type Connector interface {
	Connections() uint64
}

// Common is what every sink's configuration begins with.
type Common struct {
	Name     string             `koanf:"name" required:"it names the sink's place in the journal" doc:"The sink's name, in messages and in the journal."`
	Type     string             `koanf:"type" required:"it tells which options there are" doc:"The kind of sink, such as file."`
	Match    []string           `koanf:"match" example:"Print*" doc:"Patterns of the names of events that the sink gets, or OctoPrint's classes such as @printjob, as in rules; left out, it gets all."`
	Required bool               `koanf:"required" default:"false" doc:"Whether a webhook with respond: delivered waits for this sink, too."`
	WhenFull journal.FullPolicy `koanf:"when_full" default:"drop_oldest" oneof:"refuse,drop_oldest" doc:"What becomes of events that this sink has not got while the journal is full: drop_oldest gives up the oldest of them for this sink alone; refuse keeps them, and new events are refused, whatever journal.when_full says."`
}

// Base implements Options.
func (c *Common) Base() *Common { return c }
