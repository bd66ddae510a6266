package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// execute runs a command line and returns what it prints.
func execute(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := newCommand("e2m")
	cmd.SetIn(strings.NewReader("a password\n"))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	err = cmd.Execute()
	return out.String(), errs.String(), err
}

// TestADeviceIsToldWhereTheRunningBrokerListens, unless a configuration is named.
func TestADeviceIsToldWhereTheRunningBrokerListens(t *testing.T) {
	state := t.TempDir()
	write := func(path, text string) string {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(filepath.Join(state, "control.json"), `{"url":"http://127.0.0.1:1","token":"t","broker":{"address":"192.0.2.7:24951","tls":true}}`)
	named := write(filepath.Join(t.TempDir(), "c.yaml"), "broker: {listen: '192.0.2.8:24952'}\n")
	for _, c := range []struct {
		name, want, says string
		args             []string
	}{
		{"a", "MqttHost 192.0.2.7; MqttPort 24951;", "with TLS alone", nil},
		{"b", "MqttHost 192.0.2.8; MqttPort 24952;", "", []string{"--config", named}},
		{"c", "MqttHost 192.0.2.9; MqttPort 24953;", "", []string{"--set", "broker.listen=192.0.2.9:24953"}},
		{"d", "MqttHost broker.lan; MqttPort 24951;", "", []string{"--host", "broker.lan"}},
	} {
		out, says, err := execute(t, append([]string{"device", "add", c.name, "--allow", "x:rw", "--for", "tasmota", "--state-dir", state}, c.args...)...)
		if err != nil || !strings.Contains(out, c.want) || !strings.Contains(says, c.says) {
			t.Errorf("%s: %s %s %v; want %s", c.name, out, says, err, c.want)
		}
	}
}

// TestJSONIsToldOnceToo: that is said beside it, so that it stays JSON.
func TestJSONIsToldOnceToo(t *testing.T) {
	for _, kind := range []string{"homeassistant", "tasmota"} {
		out, says, err := execute(t, "device", "add", "x"+kind, "--for", kind, "--json", "--state-dir", t.TempDir())
		if err != nil || !json.Valid([]byte(out)) || !strings.Contains(says, "The password is not shown again") {
			t.Errorf("%v\n%s\n%s", err, out, says)
		}
	}
}
