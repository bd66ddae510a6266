package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/sources/octoprint"
	"event2mqtt/internal/sources/octoprint/octotest"
	"event2mqtt/internal/testkit"
)

// everyKey has every setting of the plugin, with paths of files that are there.
func everyKey(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../internal/sources/octoprint/migrate/testdata/every-key.yaml")
	testkit.OK(t, err)
	ca := testkit.Write(t, filepath.Join(t.TempDir(), "ca.pem"), octotest.New(t, octotest.Options{TLS: true}).CA)
	plain := strings.ReplaceAll(string(text), "/etc/ssl/broker-ca.pem", ca)
	plain = strings.ReplaceAll(plain, "certfile: /etc/ssl/octo.pem, keyfile: /etc/ssl/octo.key, ", "")
	return testkit.Write(t, filepath.Join(t.TempDir(), "octoprint.yaml"), plain)
}

// TestImportAddsToAConfiguration: comments and what is configured stay, secrets
// go into files of their own, what is not as it was is said, and the result is
// what the program takes.
func TestImportAddsToAConfiguration(t *testing.T) {
	octo := octotest.New(t, octotest.Options{})
	s := newSetup(t, "# mine\npublish: {timestamp_field: ts}   # short\nrules:\n  - {match: Client*, drop: true}\nsources:\n  - {name: octoprint, type: webhook}\n")
	theirs := everyKey(t)
	before, _ := os.ReadFile(theirs)
	out, says, err := s.run("import", "octoprint", theirs, "--url", octo.URL)
	if err != nil {
		t.Fatalf("%v\n%s", err, says)
	}
	dir := filepath.Dir(s.config)
	if want := []string{"config.yaml -rw-------", "mqtt.password -rw-------", "octoprint-2.key -rw-------"}; !slices.Equal(s.files(), want) {
		t.Errorf("%v", s.files())
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "mqtt.password")); string(text) != "s3cret\n" || strings.Contains(out+says+s.text(), "s3cret") {
		t.Errorf("the password is not where it belongs: %q\n%s", text, s.text())
	}
	plan, err := bridge.Load(s.config, nil, s.state)
	testkit.OK(t, err)
	o, _ := plan.Source("octoprint-2").(*octoprint.Options)
	switch {
	case !slices.Equal(plan.MQTT.URL, []string{"mqtts://broker.example:8883"}), plan.MQTT.Username != "octo", string(plan.MQTT.Password) != "s3cret", plan.MQTT.Will.Topic != "printers/ender/there", !plan.MQTT.TLS.Insecure:
		t.Errorf("the broker: %+v", plan.MQTT)
	case plan.Publish.TimestampField != "ts", plan.Publish.BaseTopic != "printers/ender":
		t.Errorf("publish: %+v", plan.Publish)
	case len(plan.Rules) != 11 || plan.Rules[0].Name != "octoprint-2: server off" || plan.Rules[10].Match[0] != "Client*":
		t.Errorf("rules: %+v", plan.Rules)
	case o == nil || string(o.APIKey) != octotest.Key || o.Compat != "octoprint-mqtt" || o.Plugin.EventTopic != "ev/{event}" || o.TemperatureThreshold != 0.5 || !o.Plugin.PrinterData || o.Plugin.Retain:
		t.Errorf("the source: %+v", o)
	}
	for _, want := range []string{"note: broker.tls.ciphers: ", "note: broker.clean_session: false ", "note: apiToken: *** ", "note: publish.timestamp_field is configured already and stays; the plugin has {timestamp_field: at}",
		"note: publish.base_topic: all topics now begin with printers/ender/ instead of event2mqtt/: also those of event2mqtt itself, of the source octoprint;",
		"note: mqtt.will: event2mqtt now says on the plugin's topic", "note: rules: the 10 rules for the source octoprint-2 come before those that were there",
		"instead of the bundled one", "Switch OctoPrint-MQTT off now"} {
		if !strings.Contains(says, want) {
			t.Errorf("it does not say %q:\n%s", want, says)
		}
	}
	if !strings.Contains(s.text(), "# mine\n") || !strings.Contains(s.text(), "# short\n") || !strings.Contains(out, "mosquitto_sub -h broker.example -p 8883 -v -u octo -P PASSWORD") && !strings.Contains(out, "mosquitto_sub -h broker.example -p 8883 -u octo -P PASSWORD -v -t 'printers/ender/#'") {
		t.Errorf("%s\n%s", out, s.text())
	}
	if strings.Contains(says, `the webhook "default"`) {
		t.Errorf("there was no default webhook: %s", says)
	}
	if after, _ := os.ReadFile(theirs); string(after) != string(before) {
		t.Error("OctoPrint's file was changed")
	}
	if _, _, err := s.run("import", "octoprint", theirs, "--url", octo.URL); err == nil || !strings.Contains(err.Error(), "already: octoprint-2; nothing was changed") {
		t.Errorf("once more: %v", err)
	}
}

