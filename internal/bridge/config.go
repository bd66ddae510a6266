package bridge

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/config"
	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/listen"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/webhook"
	"event2mqtt/internal/topic"
	"event2mqtt/internal/web"
)

// Config is the whole configuration.
type Config struct {
	MQTT            mqtt.Config          `koanf:"mqtt" doc:"The broker that events are published to."`
	Publish         mqtt.PublishConfig   `koanf:"publish" doc:"What the published messages look like."`
	HomeAssistant   homeassistant.Config `koanf:"home_assistant" doc:"What Home Assistant is told, so that it finds devices by itself."`
	Broker          bundled.Config       `koanf:"broker" doc:"The bundled broker, which runs while mqtt.url is not set."`
	Sources         []any                `koanf:"sources" doc:"Where events come from. Without any there is a webhook, default."`                 // maps; each type has options of its own
	Sinks           []any                `koanf:"sinks" doc:"Where events go beside the broker of mqtt, each with its own place in the journal."` // maps, too
	Rules           []rules.Config       `koanf:"rules" doc:"What becomes of events before they are stored: each rule is applied to what those before it left."`
	Journal         JournalConfig        `koanf:"journal" doc:"Where events are kept until they are delivered."`
	HTTP            web.Config           `koanf:"http" doc:"The HTTP server of webhooks, the API and metrics."`
	Log             LogConfig            `koanf:"log" doc:"The program's own log, on stderr."`
	MaxPayload      config.Size          `koanf:"max_payload" default:"1MiB" min:"1B" max:"64MiB" doc:"The largest payload of an event."`
	ShutdownTimeout time.Duration        `koanf:"shutdown_timeout" default:"10s" min:"0s" max:"1h" doc:"How long to deliver what is stored before the program ends."`
}

// JournalConfig are the options of the journal section.
type JournalConfig struct {
	Path         string             `koanf:"path" doc:"The folder of the journal; left out, \"journal\" in the state folder."`
	MaxSize      config.Size        `koanf:"max_size" default:"256MiB" min:"64KiB" doc:"How much the journal may take on disk."`
	MaxAge       time.Duration      `koanf:"max_age" default:"7d" doc:"How long delivered events are kept as history."`
	Sync         journal.SyncMode   `koanf:"sync" default:"always" oneof:"always,interval,never" doc:"When stored events are synced to the disk: always is before they count as stored and safe against power cuts; interval is every sync_interval; never leaves it to the system."`
	SyncInterval time.Duration      `koanf:"sync_interval" default:"1s" min:"1ms" max:"1h" doc:"How often stored events are synced to the disk if journal.sync is interval."`
	Keep         time.Duration      `koanf:"keep" default:"24h" min:"0s" doc:"How long the place of a sink that is no longer configured is kept, so that it goes on where it was when it comes back."`
	WhenFull     journal.FullPolicy `koanf:"when_full" default:"refuse" oneof:"refuse,drop_oldest" doc:"What becomes of new events when the journal is full: refuse has their senders try again; drop_oldest drops the oldest that the main sink has not got instead. Each of sinks has a when_full of its own."`
}

// LogConfig are the options of the log section.
type LogConfig struct {
	Level   string       `koanf:"level" default:"info" oneof:"debug,info,warn,error" doc:"How much is logged."`
	Levels  LevelsConfig `koanf:"levels" doc:"Levels of single parts, in place of log.level. Each line of the log names its part."`
	Publish string       `koanf:"publish" default:"off" oneof:"off,warn,error" doc:"Which lines of the log are also published to {base}/bridge/logging, ten at once and one a second at most: warn is warnings and errors."`
	Format  string       `koanf:"format" default:"auto" oneof:"auto,text,json" doc:"How lines of the log are written; auto is text on a terminal and JSON elsewhere."`
}

// Defaults returns the configuration that holds where nothing is configured.
func Defaults() (c Config) {
	config.SetDefaults(&c)
	return c
}

// Plan is a configuration that was found good.
type Plan struct {
	Config
	// Version is the program's, as it shows it.
	Version string
	types   Types
	sources []sources.Options
	sinks   []sinks.Options    // the main one first
	mixed   map[string]mixture // of the sources that are shown as devices
	ruleSet *rules.Set         // the rules, to be asked what they do; nil if they are wrong
	events  topic.Template     // publish.event_topic; it has no parts if that was refused
	doc     *config.Document
}

// problem places a text at a key.
func (p *Plan) problem(key, text string) config.Problem { return p.doc.Problem(key, text) }

// explain places a component's error below path.
func (p *Plan) explain(path string, err error) error { return p.doc.Explain(path, err) }

// Values are all options as they are in use, with where each comes from.
func (p *Plan) Values() []config.Value {
	values := p.doc.Values("", p.Config)
	for i, options := range p.sources {
		values = append(values, p.doc.Values(fmt.Sprintf("sources[%d]", i), options)...)
	}
	for i, options := range p.sinks[1:] {
		values = append(values, p.doc.Values(fmt.Sprintf("sinks[%d]", i), options)...)
	}
	return values
}

// Source returns the options of a source by its name, or nil.
func (p *Plan) Source(name string) sources.Options {
	for _, o := range p.sources {
		if o.Base().Name == name {
			return o
		}
	}
	return nil
}

