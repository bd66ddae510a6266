package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/tasmota"
)

// knowsTasmota reports whether a Home Assistant has what its integration Tasmota
// needs.
func (h *homeAssistant) knowsTasmota() bool {
	home := filepath.Dir(filepath.Dir(h.program))
	for _, root := range []string{home, filepath.Join(home, "system", "opt", "homeassistant")} {
		if found, _ := filepath.Glob(filepath.Join(root, "lib", "python3*", "site-packages", "hatasmota")); len(found) > 0 { // the pattern is right
			return true
		}
	}
	return false
}

// tasmotaEntity is the one with a unique id, as it is now.
func (h *homeAssistant) tasmotaEntity(unique string) entity {
	h.t.Helper()
	var all []registered
	h.socket(map[string]any{"type": "config/entity_registry/list"}, &all)
	for _, r := range all {
		if r.Platform == "tasmota" && r.Unique == unique {
			return h.states()[r.ID]
		}
	}
	return entity{}
}

// plug is a plug with Tasmota that gets what device add prints, and nothing else:
// Home Assistant offers it, shows it, switches it, and sees it go and come back.
func (h *house) plug() {
	h.t.Helper()
	if !h.ha.knowsTasmota() {
		const missing = "Home Assistant has no HATasmota; run scripts/install-homeassistant"
		if os.Getenv("CI") != "" {
			h.t.Fatal(missing)
		}
		h.t.Log(missing)
		return
	}
	plug := tasmota.New("A4:CF:12:DD:EE:01")
	testkit.OK(h.t, plug.Enter(regexp.MustCompile(`Backlog .*`).FindString(h.bridge.mustBridge("", "device", "add", "kitchen", "--for", "tasmota"))))
	testkit.Eventually(h.t, "the plug is let in", func() bool { return plug.Start() == nil })
	defer plug.Stop()

	const unique = "A4CF12DDEE01_switch_relay_0"
	flow := ""
	testkit.Eventually(h.t, "Home Assistant offers the integration Tasmota", func() bool {
		var flows []struct {
			ID      string `json:"flow_id"`
			Handler string
		}
		h.ha.socket(map[string]any{"type": "config_entries/flow/progress"}, &flows)
		for _, f := range flows {
			if f.Handler == "tasmota" {
				flow = f.ID
			}
		}
		return flow != ""
	})
	var made struct{ Type string }
	if status := h.ha.ask(http.MethodPost, "/api/config/config_entries/flow/"+flow, map[string]any{}, &made); status != http.StatusOK || made.Type != "create_entry" {
		h.t.Fatalf("adding the integration: %d %s", status, made.Type)
	}
	relay := func(state string) {
		h.t.Helper()
		h.ha.within(h.back(), "the switch is "+state, func() bool { return h.ha.tasmotaEntity(unique).State == state })
	}
	relay("off")
	id := h.ha.tasmotaEntity(unique).ID
	h.ha.call("switch.turn_on", id, nil)
	relay("on")
	if !plug.Power() {
		h.t.Error("the plug is not switched on")
	}
	h.ha.call("switch.toggle", id, nil)
	relay("off")
	h.ha.call("switch.turn_on", id, nil)
	relay("on")
	plug.Stop()
	relay("unavailable")
	testkit.OK(h.t, plug.Start())
	relay("on")
}
