package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// inFiles checks what a file sink has written to path, and to the files that it
// has rotated, as subscribe does what arrives by MQTT.
func inFiles(t *testing.T, path string) *subscriber {
	t.Helper()
	s := &subscriber{t: t, newest: map[string]int{}}
	n := 0
	for ; ; n++ {
		if _, err := os.Stat(fmt.Sprintf("%s.%d", path, n+1)); err != nil {
			break
		}
	}
	for ; n >= 0; n-- {
		name := path
		if n > 0 {
			name = fmt.Sprintf("%s.%d", path, n)
		}
		text, err := os.ReadFile(name)
		testkit.OK(t, err)
		if len(text) > 0 && text[len(text)-1] != '\n' {
			t.Errorf("%s ends within a line", name)
		}
		for line := range bytes.Lines(text) {
			s.take(line)
		}
	}
	return s
}

func (p *program) status(path string) int {
	p.t.Helper()
	r, err := http.Get("http://" + p.http + path)
	testkit.OK(p.t, err)
	_ = r.Body.Close()
	return r.StatusCode
}

// idle waits until no sink has an event left to deliver.
func (p *program) idle() {
	p.t.Helper()
	testkit.Eventually(p.t, "all sinks have delivered", func() bool {
		text := p.get("/readyz")
		return strings.Contains(text, "waiting: ") && strings.Count(text, "waiting: ") == strings.Count(text, "waiting: 0 events")
	})
}

// TestNothingIsLostInEitherSink kills the program 50 times at random moments,
// while it delivers to a broker and to a file that is rotated: each gets all
// that was accepted, in order.
func TestNothingIsLostInEitherSink(t *testing.T) {
	addr := ownBroker(t)
	logs, out := t.TempDir(), filepath.Join(t.TempDir(), "events.jsonl")
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\nsinks: [{name: log, type: file, path: %s, max_size: 256KiB, keep: 1000}]\n"+sourcesYAML, addr, out, logs))
	s := subscribe(t, addr)
	senders := startSenders(p.http, 16)
	w := startWriter(t, logs, true)
	for range kills {
		p.start()
		time.Sleep(rand.N(120 * time.Millisecond))
		p.kill()
	}
	p.start()
	accepted, lines := senders.finish(), w.finish()
	s.expect(accepted, lines)
	p.idle()
	inFiles(t, out).expect(accepted, lines)
	if n := strings.Count(p.log.String(), "was not whole"); n > 0 {
		t.Logf("%d lines were torn and cut off", n)
	}
}

// numbered posts events whose numbers go on from first, n of them.
func (p *program) numbered(first, n int) {
	p.t.Helper()
	for i := range n {
		if status := post(p.http, fmt.Sprintf(`{"event":"Posted","connection":0,"number":%d,"padding":"%s"}`, first+i, strings.Repeat("x", 150))); status/100 != 2 {
			p.t.Fatalf("event %d: %d", first+i, status)
		}
	}
}

// awaySink runs a program with a file sink that has 100 events, and whose folder
// dir has gone to dir.away before the next 50. write writes the configuration
// anew, with the sink if sinks is with.
func awaySink(t *testing.T, options string) (p *program, write func(sinks string), with, dir, out string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "logs")
	testkit.OK(t, os.Mkdir(dir, 0o700))
	out = filepath.Join(dir, "events.jsonl")
	p = configure(t, "")
	write = func(sinks string) {
		testkit.OK(t, os.WriteFile(p.config, fmt.Appendf(nil, "http: {listen: %q}\nbroker: {listen: off}\n%s%s", p.http, options, sinks), 0o600))
	}
	with = "sinks: [{name: log, type: file, path: " + out + "}]\n"
	write(with)
	p.start()
	p.numbered(1, 100)
	p.idle()
	testkit.OK(t, os.Rename(dir, dir+".away"))
	p.numbered(101, 50)
	return p, write, with, dir, out
}

