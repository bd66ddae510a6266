package broker_test

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// Checks of conformance: subscriptions, exchanges and names.

func noFilters(r *rig) {
	r.cut(r.packet(wire.SUBSCRIBE, 2, uint16(1), P("")), wire.ProtocolError, wire.Malformed)
	r.cut(r.packet(wire.UNSUBSCRIBE, 2, uint16(1), P("")), wire.ProtocolError, wire.Malformed)
}

func noLocal(r *rig) {
	c := r.client()
	r.sub(c, "t", 1|4)
	r.pub(c, wire.Publish{Topic: "t", Payload: []byte("own"), QoS: 1})
	r.quiet(c)
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("other"), QoS: 1})
	r.want("others'", string(r.next(c).Payload) == "other")
}

func noLocalShared(r *rig) {
	r.cut(r.packet(wire.SUBSCRIBE, 2, uint16(1), P(""), S("$share/g/t"), 4), wire.ProtocolError)
}

func reservedSubscriptionBits(r *rig) {
	options := []int{3, 0x40, 0x80}
	if r.five() {
		options = append(options, 0x30)
	} else {
		options = append(options, 4, 8, 0x10)
	}
	for _, o := range options {
		r.cut(r.packet(wire.SUBSCRIBE, 2, uint16(1), P(""), S("t"), o), wire.Malformed, wire.ProtocolError)
	}
}

func subscriptionsAreReplaced(r *rig) {
	s, p := r.client(), r.client()
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("kept"), Retain: true, QoS: 1})
	r.sub(s, "t", 0)
	r.next(s)
	r.sub(s, "t", 1)
	r.want("what is retained is sent again", r.next(s).QoS == 1)
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1})
	r.want("the new QoS, once", r.next(s).QoS == 1)
	r.quiet(s)
	// Nothing is lost meanwhile.
	r.sub(s, "n", 1)
	stop := make(chan error, 1)
	go func() {
		for i := range 200 {
			if err := p.Publish(wire.Publish{Topic: "n", Payload: fmt.Append(nil, i), QoS: 1}); err != nil {
				stop <- err
				return
			}
		}
		stop <- nil
	}()
	for next := 0; next < 200; {
		header, body, err := s.Reader.Next()
		testkit.OK(r.T, err)
		switch wire.Type(header >> 4) {
		case wire.PUBLISH:
			var m wire.Publish
			testkit.OK(r.T, wire.DecodePublish(&m, r.v, header, body, ""))
			testkit.OK(r.T, s.Ack(wire.PUBACK, m.PacketID))
			var n int
			fmt.Sscan(string(m.Payload), &n)
			r.want("no gap", n == next)
			if next++; n%20 == 0 {
				r.send(s, r.packet(wire.SUBSCRIBE, 2, uint16(1), P(""), S("n"), 1))
			}
		case wire.SUBACK:
		}
	}
	testkit.OK(r.T, <-stop)
}

func manyFilters(r *rig) {
	s, p := r.client(), r.client()
	r.send(s, r.packet(wire.SUBSCRIBE, 2, uint16(7), P(""), S("a"), 0, S("b/#/c"), 1, S("c"), 2, S("a"), 1))
	body := r.expect(s, wire.SUBACK)
	codes := body[len(body)-4:]
	bad := byte(0x80)
	if r.five() {
		bad = 0x8f
	}
	r.want("one SUBACK, a code each, in order", string(codes) == string([]byte{0, bad, 2, 1}))
	r.pub(p, wire.Publish{Topic: "a", Payload: []byte("x"), QoS: 2})
	r.want("the later one counts", r.next(s).QoS == 1)
	r.send(s, r.packet(wire.UNSUBSCRIBE, 2, uint16(8), P(""), S("a"), S("zz"), S("c")))
	body = r.expect(s, wire.UNSUBACK)
	if r.five() {
		r.want("one UNSUBACK, a code each, in order", string(body) == "\x00\x08\x00\x00\x11\x00")
	} else {
		r.want("one UNSUBACK", string(body) == "\x00\x08")
	}
	r.pub(p, wire.Publish{Topic: "a", Payload: []byte("x")})
	r.pub(p, wire.Publish{Topic: "c", Payload: []byte("x")})
	r.quiet(s)
}

