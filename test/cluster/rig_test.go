// Package cluster has brokers, alone and in clusters, and event2mqtt killed while it
// publishes to them, and looks that nothing is lost. The brokers are real: NATS with
// JetStream from its Go module, Debian's Mosquitto, and event2mqtt's own. It is a
// module of its own, so that the program's go.mod stays as it is.
package cluster

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

var folder string // of the programs that are built for all tests; it is removed

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if folder, err = os.MkdirTemp("", "event2mqtt-cluster"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		for _, b := range []struct{ name, module, what string }{
			{"event2mqtt", "../..", "./cmd/bridge"}, {"nats-server", ".", "github.com/nats-io/nats-server/v2"},
		} {
			c := exec.Command("go", "build", "-o", filepath.Join(folder, b.name), b.what)
			c.Dir = b.module
			if out, err := c.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", b.what, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// built is the path of a program that TestMain has made.
func built(name string) string { return filepath.Join(folder, name) }

// process is a program that is started, killed, and started again.
type process struct {
	t    *testing.T
	path string
	args []string
	env  []string
	log  testkit.Log
	cmd  *exec.Cmd
}

func newProcess(t *testing.T, path string, env []string, args ...string) *process {
	p := &process{t: t, path: path, args: args, env: env}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text := p.log.String()
			t.Logf("the end of the log of %s %v:\n%s", filepath.Base(path), args, text[max(0, len(text)-8_000):])
		}
	})
	return p
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	testkit.OK(p.t, p.cmd.Start())
}

// kill ends it with SIGKILL.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd = nil
}

// node is one broker of a cluster.
type node struct {
	*process
	address string
}

// awaitAll starts all nodes and waits until each accepts connections.
func awaitAll(t *testing.T, nodes []node) {
	t.Helper()
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		testkit.Eventually(t, n.address+" listens", func() bool {
			c, err := net.Dial("tcp", n.address)
			if err != nil {
				return false
			}
			_ = c.Close()
			return true
		})
	}
}

// natsCluster is three nodes with JetStream.
func natsCluster(t *testing.T) []node {
	peers, routes := make([]string, 3), make([]string, 3)
	for i := range peers {
		peers[i] = testkit.FreeAddress(t)
		routes[i] = fmt.Sprintf("%q", "nats://"+peers[i])
	}
	nodes := make([]node, len(peers))
	for i := range nodes {
		dir, address := t.TempDir(), testkit.FreeAddress(t)
		config := testkit.Write(t, filepath.Join(dir, "nats.conf"), fmt.Sprintf(`
server_name: n%d
listen: %q
jetstream { store_dir: %q, max_memory_store: 64MB, max_file_store: 1GB }
mqtt { listen: %q }
cluster { name: e2m, listen: %q, routes: [%s] }
`, i+1, testkit.FreeAddress(t), filepath.Join(dir, "data"), address, peers[i], strings.Join(routes, ", ")))
		nodes[i] = node{newProcess(t, built("nats-server"), nil, "-c", config), address}
	}
	return nodes
}

// mosquittos is a pair of brokers that know nothing of each other. What they have
// acknowledged, and who has subscribed, they have on disk.
func mosquittos(t *testing.T) []node {
	path := findMosquitto(t)
	nodes := make([]node, 2)
	for i := range nodes {
		dir, address := t.TempDir(), testkit.FreeAddress(t)
		_, port, _ := net.SplitHostPort(address)
		config := testkit.Write(t, filepath.Join(dir, "mosquitto.conf"), fmt.Sprintf(`
listener %s 127.0.0.1
allow_anonymous true
persistence true
persistence_location %s/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
user root
`, port, dir))
		nodes[i] = node{newProcess(t, path, nil, "-c", config), address}
	}
	return nodes
}

// findMosquitto skips the test if Mosquitto is not there, unless CI is set.
func findMosquitto(t *testing.T) string {
	path, err := exec.LookPath("mosquitto")
	if err == nil {
		return path
	}
	if path = "/usr/sbin/mosquitto"; exists(path) {
		return path
	}
	if os.Getenv("CI") != "" {
		t.Fatal("mosquitto is not installed")
	}
	t.Skip("mosquitto is not installed")
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// bundled is a pair of event2mqtt that are nothing but brokers.
func bundled(t *testing.T) []node {
	nodes := make([]node, 2)
	for i := range nodes {
		dir, address := t.TempDir(), testkit.FreeAddress(t)
		config := testkit.Write(t, filepath.Join(dir, "config.yaml"), fmt.Sprintf(
			"http: {listen: %q}\nbroker: {listen: %q}\nhome_assistant: {discovery: false}\n", testkit.FreeAddress(t), address))
		nodes[i] = node{newProcess(t, built("event2mqtt"), []string{"STATE_DIRECTORY=" + filepath.Join(dir, "state")}, "--config", config), address}
	}
	return nodes
}

// bridge starts event2mqtt with the brokers in this order, and a webhook for each
// source. It returns the address that these listen on.
func bridge(t *testing.T, brokers []node, sources []string) string {
	t.Helper()
	dir, address := t.TempDir(), testkit.FreeAddress(t)
	text := fmt.Sprintf("http: {listen: %q}\npublish: {source_field: _source}\nmqtt:\n  url:\n", address)
	for _, n := range brokers {
		text += "    - mqtt://" + n.address + "\n"
	}
	text += "sources:\n"
	for _, s := range sources {
		text += "  - {name: " + s + ", type: webhook}\n"
	}
	p := newProcess(t, built("event2mqtt"), []string{"STATE_DIRECTORY=" + filepath.Join(dir, "state")}, "--config", testkit.Write(t, filepath.Join(dir, "config.yaml"), text))
	p.start()
	testkit.Eventually(t, "event2mqtt accepts events", func() bool {
		r, err := http.Get("http://" + address + "/healthz")
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	return address
}

// until waits as long as a cluster may need that was killed piece by piece.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}
