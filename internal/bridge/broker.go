package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
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
	"event2mqtt/internal/config"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/web/origin"
)

// This file fits the bundled broker into the bridge: its options, its
// listeners, its accounts, its folder.

// BrokerConfig are the options of the broker section: the bundled broker,
// which runs while mqtt.url is not set.
type BrokerConfig struct {
	Listen         string                `koanf:"listen" default:"localhost:1883" format:"address" off:"off" doc:"Where MQTT is spoken; off is not at all; localhost is 127.0.0.1 and ::1. On other addresses than this machine's there must be users."`
	Unix           string                `koanf:"unix" doc:"A unix socket where MQTT is spoken, too."`
	TLS            BrokerTLSConfig       `koanf:"tls" doc:"Where and how MQTT over TLS is spoken."`
	WebSocket      BrokerWebSocketConfig `koanf:"websocket" doc:"Where MQTT over WebSocket is spoken."`
	AllowAnonymous bool                  `koanf:"allow_anonymous" default:"false" doc:"Let clients in that give no user name, from anywhere."`
	Users          []BrokerUser          `koanf:"users" doc:"Accounts beside those of the command line."`
	LoginFailures  int                   `koanf:"login_failures" default:"5" min:"1" max:"1000" doc:"How many failed logins lock a user name out from an address; ten times as many, with whatever names, lock out the address."`
	LockOut        time.Duration         `koanf:"lock_out" default:"60s" min:"1s" max:"30m" doc:"How long the first lock-out lasts; each further one takes twice as long, up to 30 minutes."`
	Persistence    bool                  `koanf:"persistence" default:"true" doc:"Whether sessions and retained messages survive restarts and crashes."`
	SaveInterval   time.Duration         `koanf:"save_interval" default:"5s" min:"100ms" max:"1h" doc:"How long a retained QoS 0 message may be in memory only."`
	SysInterval    time.Duration         `koanf:"sys_interval" default:"10s" min:"1s" max:"1h" off:"0s" doc:"How often $SYS/broker/… is brought up to date; 0s is off."`

	MaxClients       int           `koanf:"max_clients" default:"1024" min:"1" max:"1048576" doc:"How many clients may be connected."`
	MaxPerAddress    int           `koanf:"max_per_address" default:"256" min:"1" max:"1048576" doc:"How many connections one address may have."`
	MaxPending       int           `koanf:"max_pending" default:"512" min:"1" max:"1048576" doc:"How many connections there may be that have not said CONNECT yet."`
	ConnectTimeout   time.Duration `koanf:"connect_timeout" default:"10s" min:"1s" max:"10m" doc:"How long a connection may take to say CONNECT."`
	MaxKeepAlive     time.Duration `koanf:"max_keepalive" default:"0s" min:"5s" max:"65535s" off:"0s" doc:"The longest a client may be silent; 0s is what it asks for."`
	MaxPacket        config.Size   `koanf:"max_packet" default:"1280KiB" min:"1KiB" max:"64MiB" doc:"The largest packet that a client may send."`
	MaxInFlight      int           `koanf:"max_in_flight" default:"1024" min:"1" max:"65535" doc:"How many messages to and from one client may be unanswered, in each direction."`
	MaxQueued        int           `koanf:"max_queued" default:"16384" min:"1" max:"16777216" doc:"How many messages may wait for one client."`
	MaxQueuedBytes   config.Size   `koanf:"max_queued_bytes" default:"8MiB" min:"1KiB" max:"1GiB" doc:"How many bytes of messages may wait for one client."`
	MaxQueuedTotal   config.Size   `koanf:"max_queued_total" default:"128MiB" min:"1KiB" max:"1GiB" doc:"How many bytes of messages may wait for all clients together."`
	MaxSubscriptions int           `koanf:"max_subscriptions" default:"8192" min:"1" max:"16777216" doc:"How many filters one client may subscribe to; deep ones count more."`
	MaxSessions      int           `koanf:"max_sessions" default:"4096" min:"1" max:"16777216" doc:"How many sessions there may be, of clients that are there and of absent ones."`
	MaxRetained      int           `koanf:"max_retained" default:"100000" min:"1" max:"1073741824" doc:"How many messages may be retained."`
	MaxRetainedBytes config.Size   `koanf:"max_retained_bytes" default:"64MiB" min:"1KiB" max:"1GiB" doc:"How many bytes the retained messages may have together."`
	MaxTopicLength   int           `koanf:"max_topic_length" default:"1024" min:"1" max:"65535" doc:"How many bytes a topic may have."`
	MaxTopicLevels   int           `koanf:"max_topic_levels" default:"201" min:"1" max:"201" doc:"How many levels a topic may have; 201 levels are 200 slashes, as many as Mosquitto allows."`
	PublishRate      int           `koanf:"publish_rate" default:"0" min:"0" max:"1073741824" doc:"How many messages a second one client may publish; 0 is any number."`
	SessionExpiry    time.Duration `koanf:"session_expiry" default:"24h" min:"1s" max:"3650d" doc:"How long the session of an absent client is kept at most."`
	StallTimeout     time.Duration `koanf:"stall_timeout" default:"5s" min:"100ms" max:"1h" doc:"How long a client with a full queue may take nothing."`
}

