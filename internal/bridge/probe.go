package bridge

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sources/tail"
)

// Probed is one thing that was tried out.
type Probed struct {
	What   string
	Detail string
	Err    error // what is wrong
}

// Probe tries out what a configuration names: brokers, files, addresses. It
// calls tell with each as soon as it is known.
func (p *Plan) Probe(ctx context.Context, stateDir string, tell func(Probed)) error {
	if len(p.MQTT.URL) > 0 {
		c := p.MQTT
		if c.ClientID == "" {
			c.ClientID = "event2mqtt"
		}
		err := mqtt.Probe(ctx, c, p.Publish, func(broker string, err error) {
			tell(Probed{"broker " + broker, "connected; a message came back", err})
		})
		if err != nil {
			return err
		}
	}
	running := Running(stateDir)
	for _, l := range p.listeners() {
		opened, err := newSockets().listen(l.key, l.network, l.address)
		detail := "free"
		switch {
		case err == nil:
			_ = opened.Close()
		case running:
			detail, err = "in use; event2mqtt runs with this state folder", nil
		}
		tell(Probed{fmt.Sprintf("%s %s", l.key, l.address), detail, err})
	}
	for _, o := range p.sources {
		t, ok := o.(*tailOptions)
		if !ok {
			continue
		}
		source, err := tail.New(t.Config, zerolog.Nop())
		n := 0
		if err == nil {
			n, err = source.Probe()
		}
		detail := fmt.Sprintf("%d files can be read", n)
		if n == 0 {
			detail = "no file is there yet"
		}
		tell(Probed{"source " + t.Name, detail, err})
	}
	return nil
}
