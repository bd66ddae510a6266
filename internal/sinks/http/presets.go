package httpsink

import (
	"errors"
	"maps"
	"strings"

	"event2mqtt/internal/config"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/rules"
)

const presetHealthchecks = "healthchecks"

// preset are the defaults that fit one service.
type preset struct {
	body, template, contentType string
	headers, form               map[string]config.Secret
	rate                        string
	burst                       int
	ping                        PingConfig
	// path must match that of the URL, with placeholders; like says how it looks.
	path, like string
}

// presets are those of the option. Rates are below what each service allows.
var presets = map[string]preset{
	"homeassistant": {body: bodyJSON, path: "*/api/webhook/*", like: "http://homeassistant.local:8123/api/webhook/ID"},
	// A visitor of ntfy has 60 requests, and then one each 5 seconds.
	"ntfy": {
		body: bodyTemplate, template: "{text}", headers: map[string]config.Secret{"Title": "{event}", "Tags": "{source}"},
		rate: "10/min", burst: 50, path: "/*", like: "https://ntfy.sh/TOPIC",
	},
	presetHealthchecks: {
		body: bodyTemplate, template: "{event}\n{text}", path: "/*", like: "https://hc-ping.com/UUID",
		ping: PingConfig{Start: []string{"*Started"}, Fail: []string{"*Failed", "*Error", "*Cancelled"}},
	},
	"discord": {
		body: bodyTemplate, contentType: "application/json", template: `{"content": "**{event}**\n{text}", "allowed_mentions": {"parse": []}}`,
		rate: "25/min", burst: 4, path: "/api/*webhooks/*", like: "https://discord.com/api/webhooks/ID/TOKEN",
	},
	"slack": {
		body: bodyTemplate, contentType: "application/json", template: `{"text": "*{event|html}*\n{text|html}"}`,
		rate: "50/min", burst: 1, path: "/*", like: "https://hooks.slack.com/services/T0/B0/SECRET",
	},
	"telegram": {
		body: bodyForm, form: map[string]config.Secret{"text": "{event}\n{text}"},
		rate: "18/min", burst: 1, path: "*/bot*/send*", like: "https://api.telegram.org/botTOKEN/sendMessage",
	},
}

// Prepare lays the preset under what is set. Doing so again changes nothing.
func (o *Options) Prepare() {
	p, known := presets[o.Preset]
	if !known {
		return
	}
	if o.Body == "" && o.Method != "GET" {
		o.Body = p.body
	}
	if o.Body == p.body {
		if o.Template == "" && o.ContentType == "" {
			o.Template, o.ContentType = p.template, p.contentType
		}
		o.Form = under(o.Form, p.form)
	}
	o.Headers = under(o.Headers, p.headers)
	if o.Rate == "" && p.rate != "" {
		o.Rate = p.rate
		if o.Burst == 1 {
			o.Burst = p.burst
		}
	}
	for _, s := range []struct{ set, fill *[]string }{{&o.Ping.Start, &p.ping.Start}, {&o.Ping.Fail, &p.ping.Fail}, {&o.Ping.Log, &p.ping.Log}} {
		if *s.set == nil {
			*s.set = *s.fill
		}
	}
}

// under returns fields with those that are missing, whatever the case of names.
func under(set, fill map[string]config.Secret) map[string]config.Secret {
	if len(fill) == 0 {
		return set
	}
	all := maps.Clone(fill)
	for name := range set {
		maps.DeleteFunc(all, func(filled string, _ config.Secret) bool { return strings.EqualFold(filled, name) })
	}
	maps.Copy(all, set)
	return all
}

// checkPreset tells if the URL is not one of the service. It repeats nothing of it.
func (o *Options) checkPreset(a *address) error {
	p, known := presets[o.Preset]
	if !known || a.base == nil {
		return nil
	}
	text, _ := a.parts.render(&sample, "id")
	at, _, _ := strings.Cut(string(text), "?")
	if p.path == "/*" {
		if strings.Trim(at, "/") == "" {
			return errors.New("its path is missing; write for example " + p.like)
		}
		return nil
	}
	pieces := strings.Split(p.path, "*")
	for i, piece := range pieces {
		_, rest, found := strings.Cut(at, piece)
		if !found || i == 0 && !strings.HasPrefix(at, piece) || i == len(pieces)-1 && piece == "" && at == "" {
			return errors.New("its path is not that of preset " + o.Preset + "; write for example " + p.like)
		}
		at = rest
	}
	return nil
}

// behind is what the path of the URL ends with: what an event means to
// Healthchecks.
func (o *Options) behind() part {
	if o.Preset != presetHealthchecks {
		return part{}
	}
	type meaning struct {
		path  string
		names []string
	}
	var all []meaning
	for _, m := range []meaning{{"/fail", o.Ping.Fail}, {"/start", o.Ping.Start}, {"/log", o.Ping.Log}} {
		if names, err := rules.Names(m.names); err == nil { // else it is told of
			all = append(all, meaning{m.path, names})
		}
	}
	return part{write: appendPlain, value: func(e *journal.Entry, _ string) value {
		for _, m := range all {
			if rules.MatchesName(m.names, e.Name) {
				return value{text: m.path}
			}
		}
		return value{}
	}}
}
