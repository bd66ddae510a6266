package octoprint_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/device"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources/octoprint"
)

// TestStatesSayWhatIsTrueNow plays the recording, and looks at the states.
func TestStatesSayWhatIsTrueNow(t *testing.T) {
	s, out := newServer(t), newOutput()
	run(t, options(s.url(), func(o *octoprint.Options) { o.ProgressInterval = 0 }), out)
	p := s.next()
	all := frames(t, "transcript.jsonl")
	middle := slices.IndexFunc(all, func(f string) bool { return strings.Contains(f, `"completion": 60.24`) }) + 1
	for _, frame := range all[:middle] {
		p.send(frame)
	}
	until(t, "it is in the middle", func() bool { return strings.Contains(out.state("progress"), `"completion":60.24`) })
	if got := out.state("state"); !strings.HasPrefix(got, `{"text": "Printing", "flags": {"operational": true, "printing": true,`) {
		t.Error(got)
	}
	for key, want := range map[string]string{
		"position": `{"z":1.4}`, "connection": `{"baudrate":0,"port":"VIRTUAL","state":"connected"}`,
		"version": `{"safe_mode":false,"version":"1.11.8"}`, "temperature/bed": `{"actual":45.0,"target":45.0}`,
	} {
		if got := out.state(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	if job := object(t, out.state("job")); job["user"] != "admin" || job["file"].(map[string]any)["path"] != "small print.gcode" {
		t.Error(job)
	}
	progress := object(t, out.state("progress"))
	eta, err := time.Parse(time.RFC3339, fmt.Sprint(progress["eta"]))
	if progress["printTimeLeftOrigin"] != "linear" || progress["printTime"] != 10.0 || progress["printTimeLeft"] != 11.0 || err != nil || time.Until(eta).Abs() > 2*time.Minute {
		t.Error(progress)
	}
	for _, frame := range all[middle:] {
		p.send(frame)
	}
	until(t, "the printer is gone", func() bool {
		return out.state("connection") == `{"state":"disconnected"}` && out.state("temperature/bed") == ""
	})
	if got := out.state("progress"); got != `{"completion":null,"printTime":null,"printTimeLeft":null,"printTimeLeftOrigin":null,"eta":null}` {
		t.Error(got)
	}
	for _, st := range out.reported() {
		if st.Topic != "" || strings.HasPrefix(st.Key, "available") {
			t.Errorf("%s goes to %q", st.Key, st.Topic)
		}
	}
	n := 0
	for _, st := range out.reported() {
		if st.Key == "progress" {
			n++
		}
	}
	if n < 20 || n > 35 { // the recording has 28 steps
		t.Errorf("progress was reported %d times", n)
	}
}

// printing is a snapshot of a print.
func printing(completion float64, elapsed, left int) string {
	text := snapshot("current", "Printing", "a.gcode", 1000)
	return strings.Replace(text, `{"completion":null,"printTime":null,"printTimeLeft":null,"printTimeLeftOrigin":null}`,
		fmt.Sprintf(`{"completion":%g,"printTime":%d,"printTimeLeft":%d,"printTimeLeftOrigin":"linear"}`, completion, elapsed, left), 1)
}

// TestProgressIsReportedByStepsAndTheEndDoesNotJitter.
func TestProgressIsReportedByStepsAndTheEndDoesNotJitter(t *testing.T) {
	s, out := newServer(t), newOutput()
	run(t, options(s.url(), func(o *octoprint.Options) { o.ProgressInterval, o.ProgressStep = 0, 5 }), out)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	etas := map[any]bool{}
	for i := range 101 { // 3600 s of a print, and an estimate that is 20 s off now and then
		p.send(printing(float64(i), 30*i/100, 3600+i%2*20))
	}
	p.send(happened("End", "null"))
	until(t, "all was worked on", func() bool { return slices.Contains(out.names(), "End") })
	var completions []float64
	for _, st := range out.reported() {
		if st.Key == "progress" {
			var progress struct {
				Completion *float64
				ETA        any
			}
			if err := json.Unmarshal(st.Payload, &progress); err != nil {
				t.Fatal(err)
			}
			if progress.Completion != nil {
				completions = append(completions, *progress.Completion)
				etas[progress.ETA] = true
			}
		}
	}
	if len(completions) != 21 || completions[0] != 0 || completions[20] != 100 {
		t.Errorf("%v", completions)
	}
	if len(etas) != 1 {
		t.Errorf("the end moved: %v", etas)
	}
	p.send(printing(50, 40, 3600+150))
	until(t, "it moves when it is far off", func() bool { return !etas[object(t, out.state("progress"))["eta"].(string)] })
}

// TestAnIdlePrinterSaysNothing: snapshots that say the same change no state.
func TestAnIdlePrinterSaysNothing(t *testing.T) {
	s, out := newServer(t), newOutput()
	run(t, options(s.url()), out)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	until(t, "it is up", func() bool { return out.status().Level == health.Up })
	p.send(happened("Begin", "null"))
	until(t, "all was worked on", func() bool { return slices.Contains(out.names(), "Begin") })
	n, statuses := len(out.reported()), out.told()
	for i := range 120 { // a minute
		p.send(snapshot("current", "Operational", "", 1000+float64(i)/2))
	}
	p.send(happened("End", "null"))
	until(t, "all was worked on", func() bool { return slices.Contains(out.names(), "End") })
	if len(out.reported()) != n || out.told() != statuses || len(out.names()) != 2 {
		t.Errorf("%v, %v", out.reported()[n:], out.names())
	}
}

// TestPausedForUserIsMadeOfThePrintersLine, in OctoPrint 1 and 2, once for as
// long as it is repeated.
func TestPausedForUserIsMadeOfThePrintersLine(t *testing.T) {
	for _, line := range []string{"Recv: echo:busy: paused for user", `<<< echo:busy: paused for user`} {
		s, out := newServer(t), newOutput()
		run(t, options(s.url()), out)
		p := s.next()
		logs := func(kind string, lines ...string) string {
			text, err := json.Marshal(lines)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Replace(snapshot(kind, "Printing", "a.gcode", 1000), `"temps":[]`, `"temps":[],"logs":`+string(text), 1)
		}
		p.send(logs("history", line)) // of long ago
		p.send(logs("current", "Send: !!DEBUG:send echo:busy: paused for user", "Recv: ok"))
		p.send(happened("Home", "null"))
		for range 3 {
			p.send(logs("current", "Recv: ok", line))
		}
		p.send(happened("Alert", "null"))
		wantNames(t, out, "Home", "PausedForUser", "Alert")
		if got := len(out.payload("PausedForUser")); got != 2 {
			t.Errorf("it has %d keys", got)
		}
	}
}

// TestTheDeviceDescribesItself: its identifier stays, its name is that of
// OctoPrint, and its states are there.
func TestTheDeviceDescribesItself(t *testing.T) {
	describe := func(s *server, change ...func(*octoprint.Options)) device.Device {
		out := newOutput()
		stop := run(t, options(s.url(), change...), out)
		defer stop()
		p := s.next()
		for _, frame := range frames(t, "transcript.jsonl")[:60] {
			p.send(frame)
		}
		until(t, "it is described", func() bool {
			out.mu.Lock()
			defer out.mu.Unlock()
			return strings.Contains(out.device.Version, "Virtual") || out.device.Model != "" && len(out.device.Entities) > 2 && out.device.Name == "Ender"
		})
		until(t, "the heaters are", func() bool {
			out.mu.Lock()
			defer out.mu.Unlock()
			return slices.ContainsFunc(out.device.Entities, func(e device.Entity) bool { return e.Key == "target_bed" })
		})
		reported := map[string]bool{}
		for _, st := range out.reported() {
			reported[st.Key] = true
		}
		for _, e := range out.described().Entities {
			if !reported[e.State] {
				t.Errorf("entity %s shows the state %s, which is never reported", e.Key, e.State)
			}
		}
		out.mu.Lock()
		defer out.mu.Unlock()
		return out.device
	}
	a, b := newServer(t), newServer(t)
	d := describe(a)
	if d.Name != "Ender" || d.Model != "Virtual Marlin 1.0" || d.Version != "1.11.8" || d.URL != a.url()+"/" || len(d.Events) < 70 {
		t.Errorf("%+v", d)
	}
	renamed := describe(a, func(o *octoprint.Options) { o.Name = "renamed" })
	if renamed.ID != d.ID {
		t.Error("another name gives another identifier")
	}
	if other := describe(b); other.ID == d.ID {
		t.Error("two OctoPrints have one identifier")
	}
	if fixed := describe(a, func(o *octoprint.Options) { o.DeviceID, o.Compat = "printer-1", "octoprint-mqtt" }); fixed.ID != "printer-1" {
		t.Error(fixed.ID)
	}
	keys := map[string]bool{}
	for _, e := range d.Entities {
		if keys[e.Key] {
			t.Errorf("two entities are called %s", e.Key)
		}
		keys[e.Key] = true
	}
}
