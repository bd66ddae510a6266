package bridge_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
)

func load(t testing.TB, text string, environ ...string) *bridge.Plan {
	t.Helper()
	plan, err := bridge.Load(testkit.Write(t, filepath.Join(t.TempDir(), "config.yaml"), text), environ, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestVariablesStandForTheirValues(t *testing.T) {
	plan := load(t, `
mqtt:
  url: ["mqtt://${HOST}:${PORT:-1884}"]
  in_flight: ${COUNT}
  username: "${COUNT}"
  client_id: 'a $${HOST} ${EMPTY:-b} ${UNSET:-} $HOST'
  tls:
    insecure: ${YES}
`, "HOST=broker.example", "COUNT=77", "EMPTY=", "YES=true")
	m := plan.MQTT
	if got := fmt.Sprintf("%s %d %s|%s|%t", m.URL, m.InFlight, m.Username, m.ClientID, m.TLS.Insecure); got != "[mqtt://broker.example:1884] 77 77|a ${HOST} b  $HOST|true" {
		t.Errorf("got %s", got)
	}
	// A value is a value, whatever it holds.
	if plan := load(t, "mqtt: {client_id: \"${X}\"}\n", "X=a: [b} ${HOST} #c"); plan.MQTT.ClientID != "a: [b} ${HOST} #c" {
		t.Errorf("got %q", plan.MQTT.ClientID)
	}
}

func TestSecretsComeFromFilesAndCredentials(t *testing.T) {
	dir := t.TempDir()
	testkit.Write(t, filepath.Join(dir, "token"), "from a credential\n")
	file := testkit.Write(t, filepath.Join(dir, "password"), "from a file\r\n")
	text := "mqtt: {username: u, password: {file: " + file + "}}\nsources: [{name: w, type: webhook, auth: {token: {credential: token}}}]\n"
	plan := load(t, text, "CREDENTIALS_DIRECTORY="+dir)
	if string(plan.MQTT.Password) != "from a file" || len(plan.Warnings()) > 0 {
		t.Errorf("got %q, warnings %q", string(plan.MQTT.Password), plan.Warnings())
	}
	for _, v := range plan.Values() {
		if strings.Contains(v.Text, "from a") {
			t.Errorf("%s is printed: %s", v.Key, v.Text)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	plan = load(t, text, "CREDENTIALS_DIRECTORY="+dir)
	if w := plan.Warnings(); len(w) != 1 || !strings.Contains(w[0], "can be read by every user") {
		t.Errorf("warnings %q", w)
	}
}

// TestAFolderOfFilesIsOneConfiguration: groups are merged, lists go on, of a
// single value the later file counts, and problems name their file.
func TestAFolderOfFilesIsOneConfiguration(t *testing.T) {
	dir := t.TempDir()
	testkit.Write(t, filepath.Join(dir, "10-base.yaml"), "mqtt: {keepalive: 30s, will: {qos: 0}}\nsources: [{name: a, type: webhook}]\n")
	testkit.Write(t, filepath.Join(dir, "20-more.yml"), "mqtt: {keepalive: 40s, client_id: x}\nsources: [{name: b, type: webhook}]\n")
	testkit.Write(t, filepath.Join(dir, ".30-editor.yaml"), "nonsense")
	testkit.Write(t, filepath.Join(dir, "README.md"), "nonsense")
	plan, err := bridge.Load(dir, nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := plan.MQTT
	if m.KeepAlive != 40*time.Second || m.ClientID != "x" || m.Will.QoS != 0 || len(plan.Sources) != 2 {
		t.Errorf("got %+v", plan.Config)
	}
	testkit.Write(t, filepath.Join(dir, "30-bad.yaml"), "sources:\n  - {name: a, type: webhook}\nmqtt: {qos: 1}\n")
	testkit.Write(t, filepath.Join(dir, "40-bad.yaml"), "- x\n")
	_, err = bridge.Load(dir, nil, t.TempDir())
	if err == nil || !strings.HasSuffix(err.Error(), `40-bad.yaml:1:1: the file must hold options such as "mqtt:" at its top level`) {
		t.Errorf("got %v", err)
	}
	_ = os.Remove(filepath.Join(dir, "40-bad.yaml"))
	_, err = bridge.Load(dir, nil, t.TempDir())
	bad := filepath.Join(dir, "30-bad.yaml")
	if want := bad + ":2:6: sources[2].name: \"a\" is the name of sources[0] already\n" + bad + ":3:8: mqtt.qos: there is no such option"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestEveryValueHasAnOrigin(t *testing.T) {
	plan := load(t, "mqtt:\n  client_id: x\nsources:\n  - {name: w, type: webhook, max_body: 5KiB}\n", "E2M_LOG_LEVEL=debug")
	origins := map[string]string{}
	for _, v := range plan.Values() {
		origins[v.Key] = v.Text + " from " + v.Origin[strings.LastIndexByte(v.Origin, '/')+1:]
	}
	for key, want := range map[string]string{
		"mqtt.client_id": "x from config.yaml:2:3", "mqtt.keepalive": "1m from default", "log.level": "debug from environment variable E2M_LOG_LEVEL",
		"sources[0].max_body": "5KiB from config.yaml:4:30", "sources[0].respond": "accepted from default",
	} {
		if origins[key] != want {
			t.Errorf("%s: %s, want %s", key, origins[key], want)
		}
	}
}

func TestFlagsAreTheLastLayer(t *testing.T) {
	file := testkit.Write(t, filepath.Join(t.TempDir(), "config.yaml"), "log: {level: warn}\nmqtt: {in_flight: 5}\n")
	plan, err := bridge.Load(file, []string{"E2M_LOG_LEVEL=info"}, t.TempDir(), "log.level=debug", "mqtt.in_flight=7", "mqtt.url=mqtt://a,mqtt://b")
	if err != nil {
		t.Fatal(err)
	}
	if plan.Log.Level != "debug" || plan.MQTT.InFlight != 7 || len(plan.MQTT.URL) != 2 {
		t.Errorf("got %+v", plan.Config)
	}
	for setting, want := range map[string]string{
		"log.levle=debug": "flag --set log.levle: there is no such option; did you mean log.level?", "log.level": "flag --set log.level: a value is needed; write log.level=VALUE",
		"mqtt.in_flight=many": "flag --set mqtt.in_flight: mqtt.in_flight: a number is needed here, not the text \"many\"",
	} {
		if _, err := bridge.Load(file, nil, t.TempDir(), setting); err == nil || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", setting, err, want)
		}
	}
}

func TestHugeFilesAreRefused(t *testing.T) {
	file := testkit.Write(t, filepath.Join(t.TempDir(), "config.yaml"), "# "+strings.Repeat("x", 5<<20)+"\n")
	if _, err := bridge.Load(file, nil, t.TempDir()); err == nil || !strings.Contains(err.Error(), "at most 4194304 are allowed") {
		t.Errorf("got %v", err)
	}
}

// runBroker runs a broker of ours until the test ends.
func runBroker(t testing.TB) string {
	t.Helper()
	b, err := broker.New(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		b.Close(ctx)
		<-done
	})
	return l.Addr().String()
}