// BrokerTLSConfig are the options of the broker.tls section.
type BrokerTLSConfig struct {
	Listen             string `koanf:"listen" format:"address" off:"off" example:"192.168.1.5:8883" doc:"Where MQTT over TLS is spoken; left out, nowhere."`
	Cert               string `koanf:"cert" doc:"The broker's certificate, a PEM file; it is read again when it is replaced."`
	Key                string `koanf:"key" doc:"The private key of the broker's certificate, a PEM file."`
	ClientCA           string `koanf:"client_ca" doc:"The authority that signs the certificates which clients may show, a PEM file."`
	RequireCertificate bool   `koanf:"require_certificate" default:"false" doc:"Whether clients must show a certificate; its common name is the user name."`
	MinVersion         string `koanf:"min_version" default:"1.2" oneof:"1.0,1.1,1.2,1.3" doc:"The lowest version of TLS that is accepted."`
}

// BrokerWebSocketConfig are the options of the broker.websocket section.
type BrokerWebSocketConfig struct {
	HTTP      bool     `koanf:"http" default:"true" doc:"Whether MQTT over WebSocket is spoken at /mqtt of http.listen."`
	Listen    string   `koanf:"listen" format:"address" off:"off" example:"192.168.1.5:9001" doc:"A port of its own where MQTT over WebSocket is spoken."`
	TLSListen string   `koanf:"tls_listen" format:"address" off:"off" example:"192.168.1.5:9443" doc:"A port of its own where MQTT over WebSocket is spoken with TLS, as broker.tls says."`
	Origins   []string `koanf:"origins" example:"*.example.org" doc:"Web pages of these origins may connect, too; those of http.origins may as well."`
}

// BrokerUser is an account that the configuration names.
type BrokerUser struct {
	Name     string        `koanf:"name" doc:"The user name of the account."`
	Password config.Secret `koanf:"password" doc:"The password of the account, unless hash is set."`
	Hash     config.Secret `koanf:"hash" doc:"A hash of the password: argon2id, bcrypt, or as mosquitto_passwd makes it."`
	ClientID string        `koanf:"client_id" doc:"The only client id that the user may use."`
	Allow    []string      `koanf:"allow" example:"#:rw" doc:"What the user may do: FILTER:r, w, rw or deny; %u is the user name, %c the client id."`
}

// off is how a listener is turned off that is on by default.
const off = "off"

func accountsFile(stateDir string) accounts.File {
	return accounts.File(filepath.Join(stateDir, accounts.FileName))
}

// AccountsFile is where the broker's accounts are kept.
func AccountsFile(stateDir string) accounts.File { return accountsFile(stateDir) }

