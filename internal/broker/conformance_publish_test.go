package broker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// Checks of conformance: messages.

func dupOfRedelivery(r *rig) {
	o := r.keep("c")
	c := r.dial(o)
	r.sub(c, "t", 2)
	p := r.client()
	for qos := byte(1); qos < 3; qos++ {
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte{qos}, QoS: qos})
	}
	ids := map[byte]uint16{}
	for range 2 {
		m, err := c.NextUnanswered()
		testkit.OK(r.T, err)
		r.want("DUP 0 at first", !m.Dup)
		ids[m.Payload[0]] = m.PacketID
	}
	c.Close()
	c = r.dial(o)
	for want := byte(1); want < 3; want++ {
		m, err := c.NextUnanswered()
		testkit.OK(r.T, err)
		r.want("DUP 1, the same id, in the same order", m.Dup && m.Payload[0] == want && m.PacketID == ids[want])
	}
	r.quiet(c) // and not again on the same connection
	testkit.OK(r.T, c.Ack(wire.PUBACK, ids[1]))
	testkit.OK(r.T, c.Ack(wire.PUBREC, ids[2]))
	r.expect(c, wire.PUBREL)
	c.Close()
	c = r.dial(o)
	body := r.expect(c, wire.PUBREL) // not the PUBLISH, once there was a PUBREL
	r.want("PUBREL with the id", binary.BigEndian.Uint16(body) == ids[2])
	testkit.OK(r.T, c.Ack(wire.PUBCOMP, ids[2]))
	r.quiet(c)
}

func dupIsNotPassedOn(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "t", 1)
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1, Dup: true})
	r.want("DUP 0", !r.next(s).Dup)
	r.cut(r.packet(wire.PUBLISH, 8, S("t"), P("")), wire.Malformed) // DUP with QoS 0
}

func qos3(r *rig) { r.cut(r.packet(wire.PUBLISH, 6, S("t"), uint16(1), P("")), wire.Malformed) }

func retained(r *rig) {
	p := r.client()
	kept := func(want string) {
		r.Helper()
		s := r.client()
		r.sub(s, "t", 2)
		if want != "" {
			m := r.next(s)
			r.want("retained: "+want, string(m.Payload) == want && m.Retain)
		}
		r.quiet(s)
		s.Close()
	}
	for qos := range byte(3) {
		v := fmt.Sprint("v", qos)
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte(v), QoS: qos, Retain: true})
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte("not kept"), QoS: qos})
		r.pub(p, wire.Publish{Topic: "t", QoS: qos}) // empty, not retained: clears nothing
		testkit.OK(r.T, p.Ping())
		kept(v)
	}
	s := r.client()
	r.sub(s, "t", 0)
	r.next(s)
	r.pub(p, wire.Publish{Topic: "t", QoS: 1, Retain: true})
	r.want("an empty one is passed on as usual", len(r.next(s).Payload) == 0)
	kept("")
	r.want("and kept nowhere", r.b.Stats().Retained == 0)
}

func retainFlagOfLiveMessages(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "t", 0)
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), Retain: true})
	r.want("RETAIN 0", !r.next(s).Retain)
}

func retainHandling(r *rig) {
	c := r.client()
	r.pub(c, wire.Publish{Topic: "t", Payload: []byte("x"), Retain: true, QoS: 1})
	r.sub(c, "t", 2<<4)
	r.quiet(c)
	r.sub(c, "t", 1<<4) // there is one already
	r.quiet(c)
	testkit.OK(r.T, c.Unsubscribe("t"))
	r.sub(c, "t", 1<<4)
	r.next(c)
	r.sub(c, "t", 0)
	r.next(c)
	r.sub(c, "t", 0)
	r.next(c)
	r.quiet(c)
}

func retainAsPublished(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "t", 8)
	for _, retain := range []bool{true, false} {
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), Retain: retain})
		r.want("as published", r.next(s).Retain == retain)
	}
	r.sub(s, "t", 2<<4)
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), Retain: true})
	r.want("RETAIN 0", !r.next(s).Retain)
}

func wildcardsInTopics(r *rig) {
	for _, topic := range []S{"#", "a/+", "a/#/b", "+"} {
		r.cut(r.packet(wire.PUBLISH, 0, topic, P("")), wire.BadTopic, wire.Malformed)
	}
	r.cut(r.packet(wire.PUBLISH, 0, S(""), P("")), wire.ProtocolError, wire.Malformed)
	r.refused(r.connect(2|4, S("c"), P(""), S("w/#"), S("x")), 0, 0)
}

