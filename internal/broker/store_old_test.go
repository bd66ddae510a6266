package broker_test

import (
	"encoding/binary"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestStoresThatKnowSessionsByClientIDAloneAreRead: so they were kept before
// each user had client ids of its own. Changes after that are kept too, and a
// session that ended does not come back.
func TestStoresThatKnowSessionsByClientIDAloneAreRead(t *testing.T) {
	dir := journal.DirFS(t.TempDir())
	text := func(b []byte, s string) []byte {
		return append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	open := binary.AppendUvarint(text(text(nil, "ha1"), "ann"), 3600)
	open = binary.AppendUvarint(open, uint64(time.Now().Add(time.Hour).UnixMilli()))
	sub := append(text(text(nil, "ha1"), "t"), 1, 0)
	j, err := journal.Open(journal.Options{FS: dir, MaxAge: 1, Memory: 1, MaxSize: 1 << 20})
	testkit.OK(t, err)
	_, err = j.Cursor("snapshot") // where it begins to be read
	testkit.OK(t, err)
	p, err := j.Submit(event.Event{Name: "open", Payload: open}, event.Event{Name: "subscribe", Payload: sub})
	testkit.OK(t, err)
	_, err = p.Wait()
	testkit.OK(t, err)
	testkit.OK(t, j.Close())

	o := mqttest.Options{ID: "ha1", Keep: true, Version: wire.V5, Properties: kept5, User: "ann", Password: "ann"}
	connect := func(present, clean bool, do func(*testing.T, *mqttest.Client)) {
		t.Helper()
		t.Run("", func(t *testing.T) { // a broker of its own: started again
			h := newHouseWith(t, map[string][]string{"ann": {"#:rw"}}, broker.Options{Folder: dir})
			o := o
			o.Keep = !clean
			if clean {
				o.Properties = nil
			}
			c, was, code, err := mqttest.Connect(h.addr, o)
			testkit.OK(t, err)
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
			if code != wire.Success || was != present {
				t.Fatalf("code 0x%02x, session present %v", byte(code), was)
			}
			do(t, c)
		})
	}
	connect(true, false, func(t *testing.T, c *mqttest.Client) {
		testkit.OK(t, c.Send(wire.Publish{Topic: "t"})) // the old subscription
		next(t, c)
		subscribe(t, c, "u", 1)
	})
	connect(true, false, func(t *testing.T, c *mqttest.Client) {
		testkit.OK(t, c.Send(wire.Publish{Topic: "u"})) // the new one
		next(t, c)
	})
	connect(false, true, func(*testing.T, *mqttest.Client) {})
	connect(false, false, func(*testing.T, *mqttest.Client) {})
}
