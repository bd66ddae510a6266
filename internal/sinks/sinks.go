// Package sinks holds the contract between the bridge and the places that
// events go to. Each kind of sink has a package of its own below this one;
// none knows another.
package sinks

import (
	"context"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// Sink takes events to a destination. Run reads them through its cursor, in
// order, and acknowledges those that the destination has; and it keeps the
// destination's copy of the states up to date. It returns when ctx ends, or
// with the error that stopped it; the supervisor then starts it again.
// A destination that is away is no such error: the sink waits for it.
type Sink interface {
	Run(ctx context.Context, in *journal.Cursor, states *event.States) error
}

// Health is how a component is doing.
type Health struct {
	OK bool `json:"ok"`
	// Detail says in words what it does or what is wrong.
	Detail string `json:"detail"`
}
