// Package e2e tests the real program against the real things around it: a
// binary that is killed, brokers that come and go, folders that run full.
// What is not installed here is skipped, and said; with CI=true it fails.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

var (
	binary       string
	otherProgram = flag.String("program", "", "the program to test, such as an older one; left out, this one is built")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if binary = *otherProgram; binary != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "bridge")
	build := exec.Command("go", "build", "-o", binary, "event2mqtt/cmd/bridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// need skips a test whose tool is missing, which in CI is a failure.
func need(t *testing.T, tool string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/"} {
		if path, err := exec.LookPath(dir + tool); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed, and in CI it must be", tool)
	}
	t.Skipf("%s is not installed", tool)
	return ""
}

// freePort returns a port that was free a moment ago.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// program is the binary with a configuration; it may run many times.
type program struct {
	t      *testing.T
	config string
	state  string
	http   string // address
	cmd    *exec.Cmd
	began  time.Time // the newest start
	log    *testkit.Log
}

// configure writes a configuration; HTTP stands for the address of the page.
func configure(t *testing.T, yaml string) *program {
	t.Helper()
	p := &program{t: t, state: t.TempDir(), http: fmt.Sprintf("127.0.0.1:%d", freePort(t)), log: &testkit.Log{}}
	p.config = filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(p.config, []byte("http: {listen: \""+p.http+"\"}\n"+yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the program's log:\n%s", lastLines(p.log.String(), 60))
		}
	})
	return p
}

