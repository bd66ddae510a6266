package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// TestWhatMosquittoNeverTakesIsSkippedAndSentAgain: with each of its limits,
// one event ends the connection whenever it comes. Those behind it arrive; and
// when the limit is gone, so does it.
func TestWhatMosquittoNeverTakesIsSkippedAndSentAgain(t *testing.T) {
	large := `{"event":"Bad","p":"` + strings.Repeat("x", 6000) + `"}`
	for _, c := range []struct{ name, limit, rules, body, says string }{
		{"max_packet_size", "max_packet_size 4000\n", "", large, "max_packet_size"},
		{"retain_available", "retain_available false\n", "rules: [{match: Bad, retain: true}]\n", `{"event":"Bad"}`, "no retained messages"},
		{"max_qos", "max_qos 1\n", "rules: [{match: Bad, qos: 2}]\n", `{"event":"Bad"}`, "QoS 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := mosquitto(t, c.limit)
			m.start()
			p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\n%s", m.addr, c.rules))
			p.start()
			for _, body := range []string{`{"event":"Before"}`, c.body, `{"event":"After","n":1}`, `{"event":"After","n":2}`} {
				if status := post(p.http, body); status != 202 {
					t.Fatalf("%s: %d", body[:20], status)
				}
			}
			testkit.Eventually(t, "it is skipped", func() bool { return strings.Contains(p.log.String(), "this event cannot be published and is skipped") })
			if text := p.log.String(); !strings.Contains(text, `"event":"Bad"`) || !strings.Contains(text, c.says) {
				t.Errorf("the log does not say what and why")
			}
			testkit.Eventually(t, "the others are delivered", func() bool { return strings.Contains(p.get("/readyz"), "waiting: 0 events") })
			if out, err := p.refused(); err != nil || !strings.Contains(out, "Bad") || strings.Contains(out, "After") {
				t.Fatalf("refused: %s %v", out, err)
			}
			m.stop()
			text, err := os.ReadFile(m.config)
			if err == nil {
				err = os.WriteFile(m.config, []byte(strings.Replace(string(text), c.limit, "", 1)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			m.start()
			var client *mqttest.Client
			testkit.Eventually(t, "mosquitto answers", func() bool {
				client, err = mqttest.Dial(m.addr, mqttest.Options{})
				return err == nil
			})
			defer client.Close()
			_ = client.SetDeadline(time.Now().Add(2 * mqttest.Patience))
			if _, err := client.Subscribe("event2mqtt/event/Bad", 1); err != nil {
				t.Fatal(err)
			}
			if out, err := p.refused("send", "--all"); err != nil || !strings.Contains(out, "1 event sent again") {
				t.Fatalf("send: %s %v", out, err)
			}
			if got, err := client.Next(); err != nil || got.Topic != "event2mqtt/event/Bad" {
				t.Errorf("arrived: %v %v", got, err)
			}
			if code := p.stop(); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if out, err := p.refused(); err == nil || !strings.Contains(out, "no event2mqtt runs") {
				t.Errorf("when nothing runs: %s %v", out, err)
			}
		})
	}
}

// TestARestartingMosquittoCausesNoSkip: events of the size that it takes come
// while it is killed again and again.
func TestARestartingMosquittoCausesNoSkip(t *testing.T) {
	t.Parallel()
	m := mosquitto(t, "")
	m.start()
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\n", m.addr))
	p.start()
	s := startSenders(p.http, 2)
	for range 8 {
		time.Sleep(200 * time.Millisecond)
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		time.Sleep(50 * time.Millisecond)
		m.start()
	}
	s.finish()
	testkit.Eventually(t, "all is delivered", func() bool { return strings.Contains(p.get("/readyz"), "waiting: 0 events") })
	if files, _ := filepath.Glob(filepath.Join(p.state, "refused", "*")); len(files) != 0 {
		t.Errorf("skipped: %q", files)
	}
}

// refused runs the subcommand beside the program.
func (p *program) refused(args ...string) (string, error) {
	out, err := exec.Command(binary, append([]string{"refused", "--state-dir", p.state}, args...)...).CombinedOutput()
	return string(out), err
}

// get returns what a path answers.
func (p *program) get(path string) string {
	r, err := http.Get("http://" + p.http + path)
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	return string(text)
}
