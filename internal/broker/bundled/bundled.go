package bundled

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/listen"
	"event2mqtt/internal/sinks"
)

// This file is the broker with what it listens on.

// Broker is the broker with what it listens on. Open makes it.
type Broker struct {
	*broker.Broker
	accounts  *accounts.Accounts
	gate      broker.Gate  // of WebSockets
	maxPacket atomic.Int64 // bytes
	listeners []*Listener
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	log       zerolog.Logger
}

// ListenerSpec is all that tells one listener from another.
type ListenerSpec struct {
	listen.Option
	tls TLSConfig // zero without TLS
}

// Listeners are those that are asked for.
func (c Config) Listeners() (specs []ListenerSpec) {
	for _, s := range []ListenerSpec{
		{listen.Option{Kind: "", Key: "broker.listen", At: listen.Address{Network: "tcp", Text: c.Listen}}, TLSConfig{}},
		{listen.Option{Kind: "TLS", Key: "broker.tls.listen", At: listen.Address{Network: "tcp", Text: c.TLS.Listen}}, c.TLS},
		{listen.Option{Kind: "WebSocket", Key: "broker.websocket.listen", At: listen.Address{Network: "tcp", Text: c.WebSocket.Listen}}, TLSConfig{}},
		{listen.Option{Kind: "secure WebSocket", Key: "broker.websocket.tls_listen", At: listen.Address{Network: "tcp", Text: c.WebSocket.TLSListen}}, c.TLS},
		{listen.Option{Kind: "", Key: "broker.unix", At: listen.Address{Network: "unix", Text: c.Unix}}, TLSConfig{}},
	} {
		s.tls.Listen = "" // the address has it
		if s.At.Text != "" && s.At.Text != off {
			specs = append(specs, s)
		}
	}
	return specs
}

// Listener is one that is open.
type Listener struct {
	net.Listener
	ListenerSpec
	log  zerolog.Logger
	done chan struct{} // closed when nobody is let in any more; nil before Start
}

func (l *Listener) String() string {
	if l.Kind == "" {
		return l.Addr().String()
	}
	return l.Addr().String() + " (" + l.Kind + ")"
}

// Close lets nobody in any more, and waits for that.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	if l.done != nil {
		<-l.done
	}
	return err
}

// Options are what a Broker is opened with.
type Options struct {
	Config   Config
	StateDir string
	Version  string      // of the program, as it shows it
	Gate     broker.Gate // of WebSockets
	Log      zerolog.Logger
}

// Folder is where the broker keeps its store, in a state folder.
func Folder(stateDir string) string { return filepath.Join(stateDir, "broker") }

