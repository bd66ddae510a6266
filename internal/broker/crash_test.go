package broker_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/wire"
	"event2mqtt/internal/journal"
	"event2mqtt/test/mqttest"
)

// This file tests the store at its edges: snapshots that end half way, logs
// that run full, disks that fail for long.

// countedDisk is a brokenDisk that fails after so many writes.
type countedDisk struct {
	brokenDisk
	left    atomic.Int64
	failed  atomic.Int64
	created atomic.Int64
}

func newCountedDisk(dir string) *countedDisk {
	d := &countedDisk{}
	d.left.Store(1 << 40)
	d.brokenDisk = brokenDisk{journal.DirFS(dir), func() bool {
		if d.left.Add(-1) >= 0 {
			return false
		}
		d.failed.Add(1)
		return true
	}}
	return d
}

func (d *countedDisk) Create(name string) (journal.File, error) {
	d.created.Add(1)
	return d.brokenDisk.Create(name)
}

// TestASnapshotThatEndsHalfWayChangesNothing: wherever the disk fails in it, a
// crash finds each session whole, as it was before or as it is; and when it is
// written at last, nothing of the attempts is left.
func TestASnapshotThatEndsHalfWayChangesNothing(t *testing.T) {
	const messages = 40
	for _, writes := range []int64{1, 2, 3, 5, 8, 12} {
		t.Run(fmt.Sprint(writes), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			disk := newCountedDisk(dir)
			_, addr := startWith(t, broker.Options{Folder: disk})
			o := mqttest.Options{Version: wire.V5, ID: "keep", Keep: true, Properties: kept5}
			s := dial(t, addr, o)
			subscribe(t, s, "q/#", 1)
			s.Close()
			p := dial(t, addr, mqttest.Options{Version: wire.V5})
			payload := strings.Repeat("x", 20<<10)
			for i := range messages {
				ok(t, p.Publish(wire.Publish{Topic: "q/x", Payload: fmt.Append(nil, i, " ", payload), QoS: 1}))
			}
			disk.left.Store(0)
			refused := func(code byte) bool {
				ok(t, p.Send(wire.Publish{Topic: "q/refused", Payload: []byte("-1"), QoS: 1, PacketID: 9}))
				body, err := p.Expect(wire.PUBACK)
				if err != nil { // what was offered before anybody knew ends the connection
					p = dial(t, addr, mqttest.Options{Version: wire.V5})
					return code != 0
				}
				return (len(body) > 2) == (code != 0)
			}
			if !refused(1) {
				t.Fatal("acknowledged on a broken disk")
			}
			failed := disk.failed.Load()
			disk.left.Store(writes)
			eventually(t, "a snapshot ended half way", func() bool { return disk.left.Load() < 0 && disk.failed.Load() > failed })
			check := func(addr string) {
				t.Helper()
				s, present, _, err := mqttest.Connect(addr, o)
				ok(t, err)
				defer s.Close()
				_ = s.SetDeadline(time.Now().Add(mqttest.Patience))
				if !present {
					t.Fatal("the session is gone")
				}
				for i := range messages {
					if m := next(t, s); !strings.HasPrefix(string(m.Payload), fmt.Sprint(i, " ")) {
						t.Fatalf("got %.10q, want %d", m.Payload, i)
					}
				}
				ok(t, dial(t, addr, mqttest.Options{}).Publish(wire.Publish{Topic: "q/end", QoS: 1}))
				for m := next(t, s); m.Topic != "q/end"; m = next(t, s) {
					if m.Topic != "q/refused" { // was offered: it may come
						t.Errorf("got %.10q again", m.Payload)
					}
				}
			}
			_, crashed := reborn(t, dir)
			check(crashed)
			disk.left.Store(1 << 40)
			eventually(t, "messages are taken again", func() bool { return refused(0) })
			_, crashed = reborn(t, dir)
			check(crashed)
		})
	}
}

// quickDisk does not wait for the disk: nothing is cut off from power here.
type quickDisk struct{ journal.FS }

type quickFile struct{ journal.File }

func (d quickDisk) Create(name string) (journal.File, error) {
	f, err := d.FS.Create(name)
	return quickFile{f}, err
}

func (quickFile) Sync() error { return nil }

// TestTheLogCannotFillUp: more is stored within the shortest time between two
// snapshots than the log may hold.
func TestTheLogCannotFillUp(t *testing.T) {
	dir := t.TempDir()
	_, addr := startWith(t, broker.Options{
		Folder: quickDisk{journal.DirFS(dir)},
		Limits: broker.Limits{PacketSize: 1 << 20, RetainedBytes: 2 << 20, QueuedTotal: 1 << 20},
	})
	p := dial(t, addr, mqttest.Options{Version: wire.V5})
	payload := make([]byte, 1<<20-100)
	for range 400 { // 400 MB, of 288 that it may have
		ok(t, p.Publish(wire.Publish{Topic: "r", Payload: payload, QoS: 1, Retain: true}))
	}
	if size := dirSize(t, dir); size > 288<<20 {
		t.Errorf("the log has %d MiB", size>>20)
	}
}