// check tells what is wrong, as KeyErrors.
func (c BrokerConfig) check(file accounts.File) error {
	errs := errorList{c.checkUsers()}
	if c.MaxSessions < c.MaxClients {
		errs.relation("max_sessions", "max_clients", "%d is less than max_clients, %d; every client has a session", c.MaxSessions, c.MaxClients)
	}
	users, err := file.Load()
	if err != nil {
		errs.bad("", "%v; repair it, or restore it from a backup", err)
	}
	guarded := len(users)+len(c.Users) > 0 || c.AllowAnonymous
	for _, l := range []struct {
		key, address string
		guarded      bool
	}{
		{"listen", c.Listen, guarded},
		{"tls.listen", c.TLS.Listen, guarded || c.TLS.RequireCertificate},
		{"websocket.listen", c.WebSocket.Listen, guarded},
		{"websocket.tls_listen", c.WebSocket.TLSListen, guarded || c.TLS.RequireCertificate},
	} {
		host, _, err := net.SplitHostPort(l.address)
		if err == nil && !isLoopback(host) && !l.guarded {
			errs.bad(l.key, "%s can be reached from other machines, and anybody there could read and send everything: there are no users; add one with \"event2mqtt user add NAME\", set broker.allow_anonymous: true if it is meant, or listen on 127.0.0.1", l.address)
		}
	}
	needsTLS := slices.ContainsFunc([]string{c.TLS.Listen, c.WebSocket.TLSListen}, func(address string) bool { return address != "" && address != off })
	switch {
	case needsTLS && (c.TLS.Cert == "" || c.TLS.Key == ""):
		errs.bad("tls.cert", "a certificate and its key are needed to listen with TLS; set broker.tls.cert and broker.tls.key")
	case needsTLS:
		if _, err := broker.NewTLS(c.tlsOptions(zerolog.Nop())); err != nil {
			errs.bad("tls", "%v", err)
		}
	}
	for i, pattern := range c.WebSocket.Origins {
		if origin.CheckOrigin(pattern) != nil || strings.Contains(pattern, "/") {
			errs.bad(fmt.Sprintf("websocket.origins[%d]", i), "%q is not a host; write for example example.org, *.example.org or example.org:8080", pattern)
		}
	}
	return errors.Join(errs...)
}

// warnings are what surprises, though it may be meant. http is where the
// WebSocket of the whole program is.
func (c BrokerConfig) warnings(http string) (out []string) {
	if !c.AllowAnonymous {
		return nil
	}
	if !c.WebSocket.HTTP {
		http = off
	}
	for _, l := range []struct {
		key, address string
		guarded      bool
	}{
		{"broker.listen", c.Listen, false},
		{"broker.tls.listen", c.TLS.Listen, c.TLS.RequireCertificate},
		{"broker.websocket.listen", c.WebSocket.Listen, false},
		{"broker.websocket.tls_listen", c.WebSocket.TLSListen, c.TLS.RequireCertificate},
		{"http.listen (broker.websocket.http)", http, false},
	} {
		host, _, err := net.SplitHostPort(l.address)
		if err == nil && !isLoopback(host) && !l.guarded {
			out = append(out, fmt.Sprintf("%s: everybody who can reach %s may read and send everything without a name, because broker.allow_anonymous is true; to change that, set it to false and add accounts with \"event2mqtt user add NAME\"", l.key, l.address))
		}
	}
	return out
}

// errorList gathers KeyErrors.
type errorList []error

func (e *errorList) bad(key, format string, args ...any) {
	*e = append(*e, config.Errorf(key, format, args...))
}

func (e *errorList) relation(key, other, format string, args ...any) {
	*e = append(*e, config.Relation(key, other, format, args...))
}

