package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// This file is "event2mqtt watch", beside what others show.

// running is a command that runs until it is told to end.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   io.ReadCloser
	lines chan string
	says  testkit.Log
}

// begin starts a command, whose output is read when read is called.
func begin(t *testing.T, name string, args ...string) *running {
	t.Helper()
	r := &running{t: t, cmd: exec.Command(name, args...), lines: make(chan string, 1<<20)}
	r.cmd.Stderr = &r.says
	var err error
	if r.out, err = r.cmd.StdoutPipe(); err == nil {
		err = r.cmd.Start()
	}
	testkit.OK(t, err)
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
	})
	return r
}

func (r *running) read() *running {
	go func() {
		defer close(r.lines)
		for s := bufio.NewScanner(r.out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	return r
}

// next is the next line.
func (r *running) next() string {
	r.t.Helper()
	select {
	case line, ok := <-r.lines:
		if !ok {
			r.t.Fatalf("%v has ended:\n%s", r.cmd.Args, r.says.String())
		}
		return line
	case <-time.After(time.Minute):
		r.t.Fatalf("%v says nothing:\n%s", r.cmd.Args, r.says.String())
		return ""
	}
}

// until reads lines until one holds a text.
func (r *running) until(text string) string {
	r.t.Helper()
	for {
		if line := r.next(); strings.Contains(line, text) {
			return line
		}
	}
}

// interrupt ends it as Ctrl-C does, and returns the exit status.
func (r *running) interrupt() int {
	_ = r.cmd.Process.Signal(syscall.SIGINT)
	for range r.lines {
	}
	_ = r.cmd.Wait()
	return r.cmd.ProcessState.ExitCode()
}

// ready waits until a watch shows what happens now.
func (p *asked) ready(watches ...*running) {
	p.t.Helper()
	for i, w := range watches {
		name := fmt.Sprintf("Ready%d", i)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for tick := time.NewTicker(50 * time.Millisecond); ; {
				post(p.http, `{"event":"`+name+`"}`)
				select {
				case <-stop:
					tick.Stop()
					return
				case <-tick.C:
				}
			}
		})
		w.until(name)
		close(stop)
		wg.Wait()
	}
}

// TestWatchShowsWhatMosquittoSubShows, and so does curl with the API's stream and
// subscription, in order and with none left out, while 2,000 events come in a second.
func TestWatchShowsWhatMosquittoSubShows(t *testing.T) {
	const rate, seconds, senders = 2000, 3, 8
	p := startAsked(t, "")
	_, port, _ := strings.Cut(p.broker, ":")
	sub := begin(t, need(t, "mosquitto_sub"), "-p", port, "-t", "event2mqtt/event/#", "-q", "1", "-i", "compare").read()
	payloads := begin(t, binary, "watch", "event2mqtt/event/#", "--payload", "--state-dir", p.state).read()
	objects := begin(t, binary, "watch", "--json", "--state-dir", p.state).read()
	curl := need(t, "curl")
	stream := begin(t, curl, "-sN", "http://"+p.http+"/api/v1/stream").read()
	subscription := begin(t, curl, "-sN", "http://"+p.http+"/api/v1/subscribe?topic=event2mqtt/event/%23").read()
	all := []*running{sub, payloads, objects, stream, subscription}
	p.ready(all...)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
			defer client.CloseIdleConnections()
			for n := range rate * seconds / senders {
				time.Sleep(time.Until(began.Add(time.Duration(n) * senders * time.Second / rate)))
				r, err := client.Post("http://"+p.http+"/hooks/default", "application/json", strings.NewReader(fmt.Sprintf(`{"event":"Many","sender":%d,"n":%d}`, i, n)))
				if err != nil || r.StatusCode != http.StatusAccepted {
					t.Errorf("%v", err)
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				_ = r.Body.Close()
			}
		})
	}
	wg.Wait()
	t.Logf("%.0f events a second were accepted", rate*seconds/time.Since(began).Seconds())
	var got [5][]string
	for i, r := range all {
		for len(got[i]) < rate*seconds {
			line := r.next()
			if r == objects {
				var e struct {
					Event   string
					Payload json.RawMessage
					Fate    struct{ State string }
				}
				if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event == "" {
					t.Fatalf("%v: %s", err, line)
				}
				if line = string(e.Payload); e.Fate.State != "delivered" {
					t.Logf("%s: %s", e.Fate.State, line) // a slow machine
				}
			}
			if r == stream || r == subscription {
				var item struct {
					Type    string
					Payload json.RawMessage
				}
				if err := json.Unmarshal([]byte(line), &item); err != nil || item.Type == "gap" {
					t.Fatalf("%v: %s", err, line)
				}
				if line = string(item.Payload); item.Type != "event" && item.Type != "message" {
					continue
				}
			}
			if strings.Contains(line, `"Many"`) {
				got[i] = append(got[i], line)
			}
		}
	}
	for i := range got {
		for at, line := range got[i] {
			if line != got[0][at] {
				t.Fatalf("%v: line %d is %s, and mosquitto_sub's is %s", all[i].cmd.Args, at, line, got[0][at])
			}
		}
	}
	for _, w := range all[1:3] {
		if status := w.interrupt(); status != 0 || strings.Contains(w.says.String(), "lost") {
			t.Errorf("exit status %d: %s", status, w.says.String())
		}
	}
}

