package bridge

import (
	"maps"
	"reflect"
	"slices"
	"sync"

	"event2mqtt/internal/device"
)

// devices are what sources have told of the things that they watch. It is safe
// for concurrent use.
type devices struct {
	mu      sync.Mutex
	by      map[string]device.Device // by source
	bad     map[string][]string      // by source: what was wrong with descriptions, and was logged
	changed chan struct{}            // cap 1
}

func newDevices() *devices {
	return &devices{by: map[string]device.Device{}, bad: map[string][]string{}, changed: make(chan struct{}, 1)}
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

// remove forgets the thing of a source that is no more.
func (d *devices) remove(source string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.bad, source)
	if _, known := d.by[source]; known {
		delete(d.by, source)
		d.wake()
	}
}

// wake tells whoever looks at Changed. mu is held.
func (d *devices) wake() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// all returns what is known, by source.
func (d *devices) all() map[string]device.Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.by)
}
