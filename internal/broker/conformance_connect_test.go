package broker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// Checks of conformance: connecting, sessions and wills.

var badStrings = []string{"\xff", "\xc0\x80", "\xed\xa0\x80" /* a surrogate */, "a\xc3"}

// inEveryString puts s into each string that a client may send and expects to
// be cut off.
func (r *rig) inEveryString(s S) {
	r.Helper()
	r.refused(r.connect(2, s), 0, 0)
	r.refused(r.connect(2|4, S("c"), P(""), s, S("payload")), 0, 0)
	r.refused(r.connect(2|0x80, S("c"), s), 0, 0)
	r.cut(r.packet(wire.PUBLISH, 0, s, P("")), wire.Malformed)
	r.cut(r.packet(wire.SUBSCRIBE, 2, uint16(1), P(""), s, 0), wire.Malformed)
	r.cut(r.packet(wire.UNSUBSCRIBE, 2, uint16(1), P(""), s), wire.Malformed)
	if r.five() {
		text := string(append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...))
		r.cut(r.packet(wire.PUBLISH, 0, S("t"), P("\x08"+text)), wire.Malformed)
		r.cut(r.packet(wire.PUBLISH, 0, S("t"), P("\x03"+text)), wire.Malformed)
		r.cut(r.packet(wire.PUBLISH, 0, S("t"), P("\x26\x00\x01k"+text)), wire.Malformed)
		r.cut(r.packet(wire.PUBLISH, 0, S("t"), P("\x26"+text+"\x00\x01v")), wire.Malformed)
	}
}

func badUTF8(r *rig) {
	for _, s := range badStrings {
		r.inEveryString(S(s))
	}
}

func nulCharacter(r *rig) { r.inEveryString("a\x00b") }

func byteOrderMarkIsKept(r *rig) {
	c := r.client()
	r.sub(c, "\ufeff/+", 0)
	r.pub(c, wire.Publish{Topic: "\ufeff/a", Payload: []byte("x")})
	r.want("U+FEFF is part of the topic", r.next(c).Topic == "\ufeff/a")
	r.pub(c, wire.Publish{Topic: "/a", Payload: []byte("x")})
	r.quiet(c)
}

func varintsAreMinimal(r *rig) {
	r.cut([]byte("\xc0\x80\x00"), wire.Malformed)
	r.cut([]byte("\x30\x06\x00\x01t\x80\x00x"), wire.Malformed)
	// And so are ours: the remaining length of an answer to a long topic.
	c := r.client()
	for _, n := range []int{100, 200, 20_000} {
		r.sub(c, "t", 0)
		r.pub(c, wire.Publish{Topic: "t", Payload: make([]byte, n)})
		_ = r.next(c) // the reader refuses other lengths
		testkit.OK(r.T, c.Unsubscribe("t"))
	}
}

func reservedFlags(r *rig) {
	for t, right := range map[wire.Type]byte{
		wire.PUBACK: 0, wire.PUBREC: 0, wire.PUBREL: 2, wire.PUBCOMP: 0, wire.SUBSCRIBE: 2, wire.UNSUBSCRIBE: 2, wire.PINGREQ: 0, wire.DISCONNECT: 0,
	} {
		for flags := range byte(16) {
			if flags == right {
				continue
			}
			body := []any{uint16(1), P(""), S("t"), 0}
			if t == wire.PINGREQ || t == wire.DISCONNECT {
				body = nil
			}
			r.cut(r.packet(t, flags, body...), wire.Malformed)
		}
	}
	r.refused([]byte{0x11, 0}, 0, 0)
	if r.five() {
		r.cut(r.packet(wire.AUTH, 1), wire.Malformed)
	}
}

func wrongFlagsOf(t wire.Type) func(*rig) {
	return func(r *rig) { r.cut(r.packet(t, 0, uint16(1), P(""), S("t"), 0), wire.Malformed) }
}

func zeroPacketID(r *rig) {
	r.cut(r.packet(wire.SUBSCRIBE, 2, uint16(0), P(""), S("t"), 0), wire.ProtocolError, wire.Malformed)
	r.cut(r.packet(wire.UNSUBSCRIBE, 2, uint16(0), P(""), S("t")), wire.ProtocolError, wire.Malformed)
	r.cut(r.packet(wire.PUBLISH, 2, S("t"), uint16(0), P("")), wire.ProtocolError, wire.Malformed)
}

