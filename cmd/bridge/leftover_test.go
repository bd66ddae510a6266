package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/control"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// pluginEntities are those of OctoPrint-HomeAssistant 3.7.0, by the end of their
// topics, with their own keys. BASE is what topics begin with.
var pluginEntities = map[string]string{
	"binary_sensor/CONNECTED": `"stat_t":"~hass/Connected","pl_on":"Connected"`,
	"binary_sensor/PRINTING":  `"stat_t":"~hass/printing","val_tpl":"{{value_json.state.flags.printing}}"`,
	"sensor/EVENT":            `"stat_t":"~event/+","val_tpl":"{{value_json._event}}"`,
	"sensor/PRINTING_S":       `"stat_t":"~hass/printing"`,
	"sensor/PRINTING_P":       `"stat_t":"~progress/printing"`,
	"sensor/PRINTING_F":       `"stat_t":"~progress/printing"`,
	"sensor/PRINTING_T":       `"stat_t":"~hass/printing"`,
	"sensor/PRINTING_E":       `"stat_t":"~hass/printing"`,
	"sensor/PRINTING_ETA":     `"stat_t":"~hass/printing"`,
	"sensor/PRINTING_C":       `"stat_t":"~hass/printing"`,
	"sensor/PRINTING_Z":       `"stat_t":"~hass/printing"`,
	"sensor/SLICING_P":        `"stat_t":"~progress/slicing"`,
	"sensor/SLICING_F":        `"stat_t":"~progress/slicing"`,
	"sensor/TOOL0":            `"stat_t":"~temperature/tool0"`,
	"sensor/TOOL0_TARGET":     `"stat_t":"~temperature/tool0"`,
	"sensor/BED":              `"stat_t":"~temperature/bed"`,
	"sensor/BED_TARGET":       `"stat_t":"~temperature/bed"`,
	"sensor/CHAMBER":          `"stat_t":"~temperature/chamber"`,
	"sensor/CHAMBER_TARGET":   `"stat_t":"~temperature/chamber"`,
	"sensor/SOC":              `"stat_t":"~temperature/soc"`,
	"switch/CONNECT":          `"cmd_t":"~hassControl/connect","stat_t":"BASEhass/Connected"`,
	"button/STOP":             `"cmd_t":"~hassControl/stop"`,
	"button/CANCEL":           `"cmd_t":"~hassControl/cancel"`,
	"switch/PAUSE":            `"cmd_t":"~hassControl/pause","stat_t":"~hass/is_paused"`,
	"button/SHUTDOWN":         `"cmd_t":"~hassControl/shutdown"`,
	"button/REBOOT":           `"cmd_t":"~hassControl/reboot"`,
	"button/RESTART":          `"cmd_t":"~hassControl/restart"`,
	"switch/PSU":              `"cmd_t":"~hassControl/psu","stat_t":"~hass/psu_on"`,
	"switch/CAMERA_SNAPSHOT":  `"cmd_t":"~hassControl/camera_snapshot","stat_t":"~hassControl/camera_snapshot"`,
}

// announced is what the plugin announces, by topic.
func announced(prefix, node, base string) map[string]string {
	all := map[string]string{}
	for at, own := range pluginEntities {
		component, key, _ := strings.Cut(at, "/")
		start := prefix
		if key == "SOC" {
			start = "homeassistant"
		}
		more := ""
		if key == "CANCEL" || key == "PAUSE" {
			more = `{"t":"~hass/is_printing","pl_avail":"True","pl_not_avail":"False"},`
		}
		all[start+"/"+component+"/"+node+"_"+key+"/config"] = fmt.Sprintf(`{"avty":[%s{"t":"~mqtt","pl_avail":"connected","pl_not_avail":"disconnected"}],"~":%q,"name":"Ender %s","uniq_id":"%s_%s",%s,"device":{"ids":%q,"name":"Ender","mf":"Clifford Roche","mdl":"HomeAssistant Discovery for OctoPrint","sw":"HomeAssistant Discovery for OctoPrint 3.7.0"}}`,
			more, base, key, node, key, strings.ReplaceAll(own, "BASE", base), node)
	}
	return all
}

// pluginStates are the plugin's own, as they are while nothing is printed. seen is
// when it published last.
func pluginStates(base string, seen time.Time) map[string]string {
	return map[string]string{
		base + "hass/Connected": "Connected", base + "hass/is_printing": "False", base + "hass/is_paused": "False", base + "hass/psu_on": "True",
		base + "hass/printing":    fmt.Sprintf(`{"state":{"text":"Operational"},"job":{},"progress":{},"_timestamp":%d}`, seen.Unix()-60),
		base + "temperature/soc":  fmt.Sprintf(`{"temperature":51.2,"_timestamp":%d}`, seen.Unix()),
		base + "hassControl/stop": "PRESS", base + "camera": "\xff\xd8\xff\xe0 a picture",
	}
}

