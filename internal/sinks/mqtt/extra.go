package mqtt

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
)

// This file is the sinks of this kind beside the main one: copies of the events,
// and of states if that is wanted, at further brokers.

// Type is the kind of sink.
var Type = sinks.Type{Name: "mqtt", Options: func() sinks.Options {
	o := &Extra{}
	config.SetDefaults(o)
	return o
}}

// Extra are the options of one sink of the section sinks.
type Extra struct {
	sinks.Common `koanf:",squash"`
	URL          []string `koanf:"url" example:"mqtts://broker.example" doc:"The broker: mqtt://, mqtts://, ws:// or wss://. A list is tried in order. It is needed, unless the service of preset has one address."`
	Connection   `koanf:",squash"`
	Channel      string            `koanf:"channel" example:"12345" doc:"With preset: thingspeak, the number of the channel that events go to."`
	Fields       map[string]string `koanf:"fields" doc:"With preset: thingspeak, which value of the payload each field of the channel gets, such as 1: payload.progress; the name of the event is its status."`
	States       bool              `koanf:"states" default:"false" doc:"Whether states are published there, too. The program's own and those for Home Assistant are not."`
	Publish      PublishConfig     `koanf:"publish" doc:"What the published messages look like. What is left out is as in the section publish."`

	path string // where they are written, such as sinks[2]
	main Options
}

// Settle tells where the options are written, what is written of them, and those
// of the main sink. It comes before Lay and Check.
func (o *Extra) Settle(path string, written map[string]any, main *Options) {
	o.path, o.main = path, *main
	publish, _ := written["publish"].(map[string]any)
	config.Inherit(&o.Publish, &main.Publish, publish)
}

// Lay is that of Config. The key that isSet is given is one of the document.
func (o *Extra) Lay(isSet func(key string) bool) {
	all := Config{URL: o.URL, Connection: o.Connection}
	all.Lay(&o.Publish, func(key string) bool { return isSet(o.path + "." + strings.TrimPrefix(key, "mqtt.")) })
	o.URL, o.Connection = all.URL, all.Connection
}

func (o *Extra) all() Options {
	var p *plot
	if o.Preset == presetThingSpeak {
		p, _ = newPlot(o.Channel, o.Fields) // Check tells what is wrong with it
	}
	return Options{
		Calm: o.main.Calm, Pause: o.main.Pause, Repeat: o.main.Repeat, Idle: o.main.Idle,
		Common: o.Common, Config: Config{URL: o.URL, Connection: o.Connection}, Publish: o.Publish,
		beside: &beside{path: o.path, states: o.States, plot: p, base: o.main.Publish.BaseTopic},
	}
}

// Check implements sinks.Options.
func (o *Extra) Check() error {
	own := o.all()
	var errs config.Errors
	errs.Add(own.Check())
	errs.Add(o.checkPlot())
	if len(o.URL) == 0 && o.Preset == "" {
		errs.Bad("url", "is needed: it tells which broker, for example mqtts://broker.example")
	}
	errs.Add(clash(&own, &o.main, "the section mqtt"))
	return errs.Err()
}

// Clash tells that another sink is at the same broker and would be in the way, as
// a KeyError.
func (o *Extra) Clash(other sinks.Options, name string) error {
	its, ok := other.(*Extra)
	if !ok {
		return nil
	}
	one, two := o.all(), its.all()
	return clash(&one, &two, name)
}

// clash tells what of one sink is in the way of another at the same broker.
func clash(one, two *Options, name string) error {
	at := sharedBroker(one.Config.URL, two.Config.URL)
	if at == "" {
		return nil
	}
	a, err := one.check()
	b, wrong := two.check()
	if err != nil || wrong != nil {
		return nil // which is told of there
	}
	var errs config.Errors
	if id := one.Config.ClientID; id != "" && id == two.Config.ClientID {
		errs.Bad("client_id", "%q is the client id of %s already, at the same broker (%s): each would end the other's connection; leave it out, or choose another", id, name, at)
	}
	if one.Config.Will.Enabled && two.Config.Will.Enabled && a.willTopic == b.willTopic {
		errs.Bad("will.topic", "%s is where %s tells whether it is connected already, at the same broker (%s); choose another publish.base_topic or will.topic, or write will: {enabled: false}", a.willTopic, name, at)
	}
	if one.publishesStates() && two.publishesStates() && a.stateTemplate.Sample() == b.stateTemplate.Sample() {
		errs.Bad("states", "%s publishes states to the same topics already, at the same broker (%s); choose another publish.base_topic, or write states: false", name, at)
	}
	return errs.Err()
}

func (o *Options) publishesStates() bool { return o.beside == nil || o.beside.states }

// sharedBroker returns a broker that is in both lists, or "".
func sharedBroker(one, two []string) string {
	for _, a := range one {
		u, err := brokerURL(a, keys{})
		if err == nil && slices.ContainsFunc(two, func(b string) bool {
			v, err := brokerURL(b, keys{})
			return err == nil && brokerID(u) == brokerID(v)
		}) {
			return u.Redacted()
		}
	}
	return ""
}

// brokerID names a broker by address, since that stays the same when TLS or the
// user changes.
func brokerID(u *url.URL) string { return strings.ToLower(u.Host) + u.Path }

// Fingerprint implements sinks.Options.
func (o *Extra) Fingerprint() any {
	own := o.all()
	type fingerprint struct {
		options any
		states  bool
		channel string
		fields  string
		base    string
	}
	return fingerprint{own.Fingerprint(), o.States, o.Channel, fmt.Sprint(o.Fields), o.main.Publish.BaseTopic}
}

// CheckState is that of Options.
func (o *Extra) CheckState(stateDir string) error {
	own := o.all()
	return own.CheckState(stateDir)
}

// Changed returns the keys of what differs in other options of the sink.
func (o *Extra) Changed(before sinks.Options) []string {
	old, ok := before.(*Extra)
	if !ok {
		return []string{o.path + ".type"}
	}
	return config.Changed(o.path, old, o)
}

// Build implements sinks.Options.
func (o *Extra) Build(d sinks.Deps) (sinks.Sink, error) { return New(o.all(), d) }

// Probe implements sinks.Prober: it tries out every broker.
func (s *Sink) Probe(ctx context.Context) (detail string, err error) {
	for _, broker := range s.brokers {
		ctx, cancel := context.WithTimeout(ctx, s.opt.Config.Timeout)
		err := s.probe(ctx, broker)
		cancel()
		if err != nil {
			return "", fmt.Errorf("%s: %w", broker.Redacted(), err)
		}
	}
	return "connected; a message came back", nil
}

// isCommand reports whether a topic is one at which the main sink takes commands:
// {base}/SOURCE/set/COMMAND. No other sink publishes there, whichever broker it
// is at: it could be the same one, and the program would do what it says itself.
func (b *beside) isCommand(topic string) bool {
	rest, inside := strings.CutPrefix(topic, b.base+"/")
	if !inside {
		return false
	}
	before := rest[:strings.LastIndexByte(rest, '/')+1]
	return strings.HasSuffix(before, "/set/") && strings.Count(before, "/") == 2
}

// takes reports whether a sink publishes a state.
func (o *Options) takes(st *event.State) bool {
	return o.beside == nil || o.beside.states && st.Source != event.OwnSource && st.Source != event.DiscoverySource
}
