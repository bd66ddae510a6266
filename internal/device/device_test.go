package device_test

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"event2mqtt/internal/device"
)

// whole has everything that a device may have.
func whole() *device.Device {
	return &device.Device{
		ID: "printer-1", Name: "Prusa im Büro", Manufacturer: "Prusa", Model: "MK4", Version: "6.1", URL: "http://192.0.2.7/settings?x=1",
		Entities: []device.Entity{
			{Key: "bed", Name: "Bed", State: "temperature/bed", Value: "actual", Kind: device.Number, Unit: "°C", Class: "temperature"},
			{Key: "job", State: "job", Kind: device.Text, Hidden: true},
			{Key: "connected", State: "link", Kind: device.Binary, On: "yes", Off: "no", Diagnostic: true},
			{Key: "printing", State: "job", Value: "printing", Kind: device.Binary},
			{Key: "phase", State: "job", Kind: device.Enum, Options: []string{"heating", "printing"}},
			{Key: "ends", State: "job", Kind: device.Timestamp},
			{Key: "picture", State: "camera", Kind: device.Image},
		},
		Events: []string{"PrintStarted", "print.done: ok"},
		Commands: []device.Command{
			{Key: "pause", Name: "Pause"},
			{Key: "bed_set", Call: "temperature", Kind: device.Setting, Payload: `{"bed":{value}}`, Max: 100, Step: 1, Unit: "°C", Class: "temperature", State: "temperature/bed", Value: "target"},
			{Key: "home", Call: "gcode", Kind: device.Button, Payload: "home"},
		},
	}
}

// many makes n items from their number.
func many[T any](n int, make func(i int) T) (all []T) {
	for i := range n {
		all = append(all, make(i))
	}
	return all
}