// othersOf is what is not the plugin's, though some of it is close.
func othersOf(node, base string) map[string]string {
	const device = `"device":{"ids":"NODE","mf":"Clifford Roche","mdl":"HomeAssistant Discovery for OctoPrint"}`
	all := map[string]string{
		base + "mqtt": "connected", base + "event/ZChange": `{"_event":"ZChange"}`, base + "progress/printing": `{"progress":7}`,
		base + "temperature/tool0": `{"actual":20,"target":0}`, base + "hass/mine": "1", base + "hassControl/home": `["x"]`,
		"homeassistant/sensor/NODE_MINE/config":       `{"~":"BASE","uniq_id":"NODE_MINE",` + device + `}`,
		"homeassistant/sensor/NODE_PRINTING_X/config": `{"~":"BASE","uniq_id":"NODE_PRINTING_X",` + device + `}`,
		"homeassistant/light/NODE_BED/config":         `{"~":"BASE","uniq_id":"NODE_BED",` + device + `}`,
		"homeassistant/sensor/other_BED/config":       `{"~":"BASE","uniq_id":"other_BED",` + device + `}`,
		"homeassistant/sensor/NODE/BED/config":        `{"~":"BASE","uniq_id":"NODE_BED",` + device + `}`,
		"homeassistant/switch/NODE_BED/config":        `{"~":"BASE","uniq_id":"another",` + device + `}`,
		"homeassistant/switch/NODE_SOC/config":        `{"~":"BASE","uniq_id":"NODE_SOC","device":{"ids":"NODE","mf":"me","mdl":"HomeAssistant Discovery for OctoPrint"}}`,
		"homeassistant/switch/NODE_TOOL0/config":      `no JSON`,
	}
	out := map[string]string{}
	for at, text := range all {
		r := strings.NewReplacer("NODE", node, "BASE", base)
		out[r.Replace(at)] = r.Replace(text)
	}
	return out
}

// retain publishes what a broker is to keep.
func retain(t *testing.T, address string, all ...map[string]string) {
	t.Helper()
	c, err := mqttest.Dial(address, mqttest.Options{})
	testkit.OK(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	for _, messages := range all {
		for at, text := range messages {
			testkit.OK(t, c.Publish(wire.Publish{Topic: at, Payload: []byte(text), QoS: 1, Retain: true, PacketID: 1}))
		}
	}
}

// kept is what a broker keeps, but for what event2mqtt itself has published. What
// is retained for a second subscription comes behind that for the first.
func kept(t *testing.T, address string) map[string]string {
	t.Helper()
	const last = "test/last"
	retain(t, address, map[string]string{last: "x"})
	c, err := mqttest.Dial(address, mqttest.Options{})
	testkit.OK(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	_, err = c.Write(mqttest.AppendSubscribe(mqttest.AppendSubscribe(nil, c.Version, 1, "#", 0, nil), c.Version, 2, last, 0, nil))
	testkit.OK(t, err)
	all := map[string]string{}
	for times := 0; times < 2; {
		header, body, err := c.Reader.Next()
		testkit.OK(t, err)
		var m wire.Publish
		if wire.Type(header>>4) != wire.PUBLISH {
			continue
		}
		testkit.OK(t, wire.DecodePublish(&m, c.Version, header, append([]byte(nil), body...), ""))
		switch {
		case m.Topic == last:
			times++
		case m.Retain:
			all[m.Topic] = string(m.Payload)
		}
	}
	maps.DeleteFunc(all, func(at, _ string) bool {
		return strings.HasPrefix(at, "event2mqtt/") || strings.HasPrefix(at, "homeassistant/device/") || strings.HasPrefix(at, "homeassistant/event2mqtt/")
	})
	return all
}

// program runs with a configuration until the test ends. MQTT and HTTP stand for
// addresses, of which the first is returned.
func (s setup) program(text string) (mqtt string) {
	s.t.Helper()
	mqtt = testkit.FreeAddress(s.t)
	testkit.Write(s.t, s.config, strings.NewReplacer("MQTT", mqtt, "HTTP", testkit.FreeAddress(s.t)).Replace(text))
	load := func() (*bridge.Plan, error) { return bridge.Load(s.config, os.Environ(), s.state) }
	plan, err := load()
	testkit.OK(s.t, err)
	log := &testkit.Log{}
	b := bridge.New(bridge.Options{Plan: plan, Load: load, File: s.config, StateDir: s.state, Log: zerolog.New(log)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil || s.t.Failed() {
			s.t.Logf("%v; its log:\n%s", err, log.String())
		}
	})
	testkit.Eventually(s.t, "it runs", func() bool { return control.Running(s.state) })
	return mqtt
}

const (
	bundledBroker = "log: {level: warn}\nhttp: {listen: HTTP}\nbroker: {listen: MQTT}\n"
	node          = "0123456789abcdef0123456789abcdef"
)

// brokers has a test run with each kind of broker: that of the running program,
// one in the network that a running program uses, and one that none does.
func brokers(t *testing.T, test func(t *testing.T, address string, run func(args ...string) (string, string, error))) {
	for _, kind := range []string{"bundled", "of the running program", "of the configuration"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // they wait for the broker
			s := newSetup(t, "")
			address := s.program(bundledBroker)
			args := []string{"--state-dir", s.state}
			outside := "mqtt: {url: 'mqtt://" + address + "'}\n"
			switch kind {
			case "of the running program":
				s = newSetup(t, "")
				s.program("http: {listen: HTTP}\n" + outside)
				args = []string{"--state-dir", s.state}
			case "of the configuration":
				s = newSetup(t, outside)
				args = []string{"--state-dir", s.state, "--config", s.config}
			}
			test(t, address, func(more ...string) (string, string, error) {
				return execute(t, append(append([]string{"import", "octoprint", "--clear-homeassistant", "--watch", "0s"}, more...), args...)...)
			})
		})
	}
}