func topicsMatch(r *rig) {
	s := r.client()
	r.sub(s, "a/+/c", 0)
	r.sub(s, "b/#", 0)
	for topic, want := range map[string]bool{"a/b/c": true, "a/b": false, "b": true, "b/x/y": true, "c": false} {
		r.pub(s, wire.Publish{Topic: topic, Payload: []byte("x")})
		if want {
			r.want("the topic as it was published", r.next(s).Topic == topic)
		}
		r.quiet(s)
	}
}

// passedOn checks that properties arrive as they were sent.
func passedOn(props string) func(*rig) {
	return func(r *rig) {
		for topic, o := range map[string]mqttest.Options{"t": {}, "u": r.keep("c")} {
			s, p := r.dial(o), r.client()
			r.sub(s, topic, 1)
			r.pub(p, wire.Publish{Topic: topic, Payload: []byte("x"), QoS: 1, Properties: []byte(props)})
			r.want("unaltered", string(r.next(s).Properties) == props)
			r.pub(p, wire.Publish{Topic: topic, Payload: []byte("x"), QoS: 1, Retain: true, Properties: []byte(props)})
			r.next(s)
			r.sub(s, topic, 1)
			r.want("retained, too", string(r.next(s).Properties) == props)
		}
	}
}

const userProperties = "\x26\x00\x01b\x00\x011\x26\x00\x01a\x00\x012\x26\x00\x01b\x00\x010"

func messageExpiry(r *rig) {
	o := r.keep("c")
	c := r.dial(o)
	r.sub(c, "t", 1)
	c.Close()
	testkit.Eventually(r.T, "it is gone", func() bool { return r.b.Stats().Clients == 0 })
	p := r.client()
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("short"), QoS: 1, HasExpiry: true, Expiry: 1})
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("long"), QoS: 1, HasExpiry: true, Expiry: 100})
	r.pub(p, wire.Publish{Topic: "kept", Payload: []byte("short"), QoS: 1, Retain: true, HasExpiry: true, Expiry: 1})
	time.Sleep(1100 * time.Millisecond)
	c = r.dial(o)
	m := r.next(c)
	r.want("what is over is gone, and the time counted down", string(m.Payload) == "long" && m.HasExpiry && m.Expiry < 100 && m.Expiry > 60)
	r.sub(c, "kept", 1)
	r.quiet(c)
}

// sentMessagesDoNotExpire: once a message was sent, its exchange is finished.
func sentMessagesDoNotExpire(r *rig) {
	o := r.keep("c")
	c := r.dial(o)
	r.sub(c, "t", 2)
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 2, HasExpiry: true, Expiry: 1})
	first, err := c.NextUnanswered()
	testkit.OK(r.T, err)
	c.Close()
	time.Sleep(1100 * time.Millisecond)
	c = r.dial(o)
	m := r.next(c)
	r.want("sent again all the same", m.PacketID == first.PacketID && m.Dup)
	// The other way round: one from a client that is over when it is released.
	p := r.client()
	testkit.OK(r.T, p.Send(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 2, PacketID: 3, HasExpiry: true, Expiry: 0}))
	r.expect(p, wire.PUBREC)
	testkit.OK(r.T, p.Ack(wire.PUBREL, 3))
	r.expect(p, wire.PUBCOMP)
}

func responseTopic(r *rig) {
	r.cut(r.packet(wire.PUBLISH, 0, S("t"), P("\x08\x00\x01#")), wire.ProtocolError, wire.Malformed)
	r.cut(r.packet(wire.PUBLISH, 0, S("t"), P("\x08\x00\x03a/+")), wire.ProtocolError, wire.Malformed)
}

func overlapping(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "a/#", 0)
	r.sub(s, "a/+", 2)
	r.sub(s, "a/b", 1)
	r.pub(p, wire.Publish{Topic: "a/b", Payload: []byte("x"), QoS: 2})
	r.want("the highest QoS", r.next(s).QoS == 2)
	r.quiet(s)
}

func subscriptionIDs(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "a/#", 0, 0x0b, 5)
	r.sub(s, "a/+", 1, 0x0b, 0x80, 0x01) // 128
	r.sub(s, "a/b", 0)
	r.pub(p, wire.Publish{Topic: "a/b", Payload: []byte("x"), QoS: 1})
	m := r.next(s)
	ids := map[uint32]bool{}
	for _, id := range m.SubscriptionIDs {
		ids[id] = true
	}
	r.want("one copy with each identifier", len(ids) == 2 && ids[5] && ids[128])
	r.quiet(s)
	r.pub(p, wire.Publish{Topic: "a/b/c", Payload: []byte("x"), QoS: 1})
	m = r.next(s)
	r.want("those that match", len(m.SubscriptionIDs) == 1 && m.SubscriptionIDs[0] == 5)
	r.sub(s, "a/#", 0, 0x0b, 6) // replaced
	r.pub(p, wire.Publish{Topic: "a/x/y", Payload: []byte("x")})
	r.want("the new identifier", r.next(s).SubscriptionIDs[0] == 6)
	r.cut(r.packet(wire.SUBSCRIBE, 2, uint16(1), P("\x0b\x00"), S("t"), 0), wire.ProtocolError)
	r.cut(r.packet(wire.PUBLISH, 0, S("t"), P("\x0b\x01")), wire.ProtocolError)
}

