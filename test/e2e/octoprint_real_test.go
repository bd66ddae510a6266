package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// octoPrintVersions are those that scripts/install-octoprint installs.
var octoPrintVersions = []string{"1.11.8", "2.0.0rc7"}

// TestTheRealOctoPrint connects the program to OctoPrint with its virtual
// printer, and compares what comes with what OctoPrint says happened.
func TestTheRealOctoPrint(t *testing.T) {
	for _, version := range octoPrintVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := prepareReal(t, version)
			for _, phase := range []struct {
				name string
				run  func(*testing.T)
			}{
				{"everything is told as OctoPrint says it", r.session},
				{"no end of a print is lost or told twice", r.kills},
				{"OctoPrint is restarted in the middle of a print", r.restarts},
				{"an idle printer is quiet", r.idle},
				{"a print takes little", r.printing},
				{"commands do what they say, and nothing else", r.commands},
			} {
				began := time.Now()
				ok := t.Run(phase.name, func(t *testing.T) {
					r.octo.t, r.bridge.t = t, t
					phase.run(t)
				})
				r.octo.t, r.bridge.t = t, t
				if !ok {
					return // the next begin where it ends
				}
				t.Logf("%s: %s", phase.name, time.Since(began).Round(time.Second))
			}
		})
	}
}

// real is an OctoPrint, the program that is connected to it, and who watches.
type real struct {
	octo    *octoPrint
	bridge  *program
	broker  string // its address
	watcher *watcher
	began   int // of OctoPrint's events, those before are not looked at
}

func prepareReal(t *testing.T, version string) *real {
	r := &real{octo: prepareOctoPrint(t, version)}
	r.broker = ownBroker(t)
	r.watcher = watch(t, r.broker)
	r.bridge = configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\npublish: {id_field: _id}\n", r.broker))
	began := time.Now()
	r.octo.start()
	t.Logf("OctoPrint %s started within %s", version, time.Since(began).Round(time.Second/10))
	r.octo.connect(r.bridge)
	r.began = len(r.octo.all())
	r.start(t)
	return r
}

// start starts the program and waits until it is connected.
func (r *real) start(t *testing.T) {
	t.Helper()
	r.links(t, r.bridge.start)
}

// links does what has the program connect to OctoPrint, and waits until it is.
func (r *real) links(t *testing.T, do func()) {
	t.Helper()
	count := func() int { return strings.Count(r.bridge.log.String(), "connected to OctoPrint "+r.octo.version) }
	before := count()
	do()
	testkit.Eventually(t, "the program is connected to OctoPrint", func() bool { return count() > before })
}

// Layers of a print, of half a second each: one that is waited for, and one that
// does not end before it is cancelled, however slow this machine is.
const (
	short   = 6
	endless = 200
)

// gcode is a print. At pauseAt, if it is a layer, it pauses until somebody
// resumes it.
func gcode(layers, pauseAt int, first ...string) string {
	var b strings.Builder
	b.WriteString("G28\n" + strings.Join(first, "\n") + "\n")
	for i := range layers {
		if i > 0 && i == pauseAt {
			b.WriteString("@pause\n")
		}
		fmt.Fprintf(&b, "G1 X%d Y10 Z%.1f F3000 E%d\nG4 P500\n", 10+i, 0.2*float64(i+1), i+1)
	}
	return b.String()
}

// session is a print with a pause, one that is cancelled, and a printer that is
// disconnected.
func (r *real) session(t *testing.T) {
	o := r.octo
	r.began = len(o.all())
	o.connectPrinter()
	o.put("whole.gcode", gcode(short, 3))
	from := o.print("whole.gcode")
	o.await("PrintPaused", from)
	o.job(resumeJob, "PrintResumed")
	o.await("PrintDone", from)
	const odd = "it's 100% Größe +1.gcode"
	o.put(odd, gcode(endless, 0, "M300 S440 P20"))
	from = o.print(odd)
	o.await("ZChange", from)
	o.job(cancelJob, "PrintFailed")
	o.do("/api/printer/command", `{"command":"!!DEBUG:send echo:busy: paused for user"}`)
	r.watcher.await(t, "PausedForUser")
	o.disconnectPrinter()
	r.compare(t)
}