// TestWhatThePluginHasLeftIsCleared, all of it, and nothing else; with --print it
// is listed alone. There is nothing to do the second time.
func TestWhatThePluginHasLeftIsCleared(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, address string, run func(args ...string) (string, string, error)) {
		others := othersOf(node, "octoPrint/")
		retain(t, address, others, announced("homeassistant", node, "octoPrint/"), pluginStates("octoPrint/", time.Now().Add(-time.Hour)))
		before := kept(t, address)
		out, says, err := run("--print")
		if err != nil || !maps.Equal(before, kept(t, address)) || !strings.Contains(out, "would be removed: 29 announcements to Home Assistant, and 8 other topics; leave out --print") {
			t.Fatalf("%v\n%s\n%s", err, out, says)
		}
		for at := range announced("homeassistant", node, "octoPrint/") {
			if !strings.Contains(out, "  "+at+"  ") {
				t.Errorf("%s is not listed:\n%s", at, out)
			}
		}
		out, says, err = run()
		if err != nil || !maps.Equal(others, kept(t, address)) || !strings.Contains(out, "Ender ("+node+"), of OctoPrint-HomeAssistant at ") || !strings.Contains(out, "removed: 29 announcements to Home Assistant, and 8 other topics\n") {
			t.Errorf("%v\n%s\n%s\n%v", err, out, says, kept(t, address))
		}
		for _, want := range []string{"note: octoPrint/hass/mine is left as it is: it is none that the plugin is known to publish", "note: octoPrint/hassControl/home is left as it is", "note: the last sign of the plugin is of ", "must be off in OctoPrint's Plugin Manager"} {
			if !strings.Contains(says, want) {
				t.Errorf("it does not say %q:\n%s", want, says)
			}
		}
		if out, says, err = run(); err != nil || !strings.HasPrefix(out, "nothing of OctoPrint-HomeAssistant is left at ") || strings.Count(out, "\n") != 1 {
			t.Errorf("once more: %v\n%s\n%s", err, out, says)
		}
	})
}

// TestOnlyTheDeviceOfAFileIsCleared, where the plugin is configured to have it;
// its states are found when it is announced no more.
func TestOnlyTheDeviceOfAFileIsCleared(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "")
	address := s.program(bundledBroker)
	theirs := testkit.Write(t, filepath.Join(t.TempDir(), "octoprint.yaml"), "plugins: {homeassistant: {node_id: two, unique_id: abcdef12-3456, discovery_topic: ha}, mqtt: {publish: {baseTopic: second/}}}\n")
	stay := announced("homeassistant", "one", "octoPrint/")
	maps.Copy(stay, pluginStates("octoPrint/", time.Now().Add(-time.Hour)))
	retain(t, address, stay, announced("ha", "two", "second/"), pluginStates("second/", time.Now().Add(-time.Hour)))
	out, says, err := s.run("import", "octoprint", theirs, "--clear-homeassistant", "--watch", "0s")
	if err != nil || !maps.Equal(stay, kept(t, address)) || !strings.Contains(out, "removed: 29 announcements to Home Assistant, and 8 other topics\n") {
		t.Errorf("%v\n%s\n%s\n%v", err, out, says, kept(t, address))
	}
	retain(t, address, pluginStates("second/", time.Now().Add(-time.Hour)))
	out, says, err = s.run("import", "octoprint", theirs, "--clear-homeassistant", "--watch", "0s")
	if err != nil || !maps.Equal(stay, kept(t, address)) || !strings.Contains(out, "a device that is no longer announced") {
		t.Errorf("states alone: %v\n%s\n%s\n%v", err, out, says, kept(t, address))
	}
}

