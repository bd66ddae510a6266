package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/sources/octoprint/octotest"
	"event2mqtt/internal/testkit"
)

// TestASecondPrinterIsToldApart: connect sets publish.event_topic, also in a
// section that is there, and says once, and before anybody is asked, which
// topics change. A third one needs no more.
func TestASecondPrinterIsToldApart(t *testing.T) {
	for name, c := range map[string]struct{ publish, want string }{
		"no section":       {"", "publish:\n  event_topic: '{base}/{source}/event/{event}'\n"},
		"an empty section": {"publish:\n", "publish:\n  event_topic: '{base}/{source}/event/{event}'\n"},
		"a section":        {"publish:\n  qos: 2 # twice\n", "publish:\n  event_topic: '{base}/{source}/event/{event}'\n  qos: 2 # twice\n"},
		"in braces":        {"publish: {base_topic: home}   # mine\n", "publish: {event_topic: '{base}/{source}/event/{event}', base_topic: home}   # mine\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, c.publish+"sources:\n  - {name: door, type: webhook}\n")
			for n := range 3 {
				octo := octotest.New(t, octotest.Options{})
				_, says, err := s.run("connect", "octoprint", octo.URL)
				testkit.OK(t, err)
				base := "event2mqtt"
				if strings.Contains(c.publish, "home") {
					base = "home"
				}
				told := `note: publish.event_topic becomes "{base}/{source}/event/{event}": otherwise Home Assistant could not tell the events of octoprint-2 from those of other sources` + "\n" +
					"note: this changes the topics of the events of the sources door, octoprint: what subscribes to " + base + "/event/+ must subscribe to " + base + "/+/event/+ instead; to keep them, write publish: {source_field: _source} into " + s.config + " in place of publish.event_topic\n"
				if n != 1 {
					told = ""
				}
				if !strings.HasPrefix(says, told+"Allow event2mqtt") || strings.Contains(strings.TrimPrefix(says, told), "event_topic") {
					t.Errorf("%d: %s", n, says)
				}
			}
			if !strings.Contains(s.text(), c.want) || strings.Count(s.text(), "event_topic") != 1 || strings.Count(s.text(), "type: octoprint") != 3 {
				t.Error(s.text())
			}
			if out, _, err := s.run("check"); err != nil {
				t.Errorf("%v %s", err, out)
			}
		})
	}
}

// TestTopicsThatTellPrintersApartStay, and those that nobody needs to tell apart.
func TestTopicsThatTellPrintersApartStay(t *testing.T) {
	const own = "  - {name: one, type: octoprint, url: http://h, api_key: K}\n"
	for name, c := range map[string]struct{ text, says string }{
		"another template": {"publish: {event_topic: '{base}/{source}/{event}'}\n", ""},
		"by the payload":   {"publish: {source_field: _source}\n", "events of the source one go to the same topics; to tell them apart, set publish.event_topic"},
		"no discovery":     {"home_assistant: {discovery: false}\n", "events of the source one go to the same topics; to tell them apart, set publish.event_topic"},
	} {
		s, octo := newSetup(t, c.text+"sources:\n"+own), octotest.New(t, octotest.Options{})
		_, says, err := s.run("connect", "octoprint", octo.URL)
		if err != nil || !strings.HasPrefix(s.text(), c.text) || !strings.Contains(says, c.says) || strings.Contains(says, "becomes") || c.says == "" && strings.Contains(says, "note") {
			t.Errorf("%s: %v %s\n%s", name, err, says, s.text())
		}
	}
}

// TestAConfiguredTopicThatMixesPrintersIsLeftAlone: connect stops with what to
// write, before anybody is asked, wherever the topic is configured. So it does
// where no event topic helps.
func TestAConfiguredTopicThatMixesPrintersIsLeftAlone(t *testing.T) {
	const own = "sources:\n  - {name: one, type: octoprint, url: http://h, api_key: K}\n"
	for name, c := range map[string]struct {
		text string
		args []string
		want string
	}{
		"in the file":         {"publish: {event_topic: 'x/{event}'}\n" + own, nil, `:1:11: publish.event_topic: events of one and of octoprint have the same topics`},
		"on the command line": {own, []string{"--set", "publish.event_topic=x/{event}"}, `write publish: {event_topic: "{base}/{source}/event/{event}"}`},
		"the plugin's topics": {strings.Replace(own, "api_key: K", "api_key: K, compat: octoprint-mqtt", 1), []string{"--compat", "octoprint-mqtt"}, "write another plugin.base_topic for one of them"},
	} {
		s, octo := newSetup(t, c.text), octotest.New(t, octotest.Options{})
		_, says, err := s.run(append([]string{"connect", "octoprint", octo.URL}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasSuffix(err.Error(), "\nnothing was changed") || s.text() != c.text || len(octo.Asked()) != 0 || strings.Contains(says, "becomes") {
			t.Errorf("%s: %v %s\n%s", name, err, says, s.text())
		}
	}
}

// TestWhatIsAddedByHandNamesTheEventTopic that is needed with it.
func TestWhatIsAddedByHandNamesTheEventTopic(t *testing.T) {
	s, octo := newSetup(t, "sources: [{name: one, type: octoprint, url: http://h, api_key: K}]\n"), octotest.New(t, octotest.Options{})
	s.config = filepath.Dir(s.config)
	_, says, err := s.run("connect", "octoprint", octo.URL)
	if err == nil || !strings.Contains(says, `set publish.event_topic to "{base}/{source}/event/{event}", which discovery by Home Assistant needs`) {
		t.Errorf("%v %s", err, says)
	}
}

// TestImportTellsPrintersApart, as connect does.
func TestImportTellsPrintersApart(t *testing.T) {
	octo := octotest.New(t, octotest.Options{})
	theirs := testkit.Write(t, filepath.Join(t.TempDir(), "octoprint.yaml"), "plugins: {mqtt: {publish: {baseTopic: printers/}}}\n")
	s := newSetup(t, "sources:\n  - {name: one, type: octoprint, url: http://h, api_key: K}\n")
	_, says, err := s.run("import", "octoprint", theirs, "--url", octo.URL)
	if err != nil || strings.Count(says, "note: publish.event_topic becomes") != 1 || !strings.Contains(says, "what subscribes to event2mqtt/event/+ must subscribe to printers/+/event/+ instead") {
		t.Fatalf("%v %s", err, says)
	}
	plan, err := bridge.Load(s.config, os.Environ(), s.state)
	if err != nil || plan.Publish.EventTopic != topicOfEach || plan.Publish.BaseTopic != "printers" {
		t.Errorf("%v\n%s", err, s.text())
	}
}
