// Package sources holds the contract between the bridge and the places that
// events come from. Each kind of source has a package of its own below this
// one; none knows another.
package sources

import (
	"context"
	"errors"

	"event2mqtt/internal/event"
)

// Source delivers what happens somewhere. Run returns when ctx ends, or with
// the error that stopped it; the supervisor then starts it again after a
// while and shows the error.
type Source interface {
	Run(ctx context.Context, out Output) error
}

// Output takes what a source has to say. It is safe for concurrent use.
type Output interface {
	// Ready tells that the source has begun: what may fail at the start has not.
	Ready()
	// Emit returns when the events are durable. On error none was kept: a
	// *event.Refused means that an event cannot be accepted as it is, ever; any
	// other error may pass, and the source offers the events again.
	Emit(ctx context.Context, events ...event.Event) (Receipt, error)
	// Report replaces the states kept under their keys.
	Report(states ...event.State)
	// Mark makes positions durable without an event, such as where to begin in
	// a file whose old content is not wanted.
	Mark(ctx context.Context, positions ...event.Position) error
	// Positions are the newest of this source's durable events, one for each
	// position key.
	Positions() map[string][]byte
	// Forget drops the position of a key that will not come back.
	Forget(key string)
}

// Receipt stands for events that were accepted.
type Receipt interface {
	// Delivered returns when the main sink's destination has acknowledged the
	// events, with ErrHeld if a rule holds some of them back for now, or with
	// ctx's error.
	Delivered(ctx context.Context) error
}

// ErrHeld is for events that are stored, and that a rule holds back: they are
// delivered later, unless newer ones take their place.
var ErrHeld = errors.New("a rule holds events back")

// Common is what every source's configuration begins with.
type Common struct {
	Name string `koanf:"name" required:"it stands in positions, topics and messages" doc:"The source's name: in URLs, topics and messages."`
	Type string `koanf:"type" required:"it tells which options there are" doc:"The kind of source, such as webhook or tail."`
}
