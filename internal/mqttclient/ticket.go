package mqttclient

import (
	"sync"

	"event2mqtt/internal/wire"
)

// Ticket is the promise of an acknowledgement: of QoS 1 and 2 by the broker, of
// QoS 0 that the message was written. It is safe for concurrent use.
type Ticket struct {
	qos      byte
	received bool // a PUBREC has come; the client's mu guards it

	mu   sync.Mutex
	done chan struct{} // made once somebody waits
	over bool
	code wire.Code
	err  error
}

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Done is closed when it is known what became of the message.
func (t *Ticket) Done() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.done != nil:
	case t.over:
		return closedChannel
	default:
		t.done = make(chan struct{})
	}
	return t.done
}

// Error is nil if the message was acknowledged, a *Refused if the broker does
// not take it, or why the connection ended. It is also nil before Done is closed.
func (t *Ticket) Error() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Code is what the broker has said to the message.
func (t *Ticket) Code() wire.Code {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.code
}

func (t *Ticket) finish(code wire.Code, err error) {
	t.mu.Lock()
	t.over, t.code, t.err = true, code, err
	if t.done != nil {
		close(t.done)
	}
	t.mu.Unlock()
}
