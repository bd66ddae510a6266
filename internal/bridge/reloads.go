package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"event2mqtt/internal/config"
	"event2mqtt/internal/control"
	"event2mqtt/internal/listen"
)

// This file is how a reload is asked for, and how its outcome is told. The API
// asks for one, too (api.go).

const metricsPath = "/metrics"

var errStopping = errors.New("the program is stopping")

// What asks for a reload, as the page shows it.
const (
	byStart   = "start"
	byFile    = "file change"
	bySignal  = "signal"
	byCommand = "command"
	byAPI     = "API"
)

// reloadRequest asks for a reload.
type reloadRequest struct {
	by     string
	answer chan<- control.Outcome // cap 1
	// unless is the content that needs none if it is what runs; zero for a reload
	// in any case, since more than that file may have changed.
	unless config.Sum
}

// Reload reads the configuration again, has the bridge run it, and returns how
// that went. The error is ctx's, or says that the bridge is stopping.
func (b *Bridge) Reload(ctx context.Context) (control.Outcome, error) {
	return b.reloadUnless(ctx, bySignal, config.Sum{})
}

// reloadUnless is Reload, unless the newest reload has taken up this content. by
// is what asks for it.
func (b *Bridge) reloadUnless(ctx context.Context, by string, loaded config.Sum) (control.Outcome, error) {
	answer := make(chan control.Outcome, 1)
	select {
	case b.reloads <- reloadRequest{by, answer, loaded}:
	case <-b.noReloads:
		return control.Outcome{}, errStopping
	case <-ctx.Done():
		return control.Outcome{}, ctx.Err()
	}
	select {
	case o := <-answer:
		return o, nil
	case <-ctx.Done():
		return control.Outcome{}, ctx.Err()
	}
}

// takeReloads does one reload after the other until ctx ends.
func (b *Bridge) takeReloads(ctx context.Context) {
	defer close(b.noReloads)
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-b.reloads:
			if r.unless != (config.Sum{}) && b.last.OK && r.unless == b.now.plan.doc.Sum() {
				r.answer <- b.last
				continue
			}
			r.answer <- b.reload(ctx, r.by)
		}
	}
}

// noFile is what there is to say where nothing can be reloaded. Nothing is wrong
// with the program then, and no state says so.
const noFile = "the program runs without a configuration file; start it with --config FILE"

func (b *Bridge) reload(ctx context.Context, by string) control.Outcome {
	if b.opt.Load == nil {
		b.log.Warn().Str("by", by).Msg("nothing is reloaded: " + noFile)
		return control.Outcome{Time: time.Now(), Problems: []string{noFile}}
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
	defer func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }()
	began := time.Now()
	o := control.Outcome{Time: began}
	plan, err := b.load(ctx)
	if err == nil {
		o.Changed, err = b.apply(plan)
	}
	b.warn()
	o.OK, o.TookMS = err == nil, float64(time.Since(began).Microseconds())/1000
	if err != nil {
		const most = 50
		o.Problems = strings.Split(err.Error(), "\n")
		if n := len(o.Problems); n > most {
			o.Problems = append(o.Problems[:most], fmt.Sprintf("and %d more", n-most))
		}
	}
	if !errors.Is(err, errStopping) {
		b.reloaded(o, by, err)
	}
	return o
}

// load reads the configuration, and gives up when ctx ends: files on a mount
// that does not answer must not keep the program from stopping. What it leaves
// behind touches nothing, and ends by the time limit of each file.
func (b *Bridge) load(ctx context.Context) (*Plan, error) {
	type loaded struct {
		plan *Plan
		err  error
	}
	done := make(chan loaded, 1)
	go func() {
		plan, err := b.opt.Load()
		done <- loaded{plan, err}
	}()
	select {
	case l := <-done:
		return l.plan, l.err
	case <-ctx.Done():
		return nil, errStopping
	}
}

// warn tells what the configuration in use should have otherwise.
func (b *Bridge) warn() {
	for _, text := range b.now.plan.Warnings() {
		b.log.Warn().Msg(text)
	}
}

// reloaded tells how a reload went. err is what is wrong.
func (b *Bridge) reloaded(o control.Outcome, by string, err error) {
	b.mu.Lock()
	if o.OK {
		b.loaded = loaded{by: by, changed: o.Changed}
	} else {
		b.loaded.refused = refusedConfig(o, by, err)
	}
	first := b.last.Time.IsZero()
	same := !first && !o.OK && !b.last.OK && strings.Join(o.Problems, "\n") == strings.Join(b.last.Problems, "\n")
	b.last = o
	b.mu.Unlock()
	if !first {
		b.counts.reload(o.OK)
	}
	b.report(keyConfig, o)
	switch {
	case first, same:
	case !o.OK:
		b.log.Error().Strs("problems", o.Problems).Msg("the new configuration is not used; everything goes on as before")
	case len(o.Changed) == 0:
		b.log.Info().Msg("configuration reloaded; nothing has changed")
	default:
		b.log.Info().Strs("changed", o.Changed).Float64("took_ms", o.TookMS).Msg("configuration reloaded")
		if err := b.writeControl(); err != nil {
			b.log.Warn().Err(err).Msg("\"event2mqtt reload\" will not find this program")
		}
	}
}

// watchConfig reloads whenever the file changes, unless a command has had it
// reloaded by then.
func (b *Bridge) watchConfig(ctx context.Context) {
	if b.opt.File == "" {
		return
	}
	config.Watch(ctx, b.opt.File, b.opt.Plan.doc.Sum(), func(sum config.Sum) { _, _ = b.reloadUnless(ctx, byFile, sum) }, b.log)
}

// brokerAddress is the one without TLS, or the one with TLS if there is no other.
func (b *Bridge) brokerAddress() (found control.Broker) {
	if b.now.broker == nil {
		return found
	}
	for _, l := range b.now.plan.listeners() {
		secure := l.Key == "broker.tls.listen"
		if !secure && l.Key != "broker.listen" {
			continue
		}
		if open := b.sockets.Addresses(l.At); len(open) > 0 && found.Address == "" {
			found = control.Broker{Address: open[0].String(), TLS: secure}
		}
	}
	return found
}

// writeControl notes where the program is reached now.
func (b *Bridge) writeControl() error {
	u := url.URL{Scheme: "http", Host: b.httpAddress()}
	return b.access.Write(b.stateDir, control.Content{URL: u.String(), Config: b.configPath(), Broker: b.brokerAddress()})
}

// configPath is the configuration's path, for programs that were started in
// another folder.
func (b *Bridge) configPath() string {
	if b.opt.File == "" {
		return ""
	}
	path, err := filepath.Abs(b.opt.File)
	if err != nil { // the folder that this was started in is gone
		return ""
	}
	return path
}

// httpAddress is where programs on this machine reach HTTP.
func (b *Bridge) httpAddress() string {
	address := b.now.plan.HTTP.Listen
	if open := b.sockets.Addresses(httpAt(address)); len(open) > 0 {
		address = open[0].String() // port 0 is another by now
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address // was checked
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		host = listen.Localhost
	}
	return net.JoinHostPort(host, port)
}
