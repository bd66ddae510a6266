package broker_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// This file tests the store at its edges: snapshots that end half way, logs
// that run full, disks that fail for long.

// moodyDisk fails with a chance, of 100.
type moodyDisk struct {
	brokenDisk
	chance, failed atomic.Int64
}

func newMoodyDisk(dir string, seed uint64) *moodyDisk {
	d := &moodyDisk{}
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	d.brokenDisk = brokenDisk{journal.DirFS(dir), func() bool {
		mu.Lock()
		defer mu.Unlock()
		if random.Int64N(100) >= d.chance.Load() {
			return false
		}
		d.failed.Add(1)
		return true
	}}
	return d
}

// TestASnapshotThatFailsInPartChangesNothing: wherever the disk fails in it, a
// crash finds the session whole, as it was before or as it is; and when it is
// written at last, nothing of the attempts is left.
func TestASnapshotThatFailsInPartChangesNothing(t *testing.T) {
	const messages = 40
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			disk := newMoodyDisk(dir, seed)
			_, addr := startWith(t, broker.Options{Folder: disk})
			o := mqttest.Options{Version: wire.V5, ID: "keep", Keep: true, Properties: kept5}
			s := dial(t, addr, o)
			subscribe(t, s, "q/#", 1)
			s.Close()
			p := dial(t, addr, mqttest.Options{Version: wire.V5})
			payload := strings.Repeat("x", 20<<10)
			for i := range messages {
				testkit.OK(t, p.Publish(wire.Publish{Topic: "q/x", Payload: fmt.Append(nil, i, " ", payload), QoS: 1}))
			}
			taken := func() bool {
				p := dial(t, addr, mqttest.Options{Version: wire.V5})
				defer p.Close()
				testkit.OK(t, p.Send(wire.Publish{Topic: "q/refused", QoS: 1, PacketID: 9}))
				body, err := p.Expect(wire.PUBACK) // or the connection ends
				return err == nil && len(body) == 2
			}
			check := func(addr string, first int) {
				t.Helper()
				s, present, _, err := mqttest.Connect(addr, o)
				testkit.OK(t, err)
				defer s.Close()
				_ = s.SetDeadline(time.Now().Add(mqttest.Patience))
				if !present {
					t.Fatal("the session is gone")
				}
				for i := first; i < messages; i++ {
					if m := next(t, s); !strings.HasPrefix(string(m.Payload), fmt.Sprint(i, " ")) {
						t.Fatalf("got %.10q, want %d", m.Payload, i)
					}
				}
				testkit.OK(t, dial(t, addr, mqttest.Options{}).Publish(wire.Publish{Topic: "q/end", QoS: 1}))
				for m := next(t, s); m.Topic != "q/end"; m = next(t, s) {
					if m.Topic != "q/refused" { // was offered: it may come
						t.Errorf("got %.10q again", m.Payload)
					}
				}
			}
			disk.chance.Store(100)
			if taken() {
				t.Fatal("acknowledged on a broken disk")
			}
			disk.chance.Store(20) // a snapshot is some twenty writes: none will do
			failed := disk.failed.Load()
			testkit.Eventually(t, "a snapshot failed in part", func() bool { return disk.failed.Load() > failed })
			for range 3 {
				_, crashed := reborn(t, dir)
				check(crashed, 0)
			}
			s = dial(t, addr, o)
			const first = 15
			for i := range messages {
				m, err := s.NextUnanswered()
				testkit.OK(t, err)
				if i < first {
					testkit.OK(t, s.Ack(wire.PUBACK, m.PacketID))
				}
			}
			testkit.Eventually(t, "its answers are known", func() bool { return s.Ping() == nil }) // what was refused may come first
			s.Close()
			disk.chance.Store(0)
			testkit.Eventually(t, "messages are taken again", taken)
			_, crashed := reborn(t, dir)
			check(crashed, first)
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
		_ = p.SetDeadline(time.Now().Add(mqttest.Patience)) // for each: all take long on a slow machine
		testkit.OK(t, p.Publish(wire.Publish{Topic: "r", Payload: payload, QoS: 1, Retain: true}))
	}
	if size := dirSize(t, dir); size > 288<<20 {
		t.Errorf("the log has %d MiB", size>>20)
	}
}

// TestABrokenDiskIsNotWornOut: while it fails it is tried again, less and less
// often. A slow machine tries less.
func TestABrokenDiskIsNotWornOut(t *testing.T) {
	disk := newMoodyDisk(t.TempDir(), 1)
	_, addr := startWith(t, broker.Options{Folder: disk})
	s := dial(t, addr, mqttest.Options{ID: "keep", Keep: true})
	subscribe(t, s, "kept", 1)
	disk.chance.Store(100)
	if p := dial(t, addr, mqttest.Options{}); p.Publish(wire.Publish{Topic: "kept", Payload: []byte("x"), QoS: 1}) == nil {
		t.Fatal("acknowledged")
	}
	before := disk.failed.Load()
	time.Sleep(2500 * time.Millisecond)
	// Two attempts, of some operations each; without a pause there would be ten.
	if n := disk.failed.Load() - before; n > 8 {
		t.Errorf("%d operations failed within 2.5 s", n)
	}
}

// TestQoS2IsNotAnsweredFromMemoryAlone: a PUBREC or PUBCOMP that a crash takes
// back would double a message.
func TestQoS2IsNotAnsweredFromMemoryAlone(t *testing.T) {
	disk := newMoodyDisk(t.TempDir(), 1)
	_, addr := startWith(t, broker.Options{Folder: disk})
	s := dial(t, addr, mqttest.Options{ID: "sub", Keep: true})
	subscribe(t, s, "t", 2)
	send := func(p *mqttest.Client, id uint16) error {
		testkit.OK(t, p.Send(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 2, PacketID: id}))
		_, err := p.Expect(wire.PUBREC)
		return err
	}
	release := func(p *mqttest.Client, id uint16) error {
		testkit.OK(t, p.Ack(wire.PUBREL, id))
		_, err := p.Expect(wire.PUBCOMP)
		return err
	}
	var clients []*mqttest.Client
	for i := range 3 {
		p := dial(t, addr, mqttest.Options{ID: fmt.Sprint("pub", i), Keep: true})
		testkit.OK(t, send(p, 1))
		clients = append(clients, p)
	}
	disk.chance.Store(100)
	if err := send(clients[0], 2); err == nil {
		t.Error("a new message was received")
	}
	if err := send(clients[1], 1); err == nil {
		t.Error("a known message was received again")
	}
	if err := release(clients[2], 1); err == nil {
		t.Error("a message was released")
	}
	disk.chance.Store(0)
	testkit.Eventually(t, "everything goes on", func() bool {
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
		testkit.OK(t, p.Publish(wire.Publish{Topic: fmt.Sprint("t/", i), Payload: []byte("x"), QoS: 1}))
		_, err := c.NextUnanswered()
		testkit.OK(t, err)
		c.Close()
	}
	testkit.Eventually(t, "they are away", func() bool { return b.Stats().Clients == 1 })
	each := int64(heap()-before) / clients
	t.Logf("%d bytes each", each)
	if each > 6<<10 {
		t.Errorf("an absent client takes %d bytes", each)
	}
}
