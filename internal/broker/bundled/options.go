// Package bundled is the broker section of the configuration: its options, and
// the broker with its accounts, its listeners and its folder, as they say. The
// protocol is package broker's.
package bundled

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/config"
	"event2mqtt/internal/format"
	"event2mqtt/internal/listen"
	"event2mqtt/internal/web/origin"
)

// Config are the options of the broker section: the bundled broker,
// which runs while mqtt.url is not set.
type Config struct {
	Listen         string          `koanf:"listen" default:"localhost:1883" format:"address" off:"off" doc:"Where MQTT is spoken; off turns it off; localhost is 127.0.0.1 and ::1. On other addresses than this machine's there must be users."`
	Unix           string          `koanf:"unix" doc:"A unix socket where MQTT is spoken, too."`
	TLS            TLSConfig       `koanf:"tls" doc:"Where and how MQTT over TLS is spoken."`
	WebSocket      WebSocketConfig `koanf:"websocket" doc:"Where MQTT over WebSocket is spoken."`
	AllowAnonymous bool            `koanf:"allow_anonymous" default:"false" doc:"Let clients in that give no user name, from anywhere."`
	Users          []User          `koanf:"users" doc:"Accounts beside those of the command line."`
	LoginFailures  int             `koanf:"login_failures" default:"5" min:"1" max:"1000" doc:"How many failed logins lock a user name out from an address; ten times as many, with whatever names, lock out the address."`
	LockOut        time.Duration   `koanf:"lock_out" default:"60s" min:"1s" max:"30m" doc:"How long the first lock-out lasts; each further one takes twice as long, up to 30 minutes."`
	Persistence    bool            `koanf:"persistence" default:"true" doc:"Whether sessions and retained messages survive restarts and crashes."`
	SaveInterval   time.Duration   `koanf:"save_interval" default:"5s" min:"100ms" max:"1h" doc:"How long a retained QoS 0 message, or a state of event2mqtt itself, may be in memory only."`
	SysInterval    time.Duration   `koanf:"sys_interval" default:"10s" min:"1s" max:"1h" off:"0s" doc:"How often $SYS/broker/… is brought up to date; 0s is off."`

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

// TLSConfig are the options of the broker.tls section.
type TLSConfig struct {
	Listen             string `koanf:"listen" format:"address" off:"off" example:"192.168.1.5:8883" doc:"Where MQTT over TLS is spoken; left out, nowhere."`
	Cert               string `koanf:"cert" doc:"The broker's certificate, a PEM file; it is read again when it is replaced."`
	Key                string `koanf:"key" doc:"The private key of the broker's certificate, a PEM file."`
	ClientCA           string `koanf:"client_ca" doc:"The authority that signs the certificates which clients may show, a PEM file."`
	RequireCertificate bool   `koanf:"require_certificate" default:"false" doc:"Whether clients must show a certificate; its common name is the user name."`
	MinVersion         string `koanf:"min_version" default:"1.2" oneof:"1.0,1.1,1.2,1.3" doc:"The lowest version of TLS that is accepted."`
}

// WebSocketConfig are the options of the broker.websocket section.
type WebSocketConfig struct {
	HTTP      bool     `koanf:"http" default:"true" doc:"Whether MQTT over WebSocket is spoken at /mqtt of http.listen."`
	Listen    string   `koanf:"listen" format:"address" off:"off" example:"192.168.1.5:9001" doc:"A port of its own where MQTT over WebSocket is spoken."`
	TLSListen string   `koanf:"tls_listen" format:"address" off:"off" example:"192.168.1.5:9443" doc:"A port of its own where MQTT over WebSocket is spoken with TLS, as broker.tls says."`
	Origins   []string `koanf:"origins" example:"*.example.org" doc:"Web pages of these origins may connect, too; those of http.origins may as well."`
}

// User is an account that the configuration names.
type User struct {
	Name     string        `koanf:"name" doc:"The user name of the account."`
	Password config.Secret `koanf:"password" doc:"The password of the account, unless hash is set."`
	Hash     config.Secret `koanf:"hash" doc:"A hash of the password: argon2id, bcrypt, or as mosquitto_passwd makes it."`
	ClientID string        `koanf:"client_id" doc:"The only client id that the user may use."`
	Allow    []string      `koanf:"allow" example:"#:rw" doc:"What the user may do: FILTER:r, w, rw or deny; %u is the user name, %c the client id."`
}

// off is how a listener is turned off that is on by default.
const off = "off"

// AccountsFile is where the accounts of the command line are kept.
func AccountsFile(stateDir string) accounts.File {
	return accounts.File(filepath.Join(stateDir, accounts.FileName))
}

// Check tells what is wrong that tags do not, as config.KeyErrors. file holds
// the accounts of the command line.
func (c Config) Check(file accounts.File) error {
	var errs config.Errors
	errs.Add(c.checkUsers())
	if c.MaxSessions < c.MaxClients {
		errs.Relation("max_sessions", "max_clients", "%d is less than max_clients, %d; every client has a session", c.MaxSessions, c.MaxClients)
	}
	users, err := file.Load()
	if errors.Is(err, format.ErrNewer) {
		errs.Bad("", "%w", err)
	} else if err != nil {
		errs.Bad("", "%v; repair it, or restore it from a backup", err)
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
		if err == nil && !listen.IsLoopback(host) && !l.guarded {
			errs.Bad(l.key, "%s can be reached from other machines, and anybody there could read and send everything: there are no users; add one with \"event2mqtt user add NAME\", set broker.allow_anonymous: true if it is meant, or listen on 127.0.0.1", l.address)
		}
	}
	needsTLS := slices.ContainsFunc([]string{c.TLS.Listen, c.WebSocket.TLSListen}, func(address string) bool { return address != "" && address != off })
	switch {
	case needsTLS && (c.TLS.Cert == "" || c.TLS.Key == ""):
		errs.Bad("tls.cert", "a certificate and its key are needed to listen with TLS; set broker.tls.cert and broker.tls.key")
	case needsTLS:
		if _, err := broker.NewTLS(c.tlsOptions(zerolog.Nop())); err != nil {
			errs.Bad("tls", "%v", err)
		}
	}
	for i, pattern := range c.WebSocket.Origins {
		if origin.CheckOrigin(pattern) != nil || strings.Contains(pattern, "/") {
			errs.Bad(fmt.Sprintf("websocket.origins[%d]", i), "%q is not a host; write for example example.org, *.example.org or example.org:8080", pattern)
		}
	}
	return errs.Err()
}

// Warnings are what surprises, though it may be meant. http is where the
// WebSocket of the whole program is.
func (c Config) Warnings(http string) (out []string) {
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
		if err == nil && !listen.IsLoopback(host) && !l.guarded {
			out = append(out, fmt.Sprintf("%s: everybody who can reach %s may read and send everything without a name, because broker.allow_anonymous is true; to change that, set it to false and add accounts with \"event2mqtt user add NAME\"", l.key, l.address))
		}
	}
	return out
}