// TestImportDoesNotMixBrokers: where there is another one, only what is
// published is taken over.
func TestImportDoesNotMixBrokers(t *testing.T) {
	octo := octotest.New(t, octotest.Options{})
	s := newSetup(t, "mqtt: {url: mqtt://mine:1883}\n")
	_, says, err := s.run("import", "octoprint", everyKey(t), "--url", octo.URL)
	if err != nil || strings.Contains(s.text(), "username") || strings.Contains(s.text(), "tls") || !strings.Contains(says, "event2mqtt already publishes to mqtt://mine:1883") || len(s.files()) != 2 || !strings.Contains(says, `the webhook "default" is there only while no source is configured`) || !strings.Contains(says, "also those of event2mqtt itself; change") {
		t.Errorf("%v\n%s\n%s\n%v", err, says, s.text(), s.files())
	}
	plan, err := bridge.Load(s.config, nil, s.state)
	if err != nil || plan.MQTT.Will.Topic != "printers/ender/there" {
		t.Errorf("%v %+v", err, plan)
	}
}

// TestImportPrints without --config, or with --print, and writes nothing. What
// it prints is a configuration, once the secrets are in their files.
func TestImportPrints(t *testing.T) {
	theirs := everyKey(t)
	out, says, err := execute(t, "import", "octoprint", theirs)
	if err != nil || !strings.Contains(out, "password: {file: /etc/event2mqtt/mqtt.password}") || !strings.Contains(out, "url: http://127.0.0.1:5001\n") || !strings.Contains(says, "taken to be at http://127.0.0.1:5001; if it is not, give --url") || strings.Contains(out+says, "s3cret") {
		t.Errorf("%v\n%s\n%s", err, out, says)
	}
	if !strings.Contains(out, `"event2mqtt connect octoprint http://127.0.0.1:5001 --print --key-file /etc/event2mqtt/octoprint.key" writes it`) {
		t.Errorf("how to get the key:\n%s", out)
	}
	s := newSetup(t, "")
	out, _, err = s.run("import", "octoprint", theirs, "--print", "--name", "ender")
	if err != nil || len(s.files()) != 0 || !strings.Contains(out, "name: ender\n") || !strings.Contains(out, "source: ender\n") {
		t.Errorf("%v\n%s", err, out)
	}
	dir := filepath.Dir(s.config)
	testkit.Write(t, s.config, out)
	testkit.Write(t, filepath.Join(dir, "mqtt.password"), "x")
	testkit.Write(t, filepath.Join(dir, "octoprint.key"), "K")
	if out, _, err := s.run("check"); err != nil {
		t.Errorf("check: %s %v", out, err)
	}
}

// TestImportSaysWhatIsInTheWay and changes nothing.
func TestImportSaysWhatIsInTheWay(t *testing.T) {
	octo, denies := octotest.New(t, octotest.Options{}), octotest.New(t, octotest.Options{Deny: true})
	none := testkit.Write(t, filepath.Join(t.TempDir(), "none.yaml"), "plugins: {}\n")
	s := newSetup(t, "# mine\n")
	for want, c := range map[string]struct {
		args   []string
		status int
	}{
		"no such file":                {[]string{"/nowhere/config.yaml"}, exitUsage},
		"a folder, not a file":        {[]string{t.TempDir()}, exitUsage},
		"no settings of OctoPrint-MQ": {[]string{none}, 1},
		"must begin with http://":     {[]string{everyKey(t), "--url", "octopi"}, exitUsage},
		"nobody allowed":              {[]string{everyKey(t), "--url", denies.URL}, exitRefused},
		"FILE is missing":             {nil, exitUsage},
	} {
		_, _, err := s.run(append([]string{"import", "octoprint"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), want) || exitStatus(err) != c.status || s.text() != "# mine\n" || len(s.files()) != 1 {
			t.Errorf("%s: %v (%v)", want, err, s.files())
		}
	}
	byHand := newSetup(t, "")
	testkit.Write(t, byHand.config, "{log: {level: info}}\n")
	out, _, err := byHand.run("import", "octoprint", everyKey(t), "--url", octo.URL)
	if err == nil || !strings.Contains(err.Error(), "write what is printed above into "+byHand.config+"; of a section that is there already, add only") || !strings.Contains(out, "compat: octoprint-mqtt") || len(byHand.files()) != 1 || len(octo.Asked()) != 0 {
		t.Errorf("%v\n%s\n%v", err, out, byHand.files())
	}
}