// TestAWatchThatIsNotReadLeavesNothingOut: not even if so much comes that the program
// goes on without it.
func TestAWatchThatIsNotReadLeavesNothingOut(t *testing.T) {
	const requests, each, size = 40, 100, 7 << 10 // 28 MiB
	p := startAsked(t, "")
	watch := begin(t, binary, "watch", "bulk/#", "--payload", "--since", "all", "--state-dir", p.state)
	padding := strings.Repeat("x", size)
	for i := range requests {
		var messages []string
		for n := range each {
			messages = append(messages, fmt.Sprintf(`{"topic":"bulk/x","payload":"%d %s"}`, i*each+n, padding))
		}
		r, err := http.Post("http://"+p.http+"/api/v1/publish", "application/json", strings.NewReader("["+strings.Join(messages, ",")+"]"))
		testkit.OK(t, err)
		_ = r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Fatal(r.Status)
		}
	}
	watch.read()
	for n := range requests * each {
		if line := watch.next(); line != fmt.Sprintf("%d %s", n, padding) {
			t.Fatalf("instead of number %d comes %.40s", n, line)
		}
	}
	if status := watch.interrupt(); status != 0 {
		t.Errorf("exit status %d: %s", status, watch.says.String())
	}
	if watch.says.String() == "" { // buffers are large here
		t.Log("it never had to go back, so this shows little")
	}
}

// TestWatchGoesOnWhenTheProgramComesBack, each event once, also after a crash.
func TestWatchGoesOnWhenTheProgramComesBack(t *testing.T) {
	p := startAsked(t, "")
	watch := begin(t, binary, "watch", "--json", "--state-dir", p.state).read()
	p.ready(watch)
	seen := 0
	expect := func() {
		t.Helper()
		line := watch.next()
		for strings.Contains(line, "Ready") {
			line = watch.next()
		}
		if !strings.Contains(line, fmt.Sprintf(`"n":%d}`, seen)) {
			t.Fatalf("instead of number %d comes %s", seen, line)
		}
		seen++
	}
	number := func() {
		t.Helper()
		if status := post(p.http, fmt.Sprintf(`{"event":"Number","n":%d}`, seen)); status != http.StatusAccepted {
			t.Fatal(status)
		}
	}
	for round := range 3 {
		number()
		expect()
		before := strings.Count(watch.says.String(), "the connection is lost")
		if round%2 == 0 {
			p.kill()
		} else if status := p.stop(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		testkit.Eventually(t, "it says that the connection is lost", func() bool { return strings.Count(watch.says.String(), "the connection is lost") > before })
		p.start()
		number()
		expect()
	}
	if status := watch.interrupt(); status != 0 || !strings.Contains(watch.says.String(), "connected again") {
		t.Errorf("exit status %d: %s", status, watch.says.String())
	}
}