// TestADeviceOfAnOldPluginIsCleared: before version 3 the id was short, and the
// availability was written otherwise.
func TestADeviceOfAnOldPluginIsCleared(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "")
	address := s.program(bundledBroker)
	old := func(component, key, own string) map[string]string {
		return map[string]string{"homeassistant/" + component + "/ABCDEF_" + key + "/config": `{"avty_t":"~mqtt","pl_avail":"connected","~":"octoPrint/","uniq_id":"ABCDEF_` + key + `",` + own + `,"device":{"ids":["ABCDEF"],"name":"OctoPrint","mf":"Clifford Roche","mdl":"HomeAssistant Discovery for OctoPrint","sw":"1.4.0"}}`}
	}
	others := map[string]string{"octoPrint/mqtt": "connected", "octoPrint/event/Connected": `{"_event":"Connected"}`}
	retain(t, address, others, old("binary_sensor", "CONNECTED", `"stat_t":"~event/Connected"`), old("sensor", "TOOL_TARGET0", `"stat_t":"~temperature/tool0"`),
		old("sensor", "PRINTING_S", `"stat_t":"~hass/printing"`), old("switch", "CANCEL", `"cmd_t":"~hassControl/cancel","avty_t":"~hass/is_printing"`), map[string]string{"octoPrint/hass/is_printing": "False"})
	out, says, err := s.run("import", "octoprint", "--clear-homeassistant", "--watch", "0s")
	if err != nil || !maps.Equal(others, kept(t, address)) || !strings.Contains(out, "removed: 4 announcements to Home Assistant, and 1 other topic\n") || !strings.Contains(says, "whether the plugin is off cannot be seen: octoPrint/mqtt says connected") {
		t.Errorf("%v\n%s\n%s\n%v", err, out, says, kept(t, address))
	}
}

// TestAPluginThatIsStillOnIsLeftAlone: it has published a moment ago. Others are
// cleared all the same.
func TestAPluginThatIsStillOnIsLeftAlone(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, address string, run func(args ...string) (string, string, error)) {
		stay := announced("homeassistant", node, "octoPrint/")
		maps.Copy(stay, pluginStates("octoPrint/", time.Now()))
		retain(t, address, stay, announced("homeassistant", "two", "second/"))
		out, says, err := run()
		if err == nil || exitStatus(err) != 1 || !strings.Contains(err.Error(), "is still on: it published octoPrint/temperature/soc ") || !strings.Contains(err.Error(), "nothing of Ender ("+node+") is removed; switch the plugin off") ||
			!maps.Equal(stay, kept(t, address)) || !strings.Contains(out, "removed: 29 announcements to Home Assistant, and 0 other topics") {
			t.Errorf("%v\n%s\n%s\n%v", err, out, says, kept(t, address))
		}
	})
}

