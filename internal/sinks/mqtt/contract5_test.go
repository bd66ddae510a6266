package mqtt_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sinks/sinktest"
	"event2mqtt/internal/wire"
)

// distant is a broker in the network that speaks MQTT 5, and may be out of order.
type distant struct {
	*fiveBroker
	broken atomic.Bool
}

func (d *distant) Options() sinks.Options {
	c, p := mqtt.Defaults()
	c.Protocol, c.URL, c.ClientID = "5", []string{d.url}, "sink"
	return &mqtt.Options{Common: sinks.Common{Name: "mqtt", Type: "mqtt", Required: true}, Config: c, Publish: p}
}

func (*distant) Deps(*sinks.Deps) {}

func (d *distant) Got() (out [][]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.got {
		if strings.Contains(p.Topic, "/event/") {
			out = append(out, p.Payload)
		}
	}
	return out
}

func (d *distant) Break() { d.broken.Store(true) }
func (d *distant) Mend()  { d.broken.Store(false) }

func (d *distant) Never() (event.Event, bool) {
	return event.Event{Name: "Forbidden", Source: "s", Payload: fmt.Append(nil, `{}`)}, true
}

// TestContractWithFive is the contract with a broker that refuses by codes.
func TestContractWithFive(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Destination {
		d := &distant{}
		d.fiveBroker = (&fiveBroker{
			connack: func(int, *wire.Connect) (a wire.Connack) {
				if d.broken.Load() {
					a.Code = wire.ServerUnavailable
				}
				return a
			},
			publish: func(_ int, p *wire.Publish) (wire.Code, []byte) {
				switch {
				case d.broken.Load():
					return 0, wire.AppendDisconnect(nil, wire.V5, wire.ShuttingDown, "", 0)
				case strings.HasSuffix(p.Topic, "/Forbidden"):
					return wire.NotAuthorized, nil
				}
				return 0, nil
			},
		}).start(t)
		return d
	})
}
