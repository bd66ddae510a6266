// Package leftover finds what the plugin OctoPrint-HomeAssistant has left at a
// broker, by what it looks like, and clears it: the retained messages that it
// announced its device to Home Assistant with, and its own states. What
// OctoPrint-MQTT publishes, and what is not certain to be the plugin's, it
// leaves alone. Connecting to a broker is not its business.
//
// The facts are those of the plugin's versions 1 to 3.7.0.
package leftover

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/topic"
)

// Message is one that a broker keeps, or was given. One without a payload clears
// its topic, or is too large to be taken.
type Message struct {
	Topic   string
	Payload []byte
	TooLong int // bytes of the packet, if it is too large to be taken; else 0
}

// Broker is a connection to one.
type Broker interface {
	// Read gives use what is retained for filters, and returns when it has all of
	// that. From then on use is given what others publish there, one message at a
	// time, until the connection is closed. It may be called again.
	Read(ctx context.Context, filters []string, use func(Message)) error
	// Clear removes what is retained for a topic. It returns when the broker has
	// acknowledged that.
	Clear(ctx context.Context, topic string) error
}

// Request is what to look for.
type Request struct {
	// Prefixes are where Home Assistant is told of devices.
	Prefixes []string `json:"prefixes"`
	// Nodes are the ids of the plugin's device, if they are known; else it is any.
	Nodes []string `json:"nodes,omitempty"`
	// Places are where its states are, if that is known beside what is found.
	Places []Place `json:"places,omitempty"`
	// LookOnly has nothing cleared.
	LookOnly bool `json:"look_only,omitempty"`
	// Watch is how long to look afterwards whether it is announced again.
	Watch time.Duration `json:"watch"`
}

// Bounds of a request, and of what is taken from a broker.
const (
	maxList     = 8 // prefixes, nodes, places
	maxText     = 500
	MaxWatch    = 10 * time.Minute
	maxDevices  = 50
	maxEntities = 5000 // the plugin has about 40
	maxMessages = 200_000
	maxKept     = 20 // that are told of
	// gonePatience is how long a broker may take to tell subscribers, of whom
	// this is one, that a topic was cleared.
	gonePatience = 5 * time.Second
)

// Check refuses a request that is out of bounds, or names no topics.
func (r *Request) Check() error {
	if len(r.Prefixes) == 0 || len(r.Prefixes) > maxList || len(r.Nodes) > maxList || len(r.Places) > maxList || r.Watch < 0 || r.Watch > MaxWatch {
		return fmt.Errorf("name 1 to %d prefixes, at most as many nodes and places, and watch for %s at most", maxList, MaxWatch)
	}
	names := slices.Concat(r.Prefixes, r.Nodes)
	for _, p := range r.Places {
		names = append(names, p.Base+"x", p.Hass+"x", p.Control+"x", p.Temperature+"x", p.Will+"x")
	}
	for _, name := range names {
		if err := topic.Check(name); err != nil || len(name) > maxText {
			return fmt.Errorf("%.60q cannot be a part of a topic", name)
		}
	}
	return nil
}

// Place is where the plugin publishes: what its topics begin with, including the
// slash at the end.
type Place struct {
	Base        string `json:"base"`
	Hass        string `json:"hass"`        // its states
	Control     string `json:"control"`     // commands to it
	Temperature string `json:"temperature"` // of the machine, beside those of OctoPrint-MQTT
	Will        string `json:"will"`        // whether OctoPrint-MQTT is there; a whole topic
}

// Usual is a place with the plugin's defaults.
func Usual(base string) Place {
	return Place{Base: base, Hass: base + "hass/", Control: base + "hassControl/", Temperature: base + "temperature/", Will: base + "mqtt"}
}

// Report is what was found, and what was done.
type Report struct {
	Broker  string   `json:"broker"` // its address; empty for the bundled one
	Devices []Device `json:"devices,omitempty"`
	// Problem is why it was not finished; what is said to be cleared is so.
	Problem string `json:"problem,omitempty"`
}

// Device is what one installation of the plugin has left.
type Device struct {
	Node     string `json:"node"` // its id; empty if only states were found
	Name     string `json:"name"`
	Entities []Item `json:"entities,omitempty"` // what announces them
	States   []Item `json:"states,omitempty"`
	Kept     []Item `json:"kept,omitempty"` // what is left as it is, and why
	// On is why the plugin is taken to be running; nothing was cleared then,
	// unless Again is set.
	On string `json:"on,omitempty"`
	// Seen is the last sign of the plugin; zero if it left none.
	Seen time.Time `json:"seen,omitzero"`
	// There is the topic that says that OctoPrint-MQTT, or who is in its place,
	// is connected; empty if none does.
	There   string `json:"there,omitempty"`
	Cleared bool   `json:"cleared,omitempty"`
	Again   bool   `json:"again,omitempty"` // it was announced again, or published, after that
}

