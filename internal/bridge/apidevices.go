package bridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/api"
	"event2mqtt/internal/broker"
	"event2mqtt/internal/commands"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/web/problem"
)

// This file is devices as the API shows them: drawn from what sources say of
// them and their states.

type brokerDelivery = broker.Delivery

// apiDevices are all things, in the order of their sources.
func (b *Bridge) apiDevices(now *running) []api.Device {
	all := []api.Device{}
	described, _ := b.devices.described()
	for _, o := range now.plan.sources {
		source := o.Base().Name
		d, is := b.thing(o, described)
		part := now.part("source " + source)
		if !is || part == nil {
			continue
		}
		states, reported := b.states.Of(source)
		v := view{&d, states, part.health.Report()}
		one := v.device(source)
		one.Seen = api.Time{Time: reported}
		one.Commands = v.commands(allowedBy(o))
		all = append(all, one)
	}
	return all
}

// thing is what is known of a source's thing: what the source has told, or what
// its options say.
func (b *Bridge) thing(o sources.Options, described map[string]device.Device) (device.Device, bool) {
	d, is := described[o.Base().Name]
	if !is {
		d, is = shown(o)
	}
	d.ID = cmp.Or(d.ID, o.Base().Name)
	return d, is
}

// device returns the thing with an id, and its source.
func (b *Bridge) device(id string) (d device.Device, source string, err error) {
	described, _ := b.devices.described()
	for _, o := range b.running().plan.sources {
		if d, is := b.thing(o, described); is && d.ID == id {
			return d, o.Base().Name, nil
		}
	}
	return d, "", problem.New(http.StatusNotFound, "there is no device with this id")
}

// view is a thing with its states.
type view struct {
	*device.Device
	states map[string]event.Known
	report health.Report
}

// value returns the value of an entity, nil if there is none.
func (v *view) value(e *device.Entity) []byte {
	payload := v.states[e.State].Payload
	if e.Value == "" || len(payload) == 0 || event.Check(payload) != nil {
		return payload
	}
	return event.Find(payload, e.Value)
}

// number returns the value of an entity that is a number; JSON's null is none.
func (v *view) number(e *device.Entity) (float64, bool) {
	text := string(v.value(e))
	if quoted := event.Text([]byte(text)); quoted != "" {
		text = quoted
	}
	n, err := strconv.ParseFloat(text, 64)
	return n, err == nil
}

// find returns an entity by its key.
func (v *view) find(kind device.Kind, keys ...string) *device.Entity {
	for _, key := range keys {
		for i := range v.Entities {
			if e := &v.Entities[i]; e.Key == key && e.Kind == kind {
				return e
			}
		}
	}
	return nil
}

// device draws the thing.
func (v *view) device(source string) api.Device {
	one := api.Device{
		ID: cmp.Or(v.ID, source), Name: cmp.Or(v.Name, source), Source: source, Level: "good",
		Since: api.Time{Time: v.report.Since}, Readings: []api.Reading{}, Commands: []api.Command{},
	}
	one.State = v.words(&one)
	used := map[string]bool{}
	one.Progress = v.progress(used)
	for i := range v.Entities {
		e := &v.Entities[i]
		switch {
		case e.Kind == device.Image:
			if st, ok := v.states[e.State]; ok && one.Picture == nil {
				one.Picture = &api.Picture{URL: "api/v1/devices/" + one.ID + "/picture", Time: api.Time{Time: st.Since}}
			}
		case e.Kind == device.Number && !e.Diagnostic && !e.Hidden && !used[e.Key]:
			n, ok := v.number(e)
			if !ok {
				continue
			}
			r := api.Reading{Name: cmp.Or(e.Name, e.Key), Value: n, Unit: e.Unit}
			if target := v.find(device.Number, e.Key+"_target", "target_"+strings.TrimPrefix(e.Key, "temperature_")); target != nil {
				used[target.Key] = true
				if n, ok := v.number(target); ok {
					r.Target = &n
				}
			}
			one.Readings = append(one.Readings, r)
		}
	}
	// A target may come before what it is for.
	one.Readings = slices.DeleteFunc(one.Readings, func(r api.Reading) bool {
		i := slices.IndexFunc(v.Entities, func(e device.Entity) bool { return cmp.Or(e.Name, e.Key) == r.Name && used[e.Key] })
		return i >= 0
	})
	return one
}

// words is what the thing does, in words.
func (v *view) words(one *api.Device) string {
	switch v.report.Level {
	case health.Waiting:
		one.Level = "wait"
		return "offline"
	case health.Failed:
		one.Level = "bad"
		return "failed"
	}
	e := v.find(device.Text, "status", "state", "phase")
	if e == nil {
		e = v.find(device.Enum, "status", "state", "phase")
	}
	if e == nil {
		return "online"
	}
	text := string(v.value(e))
	if t := event.Text([]byte(text)); t != "" {
		text = t
	}
	if text == "" || text == "null" || len(text) > device.MaxText {
		return "online"
	}
	if strings.Contains(strings.ToLower(text), "error") {
		one.Level = "bad"
	}
	one.Since = api.Time{Time: v.states[e.State].Since}
	return text
}

