package octoprint

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"event2mqtt/internal/device"
	"event2mqtt/internal/sources/octoprint/api"
	"event2mqtt/internal/topic"
)

// This file describes the printer.

// classes are the events that the push API may tell of, by the classes that
// OctoPrint-MQTT has for them.
var classes = []struct {
	name   string
	events []string
}{
	{"server", []string{"Startup", "Shutdown", "ClientOpened", "ClientClosed", "ClientAuthed", "ClientDeauthed", "ConnectivityChanged", "UserLoggedIn", "UserLoggedOut", "ConnectionsAutorefreshed"}},
	{"comm", []string{"Connecting", "Connected", "Disconnecting", "Disconnected", "Error", "PrinterStateChanged", "PrinterReset", "PrinterControlsChanged", "FirmwareData"}},
	{"files", []string{"Upload", "FileAdded", "FileRemoved", "FileMoved", "FolderAdded", "FolderRemoved", "FolderMoved", "UpdatedFiles", "MetadataAnalysisStarted", "MetadataAnalysisFinished", "MetadataStatisticsUpdated", "FileSelected", "FileDeselected", "TransferStarted", "TransferDone", "TransferFailed"}},
	{"printjob", []string{"PrintStarted", "PrintFailed", "PrintDone", "PrintCancelling", "PrintCancelled", "PrintPaused", "PrintResumed", "PausedForUser", "ChartMarked"}},
	{"gcode", []string{"PowerOn", "PowerOff", "Home", "Dwelling", "Waiting", "Cooling", "Alert", "Conveyor", "Eject", "EStop", "FilamentChange", "ToolChange", "CommandSuppressed", "InvalidToolReported", "RegisteredMessageReceived"}},
	{"position", []string{"ZChange", "PositionUpdate"}},
	{"timelapse", []string{"CaptureStart", "CaptureDone", "CaptureFailed", "PostRollStart", "PostRollEnd", "MovieRendering", "MovieDone", "MovieFailed"}},
	{"slicing", []string{"SlicingStarted", "SlicingDone", "SlicingCancelled", "SlicingFailed", "SlicingProfileAdded", "SlicingProfileModified", "SlicingProfileDeleted"}},
	{"settings", []string{"SettingsUpdated", "PrinterProfileAdded", "PrinterProfileModified", "PrinterProfileDeleted"}},
	{"plugin", []string{"plugin_pluginmanager_install_plugin", "plugin_pluginmanager_uninstall_plugin", "plugin_pluginmanager_enable_plugin", "plugin_pluginmanager_disable_plugin", "plugin_softwareupdate_update_succeeded", "plugin_softwareupdate_update_failed", "plugin_backup_backup_created", "plugin_achievements_achievement_unlocked"}},
}

// eventNames are the names of all these events.
func eventNames() (all []string) {
	for _, c := range classes {
		all = append(all, c.events...)
	}
	return all
}

// deviceID is an identifier of the printer at an address: it stays when the
// source, OctoPrint or the printer is renamed, and no two have one, as an
// identifier in OctoPrint's own files may be copied with the card it is on.
func deviceID(o *Options, u *url.URL) string {
	if o.DeviceID != "" {
		return o.DeviceID
	}
	return "octoprint-" + digest(place(u))
}

// Thing implements sources.Describer.
func (o *Options) Thing() (device.Device, bool) {
	s, err := o.settings()
	if err != nil || s.url == nil {
		return device.Device{}, false // Check says so
	}
	t := newTranslator(o, nil, asks{})
	return t.describe(s.url, o.Name), true
}

// EventTopic returns where compat publishes events, if it does.
func (o *Options) EventTopic() (topic.Template, bool) {
	t, err := o.topics()
	return t.event, err == nil && t.hasEvent
}

// Names of events that people care about, and of those that they start
// automations with.
var (
	notable = []string{
		"PrintStarted", "PrintDone", "PrintFailed", "PrintCancelling", "PrintCancelled", "PrintPaused", "PrintResumed", "PausedForUser", "FilamentChange", "Alert",
		"Connected", "Disconnected", "Error", "MovieDone",
	}
	triggers = []string{"PrintStarted", "PrintDone", "PrintFailed", "PrintPaused", "PausedForUser", "Error"}
)

// place is where an OctoPrint is, however its address is written.
func place(u *url.URL) string { return api.Server(u) + u.Path }

// digest is short, and of letters and digits.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}

