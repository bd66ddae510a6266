package broker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// reborn starts a broker on what another has on disk at this moment, as after
// a SIGKILL. The other goes on with files of its own.
func reborn(t testing.TB, dir string) (*broker.Broker, string) {
	t.Helper()
	var fresh string
	testkit.Eventually(t, "nothing changes while the folder is copied", func() bool {
		before := dirSize(t, dir)
		fresh = t.TempDir()
		return os.CopyFS(fresh, os.DirFS(dir)) == nil && dirSize(t, dir) == before
	})
	b, addr := startWith(t, broker.Options{Folder: journal.DirFS(fresh)})
	return b, addr
}

var kept5 = []byte{0x11, 0, 0, 0xff, 0xff} // session expiry

func TestWhatWasAcknowledgedSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	_, addr := startWith(t, broker.Options{Folder: journal.DirFS(dir)})
	o := mqttest.Options{Version: wire.V5, ID: "keep", Keep: true, Properties: kept5}
	s := dial(t, addr, o)
	subscribe(t, s, "t/1", 1, 0x0b, 9)
	subscribe(t, s, "t/2", 1)
	p := dial(t, addr, mqttest.Options{Version: wire.V5})
	for i := range 10 {
		testkit.OK(t, p.Publish(wire.Publish{Topic: "t/1", Payload: fmt.Append(nil, "online ", i), QoS: 1}))
		next(t, s)
	}
	testkit.OK(t, s.Ping()) // its answers are known
	s.Close()
	testkit.OK(t, p.Publish(wire.Publish{Topic: "t/1", Payload: []byte("one"), QoS: 1, Properties: []byte("\x26\x00\x01k\x00\x01v")}))
	testkit.OK(t, p.Publish(wire.Publish{Topic: "t/2", Payload: []byte("two"), QoS: 2}))
	testkit.OK(t, p.Publish(wire.Publish{Topic: "t/1", Payload: []byte("kept"), QoS: 1, Retain: true}))

	b, addr := reborn(t, dir)
	if n := b.Stats().Retained; n != 1 {
		t.Errorf("%d messages retained", n)
	}
	// New messages come behind the old.
	testkit.OK(t, publish(b, &broker.Message{Topic: "t/2", Payload: []byte("three"), QoS: 1}))
	s, present, _, err := mqttest.Connect(addr, o)
	testkit.OK(t, err)
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(mqttest.Patience))
	if !present {
		t.Fatal("the session is gone")
	}
	for _, want := range []string{"one", "two", "kept", "three"} {
		m := next(t, s)
		for string(m.Payload) == "online 9" { // its PUBACK may have been lost
			m = next(t, s)
		}
		if string(m.Payload) != want {
			t.Fatalf("got %q, want %q", m.Payload, want)
		}
		if want == "one" && (len(m.SubscriptionIDs) != 1 || string(m.Properties) != "\x26\x00\x01k\x00\x01v") {
			t.Errorf("got %+v", m)
		}
	}
	testkit.OK(t, s.Quiet())
	subscribe(t, s, "t/1", 1)
	if m := next(t, s); string(m.Payload) != "kept" || !m.Retain {
		t.Errorf("got %+v", m)
	}
}