func deliveredQoS(r *rig) {
	for granted := range byte(3) {
		s, p := r.client(), r.client()
		r.sub(s, "t", granted)
		for published := range byte(3) {
			r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: published})
			r.want("the lower of both", r.next(s).QoS == min(granted, published))
		}
	}
}

func unsubscribing(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "a/b", 1)
	r.sub(s, "a/+", 1)
	testkit.OK(r.T, s.Unsubscribe("a/B")) // not the same
	testkit.OK(r.T, s.Unsubscribe("a/#"))
	r.pub(p, wire.Publish{Topic: "a/b", Payload: []byte("1"), QoS: 1})
	m, err := s.NextUnanswered()
	testkit.OK(r.T, err)
	testkit.OK(r.T, s.Unsubscribe("a/b"))
	testkit.OK(r.T, s.Unsubscribe("a/+"))
	r.pub(p, wire.Publish{Topic: "a/b", Payload: []byte("2"), QoS: 1})
	r.quiet(s) // nothing new
	testkit.OK(r.T, s.Ack(wire.PUBACK, m.PacketID))
	r.quiet(s)
}

// startedDeliveriesAreFinished though their subscription is gone.
func startedDeliveriesAreFinished(r *rig) {
	o := r.keep("c")
	s, p := r.dial(o), r.client()
	r.sub(s, "t", 2)
	for i := range 3 {
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte{byte(i)}, QoS: 2})
	}
	m, err := s.NextUnanswered()
	testkit.OK(r.T, err)
	s.Close()
	s = r.dial(o)
	again, err := s.NextUnanswered()
	testkit.OK(r.T, err)
	r.want("sent again", again.PacketID == m.PacketID)
	testkit.OK(r.T, s.Ack(wire.PUBREC, m.PacketID))
	for {
		header, _, err := s.Reader.Next()
		testkit.OK(r.T, err)
		if wire.Type(header>>4) == wire.PUBREL {
			break
		}
	}
	r.send(s, r.packet(wire.UNSUBSCRIBE, 2, uint16(5), P(""), S("t")))
	for {
		header, _, err := s.Reader.Next()
		testkit.OK(r.T, err)
		if wire.Type(header>>4) == wire.UNSUBACK {
			break
		}
	}
	testkit.OK(r.T, s.Ack(wire.PUBCOMP, m.PacketID))
	r.quiet(s)
}

func ping(r *rig) { r.quiet(r.client()) }

func noDisconnectBeforeConnack(r *rig) {
	for _, b := range [][]byte{r.connect(3, S("c")), r.packet(wire.PINGREQ, 0), r.connect(2, S("\xff"))} {
		answer := r.first(b)
		r.want("no DISCONNECT", len(answer) == 0 || answer[0] == 0x20)
	}
}

func disconnectCodes(r *rig) {
	allowed := "\x00\x81\x82\x83\x87\x89\x8b\x8d\x8e\x8f\x90\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f\xa0\xa1\xa2"
	for _, b := range [][]byte{
		secondConnectBytes(r), []byte("\x82\x00"), []byte("\x30\x03\x00\x01#"), r.packet(wire.AUTH, 0), []byte("\x30\xff\xff\xff\x7f"), r.packet(wire.CONNACK, 0, 0, 0, P("")),
	} {
		c := r.client()
		r.send(c, b)
		body := r.expect(c, wire.DISCONNECT)
		r.want("a listed code", strings.IndexByte(allowed, body[0]) >= 0)
		r.want("no session expiry", !bytes.Contains(body[1:], []byte{0x11, 0}))
		_, _, err := c.Reader.Next()
		r.want("nothing follows but the end", err != nil)
	}
}

func secondConnectBytes(r *rig) []byte { return r.connect(2, S("again")) }

