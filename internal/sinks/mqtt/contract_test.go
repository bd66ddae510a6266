package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"

	inprocess "event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sinks/sinktest"
	"event2mqtt/internal/testkit"
)

// home is the bundled broker, which may be out of order.
type home struct {
	*inprocess.Broker
	broken atomic.Bool
	mu     sync.Mutex
	stored [][]byte // payloads of events
}

func (h *home) Options() sinks.Options {
	c, p := mqtt.Defaults()
	return &mqtt.Options{Common: sinks.Common{Name: "mqtt", Type: "mqtt", Required: true}, Config: c, Publish: p}
}

func (h *home) Deps(d *sinks.Deps) { d.Broker = h }

func (h *home) Got() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stored
}

func (h *home) Break() { h.broken.Store(true) }
func (h *home) Mend()  { h.broken.Store(false) }

func (h *home) Never() (event.Event, bool) {
	return event.Event{Name: "Large", Source: "s", Payload: fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", 2<<20))}, true
}

// Publish implements sinks.Broker.
func (h *home) Publish(ctx context.Context, o sinks.Outgoing) (sinks.Receipt, error) {
	if h.broken.Load() {
		return nil, errors.New("out of order")
	}
	r, err := h.Broker.Publish(ctx, o)
	if err != nil || !strings.Contains(o.Topic, "/event/") {
		return r, err
	}
	return noted{r, h, o.Payload}, nil
}

type noted struct {
	sinks.Receipt
	*home
	payload []byte
}

func (n noted) Wait() error {
	err := n.Receipt.Wait()
	if err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.stored = append(n.stored, n.payload)
	}
	return err
}

func TestContract(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Destination {
		var c inprocess.Config
		config.SetDefaults(&c)
		b, err := inprocess.Open(inprocess.Options{Config: c, StateDir: t.TempDir(), Log: zerolog.Nop()})
		testkit.OK(t, err)
		t.Cleanup(b.Stop)
		return &home{Broker: b}
	})
}
