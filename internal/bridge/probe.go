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
	"event2mqtt/internal/sinks"
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
	for _, options := range p.sinks[1:] {
		sink, err := options.Build(sinks.Deps{Log: zerolog.Nop()})
		probe(ctx, "sink "+options.Base().Name, sink, err, tell)
	}
	for _, options := range p.sources {
		source, err := options.Build(sources.Deps{Log: zerolog.Nop()})
		probe(ctx, "source "+options.Base().Name, source, err, tell)
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

// prober is a sources.Prober, or a sinks.Prober.
type prober interface {
	Probe(ctx context.Context) (detail string, err error)
}

// probe tries out a part, unless it could not be built or there is nothing to try.
func probe(ctx context.Context, what string, part any, err error, tell func(Probed)) {
	probed := Probed{What: what, Err: err}
	if err == nil {
		p, ok := part.(prober)
		if !ok {
			return
		}
		probed.Detail, probed.Err = p.Probe(ctx)
	}
	tell(probed)
}
