// Package httpsink is the sink that sends events in HTTP requests, each
// acknowledged by an answer of 2xx before the cursor moves. A destination that is
// away, busy or not the right one is waited for; what it refuses for what it is,
// is kept and skipped (answer.go).
//
// It publishes no states, and reads nothing of an answer but what it says of the
// request. It follows no redirects.
package httpsink

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/sinks"
)

// Type is the kind of sink.
var Type = sinks.Type{Name: "http", Options: func() sinks.Options {
	o := &Options{}
	config.SetDefaults(o)
	return o
}}

// Options are those of one destination.
type Options struct {
	sinks.Common `koanf:",squash"`
	Preset       string                   `koanf:"preset" oneof:"homeassistant,ntfy,healthchecks,discord,slack,telegram" doc:"What is on the other side; it gives other options defaults that fit: docs/http-sink.md."`
	URL          config.Secret            `koanf:"url" required:"where events are sent" example:"https://host.example/hooks/{event}" doc:"Where events are sent; behind the host, {event}, {source}, {id} and {payload.KEY} are replaced. It is never printed, since it may hold a secret."`
	Method       string                   `koanf:"method" default:"POST" oneof:"POST,PUT,PATCH,GET" doc:"The method of requests; those with GET have no body."`
	Headers      map[string]config.Secret `koanf:"headers" doc:"Headers that are added to each request; their values are templates, and one whose values are all missing is left out."`
	Body         string                   `koanf:"body" oneof:"json,template,form,cloudevents,cloudevents_structured,none" doc:"What a request's body is: json, which is the payload as MQTT has it, and the default; template; form; cloudevents, the payload with what describes it in headers; cloudevents_structured, both in one JSON object; or none."`
	Template     string                   `koanf:"template" example:"{event}: {text}" doc:"The body with body: template; {payload}, {payload.KEY}, {event}, {source}, {time}, {id} and {text} are replaced, and each may be followed by |lower, |snake, |html or |json."`
	Form         map[string]config.Secret `koanf:"form" doc:"The fields of the body with body: form; their values are templates, and one whose values are all missing is left out."`
	ContentType  string                   `koanf:"content_type" example:"text/plain; charset=utf-8" doc:"The body's content type; left out, application/json, or what fits the body. In a template whose content type is JSON, values are written so that it stays JSON."`
	Cloud        CloudConfig              `koanf:"cloudevents" doc:"The attributes of CloudEvents that are not given by the event."`
	Username     string                   `koanf:"username" doc:"The user name of basic authentication."`
	Password     config.Secret            `koanf:"password" doc:"The password of basic authentication."`
	Token        config.Secret            `koanf:"token" doc:"A token that is sent as Authorization: Bearer."`
	Signing      config.Secret            `koanf:"signing" example:"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" doc:"The secret that requests are signed with as Standard Webhooks says, whsec_ and base64; while it is replaced, the new and the old one with a space between."`
	Batch        BatchConfig              `koanf:"batch" doc:"How many events go into one request."`
	Timeout      time.Duration            `koanf:"timeout" default:"30s" min:"100ms" max:"10m" doc:"How long one attempt may take, answer included."`
	InFlight     int                      `koanf:"in_flight" default:"1" min:"1" max:"64" doc:"How many requests may be on their way at once; with more than 1, events may arrive in another order."`
	Rate         string                   `koanf:"rate" example:"30/min" doc:"How many requests are sent at most in a time, such as 5/s, 30/min or 1/15s, also right after an outage; off, or left out where no preset has one, is as many as the destination takes."`
	Burst        int                      `koanf:"burst" default:"1" min:"1" max:"100000" doc:"How many requests may be sent at once, after a pause, where rate is set."`
	Ping         PingConfig               `koanf:"ping" doc:"What events mean to Healthchecks."`
	TLS          TLSConfig                `koanf:"tls" doc:"How the destination is trusted, where its URL begins with https://."`

	pauses pauses // of tests
}

// CloudConfig are the attributes of CloudEvents.
type CloudConfig struct {
	Source string `koanf:"source" default:"/event2mqtt/{source}" doc:"The attribute source of CloudEvents, a URI reference, with placeholders."`
	Type   string `koanf:"type" default:"event2mqtt.{event}" doc:"The attribute type of CloudEvents, with placeholders."`
}

// BatchConfig is how events are put together.
type BatchConfig struct {
	Events int           `koanf:"events" default:"1" min:"1" max:"1000" doc:"How many events one request has at most; with more than 1 each body is a JSON array."`
	Bytes  config.Size   `koanf:"bytes" default:"256KiB" min:"1KiB" max:"64MiB" doc:"How many bytes the payloads of one request have at most, unless it is a single event."`
	Wait   time.Duration `koanf:"wait" default:"0s" min:"0s" max:"1h" doc:"How long a request that is not full waits for more events."`
}

