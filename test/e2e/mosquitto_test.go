package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"event2mqtt/internal/testkit"
)

// broker is a Mosquitto that can be stopped and started.
type mosquittoBroker struct {
	t      *testing.T
	path   string
	addr   string
	config string
	cmd    *exec.Cmd
}

// mosquitto prepares a broker on a free port with more configuration.
func mosquitto(t *testing.T, more string) *mosquittoBroker {
	t.Helper()
	m := &mosquittoBroker{t: t, path: need(t, "mosquitto")}
	dir := t.TempDir()
	port := freePort(t)
	m.addr = fmt.Sprintf("127.0.0.1:%d", port)
	m.config = filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\npersistence_location %s/\nuser root\n%s", port, dir, more)
	if !strings.Contains(more, "allow_anonymous") {
		text += "allow_anonymous true\n"
	}
	if err := os.WriteFile(m.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.stop)
	return m
}

func (m *mosquittoBroker) start() {
	m.t.Helper()
	m.cmd = exec.Command(m.path, "-c", m.config)
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	testkit.Eventually(m.t, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", m.addr)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

func (m *mosquittoBroker) stop() {
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(syscall.SIGTERM)
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

// post sends an event and returns the status; 0 is no answer.
func post(address, body string) int {
	r, err := http.Post("http://"+address+"/hooks/default", "application/json", strings.NewReader(body))
	if err != nil {
		return 0
	}
	defer r.Body.Close()
	_, _ = io.Copy(io.Discard, r.Body)
	return r.StatusCode
}
