package octoprint_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/octoprint"
)

// desk is an OctoPrint that takes commands, and a source connected to it.
type desk struct {
	*server
	out  *output
	told sources.Commander
	peer *peer
	stop func()

	mu     sync.Mutex
	taken  []string // path and body
	status int
	says   string // the body with it
	of     string // the path that answers so; empty is all
	file   string // that is selected
}

// commandOptions allow all commands.
func commandOptions(o *octoprint.Options) {
	o.Commands.Commands = []string{"pause", "resume", "cancel", "start", "connect", "disconnect", "temperature", "gcode", "snapshot"}
	o.MaxTemperature = map[string]float64{"tool0": 250, "tool1": 240, "bed": 100, "chamber": 60}
	o.Gcode = map[string][]string{"home": {"G28"}, "park_high": {"G91", "G0 Z10", "G90"}}
}

func newDesk(t *testing.T, change ...func(*octoprint.Options)) *desk {
	t.Helper()
	d := &desk{out: newOutput(), status: http.StatusNoContent, file: "a.gcode"}
	take := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.taken = append(d.taken, r.URL.Path+" "+string(body))
		if d.of != "" && d.of != r.URL.Path {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.WriteHeader(d.status)
		fmt.Fprint(w, d.says)
	}
	d.server = newServer(t, func(s *server) {
		s.more = map[string]http.HandlerFunc{
			"POST /api/job": take, "POST /api/connection": take, "POST /api/printer/{what}": take,
			"GET /api/job": func(w http.ResponseWriter, _ *http.Request) {
				d.mu.Lock()
				defer d.mu.Unlock()
				file, _ := json.Marshal(map[string]any{"path": d.file})
				if d.file == "" {
					file = []byte(`{"path":null}`)
				}
				fmt.Fprintf(w, `{"job":{"file":%s},"state":"Operational"}`, file)
			},
		}
	})
	d.told, d.stop = command(t, options(d.url(), append([]func(*octoprint.Options){commandOptions}, change...)...), d.out)
	d.peer = d.next()
	d.peer.send(snapshot("history", "Operational", "", 1000))
	until(t, "it is up", func() bool { return d.out.status().Level == health.Up })
	return d
}

// command runs a source that can be told what to do.
func command(t *testing.T, o *octoprint.Options, out sources.Output, log ...io.Writer) (to sources.Commander, stop func()) {
	t.Helper()
	logger := zerolog.Nop()
	if len(log) > 0 {
		logger = zerolog.New(log[0])
	}
	source, err := o.Build(sources.Deps{Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, out) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return source.(sources.Commander), stop
}

func (d *desk) do(name, payload string) (reply string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := d.told.Do(ctx, event.Command{Name: name, Payload: []byte(payload)})
	return string(answer), err
}

func (d *desk) answer(status int, says string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status, d.says = status, says
}

// requests are those since the last call.
func (d *desk) requests() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all, d.taken = d.taken, nil
	return all
}

// TestEachCommandReachesOctoPrint, as its API has it, and the reply says what
// OctoPrint answered.
func TestEachCommandReachesOctoPrint(t *testing.T) {
	d := newDesk(t)
	const status = `{"status":204}`
	for _, c := range []struct {
		name, payload, reply string
		want                 []string
	}{
		{"pause", ``, status, []string{`/api/job {"action":"pause","command":"pause"}`}},
		{"resume", `{"id":"1"}`, status, []string{`/api/job {"action":"resume","command":"pause"}`}},
		{"cancel", ``, status, []string{`/api/job {"command":"cancel"}`}},
		{"start", ``, `{"path":"a.gcode","status":204}`, []string{`/api/job {"command":"start"}`}},
		{"connect", ``, status, []string{`/api/connection {"command":"connect"}`}},
		{"disconnect", ``, status, []string{`/api/connection {"command":"disconnect"}`}},
		{"temperature", `{"targets":{"bed":60}}`, status, []string{`/api/printer/bed {"command":"target","target":60}`}},
		{
			"temperature", `{"targets":{"tool1":0,"bed":100,"chamber":59.5,"tool0":250},"id":7,"ts":1}`, status,
			[]string{`/api/printer/bed {"command":"target","target":100}`, `/api/printer/chamber {"command":"target","target":59.5}`, `/api/printer/tool {"command":"target","targets":{"tool0":250,"tool1":0}}`},
		},
		{"gcode", `home`, status, []string{`/api/printer/command {"commands":["G28"]}`}},
		{"gcode", `"park_high"`, status, []string{`/api/printer/command {"commands":["G91","G0 Z10","G90"]}`}},
		{"gcode", `{"name":"home","id":"x"}`, status, []string{`/api/printer/command {"commands":["G28"]}`}},
	} {
		reply, err := d.do(c.name, c.payload)
		if got := d.requests(); err != nil || reply != c.reply || !slices.Equal(got, c.want) {
			t.Errorf("%s %s: %s, %v, with requests\n%q, want\n%q", c.name, c.payload, reply, err, got, c.want)
		}
	}
}

