package bridge

import (
	"maps"
	"reflect"
	"sync"

	"event2mqtt/internal/device"
)

// devices are what sources have told of the things that they watch. It is safe
// for concurrent use.
type devices struct {
	mu      sync.Mutex
	by      map[string]device.Device // by source
	changed chan struct{}            // cap 1
}

func newDevices() *devices {
	return &devices{by: map[string]device.Device{}, changed: make(chan struct{}, 1)}
}

// set replaces what is known of a source's thing.
func (d *devices) set(source string, fresh device.Device) {
	if fresh.ID == "" {
		fresh.ID = source
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, known := d.by[source]; known && reflect.DeepEqual(old, fresh) {
		return
	}
	d.by[source] = fresh
	d.wake()
}

// remove forgets the thing of a source that is no more.
func (d *devices) remove(source string) {
	d.mu.Lock()
	defer d.mu.Unlock()
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
