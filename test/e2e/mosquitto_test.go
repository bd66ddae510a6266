package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// broker is a Mosquitto that can be stopped and started.
type mosquittoBroker struct {
	t      *testing.T
	path   string
	addr   string
	config string
	cmd    *exec.Cmd
}

// mosquitto prepares a broker on a free port with more configuration.
func mosquitto(t *testing.T, more string) *mosquittoBroker {
	t.Helper()
	m := &mosquittoBroker{t: t, path: need(t, "mosquitto")}
	dir := t.TempDir()
	port := freePort(t)
	m.addr = fmt.Sprintf("127.0.0.1:%d", port)
	m.config = filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\npersistence_location %s/\nuser root\n%s", port, dir, more)
	if !strings.Contains(more, "allow_anonymous") {
		text += "allow_anonymous true\n"
	}
	if err := os.WriteFile(m.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.stop)
	return m
}

func (m *mosquittoBroker) start() {
	m.t.Helper()
	m.cmd = exec.Command(m.path, "-c", m.config)
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	testkit.Eventually(m.t, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", m.addr)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

func (m *mosquittoBroker) stop() {
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(syscall.SIGTERM)
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

// post sends an event and returns the status; 0 is no answer.
func post(address, body string) int {
	r, err := http.Post("http://"+address+"/hooks/default", "application/json", strings.NewReader(body))
	if err != nil {
		return 0
	}
	defer r.Body.Close()
	_, _ = io.Copy(io.Discard, r.Body)
	return r.StatusCode
}

// TestWhatAPluginHasLeftIsClearedAtMosquitto: what OctoPrint-HomeAssistant has
// announced, and nothing else, also behind a thousand things of others.
func TestWhatAPluginHasLeftIsClearedAtMosquitto(t *testing.T) {
	m := mosquitto(t, "")
	m.start()
	c, err := mqttest.Dial(m.addr, mqttest.Options{})
	testkit.OK(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	keep := func(topic, payload string) {
		testkit.OK(t, c.Publish(wire.Publish{Topic: topic, Payload: []byte(payload), QoS: 1, Retain: true}))
	}
	for n := range 1000 {
		keep(fmt.Sprintf("homeassistant/sensor/other_%d/config", n), `{"unique_id":"other"}`)
	}
	const device = `"device":{"ids":"n","sw":"HomeAssistant Discovery for OctoPrint 3.7.0"}}`
	keep("homeassistant/sensor/n_PRINTING_S/config", `{"~":"octoPrint/","uniq_id":"n_PRINTING_S","stat_t":"~hass/printing",`+device)
	for _, key := range []string{"PRINTING_P", "PRINTING_F"} { // one alone could be forged
		keep("homeassistant/sensor/n_"+key+"/config", `{"~":"octoPrint/","uniq_id":"n_`+key+`","stat_t":"~progress/printing",`+device)
	}
	keep("homeassistant/sensor/n_SOC/config", `{"~":"octoPrint/","uniq_id":"n_SOC","stat_t":"~temperature/soc",`+device)
	keep("octoPrint/hass/is_paused", "False")
	keep("octoPrint/temperature/soc", `{"temperature":50,"_timestamp":1700000000}`)
	keep("octoPrint/mqtt", "connected")
	p := configure(t, "mqtt: {url: mqtt://"+m.addr+"}\n")
	args := []string{"import", "octoprint", "--clear-homeassistant", "--watch", "0s", "--config", p.config, "--state-dir", p.state}
	if status, out, says := runOnce(t, args...); status != 0 || !strings.Contains(out, "removed: 4 announcements to Home Assistant, and 2 other topics") {
		t.Errorf("status %d\n%s\n%s", status, out, says)
	}
	kept, err := mqttest.Retained(m.addr, "#")
	if _, there := kept["octoPrint/mqtt"]; err != nil || len(kept) != 1001 || !there {
		t.Errorf("%v: %d topics are kept", err, len(kept))
	}
	if status, out, says := runOnce(t, args...); status != 0 || out != "nothing of OctoPrint-HomeAssistant is left at mqtt://"+m.addr+"\n" {
		t.Errorf("once more: status %d\n%s\n%s", status, out, says)
	}
}
