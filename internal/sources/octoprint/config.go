package octoprint

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/bmatcuk/doublestar/v4"

	"event2mqtt/internal/config"
	"event2mqtt/internal/device"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/octoprint/api"
	"event2mqtt/internal/topic"
)

// Options are the options of an octoprint source.
type Options struct {
	sources.Common   `koanf:",squash"`
	sources.Commands `koanf:",squash"`
	URL              string                   `koanf:"url" required:"it is where OctoPrint is" example:"http://octopi.local" doc:"The address of OctoPrint, with the path where a proxy puts it."`
	APIKey           config.Secret            `koanf:"api_key" required:"OctoPrint lets nobody in without it" example:"A1B2C3D4E5F6" doc:"An API key of OctoPrint, of a user who may see the status, such as one made under Settings, Application Keys."`
	Username         string                   `koanf:"username" doc:"The user name that a proxy in front of OctoPrint asks for; it is not that of OctoPrint."`
	Password         config.Secret            `koanf:"password" doc:"The password of username at the proxy in front of OctoPrint."`
	Headers          map[string]config.Secret `koanf:"headers" doc:"HTTP headers that are sent with each request, for a proxy in front of OctoPrint."`
	TLS              TLSConfig                `koanf:"tls" doc:"How OctoPrint's certificate is checked where url begins with https://."`
	Timeout          time.Duration            `koanf:"timeout" default:"10s" min:"1s" max:"5m" doc:"How long OctoPrint may take to answer a request."`

	TemperatureThreshold float64       `koanf:"temperature_threshold" default:"0.1" min:"0" max:"1000" doc:"By how many degrees a temperature must differ from the one last reported to be reported."`
	ProgressStep         float64       `koanf:"progress_step" default:"1" min:"0" max:"100" doc:"By how many percent a print's progress must differ from the one last reported to be reported."`
	TimeStep             time.Duration `koanf:"time_step" default:"1m" min:"1s" max:"24h" doc:"By how much the times of a print must differ from those last reported to be reported, and its expected end from the one last told to move."`
	ProgressInterval     time.Duration `koanf:"progress_interval" default:"5s" min:"0s" max:"24h" doc:"The shortest time between two reports of progress; the beginning and the end of a print do not wait."`
	DeviceID             string        `koanf:"device_id" example:"printer-1" doc:"An identifier of the printer that stays when its address changes; left out, one is made of url."`

	MaxTemperature map[string]float64  `koanf:"max_temperature" example:"{tool0: 250, bed: 100}" doc:"The highest target in degrees that the command temperature may set, by heater: tool0, tool1 and so on, bed, chamber; it sets no others."`
	Gcode          map[string][]string `koanf:"gcode" example:"{home: [G28]}" doc:"The lines that the command gcode may send to the printer, by the name that it is given; it sends no others."`
	Snapshot       SnapshotConfig      `koanf:"snapshot" doc:"When a picture of the webcam is published, as the state snapshot."`
	Thumbnail      bool                `koanf:"thumbnail" default:"false" doc:"Whether the picture that a slicer put into the selected file is published, as the state thumbnail; OctoPrint needs a plugin for that, such as Slicer Thumbnails."`

	Compat string       `koanf:"compat" oneof:"octoprint-mqtt" doc:"Publish what the plugin OctoPrint-MQTT published: octoprint-mqtt takes over its topics and payloads, as plugin says."`
	Plugin PluginConfig `koanf:"plugin" doc:"The settings of the plugin OctoPrint-MQTT that compat takes the place of."`
}

// TLSConfig says whom to trust and who we are.
type TLSConfig struct {
	CA       string `koanf:"ca" default:"auto" doc:"The authorities that may have signed OctoPrint's certificate: auto for those that this system trusts, or a PEM file."`
	Cert     string `koanf:"cert" doc:"The client certificate that the server is shown, a PEM file."`
	Key      string `koanf:"key" doc:"The client certificate's private key, a PEM file."`
	Insecure bool   `koanf:"insecure" default:"false" doc:"Do not check who the server is."`
}