// notPushed are events that OctoPrint keeps to itself, and those that the
// program's own connection causes.
var notPushed = regexp.MustCompile(`^(GcodeScript.*|Startup|Shutdown|Client(Opened|Authed|Closed)|UserLoggedIn)$`)

// pushed are OctoPrint's events from one on that it tells others of.
func (r *real) pushed(from int) (all []logged) {
	for _, e := range r.octo.all()[from:] {
		if !notPushed.MatchString(e.Event) {
			all = append(all, e)
		}
	}
	return all
}

// envelope is what the program adds to each payload.
var envelope = regexp.MustCompile(`^\{"_event":"([^"]*)","_timestamp":\d+,?(.*?),?"_id":"[^"]*"\}$`)

// compare compares all events since the session began with OctoPrint's own log,
// in their order and byte for byte, spaces aside. Two differences are allowed: PausedForUser
// is none of OctoPrint's events, and OctoPrint adds the reason to the payload of
// PrintCancelled while it is on its way.
func (r *real) compare(t *testing.T) {
	t.Helper()
	var got, want []string
	end := time.Now().Add(testkit.Patience)
	for got, want = r.came(t), r.logged(t); !slices.Equal(got, want) && time.Now().Before(end); got, want = r.came(t), r.logged(t) {
		time.Sleep(50 * time.Millisecond)
	}
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("event %d of %d:\n got %s\nwant %s", i+1, len(want), g, w)
		}
	}
	t.Logf("%d events, equal to those of OctoPrint's own log", len(want))
}

// sinceConnecting leaves out what happened before the session.
func sinceConnecting(all []string) []string {
	i := slices.IndexFunc(all, func(text string) bool { return strings.HasPrefix(text, "Connecting ") })
	return all[max(0, i):]
}

// asText is an event for comparison.
func asText(t *testing.T, name, payload string) string {
	t.Helper()
	var b bytes.Buffer
	testkit.OK(t, json.Compact(&b, []byte(payload)))
	if name == "PrintCancelled" {
		return name + " " + strings.Replace(b.String(), `,"reason":"cancelled"`, "", 1)
	}
	return name + " " + b.String()
}

// logged are OctoPrint's events since the session began.
func (r *real) logged(t *testing.T) (all []string) {
	t.Helper()
	for _, e := range r.pushed(r.began) {
		payload := string(e.Payload)
		if payload == "null" {
			payload = "{}"
		}
		all = append(all, asText(t, e.Event, payload))
	}
	return sinceConnecting(all)
}

// came are the events that came, without what the program adds.
func (r *real) came(t *testing.T) (all []string) {
	t.Helper()
	for _, m := range r.watcher.events() {
		parts := envelope.FindSubmatch(m.payload)
		if parts == nil {
			t.Fatalf("%s: %s", m.topic, m.payload)
		}
		if name := string(parts[1]); name != "PausedForUser" {
			all = append(all, asText(t, name, fmt.Sprintf("{%s}", parts[2])))
		}
	}
	return sinceConnecting(all)
}

// ofPrints are the events that must come whatever is killed.
var ofPrints = []string{"Connected", "Disconnected", "PrintStarted", "PrintPaused", "PrintResumed", "PrintDone", "PrintCancelled", "PrintFailed"}

