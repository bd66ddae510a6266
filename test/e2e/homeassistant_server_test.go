package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/testkit"
)

// This file runs the real Home Assistant and talks to it as its own page does.

// homeAssistantVersions are those that the tests run with, as far as
// scripts/install-homeassistant has installed them: an old one, which speaks
// MQTT 3.1.1 and is easy to install, and a new one.
var homeAssistantVersions = []string{"2025.4.4", "2026.11.0"}

// withHomeAssistant runs a test with each that is installed.
func withHomeAssistant(t *testing.T, test func(t *testing.T, program string)) {
	t.Helper()
	cache, err := os.UserCacheDir()
	testkit.OK(t, err)
	some := false
	for _, version := range homeAssistantVersions {
		dir := filepath.Join(cache, "event2mqtt-e2e", "homeassistant-"+version)
		if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
			some = true
			t.Run(version, func(t *testing.T) { test(t, filepath.Join(dir, "bin", "hass")) })
		}
	}
	if !some {
		absent(t, "Home Assistant is not installed; run scripts/install-homeassistant")
	}
}

// homeAssistantStartup is how long it may take to start, on a busy machine.
const homeAssistantStartup = 5 * time.Minute

// homeAssistant is a Home Assistant in a folder of its own. It keeps its
// address, its account and all that it knows when it is started again.
type homeAssistant struct {
	t       *testing.T
	program string
	dir     string
	address string
	cmd     *exec.Cmd
	out     testkit.Log // of all its runs
	token   string
}

// prepareHomeAssistant sets one up that asks nobody elsewhere for anything:
// without default_config, and with no place that weather is asked for.
func prepareHomeAssistant(t *testing.T, program string) *homeAssistant {
	t.Helper()
	h := &homeAssistant{t: t, program: program, dir: t.TempDir(), address: testkit.FreeAddress(t)}
	_, port, _ := strings.Cut(h.address, ":")
	testkit.Write(t, filepath.Join(h.dir, "automations.yaml"), "[]\n")
	testkit.Write(t, filepath.Join(h.dir, "configuration.yaml"), `homeassistant: {name: e2e, latitude: 0, longitude: 0, elevation: 0, unit_system: metric, time_zone: UTC, country: US, currency: USD, internal_url: "http://`+h.address+`"}
http: {server_host: 127.0.0.1, server_port: `+port+`}
api:
config:
system_log:
automation: !include automations.yaml
logger: {default: warning, logs: {`+automationLog+`: info}}
`)
	t.Cleanup(func() {
		if h.cmd != nil {
			h.stop(syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("Home Assistant's log:\n%s", lastLines(h.out.String(), 60))
		}
	})
	return h
}

// launch starts the process and returns when it answers.
func (h *homeAssistant) launch() {
	h.t.Helper()
	// Without --skip-pip it would install what integrations need that nobody uses here.
	h.cmd = exec.Command(h.program, "--config", h.dir, "--skip-pip", "--log-no-color")
	h.cmd.Stdout, h.cmd.Stderr = &h.out, &h.out
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it starts processes of its own
	testkit.OK(h.t, h.cmd.Start())
	h.within(homeAssistantStartup, "Home Assistant answers", func() bool { return h.ask(http.MethodGet, "/manifest.json", nil, nil) == http.StatusOK })
}

// start runs it, as somebody who has an account, and waits until it has started.
func (h *homeAssistant) start() {
	h.t.Helper()
	h.launch()
	if h.token == "" {
		h.onboard()
	}
	h.within(homeAssistantStartup, "Home Assistant has started", func() bool {
		var is struct{ State string }
		return h.ask(http.MethodGet, "/api/config", nil, &is) == http.StatusOK && is.State == "RUNNING"
	})
}

// onboard makes the first account. The other steps of onboarding are left out:
// they would ask servers elsewhere where this is.
func (h *homeAssistant) onboard() {
	h.t.Helper()
	var code struct {
		Code string `json:"auth_code"`
	}
	client := "http://" + h.address + "/"
	h.within(homeAssistantStartup, "the first account is made", func() bool {
		return h.ask(http.MethodPost, "/api/onboarding/users", map[string]string{"client_id": client, "name": "e2e", "username": "e2e", "password": "e2e password", "language": "en"}, &code) == http.StatusOK
	})
	r, err := http.PostForm("http://"+h.address+"/auth/token", url.Values{"grant_type": {"authorization_code"}, "code": {code.Code}, "client_id": {client}})
	testkit.OK(h.t, err)
	defer r.Body.Close()
	var token struct {
		Access string `json:"access_token"`
	}
	testkit.OK(h.t, json.NewDecoder(r.Body).Decode(&token))
	h.token = token.Access
	if h.token == "" {
		h.t.Fatalf("Home Assistant gives no token: %s", r.Status)
	}
}

// stop ends it with a signal, and whatever it has started.
func (h *homeAssistant) stop(how syscall.Signal) {
	group := -h.cmd.Process.Pid
	kill := func() { _ = syscall.Kill(group, syscall.SIGKILL) }
	_ = h.cmd.Process.Signal(how)
	late := time.AfterFunc(homeAssistantStartup, kill)
	defer late.Stop()
	_ = h.cmd.Wait()
	kill()
	h.cmd = nil
}

// restart ends it as a person does, and starts it again.
func (h *homeAssistant) restart() {
	h.t.Helper()
	h.stop(syscall.SIGTERM)
	h.start()
}

// within waits for a condition longer than others do.
func (h *homeAssistant) within(most time.Duration, what string, holds func() bool) {
	h.t.Helper()
	for end := time.Now().Add(most); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("waited too long until %s", what)
		}
	}
}