// PluginConfig has the settings of OctoPrint-MQTT, under its names. A topic that
// is empty is not published to.
type PluginConfig struct {
	BaseTopic        string   `koanf:"base_topic" default:"octoPrint/" doc:"What all topics of compat begin with, the slash included, as the plugin's baseTopic."`
	EventTopic       string   `koanf:"event_topic" default:"event/{event}" doc:"The topic of events with compat, as the plugin's eventTopic; empty leaves events to publish.event_topic."`
	ProgressTopic    string   `koanf:"progress_topic" default:"progress/{progress}" doc:"The topic of progress with compat, as the plugin's progressTopic; empty is none."`
	TemperatureTopic string   `koanf:"temperature_topic" default:"temperature/{temp}" doc:"The topic of temperatures with compat, as the plugin's temperatureTopic; empty is none."`
	MetadataTopic    string   `koanf:"metadata_topic" default:"metadata/{key}" doc:"The topic of a print's metadata with compat, as the plugin's metadataTopic; empty is none."`
	MetadataKeys     []string `koanf:"metadata_keys" example:"[analysis.estimatedPrintTime]" doc:"Which metadata of the file that is printed are published with compat; a path such as analysis.filament leads inside."`
	WillTopic        string   `koanf:"will_topic" default:"mqtt" doc:"The topic with compat that says connected while OctoPrint is there, as the plugin's lwTopic; empty is none."`
	PrinterData      bool     `koanf:"printer_data" default:"false" doc:"Whether compat adds the printer's state to the progress, as the plugin's printerData."`
	Retain           bool     `koanf:"retain" default:"true" doc:"Whether the events ZChange and FirmwareData are retained with compat, as the plugin's broker.retain."`
	TimestampField   string   `koanf:"timestamp_field" default:"_timestamp" doc:"The key of the time in progress and temperatures with compat, as the plugin's timestamp_fieldname."`
}

// compatPlugin is the value of Options.Compat.
const compatPlugin = "octoprint-mqtt"

// maxMetadata bounds the keys of metadata.
const maxMetadata = 100

// Type is this kind of source.
var Type = sources.Type{Name: "octoprint", Options: func() sources.Options {
	o := &Options{}
	config.SetDefaults(o)
	return o
}}

// Exclusive implements sources.Options: two would deliver each event twice.
func (o *Options) Exclusive() bool { return true }

// Hints are for options that other sources have.
func (o *Options) Hints() map[string]string {
	return map[string]string{
		"token":   "is called api_key here",
		"preset":  "is for webhooks; OctoPrint needs none here",
		"apikey":  "is called api_key here",
		"api-key": "is called api_key here",
	}
}

// Check implements sources.Options.
func (o *Options) Check() error {
	_, err := o.settings()
	return err
}

// settings are checked options, ready for use.
type settings struct {
	url    *url.URL
	client api.Options
	camera *api.Camera // nil if OctoPrint is asked for pictures
	topics topics
}

// settings reads what stands in the options, and the files they name.
func (o *Options) settings() (s settings, err error) {
	var errs config.Errors
	if s.url, err = api.ParseURL(o.URL); err != nil && o.URL != "" {
		errs.Bad("url", "%w", err)
	}
	if (o.Username == "") != (o.Password == "") {
		errs.Relation("password", "username", "username and password must be given together")
	}
	if strings.TrimSpace(string(o.APIKey)) != string(o.APIKey) || !validValue(string(o.APIKey)) {
		errs.Bad("api_key", "begins or ends with a space, or holds a line end or another control character; write the key alone")
	}
	if o.DeviceID != "" && !isWord(o.DeviceID, device.MaxKey) {
		errs.Bad("device_id", "%q cannot be an identifier; letters, digits, _ and - are allowed, %d at most", o.DeviceID, device.MaxKey)
	}
	header := o.header(&errs)
	if n := len(o.Plugin.MetadataKeys); n > maxMetadata {
		errs.Bad("plugin.metadata_keys", "has %d keys; at most %d are allowed", n, maxMetadata)
	}
	if o.Compat == "" && len(o.Plugin.MetadataKeys) > 0 {
		errs.Relation("plugin.metadata_keys", "compat", "is of use only with compat: octoprint-mqtt")
	}
	o.checkCommands(&errs)
	for i, pattern := range o.Snapshot.Events {
		if !doublestar.ValidatePattern(pattern) || pattern == "" {
			errs.Bad(fmt.Sprintf("snapshot.events[%d]", i), "%q is no pattern of names, such as PrintDone or Print*", pattern)
		}
	}
	if o.Snapshot.URL != "" {
		if s.camera, err = api.NewCamera(string(o.Snapshot.URL), o.Timeout); err != nil {
			errs.Bad("snapshot.url", "%w", err)
		}
	}
	if s.topics, err = o.topics(); err != nil {
		errs.Add(err)
	}
	t, err := o.TLS.build()
	errs.Add(err)
	s.client = api.Options{
		URL: s.url, Key: string(o.APIKey), Username: o.Username, Password: string(o.Password), Header: header, TLS: t, Timeout: o.Timeout,
	}
	return s, errs.Err()
}

// word is letters, digits, _ and -. A bound in the expression itself would cost
// memory for each repetition.
var word = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// isWord reports whether a text is a word of at most so many bytes.
func isWord(text string, most int) bool { return len(text) <= most && word.MatchString(text) }

