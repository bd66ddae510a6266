package bridge

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"event2mqtt/internal/homeassistant/schema"
	"event2mqtt/internal/homeassistant/store"
)

// This file is what would be announced to Home Assistant, for people to look at.

// ExampleInstallation stands for the id of an installation that has none yet.
const ExampleInstallation = store.ExampleInstallation

// Preview is a device as it would be announced.
type Preview struct {
	Source  string // "" is the program itself
	Name    string
	ID      string // by which Home Assistant knows it
	Topic   string
	Payload []byte
	Parts   []PreviewPart
	// Learns says that it gets an event entity when its first event has come.
	Learns bool
	// Wrong is what Home Assistant would complain of.
	Wrong []string
}

// PreviewPart is an entity or a trigger.
type PreviewPart struct {
	Name string
	ID   string // the entity's, as it is suggested; of a trigger, its type and subtype
}

// Announcements returns what the plan would have announced, as far as that is
// known without connecting to anything: what sources have described before is
// read from the state folder. Nothing is changed there. made is false while the
// installation has no id yet, so that the ids will be others. The error says why
// what was announced before cannot be read.
func (p *Plan) Announcements(stateDir string) (all []Preview, made bool, err error) {
	if !p.HomeAssistant.Discovery {
		return nil, true, nil
	}
	installation, noID := store.PeekInstallation(stateDir)
	made = installation != "" || noID != nil
	setup := p.setup(cmp.Or(installation, store.ExampleInstallation))
	memory, err := store.Peek(stateDir)
	messages := p.things(setup, known{memory: memory, learned: memory.EventTypes})
	payloads := map[string][]byte{}
	for _, id := range slices.Sorted(maps.Keys(messages)) {
		m := messages[id]
		payload := m.Payload()
		payloads[m.Topic] = payload
		is := Preview{Source: m.Source, Topic: m.Topic, Payload: payload, Wrong: schema.Check(setup.Prefix, m.Topic, payload)}
		if parsed, err := schema.Parse(payload); err == nil {
			is.Name, _ = parsed.Device["name"].(string)
			if ids, _ := parsed.Device["identifiers"].([]any); len(ids) > 0 {
				is.ID, _ = ids[0].(string)
			}
			is.Parts = previewParts(parsed)
			is.Learns = m.Source != "" && parsed.Components["last_event"] != nil && parsed.Components["event"] == nil
		}
		all = append(all, is)
	}
	if said := schema.CheckAll(payloads); len(said) > 0 && len(all) > 0 {
		all[0].Wrong = append(all[0].Wrong, said...)
	}
	return all, made, errors.Join(noID, err)
}

func previewParts(of *schema.Payload) (all []PreviewPart) {
	for _, key := range slices.Sorted(maps.Keys(of.Components)) {
		c := of.Components[key]
		text := func(key string) string { s, _ := c[key].(string); return s }
		part := PreviewPart{Name: text("name"), ID: text("default_entity_id")}
		if text("platform") == "device_automation" {
			part = PreviewPart{Name: text("subtype"), ID: "trigger " + text("type")}
		}
		all = append(all, part)
	}
	return all
}

// Pretty is the payload for people.
func (p *Preview) Pretty() string {
	var v any
	if json.Unmarshal(p.Payload, &v) != nil {
		return string(p.Payload)
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return string(p.Payload)
	}
	return string(text)
}
