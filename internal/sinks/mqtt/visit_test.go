package mqtt_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestConnectionsBesideTheSinkSpeakItsVersion: one that looks at what is retained
// and clears it, and one that listens for others.
func TestConnectionsBesideTheSinkSpeakItsVersion(t *testing.T) {
	for protocol, version := range map[string]byte{"3.1": 3, "3.1.1": 4, "5": 5} {
		t.Run(protocol, func(t *testing.T) {
			b, err := broker.New(broker.Options{})
			testkit.OK(t, err)
			l := listen(t, "127.0.0.1:0")
			served := make(chan struct{})
			go func() { defer close(served); _ = b.Serve(l) }()
			defer func() { b.Close(context.Background()); <-served }()
			writer, err := mqttest.Dial(l.Addr().String(), mqttest.Options{ID: "writer"})
			testkit.OK(t, err)
			defer writer.Close()
			large := strings.Repeat("x", 100_000)
			for topic, payload := range map[string]string{"kept/a": "A", "kept/b": "B", "kept/large": large} {
				testkit.OK(t, writer.Publish(wire.Publish{Topic: topic, Payload: []byte(payload), Retain: true}))
			}
			testkit.OK(t, writer.Ping())
			c, p := mqtt.Defaults()
			c.URL, c.Protocol = []string{"mqtt://" + l.Addr().String()}, protocol

			heard := make(chan sinks.Incoming, 10)
			lost, cancel, err := mqtt.Listen(t.Context(), c, p, "program", "kept/#", func(m sinks.Incoming) { heard <- m })
			testkit.OK(t, err)
			defer cancel()
			sizes := map[string]int{}
			for range 3 {
				m := <-heard
				if sizes[m.Topic] = len(m.Payload); !m.Retained {
					t.Errorf("%s is not said to be retained", m.Topic)
				}
			}
			if sizes["kept/a"] != 1 || sizes["kept/large"] != len(large) {
				t.Errorf("it hears %v", sizes)
			}

			v, err := mqtt.Visit(t.Context(), c, p)
			testkit.OK(t, err)
			defer v.Close()
			kept := map[string]int{}
			testkit.OK(t, v.Read(t.Context(), []string{"kept/+"}, func(m sinks.Incoming, tooLong int) { kept[m.Topic] = max(tooLong, len(m.Payload)) }))
			if len(kept) != 3 || kept["kept/b"] != 1 || kept["kept/large"] < len(large) {
				t.Errorf("it finds %v", kept)
			}
			for _, client := range b.Clients() {
				if client.ID != "writer" && client.Version != version {
					t.Errorf("%s speaks version %d", client.ID, client.Version)
				}
			}
			if ids := b.Clients(); len(ids) != 3 || !slices.ContainsFunc(ids, func(c broker.Client) bool { return strings.HasPrefix(c.ID, "program-") }) {
				t.Errorf("connected are %+v", ids)
			}
			testkit.OK(t, v.Clear(t.Context(), "kept/a"))
			if m := <-heard; m.Topic != "kept/a" || len(m.Payload) != 0 {
				t.Errorf("after it was cleared there came %+v", m)
			}
			for _, client := range b.Clients() {
				if strings.HasPrefix(client.ID, "program-") {
					b.Kick(client.ID, client.User)
				}
			}
			<-lost
		})
	}
}