func qos0HasNoID(r *rig) {
	c := r.client()
	r.sub(c, "t", 2)
	r.pub(c, wire.Publish{Topic: "t", Payload: []byte("\x00\x07")})
	m := r.next(c)
	r.want("the payload begins where an id would stand", string(m.Payload) == "\x00\x07" && m.QoS == 0 && !m.Dup)
}

// ownIDs: the ids that the server gives are not 0 and not in use.
func ownIDs(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "t", 2)
	inUse := map[uint16]bool{}
	for i := range 30 {
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: byte(1 + i%2)})
		m, err := s.NextUnanswered()
		testkit.OK(r.T, err)
		r.want("a fresh id, DUP 0", m.PacketID != 0 && !inUse[m.PacketID] && !m.Dup)
		inUse[m.PacketID] = true
		if i >= 10 { // leave some open
			delete(inUse, m.PacketID)
			if m.QoS == 1 {
				testkit.OK(r.T, s.Ack(wire.PUBACK, m.PacketID))
				continue
			}
			testkit.OK(r.T, s.Ack(wire.PUBREC, m.PacketID))
			r.want("PUBREL has the id", string(r.expect(s, wire.PUBREL)) == string([]byte{byte(m.PacketID >> 8), byte(m.PacketID)}))
			testkit.OK(r.T, s.Ack(wire.PUBCOMP, m.PacketID))
		}
	}
}

func answersRepeatIDs(r *rig) {
	c := r.client()
	for _, id := range []uint16{1, 77, 65535} {
		two := string([]byte{byte(id >> 8), byte(id)})
		r.send(c, r.packet(wire.PUBLISH, 2, S("t"), id, P("")))
		r.want("PUBACK", string(r.expect(c, wire.PUBACK)) == two)
		r.send(c, r.packet(wire.PUBLISH, 4, S("t"), id, P("")))
		r.want("PUBREC", string(r.expect(c, wire.PUBREC)) == two)
		testkit.OK(r.T, c.Ack(wire.PUBREL, id))
		r.want("PUBCOMP", string(r.expect(c, wire.PUBCOMP)) == two)
		r.send(c, r.packet(wire.SUBSCRIBE, 2, id, P(""), S("t"), 0))
		r.want("SUBACK", string(r.expect(c, wire.SUBACK)[:2]) == two)
		r.send(c, r.packet(wire.UNSUBSCRIBE, 2, id, P(""), S("t")))
		r.want("UNSUBACK", string(r.expect(c, wire.UNSUBACK)[:2]) == two)
		r.send(c, r.packet(wire.UNSUBSCRIBE, 2, id, P(""), S("not there")))
		r.want("UNSUBACK though nothing was deleted", string(r.expect(c, wire.UNSUBACK)[:2]) == two)
	}
}

func emptyPropertiesHaveALength(r *rig) {
	c := r.client()
	r.sub(c, "t", 0)
	r.send(c, r.packet(wire.SUBSCRIBE, 2, uint16(9), P(""), S("u"), 0))
	r.want("SUBACK: id, length 0, code", string(r.expect(c, wire.SUBACK)) == "\x00\x09\x00\x00")
	r.pub(c, wire.Publish{Topic: "t", Payload: []byte("x")})
	header, body, err := c.Reader.Next()
	testkit.OK(r.T, err)
	r.want("PUBLISH: topic, length 0, payload", header == 0x30 && string(body) == "\x00\x01t\x00x")
	r.cut([]byte("\x82\x06\x00\x01\x00\x01t\x00"), wire.Malformed) // without one
}

func secondConnect(r *rig) { r.cut(r.connect(2, S("again")), wire.ProtocolError) }

func notMQTT(r *rig) {
	for _, name := range []S{"MQTX", "mqtt", "MQTT ", ""} {
		answer := r.first(r.packet(wire.CONNECT, 0, name, r.v, 2, uint16(0), P(""), S("c")))
		r.want("closed, perhaps with a CONNACK that refuses", len(answer) == 0 || answer[0] == 0x20 && answer[3] != 0)
	}
}

func unknownVersion(r *rig) {
	answer := r.first([]byte("\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00"))
	r.want("CONNACK 0x01, as older clients understand it", string(answer) == "\x20\x02\x00\x01")
}

func reservedConnectFlag(r *rig) { r.refused(r.connect(3, S("c")), 0, 0) }