// progress is how far the thing is, nil if it does nothing that has an end.
func (v *view) progress(used map[string]bool) *api.Progress {
	e := v.find(device.Number, "progress", "completion", "percent")
	if e == nil || e.Unit != "%" {
		return nil
	}
	used[e.Key] = true
	optional := func(keys ...string) *float64 {
		found := v.find(device.Number, keys...)
		if found == nil {
			return nil
		}
		used[found.Key] = true
		if n, ok := v.number(found); ok {
			return &n
		}
		return nil
	}
	p := &api.Progress{
		Left: optional("print_time_left", "time_left", "remaining"), Elapsed: optional("print_time", "elapsed"),
		Layer: optional("layer", "current_layer"), Layers: optional("layers", "total_layers"),
	}
	percent, ok := v.number(e)
	if !ok {
		return nil
	}
	p.Percent = min(max(percent, 0), 100)
	if file := v.find(device.Text, "file"); file != nil {
		p.File = event.Text(v.value(file))
	}
	return p
}

// dangerous are words in the names of commands that cannot be taken back.
var dangerous = []string{"cancel", "stop", "abort", "kill", "shutdown", "reboot", "restart", "delete", "format"}

// commands are those that are allowed: as the thing describes them, and by their
// names where it does not.
func (v *view) commands(allowed []string) []api.Command {
	all := []api.Command{}
	known := map[string]bool{}
	for i := range v.Commands {
		c := &v.Commands[i]
		if !slices.Contains(allowed, c.Called()) {
			continue
		}
		known[c.Called()] = true
		one := apiCommand(c.Key, cmp.Or(c.Name, c.Key))
		if c.Kind == device.Setting {
			one.Number = &api.CommandNumber{Min: c.Min, Max: c.Max, Step: c.Step, Unit: c.Unit}
			if n, ok := v.number(&device.Entity{State: c.State, Value: c.Value}); ok && c.State != "" {
				one.Number.Now = &n
			}
		}
		all = append(all, one)
	}
	for _, name := range allowed {
		if !known[name] {
			all = append(all, apiCommand(name, name))
		}
	}
	return all
}

func apiCommand(name, label string) api.Command {
	return api.Command{
		Name: name, Label: label, Confirm: label + "?",
		Danger: slices.ContainsFunc(dangerous, func(word string) bool { return strings.Contains(strings.ToLower(name), word) }),
	}
}

// call is how a command is given that a thing describes: what it is called, and
// its payload with the number that payload is. One that it does not describe is
// given as it is.
func call(d *device.Device, name string, payload []byte) (string, []byte, error) {
	i := slices.IndexFunc(d.Commands, func(c device.Command) bool { return c.Key == name })
	if i < 0 {
		return name, payload, nil
	}
	c := &d.Commands[i]
	if c.Kind != device.Setting {
		if len(payload) == 0 {
			payload = []byte(c.Payload)
		}
		return c.Called(), payload, nil
	}
	n, err := strconv.ParseFloat(string(payload), 64)
	if err != nil || !(n >= c.Min && n <= c.Max) {
		return "", nil, problem.New(http.StatusUnprocessableEntity, fmt.Sprintf("the payload of %s is a number from %v to %v", name, c.Min, c.Max))
	}
	return c.Called(), []byte(strings.ReplaceAll(c.Payload, "{value}", strconv.FormatFloat(n, 'f', -1, 64))), nil
}

// commandPatience bounds how long a command may take with those before it.
const commandPatience = 45 * time.Second

// Do implements api.Program.
func (p program) Do(ctx context.Context, device, command string, payload []byte, by string) (json.RawMessage, error) {
	d, source, err := p.device(device)
	if err != nil {
		return nil, err
	}
	if command, payload, err = call(&d, command, payload); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	reply, err := p.commands.Ask(ctx, event.Command{Source: source, Name: command, Payload: payload, From: by})
	var failed *commands.Failure
	switch {
	case err == nil:
		return reply, nil
	case errors.Is(err, commands.ErrNotAllowed):
		return nil, problem.New(http.StatusForbidden, "this command is not allowed: "+err.Error())
	case errors.Is(err, commands.ErrTooMany):
		return nil, problem.New(http.StatusTooManyRequests, err.Error())
	case errors.As(err, &failed):
		return nil, problem.New(http.StatusBadGateway, "it was not done: "+failed.Reason)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, problem.New(http.StatusGatewayTimeout, "the source has not answered yet")
	}
	return nil, err
}

// Picture implements api.Program.
func (p program) Picture(id string) ([]byte, string, error) {
	d, source, err := p.device(id)
	if err != nil {
		return nil, "", err
	}
	states, _ := p.states.Of(source)
	for i := range d.Entities {
		if e := &d.Entities[i]; e.Kind == device.Image {
			if st, ok := states[e.State]; ok {
				return st.Payload, http.DetectContentType(st.Payload), nil
			}
		}
	}
	return nil, "", problem.New(http.StatusNotFound, "this device has no picture now")
}