// PingConfig says which events mean what to Healthchecks.
type PingConfig struct {
	Start []string `koanf:"start" example:"*Started" doc:"With preset: healthchecks, patterns of the names of events that tell that a job begins."`
	Fail  []string `koanf:"fail" example:"*Failed" doc:"With preset: healthchecks, patterns of the names of events that tell that a job has failed."`
	Log   []string `koanf:"log" example:"*Progress" doc:"With preset: healthchecks, patterns of the names of events that are only noted there; all others tell success."`
}

// pauses are how long the sink waits before it tries again; zero is as usual.
type pauses struct{ min, max, wrong, grace time.Duration }

// settings are checked options, ready for use.
type settings struct {
	url         address
	headers     []field
	body        string
	template    template
	form        []field
	contentType string
	ceSource    template
	ceType      template
	keys        [][]byte
	every       time.Duration // a request; 0 is any
}

// Check implements sinks.Options.
func (o *Options) Check() error {
	_, err := o.settings()
	_, tlsErr := o.TLS.build()
	return errors.Join(err, tlsErr)
}

// settings makes them of the options; the error holds every KeyError.
func (o *Options) settings() (s settings, err error) {
	var errs config.Errors
	errs.Add(o.CheckMatch())
	s.body = o.Body
	switch {
	case s.body == "" && o.Method == "GET":
		s.body = bodyNone
	case s.body == "":
		s.body = bodyJSON
	}
	if o.URL != "" {
		if s.url, err = parseAddress(string(o.URL), o.behind()); err != nil {
			errs.Bad("url", "%w", err)
		}
		if err := o.checkPreset(&s.url); err != nil {
			errs.Bad("url", "%w", err)
		}
	}
	errs.Add(o.setHeaders(&s))
	errs.Add(o.setBody(&s))
	errs.Add(o.setAuth(&s))
	if s.every, err = parseRate(o.Rate); err != nil {
		errs.Bad("rate", "%w", err)
	}
	for _, p := range []struct {
		key      string
		patterns []string
	}{{"ping.start", o.Ping.Start}, {"ping.fail", o.Ping.Fail}, {"ping.log", o.Ping.Log}} {
		if _, err := rules.Names(p.patterns); err != nil {
			errs.Bad(p.key, "a pattern of it is none: %w", err)
		}
		if p.patterns != nil && o.Preset != presetHealthchecks {
			errs.Bad(p.key, "only preset: healthchecks has it")
		}
	}
	if o.Batch.Events > 1 {
		errs.Add(o.checkBatch(&s))
	}
	return s, errs.Err()
}

func (o *Options) setHeaders(s *settings) error {
	var errs config.Errors
	for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
		t, err := parse(string(o.Headers[name]), asText)
		if wrong := checkHeader(name); wrong != nil {
			err = wrong
		}
		if err != nil {
			errs.Bad("headers", "%s: %w", name, err)
		}
		s.headers = append(s.headers, field{name, t})
	}
	return errs.Err()
}

func (o *Options) setBody(s *settings) (err error) {
	var errs config.Errors
	s.contentType = map[string]string{
		bodyJSON: "application/json", bodyCloud: "application/json", bodyTemplate: "text/plain; charset=utf-8",
		bodyForm: "application/x-www-form-urlencoded", bodyStructured: "application/cloudevents+json; charset=utf-8",
	}[s.body]
	if s.body == bodyStructured && o.Batch.Events > 1 {
		s.contentType = "application/cloudevents-batch+json; charset=utf-8"
	}
	if o.ContentType != "" {
		s.contentType = headerValue(o.ContentType)
	}
	if o.Method == "GET" && s.body != bodyNone {
		errs.Bad("body", "a GET has none; leave body out, or write method: POST")
	}
	switch {
	case s.body == bodyTemplate && o.Template == "":
		errs.Bad("template", "is needed with body: template; write for example \"{event}: {text}\"")
	case s.body != bodyTemplate && o.Template != "":
		errs.Bad("template", "needs body: template; it is %s", s.body)
	}
	if s.body == bodyForm && len(o.Form) == 0 {
		errs.Bad("form", "is needed with body: form; write for example {message: \"{text}\"}")
	}
	if s.body != bodyForm && len(o.Form) > 0 {
		errs.Bad("form", "needs body: form; it is %s", s.body)
	}
	to := asText
	if isJSON(s.contentType) {
		to = asJSON
	}
	if s.template, err = parse(o.Template, to); err != nil {
		errs.Bad("template", "%w", err)
	} else if text, _ := s.template.render(&sample, "id"); s.body == bodyTemplate && to == asJSON && !json.Valid(text) {
		errs.Bad("template", "it does not make JSON, as content_type says; of an event it makes for example %.200q", text)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Form)) {
		t, err := parse(string(o.Form[name]), asText)
		if err != nil {
			errs.Bad("form", "%s: %w", name, err)
		}
		s.form = append(s.form, field{name, t})
	}
	if s.ceSource, err = parse(o.Cloud.Source, asURL); err != nil {
		errs.Bad("cloudevents.source", "%w", err)
	} else if _, err := url.Parse(placeholder.ReplaceAllString(o.Cloud.Source, "x")); err != nil || o.Cloud.Source == "" {
		errs.Bad("cloudevents.source", "%q is not a URI reference; write for example /event2mqtt/{source}", o.Cloud.Source)
	}
	if s.ceType, err = parse(o.Cloud.Type, asText); err != nil {
		errs.Bad("cloudevents.type", "%w", err)
	} else if o.Cloud.Type == "" {
		errs.Bad("cloudevents.type", "is empty; write for example event2mqtt.{event}")
	}
	return errs.Err()
}