func authRefused(r *rig) {
	r.refused(r.packet(wire.CONNECT, 0, S("MQTT"), r.v, 2, uint16(0), P("\x15\x00\x05SCRAM"), S("c")), 0x8c, 0)
	c := r.client()
	r.want("no authentication method in CONNACK", !bytes.Contains(c.Connack, []byte{0x15, 0}))
	r.cut(r.packet(wire.AUTH, 0), wire.ProtocolError)
	r.cut(r.packet(wire.AUTH, 0, 0x19, P("\x15\x00\x05SCRAM")), wire.ProtocolError)
}

func sessionIsKeptWhileConnected(r *rig) {
	c := r.dial(mqttest.Options{KeepAlive: 0})
	r.sub(c, "t", 1)
	if r.five() { // an expiry of one second counts from the end of the connection
		c = r.dial(mqttest.Options{ID: "x", Properties: []byte{0x11, 0, 0, 0, 1}})
		r.sub(c, "t", 1)
		time.Sleep(1200 * time.Millisecond)
	}
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1})
	r.next(c)
}

func overTCP(r *rig) {
	c := r.client()
	r.sub(c, "t", 0)
	payload := bytes.Repeat([]byte("0123456789"), 5000)
	r.pub(c, wire.Publish{Topic: "t", Payload: payload})
	r.want("every byte in order", bytes.Equal(r.next(c).Payload, payload))
}

func qos1IDsAreFreeAgain(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "t", 0)
	for _, dup := range []bool{false, false, true} {
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1, PacketID: 5, Dup: dup})
		r.next(s) // a new message each time
	}
}

func unacknowledgedUntilAnswered(r *rig) {
	o := r.keep("c")
	s := r.dial(o)
	r.sub(s, "t", 1)
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1})
	for range 3 {
		m, err := s.NextUnanswered()
		testkit.OK(r.T, err)
		r.want("still the same", string(m.Payload) == "x")
		s.Close()
		s = r.dial(o)
	}
	r.next(s)
	r.quiet(s)
	s.Close()
	s = r.dial(o)
	r.quiet(s)
}

func qos2FromClients(r *rig) {
	s := r.client()
	r.sub(s, "t", 0)
	p := r.dial(r.keep("p"))
	exchange := func(dup bool) {
		testkit.OK(r.T, p.Send(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 2, PacketID: 5, Dup: dup}))
		r.expect(p, wire.PUBREC)
	}
	exchange(false)
	r.next(s)
	exchange(true)
	exchange(true)
	p.Close()
	p = r.dial(r.keep("p"))
	exchange(true)
	r.quiet(s) // no duplicates
	for range 2 {
		testkit.OK(r.T, p.Ack(wire.PUBREL, 5))
		r.expect(p, wire.PUBCOMP)
	}
	exchange(false)
	r.next(s) // a new one
}

func refusedQoS2IsNew(r *rig) {
	c := r.client()
	for range 2 {
		testkit.OK(r.T, c.Send(wire.Publish{Topic: "$SYS/x", QoS: 2, PacketID: 5}))
		r.want("refused each time", codeOf(r.expect(c, wire.PUBREC)) == byte(wire.BadTopic))
	}
	r.sub(c, "t", 0)
	testkit.OK(r.T, c.Send(wire.Publish{Topic: "t", QoS: 2, PacketID: 5}))
	for range 2 { // the answer and the message, in either order
		header, body, err := c.Reader.Next()
		testkit.OK(r.T, err)
		if wire.Type(header>>4) == wire.PUBREC {
			r.want("taken now", codeOf(body) == 0)
		}
	}
}

func errorsAcknowledge(r *rig) {
	o := r.keep("c")
	s, p := r.dial(o), r.client()
	r.sub(s, "t", 2)
	for qos := byte(1); qos < 3; qos++ {
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: qos})
		m, err := s.NextUnanswered()
		testkit.OK(r.T, err)
		t := map[byte]wire.Type{1: wire.PUBACK, 2: wire.PUBREC}[qos]
		r.send(s, wire.AppendAck(nil, r.v, t, wire.Ack{PacketID: m.PacketID, Code: wire.Unspecified}))
		r.quiet(s) // no PUBREL
	}
	s.Close()
	s = r.dial(o)
	r.quiet(s)
}

