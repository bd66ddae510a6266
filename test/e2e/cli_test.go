package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// runOnce runs the program to its end.
func runOnce(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &err
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}

func TestATakenPortIsOneLineThatSaysWhatToDo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for key, section := range map[string]string{"http.listen": "http", "broker.listen": "broker"} {
		config := filepath.Join(t.TempDir(), "c.yaml")
		free := map[string]string{"http": fmt.Sprintf("broker: {listen: '127.0.0.1:%d'}\n", freePort(t)), "broker": fmt.Sprintf("http: {listen: '127.0.0.1:%d'}\n", freePort(t))}
		if err := os.WriteFile(config, []byte(free[section]+section+": {listen: \""+l.Addr().String()+"\"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		status, _, text := runOnce(t, "--config", config, "--state-dir", t.TempDir())
		if status != 1 || strings.Count(text, "\n") != 1 || !strings.Contains(text, l.Addr().String()) || !strings.Contains(text, key) {
			t.Errorf("status %d:\n%s", status, text)
		}
	}
}

func TestTwoBridgesDoNotShareAStateFolder(t *testing.T) {
	p := configure(t, fmt.Sprintf("broker: {listen: \"127.0.0.1:%d\"}\n", freePort(t)))
	p.start()
	other := configure(t, fmt.Sprintf("broker: {listen: \"127.0.0.1:%d\"}\n", freePort(t)))
	status, _, text := runOnce(t, "--config", other.config, "--state-dir", p.state)
	if status != 1 || !strings.Contains(text, "another event2mqtt") {
		t.Errorf("status %d: %s", status, text)
	}
}

func TestCheckTellsEverythingAtOnce(t *testing.T) {
	status, out, _ := runOnce(t, "check", "--config", "../../config.example.yaml")
	if status != 0 || !strings.Contains(out, "is valid") {
		t.Errorf("the example: status %d: %s", status, out)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("mqtt: {qos: 1}\nlog: {level: loud}\nsources: [{type: webhook}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "--config", bad}, {"--config", bad, "--state-dir", t.TempDir()}} {
		status, _, text := runOnce(t, args...)
		if status != 1 || !strings.Contains(text, bad+":1:8: mqtt.qos") || !strings.Contains(text, bad+":2:7: log.level") || !strings.Contains(text, bad+":3:11: sources[0].name") {
			t.Errorf("%v: status %d:\n%s", args, status, text)
		}
	}
	if status, _, text := runOnce(t, "check", "--config", "/nowhere.yaml"); status != 1 || !strings.Contains(text, "/nowhere.yaml") {
		t.Errorf("status %d: %s", status, text)
	}
	if status, out, _ := runOnce(t, "version"); status != 0 || !strings.HasPrefix(out, "event2mqtt ") {
		t.Errorf("version: status %d: %s", status, out)
	}
	if status, _, text := runOnce(t, "chek"); status != 2 || text == "" {
		t.Errorf("a mistyped command: status %d: %s", status, text)
	}
}

// TestShutdownDeliversWhatWasAccepted ends the program right after it took
// events: subscribers have them, and the goodbye, before it is gone.
func TestShutdownDeliversWhatWasAccepted(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := configure(t, "broker: {listen: \""+addr+"\"}\n")
	p.start()
	c, err := mqttest.Dial(addr, mqttest.Options{Version: wire.V5})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	if _, err := c.Subscribe("event2mqtt/#", 1); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if status := post(p.http, fmt.Sprintf(`{"event":"E","n":%d}`, i)); status != 202 {
			t.Fatalf("status %d", status)
		}
	}
	ended := make(chan int)
	go func() { ended <- p.stop() }()
	seen := 0
	for goodbye := false; !goodbye; {
		m, err := c.Next()
		if err != nil {
			t.Fatalf("after %d events: %v", seen, err)
		}
		switch m.Topic {
		case "event2mqtt/event/E":
			seen++
		case "event2mqtt/mqtt":
			goodbye = string(m.Payload) == "disconnected"
		}
	}
	if status := <-ended; seen != 200 || status != 0 {
		t.Errorf("%d of 200 events, exit status %d", seen, status)
	}
	if _, err := http.Get("http://" + p.http + "/healthz"); err == nil {
		t.Error("it still answers")
	}
}

func TestTheClientIDIsMadeOnceAndKept(t *testing.T) {
	p := configure(t, fmt.Sprintf("broker: {listen: \"127.0.0.1:%d\"}\n", freePort(t)))
	p.start()
	p.kill()
	first, err := os.ReadFile(filepath.Join(p.state, "client_id"))
	if err != nil || !strings.HasPrefix(string(first), "event2mqtt") || len(strings.TrimSpace(string(first))) > 23 {
		t.Fatalf("%q, %v", first, err)
	}
	p.start()
	if again, _ := os.ReadFile(filepath.Join(p.state, "client_id")); !bytes.Equal(first, again) {
		t.Errorf("%q became %q", first, again)
	}
}

func TestHealthIsSeen(t *testing.T) {
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://127.0.0.1:%d\"}\n", freePort(t)))
	p.start() // the broker is down, and events are taken all the same
	testkit.Eventually(t, "the page says what is wrong", func() bool {
		r, err := http.Get("http://" + p.http + "/readyz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return r.StatusCode == 200 && strings.Contains(string(text), "nothing listens there")
	})
	if status := post(p.http, `{"event":"E"}`); status != 202 {
		t.Errorf("status %d", status)
	}
	if status := p.stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if text := p.log.String(); !strings.Contains(text, "kept for the next start") {
		t.Errorf("the log does not say what becomes of the event:\n%s", text)
	}
}