// sample is an event to try templates with.
var sample = journal.Entry{Seq: 1, Event: event.Event{Name: "Event", Source: "source", Payload: []byte(`{"_event":"Event"}`)}}

func isJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return strings.HasSuffix(kind, "/json") || strings.HasSuffix(kind, "+json")
}

func (o *Options) setAuth(s *settings) (err error) {
	var errs config.Errors
	authorization := 0
	for _, set := range []bool{o.Username != "", o.Token != "", slices.ContainsFunc(s.headers, func(f field) bool { return strings.EqualFold(f.name, "Authorization") })} {
		if set {
			authorization++
		}
	}
	switch {
	case authorization > 1:
		errs.Bad("token", "username, token and the header Authorization are one header; set one of them")
	case o.Password != "" && o.Username == "":
		errs.Relation("username", "password", "a password needs a user name")
	case strings.Contains(o.Username, ":"):
		errs.Bad("username", "a user name of basic authentication cannot have a colon")
	}
	if string(o.Token) != headerValue(string(o.Token)) {
		errs.Bad("token", "it holds characters that no header can have")
	}
	if s.keys, err = parseKeys(string(o.Signing)); err != nil {
		errs.Bad("signing", "%w", err)
	}
	return errs.Err()
}

// checkBatch tells what cannot be of several events.
func (o *Options) checkBatch(s *settings) error {
	var errs config.Errors
	if s.body != bodyJSON && s.body != bodyStructured {
		errs.Bad("batch.events", "only bodies of json and cloudevents_structured can hold several events; body is %s", s.body)
	}
	if !s.url.parts.fixed() {
		errs.Bad("url", "it has placeholders, and a request with several events goes to one place; leave them out, or set batch.events to 1")
	}
	for _, h := range s.headers {
		if !h.value.fixed() {
			errs.Bad("headers", "%s has placeholders, and a request may have several events; leave them out, or set batch.events to 1", h.name)
		}
	}
	return errs.Err()
}

// parseRate returns how far apart requests are: "50/s", "30/min", "1/15s".
func parseRate(text string) (time.Duration, error) {
	if text == "" || text == "off" {
		return 0, nil
	}
	wrong := fmt.Errorf("%q is not a rate; write how many in a time, such as 5/s, 30/min or 1/15s", text)
	number, unit, found := strings.Cut(text, "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !found || err != nil || !(n > 0) {
		return 0, wrong
	}
	unit = strings.TrimSpace(unit)
	per, named := map[string]time.Duration{"s": time.Second, "min": time.Minute, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[unit]
	if !named {
		if per, err = config.ParseDuration(unit); err != nil {
			return 0, wrong
		}
	}
	every := float64(per) / n
	if every < float64(10*time.Microsecond) || every > float64(24*time.Hour) {
		return 0, fmt.Errorf("%q is beyond what there is: from one a day to 100000/s", text)
	}
	return time.Duration(every), nil
}

// Fingerprint implements sinks.Options.
func (o *Options) Fingerprint() any {
	own := *o
	own.Common = sinks.Common{}
	var files [3][sha256.Size]byte
	for i, path := range []string{o.TLS.CA, o.TLS.Cert, o.TLS.Key} {
		files[i] = sum(path)
	}
	return struct {
		Options
		Files [3][sha256.Size]byte
	}{own, files}
}

// Build implements sinks.Options.
func (o *Options) Build(d sinks.Deps) (sinks.Sink, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	return newSink(o, d)
}
