package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"event2mqtt/internal/sources/octoprint/octotest"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// recordings are those of one session of OctoPrint: what its push API said, and
// what its MQTT plugin published of the same.
const recordings = "../../internal/sources/octoprint/testdata/"

// TestConnectIsAppliedByTheRunningProgram: without naming its configuration, the
// source is added and connected, and the command says so.
func TestConnectIsAppliedByTheRunningProgram(t *testing.T) {
	octo := octotest.New(t, octotest.Options{Frames: octotest.Recording(t, recordings+"transcript.jsonl")[:3]})
	broker := freePort(t)
	p := configure(t, fmt.Sprintf("broker: {listen: '127.0.0.1:%d'} # ours\nsources: [{name: w, type: webhook}]\n", broker))
	p.start()
	testkit.Eventually(t, "it can be found", func() bool { // just after it answers
		_, err := os.Stat(filepath.Join(p.state, "control.json"))
		return err == nil
	})
	status, out, says := runOnce(t, "connect", "octoprint", octo.URL, "--state-dir", p.state)
	text, err := os.ReadFile(p.config)
	testkit.OK(t, err)
	if status != 0 || !strings.Contains(string(text), "# ours\nsources: [{name: w, type: webhook}, {name: octoprint, type: octoprint") || !strings.Contains(says, "using the configuration "+p.config) {
		t.Fatalf("status %d\n%s\n%s\n%s", status, out, says, text)
	}
	if !strings.Contains(out, "the running event2mqtt has applied it: connected to OctoPrint") || !strings.Contains(out, fmt.Sprintf("watch it: mosquitto_sub -p %d -v -t 'event2mqtt/#'", broker)) {
		t.Errorf("it says\n%s", out)
	}
	testkit.Eventually(t, "its state is published", func() bool {
		kept, err := mqttest.Retained(fmt.Sprintf("127.0.0.1:%d", broker), "event2mqtt/octoprint/available")
		return err == nil && kept["event2mqtt/octoprint/available"] == "online"
	})
	// A key that is taken no more is renewed, and its file is read again.
	testkit.Write(t, filepath.Join(filepath.Dir(p.config), "octoprint.key"), "OLD")
	if status, out, _ := runOnce(t, "reload", "--state-dir", p.state); status != 0 || !strings.Contains(out, "source octoprint: changed") {
		t.Errorf("reload: status %d\n%s", status, out)
	}
	if status, out, says := runOnce(t, "connect", "octoprint", octo.URL, "--renew", "--state-dir", p.state); status != 0 || !strings.Contains(out, "has applied it: connected") {
		t.Errorf("renew: status %d\n%s\n%s", status, out, says)
	}
	// So it is where the file has the right key, and the program another.
	testkit.Write(t, filepath.Join(filepath.Dir(p.config), "octoprint.key"), "OLD")
	runOnce(t, "reload", "--state-dir", p.state)
	testkit.Write(t, filepath.Join(filepath.Dir(p.config), "octoprint.key"), octotest.Key)
	const reloaded = `"changed":["source octoprint: changed"]`
	before := strings.Count(p.log.String(), reloaded)
	if status, out, says := runOnce(t, "connect", "octoprint", octo.URL, "--renew", "--state-dir", p.state); status != 0 || !strings.Contains(out, "has given the key that is in") || strings.Contains(out, "applied it") || strings.Count(p.log.String(), reloaded) != before+1 {
		t.Errorf("renew of the same: status %d\n%s\n%s", status, out, says)
	}
	// Another program has nothing of it.
	status, out, _ = runOnce(t, "connect", "octoprint", octo.URL, "--config", filepath.Join(t.TempDir(), "c.yaml"), "--state-dir", p.state)
	if status != 0 || !strings.Contains(out, "has another configuration, "+p.config) {
		t.Errorf("another file: status %d\n%s", status, out)
	}
}