func lastLines(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// start runs the program and waits until it answers.
func (p *program) start() {
	p.t.Helper()
	p.cmd = exec.Command(binary, "--config", p.config, "--state-dir", p.state)
	p.cmd.Stderr = p.log
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	testkit.Eventually(p.t, "the program answers", func() bool {
		r, err := http.Get("http://" + p.http + "/healthz")
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

// kill ends the program without warning.
func (p *program) kill() {
	if p.cmd != nil && p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// stop ends the program as a service manager does and returns its exit status.
func (p *program) stop() int {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// senders post numbered events over one connection each: the next number only
// when the one before got a 2xx.
type senders struct {
	wg     sync.WaitGroup
	stop   chan struct{}
	last   []int        // of each connection: the number that was accepted last
	failed atomic.Int64 // requests that did not get a 2xx
}

func startSenders(address string, n int) *senders {
	s := &senders{stop: make(chan struct{}), last: make([]int, n)}
	for i := range n {
		s.wg.Go(func() { s.send(address, i) })
	}
	return s
}

func (s *senders) send(address string, i int) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	for number := 1; ; {
		body := fmt.Sprintf(`{"event":"Posted","connection":%d,"number":%d,"padding":"%s"}`, i, number, strings.Repeat("x", 150))
		r, err := client.Post("http://"+address+"/hooks/default", "application/json", strings.NewReader(body))
		if err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
			if r.StatusCode/100 == 2 {
				s.last[i] = number
				number++
			} else {
				s.failed.Add(1)
				time.Sleep(10 * time.Millisecond) // asked to wait
			}
		} else {
			s.failed.Add(1)
			time.Sleep(2 * time.Millisecond)
		}
		select {
		case <-s.stop:
			return
		default:
		}
	}
}

func (s *senders) finish() []int {
	close(s.stop)
	s.wg.Wait()
	return s.last
}

// writer appends numbered lines to a log that it may rotate by renaming. Some of
// its files live for less than file systems can tell times apart; their names
// then tell which is older.
type writer struct {
	wg   sync.WaitGroup
	stop chan struct{}
	last int
}

func startWriter(t *testing.T, dir string, rotate bool) *writer {
	w := &writer{stop: make(chan struct{})}
	path := filepath.Join(dir, "app.log")
	w.wg.Go(func() {
		rotated := 0
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		for ; err == nil; w.last++ {
			select {
			case <-w.stop:
				_ = f.Close()
				return
			default:
			}
			line := fmt.Sprintf(`{"event":"Line","number":%d,"padding":"%s"}`+"\n", w.last+1, strings.Repeat("y", rand.IntN(200)))
			half := rand.IntN(len(line))
			if _, err = f.WriteString(line[:half]); err != nil {
				break
			}
			if rand.IntN(20) == 0 {
				time.Sleep(time.Millisecond)
			}
			if _, err = f.WriteString(line[half:]); err != nil {
				break
			}
			if rotate && rand.IntN(500) == 0 {
				rotated++
				_ = f.Close()
				if err = os.Rename(path, fmt.Sprintf("%s.%06d", path, rotated)); err != nil {
					break
				}
				f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			}
		}
		t.Errorf("the writer stopped: %v", err)
	})
	return w
}

func (w *writer) finish() int {
	close(w.stop)
	w.wg.Wait()
	return w.last
}

// subscriber collects what arrives, over connections that may break, in a
// session that does not. Its checks are those of the promises: every number
// arrives for the first time in order, and none is left out.
type subscriber struct {
	t      *testing.T
	addr   string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	newest   map[string]int // by connection or file
	total    int
	repeated int
	wrong    string
}

func subscribe(t *testing.T, addr string) *subscriber {
	ctx, cancel := context.WithCancel(context.Background())
	s := &subscriber{t: t, addr: addr, cancel: cancel, newest: map[string]int{}}
	ready := make(chan struct{})
	s.wg.Go(func() { s.run(ctx, ready) })
	t.Cleanup(func() { cancel(); s.wg.Wait() })
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("cannot subscribe")
	}
	return s
}

func (s *subscriber) run(ctx context.Context, ready chan struct{}) {
	for first := true; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		c, present, code, err := mqttest.Connect(s.addr, mqttest.Options{ID: "collector", Keep: true})
		if err != nil || code != 0 {
			continue
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		if !present {
			if !first {
				s.fail("the broker lost the subscriber's session")
			}
			if _, err := c.Subscribe("event2mqtt/event/#", 1); err != nil {
				c.Close()
				continue
			}
			if first {
				close(ready)
			}
		}
		first = false
		for {
			m, err := c.Next()
			if err != nil {
				break
			}
			s.take(m.Payload)
		}
		stop()
		c.Close()
	}
}

func (s *subscriber) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong == "" {
		s.wrong = fmt.Sprintf(format, args...)
	}
}

func (s *subscriber) take(payload []byte) {
	var m struct {
		Event      string `json:"_event"`
		Connection int    `json:"connection"`
		Number     int    `json:"number"`
	}
	if err := unmarshal(payload, &m); err != nil {
		s.fail("not JSON: %s", payload)
		return
	}
	key := m.Event
	if m.Event == "Posted" {
		key = fmt.Sprintf("connection %d", m.Connection)
	}
	s.mu.Lock()
	newest := s.newest[key]
	s.total++
	switch {
	case m.Number <= newest:
		s.repeated++
	default:
		s.newest[key] = m.Number
	}
	s.mu.Unlock()
	if m.Number > newest+1 {
		s.fail("%s: %d came after %d", key, m.Number, newest)
	}
}

// expect waits until everything that was accepted has arrived.
func (s *subscriber) expect(accepted []int, lines int) {
	s.t.Helper()
	want := map[string]int{}
	sum := 0
	for i, n := range accepted {
		want[fmt.Sprintf("connection %d", i)] = n
		sum += n
	}
	if lines > 0 {
		want["Line"] = lines
	}
	missing := ""
	deadline := time.Now().Add(60 * time.Second)
	for {
		missing = ""
		s.mu.Lock()
		for key, n := range want {
			if s.newest[key] < n {
				missing += fmt.Sprintf("%s: got %d of %d; ", key, s.newest[key], n)
			}
		}
		wrong := s.wrong
		s.mu.Unlock()
		if wrong != "" {
			s.t.Fatal(wrong)
		}
		if missing == "" {
			break
		}
		if time.Now().After(deadline) {
			s.t.Fatal("lost: " + missing)
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Logf("%d events and %d lines accepted, %d messages arrived, %d of them repeated", sum, lines, s.total, s.repeated)
	if sum == 0 {
		s.t.Fatal("nothing was accepted: this test shows nothing")
	}
}