func (c Config) checkUsers() error {
	var errs config.Errors
	names := map[string]int{}
	for i, u := range c.Users {
		key := func(name string) string { return fmt.Sprintf("users[%d].%s", i, name) }
		if err := accounts.CheckName(u.Name); err != nil {
			errs.Bad(key("name"), "%v", err)
		}
		if first, taken := names[u.Name]; taken {
			errs.Bad(key("name"), "%q is the name of users[%d] already", u.Name, first)
		}
		names[u.Name] = i
		switch {
		case u.Password == "" && u.Hash == "" && c.TLS.ClientCA == "":
			errs.Bad(key("password"), "a password is needed, or a hash of one, or broker.tls.client_ca for clients that show certificates")
		case u.Password != "" && u.Hash != "":
			errs.Bad(key("hash"), "there is a password already; leave one of them out")
		case u.Hash != "":
			if err := accounts.CheckHash(string(u.Hash)); err != nil {
				errs.Bad(key("hash"), "%v", err)
			}
		}
		if _, err := accounts.ParseRules(u.Allow); err != nil {
			errs.Bad(key("allow"), "%v", err)
		}
	}
	return errs.Err()
}

func (c Config) limits() broker.Limits {
	return broker.Limits{
		Clients: c.MaxClients, PerAddress: c.MaxPerAddress, Pending: c.MaxPending, PacketSize: int(c.MaxPacket),
		ConnectTimeout: c.ConnectTimeout, KeepAlive: c.MaxKeepAlive, Inflight: c.MaxInFlight, QueuedMessages: c.MaxQueued,
		QueuedBytes: int(c.MaxQueuedBytes), QueuedTotal: int(c.MaxQueuedTotal), Subscriptions: c.MaxSubscriptions,
		Sessions: c.MaxSessions, Retained: c.MaxRetained, RetainedBytes: int(c.MaxRetainedBytes), TopicLength: c.MaxTopicLength,
		TopicLevels: c.MaxTopicLevels, PublishRate: c.PublishRate, SessionExpiry: c.SessionExpiry, StallTimeout: c.StallTimeout,
	}
}

func (c Config) tlsOptions(log zerolog.Logger) broker.TLSOptions {
	version := map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[c.TLS.MinVersion]
	return broker.TLSOptions{
		Cert: c.TLS.Cert, Key: c.TLS.Key, ClientCA: c.TLS.ClientCA, RequireCertificate: c.TLS.RequireCertificate,
		MinVersion: version, Log: log,
	}
}

// configured are the accounts that the configuration names.
func (c Config) configured() []accounts.User {
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

// Live is the part of the configuration that Configure can change; listeners
// are looked at one by one.
func (c Config) Live() Config {
	c.Listen, c.Unix, c.TLS, c.WebSocket = "", "", TLSConfig{}, WebSocketConfig{}
	return c
}
