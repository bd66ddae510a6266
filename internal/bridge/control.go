package bridge

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/renameio/v2"

	"event2mqtt/internal/config"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/event"
	"event2mqtt/internal/listen"
	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
	"event2mqtt/internal/web/problem"
)

// This file is how a reload is asked for, and how its outcome is told.

// Paths of the API.
const (
	reloadPath  = "/api/v1/reload"
	metricsPath = "/metrics"
)

// Outcome is how a reload went.
type Outcome struct {
	OK      bool      `json:"ok"`
	Time    time.Time `json:"time"`
	TookMS  float64   `json:"took_ms"`
	Changed []string  `json:"changed,omitempty"`
	// Problems are those of check, or why what was good could not be started.
	Problems []string `json:"problems,omitempty"`
}

var errStopping = errors.New("the program is stopping")

// Reload reads the configuration again, has the bridge run it, and returns how
// that went. The error is ctx's, or says that the bridge is stopping.
func (b *Bridge) Reload(ctx context.Context) (Outcome, error) {
	answer := make(chan Outcome, 1)
	select {
	case b.reloads <- answer:
	case <-b.stopped:
		return Outcome{}, errStopping
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
	select {
	case o := <-answer:
		return o, nil
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
}

// takeReloads does one reload after the other until ctx ends.
func (b *Bridge) takeReloads(ctx context.Context) {
	defer close(b.stopped)
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-b.reloads:
			answer <- b.reload(ctx)
		}
	}
}

func (b *Bridge) reload(ctx context.Context) Outcome {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
	defer func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }()
	began := time.Now()
	o := Outcome{Time: began}
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
func (b *Bridge) reloaded(o Outcome) {
	b.mu.Lock()
	first := b.last.Time.IsZero()
	same := !first && !o.OK && !b.last.OK && strings.Join(o.Problems, "\n") == strings.Join(b.last.Problems, "\n")
	b.last = o
	b.mu.Unlock()
	if !first {
		b.counts.reload(o.OK)
	}
	if text, err := json.Marshal(o); err == nil {
		b.states.Report(stateSource, event.State{Key: "config", Payload: text})
	}
	switch {
	case first, same:
	case !o.OK:
		b.log.Error().Strs("problems", o.Problems).Msg("the new configuration is not used; everything goes on as before")
	case len(o.Changed) == 0:
		b.log.Info().Msg("configuration reloaded; nothing has changed")
	default:
		b.log.Info().Strs("changed", o.Changed).Float64("took_ms", o.TookMS).Msg("configuration reloaded")
		if err := b.control.write(b); err != nil {
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
	if !b.control.allows(r) {
		b.web.Warn("reload "+peer.Network(peer.Addr(r)).String()).Stringer("from", peer.Addr(r)).Msg("http: a reload was refused: only programs on this machine may do this, or such as send http.token as a bearer token")
		problem.New(http.StatusForbidden, "only programs on this machine may do this, or such as send http.token as a bearer token").Write(w)
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

// control is how "event2mqtt reload" finds the program that runs: a file in the
// state folder, readable by its owner alone, with the address and a token.
type control struct {
	token string
	// of the configuration
	configured func() string
}

const controlFile = "control.json"

type controlContent struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	// Broker is where the bundled broker listens; empty if it does not.
	Broker BrokerAddress `json:"broker"`
}

// BrokerAddress is where devices reach the bundled broker. Address is one of
// host and port, which may be that of all interfaces.
type BrokerAddress struct {
	Address string `json:"address,omitempty"`
	TLS     bool   `json:"tls,omitempty"`
}

// brokerAddress is the one without TLS, or the one with TLS if there is no other.
func (b *Bridge) brokerAddress() (found BrokerAddress) {
	if b.now.broker == nil {
		return found
	}
	for _, l := range b.now.plan.listeners() {
		secure := l.Key == "broker.tls.listen"
		if !secure && l.Key != "broker.listen" {
			continue
		}
		if open := b.sockets.Addresses(l.At); len(open) > 0 && found.Address == "" {
			found = BrokerAddress{open[0].String(), secure}
		}
	}
	return found
}

// RunningBroker is where the broker of the program that uses a state folder
// listens; ok is false if none runs there, or it has no broker.
func RunningBroker(stateDir string) (found BrokerAddress, ok bool) {
	c, err := readControl(stateDir)
	return c.Broker, err == nil && c.Broker.Address != ""
}

// readControl reads what a running program has written.
func readControl(stateDir string) (c controlContent, err error) {
	text, err := file.Read(filepath.Join(stateDir, controlFile), file.MaxSecret)
	if errors.Is(err, fs.ErrNotExist) {
		return c, ErrNotRunning
	}
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return c, fmt.Errorf("find the running event2mqtt: %w", err)
	}
	return c, nil
}

func (c *control) init(b *Bridge) {
	c.token = rand.Text()
	c.configured = func() string {
		b.mu.RLock()
		defer b.mu.RUnlock()
		if b.now.plan == nil {
			return "" // still starting
		}
		return string(b.now.plan.HTTP.Token)
	}
}

// write notes where the program is reached now.
func (c *control) write(b *Bridge) error {
	u := url.URL{Scheme: "http", Host: b.httpAddress()}
	text, err := json.Marshal(controlContent{u.String(), c.token, b.brokerAddress()})
	if err == nil {
		err = renameio.WriteFile(filepath.Join(b.stateDir, controlFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", controlFile, err)
	}
	return nil
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

func (c *control) remove(b *Bridge) { _ = os.Remove(filepath.Join(b.stateDir, controlFile)) }

// allows reports whether a request may change things: it knows a token, or
// comes from a program on this machine, and not from a page in its browser.
func (c *control) allows(r *http.Request) bool {
	if header := r.Header.Get("Authorization"); header != "" {
		given, _ := strings.CutPrefix(header, "Bearer ")
		for _, token := range []string{c.token, c.configured()} {
			if token != "" && subtle.ConstantTimeCompare([]byte(given), []byte(token)) == 1 {
				return true
			}
		}
		return false
	}
	return peer.Local(r) && !origin.FromPage(r)
}

// Running reports whether a program uses a state folder, or was killed in it.
func Running(stateDir string) bool {
	_, err := file.Stat(filepath.Join(stateDir, controlFile))
	return err == nil
}

// ErrNotRunning is returned by AskToReload if no program uses the state folder.
var ErrNotRunning = errors.New("no event2mqtt runs with this state folder; is --state-dir right?")

// AskToReload has the program that uses a state folder reload its
// configuration, and waits for the outcome.
func AskToReload(ctx context.Context, stateDir string) (o Outcome, err error) {
	err = ask(ctx, stateDir, http.MethodPost, reloadPath, nil, &o)
	return o, err
}

// ask sends a request, with a JSON body unless that is nil, to the program
// that uses a state folder, and decodes the answer: one of 200, or of 422.
func ask(ctx context.Context, stateDir, method, path string, body, answer any) error {
	c, err := readControl(stateDir)
	if err != nil {
		return err
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("ask the running event2mqtt: %w", err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, content)
	if err != nil {
		return fmt.Errorf("find the running event2mqtt: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+c.Token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy is to see the token
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrNotRunning, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	if err == nil && (response.StatusCode == http.StatusOK || response.StatusCode == http.StatusUnprocessableEntity) {
		err = json.Unmarshal(text, answer)
	} else if err == nil {
		err = fmt.Errorf("event2mqtt answers %s: %s", response.Status, bytes.TrimSpace(text))
	}
	return err
}