func TestQoS2IsNotDoubledByACrash(t *testing.T) {
	dir := t.TempDir()
	_, addr := startWith(t, broker.Options{Folder: journal.DirFS(dir)})
	so := mqttest.Options{ID: "sub", Keep: true}
	po := mqttest.Options{ID: "pub", Keep: true}
	s := dial(t, addr, so)
	subscribe(t, s, "t", 2)
	p := dial(t, addr, po)
	send := func(p *mqttest.Client, id uint16) {
		testkit.OK(t, p.Send(wire.Publish{Topic: "t", Payload: fmt.Append(nil, id), QoS: 2, PacketID: id}))
		_, err := p.Expect(wire.PUBREC)
		testkit.OK(t, err)
	}
	ids := map[string]uint16{}
	receive := func(s *mqttest.Client) wire.Publish {
		m, err := s.NextUnanswered()
		testkit.OK(t, err)
		return m
	}
	for id := range uint16(3) {
		send(p, id+1)
		m := receive(s)
		ids[string(m.Payload)] = m.PacketID
	}
	// 1 is through, 2 is received and not released, 3 was only sent.
	testkit.OK(t, p.Ack(wire.PUBREL, 1))
	_, err := p.Expect(wire.PUBCOMP)
	testkit.OK(t, err)
	for _, payload := range []string{"1", "2"} {
		testkit.OK(t, s.Ack(wire.PUBREC, ids[payload]))
		_, err = s.Expect(wire.PUBREL)
		testkit.OK(t, err)
	}
	testkit.OK(t, s.Ack(wire.PUBCOMP, ids["1"]))

	_, addr = reborn(t, dir)
	p, s = dial(t, addr, po), dial(t, addr, so)
	send(p, 2) // again: it is known
	for range 2 {
		testkit.OK(t, p.Ack(wire.PUBREL, 2)) // known, or forgotten: answered in any case
		_, err = p.Expect(wire.PUBCOMP)
		testkit.OK(t, err)
	}
	expect := func(s *mqttest.Client) (released []uint16, m wire.Publish) {
		for {
			header, body, err := s.Reader.Next()
			testkit.OK(t, err)
			switch wire.Type(header >> 4) {
			case wire.PUBREL:
				released = append(released, uint16(body[0])<<8|uint16(body[1]))
			case wire.PUBLISH:
				testkit.OK(t, wire.DecodePublish(&m, wire.V311, header, append([]byte(nil), body...), ""))
				return released, m
			}
		}
	}
	released, m := expect(s)
	if string(m.Payload) != "3" || m.PacketID != ids["3"] || !m.Dup {
		t.Errorf("got %+v, want 3 again under its id %d", m, ids["3"])
	}
	known := false
	for _, id := range released {
		known = known || id == ids["2"]
		testkit.OK(t, s.Ack(wire.PUBCOMP, id))
	}
	if !known {
		t.Errorf("PUBREL for %v, not for %d", released, ids["2"])
	}
	testkit.OK(t, s.Ack(wire.PUBREC, m.PacketID))
	_, err = s.Expect(wire.PUBREL)
	testkit.OK(t, err)
	testkit.OK(t, s.Ack(wire.PUBCOMP, m.PacketID))
	testkit.OK(t, s.Quiet())
	send(p, 1) // free again: a new message
	if m := receive(s); string(m.Payload) != "1" {
		t.Errorf("got %+v", m)
	}
}

// TestSnapshotsKeepEverything: with much traffic the log is written anew again
// and again; nothing may be lost, and it may not grow.
func TestSnapshotsKeepEverything(t *testing.T) {
	dir := t.TempDir()
	_, addr := startWith(t, broker.Options{Folder: journal.DirFS(dir), SaveInterval: 50 * time.Millisecond})
	o := mqttest.Options{ID: "keep", Keep: true}
	s := dial(t, addr, o)
	subscribe(t, s, "q/#", 1)
	s.Close()
	p := dial(t, addr, mqttest.Options{})
	for i := range 500 {
		testkit.OK(t, p.Publish(wire.Publish{Topic: "q/x", Payload: fmt.Append(nil, i), QoS: 1}))
	}
	testkit.OK(t, p.Publish(wire.Publish{Topic: "gone", Payload: []byte("x"), QoS: 1, Retain: true}))
	payload := make([]byte, 64<<10)
	for i := range 600 { // 38 MB
		testkit.OK(t, p.Publish(wire.Publish{Topic: fmt.Sprint("r/", i%10), Payload: append(payload, byte(i)), QoS: 1, Retain: true}))
	}
	testkit.OK(t, p.Publish(wire.Publish{Topic: "gone", QoS: 1, Retain: true}))
	testkit.Eventually(t, "the log is small", func() bool {
		testkit.OK(t, p.Publish(wire.Publish{Topic: "r/0", Payload: []byte("last"), QoS: 1, Retain: true}))
		return dirSize(t, dir) < 10<<20
	})
	b, addr := reborn(t, dir)
	if n := b.Stats().Retained; n != 10 {
		t.Errorf("%d messages retained, want 10", n)
	}
	s = dial(t, addr, o)
	for i := range 500 {
		if m := next(t, s); string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", m.Payload, i)
		}
	}
	testkit.OK(t, s.Quiet())
}

