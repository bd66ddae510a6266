package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

const reloads = 1000

// TestAThousandReloadsLoseNothing: small changes, bad files, renames and
// deletions in turn, while 16 connections post and a log is written and
// rotated. No event is lost, no request fails, nothing that stays the same is
// started again or loses a connection, and nothing grows.
func TestAThousandReloadsLoseNothing(t *testing.T) {
	logs := t.TempDir()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := configure(t, "")
	variant := func(token, field string, queued int) string {
		return fmt.Sprintf("http: {listen: %q}\nbroker: {listen: %q, max_queued: %d, sys_interval: 1s}\nlog: {level: warn}\npublish: {id_field: %q}\n"+sourcesYAML+
			"  - {name: extra, type: webhook, auth: {token: %s}}\n", p.http, addr, queued, field, logs, token)
	}
	good := variant("first", "id", 10000)
	write := func(text string) { testkit.OK(t, os.WriteFile(p.config, []byte(text), 0o600)) }
	write(good)
	p.start()
	watch := watchSys(t, addr)
	// What is made once is made, before it is looked at how much there is:
	// buffers, and what the journal keeps in memory.
	warmUp := startSenders(p.http, 16)
	testkit.Eventually(t, "there was load", func() bool { return watch.events() > 15000 })
	warmUp.finish()
	for i := range 50 {
		write(variant(fmt.Sprint("warm", i), "id", 10000+i))
		if ok, text := p.reload(t); !ok {
			t.Fatalf("before the load: %s", text)
		}
	}
	write(good)
	p.reload(t)
	http.DefaultClient.CloseIdleConnections()
	early := watch.usage(t, p) // at rest: under load each request is a goroutine or two
	s := subscribe(t, addr)
	senders := startSenders(p.http, 16)
	w := startWriter(t, logs, false) // each rotated file would take a descriptor
	before := startTimes(t, p.http)
	for i := range reloads {
		wantOK := true
		switch i % 5 {
		case 0: // a small change, as an editor makes it
			good = variant(fmt.Sprint("token", i), "id", 10000)
			write(good)
		case 1: // a bad file
			write(good[:rand.IntN(len(good)-2)] + "\n\t")
			wantOK = false
		case 2: // a new file in place of the old
			good = variant("renamed", "id", 10000+i)
			testkit.OK(t, os.WriteFile(p.config+".new", []byte(good), 0o600))
			testkit.OK(t, os.Rename(p.config+".new", p.config))
		case 3: // no file
			testkit.OK(t, os.Remove(p.config))
			wantOK = false
		case 4:
			good = variant("back", fmt.Sprint("id", i), 10000+i)
			write(good)
		}
		if ok, text := p.reload(t); ok != wantOK {
			t.Fatalf("reload %d: %s", i, text)
		}
	}
	write(good)
	if ok, text := p.reload(t); !ok {
		t.Fatalf("at the end: %s", text)
	}
	after := startTimes(t, p.http)
	failed := senders.failed.Load()
	accepted, lines := senders.finish(), w.finish()
	s.expect(accepted, lines)
	http.DefaultClient.CloseIdleConnections()
	late := watch.usage(t, p)
	if failed > 0 {
		t.Errorf("%d requests failed", failed)
	}
	delete(before, "source extra")
	delete(after, "source extra")
	if !maps.Equal(before, after) {
		t.Errorf("started again: %v, now %v", before, after)
	}
	t.Logf("before: %+v; after %d reloads: %+v", early, reloads, late)
	if late.files > early.files+8 || late.goroutines > early.goroutines+16 || late.heap > early.heap*3/2+(4<<20) {
		t.Errorf("something grows: %+v became %+v", early, late)
	}
}

// reload asks the API and returns how it went.
func (p *program) reload(t testing.TB, authorization ...string) (ok bool, text string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, "http://"+p.http+"/api/v1/reload", nil)
	testkit.OK(t, err)
	for _, value := range authorization {
		request.Header.Set("Authorization", value)
	}
	r, err := http.DefaultClient.Do(request)
	testkit.OK(t, err)
	defer r.Body.Close()
	var answer struct {
		OK                bool
		Problems, Changed []string
	}
	testkit.OK(t, json.NewDecoder(r.Body).Decode(&answer))
	return answer.OK, fmt.Sprintf("%+v", answer)
}

// startTimes are those of the components.
func startTimes(t testing.TB, address string) map[string]string {
	t.Helper()
	r, err := http.Get("http://" + address + "/readyz")
	testkit.OK(t, err)
	defer r.Body.Close()
	var answer struct {
		Components []struct{ Name, Started string }
	}
	testkit.OK(t, json.NewDecoder(r.Body).Decode(&answer))
	out := map[string]string{}
	for _, c := range answer.Components {
		if c.Started != "" {
			out[c.Name] = c.Started
		}
	}
	return out
}

// usage is what the program takes.
type usage struct{ heap, goroutines, files int }

// sysWatch follows the broker's $SYS topics.
type sysWatch struct {
	mu     sync.Mutex
	values map[string]int
	rounds int
}

