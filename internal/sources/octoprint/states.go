package octoprint

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sources/octoprint/api"
)

// This file makes states of snapshots.

// Keys of states.
const (
	keyState       = "state"
	keyJob         = "job"
	keyProgress    = "progress"
	keyPosition    = "position"
	keyConnection  = "connection"
	keyVersion     = "version"
	keyTemperature = "temperature/" // and the heater
)

// reporter knows what was reported last.
type reporter struct {
	config  *Options
	topics  topics
	version string
	heaters map[string]heater // as last reported
	order   []string          // of heaters, as they were seen first
	latest  int64             // time of the newest reading
	closed  bool              // no printer is connected
	port    map[string]any    // what the last Connected said
	told    progress
	toldAt  time.Time
	percent percent
	greeted bool
}

// progress is how far a print is. NaN is what is not known.
type progress struct {
	completion, elapsed, left float64
	origin, path              string
	eta                       time.Time
}

// kept is the beginning of a text, in whole runes, that may be kept: it does not
// hold its frame in memory.
func kept(value gjson.Result, most int) string {
	return strings.Clone(strings.ToValidUTF8(bounded(value.Str, most), ""))
}

// maxNames bounds the heaters that are ever reported.
const maxNames = 2 * maxHeaters

func newReporter(config *Options) reporter {
	r := reporter{config: config, heaters: map[string]heater{}}
	r.topics, _ = config.topics() // was checked
	r.told = progress{completion: math.Inf(1)}
	return r
}

// greet takes what a connection begins with.
func (r *reporter) greet(g greeting, out *result) {
	r.version = api.Clean(g.Version, maxKey)
	out.describe = true
	if r.topics.on {
		return
	}
	out.add(keyVersion, map[string]any{"version": r.version, "safe_mode": g.SafeMode})
}

// away takes it that OctoPrint is gone.
func (r *reporter) away(out *result) {
	r.greeted = false
	if r.topics.will != "" {
		out.states = append(out.states, event.State{Key: "mqtt", Topic: r.topics.will, Presence: true, Payload: []byte("disconnected")})
	}
}

// report makes states of a snapshot.
func (r *reporter) report(s *snapshot, now time.Time, history bool, out *result) {
	r.temperatures(s, history, out)
	if r.topics.on {
		r.compatReport(s, now, out)
		return
	}
	raw := func(key string, value gjson.Result) {
		if value.IsObject() {
			out.states = append(out.states, event.State{Key: key, Payload: []byte(value.Raw)})
		}
	}
	raw(keyState, s.State)
	raw(keyJob, s.Job)
	out.states = append(out.states, event.State{Key: keyPosition, Payload: []byte(`{"z":` + number(s.Z) + `}`)})
	r.connection(s, out)
	r.progress(s, now, out)
}

func (o *result) add(key string, payload map[string]any) {
	text, err := json.Marshal(payload)
	if err != nil {
		return // cannot be: infinite numbers are left out
	}
	o.states = append(o.states, event.State{Key: key, Payload: text})
}

// connection is that between OctoPrint and its printer.
func (r *reporter) connection(s *snapshot, out *result) {
	flag := func(name string) bool { return s.State.Get("flags." + name).Bool() }
	state := "connecting"
	switch {
	case flag("error"):
		state = "error"
	case flag("closedOrError"):
		state = "disconnected"
	case flag("operational"), flag("printing"), flag("paused"):
		state = "connected"
	}
	payload := map[string]any{"state": state}
	if state == "connected" {
		for key, value := range r.port {
			payload[key] = value
		}
	}
	out.add(keyConnection, payload)
}

// link keeps what an event says of the connection to the printer.
func (r *reporter) link(name string, payload []byte, out *result) {
	r.port = nil
	if name != "Connected" {
		return
	}
	r.port = map[string]any{}
	for _, key := range []string{"port", "baudrate", "connector"} {
		switch value := gjson.GetBytes(payload, key); value.Type {
		case gjson.String:
			r.port[key] = kept(value, maxPosition)
		case gjson.Number:
			if !math.IsInf(value.Num, 0) { // such as 1e999, which is JSON
				r.port[key] = value.Num
			}
		}
	}
}