// TestASinkThatIsRemovedGoesOnWhereItWas when it comes back within the time for
// which its place is kept: it gets what it had not got before, and what came
// while it was gone, also over a restart.
func TestASinkThatIsRemovedGoesOnWhereItWas(t *testing.T) {
	p, write, with, dir, out := awaySink(t, "")
	testkit.Eventually(t, "the sink waits", func() bool { return strings.Contains(p.get("/readyz"), "does not exist; make it") })
	if status := p.status("/readyz"); status != http.StatusOK {
		t.Errorf("a sink that waits makes the program unready: %d", status)
	}
	write("")
	if ok, text := p.reload(t); !ok || !strings.Contains(text, "sink log: removed; 50 events were not delivered there yet; its place is kept for 24h") {
		t.Errorf("removed: %s", text)
	}
	p.numbered(151, 50)
	if code := p.stop(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	p.start()
	p.numbered(201, 50)
	write(with)
	// It waits for its folder, and goes on by itself when that is back.
	if ok, text := p.reload(t); !ok || !strings.Contains(text, "sink log: added; goes on where it was; waiting: 150 events") {
		t.Errorf("put back: %s", text)
	}
	testkit.OK(t, os.Rename(dir+".away", dir))
	p.numbered(251, 50)
	p.idle()
	s := inFiles(t, out)
	s.expect([]int{300}, 0)
	if s.repeated > 0 {
		t.Errorf("%d events came twice, and nothing has crashed", s.repeated)
	}
}

// TestASinkThatComesBackTooLateBeginsAnew: once the time for which its place is
// kept is over, it is forgotten, and one line says what it had not got.
func TestASinkThatComesBackTooLateBeginsAnew(t *testing.T) {
	p, write, with, dir, out := awaySink(t, "journal: {keep: 100ms}\n")
	write("")
	if ok, text := p.reload(t); !ok || !strings.Contains(text, "its place is kept for 100ms") {
		t.Errorf("removed: %s", text)
	}
	const line = "is forgotten; 50 events were not delivered there"
	testkit.Eventually(t, "it is forgotten", func() bool { return strings.Contains(p.log.String(), line) })
	p.numbered(151, 50)
	testkit.OK(t, os.Rename(dir+".away", dir))
	write(with)
	if ok, text := p.reload(t); !ok || !strings.Contains(text, "sink log: added; begins with the next event") {
		t.Errorf("put back: %s", text)
	}
	p.numbered(201, 50)
	p.idle()
	text, err := os.ReadFile(out)
	testkit.OK(t, err)
	if n := strings.Count(string(text), "\n"); n != 150 {
		t.Errorf("the file has %d lines, want the first 100 and the last 50", n)
	}
	if n := strings.Count(p.log.String(), line); n != 1 {
		t.Errorf("it is told %d times", n)
	}
}

// TestAFullDiskOfOneSinkHoldsUpNoOther: the file's disk is full, the broker gets
// everything; when there is room again, so does the file.
func TestAFullDiskOfOneSinkHoldsUpNoOther(t *testing.T) {
	disk := smallDisk(t)
	out, ballast := filepath.Join(disk, "events.jsonl"), filepath.Join(disk, "ballast")
	testkit.OK(t, os.WriteFile(ballast, make([]byte, 900<<10), 0o600))
	addr := ownBroker(t)
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\nsinks: [{name: log, type: file, path: %s}]\nsources: [{name: default, type: webhook, respond: delivered}]\n", addr, out))
	s := subscribe(t, addr)
	p.start()
	p.numbered(1, 1000)
	testkit.Eventually(t, "the file waits", func() bool { return strings.Contains(p.get("/readyz"), "no space left on device") })
	p.numbered(1001, 1000) // respond: delivered waits for the broker alone
	s.expect([]int{2000}, 0)
	if n := strings.Count(p.log.String(), "no space left on device"); n != 1 {
		t.Errorf("it is told %d times", n)
	}
	p.kill() // and none of it is forgotten
	p.start()
	testkit.OK(t, os.Remove(ballast))
	p.idle()
	inFiles(t, out).expect([]int{2000}, 0)
}