// TestConnectCanBeInterrupted while it waits; nothing is changed then.
func TestConnectCanBeInterrupted(t *testing.T) {
	octo := octotest.New(t, octotest.Options{Pending: true})
	config := filepath.Join(t.TempDir(), "config.yaml")
	says := &testkit.Log{}
	cmd := exec.Command(binary, "connect", "octoprint", octo.URL, "--config", config, "--state-dir", t.TempDir())
	cmd.Stderr = says
	testkit.OK(t, cmd.Start())
	testkit.Eventually(t, "it waits", func() bool { return strings.Contains(says.String(), "Waiting for 5m at most") })
	testkit.OK(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	if entries, _ := os.ReadDir(filepath.Dir(config)); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(says.String(), "interrupted; nothing was changed") || len(entries) != 0 {
		t.Errorf("status %d: %s", cmd.ProcessState.ExitCode(), says.String())
	}
}

// topicCounter counts the messages of each topic.
type topicCounter struct {
	mu     sync.Mutex
	topics map[string]int
}

func countTopics(t *testing.T, broker string) *topicCounter {
	c, err := mqttest.Dial(broker, mqttest.Options{})
	testkit.OK(t, err)
	_, err = c.Subscribe("#", 1)
	testkit.OK(t, err)
	all := &topicCounter{topics: map[string]int{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			m, err := c.Next()
			if err != nil {
				return
			}
			all.mu.Lock()
			all.topics[m.Topic]++
			all.mu.Unlock()
		}
	})
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return all
}

func (c *topicCounter) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.topics)
}

// leftOut are events that OctoPrint does not push, or that the ends of the
// recording caused.
var leftOut = []string{"GcodeScript", "UserLoggedIn", "ClientOpened", "ClientAuthed", "ClientClosed", "Shutdown"}

// TestAnImportedConfigurationGivesThePluginsTopics: the settings of the plugin
// are imported, and the session that it published is played. Its topics have as
// many messages as its own, and the same are retained.
func TestAnImportedConfigurationGivesThePluginsTopics(t *testing.T) {
	states := []string{"octoPrint/mqtt", "octoPrint/progress/printing", "octoPrint/progress/slicing", "octoPrint/temperature/bed", "octoPrint/temperature/tool0", "octoPrint/temperature/tool1"}
	t.Run("all", func(t *testing.T) {
		importAndPlay(t, "{}", leftOut, append([]string{"octoPrint/event/FirmwareData", "octoPrint/event/ZChange"}, states...))
	})
	t.Run("switches", func(t *testing.T) {
		off := append([]string{"Capture", "Movie", "ZChange", "PositionUpdate", "ChartMarked", "PrintCancelling", "FileMoved", "CommandSuppressed", "FirmwareData", "MetadataStatisticsUpdated", "plugin_"}, leftOut...)
		importAndPlay(t, "{timelapse: false, position: false, unclassified: false}", off, states)
	})
}

