package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestMosquittoSaysWithFiveWhatItDoesNotTake: what MQTT 3.1.1 has to find out by
// connections that end, MQTT 5 is told: by CONNACK, or by the answer to a message.
// Nothing behind it waits, and the connection stays.
func TestMosquittoSaysWithFiveWhatItDoesNotTake(t *testing.T) {
	acl := testkit.Write(t, filepath.Join(t.TempDir(), "acl"), "topic readwrite event2mqtt/event/After\ntopic readwrite event2mqtt/mqtt\ntopic readwrite event2mqtt/bridge/#\ntopic read #\n")
	testkit.OK(t, os.Chmod(filepath.Dir(acl), 0o755))
	for _, c := range []struct {
		name, limit, rules, body, says string
		taken                          bool // without what the broker does not take
	}{
		{"max_packet_size", "max_packet_size 4000\n", "", `{"event":"Bad","p":"` + strings.Repeat("x", 6000) + `"}`, "the broker takes at most 4000", false},
		{"retain_available", "retain_available false\n", "rules: [{match: Bad, retain: true}]\n", `{"event":"Bad"}`, "keeps no retained messages", true},
		{"max_qos", "max_qos 1\n", "rules: [{match: Bad, qos: 2}]\n", `{"event":"Bad"}`, "takes QoS 1 at most", true},
		{"acl_file", "acl_file " + acl + "\n", "", `{"event":"Bad"}`, "not authorized (reason code 0x87)", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := mosquitto(t, c.limit)
			m.start()
			s, err := mqttest.Dial(m.addr, mqttest.Options{})
			testkit.OK(t, err)
			defer s.Close()
			_ = s.SetDeadline(time.Now().Add(2 * mqttest.Patience))
			_, err = s.Subscribe("event2mqtt/event/#", 1)
			testkit.OK(t, err)
			p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\", protocol: \"5\"}\nhome_assistant: {discovery: false}\n%s", m.addr, c.rules))
			p.start()
			for _, body := range []string{c.body, `{"event":"After"}`} {
				if status := post(p.http, body); status != 202 {
					t.Fatalf("%.20s: %d", body, status)
				}
			}
			want := []string{"event2mqtt/event/Bad", "event2mqtt/event/After"}
			if !c.taken {
				want = want[1:]
			}
			for _, topic := range want {
				got, err := s.Next()
				testkit.OK(t, err)
				if got.Topic != topic {
					t.Errorf("%s comes instead of %s", got.Topic, topic)
				}
			}
			testkit.Eventually(t, "it is said", func() bool { return strings.Contains(p.log.String(), c.says) })
			if n := strings.Count(p.log.String(), "connected to mqtt://"); n != 1 {
				t.Errorf("%d connections", n)
			}
			out, err := p.refused()
			testkit.OK(t, err)
			if strings.Contains(out, "Bad") == c.taken {
				t.Errorf("refused: %s", out)
			}
		})
	}
}

// TestMosquittoPassesOnWhatFiveTells of an event beside its payload.
func TestMosquittoPassesOnWhatFiveTells(t *testing.T) {
	t.Parallel()
	m := mosquitto(t, "")
	m.start()
	s, err := mqttest.Dial(m.addr, mqttest.Options{Version: wire.V5})
	testkit.OK(t, err)
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(2 * mqttest.Patience))
	_, err = s.Subscribe("event2mqtt/event/#", 1)
	testkit.OK(t, err)
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\", protocol: \"5\"}\npublish: {message_expiry: 1h}\n", m.addr))
	if status, out, says := runOnce(t, "check", "--probe", "--config", p.config); status != 0 {
		t.Errorf("check: %d\n%s\n%s", status, out, says)
	}
	p.start()
	if status := post(p.http, `{"event":"E"}`); status != 202 {
		t.Fatal(status)
	}
	got, err := s.Next()
	testkit.OK(t, err)
	for _, want := range []string{"application/json", "source\x00\x07default", "event\x00\x01E", "id\x00"} {
		if !strings.Contains(string(got.Properties), want) {
			t.Errorf("%q does not hold %q", got.Properties, want)
		}
	}
	if !got.HasExpiry || got.Expiry == 0 || got.Expiry > 3600 {
		t.Errorf("expiry %d", got.Expiry)
	}
}