// kills kills the program at five moments of prints and leaves it dead for more
// or less of them, and at last for a whole day's work.
func (r *real) kills(t *testing.T) {
	o := r.octo
	o.connectPrinter()
	for i, text := range []string{gcode(short, 0), gcode(short, 0), gcode(short, 3), gcode(endless, 0), gcode(short, 0), gcode(endless, 0), gcode(short, 0)} {
		o.put(fmt.Sprintf("kill%d.gcode", i+1), text)
	}
	r.watcher.awaitCount(t, "Connected", 2)
	r.began = len(o.all())
	r.watcher.forget()
	kill := func(what string) {
		t.Log("killed " + what)
		r.bridge.kill()
	}

	kill("before a print; back in the middle")
	from := o.print("kill1.gcode")
	o.await("ZChange", from)
	r.start(t)
	o.await("PrintDone", from)

	from = o.print("kill2.gcode")
	kill("as a print starts; back when it is done")
	o.await("PrintDone", from)
	r.start(t)

	from = o.print("kill3.gcode")
	o.await("PrintPaused", from)
	kill("while it is paused; back when it goes on")
	o.job(resumeJob, "PrintResumed")
	r.start(t)
	o.await("PrintDone", from)
	kill("as it is done; back at once")
	r.start(t)

	from = o.print("kill4.gcode")
	o.await("ZChange", from)
	kill("in the middle; back when it is cancelled")
	o.job(cancelJob, "PrintFailed")
	r.start(t)

	kill("while idle; back after two prints, one of them cancelled, and a printer that was disconnected")
	from = o.print("kill5.gcode")
	o.await("PrintDone", from)
	from = o.print("kill6.gcode")
	o.await("ZChange", from)
	o.job(cancelJob, "PrintFailed")
	o.disconnectPrinter()
	o.connectPrinter()
	r.start(t)
	from = o.print("kill7.gcode")
	o.await("PrintDone", from)
	r.comparePrints(t)
}

// told is an event of a print as it was told.
type told struct {
	Event     string `json:"_event"`
	Timestamp int64  `json:"_timestamp"`
	Path      string
	Late      bool
	Derived   bool
}

func (e told) String() string { return strings.TrimSpace(e.Event + " " + e.Path) }

// ofPrints are the events of prints that were told.
func (r *real) ofPrints(t *testing.T) (all []told) {
	t.Helper()
	for _, m := range r.watcher.events() {
		var e told
		testkit.OK(t, json.Unmarshal(m.payload, &e))
		if slices.Contains(ofPrints, e.Event) {
			all = append(all, e)
		}
	}
	return all
}

// comparePrints compares the events of prints with OctoPrint's own log: the
// same, in the same order, with the same file and at the same time. Only the
// PrintFailed that follows a PrintCancelled may be missing.
func (r *real) comparePrints(t *testing.T) {
	t.Helper()
	var want, got []told
	for _, e := range r.pushed(r.began) {
		if slices.Contains(ofPrints, e.Event) {
			w := told{Event: e.Event, Timestamp: int64(math.Round(e.Time))}
			_ = json.Unmarshal(e.Payload, &w) // Path; null for some
			want = append(want, w)
		}
	}
	late := 0
	defer func() {
		t.Logf("%d events of prints, %d of them were missed and told later", len(got), late)
		if t.Failed() {
			t.Logf("\n got %v\nwant %v", got, want)
		}
	}()
	equal := func() bool {
		got, late = r.ofPrints(t), 0
		i := 0
		for _, w := range want {
			switch {
			case i < len(got) && got[i].String() == w.String():
				if i++; got[i-1].Late {
					late++
				}
			case w.Event != "PrintFailed":
				return false
			}
		}
		return i == len(got)
	}
	testkit.Eventually(t, "all events of prints have come once and in order", equal)
	if late == 0 {
		t.Error("nothing was missed: this test shows nothing")
	}
	for i, g := range got {
		j := slices.IndexFunc(want, func(w told) bool { return w.String() == g.String() && w.Path != "" })
		if j >= 0 && g.Late && (g.Timestamp < want[j].Timestamp-2 || g.Timestamp > want[j].Timestamp+2) {
			t.Errorf("event %d, %s, is of %d, and was told to be of %d", i+1, g, want[j].Timestamp, g.Timestamp)
		}
	}
}