func sessions(r *rig) {
	o := r.keep("c")
	connect := func(keep bool) (*mqttest.Client, bool) {
		o.Keep, o.Version = keep, r.v
		c, present, code, err := mqttest.Connect(r.addr, o)
		testkit.OK(r.T, err)
		_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
		r.Cleanup(func() { c.Close() })
		r.want("accepted", code == 0)
		return c, present
	}
	c, present := connect(true)
	r.want("no session was there", !present)
	r.sub(c, "t", 1)
	testkit.OK(r.T, c.Disconnect())
	p := r.client()
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("kept"), QoS: 1})
	c, present = connect(true)
	r.want("the session is resumed", present)
	r.want("with what was queued", string(r.next(c).Payload) == "kept")
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("live"), QoS: 1})
	r.want("and its subscriptions", string(r.next(c).Payload) == "live")
	c, present = connect(false)
	r.want("a clean start discards it", !present)
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1})
	r.quiet(c)
	other, present := r.dialPresent(r.keep("d"))
	r.want("another id has another session", !present)
	other.Close()
}

func (r *rig) dialPresent(o mqttest.Options) (*mqttest.Client, bool) {
	r.Helper()
	o.Version = r.v
	c, present, code, err := mqttest.Connect(r.addr, o)
	testkit.OK(r.T, err)
	r.want("accepted", code == 0)
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	r.Cleanup(func() { c.Close() })
	return c, present
}

func cleanSessionsEnd(r *rig) {
	c := r.dial(mqttest.Options{ID: "c"})
	r.sub(c, "t", 1)
	testkit.OK(r.T, c.Disconnect())
	testkit.Eventually(r.T, "the session is gone", func() bool { return r.b.Stats().Sessions == 0 })
	c, present := r.dialPresent(r.keep("c"))
	r.want("nothing is resumed", !present)
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1})
	r.quiet(c)
}

func sessionExpires(r *rig) {
	o := mqttest.Options{ID: "c", Keep: true, Properties: []byte{0x11, 0, 0, 0, 1}}
	c := r.dial(o)
	r.sub(c, "t", 1)
	c.Close()
	testkit.Eventually(r.T, "the session has expired", func() bool { return r.b.Stats().Sessions == 0 })
	r.want("subscriptions too", r.b.Stats().Subscriptions == 0)
	_, present := r.dialPresent(o)
	r.want("gone", !present)
}

func retainedOutlivesSessions(r *rig) {
	c := r.client()
	r.pub(c, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1, Retain: true})
	testkit.OK(r.T, c.Disconnect())
	s := r.client()
	r.sub(s, "t", 0)
	r.want("still there", r.next(s).Retain)
}

func (r *rig) will(qos byte, retain bool) *wire.Publish {
	return &wire.Publish{Topic: "w", Payload: []byte("gone"), QoS: qos, Retain: retain}
}

func willsAreSent(r *rig) {
	s := r.client()
	r.sub(s, "w", 2)
	for _, retain := range []bool{false, true} {
		for qos := range byte(3) {
			c := r.dial(mqttest.Options{Will: r.will(qos, retain)})
			c.Close()
			m := r.next(s)
			r.want("the will with its QoS", string(m.Payload) == "gone" && m.QoS == qos)
			fresh := r.client()
			r.sub(fresh, "w", 0)
			if retain {
				r.want("retained", r.next(fresh).Retain)
				r.pub(r.client(), wire.Publish{Topic: "w", Retain: true, QoS: 1})
				_ = r.next(s)
			} else {
				r.quiet(fresh)
			}
			fresh.Close()
		}
	}
	// Published once: a second connection of that id leaves none behind.
	c := r.dial(mqttest.Options{ID: "once", Will: r.will(0, false)})
	c.Close()
	_ = r.next(s)
	c = r.dial(mqttest.Options{ID: "once"})
	c.Close()
	r.quiet(s)
}

func willsAreDropped(r *rig) {
	s := r.client()
	r.sub(s, "w", 0)
	c := r.dial(mqttest.Options{Will: r.will(0, false)})
	testkit.OK(r.T, c.Disconnect())
	c = r.client() // without one
	c.Close()
	testkit.Eventually(r.T, "both are gone", func() bool { return r.b.Stats().Clients == 1 })
	r.quiet(s)
}

func willFlags(r *rig) {
	r.refused(r.connect(2|8, S("c")), 0, 0)    // QoS without a will
	r.refused(r.connect(2|0x20, S("c")), 0, 0) // retain without a will
	r.refused(r.connect(2|4|0x18, S("c"), P(""), S("w"), S("x")), 0, 0)
	r.refused(r.connect(2|4, S("c")), 0, 0) // will without its fields
	r.refused(r.connect(2, S("c"), P(""), S("w"), S("x")), 0, 0)
}