// describe is what is known of the printer. name is what people call it. What the
// texts hold never keeps the device from being one: they are OctoPrint's, and the
// printer's.
func (t *translator) describe(u *url.URL, name string) device.Device {
	d := device.Device{ID: deviceID(t.config, u), Name: name, Manufacturer: "OctoPrint", URL: u.String() + "/", Events: eventNames(), Notable: notable, Triggers: triggers}
	if len(d.URL) > device.MaxURL {
		d.URL = ""
	}
	d.Version = t.version
	if f := t.pos.Firmware; f != nil {
		d.Model = f.Model
		switch {
		case d.Model == "":
			d.Model = f.Name
		case f.Name != "":
			d.Version = strings.TrimSpace(d.Version + " (" + f.Name + ")")
		}
	}
	for _, text := range []*string{&d.Name, &d.Model, &d.Version} {
		*text = api.Clean(*text, device.MaxText)
	}
	if t.topics.on {
		d.Entities = t.compatEntities()
	} else {
		d.Entities = entities()
	}
	d.Commands = t.config.describeCommands(!t.topics.on || t.topics.temperature != "")
	if t.pictured {
		d.Entities = append(d.Entities, device.Entity{Key: "snapshot", Name: "Webcam", State: keySnapshot, Kind: device.Image})
	}
	if t.config.Thumbnail {
		d.Entities = append(d.Entities, device.Entity{Key: "thumbnail", Name: "Thumbnail", State: keyThumbnail, Kind: device.Image})
	}
	if !t.topics.on || t.topics.temperature != "" {
		d.Entities = append(d.Entities, heaterEntities(t.order)...)
	}
	return d
}

// heaterEntities are the values of heaters, whose names plugins may have made up.
func heaterEntities(names []string) (all []device.Entity) {
	seen := map[string]bool{}
	for _, name := range names {
		key := entityKey(name)
		if seen[key] {
			continue
		}
		seen[key] = true
		title := heaterName(name)
		all = append(all,
			device.Entity{Key: "temperature_" + key, Name: title, State: keyTemperature + name, Value: "actual", Kind: device.Number, Unit: "°C", Class: "temperature"},
			device.Entity{Key: "target_" + key, Name: title + " target", State: keyTemperature + name, Value: "target", Kind: device.Number, Unit: "°C", Class: "temperature"})
	}
	return all
}

// entityKey is a heater's name in the keys of entities. A name that holds what no
// key may has an end of its own, so that it stays the same whichever other
// heaters there are.
func entityKey(name string) string {
	key := strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, name)
	if key != name {
		key += "_" + digest(name)
	}
	return key
}

// heaterName is a heater's name for people.
func heaterName(key string) string {
	if n, ok := strings.CutPrefix(key, "tool"); ok && n != "" {
		return "Tool " + n
	}
	first, size := utf8.DecodeRuneInString(key)
	return string(unicode.ToUpper(first)) + key[size:]
}

// entities are the values that each OctoPrint has.
func entities() []device.Entity {
	return []device.Entity{
		{Key: "status", Name: "Status", State: keyState, Value: "text", Kind: device.Text},
		{Key: "printing", Name: "Printing", State: keyState, Value: "flags.printing", Kind: device.Binary, Class: "running"},
		{Key: "paused", Name: "Paused", State: keyState, Value: "flags.paused", Kind: device.Binary},
		{Key: "error", Name: "Error", State: keyState, Value: "error", Kind: device.Text, Diagnostic: true},
		{Key: "connection", Name: "Printer connection", State: keyConnection, Value: "state", Kind: device.Enum, Options: []string{"connected", "connecting", "disconnected", "error"}, Diagnostic: true},
		{Key: "progress", Name: "Progress", State: keyProgress, Value: "completion", Kind: device.Number, Unit: "%"},
		{Key: "print_time", Name: "Print time", State: keyProgress, Value: "printTime", Kind: device.Number, Unit: "s", Class: "duration"},
		{Key: "print_time_left", Name: "Print time left", State: keyProgress, Value: "printTimeLeft", Kind: device.Number, Unit: "s", Class: "duration"},
		{Key: "eta", Name: "Print ends", State: keyProgress, Value: "eta", Kind: device.Timestamp, Class: "timestamp"},
		{Key: "file", Name: "File", State: keyJob, Value: "file.name", Kind: device.Text},
		{Key: "z", Name: "Z", State: keyPosition, Value: "z", Kind: device.Number, Unit: "mm", Class: "distance", Hidden: true},
		{Key: "version", Name: "OctoPrint version", State: keyVersion, Value: "version", Kind: device.Text, Diagnostic: true},
	}
}

// compatEntities are the values that there are with compat.
func (t *translator) compatEntities() (all []device.Entity) {
	if t.topics.progress != "" {
		all = append(all,
			device.Entity{Key: "progress", Name: "Progress", State: "progress/printing", Value: "progress", Kind: device.Number, Unit: "%"},
			device.Entity{Key: "file", Name: "File", State: "progress/printing", Value: "path", Kind: device.Text})
	}
	if t.topics.will != "" {
		all = append(all, device.Entity{Key: "octoprint", Name: "OctoPrint", State: "mqtt", Kind: device.Binary, On: "connected", Off: "disconnected", Class: "connectivity", Diagnostic: true})
	}
	return all
}