func (c BrokerConfig) checkUsers() error {
	var errs errorList
	names := map[string]int{}
	for i, u := range c.Users {
		key := func(name string) string { return fmt.Sprintf("users[%d].%s", i, name) }
		if err := accounts.CheckName(u.Name); err != nil {
			errs.bad(key("name"), "%v", err)
		}
		if first, taken := names[u.Name]; taken {
			errs.bad(key("name"), "%q is the name of users[%d] already", u.Name, first)
		}
		names[u.Name] = i
		switch {
		case u.Password == "" && u.Hash == "" && c.TLS.ClientCA == "":
			errs.bad(key("password"), "a password is needed, or a hash of one, or broker.tls.client_ca for clients that show certificates")
		case u.Password != "" && u.Hash != "":
			errs.bad(key("hash"), "there is a password already; leave one of them out")
		case u.Hash != "":
			if err := accounts.CheckHash(string(u.Hash)); err != nil {
				errs.bad(key("hash"), "%v", err)
			}
		}
		if _, err := accounts.ParseRules(u.Allow); err != nil {
			errs.bad(key("allow"), "%v", err)
		}
	}
	return errors.Join(errs...)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c BrokerConfig) limits() broker.Limits {
	return broker.Limits{
		Clients: c.MaxClients, PerAddress: c.MaxPerAddress, Pending: c.MaxPending, PacketSize: int(c.MaxPacket),
		ConnectTimeout: c.ConnectTimeout, KeepAlive: c.MaxKeepAlive, Inflight: c.MaxInFlight, QueuedMessages: c.MaxQueued,
		QueuedBytes: int(c.MaxQueuedBytes), QueuedTotal: int(c.MaxQueuedTotal), Subscriptions: c.MaxSubscriptions,
		Sessions: c.MaxSessions, Retained: c.MaxRetained, RetainedBytes: int(c.MaxRetainedBytes), TopicLength: c.MaxTopicLength,
		TopicLevels: c.MaxTopicLevels, PublishRate: c.PublishRate, SessionExpiry: c.SessionExpiry, StallTimeout: c.StallTimeout,
	}
}

func (c BrokerConfig) tlsOptions(log zerolog.Logger) broker.TLSOptions {
	version := map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[c.TLS.MinVersion]
	return broker.TLSOptions{
		Cert: c.TLS.Cert, Key: c.TLS.Key, ClientCA: c.TLS.ClientCA, RequireCertificate: c.TLS.RequireCertificate,
		MinVersion: version, Log: log,
	}
}

// configured are the accounts that the configuration names.
func (c BrokerConfig) configured() []accounts.User {
	var users []accounts.User
	for _, u := range c.Users {
		user := accounts.User{Name: u.Name, Hash: string(u.Hash), ClientID: u.ClientID, Allow: u.Allow}
		if u.Password != "" {
			user.Hash = accounts.PlainHash(string(u.Password))
		}
		if u.Allow == nil {
			user.Allow = accounts.Everything().Strings()
		}
		users = append(users, user)
	}
	return users
}

// live is the part of the configuration that configure can change; listeners
// are looked at one by one.
func (c BrokerConfig) live() BrokerConfig {
	c.Listen, c.Unix, c.TLS, c.WebSocket = "", "", BrokerTLSConfig{}, BrokerWebSocketConfig{}
	return c
}

// bundledBroker is the broker with what it listens on.
type bundledBroker struct {
	*broker.Broker
	accounts  *accounts.Accounts
	gate      broker.Gate  // of WebSockets
	maxPacket atomic.Int64 // bytes
	listeners []*brokerListener
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	log       zerolog.Logger
}

// listenerSpec is all that tells one listener from another.
type listenerSpec struct {
	kind, key, network, address string
	tls                         BrokerTLSConfig // zero without TLS
}

// listeners are those that are asked for.
func (c BrokerConfig) listeners() (specs []listenerSpec) {
	for _, s := range []listenerSpec{
		{"", "broker.listen", "tcp", c.Listen, BrokerTLSConfig{}},
		{"TLS", "broker.tls.listen", "tcp", c.TLS.Listen, c.TLS},
		{"WebSocket", "broker.websocket.listen", "tcp", c.WebSocket.Listen, BrokerTLSConfig{}},
		{"secure WebSocket", "broker.websocket.tls_listen", "tcp", c.WebSocket.TLSListen, c.TLS},
		{"", "broker.unix", "unix", c.Unix, BrokerTLSConfig{}},
	} {
		s.tls.Listen = "" // the address has it
		if s.address != "" && s.address != off {
			specs = append(specs, s)
		}
	}
	return specs
}

// brokerListener is one that is open.
type brokerListener struct {
	net.Listener
	listenerSpec
	log  zerolog.Logger
	done chan struct{} // closed when nobody is let in any more; nil before serve
}

func (l *brokerListener) String() string {
	if l.kind == "" {
		return l.Addr().String()
	}
	return l.Addr().String() + " (" + l.kind + ")"
}

func (l *brokerListener) close() {
	_ = l.Close()
	if l.done != nil {
		<-l.done
	}
}

