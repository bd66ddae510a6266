package migrate

import (
	"slices"
	"strings"

	"event2mqtt/internal/config/edit"
	"event2mqtt/internal/topic"
)

// classes are the events of the plugin's switches below publish.events, as its
// version 0.8.16 has them. They are other than the classes of rules: MovieDone,
// PrintCancelling, FileMoved and others are unclassified there.
var classes = []struct {
	name   string
	events []string
}{
	{"server", []string{"Startup", "Shutdown", "ClientOpened", "ClientClosed", "ConnectivityChanged"}},
	{"comm", []string{"Connecting", "Connected", "Disconnecting", "Disconnected", "Error", "PrinterStateChanged"}},
	{"files", []string{"Upload", "FileAdded", "FileRemoved", "FolderAdded", "FolderRemoved", "UpdatedFiles", "MetadataAnalysisStarted", "MetadataAnalysisFinished",
		"FileSelected", "FileDeselected", "TransferStarted", "TransferFailed", "TransferDone"}},
	{"printjob", []string{"PrintStarted", "PrintFailed", "PrintDone", "PrintCancelled", "PrintPaused", "PrintResumed"}},
	{"gcode", []string{"PowerOn", "PowerOff", "Home", "Dwelling", "Waiting", "Cooling", "Alert", "Conveyor", "Eject", "EStop", "ToolChange"}},
	{"position", []string{"ZChange", "PositionUpdate"}},
	{"timelapse", []string{"CaptureStart", "CaptureFailed", "CaptureDone", "MovieRendering", "MovieFailed"}},
	{"slicing", []string{"SlicingStarted", "SlicingDone", "SlicingCancelled", "SlicingFailed", "SlicingProfileAdded", "SlicingProfileDeleted", "SlicingProfileModified"}},
	{"settings", []string{"SettingsUpdated"}},
}

// events converts which events are published, and where.
func (c *converter) events() {
	const key, fallback = "publish.eventTopic", "event/{event}"
	text := c.topic(key, fallback)
	if text != "" && c.truth("publish.eventActive", true) {
		if text = c.fits(key, c.result.Topics, text, "{event}"); text != "" {
			if _, err := topic.Parse(c.result.Topics+text, ""); err != nil {
				c.note(key, "cannot be published to (%s); no events are; correct the topic in the source's options", err)
				text = ""
			}
		}
	} else {
		text = ""
	}
	if text == "" {
		c.rule("events", edit.Group{{Key: "drop", Value: true}})
		c.switchesWithoutUse()
		return
	}
	if text != fallback {
		c.set("event_topic", text)
	}
	all := []string{"PausedForUser"} // the plugin publishes it whatever the switches say
	var rules []func()
	for _, class := range classes {
		all = append(all, class.events...)
		if !c.truth("publish.events."+class.name, true) {
			rules = append(rules, func() {
				c.rule(class.name, edit.Group{{Key: "match", Value: class.events}, {Key: "drop", Value: true}})
			})
		}
	}
	for _, add := range rules {
		add()
	}
	if !c.truth("publish.events.unclassified", true) {
		c.rule("unclassified", edit.Group{{Key: "when", Value: "event not in ['" + strings.Join(all, "', '") + "']"}, {Key: "drop", Value: true}})
	}
}

// switchesWithoutUse says which switches of classes have no effect.
func (c *converter) switchesWithoutUse() {
	for _, key := range known {
		if strings.HasPrefix(key, "publish.events.") && c.values[key] != nil && !c.truth(key, true) {
			c.note(key, "has no effect: no events were published at all")
		}
	}
}

// rule adds a rule for the source's events.
func (c *converter) rule(what string, rule edit.Group) {
	const longest = 64 // of a rule's name
	head := edit.Group{{Key: "source", Value: c.source}}
	if name := c.source + ": " + what + " off"; len(name) <= longest {
		head = slices.Insert(head, 0, edit.Pair{Key: "name", Value: name})
	}
	c.result.Rules = append(c.result.Rules, append(head, rule...))
}
