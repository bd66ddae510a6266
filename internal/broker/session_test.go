package broker_test

import (
	"errors"
	"io"
	"testing"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

func TestWillIsSentOnlyWhenTheClientVanishes(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			s := dial(t, addr, mqttest.Options{})
			subscribe(t, s, "will/"+name, 1)
			will := &wire.Publish{Topic: "will/" + name, Payload: []byte("gone"), QoS: 1}
			polite := dial(t, addr, mqttest.Options{Version: version, Will: will})
			testkit.OK(t, polite.Disconnect())
			rude := dial(t, addr, mqttest.Options{Version: version, Will: will})
			rude.Close()
			if m := next(t, s); string(m.Payload) != "gone" {
				t.Errorf("got %+v", m)
			}
			testkit.OK(t, s.Quiet())
		})
	}
}

func TestKeepAliveEndsSilentClients(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "w", 0)
	c := dial(t, addr, mqttest.Options{Version: wire.V5, KeepAlive: 1, Will: &wire.Publish{Topic: "w", Payload: []byte("silent")}})
	body, err := c.Expect(wire.DISCONNECT)
	testkit.OK(t, err)
	if wire.Code(body[0]) != wire.KeepAliveTimeout {
		t.Errorf("code 0x%02x", body[0])
	}
	if m := next(t, s); string(m.Payload) != "silent" {
		t.Errorf("got %+v", m)
	}
}

func TestTakeoverEndsTheOldConnection(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	old := dial(t, addr, mqttest.Options{Version: wire.V5, ID: "same"})
	subscribe(t, old, "t", 0)
	fresh := dial(t, addr, mqttest.Options{Version: wire.V5, ID: "same"})
	body, err := old.Expect(wire.DISCONNECT)
	testkit.OK(t, err)
	if wire.Code(body[0]) != wire.TakenOver {
		t.Errorf("code 0x%02x", body[0])
	}
	if _, _, err := old.Reader.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("the old connection: %v", err)
	}
	testkit.OK(t, fresh.Publish(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1}))
	testkit.OK(t, fresh.Quiet()) // a clean start: the subscription is gone
}

func TestSessionsOutliveConnections(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	for name, o := range map[string]mqttest.Options{
		"3.1.1": {Keep: true},
		"5":     {Keep: true, Version: wire.V5, Properties: []byte{0x11, 0, 0, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			o.ID = "keep" + name
			topic := "keep/" + name
			c := dial(t, addr, o)
			subscribe(t, c, topic, 2)
			p := dial(t, addr, mqttest.Options{})
			testkit.OK(t, p.Publish(wire.Publish{Topic: topic, Payload: []byte("unanswered 1"), QoS: 1}))
			testkit.OK(t, p.Publish(wire.Publish{Topic: topic, Payload: []byte("unanswered 2"), QoS: 2}))
			var ids []uint16
			for range 2 {
				m, err := c.NextUnanswered()
				testkit.OK(t, err)
				ids = append(ids, m.PacketID)
			}
			testkit.OK(t, c.Ack(wire.PUBREC, ids[1]))
			_, err := c.Expect(wire.PUBREL)
			testkit.OK(t, err)
			c.Close()
			testkit.OK(t, p.Publish(wire.Publish{Topic: topic, Payload: []byte("offline 0"), QoS: 0}))
			testkit.OK(t, p.Publish(wire.Publish{Topic: topic, Payload: []byte("offline 1"), QoS: 1}))

			c, present, code, err := mqttest.Connect(addr, o)
			testkit.OK(t, err)
			defer c.Close()
			if !present || code != 0 {
				t.Fatalf("session present %v, code %d", present, code)
			}
			m, err := c.Next()
			testkit.OK(t, err)
			if string(m.Payload) != "unanswered 1" || !m.Dup || m.PacketID != ids[0] {
				t.Errorf("got %+v", m)
			}
			body, err := c.Expect(wire.PUBREL) // not the message again
			testkit.OK(t, err)
			if uint16(body[0])<<8|uint16(body[1]) != ids[1] {
				t.Errorf("PUBREL for % x", body)
			}
			for {
				m, err = c.Next()
				testkit.OK(t, err)
				if string(m.Payload) == "offline 1" {
					break
				}
				if string(m.Payload) != "offline 0" {
					t.Fatalf("got %+v", m)
				}
			}
			c.Close()

			o.Keep = false
			c2, present, _, err := mqttest.Connect(addr, o)
			testkit.OK(t, err)
			defer c2.Close()
			if present {
				t.Error("a clean start found a session")
			}
		})
	}
}

func TestQoS2IsNeverDoubled(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "t", 2)
	o := mqttest.Options{ID: "pub", Keep: true}
	p := dial(t, addr, o)
	m := wire.Publish{Topic: "t", Payload: []byte("once"), QoS: 2, PacketID: 5}
	testkit.OK(t, p.Send(m))
	_, err := p.Expect(wire.PUBREC)
	testkit.OK(t, err)
	m.Dup = true
	testkit.OK(t, p.Send(m)) // again on the same connection
	_, err = p.Expect(wire.PUBREC)
	testkit.OK(t, err)
	p.Close()
	p = dial(t, addr, o)
	testkit.OK(t, p.Send(m)) // and on the next
	_, err = p.Expect(wire.PUBREC)
	testkit.OK(t, err)
	testkit.OK(t, p.Ack(wire.PUBREL, 5))
	_, err = p.Expect(wire.PUBCOMP)
	testkit.OK(t, err)
	next(t, s)
	testkit.OK(t, s.Quiet())
	m.Dup = false // the id is free again: a new message
	testkit.OK(t, p.Send(m))
	next(t, s)
}

func TestADelayedWillIsDueWhenItsSessionEnds(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "w", 0)
	o := mqttest.Options{
		Version: wire.V5, ID: "c", Properties: []byte{0x11, 0, 0, 1, 0},
		Will: &wire.Publish{Topic: "w", Payload: []byte("gone"), Properties: []byte{0x18, 0, 0, 1, 0}},
	}
	dial(t, addr, o).Close()
	o.Keep = true
	o.Will = nil
	back := dial(t, addr, o)
	testkit.OK(t, s.Quiet()) // it came back in time
	o.Will = &wire.Publish{Topic: "w", Payload: []byte("gone"), Properties: []byte{0x18, 0, 0, 1, 0}}
	back.Close()
	dial(t, addr, o).Close()
	o.Keep, o.Will = false, nil
	dial(t, addr, o)
	if m := next(t, s); string(m.Payload) != "gone" {
		t.Errorf("got %+v", m)
	}
}
