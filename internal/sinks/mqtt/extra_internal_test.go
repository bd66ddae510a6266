package mqtt

import (
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// TestRates that people write are read, and nonsense is not.
func TestRates(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "50/s": 20 * time.Millisecond, "30/min": 2 * time.Second, "30/m": 2 * time.Second, "1/15s": 15 * time.Second, " 100 / h ": 36 * time.Second, "0.5/s": 2 * time.Second,
		"1e6/s": time.Microsecond, "1/24h": 24 * time.Hour,
	} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"50", "/s", "50/", "0/s", "-1/s", "NaN/s", "Inf/s", "50/x", "1e9/s", "1/48h", "5/0s"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}

// TestAPaceAllowsABurstAfterAPause, and no more, however long the pause was.
func TestAPaceAllowsABurstAfterAPause(t *testing.T) {
	c := Connection{Rate: "10/s", Burst: 3}
	p, now := newPace(&c), time.Now()
	for range 2 {
		for i, want := range []time.Duration{-200, -100, 0, 100, 200} {
			if got := p.reserve(now); got != want*time.Millisecond {
				t.Errorf("message %d waits %s", i, got)
			}
		}
		now = now.Add(time.Hour)
	}
	if newPace(&Connection{Burst: 1}) != nil {
		t.Error("there is a pace without a rate")
	}
}

// TestPacketSizes are those of the wire.
func TestPacketSizes(t *testing.T) {
	for payload, want := range map[int]int64{0: 2 + 4 + 1, 100: 2 + 4 + 101, 124: 3 + 4 + 125, 20_000: 4 + 4 + 20_001} {
		if got := packetSize(&message{topic: "t", qos: 1, payload: make([]byte, payload)}); got != want {
			t.Errorf("%d bytes are a packet of %d, not %d", payload, got, want)
		}
	}
}

// TestCommandsOfTheMainSinkAreNotPublishedByOthers: they may be at the same
// broker.
func TestCommandsOfTheMainSinkAreNotPublishedByOthers(t *testing.T) {
	b := beside{base: "a/b"}
	for topic, want := range map[string]bool{
		"a/b/printer/set/pause": true, "a/b/bridge/set/reload": true, "a/b/printer/set": false, "a/b/printer/set/x/y": false,
		"a/b/x/printer/set/pause": false, "a/printer/set/pause": false, "copy/printer/set/pause": false, "a/b": false,
	} {
		if b.isCommand(topic) != want {
			t.Errorf("%s: %t", topic, !want)
		}
	}
}

// TestMessagesNameTheKeysOfTheirSink.
func TestMessagesNameTheKeysOfTheirSink(t *testing.T) {
	o := Options{beside: &beside{path: "sinks[2]"}}
	want := "the broker refused the login: wrong user name or password (sinks[2].username, sinks[2].password)"
	if got := o.keys().explain(packets.ErrorRefusedBadUsernameOrPassword, false); got != want {
		t.Error(got)
	}
	want = "the broker refused the login: wrong user name or password (mqtt.username, mqtt.password)"
	if got := (&Options{}).keys().explain(packets.ErrorRefusedBadUsernameOrPassword, false); got != want {
		t.Error(got)
	}
}