func credentialsFlags(r *rig) {
	r.refused(r.connect(2|0x80, S("c")), 0, 0)         // no name
	r.refused(r.connect(2|0xc0, S("c"), S("u")), 0, 0) // no password
	r.refused(r.connect(2, S("c"), S("u")), 0, 0)      // a name too many
	r.refused(r.connect(2|0x80, S("c"), S("u"), S("p")), 0, 0)
	if !r.five() {
		r.refused(r.connect(2|0x40, S("c"), S("p")), 0, 0)
	}
}

func keepAlive(r *rig) {
	s := r.client()
	r.sub(s, "w", 0)
	began := time.Now()
	c := r.dial(mqttest.Options{KeepAlive: 1, Will: r.will(0, false)})
	r.closed(c, wire.KeepAliveTimeout)
	r.want("after one and a half times the keep alive", time.Since(began) > 1400*time.Millisecond)
	r.want("as if the network had failed", string(r.next(s).Payload) == "gone")
}

func clientKeepAliveHolds(r *rig) {
	c := r.dial(mqttest.Options{KeepAlive: 60})
	r.want("no server keep alive", !bytes.Contains(c.Connack, []byte{0x13, 0, 60}))
	keepAlive(r)
}

func maximumPacketSize(r *rig) {
	c := r.dial(mqttest.Options{Properties: []byte{0x27, 0, 0, 0, 100}})
	r.sub(c, "t", 1)
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: make([]byte, 200), QoS: 1})
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("small"), QoS: 1})
	r.want("the large one is left out", string(r.next(c).Payload) == "small")
	r.quiet(c)
	testkit.OK(r.T, c.Disconnect())
	testkit.Eventually(r.T, "it counts as sent", func() bool { return r.b.Stats().QueuedBytes == 0 && r.b.Stats().TooLarge == 1 })
}

func topicAliases(r *rig) {
	publisher := r.client()
	s := r.dial(mqttest.Options{Properties: []byte{0x22, 0, 2}})
	plain := r.client()
	r.sub(s, "#", 0)
	r.sub(plain, "#", 0)
	seen := map[uint16]string{}
	for i := range 12 {
		topic := fmt.Sprint("topic/", i%3)
		r.pub(publisher, wire.Publish{Topic: topic, Payload: []byte("x")})
		m := r.next(s)
		r.want("an alias within the maximum", m.Alias <= 2)
		if m.Topic != "" {
			seen[m.Alias] = m.Topic
		} else {
			m.Topic = seen[m.Alias]
		}
		r.want("the topic", m.Topic == topic)
		if i >= 3 {
			r.want("used where there is one", (m.Alias != 0) == (i%3 < 2))
		}
		m = r.next(plain)
		r.want("none for who allows none", m.Alias == 0 && m.Topic == topic)
	}
	// A new connection begins anew.
	s.Close()
	s = r.dial(mqttest.Options{Properties: []byte{0x22, 0, 2}})
	r.sub(s, "#", 0)
	r.pub(publisher, wire.Publish{Topic: "topic/0", Payload: []byte("x")})
	r.want("the topic is spelled out", r.next(s).Topic == "topic/0")
}

func topicAliasesOfClients(r *rig) {
	c := r.client()
	i := bytes.Index(c.Connack, []byte{0x22})
	most := binary.BigEndian.Uint16(c.Connack[i+1:])
	r.want("offered", most > 0)
	r.sub(c, "#", 0)
	for _, alias := range []uint16{1, most} {
		topic := fmt.Sprint("topic/", alias)
		testkit.OK(r.T, c.Send(wire.Publish{Topic: topic, Alias: alias}))
		r.want("set", r.next(c).Topic == topic)
		r.send(c, r.packet(wire.PUBLISH, 0, S(""), P([]byte{0x23, byte(alias >> 8), byte(alias)})))
		r.want("used", r.next(c).Topic == topic)
	}
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "other", Alias: 1}))
	r.want("set anew", r.next(c).Topic == "other")
	r.cut(r.packet(wire.PUBLISH, 0, S("t"), P("\x23\x00\x00")), wire.BadTopicAlias)
	r.cut(r.packet(wire.PUBLISH, 0, S("t"), P([]byte{0x23, byte((most + 1) >> 8), byte(most + 1)})), wire.BadTopicAlias)
	r.cut(r.packet(wire.PUBLISH, 0, S(""), P("\x23\x00\x01")), wire.ProtocolError) // of another connection
}

