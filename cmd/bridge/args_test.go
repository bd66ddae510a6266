package main

import (
	"strings"
	"testing"
)

// TestArgumentsThatAreMissingOrWrongAreNamed.
func TestArgumentsThatAreMissingOrWrongAreNamed(t *testing.T) {
	for line, want := range map[string]string{
		"user bogus": `there is no "e2m user bogus"; there are add, allow, import,`, "device bogus": `there is no "e2m device bogus"`,
		"user add": "NAME is missing: e2m user add NAME", "user allow": "NAME is missing", "user import": "FILE is missing: e2m user import FILE",
		"device add a b": "there is more than one NAME: a b", "connect octoprin http://h": `there is no "e2m connect octoprin"; there is octoprint`, "bogus": `unknown command "bogus"`, "refused bogus": `unknown command "bogus"`,
	} {
		out, _, err := execute(t, strings.Fields(line)...)
		if err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%s: %v; want %s; it prints %s", line, err, want, out)
		}
	}
	if _, _, err := execute(t, "connect", "octoprin", "http://h"); exitStatus(err) != exitUsage {
		t.Errorf("the exit status: %d", exitStatus(err))
	}
	if out, _, err := execute(t, "user"); err != nil || !strings.Contains(out, "Available Commands") {
		t.Errorf("user alone: %v %s", err, out)
	}
	for what, want := range map[string]string{"user": "there are no users\n", "device": "there are no devices\n"} {
		if out, _, err := execute(t, what, "list", "--state-dir", t.TempDir()); err != nil || out != want {
			t.Errorf("%s list: %v %s", what, err, out)
		}
	}
	if a, b, c := counted(0, "user"), counted(1, "user"), counted(2, "user"); a != "0 users" || b != "1 user" || c != "2 users" {
		t.Errorf("%s, %s, %s", a, b, c)
	}
}

// TestCompletionsOfferWhatIsTaken: values where they are known, and files where
// one is asked for alone.
func TestCompletionsOfferWhatIsTaken(t *testing.T) {
	const noFiles, files = ":4\n", ":0\n" // cobra's directives
	for line, want := range map[string]string{
		"device add x --for": "tasmota\nesphome\nhomeassistant\n" + noFiles, "device reset x --for": "tasmota\nesphome\nhomeassistant\n" + noFiles,
		"device add x --host": noFiles, "device add x --mac": noFiles, "user add --allow": noFiles, "user add": noFiles, "user rm": noFiles, "refused drop": noFiles, "run": noFiles, "check": noFiles,
		"check --set": noFiles, "check --config": "yaml\nyml\n:8\n", "check --state-dir": ":16\n", "test": files, "user import": files,
		"connect octoprint": noFiles, "connect octoprint http://h --compat": "octoprint-mqtt\n" + noFiles, "connect octoprint http://h --ca": files, "connect octoprint --name": noFiles, "import octoprint": files, "import octoprint f --url": noFiles,
	} {
		out, _, err := execute(t, append(append([]string{"__complete"}, strings.Fields(line)...), "")...)
		if err != nil || out != want {
			t.Errorf("%s: %v %q; want %q", line, err, out, want)
		}
	}
}
