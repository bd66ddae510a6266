package octoprint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/config"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources/octoprint/api"
)

// This file passes commands on to OctoPrint.

// Names of the commands that need something of the configuration.
const (
	commandTemperature = "temperature"
	commandGcode       = "gcode"
	commandSnapshot    = "snapshot"
)

// Bounds of what is configured for commands.
const (
	maxMacros  = 50
	maxMacro   = 64   // bytes of a macro's name
	maxLines   = 100  // of a macro
	maxLine    = 256  // bytes
	maxLimits  = 20   // heaters
	maxDegrees = 1000 // of a heater
)

// command is one that a source may be told.
type command struct {
	name, title string
	may         api.Permission // that the key's user needs
	do          func(s *Source, ctx context.Context, payload []byte) (reply map[string]any, err error)
}

// known are the commands that there are.
var known = []command{
	{"pause", "Pause", api.MayPrint, tell("/api/job", api.MayPrint, map[string]any{"command": "pause", "action": "pause"})},
	{"resume", "Resume", api.MayPrint, tell("/api/job", api.MayPrint, map[string]any{"command": "pause", "action": "resume"})},
	{"cancel", "Cancel", api.MayPrint, tell("/api/job", api.MayPrint, map[string]any{"command": "cancel"})},
	{"start", "Print the selected file", api.MayPrint, (*Source).start},
	{"connect", "Connect the printer", api.MayConnect, tell("/api/connection", api.MayConnect, map[string]any{"command": "connect"})},
	{"disconnect", "Disconnect the printer", api.MayConnect, tell("/api/connection", api.MayConnect, map[string]any{"command": "disconnect"})},
	{commandTemperature, "Temperature", api.MayControl, (*Source).temperature},
	{commandGcode, "G-code", api.MayControl, (*Source).gcode},
	{commandSnapshot, "Take a snapshot", api.MayWatch, (*Source).snapshot},
}

// commandNames are the names of all commands.
func commandNames() (names []string) {
	for _, c := range known {
		names = append(names, c.name)
	}
	return names
}

// heaters are the names of those that may be set: OctoPrint's own.
var heaters = regexp.MustCompile(`^(tool[0-9]{1,2}|bed|chamber)$`)

// checkCommands tells what is wrong with the options of commands.
func (o *Options) checkCommands(errs *config.Errors) {
	names := commandNames()
	for i, name := range o.Commands.Commands {
		key := fmt.Sprintf("commands[%d]", i)
		switch {
		case !slices.Contains(names, name):
			text := fmt.Sprintf("there is no command %q", name)
			if near := config.Near(name, names...); near != "" {
				text += "; did you mean " + near + "?"
			}
			errs.Bad(key, "%s; there are %s", text, strings.Join(names, ", "))
		case name == commandTemperature && len(o.MaxTemperature) == 0:
			errs.Relation(key, "max_temperature", "temperature sets only the heaters that max_temperature names, and that is empty; write for example max_temperature: {tool0: 250, bed: 100}")
		case name == commandGcode && len(o.Gcode) == 0:
			errs.Relation(key, "gcode", "gcode sends only what the option gcode lists, and that is empty; write for example gcode: {home: [G28]}")
		}
	}
	o.checkLimits(errs)
	o.checkGcode(errs)
}

func (o *Options) checkLimits(errs *config.Errors) {
	if n := len(o.MaxTemperature); n > maxLimits {
		errs.Bad("max_temperature", "has %d heaters; at most %d are allowed", n, maxLimits)
	}
	for _, heater := range slices.Sorted(maps.Keys(o.MaxTemperature)) {
		key, most := "max_temperature."+heater, o.MaxTemperature[heater]
		if !heaters.MatchString(heater) {
			errs.Bad(key, "there is no heater %q; there are tool0, tool1 and so on, bed, chamber", heater)
		}
		if !(most >= 1 && most <= maxDegrees) { // nor NaN
			errs.Bad(key, "%v is not from 1 to %d degrees", most, maxDegrees)
		}
	}
}

