package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"event2mqtt/internal/config"
	"event2mqtt/internal/control"
	"event2mqtt/internal/event"
	"event2mqtt/internal/listen"
	"event2mqtt/internal/web/peer"
	"event2mqtt/internal/web/problem"
)

// This file is how a reload is asked for, and how its outcome is told.

const metricsPath = "/metrics"

var errStopping = errors.New("the program is stopping")

// Reload reads the configuration again, has the bridge run it, and returns how
// that went. The error is ctx's, or says that the bridge is stopping.
func (b *Bridge) Reload(ctx context.Context) (control.Outcome, error) {
	answer := make(chan control.Outcome, 1)
	select {
	case b.reloads <- answer:
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
		case answer := <-b.reloads:
			answer <- b.reload(ctx)
		}
	}
}

func (b *Bridge) reload(ctx context.Context) control.Outcome {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
	defer func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }()
	began := time.Now()
	o := control.Outcome{Time: began}
	err := errors.New("the program runs without a configuration file; start it with --config FILE")
	if b.opt.Load != nil {
		var plan *Plan
		if plan, err = b.load(ctx); err == nil {
			o.Changed, err = b.apply(plan)
		}
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
		b.reloaded(o)
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

// reloaded tells how a reload went.
func (b *Bridge) reloaded(o control.Outcome) {
	b.mu.Lock()
	first := b.last.Time.IsZero()
	same := !first && !o.OK && !b.last.OK && strings.Join(o.Problems, "\n") == strings.Join(b.last.Problems, "\n")
	b.last = o
	b.mu.Unlock()
	if !first {
		b.counts.reload(o.OK)
	}
	if text, err := json.Marshal(o); err == nil {
		_ = b.states.Report(stateSource, event.State{Key: keyConfig, Payload: text}) // never one too many
	}
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

// watchConfig reloads whenever the file changes.
func (b *Bridge) watchConfig(ctx context.Context) {
	if b.opt.File == "" {
		return
	}
	config.Watch(ctx, b.opt.File, b.opt.Plan.doc.Sum(), func() { _, _ = b.Reload(ctx) }, b.log)
}

// serveReload answers when the reload is over: 200, or 422 with what is wrong.
func (b *Bridge) serveReload(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		b.web.Warn("reload method").Str("method", r.Method[:min(len(r.Method), 32)]).Stringer("from", peer.Addr(r)).Msg("http: a reload was refused: it is asked for with POST")
		w.Header().Set("Allow", http.MethodPost)
		problem.New(http.StatusMethodNotAllowed, "POST reloads the configuration").Write(w)
		return
	}
	if !b.access.Allows(r) {
		b.web.Warn("reload "+peer.Network(peer.Addr(r)).String()).Stringer("from", peer.Addr(r)).Msg("http: a reload was refused: " + control.Refusal)
		problem.New(http.StatusForbidden, control.Refusal).Write(w)
		return
	}
	o, err := b.Reload(r.Context())
	if err != nil {
		problem.New(http.StatusServiceUnavailable, err.Error()).Write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !o.OK {
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
	_ = json.NewEncoder(w).Encode(o)
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
	return b.access.Write(b.stateDir, u.String(), b.brokerAddress())
}

// configuredToken is http.token.
func (b *Bridge) configuredToken() string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.now.plan == nil {
		return "" // still starting
	}
	return string(b.now.plan.HTTP.Token)
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
