package webhook

import (
	"maps"
	"net/http"
	"reflect"

	"event2mqtt/internal/config"
)

// preset is what a known sender needs. Its zero fields change nothing.
type preset struct {
	name string
	// doc says in half a sentence which requests it takes.
	doc string
	// fill is laid under what is configured: an option of it counts where the
	// configured one is still the default.
	fill func(*Config)
	// secret puts auth.secret where the sender sends it; nil if it sends none,
	// and then instead says what to use.
	secret  func(*AuthConfig)
	instead string
}

// presets are the senders that are known. They stand in the oneof tag of
// Config.Preset, in this order; a test holds the two together.
var presets = []preset{
	{name: "octoprint", doc: "OctoPrint's event hooks, the push API's bodies and the plugin OctoPrint-Webhooks",
		fill: func(c *Config) {
			c.Event.Names = octoPrintNames
			c.Timing.Key, c.Auth.BodyKey = "currentTime", "apiSecret"
			c.Lift, c.Numbers = "extra", []string{"currentTime", "currentZ", "percentCompleteMilestone"}
		}, secret: bodySecret},
	{name: "alertmanager", doc: "Prometheus Alertmanager; each alert is an event",
		fill: func(c *Config) {
			c.Split, c.Event.Keys, c.Event.Default = "alerts", []string{"labels.alertname"}, "Alert"
		}, secret: bearer},
	{name: "apprise", doc: "Apprise's json:// and form://",
		fill: func(c *Config) { c.Event.Keys = []string{"type"} }, instead: basic},
	{name: "bitbucket", doc: "Bitbucket Cloud and Data Center",
		fill: func(c *Config) { c.Event.Header = "X-Event-Key" }, secret: signature("X-Hub-Signature", "sha256=")},
	{name: "frigate", doc: "bodies as Frigate publishes them under frigate/events",
		fill: func(c *Config) { c.Event.Keys, c.Timing.Key = []string{"type"}, "after.frame_time" }, instead: basic},
	{name: "gitea", doc: "Gitea and Forgejo",
		fill: func(c *Config) { c.Event.Header = "X-Gitea-Event" }, secret: signature("X-Gitea-Signature", "")},
	{name: "github", doc: "GitHub, as JSON and as a form",
		fill: func(c *Config) { c.Event.Header = "X-GitHub-Event" }, secret: func(a *AuthConfig) { a.HMAC.Scheme, a.HMAC.Secret = schemeGitHub, a.Secret }},
	{name: "gitlab", doc: "GitLab",
		fill: func(c *Config) { c.Event.Header = "X-Gitlab-Event" }, secret: header("X-Gitlab-Token")},
	{name: "grafana", doc: "Grafana's alerting; each alert is an event",
		fill: func(c *Config) {
			c.Split, c.Event.Keys, c.Event.Default = "alerts", []string{"labels.alertname"}, "Alert"
		}, secret: bearer},
	{name: "jellyfin", doc: "Jellyfin's webhook plugin, its generic destination",
		fill: func(c *Config) { c.Event.Keys, c.Timing.Key = []string{"NotificationType"}, "UtcTimestamp" }, instead: headerOrURL},
	{name: "moonraker", doc: "Moonraker's [notifier] with json://",
		fill: func(c *Config) { c.Event.Keys = []string{"event", "type"} }, instead: basic},
	{name: "ntfy", doc: "what is posted to an ntfy server; the topic is the event",
		fill: func(c *Config) {
			c.Event.Keys, c.Event.Default = []string{"topic"}, "ntfy"
			c.Headers, c.Query = []string{"Title", "Priority", "Tags", "Click"}, true
		}, secret: bearer},
	{name: "octoeverywhere", doc: "OctoEverywhere's notifications",
		fill: func(c *Config) {
			c.Event.Keys, c.Event.Names, c.Auth.BodyKey, c.RespondStatus = []string{"EventType"}, octoEverywhereNames, "SecretKey", http.StatusOK
		}, secret: bodySecret},
	{name: "plex", doc: "Plex Media Server",
		fill: func(c *Config) { c.Event.Keys = []string{"payload.event", "event"} }, instead: "auth.secret_query, and put the parameter into the URL that Plex calls"},
	{name: "radarr", doc: "Radarr", fill: servarr, instead: basic},
	{name: "shelly", doc: "Shelly's URL actions and webhooks, which are GET with the name in the URL",
		fill: func(c *Config) { c.Methods, c.Event.Default = []string{"GET", "POST", "PUT"}, "Shelly" }, instead: "auth.secret_query, and put the parameter into the URL that the device calls"},
	{name: "sonarr", doc: "Sonarr, Prowlarr, Lidarr and Readarr", fill: servarr, instead: basic},
	{name: "stripe", doc: "Stripe",
		fill: func(c *Config) { c.Event.Keys, c.Timing.Key = []string{"type"}, "created" }, secret: func(a *AuthConfig) { a.HMAC.Scheme, a.HMAC.Secret = schemeStripe, a.Secret }},
	{name: "unifi", doc: "UniFi Protect's alarm manager, also its GET without a body",
		fill: func(c *Config) {
			c.Methods, c.Event.Keys, c.Timing.Key, c.Event.Default = []string{"GET", "POST", "PUT"}, []string{"alarm.triggers.0.key", "alarm.name"}, "timestamp", "Alarm"
		}, instead: headerOrURL},
	{name: "uptime-kuma", doc: "Uptime Kuma",
		fill: func(c *Config) {
			c.Event.Keys, c.Event.Default = []string{"heartbeat.status"}, "MonitorNotice"
			c.Event.Names = map[string]string{"0": "MonitorDown", "1": "MonitorUp", "2": "MonitorPending", "3": "MonitorMaintenance"}
		}, instead: headerOrURL},
}

