package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/decode"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
)

// Config are the options of a webhook source.
type Config struct {
	sources.Common `koanf:",squash"`
	// Preset fills in what a known sender needs; keys that are set stay.
	Preset         string      `koanf:"preset" oneof:"octoprint,alertmanager,apprise,bitbucket,frigate,gitea,github,gitlab,grafana,jellyfin,moonraker,ntfy,octoeverywhere,plex,radarr,shelly,sonarr,stripe,unifi,uptime-kuma" doc:"The sender, if it is one of these: the preset fills in where its events' names, times and secrets are."`
	Methods        []string    `koanf:"methods" default:"POST,PUT" doc:"The methods that make events: POST, PUT, PATCH, and GET for senders that can only call a URL."`
	Event          EventConfig `koanf:"event" doc:"Where an event's name comes from: URL, header, keys, default."`
	sources.Timing `koanf:",squash"`
	TimeHeader     string   `koanf:"time_header" doc:"A header that holds when the event happened, for payloads without that time."`
	TimeQuery      string   `koanf:"time_query" doc:"A query parameter that holds when the event happened, for requests that tell it nowhere else."`
	Encoding       string   `koanf:"encoding" doc:"The character set of bodies, whatever the sender says of them: utf-8, iso-8859-1, windows-1252 and so on."`
	Query          bool     `koanf:"query" default:"false" doc:"Add the parameters of the query to the payload, if it has no such keys; those of GET always are."`
	Headers        []string `koanf:"headers" doc:"Add these headers to the payload under their names in small letters, if it has no such keys."`
	Parse          []string `koanf:"parse" doc:"Keys of the payload whose text is JSON and is used as such; a path such as message.data leads inside."`
	Split          string   `koanf:"split" doc:"A key of the payload that holds an array, each item of which is an event of its own, with the other keys of the payload beside its own."`
	Lift           string   `koanf:"lift" doc:"A key of the payload that holds an object whose keys come to the top, in exchange for the others, which go under the preset's or the source's name; off turns a preset's off."`
	Numbers        []string `koanf:"numbers" doc:"Keys of the payload whose texts are numbers, such as those of forms, which cannot tell the two apart."`
	sources.Shown  `koanf:",squash"`
	Auth           AuthConfig    `koanf:"auth" doc:"Who may send; all that is set must hold."`
	Respond        string        `koanf:"respond" default:"accepted" oneof:"accepted,delivered" doc:"When to answer: accepted is 202 when stored; delivered is 200 when the broker and every required sink have it, and 202 if a rule holds it back."`
	RespondStatus  int           `koanf:"respond_status" default:"202" oneof:"200,202" doc:"The status that means stored, for senders that take only 200 for success."`
	RespondTimeout time.Duration `koanf:"respond_timeout" default:"10s" min:"1ms" max:"50s" doc:"How long respond: delivered waits for the broker and the required sinks before the answer is 504."`
	MaxBody        config.Size   `koanf:"max_body" default:"1MiB" min:"1B" max:"64MiB" doc:"The largest body of a request, files of forms not counted."`
	MaxUnpacked    config.Size   `koanf:"max_unpacked" default:"8MiB" min:"1B" max:"1GiB" doc:"The largest body once unpacked, and the most that the events of one request may hold together."`
	MaxUpload      config.Size   `koanf:"max_upload" default:"32MiB" min:"1B" max:"1GiB" doc:"The largest multipart form with its files, which are skipped."`
	MaxEvents      int           `koanf:"max_events" default:"1000" min:"1" max:"100000" doc:"How many events one request may hold."`
	RateLimit      float64       `koanf:"rate_limit" default:"0" min:"0" doc:"How many requests a second one address may send; 0 is off."`
	RateBurst      int           `koanf:"rate_burst" default:"10" min:"1" doc:"How many requests one address may send at once, if rate_limit is set."`
}

