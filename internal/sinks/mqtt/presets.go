package mqtt

import (
	"net/url"
	"slices"
	"time"

	"event2mqtt/internal/config"
)

// This file is the hosted brokers whose rules are known. A preset gives options
// the values that fit its service, and refuses what the service never takes.

// Names of presets that are told apart.
const (
	presetThingSpeak = "thingspeak"
	presetAWS        = "aws-iot"
	presetMosquitto  = "test.mosquitto.org"
	presetAdafruit   = "adafruit-io"
)

// preset is what is known of a service. What is zero is not limited, or was not
// found in its documentation.
type preset struct {
	url     string // of the service; "" if each account has its own
	like    string // what that of an account looks like
	user    bool   // a user name and a password are needed
	cert    bool   // a client certificate is needed
	plain   bool   // there are connections without TLS, too
	noFive  bool   // MQTT 5 is not spoken
	noHold  bool   // nothing is retained
	maxQoS  int
	packet  config.Size
	levels  int
	flight  int // messages without acknowledgement
	id      int // bytes of a client id
	alive   [2]time.Duration
	rate    string // that every account has
	burst   int
	topic   string // of events
	bare    bool   // no topic but those of events can be published to, so that it is for sinks beside the main one
	isOwner bool   // the user name is the first level of all topics
}

// presets are those of the option.
var presets = map[string]preset{
	// 100 publishes in a second, of which a burst is a part.
	presetAWS: {
		like: "mqtts://ID-ats.iot.REGION.amazonaws.com", cert: true, noHold: true, maxQoS: 1, packet: 128 << 10, levels: 8, flight: 100,
		id: 128, alive: [2]time.Duration{5 * time.Second, 1200 * time.Second}, rate: "90/s", burst: 10,
	},
	"hivemq-cloud": {like: "mqtts://ID.s1.eu.hivemq.cloud", user: true, maxQoS: 2, packet: 5 << 20},
	"emqx":         {like: "mqtts://ID.emqxsl.com", user: true, maxQoS: 2, packet: 1 << 20, rate: "10/s", burst: 1},
	presetAdafruit: {
		url: "mqtts://io.adafruit.com", user: true, noHold: true, maxQoS: 1, packet: 1000, rate: "30/min", burst: 1,
		topic: "{base}/feeds/{event|lower}", bare: true, isOwner: true,
	},
	presetMosquitto: {url: "mqtts://test.mosquitto.org:8886", plain: true, noHold: true, maxQoS: 2},
	presetThingSpeak: {
		url: "wss://mqtt3.thingspeak.com/mqtt", user: true, plain: true, noFive: true, noHold: true, maxQoS: 0, rate: "1/s", burst: 1, bare: true,
	},
}

// Lay gives options what the preset says. isSet reports whether somebody has set
// an option, which goes before; its key is that of the main sink, such as
// mqtt.rate or publish.base_topic. Laying again changes nothing.
func (c *Config) Lay(p *PublishConfig, isSet func(key string) bool) {
	of, known := presets[c.Preset]
	if !known {
		return
	}
	if len(c.URL) == 0 && of.url != "" {
		c.URL = []string{of.url}
	}
	set := func(key string, lay func()) {
		if !isSet(key) {
			lay()
		}
	}
	if of.noHold {
		set("mqtt.retain", func() { c.Retain = retainNever })
	}
	set("mqtt.max_qos", func() { c.MaxQoS = of.maxQoS })
	set("mqtt.max_packet", func() { c.MaxPacket = of.packet })
	set("mqtt.max_topic_levels", func() { c.MaxTopicLevels = of.levels })
	if of.flight > 0 {
		set("mqtt.in_flight", func() { c.InFlight = min(c.InFlight, of.flight) })
	}
	if of.rate != "" && !isSet("mqtt.rate") {
		c.Rate = of.rate
		set("mqtt.burst", func() { c.Burst = of.burst })
	}
	if of.bare {
		set("mqtt.will.enabled", func() { c.Will.Enabled = false })
	}
	if c.Preset == presetThingSpeak && c.ClientID == "" {
		c.ClientID = c.Username // a device has one name for both
	}
	if of.isOwner && c.Username != "" {
		set("publish.base_topic", func() { p.BaseTopic = c.Username })
	}
	if of.topic != "" {
		set("publish.event_topic", func() { p.EventTopic = of.topic })
	}
	if c.Preset == presetAWS && slices.ContainsFunc(c.URL, func(text string) bool { return portOf(text) == "443" }) {
		set("mqtt.tls.alpn", func() { c.TLS.ALPN = []string{"x-amzn-mqtt-ca"} })
	}
}

// portOf is the port that a URL names, or "".
func portOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Port()
}