// Warnings are what is not wrong, and should be otherwise.
func (p *Plan) Warnings() []string { return p.doc.Warnings }

// destination is where events go.
func (p *Plan) destination() string {
	if len(p.MQTT.URL) == 0 {
		return "the bundled broker"
	}
	return strings.Join(p.MQTT.URL, ", ")
}

// Load reads and checks a configuration: file may be empty, environ is as
// os.Environ has it, settings are KEY=VALUE over both, stateDir is where the broker's accounts are. The error is
// config.Problems, all of them, or that of reading the file. What Load accepts
// can be run.
func Load(file string, environ []string, stateDir string, settings ...string) (*Plan, error) {
	return BuiltIn().Load(file, environ, stateDir, settings...)
}

// Load is as the function Load, for a configuration that may name these types.
func (t Types) Load(file string, environ []string, stateDir string, settings ...string) (*Plan, error) {
	p := &Plan{types: t}
	doc, err := config.Load(file, environ, &p.Config, settings...)
	if err != nil {
		return nil, err
	}
	var problems config.Problems
	note := func(path string, err error) {
		if err != nil {
			problems = append(problems, doc.Explain(path, err)...)
		}
	}
	note("", doc.Decode(&p.Config))
	doc.Fill("", "preset", &p.Config, func() { p.MQTT.Lay(&p.Publish, doc.IsSet) })
	for i := range problems {
		if problems[i].Key == "log" { // what many other programs take
			problems[i].Text += ", such as log: {level: debug}"
		}
	}
	p.sinks = []sinks.Options{p.mainOptions()}
	note("", p.sinks[0].Check())
	p.ruleSet, err = rules.New(p.Rules, rules.Options{Base: p.Publish.BaseTopic})
	note("", err)
	if len(p.MQTT.URL) == 0 {
		note("broker", p.Broker.Check(bundled.AccountsFile(stateDir)))
	}
	note("http", p.HTTP.Check())
	note("home_assistant", p.HomeAssistant.Check(p.Publish.BaseTopic))
	note("", p.checkListeners())
	if p.Journal.MaxSize < 2*p.MaxPayload {
		note("", config.Relation("journal.max_size", "max_payload", "%s is less than twice max_payload (%s)", p.Journal.MaxSize, p.MaxPayload))
	}
	note("", p.checkPaths())
	note("", atMost("rules", len(p.Rules), maxRules))
	p.sources = decodeAll(doc, "sources", p.Sources, sourceKinds(t.Sources), note, p.checkSourceName())
	kinds := sinkKinds(t.Sinks)
	kinds.settle = p.settleSink
	p.sinks = append(p.sinks, decodeAll(doc, "sinks", p.Sinks, kinds, note, checkSinkName)...)
	p.checkCommands(note)
	if len(p.Sources) == 0 {
		hook := webhook.Defaults()
		hook.Name, hook.Type = "default", webhook.Type.Name
		p.sources = []sources.Options{&hook}
	}
	p.events, _ = topic.Parse(p.Publish.EventTopic, p.Publish.BaseTopic)
	p.mixed = p.mixtures()
	note("", p.checkApart())
	if len(problems) > 0 {
		problems.Sort()
		return nil, problems
	}
	for _, key := range p.keyFiles() {
		if key != "" {
			doc.WarnIfShared(key)
		}
	}
	if len(p.MQTT.URL) == 0 {
		doc.Warnings = append(doc.Warnings, p.Broker.Warnings(p.HTTP.Listen)...)
	}
	p.doc = doc
	p.warnOfSurprises()
	p.checkPacket()
	return p, nil
}

// keyFiles are those that nobody else may read.
func (p *Plan) keyFiles() []string {
	files := []string{p.MQTT.TLS.Key, p.MQTT.PasswordFile, p.MQTT.CredentialsFile, p.Broker.TLS.Key}
	for _, o := range p.sinks[1:] {
		if extra, ok := o.(*mqtt.Extra); ok {
			files = append(files, extra.TLS.Key, extra.PasswordFile, extra.CredentialsFile)
		}
	}
	return files
}

// Bounds of what runs at once: each source and sink has goroutines of its own,
// and each rule is tried for each event.
const (
	maxParts = 1000
	maxRules = 1000
)

func atMost(key string, n, most int) error {
	if n > most {
		return config.Errorf(key, "there are %d; at most %d are allowed", n, most)
	}
	return nil
}

// checkListeners tells of addresses that would be listened on twice.
func (p *Plan) checkListeners() error {
	listeners := p.listeners()
	var errs []error
	for i, l := range listeners {
		for _, other := range listeners[:i] {
			if l.At.Overlaps(other.At) {
				errs = append(errs, config.Errorf(l.Key, "%s is taken by %s already, which listens on %s", l.At.Text, other.Key, other.At.Text))
			}
		}
	}
	return errors.Join(errs...)
}

// listeners are all that is listened on.
func (p *Plan) listeners() []listen.Option {
	all := []listen.Option{{Key: "http.listen", At: httpAt(p.HTTP.Listen)}}
	if len(p.MQTT.URL) == 0 {
		for _, spec := range p.Broker.Listeners() {
			all = append(all, spec.Option)
		}
	}
	return all
}

// httpAt is where HTTP is listened on.
func httpAt(address string) listen.Address { return listen.Address{Network: "tcp", Text: address} }