// TestAPluginThatAnnouncesAgainIsSaid.
func TestAPluginThatAnnouncesAgainIsSaid(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]map[string]string{
		"announced": announced("homeassistant", node, "octoPrint/"),
		"a state":   {"octoPrint/temperature/soc": `{"temperature":null,"_timestamp":1700000000}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			brokers(t, func(t *testing.T, address string, run func(args ...string) (string, string, error)) {
				retain(t, address, announced("homeassistant", node, "octoPrint/"))
				done := make(chan error, 1)
				go func() {
					_, _, err := run("--watch", "2s")
					done <- err
				}()
				testkit.Eventually(t, "it is cleared", func() bool { return len(kept(t, address)) == 0 })
				retain(t, address, again)
				if err := <-done; err == nil || !strings.Contains(err.Error(), "is still on: it has published again for Ender ("+node+") since; switch the plugin off") {
					t.Error(err)
				}
			})
		})
	}
}

// TestAPictureThatIsTooLargeIsLeft, as what it is was not looked at, and said.
func TestAPictureThatIsTooLargeIsLeft(t *testing.T) {
	t.Parallel()
	outside := newSetup(t, "")
	address := outside.program(bundledBroker)
	s := newSetup(t, "mqtt: {url: 'mqtt://"+address+"'}\n")
	retain(t, address, announced("homeassistant", node, "octoPrint/"), map[string]string{"octoPrint/camera": "\xff\xd8\xff" + strings.Repeat("x", 20_000)})
	out, says, err := s.run("import", "octoprint", "--clear-homeassistant", "--watch", "0s")
	if all := kept(t, address); err != nil || len(all) != 1 || len(all["octoPrint/camera"]) < 20_000 || !strings.Contains(says, "note: octoPrint/camera is left as it is: it has 2") {
		t.Errorf("%v\n%s\n%s\n%d %d", err, out, says, len(all), len(all["octoPrint/camera"]))
	}
}

// TestNamesFromTheBrokerDoNotSteerTheTerminal.
func TestNamesFromTheBrokerDoNotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "")
	address := s.program(bundledBroker)
	all := announced("homeassistant", node, "octoPrint/")
	for at, text := range all {
		all[at] = strings.ReplaceAll(text, "Ender", `\u001b[2J`)
	}
	retain(t, address, all)
	if out, says, err := s.run("import", "octoprint", "--clear-homeassistant", "--watch", "0s"); err != nil || strings.Contains(out+says, "\x1b") || !strings.Contains(out, `\x1b[2J`) {
		t.Errorf("%v\n%s\n%s", err, out, says)
	}
}

// TestWhatIsInTheWayOfClearingIsSaid.
func TestWhatIsInTheWayOfClearingIsSaid(t *testing.T) {
	t.Parallel()
	bare := testkit.Write(t, filepath.Join(t.TempDir(), "bare.yaml"), "plugins: {mqtt: {}}\n")
	s := newSetup(t, "# mine\n")
	away := newSetup(t, "mqtt: {url: 'mqtt://"+testkit.FreeAddress(t)+"', timeout: 1s}\n")
	for name, c := range map[string]struct {
		in     setup
		args   []string
		want   string
		status int
	}{
		"the program does not run": {s, nil, "the bundled broker is there only while event2mqtt runs: start it, and try again", 1},
		"no broker":                {away, nil, "nothing listens there", 1},
		"no settings":              {s, []string{bare}, "it has no settings of OctoPrint-HomeAssistant", 1},
		"no file":                  {s, []string{"/nowhere"}, "no such file", exitUsage},
		"two files":                {s, []string{bare, bare}, "more than one FILE", exitUsage},
		"a flag of import":         {s, []string{"--url", "http://h"}, "leave out --url", exitUsage},
		"too long":                 {s, []string{"--watch", "1h"}, "give 0s to 10m0s", exitUsage},
	} {
		if _, says, err := c.in.run(append([]string{"import", "octoprint", "--clear-homeassistant"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) || exitStatus(err) != c.status {
			t.Errorf("%s: %v %s", name, err, says)
		}
	}
	if _, _, err := s.run("import", "octoprint", bare, "--watch", "1s"); err == nil || exitStatus(err) != exitUsage {
		t.Errorf("--watch alone: %v", err)
	}
}

// TestImportNamesTheOtherPlugin where OctoPrint has it.
func TestImportNamesTheOtherPlugin(t *testing.T) {
	theirs := testkit.Write(t, filepath.Join(t.TempDir(), "octoprint.yaml"), "plugins: {homeassistant: {node_id: n}, mqtt: {}}\n")
	if _, says, err := execute(t, "import", "octoprint", theirs); err != nil || !strings.Contains(says, "event2mqtt import octoprint FILE --clear-homeassistant") {
		t.Errorf("%v %s", err, says)
	}
}

// TestTheAnnouncementsAreJSON, or the tests above would show nothing.
func TestTheAnnouncementsAreJSON(t *testing.T) {
	for at, text := range announced("homeassistant", node, "octoPrint/") {
		if !json.Valid([]byte(text)) {
			t.Errorf("%s: %s", at, text)
		}
	}
}

// TestClearingCanBeInterrupted while it watches.
func TestClearingCanBeInterrupted(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "")
	address := s.program(bundledBroker)
	retain(t, address, announced("homeassistant", node, "octoPrint/"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		cmd := newCommand("e2m")
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		cmd.SetArgs([]string{"import", "octoprint", "--clear-homeassistant", "--watch", "10m", "--state-dir", s.state})
		done <- cmd.ExecuteContext(ctx)
	}()
	testkit.Eventually(t, "it is cleared", func() bool { return len(kept(t, address)) == 0 })
	cancel()
	if err := <-done; err == nil || err.Error() != "interrupted; run it again with --print to see what is left" {
		t.Error(err)
	}
}