// TestWhatIsNotAllowedNeverReachesOctoPrint: heaters and targets that the
// configuration does not allow, and G-code that it does not list.
func TestWhatIsNotAllowedNeverReachesOctoPrint(t *testing.T) {
	d := newDesk(t, func(o *octoprint.Options) { delete(o.MaxTemperature, "chamber") })
	for _, c := range []struct{ name, payload, says string }{
		{"reboot", ``, `there is no command "reboot"`},
		{"temperature", ``, `the payload has no targets; write {"targets":{"tool0":210,"bed":60}}`},
		{"temperature", `210`, "the payload has no targets"},
		{"temperature", `{"tool0":210}`, "the payload has no targets"},
		{"temperature", `{"targets":{}}`, "the payload has no targets"},
		{"temperature", `{"targets":{"tool0":250.1}}`, "the target of tool0 is 250.1; 0 to 250 are allowed"},
		{"temperature", `{"targets":{"tool0":-1}}`, "the target of tool0 is -1; 0 to 250 are allowed"},
		{"temperature", `{"targets":{"tool0":1e999}}`, "0 to 250 are allowed"},
		{"temperature", `{"targets":{"tool0":NaN}}`, "is not JSON"},
		{"temperature", `{"targets":{"tool0":"210"}}`, `the target of tool0 is "210", which is not a number`},
		{"temperature", `{"targets":{"tool0":null}}`, "which is not a number"},
		{"temperature", `{"targets":{"chamber":40}}`, `max_temperature does not name the heater "chamber"; it names bed, tool0, tool1`},
		{"temperature", `{"targets":{"bed":60,"tool0":999}}`, "0 to 250 are allowed"},
		{"temperature", `{"targets":{"tool0":999,"tool0":100}}`, "0 to 250 are allowed"},
		{"gcode", ``, `the payload names no entry of the option gcode; it has home, park_high`},
		{"gcode", `M112`, `the option gcode has no "M112"`},
		{"gcode", "home\nM112", `the option gcode has no "home\nM112"`},
		{"gcode", `{"name":["home"]}`, "the payload names no entry of the option gcode"},
	} {
		if reply, err := d.do(c.name, c.payload); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %s: %s, %v, want %s", c.name, c.payload, reply, err, c.says)
		}
	}
	if got := d.requests(); len(got) > 0 {
		t.Errorf("OctoPrint was asked: %q", got)
	}
}