// ask sends a request and returns the status, 0 for no answer; into gets the
// answer if it is not nil.
func (h *homeAssistant) ask(method, path string, body, into any) int {
	text, err := json.Marshal(body)
	testkit.OK(h.t, err)
	r, err := http.NewRequest(method, "http://"+h.address+path, bytes.NewReader(text))
	testkit.OK(h.t, err)
	r.Header.Set("Content-Type", "application/json")
	if h.token != "" {
		r.Header.Set("Authorization", "Bearer "+h.token)
	}
	client := http.Client{Timeout: testkit.Patience}
	answer, err := client.Do(r)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	if err != nil || into != nil && answer.StatusCode == http.StatusOK && json.Unmarshal(all, into) != nil {
		return 0
	}
	return answer.StatusCode
}

// must is ask for what has to be done.
func (h *homeAssistant) must(path string, body, into any) {
	h.t.Helper()
	if status := h.ask(http.MethodPost, path, body, into); status != http.StatusOK {
		h.t.Fatalf("%s: Home Assistant answers %d", path, status)
	}
}

// addBroker adds the integration MQTT as its form does.
func (h *homeAssistant) addBroker(addr, user, password string) {
	h.t.Helper()
	type form struct {
		ID     string `json:"flow_id"`
		Type   string
		Errors map[string]string
		Schema []struct{ Name string } `json:"data_schema"`
	}
	const flows = "/api/config/config_entries/flow"
	var f form
	h.must(flows, map[string]string{"handler": "mqtt"}, &f)
	if f.Type == "menu" {
		h.must(flows+"/"+f.ID, map[string]string{"next_step_id": "broker"}, &f)
	}
	host, port, _ := strings.Cut(addr, ":")
	number, err := strconv.Atoi(port)
	testkit.OK(h.t, err)
	fill := map[string]any{"broker": host, "port": number}
	if user != "" {
		fill["username"], fill["password"] = user, password
	}
	for _, field := range f.Schema { // of 2026
		switch field.Name {
		case "protocol":
			fill["protocol"] = "5"
		case "other_settings":
			fill["other_settings"] = map[string]any{"set_client_cert": false, "set_ca_cert": "off", "transport": "tcp"}
		}
	}
	h.must(flows+"/"+f.ID, fill, &f)
	if f.Type != "create_entry" {
		h.t.Fatalf("Home Assistant does not take the broker: %s %v", f.Type, f.Errors)
	}
}

// entity is one of Home Assistant's, as it is now.
type entity struct {
	ID         string `json:"entity_id"`
	State      string
	Attributes map[string]any
}

// states are all entities that there are, by id.
func (h *homeAssistant) states() map[string]entity {
	var all []entity
	if h.ask(http.MethodGet, "/api/states", nil, &all) != http.StatusOK {
		return nil
	}
	by := map[string]entity{}
	for _, e := range all {
		by[e.ID] = e
	}
	return by
}

// all are the states of all entities of MQTT, by the source's device and the
// entity's key, as in "mk4/progress"; "/version" is of the program's own. It is
// the unique ids that tell them apart, since people may change the others, and
// each version of Home Assistant makes them in its own way.
func (h *homeAssistant) all(p *program) map[string]entity {
	h.t.Helper()
	installation := p.installation()
	is, by := h.states(), map[string]entity{}
	for _, r := range h.registered() {
		rest, ours := strings.CutPrefix(r.Unique, installation)
		e, shown := is[r.ID]
		if !ours {
			h.t.Errorf("the entity %s has the unique id %s, which is not of the installation %s", r.ID, r.Unique, installation)
		}
		if !shown {
			e = entity{ID: r.ID, State: "not shown"}
		}
		by[strings.Replace(strings.TrimPrefix(rest, "_"), ".", "/", 1)] = e
	}
	return by
}

