package mqtt

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/template"
	"event2mqtt/internal/topic"
)

// Config are the options of the mqtt section: which broker, and how.
type Config struct {
	// URL lists brokers in the order of preference; none means the bundled one.
	URL        []string `koanf:"url" example:"mqtt://192.168.1.10:1883" doc:"The broker: mqtt://, mqtts://, ws:// or wss://. A list is tried in order. Without one, this program is the broker."`
	Connection `koanf:",squash"`
}

// Connection are the options of a connection to a broker, wherever that is.
type Connection struct {
	Preset          string          `koanf:"preset" oneof:"adafruit-io,aws-iot,emqx,hivemq-cloud,test.mosquitto.org,thingspeak" doc:"A service whose limits and needs are known: options that are left out fit it, and what it never takes is refused."`
	ClientID        string          `koanf:"client_id" example:"printer-1" doc:"The client id. Left out, one is made once and kept in the state folder."`
	Username        string          `koanf:"username" doc:"The user name at the broker."`
	Password        config.Secret   `koanf:"password" doc:"The password of that user at the broker."`
	CredentialsFile string          `koanf:"credentials_file" example:"/etc/event2mqtt/mqtt_secrets.h" doc:"A file with the client id, the user name and the password of a device, as services offer it for download, in place of those options; it is read again at each connect."`
	PasswordFile    string          `koanf:"password_file" example:"/run/secrets/mqtt" doc:"A file with the password, in place of password; it is read again at each connect, for passwords that expire."`
	Protocol        string          `koanf:"protocol" default:"auto" oneof:"auto,3.1.1,3.1,5" doc:"The version of MQTT; auto is 3.1.1."`
	KeepAlive       time.Duration   `koanf:"keepalive" default:"60s" min:"1s" max:"18h" off:"0s" doc:"How often the connection is checked; 0s is off."`
	Timeout         time.Duration   `koanf:"timeout" default:"30s" min:"1s" max:"1h" doc:"How long to wait for the connection, for each acknowledgement, and for every 16 KiB of a large message; it doubles for what did not come through."`
	InFlight        int             `koanf:"in_flight" default:"128" min:"1" max:"10000" doc:"How many events may wait for their acknowledgement."`
	PreferFirst     time.Duration   `koanf:"prefer_first" default:"0s" min:"1s" max:"30d" off:"0s" doc:"How often it is looked, while another broker of the list is connected to, whether the first one is there again, to come back to it; 0s stays where it is."`
	Rate            string          `koanf:"rate" example:"50/s" doc:"How many messages are published at most in a time, such as 50/s, 30/min or 1/15s, also right after an outage; left out, as many as the broker takes."`
	Burst           int             `koanf:"burst" default:"1" min:"1" max:"100000" doc:"How many messages may go out at once, after a pause, where rate is set."`
	Retain          string          `koanf:"retain" default:"as_told" oneof:"as_told,never" doc:"Whether messages may be retained: never publishes states, the will and what rules retain without that, for brokers that do not take it."`
	MaxQoS          int             `koanf:"max_qos" default:"2" oneof:"0,1,2" doc:"The highest QoS that is used; what is configured or told higher is published with this one."`
	MaxPacket       config.Size     `koanf:"max_packet" default:"0B" min:"128B" max:"256MiB" off:"0B" doc:"The largest packet that the broker takes; larger events are skipped and kept in refused before they are sent. 0B is any."`
	MaxTopicLevels  int             `koanf:"max_topic_levels" default:"0" min:"0" max:"65535" doc:"How many levels a topic may have; what has more is skipped and kept in refused. 0 is any."`
	TLS             TLSConfig       `koanf:"tls" doc:"How mqtts:// and wss:// connections are encrypted and checked."`
	WebSocket       WebSocketConfig `koanf:"websocket" doc:"How ws:// and wss:// connections are opened."`
	Will            WillConfig      `koanf:"will" doc:"How others see whether the bridge is there."`
}

