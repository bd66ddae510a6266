package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/sources"
)

// Config are the options of a webhook source.
type Config struct {
	sources.Common `koanf:",squash"`
	// Preset fills in what a known sender needs; keys that are set stay.
	Preset         string        `koanf:"preset" oneof:"octoprint" doc:"What the sender is."`
	Event          EventConfig   `koanf:"event" doc:"Where an event's name comes from: URL, header, keys, default."`
	TimeKey        string        `koanf:"time_key" doc:"A key that holds when it happened: unix time or RFC 3339."`
	Auth           AuthConfig    `koanf:"auth" doc:"Who may send; all that is set must hold."`
	Respond        string        `koanf:"respond" default:"accepted" oneof:"accepted,delivered" doc:"accepted: 202 when stored; delivered: 200 when the broker has it, and 202 if a rule holds it back."`
	RespondTimeout time.Duration `koanf:"respond_timeout" default:"10s" min:"1ms" max:"50s" doc:"Of delivered: 504 when that takes longer."`
	MaxBody        config.Size   `koanf:"max_body" default:"1MiB" min:"1B" max:"64MiB" doc:"The largest body."`
	MaxUnpacked    config.Size   `koanf:"max_unpacked" default:"8MiB" min:"1B" max:"1GiB" doc:"The largest body once unpacked."`
	RateLimit      float64       `koanf:"rate_limit" default:"0" min:"0" doc:"Requests a second from one address; 0 is off."`
	RateBurst      int           `koanf:"rate_burst" default:"10" min:"1" doc:"How many may come at once."`
}

// EventConfig says where an event's name comes from: the URL, then the
// header, then the first of the body's keys that is there, then the default.
type EventConfig struct {
	Header         string `koanf:"header" default:"X-Event-Name" doc:"A header that holds the name."`
	sources.Naming `koanf:",squash"`
}

// AuthConfig says how senders prove who they are. All that is set must hold.
type AuthConfig struct {
	Token      config.Secret `koanf:"token" doc:"Authorization: Bearer …"`
	Username   string        `koanf:"username" doc:"Of basic authentication."`
	Password   config.Secret `koanf:"password" doc:"Of basic authentication."`
	HMAC       HMACConfig    `koanf:"hmac" doc:"A signature of the body."`
	BodyKey    string        `koanf:"body_key" doc:"A key of the payload that is taken out,"`
	BodySecret config.Secret `koanf:"body_secret" doc:"and must hold this."`
}

// HMACConfig says how bodies are signed.
type HMACConfig struct {
	Scheme    string        `koanf:"scheme" oneof:"github,standard" doc:"github: X-Hub-Signature-256; standard: standardwebhooks.com."`
	Secret    config.Secret `koanf:"secret" doc:"The key of the signature."`
	Tolerance time.Duration `koanf:"tolerance" default:"5m" min:"1s" max:"24h" doc:"Of standard: how far the sender's clock may be off."`
}

// The schemes of HMACConfig.
const (
	schemeGitHub   = "github"
	schemeStandard = "standard"
)

// The values of Config.Respond.
const (
	respondAccepted  = "accepted"
	respondDelivered = "delivered"
)

// Defaults returns the options that hold where nothing is configured.
func Defaults() (c Config) {
	config.SetDefaults(&c)
	return c
}

// octoPrintNames are the labels that the OctoPrint-Webhooks plugin sends as
// "topic", with the names of OctoPrint's own events.
var octoPrintNames = map[string]string{
	"Print Started": "PrintStarted", "Print Done": "PrintDone", "Print Failed": "PrintFailed", "Print Paused": "PrintPaused",
	"User Action Needed": "plugin_webhooks_notify", "Print Progress": "plugin_webhooks_progress", "Error": "Error",
}

// Prepare lays the preset under what is set.
func (c *Config) Prepare() {
	if c.Preset != "octoprint" {
		return
	}
	names := maps.Clone(octoPrintNames)
	maps.Copy(names, c.Event.Names)
	c.Event.Names = names
	if c.Auth.BodyKey == "" {
		c.Auth.BodyKey = "apiSecret"
	}
	if c.TimeKey == "" {
		c.TimeKey = "currentTime"
	}
}

// Check tells what is wrong with c that its tags do not, as KeyErrors.
func (c *Config) Check() error {
	var errs []error
	bad := func(key, format string, args ...any) { errs = append(errs, config.Errorf(key, format, args...)) }
	relation := func(key, other, format string, args ...any) {
		errs = append(errs, config.Relation(key, other, format, args...))
	}
	if strings.ContainsAny(c.Name, "/?#% ") {
		bad("name", "%q stands in the URL and may not hold / ? # %% or spaces", c.Name)
	}
	if c.MaxUnpacked < c.MaxBody {
		relation("max_unpacked", "max_body", "%s is less than max_body (%s)", c.MaxUnpacked, c.MaxBody)
	}
	if (c.Auth.Username == "") != (c.Auth.Password == "") {
		relation("auth.password", "auth.username", "username and password must be given together")
	}
	if c.Auth.Token != "" && c.Auth.Username != "" {
		relation("auth.token", "auth.username", "token and username exclude each other: both are sent in the Authorization header")
	}
	if c.Auth.BodySecret != "" && c.Auth.BodyKey == "" {
		relation("auth.body_key", "auth.body_secret", "is needed with body_secret")
	}
	switch h := c.Auth.HMAC; {
	case h.Scheme == "" && h.Secret == "":
	case h.Secret == "":
		relation("auth.hmac.secret", "auth.hmac.scheme", "is needed with scheme")
	case h.Scheme == schemeStandard:
		if _, err := standardKey(h.Secret); err != nil {
			bad("auth.hmac.secret", "%w", err)
		}
	case h.Scheme == "":
		relation("auth.hmac.scheme", "auth.hmac.secret", "is needed with secret")
	}
	return errors.Join(errs...)
}

// standardKey decodes a Standard Webhooks secret: base64, as a rule after "whsec_".
func standardKey(secret config.Secret) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(string(secret), "whsec_"))
	if err != nil || len(key) < 16 {
		return nil, fmt.Errorf("must be the base64 text of at least 16 bytes, as a rule after whsec_")
	}
	return key, nil
}