// expect waits until entities have states. "*" is any that is known, ~ begins a
// number that need not be the same to the last digit, and "-" is that there is no
// such entity.
func (h *homeAssistant) expect(p *program, what string, most time.Duration, want map[string]string) {
	h.t.Helper()
	began := time.Now()
	for {
		is := h.all(p)
		wrong := differences(is, want)
		if took := time.Since(began); len(wrong) == 0 {
			h.t.Logf("%s: %d entities are right after %.1f s", what, len(want), took.Seconds())
			return
		} else if took > most {
			h.t.Fatalf("%s: after %s:\n%s\nthere are:\n%s", what, most, strings.Join(wrong, "\n"), table(is))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// differences are those between how entities are and should be.
func differences(is map[string]entity, want map[string]string) (wrong []string) {
	for key, state := range want {
		if e, there := is[key]; there != (state != "-") || there && !fits(e.State, state) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, not %q", key, e.State, state))
		}
	}
	slices.Sort(wrong)
	return wrong
}

func fits(is, want string) bool {
	if number, about := strings.CutPrefix(want, "~"); about {
		a, err := strconv.ParseFloat(is, 64)
		b, _ := strconv.ParseFloat(number, 64)
		return err == nil && math.Abs(a-b) < 0.06
	}
	return is == want || want == "*" && is != "unknown" && is != "unavailable" && is != "not shown"
}

// table is what there is, for people.
func table(is map[string]entity) string {
	var lines []string
	for key, e := range is {
		lines = append(lines, fmt.Sprintf("  %s (%s) = %s", key, e.ID, e.State))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// call calls an action on an entity.
func (h *homeAssistant) call(action, entity string, data map[string]any) {
	h.t.Helper()
	fill := map[string]any{"entity_id": entity}
	for key, value := range data {
		fill[key] = value
	}
	h.must("/api/services/"+strings.Replace(action, ".", "/", 1), fill, nil)
}

// socket asks over the WebSocket API. result gets the answer.
func (h *homeAssistant) socket(command map[string]any, result any) {
	h.t.Helper()
	c, answer, err := websocket.DefaultDialer.Dial("ws://"+h.address+"/api/websocket", nil)
	testkit.OK(h.t, err)
	defer answer.Body.Close()
	defer c.Close()
	testkit.OK(h.t, c.SetReadDeadline(time.Now().Add(testkit.Patience)))
	testkit.OK(h.t, c.WriteJSON(map[string]string{"type": "auth", "access_token": h.token}))
	fill := map[string]any{"id": 1}
	for key, value := range command {
		fill[key] = value
	}
	for {
		var m struct {
			Type    string
			Success bool
			Result  json.RawMessage
			Error   json.RawMessage
		}
		testkit.OK(h.t, c.ReadJSON(&m))
		switch m.Type {
		case "auth_ok":
			testkit.OK(h.t, c.WriteJSON(fill))
		case "auth_invalid":
			h.t.Fatal("Home Assistant does not take the token")
		case "result":
			if !m.Success {
				h.t.Fatalf("%v: %s", command, m.Error)
			}
			testkit.OK(h.t, json.Unmarshal(m.Result, result))
			return
		}
	}
}

// registered is what Home Assistant keeps of an entity.
type registered struct {
	ID       string `json:"entity_id"`
	Unique   string `json:"unique_id"`
	Platform string
	Device   string  `json:"device_id"`
	Disabled *string `json:"disabled_by"`
}

// registered are all entities of MQTT that it keeps, shown or not.
func (h *homeAssistant) registered() (all []registered) {
	h.t.Helper()
	h.socket(map[string]any{"type": "config/entity_registry/list"}, &all)
	return slices.DeleteFunc(all, func(r registered) bool { return r.Platform != "mqtt" })
}

// kept is a device that Home Assistant keeps.
type kept struct {
	ID           string
	Name         string
	Manufacturer string
	Model        string
	Version      string     `json:"sw_version"`
	Identifiers  [][]string // domain and id
	Via          string     `json:"via_device_id"`
}

// installation is the id with which all ids begin that the program announces.
func (p *program) installation() string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.state, "installation_id"))
	testkit.OK(p.t, err)
	return strings.TrimSpace(string(text))
}

// devices are those of MQTT that it keeps, by what they are called in the ids;
// "" is the program's own.
func (h *homeAssistant) devices(p *program) map[string]kept {
	h.t.Helper()
	var all []kept
	h.socket(map[string]any{"type": "config/device_registry/list"}, &all)
	by := map[string]kept{}
	for _, d := range all {
		if len(d.Identifiers) != 1 || d.Identifiers[0][0] != "mqtt" {
			continue
		}
		id, ours := strings.CutPrefix(d.Identifiers[0][1], p.installation())
		if id = strings.TrimPrefix(id, "_"); !ours || by[id].ID != "" {
			h.t.Errorf("there is a device %v", d)
		}
		by[id] = d
	}
	return by
}

// triggers are the device's, as people see them in the editor of automations.
func (h *homeAssistant) triggers(device string) (all []map[string]any) {
	h.t.Helper()
	h.socket(map[string]any{"type": "device_automation/trigger/list", "device_id": device}, &all)
	return slices.DeleteFunc(all, func(t map[string]any) bool { return t["domain"] != "mqtt" })
}

// automationLog is what the lines of automations are logged under.
const automationLog = "e2e"

// automate adds an automation as its editor does, which logs a line each time it
// runs, so that none is missed whatever is restarted: its name, and what text
// makes of the trigger.
func (h *homeAssistant) automate(name string, trigger map[string]any, condition, text string) {
	h.t.Helper()
	h.must("/api/config/automation/config/"+name, map[string]any{
		"alias": name, "mode": "queued", "triggers": []any{trigger}, "conditions": []string{condition},
		"actions": []any{map[string]any{"action": "system_log.write", "data": map[string]any{"level": "info", "logger": automationLog, "message": "<" + name + " " + text + ">"}}},
	}, nil)
	h.within(testkit.Patience, "the automation "+name+" is there", func() bool { return h.states()["automation."+name].State == "on" })
}

// forget deletes automations.
func (h *homeAssistant) forget(names ...string) {
	h.t.Helper()
	for _, name := range names {
		if status := h.ask(http.MethodDelete, "/api/config/automation/config/"+name, nil, nil); status != http.StatusOK {
			h.t.Fatalf("deleting the automation %s: Home Assistant answers %d", name, status)
		}
	}
}

// probe is what automations log of messages with which it is found out whether
// they run.
const probe = "probe"

// ran is what an automation logged, each time it ran.
func (h *homeAssistant) ran(name string) (all []string) {
	for _, found := range regexp.MustCompile(`<`+name+` (.*)>`).FindAllStringSubmatch(h.out.String(), -1) {
		if found[1] != probe {
			all = append(all, found[1])
		}
	}
	return all
}

// expectRan waits until an automation has run for exactly these.
func (h *homeAssistant) expectRan(name string, want ...string) {
	h.t.Helper()
	for end := time.Now().Add(testkit.Patience); ; time.Sleep(50 * time.Millisecond) {
		is := h.ran(name)
		if slices.Equal(is, want) {
			return
		}
		if len(is) > len(want) || time.Now().After(end) {
			h.t.Fatalf("the automation %s ran for\n%q, not for\n%q", name, is, want)
		}
	}
}

// surroundings are lines that say nothing of what is tested here.
var surroundings = []struct{ line, why string }{
	{`\[homeassistant\.bootstrap\] Skipping pip installation`, "it is to install nothing"},
	{`\[aiohttp_fast_zlib\]`, "zlib-ng and isal are faster, and not installed"},
	{`\[haffmpeg\.\w+\] (FFmpeg fails|Error starting FFmpeg)`, "FFmpeg is not installed"},
	{`\[homeassistant\.components\.camera\.img_util\] Error loading libturbojpeg`, "a library that makes pictures smaller is not installed"},
	{`\[homeassistant\.(setup|bootstrap|config_entries|core)\] (Setup of \S+ is taking over|Waiting for|Something is blocking)`, "the machine is slow"},
}

// away are lines that a broker that is gone causes.
var away = []struct{ line, why string }{
	{`\[paho\.mqtt\.client\] failed to receive on socket: .*reset`, "the broker was ended"},
	{`\[homeassistant\.components\.mqtt\.util\] Error talking to MQTT: The client is not currently connected`, "it says goodbye to a broker that is gone"},
	{`\[homeassistant\.components\.mqtt\.client\] (Error returned from MQTT server: The connection was lost|Failed to connect to MQTT server due to exception: .*Connection refused)`, "the broker was killed"},
}

var complaint = regexp.MustCompile(`(?m)^\S+ \S+ (WARNING|ERROR|CRITICAL) .*$`)

// expectNoComplaint checks the log of all runs: there must not be one line of
// warning, other than of what surrounds the tests and of a broker that was away.
func (h *homeAssistant) expectNoComplaint() {
	h.t.Helper()
lines:
	for _, line := range complaint.FindAllString(h.out.String(), -1) {
		for _, e := range slices.Concat(surroundings, away) {
			if regexp.MustCompile(e.line).MatchString(line) {
				continue lines
			}
		}
		h.t.Errorf("Home Assistant complains: %s", line)
	}
}
