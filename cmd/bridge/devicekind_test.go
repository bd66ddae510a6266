package main

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
	"event2mqtt/test/tasmota"
)

// home is the real broker with the accounts that commands make.
type home struct {
	t     *testing.T
	state string
	addr  string
	file  *accounts.Accounts
	log   testkit.Log // warnings, such as of what is refused
}

func newHome(t *testing.T) *home {
	h := &home{t: t, state: t.TempDir()}
	log := zerolog.New(&h.log).Level(zerolog.WarnLevel)
	var err error
	h.file, err = accounts.New(accounts.Options{File: bundled.AccountsFile(h.state), Delay: time.Millisecond, Log: log})
	testkit.OK(t, err)
	b, err := broker.New(broker.Options{Accounts: h.file, Log: log})
	testkit.OK(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Serve(l) }()
	t.Cleanup(func() { b.Close(t.Context()); <-done })
	h.addr = l.Addr().String()
	return h
}

// add runs device add, and has the broker know of it.
func (h *home) add(args ...string) string {
	h.t.Helper()
	out, _, err := execute(h.t, append([]string{"device", "add", "--state-dir", h.state, "--set", "broker.listen=" + h.addr}, args...)...)
	testkit.OK(h.t, err)
	_, err = h.file.Reload()
	testkit.OK(h.t, err)
	return out
}

func (h *home) dial(o mqttest.Options) *mqttest.Client {
	h.t.Helper()
	c, err := mqttest.Dial(h.addr, o)
	testkit.OK(h.t, err)
	h.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	return c
}