// ownHeaders are those that the program sets itself, or that say how the message
// is sent, which is HTTP's and the WebSocket's own matter: with another value
// OctoPrint would wait for what never comes, or answer in another form.
var ownHeaders = []string{
	"Origin", "X-Api-Key", "Host", "Content-Type", "Content-Length", "Transfer-Encoding", "Trailer", "Te", "Expect",
	"Connection", "Proxy-Connection", "Keep-Alive", "Upgrade", "Accept-Encoding",
}

// header reads the headers.
func (o *Options) header(errs *config.Errors) http.Header {
	header := http.Header{}
	for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
		value := string(o.Headers[name])
		if !validHeader(name) || !validValue(value) {
			errs.Bad("headers."+name, "is not a header, or holds a line end or another control character")
		}
		if own := http.CanonicalHeaderKey(name); slices.Contains(ownHeaders, own) || strings.HasPrefix(own, "Sec-Websocket-") {
			errs.Bad("headers", "%s is set by event2mqtt itself; leave it out", own)
		}
		header.Set(name, value)
	}
	return header
}

func validHeader(name string) bool {
	const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" // RFC 9110, 5.6.2
	return name != "" && strings.Trim(name, token) == ""
}

// validValue reports whether a text can be the value of a header: tabs are all
// that it may hold of control characters (RFC 9110, 5.5).
func validValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r != '\t' && unicode.IsControl(r) })
}

// WarnBeside tells what is most likely not meant of a source beside another,
// which has the name given: two at one OctoPrint, or with one identifier.
func (o *Options) WarnBeside(other sources.Options, name string) error {
	before, ok := other.(*Options)
	if !ok {
		return nil
	}
	a, err := api.ParseURL(o.URL)
	if err != nil {
		return nil // Check tells it
	}
	b, err := api.ParseURL(before.URL)
	if err != nil {
		return nil
	}
	switch {
	case place(a) == place(b):
		return config.Errorf("url", "this is the OctoPrint of %s, too: each of its events comes twice, and each source tells when the other connects; remove one of them", name)
	case deviceID(o, a) == deviceID(before, b):
		return config.Errorf("device_id", "it is that of %s, too: both are taken for one printer; choose another", name)
	}
	return nil
}

// build reads the files. Its error holds every KeyError.
func (t TLSConfig) build() (*tls.Config, error) {
	var errs config.Errors
	c := &tls.Config{InsecureSkipVerify: t.Insecure, MinVersion: tls.VersionTLS12} //nolint:gosec // asked for by the key "insecure"
	errs.TLSFiles(c, "tls.", t.CA, t.Cert, t.Key)
	return c, errs.Err()
}

// topics are those of compat. An empty one is not published to.
type topics struct {
	on                                bool
	event                             topic.Template
	hasEvent                          bool
	progress, temperature, meta, will string
}

// topics reads the plugin's topics. Their placeholders but {event} are filled in
// where they are used.
func (o *Options) topics() (t topics, err error) {
	if o.Compat == "" {
		return t, nil
	}
	t.on = true
	var errs config.Errors
	p := &o.Plugin
	if p.EventTopic != "" {
		if t.event, err = topic.Parse(p.BaseTopic+p.EventTopic, ""); err != nil {
			errs.Bad("plugin.event_topic", "%w", err)
		}
		t.hasEvent = err == nil
	}
	for _, each := range []struct {
		key, value, placeholder string
		into                    *string
	}{
		{"progress_topic", p.ProgressTopic, "{progress}", &t.progress},
		{"temperature_topic", p.TemperatureTopic, "{temp}", &t.temperature},
		{"metadata_topic", p.MetadataTopic, "{key}", &t.meta},
		{"will_topic", p.WillTopic, "", &t.will},
	} {
		if each.value == "" {
			continue
		}
		*each.into = p.BaseTopic + each.value
		if each.placeholder != "" && !strings.Contains(each.value, each.placeholder) {
			errs.Bad("plugin."+each.key, "%q must hold %s, or all would be published to one topic", each.value, each.placeholder)
		}
		bare := *each.into
		if each.placeholder != "" {
			bare = strings.ReplaceAll(bare, each.placeholder, "x")
		}
		if err := topic.Check(bare); err != nil {
			errs.Bad("plugin."+each.key, "%w", err)
		}
	}
	for i, key := range p.MetadataKeys {
		if err := topic.Check("x/" + key); err != nil || key == "" {
			errs.Bad(fmt.Sprintf("plugin.metadata_keys[%d]", i), "%q cannot stand in a topic", key)
		}
	}
	return t, errs.Err()
}