// EventConfig says where an event's name comes from: the URL, then the
// header, then the first of the body's keys that is there, then the default.
type EventConfig struct {
	Header         string `koanf:"header" default:"X-Event-Name" doc:"A header that holds the event's name."`
	sources.Naming `koanf:",squash"`
}

// AuthConfig says how senders prove who they are. All that is set must hold.
type AuthConfig struct {
	Secret       config.Secret `koanf:"secret" doc:"The secret of the preset's sender, which is checked the way that this sender sends it."`
	Token        config.Secret `koanf:"token" doc:"The token that must come in the header Authorization: Bearer TOKEN."`
	Username     string        `koanf:"username" doc:"The user name of basic authentication."`
	Password     config.Secret `koanf:"password" doc:"The password of basic authentication."`
	SecretHeader NamedSecret   `koanf:"secret_header" doc:"A header that must hold a secret."`
	SecretQuery  NamedSecret   `koanf:"secret_query" doc:"A parameter of the query that must hold a secret; it is not published."`
	HMAC         HMACConfig    `koanf:"hmac" doc:"A signature of the body, which is checked before anything else is done with it."`
	BodyKey      string        `koanf:"body_key" doc:"A key that is taken out of the payload, because it holds a secret."`
	BodySecret   config.Secret `koanf:"body_secret" doc:"The secret that body_key must hold."`
}

// NamedSecret is a secret that has a place of its own.
type NamedSecret struct {
	Name  string        `koanf:"name" doc:"The name of the header or parameter."`
	Value config.Secret `koanf:"value" doc:"The secret that the header or parameter must hold."`
}

// HMACConfig says how bodies are signed.
type HMACConfig struct {
	Scheme    string        `koanf:"scheme" oneof:"github,standard,stripe" doc:"A known way to sign: github (X-Hub-Signature-256), standard (standardwebhooks.com) or stripe (Stripe-Signature)."`
	Header    string        `koanf:"header" doc:"The header that holds the signature, where scheme is not set."`
	Prefix    string        `koanf:"prefix" doc:"What comes before the signature in the header, such as sha256=."`
	Encoding  string        `koanf:"encoding" default:"hex" oneof:"hex,base64" doc:"How the signature in the header is written."`
	Algorithm string        `koanf:"algorithm" default:"sha256" oneof:"sha1,sha256,sha512" doc:"The hash function of the signature in the header."`
	Secret    config.Secret `koanf:"secret" doc:"The secret key of the signature."`
	Tolerance time.Duration `koanf:"tolerance" default:"5m" min:"1s" max:"24h" doc:"How far the sender's clock may be off, with standard and stripe."`
}

// The schemes of HMACConfig.
const (
	schemeGitHub   = "github"
	schemeStandard = "standard"
	schemeStripe   = "stripe"
)

// The values of Config.Respond.
const (
	respondAccepted  = "accepted"
	respondDelivered = "delivered"
)

// methods are those that can make events.
var methods = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodGet}

// Defaults returns the options that hold where nothing is configured.
func Defaults() (c Config) {
	config.SetDefaults(&c)
	return c
}

// Thing implements sources.Describer.
func (c *Config) Thing() (device.Device, bool) { return c.ThingOf(c.Name, c.Event.Listed()) }