// openBroker reads the broker's state. Nobody can connect before there are
// listeners.
func openBroker(plan *Plan, stateDir string, gate broker.Gate, log zerolog.Logger) (b *bundledBroker, err error) {
	b = &bundledBroker{gate: gate, log: log}
	b.maxPacket.Store(int64(plan.Broker.MaxPacket))
	b.accounts, err = accounts.New(plan.Broker.accountsOptions(stateDir, log))
	if err != nil {
		return nil, err
	}
	options := broker.Options{
		Limits: plan.Broker.limits(), Accounts: b.accounts, SaveInterval: plan.Broker.SaveInterval,
		SysInterval: plan.Broker.SysInterval, Version: plan.Version, Log: log,
	}
	if plan.Broker.Persistence {
		dir := brokerDir(stateDir)
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

func (c BrokerConfig) accountsOptions(stateDir string, log zerolog.Logger) accounts.Options {
	return accounts.Options{
		File: accountsFile(stateDir), Configured: c.configured(), AllowAnonymous: c.AllowAnonymous,
		Failures: c.LoginFailures, LockOut: c.LockOut, Logins: filepath.Join(stateDir, accounts.LoginsName), Log: log,
	}
}

// configure changes users, limits and intervals.
func (b *bundledBroker) configure(c BrokerConfig) error {
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

// listenerChange is what has to be done to listen on what is asked for.
type listenerChange struct {
	missing              []listenerSpec
	kept, fresh, surplus []*brokerListener
}

// compare tells how the listeners differ from those asked for.
func (b *bundledBroker) compare(c BrokerConfig) (d listenerChange) {
	d.missing = c.listeners()
	for _, l := range b.listeners {
		if i := slices.Index(d.missing, l.listenerSpec); i >= 0 {
			d.missing = slices.Delete(d.missing, i, i+1)
			d.kept = append(d.kept, l)
		} else {
			d.surplus = append(d.surplus, l)
		}
	}
	return d
}

// listen opens a listener. Nobody is let in before serve.
func (b *bundledBroker) listen(s *sockets, spec listenerSpec) (*brokerListener, error) {
	var secure *tls.Config
	if spec.tls != (BrokerTLSConfig{}) {
		var err error
		if secure, err = broker.NewTLS(BrokerConfig{TLS: spec.tls}.tlsOptions(b.log)); err != nil {
			return nil, err
		}
	}
	l, err := s.listen(spec.key, spec.network, spec.address)
	if err != nil {
		return nil, err
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	return &brokerListener{Listener: l, listenerSpec: spec, log: b.log}, nil
}

// serve lets clients in until the listener is closed.
func (b *bundledBroker) serve(l *brokerListener) {
	l.done = make(chan struct{})
	go func() { // close waits for it
		defer close(l.done)
		serve := b.Serve
		if strings.HasSuffix(l.kind, "WebSocket") {
			serve = func(nl net.Listener) error { return b.ServeWebSocket(nl, b.gate) }
		}
		if err := serve(l.Listener); !errors.Is(err, broker.ErrClosed) {
			l.log.Error().Err(err).Stringer("listener", l.Addr()).Msg("broker: stopped listening")
		}
	}()
}

// close lets clients have what waits for them, for a moment, and stops.
func (b *bundledBroker) close() {
	b.cancel()
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, l := range b.listeners {
		_ = l.Close()
	}
	b.Close(last)
	for _, l := range b.listeners {
		<-l.done
	}
	b.wg.Wait()
}

// Publish implements mqtt.Broker. When no more may be retained, which the broker
// tells, a message is passed on all the same: those behind it must not wait.
func (b *bundledBroker) Publish(ctx context.Context, topic string, payload []byte, qos byte, retain bool) (mqtt.Receipt, error) {
	if size, most := packetOverhead(topic)+len(payload), b.maxPacket.Load(); int64(size) > most {
		return nil, fmt.Errorf("%w: as a packet it has %d bytes, and broker.max_packet allows %d", mqtt.ErrNeverTaken, size, most)
	}
	r, err := b.Broker.Publish(ctx, &broker.Message{Topic: topic, Payload: payload, QoS: qos, Retain: retain})
	if errors.Is(err, broker.ErrRetainedFull) {
		r, err = b.Broker.Publish(ctx, &broker.Message{Topic: topic, Payload: payload, QoS: qos})
	}
	return r, err
}