func noResponseInformation(r *rig) {
	c := r.dial(mqttest.Options{Properties: []byte{0x19, 0}})
	r.want("none", !bytes.Contains(c.Connack, []byte{0x1A}))
}

func noProblemInformation(r *rig) {
	c := r.dial(mqttest.Options{Properties: []byte{0x17, 0}})
	for qos := byte(1); qos < 3; qos++ {
		testkit.OK(r.T, c.Send(wire.Publish{Topic: "$SYS/x", QoS: qos, PacketID: 1}))
		_, body, err := c.Reader.Next()
		testkit.OK(r.T, err)
		r.want("a code and no words", len(body) == 3 && wire.Code(body[2]) == wire.BadTopic)
	}
	c = r.client() // who does not say so gets them
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "$SYS/x", QoS: 1, PacketID: 1}))
	r.want("with words", len(r.expect(c, wire.PUBACK)) > 10)
}

func reasonsFit(r *rig) {
	c := r.dial(mqttest.Options{Properties: []byte{0x27, 0, 0, 0, 20}})
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "$SYS/x", QoS: 1, PacketID: 1}))
	r.want("PUBACK", len(r.expect(c, wire.PUBACK)) == 3)
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "$SYS/x", QoS: 2, PacketID: 1}))
	r.want("PUBREC", len(r.expect(c, wire.PUBREC)) == 3)
	testkit.OK(r.T, c.Ack(wire.PUBREL, 99))
	r.want("PUBCOMP", len(r.expect(c, wire.PUBCOMP)) == 3)
	r.send(c, r.packet(wire.SUBSCRIBE, 2, uint16(1), P(""), S("a#"), 0))
	r.want("SUBACK", len(r.expect(c, wire.SUBACK)) == 4)
	testkit.OK(r.T, c.Unsubscribe("x"))
	r.send(c, []byte{0x82, 0})
	r.want("DISCONNECT", len(r.expect(c, wire.DISCONNECT)) <= 10)
	// CONNACK: a client id that is too long, and no room to say so.
	answer := r.first(r.packet(wire.CONNECT, 0, S("MQTT"), r.v, 2, uint16(0), P("\x27\x00\x00\x00\x14"), S(strings.Repeat("x", 300))))
	r.want("CONNACK", len(answer) <= 20 && answer[3] == byte(wire.BadClientID))
}

func payloadOrder(r *rig) {
	c := r.dial(mqttest.Options{ID: "first", User: "name", Password: "word", Will: r.will(0, false)})
	r.quiet(c)
	r.dial(mqttest.Options{ID: "first"}) // the same client id
	r.closed(c, wire.TakenOver)
	if r.five() { // a client id, in the wrong place, is no property
		r.refused(r.connect(2|4, P(""), S("w"), S("x"), S("c")), 0, 0)
	}
}

func clientIDs(r *rig) {
	for _, id := range []string{"a", "Z9", "0123456789abcdefghijklm", "NOPQRSTUVWXYZ"} {
		r.quiet(r.dial(mqttest.Options{ID: id}))
	}
	a, b := r.dial(mqttest.Options{NoID: true}), r.dial(mqttest.Options{NoID: true})
	r.quiet(a)
	r.quiet(b)
	r.want("two sessions", r.b.Stats().Sessions >= 2)
}

func assignedIDs(r *rig) {
	ids := map[string]bool{}
	for range 3 {
		c := r.dial(mqttest.Options{NoID: true, Properties: []byte{0x11, 0, 0, 0, 9}})
		i := bytes.IndexByte(c.Connack[3:], 0x12) + 3
		n := int(binary.BigEndian.Uint16(c.Connack[i+1:]))
		id := string(c.Connack[i+3 : i+3+n])
		r.want("an id of its own", n > 0 && !ids[id])
		ids[id] = true
		r.sub(c, "t/"+id, 1)
		c.Close()
		_, present := r.dialPresent(mqttest.Options{ID: id, Keep: true})
		r.want("it can be used again", present)
	}
}

func emptyIDWithoutCleanSession(r *rig) { r.refused(r.connect(0, S("")), 0x85, 2) }

func refusedID(r *rig) { r.refused(r.connect(2, S(strings.Repeat("x", 300))), 0x85, 2) }