func dirSize(t testing.TB, dir string) (sum int64) {
	entries, err := os.ReadDir(dir)
	testkit.OK(t, err)
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// TestNothingIsWrittenWhenNothingChanges: subscribers without a session, and
// messages that nobody keeps, cost no write.
func TestNothingIsWrittenWhenNothingChanges(t *testing.T) {
	dir := t.TempDir()
	_, addr := startWith(t, broker.Options{Folder: journal.DirFS(dir)})
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "#", 1)
	before := dirSize(t, dir)
	p := dial(t, addr, mqttest.Options{})
	for range 100 {
		testkit.OK(t, p.Publish(wire.Publish{Topic: "t", Payload: make([]byte, 4<<10), QoS: 1}))
		next(t, s)
	}
	if after := dirSize(t, dir); after != before {
		t.Errorf("%d bytes were written", after-before)
	}
}

// TestWhatTheProgramItselfRetainsSurvivesACrash once its receipt says so, and
// what it has cleared does not come back; but for what it will save later.
func TestWhatTheProgramItselfRetainsSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	b, _ := startWith(t, broker.Options{Folder: journal.DirFS(dir), SaveInterval: time.Hour})
	for _, m := range []broker.Message{
		{Topic: "kept", Payload: []byte("1")}, {Topic: "cleared", Payload: []byte("1")}, {Topic: "cleared"},
		{Topic: "later", Payload: []byte("1"), SaveLater: true},
	} {
		m.QoS, m.Retain = 1, true
		r, err := b.Publish(t.Context(), &m)
		testkit.OK(t, err)
		testkit.OK(t, r.Wait())
	}
	again, addr := reborn(t, dir)
	if n := again.Stats().Retained; n != 1 {
		t.Errorf("%d messages are retained after a crash", n)
	}
	c := dial(t, addr, mqttest.Options{})
	subscribe(t, c, "#", 1)
	if m := next(t, c); m.Topic != "kept" || !m.Retain || string(m.Payload) != "1" {
		t.Errorf("after a crash it retains %+v", m)
	}
}

// brokenDisk is a folder whose files fail on demand.
type brokenDisk struct {
	journal.FS
	broken func() bool
}

type brokenFile struct {
	journal.File
	broken func() bool
}

var errBroken = errors.New("the disk is broken")

func (d brokenDisk) Create(name string) (journal.File, error) {
	if d.broken() {
		return nil, errBroken
	}
	f, err := d.FS.Create(name)
	return brokenFile{f, d.broken}, err
}

func (f brokenFile) WriteAt(p []byte, off int64) (int, error) {
	if f.broken() {
		return 0, errBroken
	}
	return f.File.WriteAt(p, off)
}

func (f brokenFile) Sync() error {
	if f.broken() {
		return errBroken
	}
	return f.File.Sync()
}