// Item is a topic, and what is to be said of it.
type Item struct {
	Topic string `json:"topic"`
	Text  string `json:"text,omitempty"`
}

// Clear looks for what is left at a broker and clears it. An error, such as of
// the connection, is the report's problem.
func Clear(ctx context.Context, b Broker, r Request) (report Report) {
	w := &work{broker: b, request: r, entities: map[string]*entity{}, states: map[string]Message{}, again: map[string]bool{}, gone: map[string]bool{}, went: make(chan struct{}, 1)}
	if err := w.run(ctx); err != nil {
		report.Problem = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.devices {
		d.Again = d.Cleared && (d.Again || w.again[d.Node])
		report.Devices = append(report.Devices, d.Device)
	}
	return report
}

// work is one run of Clear.
type work struct {
	broker  Broker
	request Request
	devices []*found

	mu       sync.Mutex         // guards what follows, which is what the broker says, and Device.Again
	entities map[string]*entity // by topic
	states   map[string]Message // by topic, of those in places
	messages int
	gathered bool            // what is announced from now on is announced by somebody who is there
	again    map[string]bool // nodes that were announced since
	watching bool
	gone     map[string]bool // topics that were cleared, by whomever
	went     chan struct{}   // cap 1: gone has grown
}

// found is a device on its way to the report.
type found struct {
	Device
	said   map[string]*said // by base
	places []Place
}

func (w *work) run(ctx context.Context) error {
	var filters []string
	for _, prefix := range w.request.Prefixes {
		filters = append(filters, prefix+"/+/+/config")
	}
	slices.Sort(filters)
	if err := w.broker.Read(ctx, slices.Compact(filters), w.announced); err != nil {
		return fmt.Errorf("read what is announced to Home Assistant: %w", err)
	}
	w.mu.Lock()
	w.gather()
	w.mu.Unlock()
	if len(w.devices) > maxDevices {
		w.devices = nil
		return fmt.Errorf("more than %d devices are announced as those of OctoPrint-HomeAssistant, and none is cleared; name the config.yaml of the OctoPrint whose device it is", maxDevices)
	}
	filters = nil
	for _, d := range w.devices {
		for _, p := range d.places {
			filters = append(filters, p.filters()...)
		}
	}
	if len(filters) == 0 {
		return nil
	}
	slices.Sort(filters)
	if err := w.broker.Read(ctx, slices.Compact(filters), w.published); err != nil {
		return fmt.Errorf("read the states of OctoPrint-HomeAssistant: %w", err)
	}
	w.mu.Lock()
	w.judge(time.Now())
	w.watching = true
	w.mu.Unlock()
	if w.request.LookOnly {
		return nil
	}
	return w.clear(ctx)
}

// announced takes a message that announces something to Home Assistant.
func (w *work) announced(m Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.messages++; w.messages > maxMessages || w.isGone(&m) {
		return
	}
	e, ok := recognise(m.Topic, m.Payload)
	if !ok || len(w.request.Nodes) > 0 && !slices.Contains(w.request.Nodes, e.node) {
		return
	}
	if w.gathered {
		if len(w.again) < maxEntities {
			w.again[e.node] = true
		}
		return
	}
	if len(w.entities) < maxEntities || w.entities[m.Topic] != nil {
		w.entities[m.Topic] = e
	}
}

// published takes a message in one of the places.
func (w *work) published(m Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.messages++; w.messages > maxMessages {
		return
	}
	switch {
	case w.isGone(&m):
		delete(w.states, m.Topic)
	case w.watching:
		for _, d := range w.devices {
			for _, p := range d.places {
				d.Again = d.Again || p.isState(m.Topic) && p.looksRight(m.Topic, m.Payload)
			}
		}
	case len(w.states) < maxEntities:
		w.states[m.Topic] = m
	}
}

// isGone notes a message that clears its topic. mu is held.
func (w *work) isGone(m *Message) bool {
	if len(m.Payload) > 0 || m.TooLong > 0 {
		return false
	}
	if w.watching && len(w.gone) < maxEntities {
		w.gone[m.Topic] = true
		select {
		case w.went <- struct{}{}:
		default:
		}
	}
	return true
}

// gather makes devices of what is announced. mu is held.
func (w *work) gather() {
	w.gathered = true
	by := map[string]*found{}
	for _, at := range slices.Sorted(maps.Keys(w.entities)) {
		e := w.entities[at]
		d := by[e.node]
		if d == nil {
			d = &found{Device: Device{Node: e.node, Name: e.device}, said: map[string]*said{}}
			by[e.node] = d
			w.devices = append(w.devices, d)
		}
		d.Entities = append(d.Entities, Item{at, e.name})
		d.hear(e)
	}
	for _, d := range w.devices {
		d.settle(w.request.Places)
	}
	var more []Place // that nothing which is announced leads to
	for _, p := range w.request.Places {
		known := false
		for _, d := range w.devices {
			for i := range d.places {
				if is := &d.places[i]; is.Base == p.Base {
					known = true
					*is = Place{p.Base, cmp.Or(is.Hass, p.Hass), cmp.Or(is.Control, p.Control), cmp.Or(is.Temperature, p.Temperature), cmp.Or(is.Will, p.Will)}
				}
			}
		}
		if !known {
			more = append(more, p)
		}
	}
	if len(more) > 0 {
		w.devices = append(w.devices, &found{places: more})
	}
}

// judge says what of the places is the plugin's, and whether it runs. mu is held.
func (w *work) judge(now time.Time) {
	for _, d := range w.devices {
		for _, at := range slices.Sorted(maps.Keys(w.states)) {
			for _, p := range d.places {
				d.add(p, w.states[at], now)
			}
		}
		if w.again[d.Node] {
			d.On = "it has announced its device just now"
			delete(w.again, d.Node)
		}
	}
	w.devices = slices.DeleteFunc(w.devices, func(d *found) bool { return len(d.Entities)+len(d.States) == 0 })
}

// add notes a message in a place.
func (d *found) add(p Place, m Message, now time.Time) {
	switch {
	case m.Topic == p.Will:
		if string(m.Payload) == connected {
			d.There = m.Topic
		}
		return
	case !p.isOwn(m.Topic):
		if strings.HasPrefix(m.Topic, p.Hass) && p.Hass != p.Base && p.Hass != "" {
			d.keep(m.Topic, "it is none that the plugin is known to publish")
		}
		return
	case m.TooLong > 0:
		d.keep(m.Topic, fmt.Sprintf("it has %d bytes, so whose it is was not looked at", m.TooLong))
		return
	case !p.looksRight(m.Topic, m.Payload):
		d.keep(m.Topic, "what is there is not what the plugin publishes")
		return
	}
	d.States = append(d.States, Item{Topic: m.Topic})
	if at, ok := stamp(m.Payload, now); ok && p.isState(m.Topic) && at.After(d.Seen) {
		d.Seen = at
		if ago := now.Sub(at).Abs(); ago <= recent {
			d.On = fmt.Sprintf("it published %s %s ago", m.Topic, ago.Round(time.Second))
		}
	}
}

// keep notes what is left as it is.
func (d *found) keep(topic, why string) {
	if len(d.Kept) < maxKept {
		d.Kept = append(d.Kept, Item{topic, why})
	}
}

// clear clears what is found, states first: without what is announced nothing
// leads to them. Then it waits whether something comes again.
func (w *work) clear(ctx context.Context) error {
	some := false
	for _, d := range w.devices {
		if d.On != "" {
			continue
		}
		all := slices.Concat(d.States, d.Entities)
		for _, item := range all {
			if err := w.broker.Clear(ctx, item.Topic); err != nil {
				return fmt.Errorf("clear %s: %w", item.Topic, err)
			}
		}
		if err := w.awaitGone(ctx, all); err != nil {
			return err
		}
		w.mu.Lock()
		d.Cleared, some = true, true
		w.mu.Unlock()
	}
	if !some || w.request.Watch == 0 {
		return nil
	}
	timer := time.NewTimer(w.request.Watch)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("watch whether it is announced again: %w", ctx.Err())
	}
}

// awaitGone waits until the broker has said of all topics that they were cleared.
// In MQTT 3.1.1 it also acknowledges what it does not allow.
func (w *work) awaitGone(ctx context.Context, all []Item) error {
	timer := time.NewTimer(gonePatience)
	defer timer.Stop()
	for {
		w.mu.Lock()
		left := slices.DeleteFunc(slices.Clone(all), func(item Item) bool { return w.gone[item.Topic] })
		w.mu.Unlock()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-w.went:
		case <-timer.C:
			return fmt.Errorf("the broker has not cleared %d of %d topics, such as %s; may event2mqtt publish there?", len(left), len(all), left[0].Topic)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