// TestCheckBoundsADescription: counts, lengths, keys, kinds and what goes
// together; what is at a bound is good.
func TestCheckBoundsADescription(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	entity := func(change func(*device.Entity)) func(*device.Device) {
		return func(d *device.Device) { change(&d.Entities[0]) }
	}
	setting := func(change func(*device.Command)) func(*device.Device) {
		return func(d *device.Device) { change(&d.Commands[1]) }
	}
	enum := func(options ...string) func(*device.Device) {
		return func(d *device.Device) { d.Entities[4].Options = options }
	}
	for _, c := range []struct {
		name   string
		change func(*device.Device)
		want   string // "" is good
	}{
		{"all that there may be", func(*device.Device) {}, ""},
		{"nothing at all", func(d *device.Device) { *d = device.Device{} }, ""},
		{"the longest id", func(d *device.Device) { d.ID = long(device.MaxKey) }, ""},
		{"an id that is too long", func(d *device.Device) { d.ID = long(device.MaxKey + 1) }, "id has 129 bytes; it needs 1 to 128"},
		{"an id for another topic", func(d *device.Device) { d.ID = "a/b" }, `id "a/b" holds '/'; letters, digits, _ and - are allowed`},
		{"an id with a wildcard", func(d *device.Device) { d.ID = "#" }, `holds '#'`},
		{"an id that is not UTF-8", func(d *device.Device) { d.ID = "\xff" }, "holds"},
		{"the longest name", func(d *device.Device) { d.Name = long(device.MaxText) }, ""},
		{"a name that is too long", func(d *device.Device) { d.Name = long(device.MaxText + 1) }, "name has 257 bytes; at most 256"},
		{"a model that is not UTF-8", func(d *device.Device) { d.Model = "\xff" }, "model is not valid UTF-8"},
		{"a version of two lines", func(d *device.Device) { d.Version = "1\n2" }, "version \"1\\n2\" holds a control character"},
		{"a link that runs a script", func(d *device.Device) { d.URL = "javascript:alert(1)" }, "is not one of http:// or https://"},
		{"a link to nowhere", func(d *device.Device) { d.URL = "http://" }, "is not one of"},
		{"a link that is too long", func(d *device.Device) { d.URL = "http://h/" + long(device.MaxURL) }, "url has 2057 bytes"},
		{"no key", entity(func(e *device.Entity) { e.Key = "" }), "entity 0 (): key has 0 bytes"},
		{"a key for another topic", entity(func(e *device.Entity) { e.Key = "bed/x" }), `entity 0 (bed/x): key "bed/x" holds '/'`},
		{"no state", entity(func(e *device.Entity) { e.State = "" }), "entity 0 (bed): state is empty"},
		{"no kind", entity(func(e *device.Entity) { e.Kind = "" }), `kind "" does not exist; there are number, text, binary, enum, timestamp, image`},
		{"an unknown kind", entity(func(e *device.Entity) { e.Kind = "numbr" }), `kind "numbr" does not exist`},
		{"an endless kind", entity(func(e *device.Entity) { e.Kind = device.Kind(long(1000)) }), "x…"},
		{"a unit of a text", entity(func(e *device.Entity) { e.Kind = device.Text }), "unit is for kind number, not text"},
		{"on of a number", entity(func(e *device.Entity) { e.On = "1" }), "on and off are for kind binary, not number"},
		{"on that is off", func(d *device.Device) { d.Entities[2].Off = "yes" }, `on and off are both "yes"`},
		{"options of a number", entity(func(e *device.Entity) { e.Options = []string{"a"} }), "options are for kind enum, not number"},
		{"no options", enum(), "has 0 options; kind enum needs 1 to 200"},
		{"too many options", enum(many(201, func(i int) string { return fmt.Sprint(i) })...), "has 201 options"},
		{"an option twice", enum("a", "a"), `option "a" is empty, or there twice`},
		{"an empty option", enum(""), `option "" is empty`},
		{"an entity twice", entity(func(e *device.Entity) { e.Key = "job" }), `entity "job" is there twice`},
		{"a command twice", func(d *device.Device) { d.Commands = append(d.Commands, d.Commands[0]) }, `command "pause" is there twice`},
		{"a command for another topic", func(d *device.Device) { d.Commands[0].Key = "a b" }, `command 0 (a b): key "a b" holds ' '`},
		{"a call for another topic", setting(func(c *device.Command) { c.Call = "a/b" }), `command 1 (bed_set): call "a/b" holds '/'`},
		{"an unknown kind of command", setting(func(c *device.Command) { c.Kind = "lever" }), `kind "lever" does not exist; there are button, number`},
		{"a number of a button", setting(func(c *device.Command) { c.Kind = "" }), "min, max, step, unit, class, state and value are for kind number"},
		{"no room for a number", setting(func(c *device.Command) { c.Min = 100 }), "min 100 must be less than max 100"},
		{"no bound", setting(func(c *device.Command) { c.Max = math.Inf(1) }), "must be less than max"},
		{"a bound that is no number", setting(func(c *device.Command) { c.Max = math.NaN() }), "must be less than max"},
		{"no step", setting(func(c *device.Command) { c.Step = 0 }), "step 0 must be more than 0"},
		{"a number without a place", setting(func(c *device.Command) { c.Payload = "x" }), `payload "x" has no {value}`},
		{"a value of no state", setting(func(c *device.Command) { c.State = "" }), "value is of use only with state"},
		{"an event twice", func(d *device.Device) { d.Events = []string{"A", "A"} }, `event "A" is there twice`},
		{"an event without a name", func(d *device.Device) { d.Events = []string{""} }, "the name of an event has 0 bytes"},
		{"the most entities", func(d *device.Device) { d.Entities = many(device.MaxEntities, textEntity) }, ""},
		{"too many entities", func(d *device.Device) { d.Entities = make([]device.Entity, device.MaxEntities+1) }, "has 501 entities; at most 500 are allowed"},
		{"too many events", func(d *device.Device) { d.Events = make([]string, device.MaxEvents+1) }, "has 1001 events"},
		{"too many commands", func(d *device.Device) { d.Commands = make([]device.Command, device.MaxCommands+1) }, "has 101 commands"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := whole()
			c.change(d)
			err := d.Check()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("it is good: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			case err != nil && len(err.Error()) > 1000:
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

func textEntity(i int) device.Entity {
	return device.Entity{Key: fmt.Sprint("e", i), State: "s", Kind: device.Text}
}

func TestACloneSharesNoMemory(t *testing.T) {
	d := whole()
	c := d.Clone()
	d.Entities[4].Options[0], d.Entities[0].Key, d.Events[0], d.Commands[0].Key = "x", "x", "x", "x"
	if !reflect.DeepEqual(c, *whole()) {
		t.Errorf("the clone has changed: %+v", c)
	}
}