// TestNothingIsAcknowledgedThatCannotBeStored: while the disk fails, messages
// for stored sessions are refused, others go on; when it works again, so does
// everything, and what was refused was not kept.
func TestNothingIsAcknowledgedThatCannotBeStored(t *testing.T) {
	dir := t.TempDir()
	broken := make(chan struct{}, 1)
	disk := brokenDisk{journal.DirFS(dir), func() bool { return len(broken) > 0 }}
	_, addr := startWith(t, broker.Options{Folder: disk})
	o := mqttest.Options{ID: "keep", Keep: true}
	s := dial(t, addr, o)
	subscribe(t, s, "kept", 1)
	s.Close()
	live := dial(t, addr, mqttest.Options{})
	subscribe(t, live, "live", 1)
	broken <- struct{}{}
	p := dial(t, addr, mqttest.Options{Version: wire.V5})
	if err := p.Publish(wire.Publish{Topic: "kept", Payload: []byte("no"), QoS: 1}); err == nil {
		t.Fatal("acknowledged")
	}
	p = dial(t, addr, mqttest.Options{Version: wire.V5})
	testkit.OK(t, p.Send(wire.Publish{Topic: "kept", Payload: []byte("no"), QoS: 1, PacketID: 7}))
	body, err := p.Expect(wire.PUBACK)
	testkit.OK(t, err)
	if wire.Code(body[2]) != wire.QuotaExceeded {
		t.Errorf("code 0x%02x", body[2])
	}
	testkit.OK(t, p.Publish(wire.Publish{Topic: "live", Payload: []byte("x"), QoS: 1}))
	next(t, live)
	// Who has messages waiting can take them: they may be what fills the disk.
	s = dial(t, addr, o)
	if m := next(t, s); string(m.Payload) != "no" { // offered before anybody knew
		t.Errorf("got %q", m.Payload)
	}
	subscribe(t, s, "kept", 1) // what it has already
	s.Close()
	<-broken
	testkit.Eventually(t, "messages are taken again", func() bool {
		testkit.OK(t, p.Send(wire.Publish{Topic: "kept", Payload: []byte("yes"), QoS: 1, PacketID: 8}))
		body, err := p.Expect(wire.PUBACK)
		testkit.OK(t, err)
		return len(body) == 2
	})
	_, addr = reborn(t, dir)
	s = dial(t, addr, o)
	m := next(t, s)
	if string(m.Payload) == "no" { // offered before anybody knew
		m = next(t, s)
	}
	if string(m.Payload) != "yes" {
		t.Errorf("got %q", m.Payload)
	}
	testkit.OK(t, s.Quiet())
}

func TestSessionsExpireAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	b, addr := startWith(t, broker.Options{Folder: journal.DirFS(dir)})
	s := dial(t, addr, mqttest.Options{Version: wire.V5, ID: "short", Properties: []byte{0x11, 0, 0, 0, 1}})
	subscribe(t, s, "t", 1)
	s.Close()
	testkit.Eventually(t, "the client is gone", func() bool { return b.Stats().Clients == 0 })
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	b.Close(ctx)
	time.Sleep(time.Second)
	b, _ = reborn(t, dir)
	if n := b.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// TestASessionThatEndedWhileTheProgramWasDownStaysEnded: its client comes back,
// and after another crash nothing of the old session is in the new one.
func TestASessionThatEndedWhileTheProgramWasDownStaysEnded(t *testing.T) {
	dir := t.TempDir()
	b, addr := startWith(t, broker.Options{Folder: journal.DirFS(dir)})
	o := mqttest.Options{Version: wire.V5, ID: "c", Keep: true, Properties: []byte{0x11, 0, 0, 0, 1}}
	c := dial(t, addr, o)
	subscribe(t, c, "t", 1)
	c.Close()
	testkit.Eventually(t, "it is away", func() bool { return b.Stats().Clients == 0 })
	testkit.OK(t, dial(t, addr, mqttest.Options{}).Publish(wire.Publish{Topic: "t", Payload: []byte("old"), QoS: 1}))
	down := t.TempDir()
	testkit.OK(t, os.CopyFS(down, os.DirFS(dir)))
	time.Sleep(1100 * time.Millisecond)
	b, addr = startWith(t, broker.Options{Folder: journal.DirFS(down)})
	if n := b.Stats().Sessions; n != 0 {
		t.Fatalf("%d sessions", n)
	}
	o.Properties = kept5
	c = dial(t, addr, o)
	subscribe(t, c, "u", 1)
	c.Close()
	_, addr = reborn(t, down)
	c, present, _, err := mqttest.Connect(addr, o)
	testkit.OK(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	if !present {
		t.Error("the new session is gone")
	}
	testkit.OK(t, dial(t, addr, mqttest.Options{}).Publish(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1}))
	testkit.OK(t, c.Quiet())
}