func watchSys(t *testing.T, addr string) *sysWatch {
	t.Helper()
	c, err := mqttest.Dial(addr, mqttest.Options{})
	testkit.OK(t, err)
	_, err = c.Subscribe("$SYS/broker/#", 0)
	testkit.OK(t, err)
	w := &sysWatch{values: map[string]int{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := c.Next()
			if err != nil {
				return
			}
			n, _ := strconv.Atoi(string(m.Payload))
			w.mu.Lock()
			w.values[strings.TrimPrefix(m.Topic, "$SYS/broker/")] = n
			if strings.HasSuffix(m.Topic, "/uptime") {
				w.rounds++
			}
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return w
}

// events is how many the bridge has published.
func (w *sysWatch) events() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.values["publish/messages/received"]
}

// usage waits for fresh values.
func (w *sysWatch) usage(t testing.TB, p *program) usage {
	t.Helper()
	get := func() (usage, int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return usage{heap: w.values["event2mqtt/heap/live"], goroutines: w.values["event2mqtt/goroutines"]}, w.rounds
	}
	_, before := get()
	var u usage
	testkit.Eventually(t, "$SYS is brought up to date", func() bool {
		var now int
		u, now = get()
		return now >= before+2
	})
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	testkit.OK(t, err)
	u.files = len(files)
	return u
}

// TestAKillDuringAReloadLeavesOneConfigurationWhole: the next start runs the
// old or the new, and all of it.
func TestAKillDuringAReloadLeavesOneConfigurationWhole(t *testing.T) {
	p := configure(t, "")
	port := freePort(t)
	text := func(name string) string {
		out := fmt.Sprintf("http: {listen: %q}\nbroker: {listen: \"127.0.0.1:%d\"}\npublish: {base_topic: %s}\nsources:\n", p.http, port, name)
		for i := range 30 {
			out += fmt.Sprintf("  - {name: %s%d, type: webhook}\n", name, i)
		}
		return out + fmt.Sprintf("  - {name: %s-log, type: tail, paths: [%s/*.log]}\n", name, t.TempDir())
	}
	names := [2]string{"old", "new"}
	install := func(name string) {
		testkit.OK(t, os.WriteFile(p.config+".new", []byte(text(name)), 0o600))
		testkit.OK(t, os.Rename(p.config+".new", p.config))
	}
	install(names[0])
	for round := range 25 {
		p.start()
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := round; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				install(names[i%2])
				if r, err := http.Post("http://"+p.http+"/api/v1/reload", "", nil); err == nil {
					_ = r.Body.Close()
				}
			}
		})
		time.Sleep(rand.N(100 * time.Millisecond))
		p.kill()
		close(stop)
		wg.Wait()
		p.start()
		var found [2]int
		testkit.Eventually(t, "all sources have started", func() bool { // the page answers before
			found = [2]int{}
			for component := range startTimes(t, p.http) {
				for i, name := range names {
					if strings.HasPrefix(component, "source "+name) {
						found[i]++
					}
				}
			}
			return found[0]+found[1] >= 31
		})
		if found != [2]int{31, 0} && found != [2]int{0, 31} {
			t.Fatalf("%d sources of the old, %d of the new configuration", found[0], found[1])
		}
		p.kill()
	}
}

// TestEveryWayToReload: a changed file, the command, SIGHUP; and after a bad
// file the next one is seen all the same.
func TestEveryWayToReload(t *testing.T) {
	p := configure(t, "")
	broker := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	write := func(name, more string) {
		testkit.OK(t, os.WriteFile(p.config, fmt.Appendf(nil, "http: {listen: %q}\nbroker: {listen: %q}\nsources: [{name: %s, type: webhook}]\n%s", p.http, broker, name, more), 0o600))
	}
	is := func(name string) func() bool {
		return func() bool { return startTimes(t, p.http)["source "+name] != "" }
	}
	write("one", "")
	p.start()
	write("two", "")
	testkit.Eventually(t, "the changed file is taken up", is("two"))
	write("three", "nonsense: 1\n")
	status, _, stderr := runOnce(t, "reload", "--state-dir", p.state)
	if status != 1 || !strings.Contains(stderr, "config.yaml:4:1: nonsense: there is no such option") {
		t.Errorf("status %d, %s", status, stderr)
	}
	if !is("two")() {
		t.Error("the old one does not run any more")
	}
	write("four", "")
	testkit.Eventually(t, "the mended file is taken up", is("four"))
	status, stdout, _ := runOnce(t, "reload", "--state-dir", p.state)
	if status != 0 || stdout != "reloaded; nothing has changed\n" {
		t.Errorf("status %d, %s", status, stdout)
	}
	before := strings.Count(p.log.String(), "nothing has changed")
	testkit.OK(t, p.cmd.Process.Signal(syscall.SIGHUP))
	testkit.Eventually(t, "SIGHUP reloads", func() bool { return strings.Count(p.log.String(), "nothing has changed") > before })
	if status := p.stop(); status != 0 {
		t.Errorf("status %d", status)
	}
	if status, _, stderr := runOnce(t, "reload", "--state-dir", p.state); status != 3 || !strings.Contains(stderr, "no event2mqtt runs with this state folder") {
		t.Errorf("status %d, %s", status, stderr)
	}
}