// checkPreset tells what cannot work with the service of the preset.
func (c *Config) checkPreset(p *PublishConfig, at keys) error {
	of, known := presets[c.Preset]
	if !known {
		return nil
	}
	var errs config.Errors
	bad := func(key, format string, args ...any) {
		errs.Bad(at.config+key, format+" (preset %s)", append(args, c.Preset)...)
	}
	if len(c.URL) == 0 {
		bad("url", "is missing; write that of your account, such as %s", of.like)
	}
	if of.bare && at == mainKeys {
		bad("preset", "it is for a sink of its own: write it below sinks, with type: mqtt")
	}
	of.checkLimits(c, bad)
	if of.user && c.CredentialsFile == "" {
		if c.Username == "" {
			bad("username", "is missing, and nobody gets in without one")
		}
		if c.Password == "" && c.PasswordFile == "" {
			bad("password", "is missing, and nobody gets in without one")
		}
	}
	if of.cert && c.TLS.Cert == "" {
		bad("tls.cert", "is missing; the service knows its devices by their client certificates")
	}
	for _, text := range c.URL {
		u, err := brokerURL(text, at)
		if err != nil {
			continue // it is told of
		}
		if secure := u.Scheme == "mqtts" || u.Scheme == "wss"; !secure && !of.plain {
			bad("url", "%q is not encrypted, and the service takes nothing else; write mqtts:// or wss://", u.Redacted())
		}
		if c.Preset == presetMosquitto {
			c.checkMosquitto(u, bad)
		}
	}
	if c.Preset == presetMosquitto && p.BaseTopic == "event2mqtt" {
		errs.Bad(at.publish+"base_topic", "everybody who tries this out publishes below event2mqtt at that broker; write a name of your own (preset %s)", c.Preset)
	}
	return errs.Err()
}

// checkLimits tells of options beyond what the service takes.
func (of *preset) checkLimits(c *Config, bad func(key, format string, args ...any)) {
	if c.Protocol == "5" && of.noFive {
		bad("protocol", "the service does not speak MQTT 5; leave it out")
	}
	if of.noHold && !c.neverRetains() {
		bad("retain", "%s: the service retains nothing for you; leave it out", c.Retain)
	}
	if c.MaxQoS > of.maxQoS {
		bad("max_qos", "%d: the service takes QoS %d at most; leave it out", c.MaxQoS, of.maxQoS)
	}
	if of.packet > 0 && (c.MaxPacket == 0 || c.MaxPacket > of.packet) {
		bad("max_packet", "%s: the service takes %s at most; leave it out", c.MaxPacket, of.packet)
	}
	if of.levels > 0 && (c.MaxTopicLevels == 0 || c.MaxTopicLevels > of.levels) {
		bad("max_topic_levels", "%d: the service takes %d at most; leave it out", c.MaxTopicLevels, of.levels)
	}
	if of.flight > 0 && c.InFlight > of.flight {
		bad("in_flight", "%d: the service takes %d at most; leave it out", c.InFlight, of.flight)
	}
	if of.id > 0 && len(c.ClientID) > of.id {
		bad("client_id", "has %d bytes; the service takes %d at most", len(c.ClientID), of.id)
	}
	if least, most := of.alive[0], of.alive[1]; most > 0 && (c.KeepAlive < least || c.KeepAlive > most) {
		bad("keepalive", "%s: the service takes from %s to %s", config.DurationText(c.KeepAlive), config.DurationText(least), config.DurationText(most))
	}
}

// checkMosquitto tells what a port of test.mosquitto.org asks for.
func (c *Config) checkMosquitto(u *url.URL, bad func(key, format string, args ...any)) {
	ownCA := slices.Contains([]string{"8883", "8884", "8081"}, u.Port())
	if ownCA && (c.TLS.CA == "auto" || c.TLS.CA == "") && len(c.TLS.Pin) == 0 && !c.TLS.Insecure {
		bad("tls.ca", "is missing: port %s has a certificate of the broker's own authority; get https://test.mosquitto.org/ssl/mosquitto.org.crt and name that file", u.Port())
	}
	if u.Port() == "8884" && c.TLS.Cert == "" {
		bad("tls.cert", "is missing: port 8884 asks for a client certificate, which https://test.mosquitto.org/ssl/ makes for you")
	}
}

// Warn tells, as a KeyError, what people should know of the preset.
func (o *Options) Warn() error {
	if o.Config.Preset != presetMosquitto {
		return nil
	}
	key := "preset"
	if o.beside == nil {
		key = mainKeys.config + key
	}
	return config.Errorf(key, "everybody can read what is published to test.mosquitto.org, and publish there; it is for trying out")
}

// Warn is that of Options.
func (o *Extra) Warn() error {
	all := o.all()
	return all.Warn()
}

// bare reports whether no topic but those of events can be published to.
func (c *Connection) bare() bool { return presets[c.Preset].bare }
