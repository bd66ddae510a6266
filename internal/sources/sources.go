// Package sources holds the contract between the bridge and the places that
// events come from. Each kind of source has a package of its own below this
// one; none knows another.
package sources

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/rs/zerolog"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
)

// Type is a kind of source. Its package exports one, as Type.
type Type struct {
	Name string // as in the option type
	// Options returns new ones, to be decoded into.
	Options func() Options
}

// Options are the configuration of one source: a pointer to a struct whose tags
// describe the options, with Common embedded and squashed. Equal ones, as
// reflect.DeepEqual has it, ask for the same source.
type Options interface {
	// Base returns the options that all sources have; Common implements it.
	Base() *Common
	// Check tells what is wrong that tags do not, as config.KeyErrors. It
	// touches nothing outside but to look whether it is there.
	Check() error
	// Exclusive reports whether the source cannot run beside its successor:
	// both would deliver the same events.
	Exclusive() bool
	// Build makes the source. The error is that of Check.
	Build(Deps) (Source, error)
}

// Deps are what sources are built with.
type Deps struct {
	Mux Mux            // nil if the source is only probed
	Log zerolog.Logger // names the source already
}

// Mux is where a source that is called over HTTP mounts its handler, at
// /hooks/NAME and what is below it. The handler that was mounted last serves.
type Mux interface {
	Mount(name string, h http.Handler) (unmount func())
}

// Source delivers what happens somewhere. Run returns when ctx ends, or with
// the error that stopped it; the supervisor then starts it again after a while
// and shows the error. A peer that is away is no such error: the source waits
// for it, and tells so.
type Source interface {
	Run(ctx context.Context, out Output) error
}

// Describer are options of a source that tell of its thing before it runs.
type Describer interface {
	// Thing returns what is known of the thing from the configuration alone,
	// and whether people are to see it as a device at all. What the source
	// describes when it runs takes its place.
	Thing() (d device.Device, shown bool)
}

// Mirror are options of a source whose events are also kept as states, such as
// the newest value of a key.
type Mirror interface {
	// Mirrored returns the keys of all these states.
	Mirrored() []string
	// Mirror returns the states that an event makes.
	Mirror(e *event.Event) []event.State
}

// Prober is a source that can be tried out without running it. The detail says
// what was found; the error is what is wrong, in words for people.
type Prober interface {
	Probe(ctx context.Context) (detail string, err error)
}

// Commander is a source whose thing can be told what to do. It is asked only
// for commands that its options allow. Do is called for one command at a time,
// and may be called while Run does not run. Its context ends after 30 s. The
// reply is published; it may be empty.
type Commander interface {
	Do(ctx context.Context, c event.Command) (reply []byte, err error)
}

// Commands are the options of a source that is a Commander. Embed and squash
// them.
type Commands struct {
	Commands []string `koanf:"commands" doc:"The commands that may be given over MQTT, by name; left out, none."`
}

// Allowed returns the names of the commands that are allowed.
func (c *Commands) Allowed() []string { return c.Commands }

// Output takes what a source has to say. It is safe for concurrent use.
type Output interface {
	// Ready tells that the source has begun: what may fail at the start has
	// not. It is called once for each Run, before a peer is connected to.
	Ready()
	// Tell replaces the source's health, which is up when it is ready. A
	// source does not tell of Failed: it returns the error.
	Tell(health.Status)
	// Describe replaces what is known of the thing that the source watches. Its
	// commands are all that it takes; those that are not allowed are left out.
	Describe(device.Device)
	// Emit returns when the events are durable. On error none was kept: a
	// *event.Refused means that an event cannot be accepted as it is, ever;
	// ErrClosed that the program ends. Any other error passes, such as ErrFull,
	// and the source offers the events again.
	Emit(ctx context.Context, events ...event.Event) (Receipt, error)
	// Report replaces the states kept under their keys, which are this
	// source's own. They stay until they are removed, or the source is.
	Report(states ...event.State)
	// Remove takes states back: those of the given keys, or all.
	Remove(keys ...string)
	// Mark makes positions durable without an event, such as where to begin in
	// a file whose old content is not wanted.
	Mark(ctx context.Context, positions ...event.Position) error
	// Positions are the newest of this source's durable events, one for each
	// position key.
	Positions() map[string][]byte
	// Forget drops the position of a key that will not come back.
	Forget(key string)
}

// Errors of Emit and Mark.
var (
	ErrFull   = journal.ErrFull   // there is no room for events just now
	ErrClosed = journal.ErrClosed // the program ends
)

// Receipt stands for events that were accepted.
type Receipt interface {
	// Delivered returns when the destinations that are required have
	// acknowledged the events, with ErrHeld if a rule holds some of them back
	// for now, with ErrDropped if they were given up, or with ctx's error in an
	// *Undelivered.
	Delivered(ctx context.Context) error
}

// Undelivered says which sinks were waited for in vain.
type Undelivered struct {
	Sinks []string // by name, at least one
	Cause error    // why it was not waited longer
}

func (u *Undelivered) Error() string {
	return fmt.Sprintf("%s not acknowledged the events: %v", u.Who(), u.Cause)
}

// Unwrap implements errors.Unwrap.
func (u *Undelivered) Unwrap() error { return u.Cause }

// Who names the sinks, as in "the sink mqtt has".
func (u *Undelivered) Who() string {
	if len(u.Sinks) == 1 {
		return "the sink " + u.Sinks[0] + " has"
	}
	return "the sinks " + strings.Join(u.Sinks, " and ") + " have"
}

// ErrHeld is for events that are stored, and that a rule holds back: they are
// delivered later, unless newer ones take their place.
var ErrHeld = errors.New("a rule holds events back")

// ErrDropped is for events that were given up before they were delivered, since
// a limit of the journal says so.
var ErrDropped = journal.ErrDropped

// Common is what every source's configuration begins with.
type Common struct {
	Name string `koanf:"name" required:"it is part of positions, topics and messages" doc:"The source's name: in URLs, topics and messages."`
	Type string `koanf:"type" required:"it tells which options there are" doc:"The kind of source, such as webhook or tail."`
}

// Base implements Options.
func (c *Common) Base() *Common { return c }