// TLSConfig says whom to trust and who we are.
type TLSConfig struct {
	CA         string   `koanf:"ca" default:"auto" doc:"The authorities that may have signed the broker's certificate: auto for those that this system trusts, or a PEM file."`
	Cert       string   `koanf:"cert" doc:"The client certificate that the broker is shown, a PEM file."`
	Key        string   `koanf:"key" doc:"The client certificate's private key, a PEM file."`
	ServerName string   `koanf:"server_name" doc:"The name in the broker's certificate, if it is another than the URL's."`
	Insecure   bool     `koanf:"insecure" default:"false" doc:"Do not check who the broker is."`
	Pin        []string `koanf:"pin" example:"sha256:9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08" doc:"Fingerprints of the broker's certificate, one of which it must have; nothing else is checked then. It is for brokers that have signed their certificate themselves."`
	ALPN       []string `koanf:"alpn" example:"x-amzn-mqtt-ca" doc:"Names of protocols that are offered when the connection is encrypted (ALPN), for brokers that share port 443 with others."`
	MinVersion string   `koanf:"min_version" default:"1.2" oneof:"1.0,1.1,1.2,1.3" doc:"The lowest version of TLS that is accepted."`
	MaxVersion string   `koanf:"max_version" oneof:"1.0,1.1,1.2,1.3" doc:"The highest version of TLS that is accepted; left out, the newest."`
	Ciphers    []string `koanf:"ciphers" doc:"The cipher suites that are offered, by name; left out, Go's choice."`
}

// WebSocketConfig holds what ws and wss URLs need beside the URL.
type WebSocketConfig struct {
	Headers map[string]config.Secret `koanf:"headers" doc:"HTTP headers that are sent with the WebSocket's request, such as Authorization."`
}

// WillConfig says how others see whether the bridge is there.
type WillConfig struct {
	Enabled bool   `koanf:"enabled" default:"true" doc:"Whether to publish that the bridge is connected, and that it is not."`
	Topic   string `koanf:"topic" default:"{base}/mqtt" doc:"The topic that tells whether the bridge is connected."`
	Online  string `koanf:"online" default:"connected" doc:"The payload that is published on connect."`
	Offline string `koanf:"offline" default:"disconnected" doc:"The payload that is published on shutdown, or by the broker as the last will."`
	QoS     int    `koanf:"qos" default:"1" oneof:"0,1,2" doc:"The QoS of the online and the offline message."`
	Retain  bool   `koanf:"retain" default:"true" doc:"Whether the online and the offline message are retained."`
}

// PublishConfig are the options of the publish section: what messages look like.
type PublishConfig struct {
	BaseTopic       string        `koanf:"base_topic" default:"event2mqtt" doc:"The text that {base} stands for in topics."`
	EventTopic      string        `koanf:"event_topic" default:"{base}/event/{event}" doc:"The topic of events, with the placeholders {base}, {event}, {source} and {payload.KEY}; each but {base} may be followed by |lower or |snake."`
	StateTopic      string        `koanf:"state_topic" default:"{base}/{source}/{key}" doc:"The topic of states, which are retained, with the placeholders {base}, {source} and {key}; the last two are needed, and each may be followed by |lower or |snake."`
	StateInterval   time.Duration `koanf:"state_interval" default:"250ms" min:"0s" max:"1h" doc:"How often one state is published at most, with its newest value; 0s is at each change."`
	QoS             int           `koanf:"qos" default:"1" oneof:"0,1,2" doc:"The QoS of events and states; with 0 nobody acknowledges, and events can be lost."`
	MessageExpiry   time.Duration `koanf:"message_expiry" default:"0s" min:"1s" max:"8760h" off:"0s" doc:"How long a broker may keep an event for subscribers that are away, which takes protocol 5; 0s is for ever."`
	Payload         string        `koanf:"payload" example:"field1={payload.progress|url}&status={event|url}" doc:"What the payload of an event looks like, for destinations that take no JSON: {payload}, {payload.KEY}, {event}, {source}, {time} and {id} are replaced, and each but {payload} may be followed by |lower, |snake, |url or |json. Left out, it is the payload as it is."`
	TimestampField  string        `koanf:"timestamp_field" default:"_timestamp" doc:"The key of the payload that tells when the event happened."`
	TimestampMillis bool          `koanf:"timestamp_millis" default:"false" doc:"Whether timestamp_field is in milliseconds instead of seconds."`
	SourceField     string        `koanf:"source_field" example:"_source" doc:"A key of the payload for the name of the source that the event comes from, so that whoever gets events of several can tell them apart."`
	IDField         string        `koanf:"id_field" example:"_id" doc:"A key of the payload for an id that stays the same should an event be sent twice."`
}