// restarts restarts OctoPrint in the middle of a print, as systemd does, and
// then by a power cut.
func (r *real) restarts(t *testing.T) {
	o := r.octo
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		file := fmt.Sprintf("restart%d.gcode", how)
		o.put(file, gcode(endless, 0))
		r.watcher.forget()
		from := o.print(file)
		o.await("ZChange", from)
		r.watcher.await(t, "ZChange")
		o.stop(how)
		r.watcher.await(t, "Shutdown")
		r.links(t, o.start)
		o.connectPrinter()
		from = o.print("kill7.gcode")
		o.await("PrintDone", from)
		r.watcher.await(t, "PrintDone")

		var names []string
		for _, e := range r.ofPrints(t) {
			names = append(names, e.String())
		}
		text := strings.Join(names, ", ")
		began, ended := "PrintStarted "+file, regexp.MustCompile(`(PrintFailed|PrintCancelled) `+regexp.QuoteMeta(file))
		after := []string{"Connected", "PrintStarted kill7.gcode", "PrintDone kill7.gcode"}
		t.Logf("%s: %s", how, text)
		if ends := ended.FindAllString(text, -1); strings.Count(text, began) != 1 || len(ends) != 1 && (len(ends) != 2 || ends[0] == ends[1]) ||
			!strings.HasPrefix(text, began) || !strings.HasSuffix(text, strings.Join(after, ", ")) {
			t.Errorf("after %s: %s", how, text)
		}
		for _, name := range []string{"Startup", "Shutdown"} {
			if n := r.watcher.count(name); n != 1 {
				t.Errorf("after %s: %s was told %d times", how, name, n)
			}
		}
	}
}

// idle looks for a minute at a printer that does nothing: what is published is
// what has changed.
func (r *real) idle(t *testing.T) {
	const long = time.Minute
	// A minute after a connect all that is retained is published once more, in case
	// the broker has not kept it.
	time.Sleep(time.Until(r.bridge.began.Add(65 * time.Second)))
	r.watcher.forget()
	before, began := r.bridge.cpu(), time.Now()
	time.Sleep(long)
	share := float64(r.bridge.cpu()-before) / float64(time.Since(began))
	t.Logf("OctoPrint %s, idle for %s: %d messages, %.2f %% of a core", r.octo.version, long, len(r.watcher.all()), 100*share)
	if share > 0.02 {
		t.Errorf("the program takes %.2f %% of a core", 100*share)
	}
	var events []string
	for _, e := range r.pushed(0) { // also those that were on their way when it began
		if e.Time > float64(began.Add(-testkit.Patience).Unix()) {
			events = append(events, e.Event)
		}
	}
	newest := map[string]string{}
	for _, m := range r.watcher.all() {
		switch {
		case strings.HasPrefix(m.topic, eventTopic):
			name := strings.TrimPrefix(m.topic, eventTopic)
			i := slices.Index(events, name)
			if i < 0 {
				t.Errorf("%s was told, of which OctoPrint knows nothing", name)
				continue
			}
			events = slices.Delete(events, i, i+1)
		case newest[m.topic] == string(m.payload) && newest[m.topic] != "", r.watcher.before(m.topic) == string(m.payload):
			t.Errorf("%s was published again, unchanged: %s", m.topic, m.payload)
		default:
			t.Logf("changed: %s %s", m.topic, m.payload)
		}
		newest[m.topic] = string(m.payload)
	}
}

// printing measures what a print takes.
func (r *real) printing(t *testing.T) {
	const long = 20 * time.Second
	o := r.octo
	o.put("long.gcode", gcode(endless, 0, "M104 S200", "M140 S60"))
	from := o.print("long.gcode")
	o.await("ZChange", from)
	r.watcher.forget()
	before, began := r.bridge.cpu(), time.Now()
	time.Sleep(long)
	share := float64(r.bridge.cpu()-before) / float64(time.Since(began))
	all := len(r.watcher.all())
	o.job(cancelJob, "PrintFailed")
	t.Logf("OctoPrint %s, printing and heating for %s: %d messages, %.2f %% of a core", o.version, long, all, 100*share)
	if share > 0.1 {
		t.Errorf("the program takes %.2f %% of a core", 100*share)
	}
}