// CheckState returns format.ErrNewer or journal.ErrNewer if a newer version wrote
// what the broker keeps in a state folder, or an error of the file system. It
// changes nothing.
func (c Config) CheckState(stateDir string) error {
	if err := accounts.CheckState(stateDir); err != nil {
		return err
	}
	if !c.Persistence {
		return nil
	}
	err := broker.CheckFolder(journal.DirFS(Folder(stateDir)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Open reads the broker's state. Nobody can connect before there are listeners.
func Open(o Options) (b *Broker, err error) {
	b = &Broker{gate: o.Gate, log: o.Log}
	b.maxPacket.Store(int64(o.Config.MaxPacket))
	b.accounts, err = accounts.New(o.Config.accountsOptions(o.StateDir, o.Log))
	if err != nil {
		return nil, err
	}
	options := broker.Options{
		Limits: o.Config.limits(), Accounts: b.accounts, SaveInterval: o.Config.SaveInterval,
		SysInterval: o.Config.SysInterval, Version: o.Version, Log: o.Log,
	}
	if o.Config.Persistence {
		dir := Folder(o.StateDir)
		if err = os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the broker's folder: %w", err)
		}
		options.Folder = journal.DirFS(dir)
	}
	if b.Broker, err = broker.New(options); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.wg.Go(func() { b.accounts.Watch(ctx, b.AccountsChanged) })
	return b, nil
}

func (c Config) accountsOptions(stateDir string, log zerolog.Logger) accounts.Options {
	return accounts.Options{
		File: AccountsFile(stateDir), Configured: c.configured(), AllowAnonymous: c.AllowAnonymous,
		Failures: c.LoginFailures, LockOut: c.LockOut, Logins: filepath.Join(stateDir, accounts.LoginsName), Log: log,
	}
}

// Configure changes users, limits and intervals.
func (b *Broker) Configure(c Config) error {
	b.SetLimits(c.limits())
	b.maxPacket.Store(int64(c.MaxPacket))
	b.SetIntervals(c.SaveInterval, c.SysInterval)
	b.accounts.SetOptions(c.accountsOptions("", b.log))
	if _, err := b.accounts.Reload(); err != nil {
		return err
	}
	b.AccountsChanged()
	return nil
}

// SetListeners says on what is listened, and returns on what it was before. It
// opens, starts and closes none of them.
func (b *Broker) SetListeners(all []*Listener) (before []*Listener) {
	before, b.listeners = b.listeners, all
	return before
}

// Listens reports whether there is a listener.
func (b *Broker) Listens() bool { return len(b.listeners) > 0 }

// Change is what has to be done to listen on what is asked for.
type Change struct {
	Missing              []ListenerSpec
	Kept, Fresh, Surplus []*Listener
}

// Compare tells how the listeners differ from those asked for.
func (b *Broker) Compare(c Config) (d Change) {
	d.Missing = c.Listeners()
	for _, l := range b.listeners {
		if i := slices.Index(d.Missing, l.ListenerSpec); i >= 0 {
			d.Missing = slices.Delete(d.Missing, i, i+1)
			d.Kept = append(d.Kept, l)
		} else {
			d.Surplus = append(d.Surplus, l)
		}
	}
	return d
}

// Listen opens a listener. Nobody is let in before Start.
func (b *Broker) Listen(s *listen.Sockets, spec ListenerSpec) (*Listener, error) {
	var secure *tls.Config
	if spec.tls != (TLSConfig{}) {
		var err error
		if secure, err = broker.NewTLS(Config{TLS: spec.tls}.tlsOptions(b.log)); err != nil {
			return nil, err
		}
	}
	l, err := s.Listen(spec.Key, spec.At)
	if err != nil {
		return nil, err
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	return &Listener{Listener: l, ListenerSpec: spec, log: b.log}, nil
}

// Start lets clients in until the listener is closed.
func (b *Broker) Start(l *Listener) {
	l.done = make(chan struct{})
	go func() { // close waits for it
		defer close(l.done)
		serve := b.Serve
		if strings.HasSuffix(l.Kind, "WebSocket") {
			serve = func(nl net.Listener) error { return b.ServeWebSocket(nl, b.gate) }
		}
		if err := serve(l.Listener); !errors.Is(err, broker.ErrClosed) {
			l.log.Error().Err(err).Stringer("listener", l.Addr()).Msg("broker: stopped listening")
		}
	}()
}

// Login returns what an account may do, for who knows its password; from is
// where the attempt came from.
func (b *Broker) Login(ctx context.Context, from netip.Addr, user, password string) (Rights, error) {
	if _, err := b.accounts.Login(ctx, accounts.Attempt{Address: from, User: user, HasUser: true, Password: password}); err != nil {
		return Rights{}, err
	}
	return Rights{b, user}, nil
}

// Rights are what an account may do, as it is at each moment.
type Rights struct {
	b    *Broker
	user string
}

func (r Rights) rules() accounts.Rules {
	rules, _ := r.b.accounts.Rules(r.user, "")
	return rules // none allow nothing
}

// MayRead reports whether messages of a topic may be received.
func (r Rights) MayRead(topic string) bool { return r.rules().MayRead(topic) }

// MayWrite reports whether messages may be published to a topic.
func (r Rights) MayWrite(topic string) bool { return r.rules().MayWrite(topic) }

// MayReadSome reports whether a subscription could ever receive anything.
func (r Rights) MayReadSome(filter string) bool { return r.rules().MayReadSome(filter) }

// AccountList is what is told of the accounts.
func (b *Broker) AccountList() []accounts.Account { return b.accounts.List() }

// Stop lets clients have what waits for them, for a moment, and stops.
func (b *Broker) Stop() {
	b.cancel()
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, l := range b.listeners {
		_ = l.Listener.Close()
	}
	b.Close(last)
	for _, l := range b.listeners {
		<-l.done
	}
	b.wg.Wait()
}

// Publish implements sinks.Broker. When no more may be retained, which the broker
// tells, a message is passed on all the same: those behind it must not wait.
func (b *Broker) Publish(ctx context.Context, o sinks.Outgoing) (sinks.Receipt, error) {
	if size, most := packetOverhead(o.Topic)+len(o.Payload), b.maxPacket.Load(); int64(size) > most {
		return nil, fmt.Errorf("%w: as a packet it has %d bytes, and broker.max_packet allows %d", sinks.ErrNeverTaken, size, most)
	}
	r, err := b.Broker.Publish(ctx, &broker.Message{Topic: o.Topic, Payload: o.Payload, QoS: o.QoS, Retain: o.Retain, SaveLater: o.SaveLater})
	if errors.Is(err, broker.ErrRetainedFull) {
		r, err = b.Broker.Publish(ctx, &broker.Message{Topic: o.Topic, Payload: o.Payload, QoS: o.QoS})
	}
	return r, err
}

// Subscribe implements sinks.Broker.
func (b *Broker) Subscribe(filter string, use func(sinks.Incoming)) (cancel func(), err error) {
	return b.Broker.Subscribe(filter, func(d broker.Delivery) {
		use(sinks.Incoming{
			Topic: d.Topic, Payload: d.Payload, Retained: d.Retain || d.Stored, Own: d.Client == "" && !d.Stored,
			User: d.User, Client: d.Client, Received: d.Received,
		})
	})
}

// packetOverhead is how much larger than its payload a PUBLISH is, in bytes
// (section 3.3 of MQTT): type, remaining length, length of the topic, packet id,
// and no properties.
func packetOverhead(topic string) int { return 1 + 4 + 2 + 2 + 1 + len(topic) }