func willDelay(r *rig) {
	s := r.client()
	r.sub(s, "w", 0)
	o := r.keep("c")
	o.Will = &wire.Publish{Topic: "w", Payload: []byte("gone"), Properties: []byte{0x18, 0, 0, 0, 1}}
	c := r.dial(o)
	c.Close()
	testkit.Eventually(r.T, "the client is gone", func() bool { return r.b.Stats().Clients == 1 })
	back := r.dial(o)
	time.Sleep(1200 * time.Millisecond)
	r.quiet(s) // it came back in time
	back.Close()
	began := time.Now()
	r.want("sent when the delay is over", string(r.next(s).Payload) == "gone")
	r.want("and not before", time.Since(began) > 800*time.Millisecond)
}

func willKeepsUserProperties(r *rig) {
	s := r.client()
	r.sub(s, "w", 0)
	props := "\x26\x00\x01b\x00\x011\x26\x00\x01a\x00\x012\x26\x00\x01b\x00\x010"
	c := r.dial(mqttest.Options{Will: &wire.Publish{Topic: "w", Properties: []byte(props)}})
	c.Close()
	r.want("in their order", string(r.next(s).Properties) == props)
}

func malformedConnects(r *rig) {
	good := r.connect(2, S("c"))
	r.refused(append([]byte{good[0], good[1] + 1}, append(good[2:], 0)...), 0, 0) // a byte too many
	r.refused([]byte{0x10, 0}, 0, 0)
	r.refused([]byte{0x10, 0xff, 0xff, 0xff, 0xff}, 0, 0)
	r.want("PUBLISH first", len(r.first(r.packet(wire.PUBLISH, 0, S("t"), P("")))) == 0)
	willFlags(r)
	credentialsFlags(r)
}

// guarded has a broker with one user.
func (r *rig) guarded() *rig {
	a, err := accounts.New(accounts.Options{Delay: time.Millisecond, Failures: 1000, Configured: []accounts.User{
		{Name: "u", Hash: accounts.PlainHash("p"), Allow: []string{"own/#:rw", "w:r"}},
	}})
	testkit.OK(r.T, err)
	b, addr := startWith(r.T, broker.Options{Accounts: a})
	return &rig{r.T, r.v, b, addr}
}

func refusedLogin(r *rig) {
	g := r.guarded()
	g.refused(g.connect(2|0xc0, S("c"), S("u"), S("wrong")), 0x86, 4)
	g.refused(g.connect(2, S("c")), 0x87, 5)
	g.refused(g.connect(2|4|0xc0, S("c"), P(""), S("w"), S("x"), S("u"), S("p")), 0x87, 5)
	// What comes behind a CONNECT that was refused is not looked at.
	answer := g.first(append(g.connect(2, S("c")), g.packet(wire.PINGREQ, 0)...))
	g.want("CONNACK and nothing else", len(answer) > 0 && answer[0] == 0x20 && !bytes.Contains(answer, []byte{0xd0, 0}))
	g.quiet(g.dial(mqttest.Options{User: "u", Password: "p"}))
}

func takeover(r *rig) {
	old := r.dial(mqttest.Options{ID: "c"})
	fresh := r.dial(mqttest.Options{ID: "c"})
	r.closed(old, wire.TakenOver)
	r.quiet(fresh)
}

func connackFirst(r *rig) {
	o := r.keep("c")
	c := r.dial(o)
	r.sub(c, "t", 1)
	c.Close()
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1})
	nc, err := net.Dial("tcp", r.addr)
	testkit.OK(r.T, err)
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(mqttest.Patience))
	o.Version = r.v
	r.send(nc, append(mqttest.AppendConnect(nil, o), r.packet(wire.PINGREQ, 0)...))
	reader := wire.NewReader(nc, 1<<20)
	connacks := 0
	for i := range 3 {
		header, body, err := reader.Next()
		testkit.OK(r.T, err)
		if i == 0 {
			r.want("CONNACK comes first", header == 0x20 && body[1] == 0 && body[0]&0xfe == 0)
		}
		if header == 0x20 {
			connacks++
		}
	}
	r.want("once", connacks == 1)
}

func refusalsHaveNoSession(r *rig) {
	c := r.dial(r.keep("c"))
	c.Close()
	answer := r.first(r.connect(0|4, S("c"), P(""), S("$SYS/x"), S("x"))) // a will that is not allowed
	r.want("session present 0, and closed", len(answer) >= 4 && answer[2] == 0 && answer[3] != 0)
}
