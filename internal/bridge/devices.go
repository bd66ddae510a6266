package bridge

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/learned"
)

// devices are what sources have told of the things that they watch, and what
// was learned of their events. It is safe for concurrent use.
type devices struct {
	learned learned.Kept // in the journal
	mu      sync.Mutex
	by      map[string]device.Device     // by source
	allowed map[string][]string          // by source: its commands that may be given
	bad     map[string][]string          // by source: what was wrong with descriptions, and was logged
	topics  map[string]map[string]string // by source, of states that name their topic, by key
	changed chan struct{}                // cap 1
	told    func()                       // is called, too, when something has changed; set before use
}

func newDevices() *devices {
	d := &devices{by: map[string]device.Device{}, bad: map[string][]string{}, topics: map[string]map[string]string{}, told: func() {}, changed: make(chan struct{}, 1)}
	d.learned = learned.Kept{Names: learned.New(), Changed: d.learnedMore}
	return d
}

// maxBad bounds how many bad descriptions of one source are logged.
const maxBad = 10

// isNews notes what is wrong with a description, and reports whether it is to be
// logged: each cause once.
func (d *devices) isNews(source string, wrong error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	told := d.bad[source]
	if len(told) >= maxBad || slices.Contains(told, wrong.Error()) {
		return false
	}
	d.bad[source] = append(told, wrong.Error())
	return true
}

// set replaces what is known of a source's thing, which was checked.
func (d *devices) set(source string, fresh device.Device) {
	if fresh.ID == "" {
		fresh.ID = source
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, known := d.by[source]; known && reflect.DeepEqual(old, fresh) {
		return
	}
	d.by[source] = fresh.Clone() // the source may go on changing its own
	d.wake()
}

// allow replaces which commands may be given to sources.
func (d *devices) allow(commands map[string][]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !reflect.DeepEqual(d.allowed, commands) {
		d.allowed = commands
		d.wake()
	}
}

// remove forgets the thing of a source that is no more.
func (d *devices) remove(source string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.bad, source)
	delete(d.topics, source)
	if _, known := d.by[source]; known {
		delete(d.by, source)
		d.wake()
	}
}

// learnedMore tells that names of events were learned, or forgotten.
func (d *devices) learnedMore() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wake()
}

// wake tells whoever looks at changed. mu is held.
func (d *devices) wake() {
	d.told()
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// place notes that states of a source name their topics.
func (d *devices) place(source string, states []event.State) {
	for _, st := range states {
		if st.Topic == "" {
			continue
		}
		d.mu.Lock()
		if old := d.topics[source]; old[st.Key] != st.Topic && len(old) < event.MaxStates {
			fresh := map[string]string{st.Key: st.Topic} // others have the one before
			for key, topic := range old {
				if key != st.Key {
					fresh[key] = topic
				}
			}
			d.topics[source] = fresh
			d.wake()
		}
		d.mu.Unlock()
	}
}

// described returns what sources have told of their things, and where states
// are that name their topics, by source. Neither is to be changed.
func (d *devices) described() (map[string]device.Device, map[string]map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.by), maps.Clone(d.topics)
}

// all returns what is known, by source, with the commands that may be given. One
// that does not say which events it has, or says nothing at all, has those that
// it was seen to send.
func (d *devices) all() map[string]device.Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]device.Device, len(d.by))
	for source, is := range d.by {
		is.Commands = slices.DeleteFunc(slices.Clone(is.Commands), func(c device.Command) bool { return !slices.Contains(d.allowed[source], c.Called()) })
		all[source] = is
	}
	for _, source := range d.learned.Sources() {
		is, known := all[source]
		if !known {
			is = device.Device{ID: source, Name: source}
		}
		if len(is.Events) == 0 {
			is.Events = d.learned.Of(source)
		}
		all[source] = is
	}
	return all
}

// learn learns the names of events that are stored.
func (b *Bridge) learn(ctx context.Context, events []event.Event) {
	if len(events) > 0 && events[0].Source == event.OwnSource {
		return // it is no source of the configuration
	}
	if err := b.devices.learned.Pass(ctx, events); err != nil {
		b.log.Debug().Err(err).Msg("trying again with the next event of that name")
	}
}

// keepNames forgets what was learned of sources that a plan does not have.
func (b *Bridge) keepNames(p *Plan) {
	var names []string
	for _, s := range p.sources {
		names = append(names, s.Base().Name)
	}
	// All of them stand in the head of each of the journal's segments.
	if err := b.devices.learned.Only(context.Background(), names, int(min(p.Journal.MaxSize/32, 1<<30))); err != nil {
		b.log.Debug().Err(err).Msg("they may come back with their source")
	}
}
