package cluster

import (
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestNATSMixesUpMessagesOfConnections: why event2mqtt is to use no more than QoS 1
// with NATS. What a clean session has not finished with QoS 2 is kept, and taken
// for the message of a later connection that has the same packet id: that one is
// lost, and the old one comes instead. Should this fail, NATS is mended, and
// natsAlone needs no max_qos.
func TestNATSMixesUpMessagesOfConnections(t *testing.T) {
	b := natsAlone().prepare(t, "tcp", newCertificates(t))
	awaitAll(t, []node{{b.process, b.watch}})
	watch, err := mqttest.Dial(b.watch, mqttest.Options{ID: "watcher"})
	testkit.OK(t, err)
	defer watch.Close()
	testkit.OK(t, watch.SetDeadline(time.Now().Add(testkit.Patience)))
	_, err = watch.Subscribe("mixed", 1)
	testkit.OK(t, err)

	first, err := mqttest.Dial(b.watch, mqttest.Options{ID: "bridge"})
	testkit.OK(t, err)
	testkit.OK(t, first.Send(wire.Publish{Topic: "mixed", Payload: []byte("first"), QoS: 2, PacketID: 1}))
	_, err = first.Expect(wire.PUBREC)
	testkit.OK(t, err)
	testkit.OK(t, first.Close()) // its session ends with it

	second, err := mqttest.Dial(b.watch, mqttest.Options{ID: "bridge"})
	testkit.OK(t, err)
	defer second.Close()
	testkit.OK(t, second.SetDeadline(time.Now().Add(testkit.Patience)))
	testkit.OK(t, second.Publish(wire.Publish{Topic: "mixed", Payload: []byte("second"), QoS: 2, PacketID: 1}))
	testkit.OK(t, second.Publish(wire.Publish{Topic: "mixed", Payload: []byte("end"), QoS: 2, PacketID: 2}))
	for _, want := range []string{"first", "end"} {
		p, err := watch.Next()
		testkit.OK(t, err)
		if string(p.Payload) != want {
			t.Errorf("%q came; NATS was expected to deliver %q", p.Payload, want)
		}
	}
}