// TestARefusalIsSaidInOctoPrintsWords, and a permission that is missing by its
// name.
func TestARefusalIsSaidInOctoPrintsWords(t *testing.T) {
	d := newDesk(t)
	at := "OctoPrint at " + d.url() + " "
	for _, c := range []struct {
		name   string
		status int
		body   string
		says   string
	}{
		{"pause", 409, `{"error":"Printer is not operational"}`, at + "refuses: Printer is not operational (status 409)"},
		{"pause", 409, `{"error":"a\nb` + strings.Repeat("x", 1000) + `"}`, "refuses: a b" + strings.Repeat("x", 253) + "… (status 409)"},
		{"cancel", 403, `{"error":"You don't have the permission"}`, at + "does not allow it (status 403): the user of the API key needs the permission Print, which is given in OctoPrint under Settings, Access Control"},
		{"connect", 403, `{"error":"no"}`, "needs the permission Connection,"},
		{"gcode", 403, `{"error":"no"}`, "needs the permission Control,"},
		{"connect", 412, `{"error":"Preconditions weren't met"}`, "refuses: Preconditions weren't met (status 412)"},
		{"pause", 400, `{"error":"CSRF validation failed"}`, "refuses the API key (status 400)"},
		{"pause", 404, `<html>`, "does not answer as OctoPrint does: it answers with status 404"},
		{"pause", 501, `<html>`, "is starting, or is not there behind its proxy"},
		{"pause", 200, `<html>`, "is starting, or is not there behind its proxy"},
		{"pause", 302, ``, "does not answer as OctoPrint does: it sends elsewhere"},
	} {
		d.answer(c.status, c.body)
		payload := map[string]string{"gcode": "home"}[c.name]
		if reply, err := d.do(c.name, payload); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s with status %d: %s, %v, want %s", c.name, c.status, reply, err, c.says)
		}
	}
}