// What to use where a sender has no secret of its own.
const (
	basic       = "auth.username and auth.password"
	headerOrURL = "auth.token or auth.secret_header with a header that you add at the sender, or auth.secret_query"
)

func servarr(c *Config) { c.Event.Keys = []string{"eventType"} }

func bodySecret(a *AuthConfig) { a.BodySecret = a.Secret }

func bearer(a *AuthConfig) { a.Token = a.Secret }

func header(name string) func(*AuthConfig) {
	return func(a *AuthConfig) { a.SecretHeader = NamedSecret{name, a.Secret} }
}

func signature(header, prefix string) func(*AuthConfig) {
	return func(a *AuthConfig) { a.HMAC.Header, a.HMAC.Prefix, a.HMAC.Secret = header, prefix, a.Secret }
}

// octoPrintNames are the labels that the OctoPrint-Webhooks plugin sends as
// "topic", with the names of OctoPrint's own events.
var octoPrintNames = map[string]string{
	"Print Started": "PrintStarted", "Print Done": "PrintDone", "Print Failed": "PrintFailed", "Print Paused": "PrintPaused",
	"User Action Needed": "plugin_webhooks_notify", "Print Progress": "plugin_webhooks_progress", "Error": "Error",
}

// octoEverywhereNames are the values of EventType, of
// https://docs.octoeverywhere.com/webhook-notifications/event-types/.
var octoEverywhereNames = map[string]string{
	"1": "PrintStarted", "2": "PrintDone", "3": "PrintFailed", "4": "PrintPaused", "5": "PrintResumed", "6": "PrintProgress",
	"7": "GadgetWarning", "8": "GadgetPaused", "9": "Error", "10": "FirstLayerDone", "11": "FilamentChange", "12": "UserInteractionNeeded",
	"13": "NotificationLimit", "14": "ThirdLayerDone", "15": "BedCooledDown", "16": "Test",
}

func findPreset(name string) *preset {
	for i := range presets {
		if presets[i].name == name {
			return &presets[i]
		}
	}
	return nil
}

// Prepare lays the preset under what is set. Doing so again changes nothing.
func (c *Config) Prepare() {
	p := findPreset(c.Preset)
	if p == nil {
		return
	}
	filled := Defaults()
	p.fill(&filled)
	if names := maps.Clone(filled.Event.Names); names != nil {
		maps.Copy(names, c.Event.Names)
		c.Event.Names = names
	}
	lay(reflect.ValueOf(c).Elem(), reflect.ValueOf(filled), reflect.ValueOf(Defaults()))
	if c.Auth.Secret != "" && p.secret != nil {
		a := AuthConfig{Secret: c.Auth.Secret}
		config.SetDefaults(&a)
		p.secret(&a)
		lay(reflect.ValueOf(&c.Auth).Elem(), reflect.ValueOf(a), reflect.ValueOf(Defaults().Auth))
	}
}

// lay gives the options of into that are still the default those of filled.
func lay(into, filled, defaults reflect.Value) {
	for i := range into.NumField() {
		field := into.Field(i)
		switch {
		case field.Kind() == reflect.Struct:
			lay(field, filled.Field(i), defaults.Field(i))
		case reflect.DeepEqual(field.Interface(), defaults.Field(i).Interface()):
			field.Set(filled.Field(i))
		}
	}
}

// PresetNames are the names of the senders that are known.
func PresetNames() (names []string) {
	for i := range presets {
		names = append(names, presets[i].name)
	}
	return names
}