// Check tells what is wrong with c that its tags do not, as KeyErrors.
func (c *Config) Check() error {
	var errs []error
	bad := func(key, format string, args ...any) { errs = append(errs, config.Errorf(key, format, args...)) }
	relation := func(key, other, format string, args ...any) {
		errs = append(errs, config.Relation(key, other, format, args...))
	}
	if strings.ContainsAny(c.Name, "/?#% ") {
		bad("name", "%q is part of the URL and must not hold / ? # %% or spaces", c.Name)
	}
	if len(c.Methods) == 0 {
		bad("methods", "is empty, so that nothing could be sent; write for example [POST, PUT]")
	}
	for _, method := range c.Methods {
		if !slices.Contains(methods, method) {
			bad("methods", "%q cannot make events; there are %s", method, strings.Join(methods, ", "))
		}
	}
	if c.Auth.HMAC.Secret != "" && slices.Contains(c.Methods, http.MethodGet) {
		relation("methods", "auth.hmac", "GET goes not with hmac: it has no body to sign, so one signature would do for every name and query; set for example methods: [POST], or use secret_header or secret_query instead of hmac")
	}
	if _, err := decode.Lookup(c.Encoding); err != nil {
		bad("encoding", "%w", err)
	}
	errs = append(errs, c.CheckShown(), c.Event.Check("event"), c.Timing.Check(sources.Elsewhere{Option: "time_header", Value: c.TimeHeader}, sources.Elsewhere{Option: "time_query", Value: c.TimeQuery}))
	for i, path := range c.Parse {
		if err := event.CheckPath(path); err != nil {
			bad(fmt.Sprintf("parse[%d]", i), "%w", err)
		}
	}
	if c.Split != "" {
		if err := event.CheckPath(c.Split); err != nil {
			bad("split", "%w", err)
		}
	}
	if c.MaxUnpacked < c.MaxBody {
		relation("max_unpacked", "max_body", "%s is less than max_body (%s)", c.MaxUnpacked, c.MaxBody)
	}
	if p := findPreset(c.Preset); c.Auth.Secret != "" && (p == nil || p.secret == nil) {
		text := "goes with a preset only; without one, say where the secret is with secret_header, hmac or another key of auth"
		if p != nil {
			text = fmt.Sprintf("does not go with preset %s, whose sender sends no secret in a place of its own; use %s", p.name, p.instead)
		}
		relation("auth.secret", "preset", "%s", text)
	}
	return errors.Join(append(errs, c.Auth.check()...)...)
}

// check tells what is wrong with the relations between the options.
func (a *AuthConfig) check() (errs []error) {
	relation := func(key, other, format string, args ...any) {
		errs = append(errs, config.Relation(key, other, format, args...))
	}
	if (a.Username == "") != (a.Password == "") {
		relation("auth.password", "auth.username", "username and password must be given together")
	}
	if a.Token != "" && a.Username != "" {
		relation("auth.token", "auth.username", "token and username exclude each other: both are sent in the Authorization header")
	}
	if a.BodySecret != "" && a.BodyKey == "" {
		relation("auth.body_key", "auth.body_secret", "is needed with body_secret")
	}
	for key, s := range map[string]NamedSecret{"auth.secret_header": a.SecretHeader, "auth.secret_query": a.SecretQuery} {
		if s.Name == "" && s.Value != "" {
			relation(key+".name", key+".value", "is needed with value")
		}
		if s.Name != "" && s.Value == "" {
			relation(key+".value", key+".name", "is needed with name")
		}
	}
	h := &a.HMAC
	if h.Scheme != "" && h.Header != "" {
		relation("auth.hmac.header", "auth.hmac.scheme", "does not go with scheme, which has a header of its own")
	}
	switch {
	case h.Scheme == "" && h.Header == "" && h.Secret == "":
	case h.Secret == "" && h.Scheme != "":
		relation("auth.hmac.secret", "auth.hmac.scheme", "is needed with scheme")
	case h.Secret == "":
		relation("auth.hmac.secret", "auth.hmac.header", "is needed with header")
	case h.Scheme == schemeStandard:
		if _, err := standardKey(h.Secret); err != nil {
			errs = append(errs, config.Errorf("auth.hmac.secret", "%w", err))
		}
	case h.Scheme == "" && h.Header == "":
		relation("auth.hmac.scheme", "auth.hmac.secret", "is needed with secret, or header")
	}
	return errs
}

// standardKey decodes a Standard Webhooks secret: base64, as a rule after "whsec_".
func standardKey(secret config.Secret) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(string(secret), "whsec_"))
	if err != nil || len(key) < 16 {
		return nil, fmt.Errorf("must be the base64 text of at least 16 bytes, as a rule after whsec_")
	}
	return key, nil
}
