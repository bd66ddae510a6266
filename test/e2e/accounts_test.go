package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// bridge runs a subcommand beside the program, with a line of input.
func (p *program) bridge(input string, args ...string) (string, error) {
	p.t.Helper()
	cmd := exec.Command(binary, append(args, "--config", p.config, "--state-dir", p.state)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *program) mustBridge(input string, args ...string) string {
	p.t.Helper()
	out, err := p.bridge(input, args...)
	if err != nil {
		p.t.Fatalf("bridge %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestAccountsAreManagedWhileTheBrokerRuns: devices and users are added, given
// new passwords and removed; the running broker follows at once.
func TestAccountsAreManagedWhileTheBrokerRuns(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := configure(t, fmt.Sprintf("broker: {listen: %q}\n", addr))
	p.start()
	anonymous, err := mqttest.Dial(addr, mqttest.Options{})
	if err != nil {
		t.Fatalf("without accounts, a client of this machine: %v", err)
	}
	defer anonymous.Close()

	type credentials struct {
		Host, Username, Password string
		Port                     int
		ClientID                 string `json:"client_id"`
	}
	device := func(args ...string) (c credentials) {
		t.Helper()
		if err := json.Unmarshal([]byte(lastJSON(p.mustBridge("", append([]string{"device"}, args...)...))), &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	connect := func(c credentials) (*mqttest.Client, wire.Code) {
		t.Helper()
		client, _, code, err := mqttest.Connect(addr, mqttest.Options{Version: wire.V5, ID: c.ClientID, User: c.Username, Password: c.Password})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		_ = client.SetDeadline(time.Now().Add(mqttest.Patience))
		return client, code
	}
	kitchen := device("add", "kitchen", "--allow", "tele/kitchen/#:rw", "--json")
	if fmt.Sprintf("%s:%d", kitchen.Host, kitchen.Port) != addr {
		t.Errorf("shown address: %+v", kitchen)
	}
	if _, err := anonymous.Expect(wire.DISCONNECT); err == nil {
		t.Error("3.1.1 was sent a DISCONNECT")
	} else if !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the anonymous client is still there: %v", err)
	}
	c, code := connect(kitchen)
	if code != 0 {
		t.Fatalf("the new device is refused: 0x%02x", byte(code))
	}
	if code, err := c.Subscribe("tele/kitchen/#", 1); err != nil || code != 1 {
		t.Errorf("subscribe: 0x%02x, %v", byte(code), err)
	}
	if code, err := c.Subscribe("cmnd/#", 1); err != nil || code != wire.NotAuthorized {
		t.Errorf("subscribe to what is not its own: 0x%02x, %v", byte(code), err)
	}
	began := time.Now()
	fresh := device("reset", "kitchen", "--json")
	if _, err := c.Expect(wire.DISCONNECT); err != nil {
		t.Errorf("the connection with the old password: %v", err)
	}
	t.Logf("cut off %s after the command began", time.Since(began))
	if _, code := connect(kitchen); code != wire.BadCredentials {
		t.Errorf("the old password: 0x%02x", byte(code))
	}
	if fresh.ClientID != kitchen.ClientID || fresh.Password == kitchen.Password {
		t.Errorf("reset: %+v", fresh)
	}
	c, code = connect(fresh)
	if code != 0 {
		t.Errorf("the new password: 0x%02x", byte(code))
	}
	p.mustBridge("", "user", "allow", "kitchen", "cmnd/#:r")
	testkit.Eventually(t, "the new rules hold", func() bool {
		code, err := c.Subscribe("cmnd/#", 1)
		return err == nil && code == 1
	})
	p.mustBridge("", "device", "rm", "kitchen")
	if _, err := c.Expect(wire.DISCONNECT); err != nil {
		t.Errorf("the removed device: %v", err)
	}
	if log := p.log.String(); strings.Contains(log, kitchen.Password) || strings.Contains(log, fresh.Password) {
		t.Error("a password is in the log")
	}
}

// TestUsersAndDevicesAreListedApart, and a device's credentials are shown as
// what it wants to have them in.
func TestUsersAndDevicesAreListedApart(t *testing.T) {
	p := configure(t, fmt.Sprintf("broker: {listen: \"127.0.0.1:%d\"}\n", freePort(t)))
	p.start()
	p.mustBridge("", "device", "add", "kitchen", "--allow", "tele/kitchen/#:rw")
	p.mustBridge("ann's password\n", "user", "add", "ann")
	if out, err := p.bridge("short\n", "user", "passwd", "ann"); err == nil || !strings.Contains(out, "fewer than 8") {
		t.Errorf("a short password: %v: %s", err, out)
	}
	if out, err := p.bridge("", "user", "add", "ann"); err == nil {
		t.Errorf("a second ann: %s", out)
	}
	if out := p.mustBridge("", "user", "list"); !strings.Contains(out, "ann") || strings.Contains(out, "kitchen") {
		t.Errorf("users: %s", out)
	}
	if out := p.mustBridge("", "device", "list"); !strings.Contains(out, "kitchen") || strings.Contains(out, "ann") {
		t.Errorf("devices: %s", out)
	}
	for _, format := range []string{"tasmota", "esphome", "homeassistant"} {
		out := p.mustBridge("", "device", "add", "for-"+format, "--allow", "x/#:rw", "--for", format, "--host", "192.168.7.7")
		if !strings.Contains(out, "192.168.7.7") || !strings.Contains(out, "for-"+format) {
			t.Errorf("%s: %s", format, out)
		}
	}
}

func lastJSON(out string) string { return out[max(0, strings.Index(out, "{")):] }

// TestTheNetworkIsNotListenedOnWithoutUsers, and check says the same as run.
func TestTheNetworkIsNotListenedOnWithoutUsers(t *testing.T) {
	p := configure(t, fmt.Sprintf("broker: {listen: \"0.0.0.0:%d\"}\n", freePort(t)))
	for _, command := range []string{"check", "run"} {
		out, err := p.bridge("", command)
		if err == nil || !strings.Contains(out, "event2mqtt user add") {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
	p.mustBridge("a long password\n", "user", "add", "ann")
	p.mustBridge("", "check")
}
