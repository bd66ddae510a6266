package octoprint

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/event"
	"event2mqtt/internal/topic"
)

// This file publishes what the plugin OctoPrint-MQTT published, to its topics.

// percent is the progress that was reported last.
type percent struct {
	location, path string
	value          int64
	at             time.Time
	known          bool
}

// fill puts a name into a topic.
func fill(text, placeholder, name string) string {
	return strings.ReplaceAll(text, placeholder, topic.Safe(name))
}

// route sends an event where the plugin sent it.
func (r *reporter) route(e *event.Event) {
	if !r.topics.hasEvent {
		return
	}
	to, err := r.topics.event.Render(topic.Values{Event: e.Name, Source: r.config.Name, Payload: e.Payload})
	if err != nil {
		return // the name is too long for a topic; whoever publishes it says so
	}
	e.Route.Topic, e.Route.Outside = to, r.topics.event.Outside()
	e.Route.Retain = r.config.Plugin.Retain && (e.Name == "ZChange" || e.Name == "FirmwareData")
}

// compatReport makes the plugin's states of a snapshot.
func (r *reporter) compatReport(s *snapshot, now time.Time, out *result) {
	if !r.greeted {
		r.greeted = true
		if r.topics.will != "" {
			out.states = append(out.states, event.State{Key: "mqtt", Topic: r.topics.will, Presence: true, Payload: []byte("connected")})
		}
		r.slicing(gjson.Result{}, now, out)
	}
	if r.topics.progress == "" {
		return
	}
	p := percent{location: kept(s.Job.Get("file.origin"), maxKey), path: kept(s.Job.Get("file.path"), maxPosition), known: true, at: now}
	completion := s.Progress.Get("completion")
	if completion.Type != gjson.Number { // nothing is printed
		p.location, p.path = "", ""
	}
	p.value = int64(math.RoundToEven(min(max(completion.Num, 0), 100)))
	old := r.percent
	if old.known && p.path == old.path && p.location == old.location {
		if p.value == old.value || now.Sub(old.at) < r.config.ProgressInterval && p.value != 100 {
			return
		}
	}
	r.percent = p
	payload := `{"location":` + quote(p.location) + `,"path":` + quote(p.path) + `,"progress":` + strconv.FormatInt(p.value, 10)
	if r.config.Plugin.PrinterData {
		payload += `,"printer_data":` + string(event.Only([]byte(s.Whole.Raw), "state", "job", "currentZ", "progress", "offsets", "resends", "health"))
	}
	out.states = append(out.states, event.State{Key: "progress/printing", Topic: fill(r.topics.progress, "{progress}", "printing"), Payload: r.stamp(payload, now)})
}

// stamp adds the time to an object that is not closed yet, and closes it.
func (r *reporter) stamp(open string, now time.Time) []byte {
	return []byte(open + "," + quote(r.config.Plugin.TimestampField) + ":" + strconv.FormatInt(now.Unix(), 10) + "}")
}

// slicing reports how far the slicer is. The push API's names of two keys are
// other than the plugin's.
func (r *reporter) slicing(p gjson.Result, now time.Time, out *result) {
	if r.topics.progress == "" {
		return
	}
	text := func(key string) string { return quote(bounded(p.Get(key).Str, maxPosition)) }
	payload := `{"slicer":` + text("slicer") + `,"source_location":` + text("source_location") + `,"source_path":` + text("source_path") +
		`,"destination_location":` + text("dest_location") + `,"destination_path":` + text("dest_path") +
		`,"progress":` + strconv.FormatInt(int64(math.Round(min(max(p.Get("progress").Num, 0), 100))), 10)
	out.states = append(out.states, event.State{Key: "progress/slicing", Topic: fill(r.topics.progress, "{progress}", "slicing"), Payload: r.stamp(payload, now)})
}

// metadata publishes the metadata of a file that is printed, or clears what was
// published when j is nil.
func (r *reporter) metadata(j *job, file func(origin, path string) []byte, out *result) {
	if r.topics.meta == "" || len(r.config.Plugin.MetadataKeys) == 0 {
		return
	}
	var whole gjson.Result
	if j != nil && j.Path != "" {
		whole = gjson.ParseBytes(file(j.Origin, j.Path))
	}
	for _, key := range r.config.Plugin.MetadataKeys {
		value := whole
		for part := range strings.SplitSeq(key, ".") {
			if inner := value.Get(gjson.Escape(part)); inner.Exists() || part != "analysis" {
				value = inner
			} else {
				value = value.Get("gcodeAnalysis") // its name over HTTP
			}
		}
		st := event.State{Key: "metadata/" + key, Topic: strings.ReplaceAll(r.topics.meta, "{key}", key)}
		switch value.Type {
		case gjson.Null: // nothing is known: what is retained goes
		case gjson.String:
			st.Payload = []byte(value.Str)
		default: // OctoPrint's answer is indented
			st.Payload = []byte(value.Get("@ugly").Raw)
		}
		out.states = append(out.states, st)
	}
}

// quote writes a text as JSON.
func quote(text string) string {
	return string(gjson.AppendJSONString(nil, text))
}
