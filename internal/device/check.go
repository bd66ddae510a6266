package device

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a description. It may come from outside, is kept in memory, and is
// published as a whole.
const (
	MaxEntities = 500
	MaxEvents   = 1000
	MaxCommands = 100
	MaxOptions  = 200  // of an Enum
	MaxKey      = 128  // bytes of an ID, a key, or the name of an event
	MaxText     = 256  // bytes of what people read, of a path, a unit or a value
	MaxURL      = 2048 // bytes
)

// Check tells the first thing that is wrong with a description: what its
// readers could not use, or that it is too large. It names the entity, the
// command or the field, and what would be right.
func (d *Device) Check() error {
	if err := checkKey("id", d.ID, true); err != nil {
		return err
	}
	for _, f := range []struct{ field, text string }{
		{"name", d.Name}, {"manufacturer", d.Manufacturer}, {"model", d.Model}, {"version", d.Version},
	} {
		if err := checkText(f.field, f.text); err != nil {
			return err
		}
	}
	if err := checkURL(d.URL); err != nil {
		return err
	}
	for _, n := range []struct {
		field    string
		is, most int
	}{{"entities", len(d.Entities), MaxEntities}, {"events", len(d.Events), MaxEvents}, {"notable events", len(d.Notable), MaxEvents}, {"triggers", len(d.Triggers), MaxEvents}, {"commands", len(d.Commands), MaxCommands}} {
		if n.is > n.most {
			return fmt.Errorf("has %d %s; at most %d are allowed", n.is, n.field, n.most)
		}
	}
	if err := checkAll("entity", d.Entities, (*Entity).key, (*Entity).check); err != nil {
		return err
	}
	if err := checkAll("command", d.Commands, (*Command).key, (*Command).check); err != nil {
		return err
	}
	for _, names := range []struct {
		what string
		are  []string
	}{{"event", d.Events}, {"notable event", d.Notable}, {"trigger", d.Triggers}} {
		if err := checkAll(names.what, names.are, func(name *string) string { return *name }, checkEvent); err != nil {
			return err
		}
	}
	return nil
}

// checkAll checks items, of which no two have the same key.
func checkAll[T any](what string, items []T, key func(*T) string, check func(*T) error) error {
	seen := make(map[string]bool, len(items))
	for i := range items {
		k := key(&items[i])
		if err := check(&items[i]); err != nil {
			return fmt.Errorf("%s %d (%s): %w", what, i, shortened(k), err)
		}
		if seen[k] {
			return fmt.Errorf("%s %q is there twice", what, k)
		}
		seen[k] = true
	}
	return nil
}

func (e *Entity) key() string { return e.Key }

func (e *Entity) check() error {
	if err := checkKey("key", e.Key, false); err != nil {
		return err
	}
	if e.State == "" {
		return fmt.Errorf("state is empty; it is the key of the state that holds the value")
	}
	for _, f := range []struct{ field, text string }{
		{"name", e.Name}, {"state", e.State}, {"value", e.Value}, {"unit", e.Unit}, {"class", e.Class}, {"statistics", e.Statistics}, {"on", e.On}, {"off", e.Off},
	} {
		if err := checkText(f.field, f.text); err != nil {
			return err
		}
	}
	if !slices.Contains(kinds, e.Kind) {
		return fmt.Errorf("kind %q does not exist; there are %s", shortened(string(e.Kind)), kindNames())
	}
	if e.Unit != "" && e.Kind != Number {
		return fmt.Errorf("unit is for kind %s, not %s", Number, e.Kind)
	}
	if e.Statistics != "" && e.Kind != Number {
		return fmt.Errorf("statistics is for kind %s, not %s", Number, e.Kind)
	}
	if (e.On != "" || e.Off != "") && e.Kind != Binary {
		return fmt.Errorf("on and off are for kind %s, not %s", Binary, e.Kind)
	}
	if (e.On != "" || e.Off != "") && e.On == e.Off {
		return fmt.Errorf("on and off are both %q", e.On)
	}
	return e.checkOptions()
}

