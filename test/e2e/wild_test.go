package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// Each folder of testdata/wild is something that people send, log or do, as
// reports about programs like this one tell it: config.yaml, where $HTTP, $MQTT,
// $XPORT (ports) and $DIR are filled in; input.sh, which has them as variables,
// with BRIDGE; and expect.txt, in which
//
//	msg RE       a message "TOPIC PAYLOAD" must match
//	nomsg RE     none may
//	count N RE   exactly N do
//	out RE       what input.sh prints matches
//	noout RE     it does not
//	log RE       the program's log matches
//
// and other lines are prose. A configuration that begins with "# norun" is for
// input.sh alone to use.
func TestWhatPeopleReportOfSuchPrograms(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "python3", "openssl", "setpriv", "mosquitto", "mosquitto_sub"} {
		need(t, tool)
	}
	folders, err := filepath.Glob("testdata/wild/*/input.sh")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range folders {
		c := wildCase{folder: filepath.Dir(path)}
		t.Run(filepath.Base(c.folder), func(t *testing.T) {
			t.Parallel()
			c.run(t)
		})
	}
}

type wildCase struct {
	folder string
}

func (c wildCase) run(t *testing.T) {
	dir, err := os.MkdirTemp("", "wild") // another user must be able to enter it, as t.TempDir's cannot be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	vars := map[string]string{"DIR": dir, "BRIDGE": binary}
	for _, name := range []string{"HTTP", "MQTT", "XPORT"} {
		vars[name] = strconv.Itoa(freePort(t))
	}
	config := os.Expand(c.read(t, "config.yaml"), func(name string) string { return vars[name] })
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var got wildResult
	if !strings.HasPrefix(config, "# norun") {
		p := &program{t: t, config: filepath.Join(dir, "config.yaml"), state: filepath.Join(dir, "state"), http: "127.0.0.1:" + vars["HTTP"], log: &testkit.Log{}}
		t.Cleanup(func() {
			p.kill()
			if t.Failed() {
				t.Logf("the program's log:\n%s", lastLines(p.log.String(), 40))
			}
		})
		p.start()
		got.log = p.log
		got.listen(t, "127.0.0.1:"+vars["MQTT"])
	}
	input := exec.Command("timeout", "60", "bash", "input.sh")
	if input.Args[3], err = filepath.Abs(filepath.Join(c.folder, "input.sh")); err != nil {
		t.Fatal(err)
	}
	input.Dir, input.Env = dir, os.Environ()
	for name, value := range vars {
		input.Env = append(input.Env, name+"="+value)
	}
	out, _ := input.CombinedOutput() // its exit status is whatever the last command of it says
	got.out = string(out)
	c.judge(t, &got)
}

func (c wildCase) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// wildResult is what came of a case.
type wildResult struct {
	out string
	log *testkit.Log

	mu       sync.Mutex
	messages []string
}

// listen collects the events' messages until the test ends.
func (r *wildResult) listen(t *testing.T, address string) {
	t.Helper()
	client, err := mqttest.Dial(address, mqttest.Options{ID: "case"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Subscribe("event2mqtt/event/#", 1); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			m, err := client.Next()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.messages = append(r.messages, fmt.Sprintf("%s %s", m.Topic, m.Payload))
			r.mu.Unlock()
		}
	})
	t.Cleanup(func() { _ = net.Conn(client).Close(); wg.Wait() })
}

func (r *wildResult) matching(re *regexp.Regexp) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.messages {
		if re.MatchString(m) {
			n++
		}
	}
	return n
}

// judge waits for what must come, and then a moment for what must not.
func (c wildCase) judge(t *testing.T, r *wildResult) {
	expectations := 0
	deadline := time.Now().Add(20 * time.Second)
	var never []func()
	for line := range strings.Lines(c.read(t, "expect.txt")) {
		line = strings.TrimSuffix(line, "\n")
		kind, pattern, _ := strings.Cut(line, " ")
		want := 0
		if kind == "count" {
			number, rest, _ := strings.Cut(pattern, " ")
			var err error
			if want, err = strconv.Atoi(number); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			pattern = rest
		}
		switch kind {
		case "msg", "nomsg", "count", "out", "noout", "log":
		default:
			continue
		}
		expectations++
		re, err := regexp.Compile(pattern)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		switch kind {
		case "msg":
			by(t, deadline, line, func() bool { return r.matching(re) > 0 })
		case "count":
			by(t, deadline, line, func() bool { return r.matching(re) >= want })
			never = append(never, func() {
				if n := r.matching(re); n != want {
					t.Errorf("%s: there are %d", line, n)
				}
			})
		case "nomsg":
			never = append(never, func() {
				if r.matching(re) > 0 {
					t.Error(line)
				}
			})
		case "log":
			by(t, deadline, line, func() bool { return r.log != nil && re.MatchString(r.log.String()) })
		case "out", "noout":
			if re.MatchString(r.out) != (kind == "out") {
				t.Error(line)
			}
		}
	}
	if expectations == 0 {
		t.Fatal("expect.txt expects nothing")
	}
	if len(never) > 0 {
		time.Sleep(time.Second)
	}
	for _, check := range never {
		check()
	}
	if t.Failed() {
		r.mu.Lock()
		defer r.mu.Unlock()
		t.Logf("input.sh printed:\n%s\nmessages:\n%s", r.out, strings.Join(r.messages, "\n"))
	}
}

// by reports what does not come true in time, and lets the test go on.
func by(t *testing.T, deadline time.Time, what string, holds func() bool) {
	t.Helper()
	for !holds() {
		if time.Now().After(deadline) {
			t.Error(what)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