func receiveMaximum(r *rig) {
	o := mqttest.Options{}
	if r.five() {
		o.Properties = []byte{0x21, 0, 2}
	}
	s, p := r.dial(o), r.client()
	r.sub(s, "t", 2)
	for i := range 5 {
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte{byte(i)}, QoS: byte(1 + i%2)})
	}
	first, err := s.NextUnanswered()
	testkit.OK(r.T, err)
	second, err := s.NextUnanswered()
	testkit.OK(r.T, err)
	r.quiet(s) // not a third; and the ping is answered
	r.sub(s, "other", 0)
	testkit.OK(r.T, s.Ack(wire.PUBACK, first.PacketID))
	third, err := s.NextUnanswered()
	testkit.OK(r.T, err)
	r.want("one more for each that is done", third.Payload[0] == 2)
	testkit.OK(r.T, s.Ack(wire.PUBREC, second.PacketID))
	r.expect(s, wire.PUBREL)
	r.quiet(s) // PUBREC is not the end
	testkit.OK(r.T, s.Ack(wire.PUBCOMP, second.PacketID))
	_, err = s.NextUnanswered()
	testkit.OK(r.T, err)
}

func receiveMaximumOfClients(r *rig) {
	c := r.client()
	i := bytes.IndexByte(c.Connack[3:], 0x21) + 3
	most := binary.BigEndian.Uint16(c.Connack[i+1:])
	for id := range most {
		testkit.OK(r.T, c.Send(wire.Publish{Topic: "t", QoS: 2, PacketID: id + 1}))
		r.expect(c, wire.PUBREC)
	}
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "t", QoS: 2, PacketID: most + 1}))
	r.closed(c, wire.ReceiveMaxExceeded)
}

// listedCodes looks at the codes of answers in many cases.
func listedCodes(t wire.Type, cases func(*rig, *mqttest.Client) []byte, allowed ...byte) func(*rig) {
	return func(r *rig) {
		c := r.client()
		body := cases(r, c)
		for _, code := range body {
			r.want(fmt.Sprintf("%s with 0x%02x is listed", t, code), bytes.IndexByte(allowed, code) >= 0)
		}
	}
}

func codeOf(body []byte) byte {
	if len(body) < 3 {
		return 0
	}
	return body[2]
}

var pubackCodes = listedCodes(wire.PUBACK, func(r *rig, c *mqttest.Client) (codes []byte) {
	for _, topic := range []string{"t", "$SYS/x", strings.Repeat("/", 250)} {
		testkit.OK(r.T, c.Send(wire.Publish{Topic: topic, QoS: 1, PacketID: 1}))
		codes = append(codes, codeOf(r.expect(c, wire.PUBACK)))
	}
	return codes
}, 0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)

var pubrecCodes = listedCodes(wire.PUBREC, func(r *rig, c *mqttest.Client) (codes []byte) {
	for _, topic := range []string{"t", "$SYS/x"} {
		testkit.OK(r.T, c.Send(wire.Publish{Topic: topic, QoS: 2, PacketID: 1}))
		codes = append(codes, codeOf(r.expect(c, wire.PUBREC)))
		testkit.OK(r.T, c.Ack(wire.PUBREL, 1))
		r.expect(c, wire.PUBCOMP)
	}
	return codes
}, 0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)

var pubrelCodes = listedCodes(wire.PUBREL, func(r *rig, c *mqttest.Client) (codes []byte) {
	testkit.OK(r.T, c.Ack(wire.PUBREC, 99)) // of nothing
	codes = append(codes, codeOf(r.expect(c, wire.PUBREL)))
	r.sub(c, "t", 2)
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "t", QoS: 1, PacketID: 1}))
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "t", QoS: 0}))
	return codes
}, 0, 0x92)

var pubcompCodes = listedCodes(wire.PUBCOMP, func(r *rig, c *mqttest.Client) (codes []byte) {
	testkit.OK(r.T, c.Ack(wire.PUBREL, 99))
	codes = append(codes, codeOf(r.expect(c, wire.PUBCOMP)))
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "t", QoS: 2, PacketID: 1}))
	r.expect(c, wire.PUBREC)
	testkit.OK(r.T, c.Ack(wire.PUBREL, 1))
	return append(codes, codeOf(r.expect(c, wire.PUBCOMP)))
}, 0, 0x92)