// homeAssistant connects with what is printed for its form, and a client id that
// it makes up.
func (h *home) homeAssistant() *mqttest.Client {
	h.t.Helper()
	fields := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^  (\S.*\S)  +(\S+)$`).FindAllStringSubmatch(h.add("homeassistant", "--for", "homeassistant"), -1) {
		fields[line[1]] = line[2]
	}
	if got := fields["Broker"] + ":" + fields["Port"]; got != h.addr || fields["MQTT protocol"] != "5" {
		h.t.Fatalf("the form says %v", fields)
	}
	return h.dial(mqttest.Options{Version: wire.V5, User: fields["Username"], Password: fields["Password"]})
}

// subscribe subscribes to what something is found by and tells.
func subscribe(t *testing.T, c *mqttest.Client, filters ...string) {
	t.Helper()
	for _, filter := range filters {
		if code, err := c.Subscribe(filter, 0); err != nil || code != 0 {
			t.Fatalf("%s: 0x%02x, %v", filter, byte(code), err)
		}
	}
}

// await reads messages until one has the topic, and returns its payload.
func await(t *testing.T, c *mqttest.Client, topic string) string {
	t.Helper()
	for {
		m, err := c.Next()
		if err != nil {
			t.Fatalf("waiting for %s: %v", topic, err)
		}
		if m.Topic == topic {
			return string(m.Payload)
		}
	}
}

// TestATasmotaIsFoundAndSwitched with nothing but what is printed for it and for
// Home Assistant, and nothing that it does is refused.
func TestATasmotaIsFoundAndSwitched(t *testing.T) {
	const mac = "A4:CF:12:DD:EE:01"
	for name, more := range map[string][]string{"with a client id": nil, "with its own client id": {"--mac", mac}} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			ha := h.homeAssistant()
			subscribe(t, ha, "tasmota/discovery/#", "tele/#", "stat/#")
			plug := tasmota.New(mac)
			testkit.OK(t, plug.Enter(h.add(append([]string{"kitchen", "--for", "tasmota"}, more...)...)))
			testkit.OK(t, plug.Start())

			// As Home Assistant's integration finds it.
			var found struct{ T, Ft, Mac string }
			testkit.OK(t, json.Unmarshal([]byte(await(t, ha, "tasmota/discovery/A4CF12DDEE01/config")), &found))
			topic := func(prefix, rest string) string {
				return strings.NewReplacer("%prefix%", prefix, "%topic%", found.T).Replace(found.Ft) + rest
			}
			for i, c := range []struct{ to, value, want string }{
				{topic("cmnd", "Power1"), "ON", "ON"}, {"cmnd/tasmotas/POWER", "TOGGLE", "OFF"}, {"cmnd/" + plug.Setting("MqttClient") + "_fb/POWER", "ON", "ON"}, {topic("cmnd", "Power1"), "OFF", "OFF"},
			} {
				testkit.OK(t, ha.Send(wire.Publish{Topic: c.to, Payload: []byte(c.value)}))
				if got := await(t, ha, topic("stat", "POWER")); got != c.want || plug.Power() != (c.want == "ON") {
					t.Errorf("%d: %s %s makes it %s", i, c.to, c.value, got)
				}
			}
			plug.Stop()
			if got := await(t, ha, topic("tele", "LWT")); got != "Offline" {
				t.Errorf("its will says %s", got)
			}
			subscribe(t, ha, "tasmota/discovery/+/config") // again, as after a restart
			if got := await(t, ha, "tasmota/discovery/A4CF12DDEE01/config"); got == "" {
				t.Error("it is not found any more")
			}
			if log := h.log.String(); log != "" {
				t.Errorf("the broker warns: %s", log)
			}
		})
	}
}

// TestAnESPHomeIsFoundAndSwitched with what is printed for it.
func TestAnESPHomeIsFoundAndSwitched(t *testing.T) {
	h := newHome(t)
	ha := h.homeAssistant()
	subscribe(t, ha, "homeassistant/#", "porch/#", "esphome/#")
	var is struct {
		MQTT struct {
			Broker, Username, Password string
			Port                       int
			ClientID                   string `yaml:"client_id"`
			Prefix                     string `yaml:"topic_prefix"`
		}
	}
	testkit.OK(t, yaml.Unmarshal([]byte(h.add("porch", "--for", "esphome")), &is))
	m := is.MQTT
	if got := fmt.Sprintf("%s:%d", m.Broker, m.Port); got != h.addr || m.Prefix != "porch" {
		t.Errorf("the broker is %s, the prefix %s", got, m.Prefix)
	}
	// What the component mqtt does by default.
	node := h.dial(mqttest.Options{ID: m.ClientID, User: m.Username, Password: m.Password, Will: &wire.Publish{Topic: "porch/status", Payload: []byte("offline"), Retain: true}})
	subscribe(t, node, "porch/switch/relay/command", "esphome/discover", "esphome/ping/porch")
	for _, own := range []wire.Publish{
		{Topic: "porch/status", Payload: []byte("online"), Retain: true},
		{Topic: "homeassistant/switch/porch/relay/config", Payload: []byte(`{"name":"Relay","cmd_t":"porch/switch/relay/command","stat_t":"porch/switch/relay/state"}`), Retain: true},
		{Topic: "porch/debug", Payload: []byte("\x1b[0;32m[I][app:029]: Running through setup()...\x1b[0m"), Retain: true},
		{Topic: "porch/switch/relay/state", Payload: []byte("OFF"), Retain: true},
		{Topic: "esphome/discover/porch", Payload: []byte(`{"ip":"192.168.7.21","name":"porch"}`), Retain: true},
	} {
		testkit.OK(t, node.Send(own))
		if got := await(t, ha, own.Topic); got != string(own.Payload) {
			t.Errorf("%s: %s", own.Topic, got)
		}
	}
	for _, command := range []string{"porch/switch/relay/command", "esphome/discover", "esphome/ping/porch"} {
		testkit.OK(t, ha.Send(wire.Publish{Topic: command, Payload: []byte("ON")}))
		if got := await(t, node, command); got != "ON" {
			t.Errorf("%s: %s", command, got)
		}
	}
	testkit.OK(t, node.Close())
	if got := await(t, ha, "porch/status"); got != "offline" {
		t.Errorf("its will says %s", got)
	}
	if log := h.log.String(); log != "" {
		t.Errorf("the broker warns: %s", log)
	}
}

// TestDevicesMayDoNothingElse than what they were made for.
func TestDevicesMayDoNothingElse(t *testing.T) {
	h := newHome(t)
	for kind, c := range map[string]struct{ write, notWrite, read, notRead string }{
		"tasmota": {
			write:    "tele/NAME/LWT stat/NAME/RESULT cmnd/NAME/POWER tasmota/discovery/A4CF12DDEE01/config",
			notWrite: "tele/bedroom/LWT stat/bedroom/RESULT cmnd/bedroom/POWER cmnd/tasmotas/POWER cmnd/ID_fb/POWER tasmota/else homeassistant/switch/x/config NAME event2mqtt/mqtt event2mqtt/mk4/set/pause",
			read:     "cmnd/NAME/# tele/NAME/# cmnd/tasmotas/# cmnd/ID_fb/#",
			notRead:  "cmnd/bedroom/# stat/NAME/# tasmota/discovery/# tasmota/# homeassistant/# event2mqtt/# $SYS/#",
		},
		"esphome": {
			write:    "NAME/status NAME/switch/relay/state NAME/debug homeassistant/switch/NAME/relay/config esphome/discover/NAME",
			notWrite: "bedroom/status homeassistant/status homeassistant/switch/bedroom/relay/config homeassistant/device/x/config esphome/discover/bedroom esphome/discover esphome/ping/bedroom event2mqtt/mqtt event2mqtt/mk4/set/pause",
			read:     "NAME/# esphome/discover esphome/ping/NAME",
			notRead:  "bedroom/# homeassistant/# esphome/discover/+ esphome/ping/bedroom event2mqtt/# $SYS/#",
		},
	} {
		t.Run(kind, func(t *testing.T) {
			name := "a-" + kind
			var is credentials
			testkit.OK(t, json.Unmarshal([]byte(h.add(name, "--for", kind, "--json")), &is))
			o := mqttest.Options{Version: wire.V5, ID: is.ClientID, User: is.Username, Password: is.Password}
			device := h.dial(o)
			all := func(topics string) []string {
				return strings.Fields(strings.NewReplacer("NAME", name, "ID", is.ClientID).Replace(topics))
			}
			for _, topic := range all(c.write) {
				if code := publishes(t, device, topic); code >= 0x80 {
					t.Errorf("publish %s: 0x%02x", topic, byte(code))
				}
			}
			for _, topic := range all(c.notWrite) {
				if code := publishes(t, device, topic); code != wire.NotAuthorized {
					t.Errorf("publish %s: 0x%02x", topic, byte(code))
				}
			}
			for want, filters := range map[wire.Code]string{0: c.read, wire.NotAuthorized: c.notRead} {
				for _, filter := range all(filters) {
					if code, err := device.Subscribe(filter, 0); err != nil || code != want {
						t.Errorf("subscribe %s: 0x%02x, %v", filter, byte(code), err)
					}
				}
			}
			o.ID = "another"
			if _, _, code, err := mqttest.Connect(h.addr, o); err != nil || code != wire.BadCredentials {
				t.Errorf("with another client id: 0x%02x, %v", byte(code), err)
			}
		})
	}
}

// TestWhatIsPrintedForDevices is what each asks for, in its own words.
func TestWhatIsPrintedForDevices(t *testing.T) {
	state, passwords, secret := t.TempDir(), map[string]string{}, regexp.MustCompile(`[a-z2-7]{26}`)
	for line, want := range map[string]string{
		"kitchen --for tasmota":                  "Backlog Topic kitchen; FullTopic %prefix%/%topic%/; SetOption19 0; MqttHost 192.168.7.7; MqttPort 1883; MqttClient kitchen-ID; MqttUser kitchen; MqttPassword SECRET\n",
		"hall --for tasmota --mac a4cf12ddee01":  "Backlog Topic hall; FullTopic %prefix%/%topic%/; SetOption19 0; MqttHost 192.168.7.7; MqttPort 1883; MqttClient DVES_DDEE01; MqttUser hall; MqttPassword SECRET\n",
		"other --for tasmota --allow tele/x/#:w": "Backlog MqttHost 192.168.7.7; MqttPort 1883; MqttClient other-ID; MqttUser other; MqttPassword SECRET\n",
		"porch --for esphome": `# The name under "esphome:" must be porch, or Home Assistant does not find the device.
mqtt:
  broker: 192.168.7.7
  port: 1883
  client_id: "porch-ID"
  username: "porch"
  password: "SECRET"
  topic_prefix: "porch"
`,
		"own --for esphome --allow x/#:w": `mqtt:
  broker: 192.168.7.7
  port: 1883
  client_id: "own-ID"
  username: "own"
  password: "SECRET"
`,
		"homeassistant --for homeassistant": `In Home Assistant: Settings, Devices & services, Add integration, MQTT. Enter

  Broker            192.168.7.7
  Port              1883
  Username          homeassistant
  Password          SECRET
  MQTT protocol     5

Leave "Other settings" as they are; the client ID there stays empty. Older versions call them "Advanced
options" and do not ask for the protocol; leave all that as it is, too.

The password is not shown again; "e2m user passwd homeassistant" sets another, and "e2m user rm homeassistant" removes the account.
`,
	} {
		out, _, err := execute(t, append([]string{"device", "add", "--state-dir", state, "--host", "192.168.7.7"}, strings.Fields(line)...)...)
		testkit.OK(t, err)
		passwords[strings.Fields(line)[0]] = secret.FindString(out)
		out = secret.ReplaceAllString(out, "SECRET")
		if out = regexp.MustCompile(`(kitchen|other|porch|own)-[a-z2-7]{6}`).ReplaceAllString(out, "$1-ID"); out != want {
			t.Errorf("%s prints\n%s\nnot\n%s", line, out, want)
		}
	}
	out, _, err := execute(t, "device", "reset", "kitchen", "--for", "tasmota", "--state-dir", state)
	if err != nil || !strings.HasPrefix(out, "Backlog Topic kitchen; ") || strings.Contains(out, passwords["kitchen"]) {
		t.Errorf("a new password: %s, %v", out, err)
	}
	out, _, err = execute(t, "user", "list", "--state-dir", state)
	if want := "homeassistant   #:rw, $SYS/#:r\n"; err != nil || out != want {
		t.Errorf("users: %s, %v", out, err)
	}
	if _, _, err := execute(t, "device", "rm", "homeassistant", "--state-dir", state); err == nil || !strings.Contains(err.Error(), `see "e2m user list"`) {
		t.Errorf("removing it as a device: %v", err)
	}
}

// TestADeviceOfHomeAssistantKeepsItsClientID: what an older version has made is
// shown with where the id is entered.
func TestADeviceOfHomeAssistantKeepsItsClientID(t *testing.T) {
	state := t.TempDir()
	_, _, err := execute(t, "device", "add", "ha", "--allow", "#:rw", "--state-dir", state)
	testkit.OK(t, err)
	out, _, err := execute(t, "device", "reset", "ha", "--for", "homeassistant", "--state-dir", state)
	if err != nil || !regexp.MustCompile(`"Other settings"(?s:.*)Client ID +ha-\w{6}\n`).MatchString(out) || strings.Contains(out, "user passwd") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestNamesThatTopicsCannotHave are refused with what is wrong, before anything
// is stored.
func TestNamesThatTopicsCannotHave(t *testing.T) {
	state := t.TempDir()
	for line, want := range map[string]string{
		"küche|--for|tasmota":                      `because of "ü"; use up to 32 letters without accents, digits, - and _, such as k-che`,
		"a/b|--for|tasmota":                        `because of "/"`,
		"my plug|--for|tasmota":                    "such as my-plug",
		"+|--for|tasmota":                          `"+" cannot be the topic of a Tasmota device; use up to 32 letters`,
		"tasmotas|--for|tasmota":                   "that of all",
		"1|--for|tasmota":                          "such as plug1",
		strings.Repeat("x", 33) + "|--for|tasmota": "use up to 32 letters",
		"My_Plug|--for|esphome":                    `because of "M"; use up to 31 small letters without accents, digits and -, such as my-plug`,
		"x|--for|tasmota|--mac|12":                 "--mac 12: that is not a MAC address",
		"x|--for|esphome|--mac|a4cf12ddee01":       "only of use with --for tasmota",
		"x|--for|shelly":                           "there are tasmota, esphome and homeassistant",
		"x":                                        "such as --for tasmota, or give at least one rule",
	} {
		out, _, err := execute(t, append([]string{"device", "add", "--state-dir", state}, strings.Split(line, "|")...)...)
		if err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%s: %v; want %s; it prints %s", line, err, want, out)
		}
	}
	if out, _, err := execute(t, "device", "list", "--state-dir", state); err != nil || out != "there are no devices\n" {
		t.Errorf("stored: %s, %v", out, err)
	}
	_, _, err := execute(t, "device", "add", "one", "--for", "tasmota", "--mac", "a4cf12ddee01", "--state-dir", state)
	testkit.OK(t, err)
	if _, _, err := execute(t, "device", "add", "two", "--for", "tasmota", "--mac", "A4:CF:12:DD:EE:01", "--state-dir", state); err == nil || !strings.Contains(err.Error(), "one has the client id DVES_DDEE01") {
		t.Errorf("a second one of the same MAC address: %v", err)
	}
}