// Defaults returns the options that hold where nothing is configured.
func Defaults() (c Config, p PublishConfig) {
	config.SetDefaults(&c)
	config.SetDefaults(&p)
	return c, p
}

// settings are checked options, ready for use.
type settings struct {
	brokers       []*url.URL
	tls           *tls.Config
	template      topic.Template
	stateTemplate topic.Template
	willTopic     string
	payload       template.Template // nil is the payload as it is
	protocol      uint              // as paho numbers them
	plot          *plot             // nil if events are published one by one
}

var schemes = []string{"mqtt", "mqtts", "ws", "wss"}

// keys are what stands before the names of options where they are told of.
type keys struct {
	config  string // of those of Config
	publish string
}

// mainKeys are those of the main sink.
var mainKeys = keys{"mqtt.", "publish."}

// check makes settings of the options; its error holds every KeyError.
func check(c Config, p PublishConfig, at keys) (settings, error) {
	var s settings
	var errs []error
	bad := func(key, format string, args ...any) { errs = append(errs, config.Errorf(key, format, args...)) }

	secure := false
	for i, text := range c.URL {
		key := at.config + "url"
		if len(c.URL) > 1 {
			key = fmt.Sprintf("%surl[%d]", at.config, i)
		}
		u, err := brokerURL(text, at)
		if err != nil {
			bad(key, "%w", err)
			continue
		}
		secure = secure || u.Scheme == "mqtts" || u.Scheme == "wss"
		s.brokers = append(s.brokers, u)
	}
	switch c.Protocol {
	case "auto", "3.1.1":
		s.protocol = 4
	case "3.1":
		s.protocol = 3
	case "5":
		s.protocol = 5
	}
	if err := c.checkPreset(&p, at); err != nil {
		errs = append(errs, err)
	}
	if err := c.checkCredentials(at); err != nil {
		errs = append(errs, err)
	}
	if c.Password != "" && c.PasswordFile != "" {
		errs = append(errs, config.Relation(at.config+"password_file", at.config+"password", "there is a password already; leave one of the two out"))
	}
	if _, err := parseRate(c.Rate); err != nil {
		bad(at.config+"rate", "%q %w", c.Rate, err)
	}
	if c.Password+config.Secret(c.PasswordFile) != "" && c.Username == "" && s.protocol != 5 {
		bad(at.config+"username", "a password without a user name is not allowed before MQTT 5 (%sprotocol)", at.config)
	}
	if len(c.ClientID) > 65535 {
		bad(at.config+"client_id", "is longer than 65535 bytes")
	}
	var err error
	if s.tls, err = c.TLS.build(secure, at.config+"tls."); err != nil {
		errs = append(errs, err)
	}

	if err := topic.Check(p.BaseTopic); err != nil {
		bad(at.publish+"base_topic", "%w", err)
	} else {
		if s.template, err = topic.Parse(p.EventTopic, p.BaseTopic); err != nil {
			bad(at.publish+"event_topic", "%w", err)
		} else if _, fixed := s.template.Literal(); fixed {
			bad(at.publish+"event_topic", "%q has no {event}: every event would go to one topic", p.EventTopic)
		} else if place := event.OwnPlace(p.BaseTopic, s.template.Sample(), event.OwnSource); place != "" {
			bad(at.publish+"event_topic", "%q: topics below %s are the program's own", p.EventTopic, place)
		}
		if s.stateTemplate, err = topic.ParseState(p.StateTopic, p.BaseTopic); err != nil {
			bad(at.publish+"state_topic", "%w", err)
		} else if place := event.OwnPlace(p.BaseTopic, s.stateTemplate.Sample(), event.OwnLevels...); place != "" {
			bad(at.publish+"state_topic", "%q: topics below %s are the program's own", p.StateTopic, place)
		}
		if c.Will.Enabled {
			t, err := topic.Parse(c.Will.Topic, p.BaseTopic)
			literal, fixed := t.Literal()
			switch {
			case err != nil:
				bad(at.config+"will.topic", "%w", err)
			case !fixed:
				bad(at.config+"will.topic", "%q may hold {base} only", c.Will.Topic)
			default:
				s.willTopic = literal
			}
		}
	}
	if p.Payload != "" {
		if s.payload, err = template.Parse(p.Payload); err != nil {
			bad(at.publish+"payload", "%w", err)
		}
	}
	if p.TimestampField == "" || p.TimestampField == "_event" {
		bad(at.publish+"timestamp_field", "%q cannot name the time", p.TimestampField)
	}
	if p.IDField == "_event" || p.IDField != "" && p.IDField == p.TimestampField {
		bad(at.publish+"id_field", "%q is taken already", p.IDField)
	}
	if field := p.SourceField; field == "_event" || field != "" && (field == p.TimestampField || field == p.IDField) {
		bad(at.publish+"source_field", "%q is taken already", field)
	}
	return s, errors.Join(errs...)
}