// temperatures reports readings by the rule of OctoPrint-MQTT: one that is not
// 0 or unknown in both values is reported if it is the first of its heater, or
// differs by the threshold, or its target by 0.1.
func (r *reporter) temperatures(s *snapshot, history bool, out *result) {
	const targetStep = 0.1
	seen := r.latest
	for _, reading := range s.Readings {
		if history && reading.Time <= seen { // history holds what was seen before
			continue
		}
		r.latest = max(r.latest, reading.Time)
		for _, h := range reading.Heaters {
			last, known := r.heaters[h.Key]
			if !known {
				h.Key = api.Clean(h.Key, maxKey) // a copy; and it stands in the description
				last, known = r.heaters[h.Key]
			}
			switch {
			case h.Actual == 0 && h.Target == 0, math.IsInf(h.Actual, 0), math.IsInf(h.Target, 0), strings.TrimSpace(h.Key) == "":
				continue
			case known && math.Abs(h.Actual-last.Actual) < r.config.TemperatureThreshold && math.Abs(h.Target-last.Target) < targetStep:
				continue
			case known:
				h.Key = last.Key // as it is kept already, and not in the frame
			case slices.Contains(r.order, h.Key):
			case len(r.order) >= maxNames:
				continue
			default:
				r.order = append(r.order, h.Key)
				out.describe = true
			}
			r.temperature(h, reading.Time, out)
			r.heaters[h.Key] = heater{Key: h.Key, Actual: h.Actual, Target: h.Target} // the texts are the frame's
		}
	}
	closed := s.State.Get("flags.closedOrError").Bool()
	if closed && !r.closed && !r.topics.on { // what a printer had that is gone is no state
		for key := range r.heaters {
			out.states = append(out.states, event.State{Key: keyTemperature + key})
		}
		clear(r.heaters)
	}
	r.closed = closed
}

func (r *reporter) temperature(h heater, at int64, out *result) {
	st := event.State{Key: keyTemperature + h.Key, Payload: []byte(`{"actual":` + h.ActualText + `,"target":` + h.TargText)}
	if r.topics.on {
		if r.topics.temperature == "" {
			return
		}
		st.Topic = fill(r.topics.temperature, "{temp}", h.Key)
		st.Payload = append(st.Payload, ","+strconv.Quote(r.config.Plugin.TimestampField)+":"+strconv.FormatInt(at, 10)...)
	}
	st.Payload = append(st.Payload, '}')
	out.states = append(out.states, st)
}

// progress reports how far a print is, if that has changed by a step and the
// last report is long enough ago. What begins or ends is reported at once.
func (r *reporter) progress(s *snapshot, now time.Time, out *result) {
	known := func(key string) float64 {
		if v := s.Progress.Get(key); v.Type == gjson.Number {
			return v.Num
		}
		return math.NaN()
	}
	p := progress{
		completion: known("completion"), elapsed: known("printTime"), left: known("printTimeLeft"),
		origin: kept(s.Progress.Get("printTimeLeftOrigin"), maxKey), path: kept(s.Job.Get("file.path"), maxPosition),
	}
	old := r.told
	if p.eta = r.eta(p.left, now); p.completion == 100 && p.path == old.path {
		p.eta = old.eta // it is over: the end moves no more
	}
	step := r.config.TimeStep.Seconds()
	edge := p.path != old.path || math.IsNaN(p.completion) != math.IsNaN(old.completion) || math.IsInf(old.completion, 0) ||
		p.completion == 100 && old.completion != 100
	changed := differs(p.completion, old.completion, r.config.ProgressStep) || differs(p.elapsed, old.elapsed, step) ||
		differs(p.left, old.left, step) || p.origin != old.origin || !p.eta.Equal(old.eta)
	if !edge && (!changed || now.Sub(r.toldAt) < r.config.ProgressInterval) {
		return
	}
	r.told, r.toldAt = p, now
	payload := `{"completion":` + number(s.Progress.Get("completion")) + `,"printTime":` + number(s.Progress.Get("printTime")) +
		`,"printTimeLeft":` + number(s.Progress.Get("printTimeLeft")) + `,"printTimeLeftOrigin":`
	if p.origin == "" {
		payload += `null,"eta":`
	} else {
		payload += quote(p.origin) + `,"eta":`
	}
	if p.eta.IsZero() {
		payload += "null}"
	} else {
		payload += strconv.Quote(p.eta.Format(time.RFC3339)) + "}"
	}
	out.states = append(out.states, event.State{Key: keyProgress, Payload: []byte(payload)})
}

// eta is when a print ends. It moves only when it is more than a step off, so
// that it does not jitter.
func (r *reporter) eta(left float64, now time.Time) time.Time {
	const most = 10 * 365 * 24 * 3600 // seconds
	if math.IsNaN(left) || left < 0 || left > most {
		return time.Time{}
	}
	fresh := now.Add(time.Duration(left * float64(time.Second))).UTC().Truncate(time.Second)
	if off := fresh.Sub(r.told.eta).Abs(); !r.told.eta.IsZero() && off <= r.config.TimeStep {
		return r.told.eta
	}
	return fresh
}

// differs reports whether a value is known and the other not, or they differ by
// a step.
func differs(a, b, step float64) bool {
	if math.IsNaN(a) || math.IsNaN(b) {
		return math.IsNaN(a) != math.IsNaN(b)
	}
	return a != b && math.Abs(a-b) >= step
}