// TestABrokenDiskIsNotWornOut: while it fails it is tried again, less and less
// often. A slow machine tries less.
func TestABrokenDiskIsNotWornOut(t *testing.T) {
	disk := newCountedDisk(t.TempDir())
	_, addr := startWith(t, broker.Options{Folder: disk})
	s := dial(t, addr, mqttest.Options{ID: "keep", Keep: true})
	subscribe(t, s, "kept", 1)
	disk.left.Store(0)
	if p := dial(t, addr, mqttest.Options{}); p.Publish(wire.Publish{Topic: "kept", Payload: []byte("x"), QoS: 1}) == nil {
		t.Fatal("acknowledged")
	}
	eventually(t, "it was tried again", func() bool { return disk.created.Load() > 1 })
	before := disk.created.Load()
	time.Sleep(2500 * time.Millisecond)
	if n := disk.created.Load() - before; n > 3 {
		t.Errorf("%d attempts within 2.5 s", n)
	}
}

// TestQoS2IsNotAnsweredFromMemoryAlone: a PUBREC or PUBCOMP that a crash takes
// back would double a message.
func TestQoS2IsNotAnsweredFromMemoryAlone(t *testing.T) {
	disk := newCountedDisk(t.TempDir())
	_, addr := startWith(t, broker.Options{Folder: disk})
	s := dial(t, addr, mqttest.Options{ID: "sub", Keep: true})
	subscribe(t, s, "t", 2)
	send := func(p *mqttest.Client, id uint16) error {
		ok(t, p.Send(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 2, PacketID: id}))
		_, err := p.Expect(wire.PUBREC)
		return err
	}
	release := func(p *mqttest.Client, id uint16) error {
		ok(t, p.Ack(wire.PUBREL, id))
		_, err := p.Expect(wire.PUBCOMP)
		return err
	}
	var clients []*mqttest.Client
	for i := range 3 {
		p := dial(t, addr, mqttest.Options{ID: fmt.Sprint("pub", i), Keep: true})
		ok(t, send(p, 1))
		clients = append(clients, p)
	}
	disk.left.Store(0)
	if err := send(clients[0], 2); err == nil {
		t.Error("a new message was received")
	}
	if err := send(clients[1], 1); err == nil {
		t.Error("a known message was received again")
	}
	if err := release(clients[2], 1); err == nil {
		t.Error("a message was released")
	}
	disk.left.Store(1 << 40)
	eventually(t, "everything goes on", func() bool {
		p := dial(t, addr, mqttest.Options{ID: "pub2", Keep: true})
		defer p.Close()
		return release(p, 1) == nil
	})
}

// TestAbsentClientsKeepNoConnection: what is in flight to them is kept, and
// not the buffers of the connection it was sent on.
func TestAbsentClientsKeepNoConnection(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	p := dial(t, addr, mqttest.Options{})
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // pools are given up in the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const clients = 300
	for i := range clients {
		c := dial(t, addr, mqttest.Options{ID: fmt.Sprint("absent", i), Keep: true})
		subscribe(t, c, fmt.Sprint("t/", i), 1)
		ok(t, p.Publish(wire.Publish{Topic: fmt.Sprint("t/", i), Payload: []byte("x"), QoS: 1}))
		_, err := c.NextUnanswered()
		ok(t, err)
		c.Close()
	}
	eventually(t, "they are away", func() bool { return b.Stats().Clients == 1 })
	each := int64(heap()-before) / clients
	t.Logf("%d bytes each", each)
	if each > 6<<10 {
		t.Errorf("an absent client takes %d bytes", each)
	}
}

// TestWhatIsWrittenIsNotHeldBack: while rights are taken away and what waits is
// thrown out, a message that was taken before goes out all the same.
func TestWhatIsWrittenIsNotHeldBack(t *testing.T) {
	both, one := map[string][]string{"all": {"#:rw"}, "ann": {"a/#:r", "b/#:r"}}, map[string][]string{"all": {"#:rw"}, "ann": {"a/#:r"}}
	h := newHouse(t, both)
	c := h.dial("ann", mqttest.Options{})
	subscribe(t, c, "a/#", 1)
	subscribe(t, c, "b/#", 0)
	for i := range 30 {
		var wg sync.WaitGroup
		wg.Go(func() { h.set(one) })
		ok(t, publish(h.b, &broker.Message{Topic: "a/x", Payload: fmt.Append(nil, i), QoS: 1}))
		for range 300 {
			ok(t, publish(h.b, &broker.Message{Topic: "b/x", Payload: make([]byte, 100)}))
		}
		wg.Wait()
		m := next(t, c)
		for m.Topic == "b/x" {
			m = next(t, c)
		}
		if string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", m.Payload, i)
		}
		h.set(both)
	}
}