func everySessionGetsIt(r *rig) {
	var clients []*mqttest.Client
	for i := range 5 {
		c := r.dial(r.keep(fmt.Sprint("c", i)))
		r.sub(c, []string{"t", "+", "#"}[i%3], byte(i%3))
		clients = append(clients, c)
	}
	clients[1].Close()
	r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 2})
	clients[1] = r.dial(r.keep("c1"))
	for _, c := range clients {
		r.want("it", string(r.next(c).Payload) == "x")
	}
}

func ordered(r *rig) {
	s, p := r.client(), r.client()
	r.sub(s, "#", 2)
	for i := range 60 {
		testkit.OK(r.T, p.Send(wire.Publish{Topic: fmt.Sprint("t", i%2), Payload: []byte{byte(i)}, QoS: 1, PacketID: uint16(i%20 + 1)}))
		r.expect(p, wire.PUBACK)
	}
	for i, m := range r.all(s) {
		r.want("in order", m.Payload[0] == byte(i))
	}
	for qos := range byte(3) {
		for i := range 20 {
			r.pub(p, wire.Publish{Topic: "t", Payload: []byte{byte(i)}, QoS: qos})
		}
		testkit.OK(r.T, p.Ping())
		got := r.all(s)
		r.want("all of them", len(got) == 20)
		for i, m := range got {
			r.want("in order, by QoS", m.Payload[0] == byte(i))
		}
	}
}

func badFilters(r *rig) {
	c := r.client()
	for _, filter := range []S{"", "a#", "#/a", "a/#/b", "a+", "+a/b", "a/b+", "a/#b"} {
		r.send(c, r.packet(wire.SUBSCRIBE, 2, uint16(1), P(""), filter, 0))
		body := r.expect(c, wire.SUBACK)
		r.want("refused: "+string(filter), body[len(body)-1] >= 0x80)
	}
}

func systemTopics(r *rig) {
	s := r.client()
	r.sub(s, "#", 0)
	r.sub(s, "+/x", 0)
	testkit.OK(r.T, publish(r.b, &broker.Message{Topic: "$SYS/x", Payload: []byte("x"), Retain: true}))
	r.sub(s, "#", 0)
	r.quiet(s)
	r.sub(s, "$SYS/+", 0)
	r.next(s)
}

func emptyNames(r *rig) {
	r.cut(r.packet(wire.PUBLISH, 0, S(""), P("")), wire.ProtocolError, wire.Malformed)
	badFilters(r)
	c := r.client()
	r.sub(c, "/", 0) // one character is enough
	r.sub(c, "+", 0)
	r.pub(c, wire.Publish{Topic: "/", Payload: []byte("x")})
	r.next(c)
	r.quiet(c)
}

func notNormalised(r *rig) {
	c := r.client()
	r.sub(c, "caf\u00e9/A b", 0) // composed
	r.pub(c, wire.Publish{Topic: "cafe\u0301/A b", Payload: []byte("x")})
	r.pub(c, wire.Publish{Topic: "caf\u00e9/a b", Payload: []byte("x")})
	r.pub(c, wire.Publish{Topic: "caf\u00e9/A b ", Payload: []byte("x")})
	r.quiet(c)
	r.pub(c, wire.Publish{Topic: "caf\u00e9/A b", Payload: []byte("x")})
	r.next(c)
}

func longNames(r *rig) {
	b, addr := startWith(r.T, broker.Options{Limits: broker.Limits{TopicLength: 65535}})
	big := &rig{r.T, r.v, b, addr}
	topic := strings.Repeat("x", 65535)
	c := big.client()
	big.sub(c, topic, 0)
	big.pub(c, wire.Publish{Topic: topic, Payload: []byte("x")})
	big.want("all of it", big.next(c).Topic == topic)
}