// TestASnapshotKeepsTheNewestOfUnsavedTopics: QoS 0 values that are yet to be
// saved must not take the saved ones with them.
func TestASnapshotKeepsTheNewestOfUnsavedTopics(t *testing.T) {
	dir := t.TempDir()
	_, addr := startWith(t, broker.Options{Folder: journal.DirFS(dir), SaveInterval: time.Hour})
	p := dial(t, addr, mqttest.Options{})
	testkit.OK(t, p.Publish(wire.Publish{Topic: "v", Payload: []byte("saved"), QoS: 1, Retain: true}))
	testkit.OK(t, p.Publish(wire.Publish{Topic: "v", Payload: []byte("unsaved"), Retain: true}))
	payload := make([]byte, 64<<10)
	testkit.Eventually(t, "there was a snapshot", func() bool {
		for range 20 {
			testkit.OK(t, p.Publish(wire.Publish{Topic: "r", Payload: payload, QoS: 1, Retain: true}))
		}
		return dirSize(t, dir) < 3<<20
	})
	b, _ := reborn(t, dir)
	if n := b.Stats().Retained; n != 2 {
		t.Errorf("%d messages are retained, want 2", n)
	}
}

// TestWhatComesAfterARestIsSaved: while nothing changes the store is looked at
// rarely, and again as soon as something does.
func TestWhatComesAfterARestIsSaved(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	dir := t.TempDir()
	_, addr := startWith(t, broker.Options{Folder: journal.DirFS(dir), SaveInterval: 50 * time.Millisecond})
	p := dial(t, addr, mqttest.Options{})
	testkit.OK(t, p.Publish(wire.Publish{Topic: "before", Payload: []byte("x"), Retain: true}))
	time.Sleep(11 * time.Second) // it rests after 10
	testkit.OK(t, p.Publish(wire.Publish{Topic: "after", Payload: []byte("x"), Retain: true}))
	testkit.Eventually(t, "both are on disk", func() bool {
		b, _ := reborn(t, dir)
		return b.Stats().Retained == 2
	})
}

// TestWhatIsInFlightCounts: absent clients that never answered hold memory,
// too.
func TestWhatIsInFlightCounts(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedTotal: 1 << 20})
	p := dial(t, addr, mqttest.Options{})
	for i := range 10 {
		c := dial(t, addr, mqttest.Options{ID: fmt.Sprint("absent", i), Keep: true})
		subscribe(t, c, "t", 1)
		testkit.OK(t, p.Publish(wire.Publish{Topic: "t", Payload: make([]byte, 100<<10), QoS: 1}))
		_, err := c.NextUnanswered()
		testkit.OK(t, err)
		c.Close()
		testkit.Eventually(t, "it is away", func() bool { return b.Stats().Clients == 1 })
	}
	if n := b.Stats().QueuedBytes; n < 1000<<10 || n > 1<<20+1100<<10 {
		t.Errorf("%d bytes are counted", n)
	}
	for i := range 10 { // all of it is given back
		dial(t, addr, mqttest.Options{ID: fmt.Sprint("absent", i)})
	}
	testkit.Eventually(t, "nothing is counted any more", func() bool { return b.Stats().QueuedBytes == 0 })
}

// TestAFloodDoesNotKeepTheBrokerFromStopping: a client that sends without pause.
func TestAFloodDoesNotKeepTheBrokerFromStopping(t *testing.T) {
	b, addr := startWith(t, broker.Options{})
	c := dial(t, addr, mqttest.Options{KeepAlive: 60})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c.Send(wire.Publish{Topic: "t", Payload: make([]byte, 100)}) == nil {
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	b.Close(ctx) // returns
	<-done
}
