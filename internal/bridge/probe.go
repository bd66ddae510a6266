package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/rs/zerolog"

	"event2mqtt/internal/control"
	"event2mqtt/internal/listen"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sources"
)

// Probed is one thing that was tried out.
type Probed struct {
	What   string
	Detail string
	Err    error // what is wrong
}

// Probe tries out what a configuration names: the state folder, brokers, files,
// addresses. It calls tell with each as soon as it is known.
func (p *Plan) Probe(ctx context.Context, stateDir string, tell func(Probed)) error {
	tell(p.probeFolder(stateDir))
	if len(p.MQTT.URL) > 0 {
		err := mqtt.Probe(ctx, p.MQTT, p.Publish, func(broker string, err error) {
			tell(Probed{"broker " + broker, "connected; a message came back", err})
		})
		if err != nil {
			return err
		}
	}
	running := control.Running(stateDir)
	for _, l := range p.listeners() {
		opened, err := listen.New().Listen(l.Key, l.At)
		detail := "free"
		switch {
		case err == nil:
			_ = opened.Close()
		case running:
			detail, err = "in use; event2mqtt runs with this state folder", nil
		}
		tell(Probed{fmt.Sprintf("%s %s", l.Key, l.At.Text), detail, err})
	}
	for _, options := range p.sources {
		source, err := options.Build(sources.Deps{Log: zerolog.Nop()})
		probed := Probed{What: "source " + options.Base().Name, Err: err}
		if err == nil {
			prober, ok := source.(sources.Prober)
			if !ok {
				continue // there is nothing to try
			}
			probed.Detail, probed.Err = prober.Probe(ctx)
		}
		tell(probed)
	}
	return nil
}

// probeFolder tells whether this version can use the state folder.
func (p *Plan) probeFolder(dir string) Probed {
	probed := Probed{What: "state folder " + dir, Detail: "this version can use it", Err: p.checkFolder(dir)}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		probed.Detail = "is not there yet; the program makes it"
	}
	return probed
}