// TestStartNeedsASelectedFile: OctoPrint accepts it also without one, and does
// nothing.
func TestStartNeedsASelectedFile(t *testing.T) {
	d := newDesk(t)
	d.mu.Lock()
	d.file = ""
	d.mu.Unlock()
	if _, err := d.do("start", ""); err == nil || err.Error() != "no file is selected in OctoPrint" {
		t.Error(err)
	}
	if got := d.requests(); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// TestTargetsThatWereSetAreToldOfWhenAnotherFails.
func TestTargetsThatWereSetAreToldOfWhenAnotherFails(t *testing.T) {
	d := newDesk(t)
	d.answer(http.StatusConflict, `{"error":"Printer does not have a heated chamber"}`)
	d.mu.Lock()
	d.of = "/api/printer/chamber"
	d.mu.Unlock()
	_, err := d.do("temperature", `{"targets":{"chamber":40,"bed":60}}`)
	if err == nil || !strings.HasSuffix(err.Error(), "refuses: Printer does not have a heated chamber (status 409); it was done for bed") {
		t.Error(err)
	}
}

// TestCommandsFailAtOnceWhileOctoPrintIsAway, with the cause: before it was there,
// when it is gone, and when the source does not run.
func TestCommandsFailAtOnceWhileOctoPrintIsAway(t *testing.T) {
	s, out := newServer(t), newOutput()
	s.stop()
	to, stop := command(t, options(s.url(), commandOptions), out)
	want := func(when, says string) {
		t.Helper()
		until(t, when, func() bool {
			began := time.Now()
			_, err := to.Do(context.Background(), event.Command{Name: "pause"})
			if time.Since(began) > patience/2 {
				t.Errorf("%s: it took %s", when, time.Since(began))
			}
			return err != nil && strings.HasPrefix(err.Error(), "it was not done: ") && strings.Contains(err.Error(), says)
		})
	}
	want("it is away", "cannot be reached (connection refused); is it switched on")
	s.start()
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	until(t, "commands reach it", func() bool {
		_, err := to.Do(context.Background(), event.Command{Name: "pause"})
		return err != nil && !strings.HasPrefix(err.Error(), "it was not done: ") // the server has no such path
	})
	s.stop()
	_ = p.conn.Close()
	want("it is gone", "cannot be reached (connection refused)")
	stop()
	want("the source has ended", "event2mqtt does not connect to OctoPrint just now")
}

// TestTheDeviceSaysWhatCanBeCommanded, so that buttons and numbers can be drawn.
func TestTheDeviceSaysWhatCanBeCommanded(t *testing.T) {
	d := newDesk(t, func(o *octoprint.Options) { o.MaxTemperature = map[string]float64{"tool0": 250} })
	is := d.out.described()
	if err := is.Check(); err != nil {
		t.Error(err)
	}
	want := []device.Command{
		{Key: "pause", Name: "Pause"}, {Key: "resume", Name: "Resume"}, {Key: "cancel", Name: "Cancel"}, {Key: "start", Name: "Print the selected file"},
		{Key: "connect", Name: "Connect the printer"}, {Key: "disconnect", Name: "Disconnect the printer"},
		{
			Key: "temperature_tool0", Name: "Tool 0 target", Call: "temperature", Kind: device.Setting, Payload: `{"targets":{"tool0":{value}}}`,
			Max: 250, Step: 1, Unit: "°C", Class: "temperature", State: "temperature/tool0", Value: "target",
		},
		{Key: "gcode_home", Name: "Home", Call: "gcode", Payload: "home"}, {Key: "gcode_park_high", Name: "Park high", Call: "gcode", Payload: "park_high"},
		{Key: "snapshot", Name: "Take a snapshot"},
	}
	if !slices.Equal(is.Commands, want) {
		t.Errorf("got  %+v\nwant %+v", is.Commands, want)
	}
	for _, c := range is.Commands { // each works as it is described
		payload := strings.ReplaceAll(c.Payload, "{value}", "200")
		if _, err := d.do(c.Called(), payload); err != nil && c.Key != "snapshot" { // there is no webcam
			t.Errorf("%s: %v", c.Key, err)
		}
	}
}

// TestWrongOptionsOfCommandsSayWhatWouldBeRight.
func TestWrongOptionsOfCommandsSayWhatWouldBeRight(t *testing.T) {
	names := func(names ...string) func(*octoprint.Options) {
		return func(o *octoprint.Options) { o.Commands.Commands = names }
	}
	limit := func(heater string, most float64) func(*octoprint.Options) {
		return func(o *octoprint.Options) { o.MaxTemperature = map[string]float64{heater: most} }
	}
	gcode := func(name string, lines ...string) func(*octoprint.Options) {
		return func(o *octoprint.Options) { o.Gcode = map[string][]string{name: lines} }
	}
	for _, c := range []struct {
		change func(*octoprint.Options)
		says   string
	}{
		{commandOptions, ""},
		{names("pause", "resme"), `commands[1]: there is no command "resme"; did you mean resume?; there are pause, resume,`},
		{names("Pause"), `there is no command "Pause"; did you mean pause?`},
		{names("temperature"), "commands[0]: temperature sets only the heaters that max_temperature names, and that is empty"},
		{names("gcode"), "commands[0]: gcode sends only what the option gcode lists, and that is empty"},
		{limit("nozzle", 250), `max_temperature.nozzle: there is no heater "nozzle"; there are tool0, tool1 and so on, bed, chamber`},
		{limit("bed", 0), "max_temperature.bed: 0 is not from 1 to 1000 degrees"},
		{limit("bed", math.NaN()), "max_temperature.bed: NaN is not from 1 to 1000 degrees"},
		{limit("bed", math.Inf(1)), "max_temperature.bed: +Inf is not from 1 to 1000 degrees"},
		{gcode("go home", "G28"), `gcode.go home: "go home" cannot be a name`},
		{gcode("home"), "gcode.home: has 0 lines; it needs 1 to 100"},
		{gcode("home", "G28\nM112"), `gcode.home[0]: "G28\nM112" is no line of G-code`},
		{gcode("home", " "), "is no line of G-code"},
		{func(o *octoprint.Options) { o.Snapshot.Events = []string{"[x"} }, `snapshot.events[0]: "[x" is no pattern of names`},
		{func(o *octoprint.Options) { o.Snapshot.URL = "camera.local/secret" }, "snapshot.url: not the address of a picture; write for example http://"},
		{func(o *octoprint.Options) { o.Snapshot.URL = "file:///etc/passwd" }, "snapshot.url: not the address of a picture"},
	} {
		err := options("http://octopi.local", c.change).Check()
		if text := fmt.Sprint(err); (err == nil) != (c.says == "") || err != nil && !strings.Contains(text, c.says) || bytes.Contains([]byte(text), []byte("secret")) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
}