func (o *Options) checkGcode(errs *config.Errors) {
	if n := len(o.Gcode); n > maxMacros {
		errs.Bad("gcode", "has %d names; at most %d are allowed", n, maxMacros)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Gcode)) {
		key, lines := "gcode."+name, o.Gcode[name]
		if !isWord(name, maxMacro) {
			errs.Bad(key, "%q cannot be a name; letters, digits, _ and - are allowed, %d at most", name, maxMacro)
		}
		if n := len(lines); n == 0 || n > maxLines {
			errs.Bad(key, "has %d lines; it needs 1 to %d", n, maxLines)
		}
		for i, line := range lines {
			if strings.TrimSpace(line) == "" || len(line) > maxLine || strings.ContainsFunc(line, unicode.IsControl) {
				errs.Bad(fmt.Sprintf("%s[%d]", key, i), "%q is no line of G-code: it needs 1 to %d bytes, and no line end", line, maxLine)
			}
		}
	}
}

// lacking says which permissions the key's user is known to lack, and what for.
func (o *Options) lacking(user api.Session) error {
	if user.Lacks(api.MaySee) {
		return fmt.Errorf("the user %s of the API key needs the permission %s, without which OctoPrint tells nothing; it is given in OctoPrint under Settings, Access Control", user.Name, api.MaySee)
	}
	var lacks []string
	for _, c := range known {
		if slices.Contains(o.Commands.Commands, c.name) && user.Lacks(c.may) {
			lacks = append(lacks, fmt.Sprintf("%s for the command %s", c.may, c.name))
		}
	}
	if (len(o.Snapshot.Events) > 0 || o.Snapshot.Every > 0) && o.Snapshot.URL == "" && user.Lacks(api.MayWatch) {
		lacks = append(lacks, fmt.Sprintf("%s for snapshots", api.MayWatch))
	}
	if lacks == nil {
		return nil
	}
	return fmt.Errorf("the user %s of the API key lacks permissions: %s; they are given in OctoPrint under Settings, Access Control", user.Name, strings.Join(lacks, ", "))
}