func importAndPlay(t *testing.T, switches string, off, retained []string) {
	files := map[string]string{}
	for _, name := range []string{"small print.gcode", "cancel.gcode"} {
		files[name] = `{"hash":"d577","gcodeAnalysis":{"estimatedPrintTime":36.1,"filament":{"tool0":{"length":6.0}}}}`
	}
	frames := octotest.Recording(t, recordings+"transcript.jsonl")
	paused := slices.IndexFunc(frames, func(frame string) bool { return strings.Contains(frame, "PrintPaused") })
	octo := octotest.New(t, octotest.Options{Frames: frames, Pause: paused, Files: files})
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	broker := configure(t, "broker: {listen: '"+address+"', users: [{name: octo, password: s3cret-1, allow: ['octoPrint/#:rw']}], allow_anonymous: true}\nmqtt: {will: {enabled: false}}\n")
	broker.start()
	seen := countTopics(t, address)
	host, port, _ := strings.Cut(address, ":")
	theirs := testkit.Write(t, filepath.Join(t.TempDir(), "config.yaml"), fmt.Sprintf(`plugins:
  mqtt:
    broker: {url: %s, port: %s, username: octo, password: s3cret-1}
    publish: {metadataActive: true, metadataKeys: 'analysis.estimatedPrintTime, analysis.filament, hash', events: %s}
`, host, port, switches))
	p := configure(t, "broker: {listen: 'off'} # mine\n")
	status, out, says := runOnce(t, "import", "octoprint", theirs, "--url", octo.URL, "--config", p.config, "--state-dir", p.state)
	text, err := os.ReadFile(p.config)
	testkit.OK(t, err)
	if status != 0 || strings.Contains(out+says+string(text), "s3cret-1") || !strings.Contains(string(text), "# mine\n") {
		t.Fatalf("status %d\n%s\n%s\n%s", status, out, says, text)
	}
	p.start()
	want := pluginTopics(t, off)
	// The session is played faster than it was, and of a state the last counts.
	testkit.Eventually(t, "the metadata of a print are published", func() bool {
		kept, err := mqttest.Retained(address, "octoPrint/metadata/#")
		return err == nil && len(kept) == 3
	})
	octo.Resume()
	isEvent := func(topic string) bool { return strings.HasPrefix(topic, "octoPrint/event/") }
	var got map[string]int
	var lacking []string
	defer func() {
		if t.Failed() {
			t.Logf("lacking: %v", lacking)
		}
	}()
	testkit.Eventually(t, "the session has been played", func() bool {
		got, lacking = seen.all(), nil
		for topic, n := range want {
			if got[topic] == 0 || isEvent(topic) && got[topic] < n {
				lacking = append(lacking, fmt.Sprintf("%s: %d of %d", topic, got[topic], n))
			}
		}
		return lacking == nil
	})
	own := func(topic string) bool { // what event2mqtt says of itself
		return strings.HasPrefix(topic, "octoPrint/bridge/") || strings.HasPrefix(topic, "octoPrint/octoprint/")
	}
	for topic, n := range got {
		switch {
		case own(topic), !strings.HasPrefix(topic, "octoPrint/"), topic == "octoPrint/event/FileDeselected": // of which the plugin fails
		case want[topic] == 0, isEvent(topic) && want[topic] != n:
			t.Errorf("%s has %d messages; the plugin's %d", topic, n, want[topic])
		}
	}
	var all map[string]string
	testkit.Eventually(t, "retained are "+strings.Join(retained, ", "), func() bool {
		all, err = mqttest.Retained(address, "octoPrint/#")
		testkit.OK(t, err)
		return slices.Equal(slices.DeleteFunc(slices.Sorted(maps.Keys(all)), own), retained)
	})
	if all["octoPrint/mqtt"] != "connected" || strings.Contains(p.log.String(), `"level":"error"`) {
		t.Errorf("OctoPrint is %s", all["octoPrint/mqtt"])
	}
	presenceIsTold(t, octo, p, address)
}

// presenceIsTold on the topic of the will: that OctoPrint goes, and comes, and
// that the program is killed.
func presenceIsTold(t *testing.T, octo *octotest.Server, p *program, address string) {
	t.Helper()
	presence := func(want string) func() bool {
		return func() bool {
			all, err := mqttest.Retained(address, "octoPrint/mqtt")
			return err == nil && all["octoPrint/mqtt"] == want
		}
	}
	octo.Away(true)
	testkit.Eventually(t, "OctoPrint is gone", presence("disconnected"))
	octo.Away(false)
	testkit.Eventually(t, "OctoPrint is there again", presence("connected"))
	p.kill()
	testkit.Eventually(t, "the program is gone", presence("disconnected"))
	octo.Away(true)
	p.start()
	waits := func() bool { return strings.Count(p.log.String(), "is starting, or is not there") == 2 }
	testkit.Eventually(t, "the program waits for OctoPrint", waits)
	testkit.Eventually(t, "OctoPrint is said to be gone", presence("disconnected"))
}

// pluginTopics counts the plugin's messages by topic, without events whose names
// begin with those that are off.
func pluginTopics(t *testing.T, off []string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(recordings + "plugin.log")
	testkit.OK(t, err)
	all := map[string]int{}
	for line := range strings.Lines(string(text)) {
		all[strings.Fields(line)[3]]++
	}
	maps.DeleteFunc(all, func(topic string, _ int) bool {
		return slices.ContainsFunc(off, func(name string) bool { return strings.HasPrefix(topic, "octoPrint/event/"+name) })
	})
	return all
}