// brokerURL reads a broker's URL and adds the port that goes without saying.
func brokerURL(text string, at keys) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The error would repeat the URL, password included.
		return nil, fmt.Errorf("not a URL; write for example mqtt://192.168.1.10:1883")
	}
	switch {
	case !slices.Contains(schemes, u.Scheme):
		hint := ""
		switch u.Scheme {
		case "tcp":
			hint = "; for tcp:// write mqtt://"
		case "ssl", "tls":
			hint = "; write mqtts:// for TLS"
		default:
			hint = "; write for example mqtt://192.168.1.10:1883"
		}
		return nil, fmt.Errorf("%q does not begin with one of mqtt://, mqtts://, ws://, wss://%s", u.Redacted(), hint)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q names no host", u.Redacted())
	case !portExists(u.Port()):
		return nil, fmt.Errorf("%q names port %s; there are 1 to 65535", u.Redacted(), u.Port())
	case u.User != nil:
		return nil, fmt.Errorf("%q holds a user; set %[2]susername and %[2]spassword instead, which are never printed", u.Redacted(), at.config)
	case (u.Scheme == "mqtt" || u.Scheme == "mqtts") && strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("%q has a path, which only ws:// and wss:// can have", u.Redacted())
	}
	if u.Port() == "" {
		u.Host += map[string]string{"mqtt": ":1883", "mqtts": ":8883", "ws": ":80", "wss": ":443"}[u.Scheme]
	}
	if u.Path == "" && strings.HasPrefix(u.Scheme, "ws") {
		u.Path = "/mqtt"
	}
	return u, nil
}

// portExists reports whether there is such a port; none is that of the scheme.
func portExists(port string) bool {
	n, err := strconv.Atoi(port)
	return port == "" || err == nil && n >= 1 && n <= 65535
}

var tlsVersions = map[string]uint16{"": 0, "1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// build reads the files. Its keys begin with at. Its error holds every KeyError.
func (t TLSConfig) build(secure bool, at string) (*tls.Config, error) {
	var errs config.Errors
	c := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.Insecure} //nolint:gosec // asked for by the key "insecure"
	c.MinVersion, c.MaxVersion = tlsVersions[t.MinVersion], tlsVersions[t.MaxVersion]
	if c.MaxVersion != 0 && c.MinVersion > c.MaxVersion {
		errs.Bad(at+"max_version", "%s is below min_version %s", t.MaxVersion, t.MinVersion)
	}
	for _, name := range t.Ciphers {
		i := slices.IndexFunc(tls.CipherSuites(), func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			errs.Bad(at+"ciphers", "there is no secure cipher %q; there is for example TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", name)
			continue
		}
		c.CipherSuites = append(c.CipherSuites, tls.CipherSuites()[i].ID)
	}
	errs.TLSFiles(c, at, t.CA, t.Cert, t.Key)
	c.NextProtos = t.ALPN
	if pins, err := parsePins(t.Pin); err != nil {
		errs.Bad(at+"pin", "%w", err)
	} else if len(pins) > 0 {
		pinned(c, pins)
		if t.Insecure {
			errs.Relation(at+"insecure", at+"pin", "checks nothing, and pin checks the certificate; leave one of the two out")
		}
	}
	if !secure {
		return nil, errs.Err()
	}
	return c, errs.Err()
}