// Do implements sources.Commander. While OctoPrint is away it fails at once.
func (s *Source) Do(ctx context.Context, c event.Command) (reply []byte, err error) {
	i := slices.IndexFunc(known, func(k command) bool { return k.name == c.Name })
	if i < 0 {
		return nil, fmt.Errorf("there is no command %q", c.Name)
	}
	if why := s.absent.Load(); why != nil {
		return nil, fmt.Errorf("it was not done: %s", *why)
	}
	answer, err := known[i].do(s, ctx, c.Payload)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(answer); err != nil {
		return nil, fmt.Errorf("write the reply: %w", err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// said is a reply with OctoPrint's status, which is all that it says when it
// has accepted a command.
func said(status int, err error) (map[string]any, error) {
	if err != nil {
		return nil, err
	}
	return map[string]any{"status": status}, nil
}

// tell is a command that needs nothing.
func tell(path string, may api.Permission, body map[string]any) func(*Source, context.Context, []byte) (map[string]any, error) {
	return func(s *Source, ctx context.Context, _ []byte) (map[string]any, error) {
		return said(s.client.Tell(ctx, path, may, body))
	}
}

// start prints the file that is selected. OctoPrint accepts it also if none is,
// and does nothing then.
func (s *Source) start(ctx context.Context, _ []byte) (map[string]any, error) {
	path, err := s.client.Selected(ctx)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, errors.New("no file is selected in OctoPrint")
	}
	reply, err := said(s.client.Tell(ctx, "/api/job", api.MayPrint, map[string]any{"command": "start"}))
	if err == nil {
		reply["path"] = path
	}
	return reply, err
}

// temperature sets targets, none of them if one is not allowed.
func (s *Source) temperature(ctx context.Context, payload []byte) (map[string]any, error) {
	targets, err := s.targets(payload)
	if err != nil {
		return nil, err
	}
	tools := map[string]float64{}
	var requests []heating
	for _, heater := range slices.Sorted(maps.Keys(targets)) {
		if strings.HasPrefix(heater, "tool") {
			tools[heater] = targets[heater]
			continue
		}
		requests = append(requests, heating{heater, "/api/printer/" + heater, map[string]any{"command": "target", "target": targets[heater]}})
	}
	if len(tools) > 0 {
		requests = append(requests, heating{"tools", "/api/printer/tool", map[string]any{"command": "target", "targets": tools}})
	}
	var reply map[string]any
	var done []string
	for _, r := range requests {
		if reply, err = said(s.client.Tell(ctx, r.path, api.MayControl, r.body)); err != nil {
			if len(done) > 0 {
				return nil, fmt.Errorf("%w; it was done for %s", err, strings.Join(done, " and "))
			}
			return nil, err
		}
		done = append(done, r.of)
	}
	return reply, nil
}

// heating is a request that sets targets.
type heating struct {
	of, path string
	body     map[string]any
}

// targets reads the targets of a payload such as {"targets":{"tool0":210}}.
func (s *Source) targets(payload []byte) (map[string]float64, error) {
	const form = `write {"targets":{"tool0":210,"bed":60}}`
	if event.Check(payload) != nil {
		return nil, errors.New("the payload is not JSON; " + form)
	}
	given := gjson.GetBytes(payload, "targets")
	if !given.IsObject() {
		return nil, errors.New("the payload has no targets; " + form)
	}
	all := map[string]float64{}
	var err error
	given.ForEach(func(key, value gjson.Result) bool {
		most, allowed := s.options.MaxTemperature[key.Str]
		switch {
		case !allowed:
			err = fmt.Errorf("the option max_temperature does not name the heater %q; it names %s", bounded(key.Str, maxKey), strings.Join(slices.Sorted(maps.Keys(s.options.MaxTemperature)), ", "))
		case value.Type != gjson.Number || math.IsNaN(value.Num):
			err = fmt.Errorf("the target of %s is %s, which is not a number", key.Str, bounded(value.Raw, maxKey))
		case value.Num < 0 || value.Num > most:
			err = fmt.Errorf("the target of %s is %s; 0 to %v are allowed", key.Str, bounded(value.Raw, maxKey), most)
		}
		all[key.Str] = value.Num
		return err == nil
	})
	if err == nil && len(all) == 0 {
		err = errors.New("the payload has no targets; " + form)
	}
	return all, err
}

// gcode sends the lines that the configuration has under a name.
func (s *Source) gcode(ctx context.Context, payload []byte) (map[string]any, error) {
	name := strings.TrimSpace(string(payload))
	if event.Check(payload) == nil {
		switch value := gjson.ParseBytes(payload); {
		case value.Type == gjson.String:
			name = value.Str
		case value.IsObject():
			name = value.Get("name").Str
		}
	}
	lines, ok := s.options.Gcode[name]
	if !ok {
		what := fmt.Sprintf("the option gcode has no %q", bounded(name, maxKey))
		if name == "" {
			what = "the payload names no entry of the option gcode"
		}
		return nil, fmt.Errorf("%s; it has %s", what, strings.Join(slices.Sorted(maps.Keys(s.options.Gcode)), ", "))
	}
	return said(s.client.Tell(ctx, "/api/printer/command", api.MayControl, map[string]any{"commands": lines}))
}

// snapshot takes a picture and publishes it.
func (s *Source) snapshot(ctx context.Context, _ []byte) (map[string]any, error) {
	size, err := s.gallery.ask(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]any{"bytes": size}, nil
}

// describeCommands are the commands that the configuration makes possible.
// Which of them are allowed is known elsewhere, and may change meanwhile.
func (o *Options) describeCommands(temperatures bool) (all []device.Command) {
	for _, c := range known {
		switch c.name {
		case commandTemperature:
			for _, heater := range slices.Sorted(maps.Keys(o.MaxTemperature)) {
				set := device.Command{
					Key: commandTemperature + "_" + heater, Name: heaterName(heater) + " target", Call: commandTemperature, Kind: device.Setting,
					Payload: `{"targets":{` + quote(heater) + `:{value}}}`, Max: o.MaxTemperature[heater], Step: 1, Unit: "°C", Class: "temperature",
				}
				if temperatures {
					set.State, set.Value = keyTemperature+heater, "target"
				}
				all = append(all, set)
			}
		case commandGcode:
			for _, name := range slices.Sorted(maps.Keys(o.Gcode)) {
				all = append(all, device.Command{Key: commandGcode + "_" + name, Name: title(name), Call: commandGcode, Payload: name})
			}
		default:
			all = append(all, device.Command{Key: c.name, Name: c.title})
		}
	}
	return all
}

// title is the name of a macro for people.
func title(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return ' '
		}
		return r
	}, name)
	return strings.ToUpper(name[:1]) + name[1:]
}