func sharedNames(r *rig) {
	c := r.client()
	for _, filter := range []S{"$share/", "$share//t", "$share/g", "$share/g/", "$share/g+/t", "$share/#/t", "$share/g/a#"} {
		r.send(c, r.packet(wire.SUBSCRIBE, 2, uint16(1), P(""), filter, 0))
		body := r.expect(c, wire.SUBACK)
		r.want("refused: "+string(filter), wire.Code(body[len(body)-1]) == wire.BadFilter)
	}
	r.sub(c, "$share/g/t", 0)
	r.pub(c, wire.Publish{Topic: "t", Payload: []byte("x")})
	r.next(c)
}

func sharedQoS(r *rig) {
	a, b, p := r.client(), r.client(), r.client()
	r.sub(a, "$share/g/t", 0)
	r.sub(b, "$share/g/t", 1)
	got := [2]int{}
	for i := range 10 {
		r.pub(p, wire.Publish{Topic: "t", Payload: []byte{byte(i)}, QoS: 2})
	}
	for i, c := range []*mqttest.Client{a, b} {
		for _, m := range r.all(c) {
			r.want("the QoS of its own subscription", m.QoS == byte(i))
			got[i]++
		}
	}
	r.want("each message to one of them, in turn", got[0] == 5 && got[1] == 5)
}

func sharedQoS2StaysWithItsClient(r *rig) {
	oa := r.keep("a")
	a, b, p := r.dial(oa), r.dial(r.keep("b")), r.client()
	r.sub(a, "$share/g/t", 2)
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 2})
	m, err := a.NextUnanswered()
	testkit.OK(r.T, err)
	r.sub(b, "$share/g/t", 2)
	a.Close()
	testkit.Eventually(r.T, "it is gone", func() bool { return r.b.Stats().Clients == 2 })
	r.quiet(b)
	a = r.dial(oa)
	again := r.next(a)
	r.want("to the same client", again.PacketID == m.PacketID && again.Dup)
	// And if that one never comes back, to nobody.
	testkit.OK(r.T, b.Unsubscribe("$share/g/t"))
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("y"), QoS: 2})
	_, err = a.NextUnanswered()
	testkit.OK(r.T, err)
	r.sub(b, "$share/g/t", 2)
	a.Close()
	oa.Keep = false
	a = r.dial(oa)
	r.quiet(a)
	r.quiet(b)
}

func sharedErrorsAreNotTriedElsewhere(r *rig) {
	a, b, p := r.client(), r.client(), r.client()
	r.sub(a, "$share/g/t", 1)
	r.pub(p, wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1})
	m, err := a.NextUnanswered()
	testkit.OK(r.T, err)
	r.sub(b, "$share/g/t", 1)
	r.send(a, wire.AppendAck(nil, r.v, wire.PUBACK, wire.Ack{PacketID: m.PacketID, Code: wire.Unspecified}))
	r.quiet(a)
	r.quiet(b)
}

func unauthorisedPublish(r *rig) {
	g := r.guarded()
	c := g.dial(mqttest.Options{User: "u", Password: "p"})
	g.sub(c, "own/#", 0)
	testkit.OK(g.T, c.Send(wire.Publish{Topic: "other", QoS: 1, PacketID: 9}))
	body := g.expect(c, wire.PUBACK)
	if g.five() {
		g.want("refused", codeOf(body) == byte(wire.NotAuthorized))
	}
	g.quiet(c)
}

func violationsEndTheConnection(r *rig) {
	for _, b := range [][]byte{[]byte("\x82\x00"), []byte("\x00\x00"), []byte("\x30\x00"), r.packet(wire.PINGRESP, 0), r.packet(wire.SUBACK, 0, uint16(1), P(""), 0)} {
		r.cut(b, wire.Malformed, wire.ProtocolError)
	}
}

func afterDisconnect(r *rig) {
	s := r.client()
	r.sub(s, "t", 0)
	c := r.client()
	r.send(c, append(r.packet(wire.DISCONNECT, 0), r.packet(wire.PUBLISH, 0, S("t"), P(""), "late")...))
	r.closed(c)
	r.quiet(s) // nothing after the goodbye is heard
	disconnectCodes(&rig{r.T, wire.V5, r.b, r.addr})
}