// checkOptions checks the values of an Enum, and that nothing else has any.
func (e *Entity) checkOptions() error {
	if e.Kind != Enum {
		if len(e.Options) > 0 {
			return fmt.Errorf("options are for kind %s, not %s", Enum, e.Kind)
		}
		return nil
	}
	if n := len(e.Options); n == 0 || n > MaxOptions {
		return fmt.Errorf("has %d options; kind %s needs 1 to %d", n, Enum, MaxOptions)
	}
	seen := make(map[string]bool, len(e.Options))
	for _, o := range e.Options {
		if err := checkText("option", o); err != nil {
			return err
		}
		if o == "" || seen[o] {
			return fmt.Errorf("option %q is empty, or there twice", o)
		}
		seen[o] = true
	}
	return nil
}

func (c *Command) key() string { return c.Key }

func (c *Command) check() error {
	if err := checkKey("key", c.Key, false); err != nil {
		return err
	}
	if err := checkKey("call", c.Call, true); err != nil {
		return err
	}
	for _, f := range []struct{ field, text string }{
		{"name", c.Name}, {"payload", c.Payload}, {"unit", c.Unit}, {"class", c.Class}, {"state", c.State}, {"value", c.Value},
	} {
		if err := checkText(f.field, f.text); err != nil {
			return err
		}
	}
	switch c.Kind {
	case "", Button:
		if bare := (Command{Key: c.Key, Name: c.Name, Call: c.Call, Kind: c.Kind, Payload: c.Payload}); *c != bare {
			return fmt.Errorf("min, max, step, unit, class, state and value are for kind %s", Setting)
		}
	case Setting:
		return c.checkNumber()
	default:
		return fmt.Errorf("kind %q does not exist; there are %s, %s", shortened(string(c.Kind)), Button, Setting)
	}
	return nil
}

// checkNumber checks what a Setting has.
func (c *Command) checkNumber() error {
	if !(c.Min < c.Max) || math.IsInf(c.Max-c.Min, 0) {
		return fmt.Errorf("min %v must be less than max %v", c.Min, c.Max)
	}
	if !(c.Step > 0 && c.Step <= c.Max-c.Min) {
		return fmt.Errorf("step %v must be more than 0, and at most max less min", c.Step)
	}
	if !strings.Contains(c.Payload, "{value}") {
		return fmt.Errorf("payload %q has no {value}, which is where the number stands", c.Payload)
	}
	if c.Value != "" && c.State == "" {
		return fmt.Errorf("value is of use only with state, the key of the state that holds it")
	}
	return nil
}

// checkEvent checks the name of an event, which keeps its exact spelling.
func checkEvent(name *string) error {
	if *name == "" || len(*name) > MaxKey {
		return fmt.Errorf("the name of an event has %d bytes; it needs 1 to %d", len(*name), MaxKey)
	}
	return checkText("name", *name)
}

var kinds = []Kind{Number, Text, Binary, Enum, Timestamp, Image}

func kindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// checkKey checks what stands in topics and in the ids of others: letters,
// digits, _ and -.
func checkKey(field, key string, optional bool) error {
	if key == "" && optional {
		return nil
	}
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("%s has %d bytes; it needs 1 to %d", field, len(key), MaxKey)
	}
	for _, r := range key {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return fmt.Errorf("%s %q holds %q; letters, digits, _ and - are allowed", field, key, r)
		}
	}
	return nil
}

// checkText checks what people read.
func checkText(field, text string) error {
	switch {
	case len(text) > MaxText:
		return fmt.Errorf("%s has %d bytes; at most %d are allowed", field, len(text), MaxText)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s is not valid UTF-8: %q", field, text)
	case strings.ContainsFunc(text, unicode.IsControl):
		return fmt.Errorf("%s %q holds a control character", field, text)
	}
	return nil
}

// checkURL checks a link that people follow: it leads to a page, and runs no
// script.
func checkURL(text string) error {
	if text == "" {
		return nil
	}
	if len(text) > MaxURL {
		return fmt.Errorf("url has %d bytes; at most %d are allowed", len(text), MaxURL)
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("url %q is not one of http:// or https://", shortened(text))
	}
	return nil
}

// shortened is a text from outside, as it fits into a message.
func shortened(text string) string {
	const most = 64
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
